"""A run of the library on the terminal: phases, progress and notes on stderr; its result is handed back."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from tsuika.cli import screen
from tsuika.core.events import Phase, Progress, Warned

if TYPE_CHECKING:
    from tsuika.api.run import Run

Result = TypeVar("Result")

# Where no bar can be shown, a line says how far it is, at most so often.
SAY_EVERY_S: Final = 10.0


class Written(Protocol):
    """A result that has a JSON form."""

    def to_dict(self) -> dict[str, Any]:
        """As in `--json`."""


def watch(run: Run[Result]) -> Result:
    """Show what a run tells on stderr; returns its result. Terminate stops it as Ctrl+C does."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with run, screen.progress() as bar:
        task, spoke = None, time.monotonic()
        for event in run:
            match event:
                case Phase(name=name, total=total):
                    title = screen.phase(name)
                    screen.say(title)
                    if task is not None:
                        bar.remove_task(task)
                    task = bar.add_task(title, total=total or None)
                case Progress(done=done, total=total) if task is not None:
                    bar.update(task, completed=done, total=total)
                    if bar.disable and time.monotonic() - spoke >= SAY_EVERY_S:
                        screen.say(f"{done}/{total}")
                        spoke = time.monotonic()
                case Warned():
                    screen.note(event)
    return run.result


def show(run: Run[Any], *, as_json: bool) -> None:
    """Watch a run, and print its result: one JSON object, or lines for people."""
    done: Written = watch(run)
    content = done.to_dict()
    if not as_json:
        # They were shown as they came.
        content.pop("notes", None)
    screen.result(content, as_json=as_json)
