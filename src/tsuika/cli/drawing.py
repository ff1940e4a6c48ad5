"""`tsuika generate` and `tsuika grid`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from tsuika.cli import early, screen
from tsuika.cli.flags import BaseModel, Device, Json, Vae, options_of
from tsuika.core.texts import _

if TYPE_CHECKING:
    from tsuika import Drawing

Prompt = Annotated[str, typer.Option("--prompt", help=_("Prompt: what to generate; A1111 syntax works."))]
Negative = Annotated[str, typer.Option("--negative", help=_("Negative prompt: what not to generate."))]
Lora = Annotated[Optional[list[str]], typer.Option("--lora", help=_("LoRA file, optionally :STRENGTH. Any number."))]
Embedding = Annotated[
    Optional[list[str]], typer.Option("--embedding", help=_("Embedding file, optionally :STRENGTH. Any number."))
]
Hypernetwork = Annotated[
    Optional[list[str]], typer.Option("--hypernetwork", help=_("Hypernetwork file, optionally :STRENGTH. Any number."))
]
Artifact = Annotated[
    Optional[list[str]], typer.Option("--artifact", help=_("File of any method, optionally :STRENGTH. Any number."))
]
Methods = Annotated[
    Optional[list[str]],
    typer.Option("--method", metavar="MODULE:NAME", help=_("A method from outside, whose files --artifact may name.")),
]
Artifacts = Annotated[
    Optional[Path],
    typer.Option(
        "--artifacts", help=_("Folder where names in prompts are looked up; default: the current folder and runs.")
    ),
]
Tokenizer = Annotated[str, typer.Option("--tokenizer", help=_("Tokenizer folder, for a single-file base model."))]
Prediction = Annotated[
    str,
    typer.Option("--prediction", help=_("What the base model predicts, if its files are wrong: epsilon, v or flow.")),
]
ZeroSnr = Annotated[
    str, typer.Option("--zero-terminal-snr", help=_("Whether its noise schedule ends in pure noise: auto, on or off."))
]
ClipSkip = Annotated[
    int, typer.Option("--clip-skip", help=_("Layer of the text encoder, from the last (SD1 only); 1 = the last."))
]
Seed = Annotated[int, typer.Option("--seed", help=_("Seed."))]
Steps = Annotated[Optional[int], typer.Option("--steps", help=_("Sampling steps; default: those of the base model."))]
Cfg = Annotated[Optional[float], typer.Option("--cfg", help=_("CFG scale; default: that of the base model."))]
Sampler = Annotated[Optional[str], typer.Option("--sampler", help=_("Sampler by its usual name, e.g. Euler a."))]
Overwrite = Annotated[bool, typer.Option("--overwrite", help=_("Replace the --out file if it exists."))]
Size = Annotated[str, typer.Option("--size", help=_("Image size as WIDTHxHEIGHT; default: that of the base model."))]


def _drawing(
    prompt: Prompt,
    negative: Negative = "",
    base: BaseModel = "embedded",
    lora: Lora = None,
    embedding: Embedding = None,
    hypernetwork: Hypernetwork = None,
    artifact: Artifact = None,
    method: Methods = None,
    artifacts: Artifacts = None,
    vae: Vae = "builtin",
    tokenizer: Tokenizer = "",
    prediction: Prediction = "auto",
    zero_terminal_snr: ZeroSnr = "auto",
    clip_skip: ClipSkip = 1,
    seed: Seed = 0,
    steps: Steps = None,
    cfg: Cfg = None,
    sampler: Sampler = None,
    size: Size = "",
    device: Device = "auto",
) -> "Drawing":
    early.check(base=base, vae=vae, results=[*(lora or ()), *(embedding or ()), *(hypernetwork or ())])
    import tsuika

    return tsuika.Drawing(
        prompt,
        negative,
        base,
        vae,
        tokenizer,
        prediction,
        zero_terminal_snr,
        clip_skip,
        lora=tuple(lora or ()),
        embedding=tuple(embedding or ()),
        hypernetwork=tuple(hypernetwork or ()),
        artifact=tuple(artifact or ()),
        method=tuple(method or ()),
        artifacts=artifacts,
        seed=seed,
        steps=steps,
        cfg=cfg,
        sampler=sampler,
        size=size,
        device=device,
    )


@options_of(_drawing)
def generate(
    drawing: "Drawing",
    out: Annotated[Path, typer.Option("--out", help=_("PNG file to make, or a folder for several."))],
    num: Annotated[int, typer.Option("--num", min=1, help=_("Number of images, at seed, seed + 1, ..."))] = 1,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """`tsuika generate`."""
    import tsuika

    screen.combined(tsuika.generate(drawing, out, num=num, overwrite=overwrite).result, as_json=json)


@options_of(_drawing)
def grid(
    drawing: "Drawing",
    x: Annotated[
        str,
        typer.Option(
            "--x",
            metavar="AXIS=V1,V2",
            help=_(
                "Axis along a row: strength (or strength:NAME), step, seed, vae, cfg, sampler, steps, size, prompt (search"
                " and replace: the first value is replaced by each of them), negative, artifact (files, or none), base."
                " Ranges: 1-5, 0-1 (+0.25), 1-10 [5]."
            ),
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help=_("PNG file to make, or a folder for the sheet and every image."))],
    y: Annotated[str, typer.Option("--y", metavar="AXIS=V1,V2", help=_("Axis from top to bottom."))] = "",
    z: Annotated[str, typer.Option("--z", metavar="AXIS=V1,V2", help=_("Axis from sheet to sheet."))] = "",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """`tsuika grid`."""
    import tsuika

    screen.cells(tsuika.grid(drawing, out, x=x, y=y, z=z, overwrite=overwrite), as_json=json)
