"""`convert`, `merge`, `extract`, `resize`: parse, call `tsuika.api`, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from tsuika.cli import screen
from tsuika.cli.flags import BaseModel, Json

Out = Annotated[Path, typer.Option("--out", help="File (or, for diffusers, folder) to make.")]
Dtype = Annotated[str, typer.Option("--dtype", help="fp16, bf16 or fp32; default: as in the file.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the --out file if there is one.")]
Tokenizer = Annotated[str, typer.Option("--tokenizer", help="Tokenizer folder, for a single-file model.")]
Rank = Annotated[Optional[int], typer.Option("--rank", min=1, help="Rank of the result, at most.")]


def convert(
    file: Annotated[Path, typer.Argument(help="LoRA, embedding, hypernetwork, model or VAE; never changed.")],
    to: Annotated[str, typer.Option("--to", help="kohya, diffusers, a1111, native or single-file.")],
    out: Out,
    dtype: Dtype = "",
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Allow what changes the result, and tell what it costs.")
    ] = False,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Of a plain LoRA made by --lossy, at most.")] = 64,
    base: BaseModel = "",
    tokenizer: Tokenizer = "",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a file in another program's format, read it back and compare."""
    from tsuika import api

    done = api.convert(
        file, to, out, dtype=dtype, lossy=lossy, rank=rank, base=base, tokenizer=tokenizer, overwrite=overwrite
    )
    screen.told(done, as_json=json)


def merge(
    files: Annotated[list[str], typer.Argument(help="LoRA files, each FILE or FILE:STRENGTH.")],
    out: Out,
    rank: Rank = None,
    into: Annotated[str, typer.Option("--into", help="A base to merge them into, instead of one LoRA.")] = "",
    tokenizer: Tokenizer = "",
    dtype: Dtype = "",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Merge LoRAs into one (exactly, or to a rank), or into a base's weights."""
    from tsuika import api

    done = api.merge(files, out, rank=rank, into=into, tokenizer=tokenizer, dtype=dtype, overwrite=overwrite)
    screen.result(done, as_json=json)


def extract(
    tuned: Annotated[str, typer.Argument(help="Fine-tuned model: a file or a diffusers folder.")],
    base: Annotated[str, typer.Argument(help="The model it began as.")],
    out: Out,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Rank, at most.")] = 32,
    conv_rank: Annotated[int, typer.Option("--conv-rank", min=0, help="Rank of 3x3 convolutions; 0: none.")] = 0,
    text_encoder: Annotated[bool, typer.Option("--text-encoder/--no-text-encoder", help="Text encoders, too.")] = True,
    dtype: Annotated[str, typer.Option("--dtype", help="fp16, bf16 or fp32.")] = "fp16",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make a LoRA of what fine-tuning changed in a base."""
    from tsuika import api

    done = api.extract(
        tuned, base, out, rank=rank, conv_rank=conv_rank, text_encoder=text_encoder, dtype=dtype, overwrite=overwrite
    )
    screen.result(done, as_json=json)


def resize(
    file: Annotated[Path, typer.Argument(help="A LoRA file.")],
    out: Out,
    rank: Rank = None,
    energy: Annotated[
        Optional[float], typer.Option("--energy", help="Share of each layer's squared norm to keep.")
    ] = None,
    dtype: Dtype = "",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Give a LoRA a smaller rank, losing as little as can be."""
    from tsuika import api

    done = api.resize(file, out, rank=rank, energy=energy, dtype=dtype, overwrite=overwrite)
    if not json:
        del done["errors"]  # a line for each layer
    screen.result(done, as_json=json)


def register(app: typer.Typer) -> None:
    """Put these commands on the program."""
    for command in (convert, merge, extract, resize):
        app.command()(command)
