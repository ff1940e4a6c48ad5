"""A run of the library on the terminal: phases, progress and notes on stderr; its result is handed back."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tsuika.cli import screen
from tsuika.cli.pulse import Pulse
from tsuika.core.events import Phase, Progress, Warned

if TYPE_CHECKING:
    from tsuika.api.run import Run

Result = TypeVar("Result")


class Written(Protocol):
    """A result that has a JSON form."""

    def to_dict(self) -> dict[str, Any]:
        """As in `--json`."""


def watch(run: Run[Result]) -> Result:
    """Show what a run tells on stderr; returns its result. Terminate stops it as Ctrl+C does."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with run, screen.progress() as bar, Pulse(bar.disable) as pulse:
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
    done: Written = watch(run)
    content = done.to_dict()
    if not as_json:
        # They were shown as they came.
        content.pop("notes", None)
    screen.result(content, as_json=as_json)
