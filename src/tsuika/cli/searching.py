"""`find-rate` and `search`: parse, call `tsuika.api`, print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, Optional

import typer

from tsuika.cli import language, layout, progress, screen
from tsuika.cli.flags import (
    BaseModel,
    ClassWord,
    Device,
    Images,
    Json,
    Method,
    RecipeFile,
    Set,
    Trigger,
    built,
    numbers,
)
from tsuika.cli.language import local
from tsuika.core.errors import RecipeError
from tsuika.core.events import Event, Judged, Phase, Progress, Warned
from tsuika.core.messages import percent
from tsuika.core.texts import Text, _, listed


def find_rate(
    method: Method = "",
    images: Images = "",
    base: BaseModel = "",
    trigger: Trigger = "",
    class_word: ClassWord = "",
    recipe: RecipeFile = None,
    set_: Set = None,
    rates: Annotated[
        str,
        typer.Option("--rates", help=_("Learning rates to try, e.g. 1e-4,3e-4,1e-3; default: around the recipe's.")),
    ] = "",
    steps: Annotated[int, typer.Option("--steps", min=8, help=_("Steps of each learning rate."))] = 48,
    device: Device = "",
    json: Json = False,
) -> None:
    """`tsuika find-rate`."""
    import tsuika

    flags = {"images": images, "base": base, "trigger": trigger, "class_word": class_word, "device": device}
    tried = numbers(rates, float, "--rates")
    if any(not 0 < rate <= 10 for rate in tried):
        why = _("Learning rates are greater than 0, and 10 at most.")
        raise RecipeError("RC002", key="--rates", found=rates, why=why)
    _found(tsuika.find_rate(built(method, recipe, set_, **flags), rates=tried, steps=steps), as_json=json)


def search(
    out: Annotated[Path, typer.Option("--out", help=_("Folder of the search; the same command goes on with it."))],
    over: Annotated[
        list[str],
        typer.Option(
            "--over", help=_("A setting and its values (8,16,32) or range (1e-4..3e-3); as often as you like.")
        ),
    ],
    method: Method = "",
    images: Images = "",
    base: BaseModel = "",
    trigger: Trigger = "",
    class_word: ClassWord = "",
    recipe: RecipeFile = None,
    set_: Set = None,
    steps: Annotated[Optional[int], typer.Option("--steps", help=_("Most training steps of each trial."))] = None,
    trials: Annotated[
        int,
        typer.Option(
            "--trials", min=0, help=_("Number of trials; 0 = every combination of values, or 16 with a range.")
        ),
    ] = 0,
    timeout: Annotated[
        Optional[float], typer.Option("--timeout", min=0, help=_("Seconds after which no new trial begins."))
    ] = None,
    storage: Annotated[
        str,
        typer.Option(
            "--storage",
            metavar="URL",
            help=_(
                "PostgreSQL database for several machines: postgresql://USER@HOST/NAME; the same --out name on each."
            ),
        ),
    ] = "",
    device: Device = "",
    json: Json = False,
) -> None:
    """`tsuika search`."""
    import tsuika

    flags = {"images": images, "base": base, "trigger": trigger, "class_word": class_word, "device": device}
    events = tsuika.search(
        built(method, recipe, set_, **flags, steps=steps), out, over, trials=trials, timeout_s=timeout, storage=storage
    )
    _searched(events, as_json=json)


def _found(events: Iterator[Event], *, as_json: bool) -> None:
    """Show a learning-rate test as it goes; at the end a line for each rate at its best, and what to take."""
    from tsuika import RateFound

    for event in events:
        match event:
            case Phase(name=name):
                screen.say(screen.phase(name))
            case Warned():
                screen.note(event)
            case Progress(phase="compare-settings", done=done, total=total):
                progress.count(done, total)
            case RateFound() if as_json:
                screen.result({**asdict(event), "words": event.words(language.current())}, as_json=True)
            case RateFound():
                for row in event.rates:
                    screen.print_out(local(_rate(row)))
                screen.print_out(layout.wrap(event.words(language.current())))


def _rate(row: Mapping[str, Any]) -> Text:
    best = min(row["curve"], key=lambda point: point["mean"], default=None)
    gain: Text | str = progress.interval(best) if best else "-"
    values = {"rate": row["rate"], "step": best["step"] if best else 0, "gain": gain}
    if row["diverged"]:
        return _("{rate:>8.2g}   step {step:,}: {gain}; diverged", **values)
    if row["left"]:
        return _("{rate:>8.2g}   step {step:,}: {gain}; stopped early", **values)
    return _("{rate:>8.2g}   step {step:,}: {gain}", **values)


def _searched(events: Iterator[Event], *, as_json: bool) -> None:
    """Show a search trial by trial; at the end a table, the best first."""
    from tsuika import Searched, TrialEnded, TrialStarted

    stop, noted = progress.Stop(), set[str]()
    for event in events:
        match event:
            case Phase(name="compare-settings" as name):
                screen.say(screen.phase(name))
            case Progress(phase="compare-settings", done=done, total=total):
                progress.count(done, total)
            case TrialStarted(number=number, total=total, params=params):
                screen.say(
                    _("trial {number} of {total}: {params}", number=number, total=total, params=_settings(params))
                )
            case TrialEnded():
                screen.say(_outcome(asdict(event)), first="    ")
            case Judged():
                screen.say(progress.checked(event), first="    ")
            # The same in every trial.
            case Warned() if event.message not in noted:
                noted.add(event.message)
                screen.note(event)
            case Searched() if as_json:
                screen.result(asdict(event), as_json=True)
            case Searched():
                for row in event.trials:
                    screen.print_out(_line(row, event.best, event.near))
                tried = sum(row["state"] == "done" and row["value"] is not None for row in event.trials)
                screen.print_out(layout.wrap(local(_summary(event.recipe, tried))))
        if stop.signal is not None and not isinstance(event, Searched):
            events.close()  # type: ignore[attr-defined]
            screen.say(_("Stopped; everything is saved. The same command goes on."))
            raise SystemExit(128 + stop.signal)


def _summary(recipe: str, tried: int) -> Text:
    if not recipe:
        return _("No trial was better on held-out images than the untrained base model.")
    how = _(
        "Loss of held-out images against the base model, ± one standard error. Train with: tsuika train --recipe {recipe}"
        " --out RUN",
        recipe=recipe,
    )
    chosen = _(
        "The best of {count} trials was chosen by these numbers, so its own is a little too good; the errors do not count that.",
        count=tried,
    )
    # `--help` does without the pages' template engine.
    from tsuika.pages import sentences

    return sentences(how, chosen) if tried > 1 else how


_STATES: Final[Mapping[str, Text]] = {
    "done": _("no improvement"),
    "pruned": _("stopped early"),
    "diverged": _("diverged"),
    "failed": _("failed"),
    "running": _("running"),
}


def _outcome(trial: Mapping[str, Any]) -> Text:
    state = _STATES[trial["state"]]
    if trial["value"] is None:
        return state
    error = "" if trial["se"] is None else f" ± {100 * trial['se']:.1f}"
    values = {"step": trial["step"], "value": percent(trial["value"]) + error, "state": state}
    if trial["state"] == "done":
        return _("step {step:,}: {value}", **values)
    return _("step {step:,}: {value}; {state}", **values)


def _line(row: Mapping[str, Any], best: int | None, near: Sequence[int]) -> str:
    line = f"{row['number']:4}  {_settings(row['params'])}  {local(_outcome(row))}"
    if row["number"] != best and row["number"] not in near:
        return line
    remark = _("best") if row["number"] == best else _("within chance of the best")
    return f"{line}  <- {local(remark)}"


def _settings(params: Mapping[str, object]) -> Text:
    return listed(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()
    )
