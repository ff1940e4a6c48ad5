"""`find-rate` and `search`: parse, call `tsuika.api`, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from tsuika.cli import screen
from tsuika.cli.flags import BaseModel, Json

Method = Annotated[str, typer.Argument(help="lora | textual-inversion | dreambooth | hypernetwork.")]
Images = Annotated[str, typer.Option("--images", help="Folder of training images; never changed.")]
Trigger = Annotated[str, typer.Option("--trigger", help="Trigger word.")]
ClassWord = Annotated[str, typer.Option("--class-word", help="Kind of thing: dog, character, style.")]
RecipeFile = Annotated[Optional[Path], typer.Option("--recipe", help="Recipe file (TOML).")]
Set = Annotated[Optional[list[str]], typer.Option("--set", help="Any setting: key=value (see: tsuika settings).")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]


def _tables(recipe: Path | None, set_: list[str] | None, **flags: str) -> dict[str, Any]:
    """A recipe file, then flags, then settings, as nested tables."""
    from tsuika.core import config

    tables = config.read_tables(recipe) if recipe else {}
    given = {key.replace("__", "."): value for key, value in flags.items() if value}
    return config.override(config.override(tables, given), dict(map(config.parse_assignment, set_ or ())))


def find_rate(
    method: Method = "",
    images: Images = "",
    base: BaseModel = "",
    trigger: Trigger = "",
    class_word: ClassWord = "",
    recipe: RecipeFile = None,
    set_: Set = None,
    rates: Annotated[
        str, typer.Option("--rates", help="Rates to try, e.g. 1e-4,3e-4,1e-3; default: around the recipe's.")
    ] = "",
    steps: Annotated[int, typer.Option("--steps", min=8, help="Steps of each.")] = 48,
    device: Device = "",
    json: Json = False,
) -> None:
    """Find a learning rate: a few steps at several rates, judged by pictures that are held out. Keeps no file."""
    from tsuika import api
    from tsuika.core import config

    tables = _tables(
        recipe, set_, method__name=method, data__images=images, base__model=base, data__trigger=trigger,
        data__class_word=class_word, train__device=device,
    )  # fmt: skip
    try:
        tried = tuple(float(text) for text in rates.split(",") if text)
    except ValueError:
        raise typer.BadParameter(rates, param_hint="--rates") from None
    if any(not 0 < rate <= 10 for rate in tried):
        raise typer.BadParameter("rates lie between 0 and 10", param_hint="--rates")
    built = config.build(tables, where=str(recipe or ""))
    screen.found(api.find_rate(built, rates=tried, steps=steps), as_json=json)


def search(
    out: Annotated[Path, typer.Option("--out", help="Folder of the search; the same command goes on with it.")],
    over: Annotated[
        list[str],
        typer.Option("--over", help="A setting and its values (8,16,32) or range (1e-4..3e-3); as often as you like."),
    ],
    method: Method = "",
    images: Images = "",
    base: BaseModel = "",
    trigger: Trigger = "",
    class_word: ClassWord = "",
    recipe: RecipeFile = None,
    set_: Set = None,
    steps: Annotated[Optional[int], typer.Option("--steps", help="Training steps of each trial, at most.")] = None,
    trials: Annotated[
        int, typer.Option("--trials", min=0, help="Trials in all; 0: every combination of values, or 16 with a range.")
    ] = 0,
    timeout: Annotated[
        Optional[float], typer.Option("--timeout", min=0, help="Seconds after which no new trial begins.")
    ] = None,
    lanes: Annotated[
        bool, typer.Option("--lanes", help="A few learning rates and ranks side by side in one process; not resumable.")
    ] = False,
    device: Device = "",
    json: Json = False,
) -> None:
    """Search settings by short runs under guard, and write the best ones as a recipe.

    Several processes (one a GPU, each with its --device) may run the same command at once.
    """
    from tsuika import api
    from tsuika.core import config

    tables = _tables(
        recipe, set_, method__name=method, data__images=images, base__model=base, data__trigger=trigger,
        data__class_word=class_word, train__device=device,
    )  # fmt: skip
    if steps is not None:
        tables = config.override(tables, {"train.steps": steps})
    built = config.build(tables, where=str(recipe or ""))
    events = api.search(built, out, over, trials=trials, timeout_s=timeout, lanes=lanes)
    screen.searched(events, as_json=json)


def register(app: typer.Typer) -> None:
    """Put these commands on the program."""
    for command in (find_rate, search):
        app.command()(command)
