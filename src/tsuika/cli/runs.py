"""`tsuika status`, `tsuika stop` and `tsuika sample`: a run in another process, through its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tsuika.cli import language, progress, screen
from tsuika.cli.flags import Json
from tsuika.core.texts import _

RunFolder = Annotated[Path, typer.Argument(help=_("Run folder."))]


def status(run: RunFolder, json: Json = False) -> None:
    """`tsuika status`."""
    import tsuika

    found = tsuika.status(run).result
    if json:
        screen.result(found, as_json=True)
        return
    about = ("run", "state", "method", "base", "phase", "step", "steps", "best_step", "stopped_by", "artifacts")
    told = found.to_dict()
    told["phase"] = screen.phase(found.phase)
    screen.result({key: told[key] for key in about if told.get(key) not in ("", [], None)}, as_json=False)
    if said := found.sentence.get(language.current()):
        screen.print_out(said)


def export(
    run: RunFolder,
    to: Annotated[
        Path,
        typer.Option("--to", help=_("Folder for the file: A1111's, Forge's or ComfyUI's own folder, or any other.")),
    ],
    which: Annotated[str, typer.Option("--which", help=_("Which result: safe, balanced or likeness."))] = "balanced",
    name: Annotated[str, typer.Option("--name", help=_("File name without ending; default: the result's own."))] = "",
    json: Json = False,
) -> None:
    """`tsuika export`."""
    import tsuika

    found = progress.watch(tsuika.export(run, to, which=which, name=name))
    if json:
        screen.result(found, as_json=True)
        return
    for use in found.uses:
        if found.program in use["program"]:
            screen.say(use["how"].get(language.current(), use["how"]["en"]))
            screen.say(use["paste"], first="  ", rest="  ")
    screen.print_out(str(found.file))


def stop(run: RunFolder, json: Json = False) -> None:
    """`tsuika stop`."""
    import tsuika

    found = tsuika.stop(run).result
    if json:
        screen.result(found, as_json=True)
    else:
        screen.say(
            _("It will save everything and stop after the present step. Go on with: tsuika resume {run}", run=run)
        )


def sample(run: RunFolder, json: Json = False) -> None:
    """`tsuika sample`."""
    import tsuika

    found = tsuika.sample(run).result
    if json:
        screen.result(found, as_json=True)
    else:
        screen.say(_("It will generate its previews after the present step."))
