"""What people see: progress and talk on stderr, results on stdout, errors as one block."""

from __future__ import annotations

import errno
import io
import json
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TextIO

import typer

from tsuika.api import phases
from tsuika.cli import labels, language, layout, recording, usage
from tsuika.cli.language import local
from tsuika.core.errors import TsuikaError, outer_cause
from tsuika.core.events import Chosen, Event, Judged, Phase, Progress, Started, Stepped, Warned, Written
from tsuika.core.messages import percent
from tsuika.core.plain import jsonable, to_dict
from tsuika.core.texts import Text, _, _n, listed

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from tsuika.api.run import Run

# Of lines that belong to a phase.
_INDENT: Final = " " * 10


def phase(name: str) -> str:
    """A phase in the language in use."""
    return local(phases.title(name))


def print_out(text: str) -> None:
    """A result, on stdout."""
    _write(sys.stdout, f"{layout.printable(text)}\n")


def say(text: str, *, first: str = "", rest: str = "") -> None:
    """Talk, on stderr: wrapped, in the language in use."""
    _write(sys.stderr, layout.wrap(layout.printable(local(text)), first=first, rest=rest or first) + "\n")


def _write(stream: TextIO, text: str) -> None:
    """Write to a stream now. Where its reader has gone (`| head`), it is as if there had never been one."""
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        # What is left in the buffer must not fail again at the end of the program.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if error.errno != errno.EPIPE:
            raise


def note(warned: Warned) -> None:
    """Talk about something that people should know."""
    say(_("note[{code}] {sentence}", code=warned.code, sentence=warned.words(language.current())), rest="  ")


def error(ours: TsuikaError) -> None:
    """Show an error as one block on stderr."""
    recording.failed(ours)
    what, *rest = ours.lines()
    say(what, rest="  ")
    for line in rest:
        # A path or a command of one word stays whole, to be copied.
        say(line, first="  ", rest="    ")
    say(_("more: docs/troubleshooting.md#{anchor}", anchor=ours.code.lower()), first="  ")


def result(value: object, *, as_json: bool) -> None:
    """A command's result: one JSON object, or lines for people, with its notes beside it."""
    content = to_dict(value)
    if as_json:
        print_out(json.dumps(jsonable(content), ensure_ascii=False, allow_nan=False))
        return
    for warned in content.get("notes", ()):
        note(warned)
    print_out(labels.lines({key: item for key, item in content.items() if key != "notes"}))


def checked(event: Judged) -> Text:
    """A check of the guard: losses against the base model's, with the 95% interval of the held-out one; whose it is."""
    if event.fold:
        return _("fold {fold} of {folds}, {check}", fold=event.fold, folds=event.folds, check=_losses(event))
    if event.folds:
        return _("all {folds} folds together, {check}", folds=event.folds, check=_losses(event))
    return _losses(event)


def _losses(event: Judged) -> Text:
    evidence, step = event.evidence, event.step
    held, best, train = evidence["held_out"], evidence["best_step"], percent(evidence["train"])
    if held is None:
        return _(
            "step {step:,}: loss against the base model: training {train}; no image is held out", step=step, train=train
        )
    words = interval(held)
    if not best:
        return _(
            "step {step:,}: loss against the base model: held-out {held_out}, training {train}; not better yet",
            step=step,
            held_out=words,
            train=train,
        )
    return _(
        "step {step:,}: loss against the base model: held-out {held_out}, training {train}; best so far: step {best:,}",
        step=step,
        held_out=words,
        train=train,
        best=best,
    )


def interval(estimate: Mapping[str, Any]) -> Text:
    """A loss against the base model's, with its 95% interval."""
    return _("{mean} ({low} to {high})", **{key: percent(estimate[key]) for key in ("mean", "low", "high")})


def combined(made: object, *, as_json: bool) -> None:
    """The images that were generated, and what was applied to the base model."""
    value = to_dict(made)
    if as_json:
        result(value, as_json=True)
        return
    for row in value["artifacts"]:
        say(_artifact(row), rest="  ")
    for row in value["conflicts"]:
        say(
            _("{first} and {second} both change {layers} layers, such as {example}: their effects add up", **row),
            rest="  ",
        )
    for warned in value["notes"]:
        note(warned)
    for path in value["pictures"]:
        print_out(path)


def _artifact(row: Mapping[str, Any]) -> Text:
    about = {
        "file": row["file"],
        "method": labels.method(row["method"]),
        "strength": row["strength"],
        "matched": row["matched"],
        "unmatched": row["unmatched"],
    }
    if not row["words"]:
        return _(
            "{file}: {method}, strength {strength:g}, {matched} tensors loaded ({unmatched} do not match the base model)",
            **about,
        )
    return _(
        "{file}: {method}, strength {strength:g}, {matched} tensors loaded ({unmatched} do not match the base model);"
        " words for the prompt: {words}",
        **about,
        words=listed(row["words"]),
    )


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
                    say(phase(name))
                case Warned():
                    notes.append(event)
                    note(event)
                case CellDrawn():
                    drawn.append(event)
                    _write(sys.stderr, f"{event.done:4}/{event.total}  {' · '.join(event.labels)}  {event.path}\n")
                case SheetWritten() if as_json:
                    result({"sheet": event.path, "cells": drawn, "notes": notes}, as_json=True)
                case SheetWritten():
                    print_out(event.path)


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


def progress(*, with_note: bool = False) -> Bar:
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
        _write(sys.stderr, f"\r    {done}/{total}" + ("\n" if done == total else ""))


def follow(events: Run[Any], run: Path, *, as_json: bool) -> None:
    """Show a run as it goes; at the end, its report as the result."""
    from tsuika.cli.pulse import Pulse

    # Of the processes of `accelerate launch` only the first one speaks.
    is_first = os.environ.get("RANK", "0") == "0"
    stop, step, began, said, stopping = Stop(), 0, time.monotonic(), "", False
    with progress(with_note=True) as bar, Pulse(bar.disable and is_first) as pulse, _ended_by(stop, run):
        task = None
        for event in events:
            if is_first:
                said = _show(event, began, said)
            match event:
                case Phase(name=name, total=total):
                    pulse.begin(phase(name), total)
                    if task is not None:
                        bar.remove_task(task)
                    task = bar.add_task(phase(name), total=total, note="") if total and is_first else None
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
                    say(_("Stopping: the state is saved, and what is best so far is written. Again: stop at once."))
                events.stop()
    if stop.signal is not None:
        if is_first:
            _say_stopped(step, run)
        raise SystemExit(128 + stop.signal)
    if not is_first:
        return
    if as_json:
        print_out((run / "report.json").read_text(encoding="utf-8").strip())
    else:
        say(_("Done. The report is {report}", report=run / "report.html"))
        print_out(str(run))


@contextmanager
def _ended_by(stop: Stop, run: Path) -> Iterator[None]:
    """What breaks after Ctrl+C or terminate is the end that was asked for: a compiler, for one, gets the signal, too.

    It is logged all the same, as it may have been something else. An error that we know (a full disk) stays one.
    """
    try:
        yield
    except TsuikaError:
        raise
    except Exception as broken:
        if stop.signal is None or outer_cause(broken) is not None:
            raise
        say(_("Stopped in the middle of a step. Go on with: tsuika resume {run}", run=run))
        if log := _log_failure():
            say(_("What broke off is in {log}.", log=log))
        raise SystemExit(128 + stop.signal) from None


def _say_stopped(step: int, run: Path) -> None:
    best = run / "artifacts" / "unfinished"
    if best.is_dir():
        say(
            _(
                "The best so far, not finished: {folder}; the report is {report}",
                folder=best,
                report=run / "report.html",
            )
        )
    say(_("Stopped at step {step}; everything is saved. Go on with: tsuika resume {run}", step=step, run=run))


def _show(event: Event, began: float, said: str) -> str:
    """Say what an event is about; returns the code of the last alarm, since the same one is said once."""
    match event:
        case Phase(name=name):
            say(phase(name), first=f"{time.monotonic() - began:6.1f} s  ", rest=_INDENT)
        case Started():
            say(_started(event), first=_INDENT)
        case Written():
            say(
                _(
                    "Written: {path} ({format}); read back, it does the same (largest relative difference {error:.1e})",
                    path=event.path,
                    format=event.format,
                    error=event.largest_relative_error,
                ),
                first=_INDENT,
            )
        case Warned():
            note(event)
        case Judged():
            say(checked(event), first=_INDENT)
            # What is to be done is said once, of all folds together.
            if event.verdict != "go" and event.code != said and not event.fold:
                note(Warned(event.code, event.words("en"), event.params))
                return event.code
        case Chosen():
            if event.code and event.code != said:
                note(Warned(event.code, event.words("en"), event.params))
            if event.kind != "none":
                text = _("Steps of your files: {balanced:,} (safe {safe:,}, likeness {likeness:,})", **event.range)
                say(text, first=_INDENT)
    return said


def _started(event: Started) -> Text:
    return _(
        "Training: {method} for {family}, {images}, steps {first} to {last}, {weights:,} weights",
        method=labels.method(event.method),
        family=labels.family(event.family),
        images=_n("{count} image", "{count} images", event.pictures),
        first=event.first_step,
        last=event.steps,
        weights=event.trainable,
    )


def run(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Run the program and exit with its status."""
    rest, file = language.taken(arguments, recording.FLAG)
    with recording.into(Path(file) if file else None):
        _run(app, rest)


def _run(app: typer.Typer, arguments: Sequence[str]) -> None:
    for name in ("stdout", "stderr"):
        # Closed by whoever called: what is said goes nowhere.
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    # The name of a file may be no Unicode, or more than the terminal can show.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    rest, request = language.requested(arguments)
    try:
        language.use(language.chosen(language.AUTO, os.environ))
        language.use(language.chosen(request, os.environ))
        status = app(rest, standalone_mode=False, prog_name="tsuika")
        _write(sys.stdout, "")
    except TsuikaError as ours:
        error(ours)
        raise SystemExit(ours.exit_status) from None
    except typer.Exit as leave:
        raise SystemExit(leave.exit_code) from None
    except (typer.Abort, KeyboardInterrupt):
        raise SystemExit(130) from None
    except usage.Complaint as wrong:
        explained = usage.explained(wrong)
        if explained:
            error(explained)
        else:
            _write(sys.stderr, f"{wrong}\n")
        raise SystemExit(2) from None
    except BrokenPipeError:
        # Of the library that writes `--help`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(0) from None
    # The last line of defence: a bug becomes a log file and status 1.
    except Exception as bug:  # noqa: BLE001
        if (known := outer_cause(bug)) is not None:
            error(known)
            raise SystemExit(known.exit_status) from None
        _report_bug(bug)
        raise SystemExit(1) from None
    # Typer hands a status (130 of Ctrl+C, among others) back like a result.
    if isinstance(status, int) and status:
        raise SystemExit(status)


def _report_bug(bug: Exception) -> None:
    """Log a bug, and say where and what to do."""
    if log := _log_failure():
        say(_("This is a bug of tsuika. The details are in {log}.", log=log))
    else:
        say(_("This is a bug of tsuika: {error}. No log could be written.", error=repr(bug)))
    say(_("Please report it with them and with what this command prints: tsuika doctor"))


def _log_failure() -> Path | None:
    """The file that the error being handled was written to: here, else where temporary files are; None: nowhere.

    It is always a new one: a link that somebody else has put there is not followed.
    """
    text = f"tsuika {version('tsuika')}, Python {platform.python_version()}\n{sys.argv}\n{traceback.format_exc()}"
    for folder in (Path.cwd, lambda: Path(tempfile.gettempdir())):
        for number in range(1, 100):
            # Read-only, full, gone, or of that name already.
            with suppress(OSError):
                log = folder() / f"tsuika-error{f'-{number}' if number > 1 else ''}.log"
                with log.open("x", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(text)
                return log
    return None
