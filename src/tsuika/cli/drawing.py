"""`tsuika generate` and `tsuika grid`."""

import inspect
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from tsuika.cli import early, labels, screen
from tsuika.cli.flags import BaseModel, Device, Json, Vae, options_of
from tsuika.core.events import Event, Phase, Warned
from tsuika.core.plain import to_dict
from tsuika.core.texts import Text, _, listed

if TYPE_CHECKING:
    from tsuika import Drawing

Overwrite = Annotated[bool, typer.Option("--overwrite", help=_("Replace the --out file if it exists."))]


def _drawing(
    prompt: Annotated[str, typer.Option("--prompt", help=_("Prompt: what to generate; A1111 syntax works."))],
    negative: Annotated[str, typer.Option("--negative", help=_("Negative prompt: what not to generate."))] = "",
    base: BaseModel = "embedded",
    lora: Annotated[
        Optional[list[str]], typer.Option("--lora", help=_("LoRA file, optionally :STRENGTH. Any number."))
    ] = None,
    embedding: Annotated[
        Optional[list[str]], typer.Option("--embedding", help=_("Embedding file, optionally :STRENGTH. Any number."))
    ] = None,
    hypernetwork: Annotated[
        Optional[list[str]],
        typer.Option("--hypernetwork", help=_("Hypernetwork file, optionally :STRENGTH. Any number.")),
    ] = None,
    artifact: Annotated[
        Optional[list[str]], typer.Option("--artifact", help=_("File of any method, optionally :STRENGTH. Any number."))
    ] = None,
    method: Annotated[
        Optional[list[str]],
        typer.Option(
            "--method", metavar="MODULE:NAME", help=_("A method from outside, whose files --artifact may name.")
        ),
    ] = None,
    artifacts: Annotated[
        Optional[Path],
        typer.Option(
            "--artifacts", help=_("Folder where names in prompts are looked up; default: the current folder and runs.")
        ),
    ] = None,
    vae: Vae = "builtin",
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", help=_("Tokenizer folder, for a single-file base model."))
    ] = "",
    prediction: Annotated[
        str,
        typer.Option(
            "--prediction", help=_("What the base model predicts, if its files are wrong: epsilon, v or flow.")
        ),
    ] = "auto",
    zero_terminal_snr: Annotated[
        str,
        typer.Option("--zero-terminal-snr", help=_("Whether its noise schedule ends in pure noise: auto, on or off.")),
    ] = "auto",
    clip_skip: Annotated[
        int, typer.Option("--clip-skip", help=_("Layer of the text encoder, from the last (SD1 only); 1 = the last."))
    ] = 1,
    seed: Annotated[int, typer.Option("--seed", help=_("Seed."))] = 0,
    steps: Annotated[
        Optional[int], typer.Option("--steps", help=_("Sampling steps; default: those of the base model."))
    ] = None,
    cfg: Annotated[
        Optional[float], typer.Option("--cfg", help=_("CFG scale; default: that of the base model."))
    ] = None,
    sampler: Annotated[
        Optional[str], typer.Option("--sampler", help=_("Sampler by its usual name, e.g. Euler a."))
    ] = None,
    size: Annotated[
        str, typer.Option("--size", help=_("Image size as WIDTHxHEIGHT; default: that of the base model."))
    ] = "",
    device: Device = "auto",
) -> "Drawing":
    given: dict[str, Any] = {name: value for name, value in locals().items() if value is not None}
    given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    early.check(base=base, vae=vae, results=[*(lora or ()), *(embedding or ()), *(hypernetwork or ())])
    import tsuika

    return tsuika.Drawing(**given)


def _drawing_of_prompts(
    prompt: Annotated[
        Optional[str], typer.Option("--prompt", help=_("Prompt: what to generate; A1111 syntax works."))
    ] = None,
    prompts: Annotated[
        Optional[Path],
        typer.Option(
            "--prompts",
            help=_("File with prompts, one a line, each with kohya's options: --n --w --h --d --l --s --ss."),
        ),
    ] = None,
    **options: Any,
) -> "tuple[Drawing, Path | None]":
    if (prompt is None) == (prompts is None):
        from tsuika.core.errors import RecipeError

        if prompts is not None:
            raise RecipeError("RC002", key="--prompts", found=prompts, why=_("Give --prompt or --prompts, not both."))
        raise RecipeError("RC005", found="--prompt", do="tsuika generate --prompt TEXT --out FILE.png")
    return _drawing(prompt or "", **options), prompts


_own, _shared = (inspect.signature(one).parameters for one in (_drawing_of_prompts, _drawing))
_drawing_of_prompts.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [*(_own[name] for name in ("prompt", "prompts")), *(one for name, one in _shared.items() if name != "prompt")]
)


@options_of(_drawing_of_prompts)
def generate(
    asked: "tuple[Drawing, Path | None]",
    out: Annotated[Path, typer.Option("--out", help=_("PNG file to make, or a folder for several."))],
    num: Annotated[int, typer.Option("--num", min=1, help=_("Number of images, at seed, seed + 1, ..."))] = 1,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """`tsuika generate`."""
    import tsuika

    drawing, prompts = asked
    combined(tsuika.generate(drawing, out, num=num, prompts=prompts, overwrite=overwrite).result, as_json=json)


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

    cells(tsuika.grid(drawing, out, x=x, y=y, z=z, overwrite=overwrite), as_json=json)


def cells(events: Iterator[Event], *, as_json: bool) -> None:
    """Show a sheet as it is generated; what is done is on it also when it is stopped."""
    from tsuika import CellDrawn, SheetWritten

    # So that the sheet is written.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    notes: list[Warned] = []
    drawn: list[CellDrawn] = []
    with closing(events):  # type: ignore[type-var]
        for event in events:
            match event:
                case Phase(name=name):
                    screen.say(screen.phase(name))
                case Warned():
                    notes.append(event)
                    screen.note(event)
                case CellDrawn():
                    drawn.append(event)
                    screen.write(
                        sys.stderr, f"{event.done:4}/{event.total}  {' · '.join(event.labels)}  {event.path}\n"
                    )
                case SheetWritten() if as_json:
                    screen.result({"sheet": event.path, "cells": drawn, "notes": notes}, as_json=True)
                case SheetWritten():
                    screen.print_out(event.path)


def combined(made: object, *, as_json: bool) -> None:
    """The images that were generated, and what was applied to the base model."""
    value = to_dict(made)
    if as_json:
        screen.result(value, as_json=True)
        return
    for row in value["artifacts"]:
        screen.say(_artifact(row), rest="  ")
    for row in value["conflicts"]:
        screen.say(
            _("{first} and {second} both change {layers} layers, such as {example}: their effects add up", **row),
            rest="  ",
        )
    for warned in value["notes"]:
        screen.note(warned)
    for path in value["pictures"]:
        screen.print_out(path)


def _artifact(row: Mapping[str, Any]) -> Text:
    about = {"method": labels.method(row["method"]), "words": listed(row["words"])}
    about |= {key: row[key] for key in ("file", "strength", "matched", "unmatched")}
    if not row["words"]:
        return _(
            "{file}: {method}, strength {strength:g}, {matched} tensors loaded ({unmatched} do not match the base model)",
            **about,
        )
    return _(
        "{file}: {method}, strength {strength:g}, {matched} tensors loaded ({unmatched} do not match the base model);"
        " words for the prompt: {words}",
        **about,
    )
