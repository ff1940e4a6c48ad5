"""`tsuika generate` and `tsuika grid`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from tsuika.cli import screen
from tsuika.cli.flags import BaseModel, Json, Vae

if TYPE_CHECKING:
    from tsuika.api import Drawing

Prompt = Annotated[str, typer.Option("--prompt", help="What to draw; A1111 syntax works.")]
Negative = Annotated[str, typer.Option("--negative", help="What not to draw.")]
Lora = Annotated[Optional[list[str]], typer.Option("--lora", help="LoRA file, optionally :STRENGTH. Any number.")]
Embedding = Annotated[
    Optional[list[str]], typer.Option("--embedding", help="Embedding file, optionally :STRENGTH. Any number.")
]
Hypernetwork = Annotated[
    Optional[list[str]], typer.Option("--hypernetwork", help="Hypernetwork file, optionally :STRENGTH. Any number.")
]
Artifact = Annotated[
    Optional[list[str]], typer.Option("--artifact", help="File of any method, optionally :STRENGTH. Any number.")
]
Methods = Annotated[
    Optional[list[str]],
    typer.Option("--method", metavar="MODULE:NAME", help="A method from outside, whose files --artifact may name."),
]
Artifacts = Annotated[
    Optional[Path],
    typer.Option("--artifacts", help="Where names in prompts are looked up; default: the current folder and runs."),
]
Tokenizer = Annotated[str, typer.Option("--tokenizer", help="Tokenizer folder, for a single-file base.")]
Seed = Annotated[int, typer.Option("--seed", help="Where the noise begins.")]
Steps = Annotated[Optional[int], typer.Option("--steps", help="Sampling steps; default: the base's own.")]
Cfg = Annotated[Optional[float], typer.Option("--cfg", help="Guidance; default: the base's own.")]
Sampler = Annotated[Optional[str], typer.Option("--sampler", help="Sampler by its usual name.")]
Size = Annotated[str, typer.Option("--size", help="WIDTHxHEIGHT; default: the base's own.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]


def _drawing(**flags: Any) -> Drawing:
    from tsuika.api import Drawing

    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in flags.items() if value is not None
    }
    return Drawing(**given)


def generate(
    prompt: Prompt,
    out: Annotated[Path, typer.Option("--out", help="PNG file, or a folder for several.")],
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
    seed: Seed = 0,
    steps: Steps = None,
    cfg: Cfg = None,
    sampler: Sampler = None,
    size: Size = "",
    num: Annotated[int, typer.Option("--num", min=1, help="How many pictures, at seed, seed + 1, ...")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the --out file if there is one.")] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Draw pictures, with any number of LoRAs, embeddings and hypernetworks at their strengths."""
    from tsuika import api

    drawing = _drawing(
        prompt=prompt,
        negative=negative,
        base=base,
        lora=lora,
        embedding=embedding,
        hypernetwork=hypernetwork,
        artifact=artifact,
        method=method,
        artifacts=artifacts,
        vae=vae,
        tokenizer=tokenizer,
        seed=seed,
        steps=steps,
        cfg=cfg,
        sampler=sampler,
        size=size,
        device=device,
    )
    screen.combined(api.generate(drawing, out, num=num, overwrite=overwrite), as_json=json)


def grid(
    prompt: Prompt,
    x: Annotated[
        str,
        typer.Option(
            "--x",
            metavar="AXIS=V1,V2",
            help="Along a row: strength (or strength:NAME), step, seed, vae, cfg, sampler, steps, size, prompt (the "
            "first value is replaced by the others), negative, artifact (files, or none), base. Ranges: 1-5, "
            "0-1 (+0.25), 1-10 [5].",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="PNG file, or a folder for the sheet and every picture.")],
    y: Annotated[str, typer.Option("--y", metavar="AXIS=V1,V2", help="Down.")] = "",
    z: Annotated[str, typer.Option("--z", metavar="AXIS=V1,V2", help="Sheet by sheet.")] = "",
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
    seed: Seed = 0,
    steps: Steps = None,
    cfg: Cfg = None,
    sampler: Sampler = None,
    size: Size = "",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Compare: one picture for every value of up to three axes, on one labelled sheet."""
    from tsuika import api

    drawing = _drawing(
        prompt=prompt,
        negative=negative,
        base=base,
        lora=lora,
        embedding=embedding,
        hypernetwork=hypernetwork,
        artifact=artifact,
        method=method,
        artifacts=artifacts,
        vae=vae,
        tokenizer=tokenizer,
        seed=seed,
        steps=steps,
        cfg=cfg,
        sampler=sampler,
        size=size,
        device=device,
    )
    screen.cells(api.grid(drawing, out, x=x, y=y, z=z), as_json=json)
