"""A run of the library on the terminal: phases, progress and notes on stderr; its result is handed back, or its report shown."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tsuika.cli import labels, screen
from tsuika.cli.language import local
from tsuika.core.errors import TsuikaError, outer_cause
from tsuika.core.events import Chosen, Event, Judged, Phase, Progress, Started, Stepped, Warned, Written
from tsuika.core.messages import percent
from tsuika.core.texts import Text, _, _n

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from tsuika.api.run import Run

Result = TypeVar("Result")
_INDENT: Final = " " * 10  # of lines that belong to a phase
EVERY_S: Final = 30.0


class Pulse:
    """A line after every `every_s` seconds in which none was told: what is going on, how far it is, and for how long.

    Lines come from a thread of its own, for a single step, or the loading of a model, may take longer than that.
    """

    def __init__(self, is_on: bool, every_s: float = EVERY_S) -> None:
        self._is_on, self._every_s = is_on, every_s
        self._title, self._done, self._total = "", 0, 0
        self._began = self._spoke = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Pulse:
        if self._is_on:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._is_on:
            self._thread.join()

    def begin(self, title: str, total: int = 0) -> None:
        """Another phase; a line of it was told."""
        self._title, self._done, self._total = title, 0, total
        self.told()

    def reach(self, done: int, total: int = 0) -> None:
        """So much of the phase is done."""
        self._done, self._total = done, total or self._total

    def told(self) -> None:
        """Something was said."""
        self._spoke = time.monotonic()

    def _beat(self) -> None:
        while not self._over.wait(max(0.01, self._spoke + self._every_s - time.monotonic())):
            now = time.monotonic()
            if now - self._spoke < self._every_s:
                continue
            about = {"phase": self._title, "seconds": f"{now - self._began:.0f}"}
            if self._title and self._total:
                screen.say(_("{phase}: {done}/{total} after {seconds} s", done=self._done, total=self._total, **about))
            elif self._title:
                screen.say(_("{phase}: still at work after {seconds} s", **about))
            self._spoke = now


def watch(run: Run[Result]) -> Result:
    """Show what a run tells on stderr; returns its result. Terminate stops it as Ctrl+C does."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with run, shown_bar() as bar, Pulse(bar.disable) as pulse:
        task = None
        for event in run:
            match event:
                case Phase(name=name, total=total):
                    title = screen.phase(name)
                    screen.say(title)
                    pulse.begin(title, total)
                    if task is not None:
                        bar.remove_task(task)
                    task = bar.add_task(title, total=total or None)
                case Progress(done=done, total=total) if task is not None:
                    bar.update(task, completed=done, total=total)
                    pulse.reach(done, total)
                case Warned():
                    screen.note(event)
                    pulse.told()
    return run.result


def show(run: Run[Any], *, as_json: bool) -> None:
    """Watch a run, and print its result: one JSON object, or lines for people."""
    content = watch(run).to_dict()
    if not as_json:
        # They were shown as they came.
        content.pop("notes", None)
    screen.result(content, as_json=as_json)


class Stop:
    """Ctrl+C and terminate end the run between two steps; a second one ends it at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            raise SystemExit(128 + number)
        self.signal = number


def shown_bar(*, with_note: bool = False) -> Bar:
    """A bar on stderr, where that is a terminal; `task.fields["note"]` stands in it if asked for."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True, highlight=False)
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn()]
    columns += [TextColumn("{task.fields[note]}")] if with_note else []
    columns += [TimeRemainingColumn(compact=True)]
    return Bar(*columns, console=console, transient=True, disable=not console.is_terminal)


def count(done: int, total: int) -> None:
    """Units done, in one line that is written over; only on a terminal."""
    if sys.stderr.isatty():
        screen.write(sys.stderr, f"\r    {done}/{total}" + ("\n" if done == total else ""))


def checked(event: Judged) -> Text:
    """A check of the guard: losses against the base model's, with the 95% interval of the held-out one; whose it is."""
    about = {"fold": event.fold, "folds": event.folds, "check": _losses(event)}
    if event.fold:
        return _("fold {fold} of {folds}, {check}", **about)
    return _("all {folds} folds together, {check}", **about) if event.folds else _losses(event)


def _losses(event: Judged) -> Text:
    evidence = event.evidence
    about = {"step": event.step, "train": percent(evidence["train"]), "best": evidence["best_step"]}
    if (held := evidence["held_out"]) is None:
        return _("step {step:,}: loss against the base model: training {train}; no image is held out", **about)
    about["held_out"] = interval(held)
    if not about["best"]:
        return _(
            "step {step:,}: loss against the base model: held-out {held_out}, training {train}; not better yet", **about
        )
    return _(
        "step {step:,}: loss against the base model: held-out {held_out}, training {train}; best so far: step {best:,}",
        **about,
    )


def interval(estimate: Mapping[str, Any]) -> Text:
    """A loss against the base model's, with its 95% interval."""
    return _("{mean} ({low} to {high})", **{key: percent(estimate[key]) for key in ("mean", "low", "high")})


def follow(events: Run[Any], run: Path, *, as_json: bool) -> None:
    """Show a run as it goes; at the end, its report as the result."""
    is_first = _is_first()
    stop, step, began, said, stopping = Stop(), 0, time.monotonic(), "", False
    with shown_bar(with_note=True) as bar, Pulse(bar.disable and is_first) as pulse, _ended_by(stop, run):
        task = None
        for event in events:
            if is_first:
                said = _show(event, began, said)
            match event:
                case Phase(name=name, total=total):
                    pulse.begin(screen.phase(name), total)
                    if task is not None:
                        bar.remove_task(task)
                    task = bar.add_task(screen.phase(name), total=total, note="") if total and is_first else None
                case Progress(done=done, total=total):
                    pulse.reach(done, total)
                    if task is not None:
                        bar.update(task, completed=done, total=total)
                case Judged() | Warned() | Written():
                    pulse.told()
                case Stepped():
                    step = event.step
                    pulse.reach(step)
                    if task is not None:
                        speed = 1 / max(event.seconds, 1e-9)
                        words = _("loss {loss:.4f}, {speed:.1f} steps/s", loss=event.loss, speed=speed)
                        bar.update(task, completed=step, note=local(words))
            if stop.signal is not None and not stopping:
                stopping = True
                if is_first:
                    screen.say(
                        _("Stopping: the state is saved, and what is best so far is written. Again: stop at once.")
                    )
                events.stop()
    if stop.signal is not None:
        if is_first:
            _say_stopped(step, run)
        raise SystemExit(128 + stop.signal)
    if not is_first:
        return
    if as_json:
        screen.print_out((run / "report.json").read_text(encoding="utf-8").strip())
    else:
        screen.say(_("Done. The report is {report}", report=run / "report.html"))
        screen.print_out(str(run))


def _is_first() -> bool:
    """Of the processes of `accelerate launch` only the first one speaks."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def _ended_by(stop: Stop, run: Path) -> Iterator[None]:
    """What breaks after Ctrl+C or terminate is the end that was asked for: a compiler, for one, gets the signal, too.

    It is logged all the same, as it may have been something else. An error that we know (a full disk) stays one.
    """
    try:
        yield
    except TsuikaError as error:
        # The other processes of a launch got the signal, too, and one was the first to end.
        if stop.signal is None or error.code != "TR036":
            raise
        if _is_first():
            screen.say(_("Stopped in the middle of a step. Go on with: tsuika resume {run}", run=run))
        raise SystemExit(128 + stop.signal) from None
    except Exception as broken:
        if stop.signal is None or outer_cause(broken) is not None:
            raise
        screen.say(_("Stopped in the middle of a step. Go on with: tsuika resume {run}", run=run))
        if log := screen.log_failure():
            screen.say(_("What broke off is in {log}.", log=log))
        raise SystemExit(128 + stop.signal) from None


def _say_stopped(step: int, run: Path) -> None:
    about = {"folder": run / "artifacts" / "unfinished", "report": run / "report.html"}
    if about["folder"].is_dir():
        screen.say(_("The best so far, not finished: {folder}; the report is {report}", **about))
    screen.say(_("Stopped at step {step}; everything is saved. Go on with: tsuika resume {run}", step=step, run=run))


def _show(event: Event, began: float, said: str) -> str:
    """Say what an event is about; returns the code of the last alarm, since the same one is said once."""
    match event:
        case Phase(name=name):
            screen.say(screen.phase(name), first=f"{time.monotonic() - began:6.1f} s  ", rest=_INDENT)
        case Started():
            text = _(
                "Training: {method} for {family}, {images}, steps {first} to {last}, {weights:,} weights",
                method=labels.method(event.method),
                family=labels.family(event.family),
                images=_n("{count} image", "{count} images", event.pictures),
                first=event.first_step,
                last=event.steps,
                weights=event.trainable,
            )
            screen.say(text, first=_INDENT)
        case Written():
            screen.say(
                _(
                    "Written: {path} ({format}); read back, it does the same (largest relative difference {error:.1e})",
                    path=event.path,
                    format=event.format,
                    error=event.largest_relative_error,
                ),
                first=_INDENT,
            )
        case Warned():
            screen.note(event)
        case Judged():
            screen.say(checked(event), first=_INDENT)
            # What is to be done is said once, of all folds together.
            if event.verdict != "go" and event.code != said and not event.fold:
                screen.note(Warned(event.code, event.words("en"), event.params))
                return event.code
        case Chosen():
            if event.code and event.code != said:
                screen.note(Warned(event.code, event.words("en"), event.params))
            if event.kind != "none":
                text = _("Steps of your files: {balanced:,} (safe {safe:,}, likeness {likeness:,})", **event.range)
                screen.say(text, first=_INDENT)
    return said
