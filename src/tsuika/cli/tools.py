"""`convert`, `merge`, `extract`, `resize`: parse, call `tsuika.api`, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from tsuika.cli import early, progress, screen
from tsuika.cli.flags import BaseModel, Json, Overwrite
from tsuika.core.texts import _

Out = Annotated[Path, typer.Option("--out", help=_("File to make; for diffusers, a folder."))]
Dtype = Annotated[str, typer.Option("--dtype", help=_("fp16, bf16 or fp32; default: as in the file."))]
Tokenizer = Annotated[str, typer.Option("--tokenizer", help=_("Tokenizer folder, for a single-file base model."))]
Lossy = Annotated[
    bool,
    typer.Option(
        "--lossy", help=_("Go without what is not understood of a file; words in it get files beside the result.")
    ),
]
Rank = Annotated[Optional[int], typer.Option("--rank", min=1, help=_("Largest rank of the result."))]


def convert(
    file: Annotated[Path, typer.Argument(help=_("LoRA, embedding, hypernetwork, model or VAE file; never changed."))],
    to: Annotated[str, typer.Option("--to", help=_("kohya, diffusers, a1111, native or single-file."))],
    out: Out,
    dtype: Dtype = "",
    lossy: Annotated[
        bool, typer.Option("--lossy", help=_("Allow changes of the result, and show how large they are."))
    ] = False,
    rank: Annotated[int, typer.Option("--rank", min=1, help=_("Largest rank of a plain LoRA made by --lossy."))] = 64,
    base: BaseModel = "",
    tokenizer: Tokenizer = "",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """`tsuika convert`."""
    early.check(file, base=base)
    import tsuika

    run = tsuika.convert(
        file, to, out, dtype=dtype, lossy=lossy, rank=rank, base=base, tokenizer=tokenizer, overwrite=overwrite
    )
    progress.show(run, as_json=json)


def merge(
    files: Annotated[list[str], typer.Argument(help=_("LoRA files, each FILE or FILE:STRENGTH."))],
    out: Out,
    rank: Rank = None,
    into: Annotated[str, typer.Option("--into", help=_("A base model to merge them into, instead of one LoRA."))] = "",
    tokenizer: Tokenizer = "",
    dtype: Dtype = "",
    lossy: Lossy = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """`tsuika merge`."""
    early.check(results=files, base=into)
    import tsuika

    run = tsuika.merge(
        files, out, rank=rank, into=into, tokenizer=tokenizer, dtype=dtype, lossy=lossy, overwrite=overwrite
    )
    progress.show(run, as_json=json)


def extract(
    tuned: Annotated[str, typer.Argument(help=_("Fine-tuned model: a file or a diffusers folder."))],
    base: Annotated[str, typer.Argument(help=_("The base model that it was made from."))],
    out: Out,
    rank: Annotated[int, typer.Option("--rank", min=1, help=_("Largest rank."))] = 32,
    conv_rank: Annotated[int, typer.Option("--conv-rank", min=0, help=_("Rank of 3x3 convolutions; 0 = none."))] = 0,
    text_encoder: Annotated[
        bool, typer.Option("--text-encoder/--no-text-encoder", help=_("Include the text encoders."))
    ] = True,
    dtype: Annotated[str, typer.Option("--dtype", help=_("fp16, bf16 or fp32."))] = "fp16",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """`tsuika extract`."""
    early.check(base=tuned)
    early.check(base=base)
    import tsuika

    run = tsuika.extract(
        tuned, base, out, rank=rank, conv_rank=conv_rank, text_encoder=text_encoder, dtype=dtype, overwrite=overwrite
    )
    progress.show(run, as_json=json)


def resize(
    file: Annotated[Path, typer.Argument(help=_("A LoRA file."))],
    out: Out,
    rank: Rank = None,
    energy: Annotated[
        Optional[float], typer.Option("--energy", help=_("Share of each layer's squared norm to keep."))
    ] = None,
    dtype: Dtype = "",
    lossy: Lossy = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """`tsuika resize`."""
    early.check(results=[str(file)])
    import tsuika

    run = tsuika.resize(file, out, rank=rank, energy=energy, dtype=dtype, lossy=lossy, overwrite=overwrite)
    done = progress.watch(run).to_dict()
    if not json:
        # A line for each layer.
        del done["errors"]
    screen.result(done, as_json=json)
