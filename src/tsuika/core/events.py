"""What happens in a run, as frozen events: the command line, tests, `events.jsonl` and the web app read one stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tsuika.core.messages import MESSAGES, sentence
from tsuika.core.plain import jsonable

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Result = TypeVar("Result")


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    def to_json(self) -> str:
        """One line of `events.jsonl`; what is no Unicode (in the name of a file) is escaped."""
        text = json.dumps({"event": type(self).__name__, **jsonable(self)}, ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True)
class Started(Event):
    """A run begins or goes on."""

    method: str
    family: str
    pictures: int
    steps: int
    first_step: int
    # Trained scalars.
    trainable: int


@dataclass(frozen=True)
class Phase(Event):
    """A named phase begins; `total` counts its units where known."""

    # "load", "pictures", "encode", "train", "preview", "write", "report" and others.
    name: str
    total: int = 0


@dataclass(frozen=True)
class Progress(Event):
    """Units of the running phase that are done."""

    phase: str
    done: int
    total: int


@dataclass(frozen=True)
class Stepped(Event):
    """One optimizer step is done."""

    # Steps done, from 1.
    step: int
    # Weighted training loss, mean over the global batch.
    loss: float
    grad_norm: float
    learning_rate: float
    # Of this step.
    seconds: float


@dataclass(frozen=True)
class Previewed(Event):
    """A preview was written."""

    step: int
    prompt: str
    seed: int
    # Relative to the run folder.
    path: str


@dataclass(frozen=True)
class Judged(Event):
    """The guard has measured the held-out images and come to a verdict."""

    step: int
    # "go", "warn", "stop".
    verdict: str
    # Of the message that says why, and what fills it.
    code: str
    params: Mapping[str, object]
    # `guard.reading.Check` as JSON: enough to come to the same verdict again.
    check: Mapping[str, Any]
    # What the report shows: gain with its interval, gaps, best step, range.
    evidence: Mapping[str, Any]
    # Of `folds` trainings in turn this is number `fold`, from 1; 0: all of them together. Without folds both are 0.
    fold: int = 0
    folds: int = 0

    def words(self, lang: str) -> str:
        """Why, and what to do about it."""
        return sentence(self.code, self.params).to(lang)


@dataclass(frozen=True)
class Chosen(Event):
    """The guard has chosen the length of the final training; `Stepped` begins at 1 again after it."""

    # How images were held out: "hold-out", "folds", or "none" if they are too few.
    kind: str
    # The best step of the trial run, without the held-out images; 0 is the untrained base model.
    look_step: int
    # The same for the training on all images, which takes a little longer.
    step: int
    # `safe`, `balanced`, `likeness`, in steps of the training on all images.
    range: Mapping[str, int]
    # Of the message that says why, and what fills it; empty for none.
    code: str
    params: Mapping[str, object]
    # Names of the held-out images; of all images for folds.
    held_out: Sequence[str] = ()
    folds: int = 0

    def words(self, lang: str) -> str:
        """What was chosen and why."""
        return sentence(self.code, self.params).to(lang) if self.code else ""


@dataclass(frozen=True)
class Saved(Event):
    """A saved state was written, whole."""

    step: int
    path: str


@dataclass(frozen=True)
class Warned(Event):
    """Something was ignored or downgraded, and the user should know."""

    code: str
    # In English.
    message: str
    # What fills the message of the code, if it has one.
    params: Mapping[str, object] = field(default_factory=dict, compare=False)

    def words(self, lang: str) -> str:
        """The message in a language; in English if the code has no message."""
        return sentence(self.code, self.params).to(lang) if self.params and self.code in MESSAGES else self.message


Warn = Callable[[Warned], None]


def note(code: str, **params: object) -> Warned:
    """What happened, why, and what to do, in one message; `Warned.words` has it in other languages. Raises KeyError:
    the code has no message, or a placeholder no value."""
    # Without parameters `words` would take the message for one without a code.
    warned = Warned(code, "", params or {"code": code})
    return replace(warned, message=warned.words("en"))


@dataclass(frozen=True)
class Written(Event):
    """A result file was written, read back and found to do what the model does."""

    path: str
    format: str
    sha256: str
    # Of the ΔW of any layer, against the model in memory.
    largest_relative_error: float


@dataclass(frozen=True)
class Finished(Event):
    """The run is over."""

    # "steps", "guard", "user", "diverged".
    stopped_by: str
    steps_done: int


KINDS = {
    kind.__name__: kind
    for kind in (Started, Phase, Progress, Stepped, Previewed, Judged, Chosen, Saved, Warned, Written, Finished)
}


def drained(events: Generator[Event, None, Result]) -> Result:
    """The result of a generator of events; the events are dropped."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            return cast(Result, end.value)


def read(path: Path) -> tuple[list[Event], int]:
    """The events of a run, and how many lines are none: one cut short by a kill, or damaged."""
    events: list[Event] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        try:
            row: dict[str, Any] = json.loads(line)
            events.append(_reader(row.pop("event")).validate_python(row))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue
    return events, len(lines) - len(events)


@cache
def _reader(kind: str) -> TypeAdapter[Event]:
    from pydantic import TypeAdapter

    return TypeAdapter(KINDS[kind])
