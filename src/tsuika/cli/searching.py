"""`find-rate` and `search`: parse, call `tsuika.api`, print."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from tsuika.cli import screen
from tsuika.cli.flags import BaseModel, ClassWord, Device, Images, Json, Method, RecipeFile, Set, Trigger, built
from tsuika.core.events import Event, Judged, Phase, Progress, Warned
from tsuika.core.messages import percent


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

    flags = {
        "method.name": method,
        "data.images": images,
        "base.model": base,
        "data.trigger": trigger,
        "data.class_word": class_word,
        "train.device": device,
    }
    try:
        tried = tuple(float(text) for text in rates.split(",") if text)
    except ValueError:
        raise typer.BadParameter(rates, param_hint="--rates") from None
    if any(not 0 < rate <= 10 for rate in tried):
        raise typer.BadParameter("rates lie between 0 and 10", param_hint="--rates")
    _found(api.find_rate(built(recipe, flags, set_), rates=tried, steps=steps), as_json=json)


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
    device: Device = "",
    json: Json = False,
) -> None:
    """Search settings by short runs under guard, and write the best ones as a recipe.

    Several processes (one a GPU, each with its --device) may run the same command at once.
    """
    from tsuika import api

    flags = {
        "method.name": method,
        "data.images": images,
        "base.model": base,
        "data.trigger": trigger,
        "data.class_word": class_word,
        "train.device": device,
        "train.steps": steps,
    }
    events = api.search(built(recipe, flags, set_), out, over, trials=trials, timeout_s=timeout)
    _searched(events, as_json=json)


def _found(events: Iterator[Event], *, as_json: bool) -> None:
    """Show a learning-rate test as it goes; at the end a line for each rate at its best, and what to take."""
    from tsuika.api import RateFound

    for event in events:
        match event:
            case Phase(name=name):
                sys.stderr.write(screen.say(name) + "\n")
            case Warned():
                sys.stderr.write(screen.note(event) + "\n")
            case Progress(phase="compare-settings", done=done, total=total):
                _count(done, total)
            case RateFound() if as_json:
                screen.result({**asdict(event), "words": event.words(screen.language())}, as_json=True)
            case RateFound():
                for row in event.rates:
                    screen.print_out(_rate(row))
                screen.print_out(event.words(screen.language()))


def _rate(row: Mapping[str, Any]) -> str:
    """A rate at its best check."""
    remark = screen.say("rate.diverged") if row["diverged"] else screen.say("rate.left") if row["left"] else ""
    if not row["curve"]:
        return screen.say("rate", rate=row["rate"], step=0, held_out="–", remark=remark)
    best = min(row["curve"], key=lambda point: point["mean"])
    return screen.say("rate", rate=row["rate"], step=best["step"], held_out=screen.interval(best), remark=remark)


def _count(done: int, total: int) -> None:
    """Steps done, in one line that is written over; only where somebody looks on."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r    {done}/{total}" + ("\n" if done == total else ""))


def _searched(events: Iterator[Event], *, as_json: bool) -> None:
    """Show a search trial by trial; at the end a table, the best first."""
    from tsuika.api import Searched, TrialEnded, TrialStarted

    stop, noted = screen.Stop(), set[str]()
    for event in events:
        match event:
            case Phase(name="compare-settings"):
                sys.stderr.write(screen.say("compare-settings") + "\n")
            case Progress(phase="compare-settings", done=done, total=total):
                _count(done, total)
            case TrialStarted(number=number, total=total, params=params):
                sys.stderr.write(screen.say("trial", number=number, total=total, params=_settings(params)) + "\n")
            case TrialEnded():
                sys.stderr.write(f"    {_outcome(asdict(event))}\n")
            case Judged():
                sys.stderr.write(f"    {screen.checked(event)}\n")
            case Warned() if event.message not in noted:  # the same in every trial
                noted.add(event.message)
                sys.stderr.write(screen.note(event) + "\n")
            case Searched() if as_json:
                screen.result(asdict(event), as_json=True)
            case Searched():
                for row in event.trials:
                    screen.print_out(_line(row, event.best, event.near))
                nothing = not event.recipe
                screen.print_out(screen.say("searched.nothing" if nothing else "searched", recipe=event.recipe))
        if stop.signal is not None and not isinstance(event, Searched):
            events.close()  # type: ignore[attr-defined]
            sys.stderr.write(screen.say("search.stopped") + "\n")
            raise SystemExit(128 + stop.signal)


def _outcome(trial: Mapping[str, Any]) -> str:
    """What a trial has come to: its best step and what was gained there."""
    if trial["value"] is None:
        return screen.say("trial.nothing" if trial["state"] == "done" else f"trial.{trial['state']}")
    error = "" if trial["se"] is None else f" ± {100 * trial['se']:.1f}"
    words = screen.say("trial.done", step=trial["step"], value=percent(trial["value"]) + error)
    return words if trial["state"] == "done" else f"{words}; {screen.say('trial.' + trial['state'])}"


def _line(row: Mapping[str, Any], best: int | None, near: Sequence[int]) -> str:
    """A trial in the table."""
    line = f"{row['number']:4}  {_settings(row['params'])}  {_outcome(row)}"
    if row["number"] == best:
        return f"{line}  <- {screen.say('trial.best')}"
    return f"{line}  <- {screen.say('trial.near')}" if row["number"] in near else line


def _settings(params: Mapping[str, object]) -> str:
    return ", ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()
    )


def register(app: typer.Typer) -> None:
    """Put these commands on the program."""
    for command in (find_rate, search):
        app.command()(command)
