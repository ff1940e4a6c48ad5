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
    trainable: int  # trained scalars


@dataclass(frozen=True)
class Phase(Event):
    """A named phase begins; `total` counts its units where known."""

    name: str  # "load", "pictures", "encode", "train", "preview", "write", "report" and others
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

    step: int  # steps done, from 1
    loss: float  # weighted training loss, mean over the global batch
    grad_norm: float
    learning_rate: float
    seconds: float  # of this step


@dataclass(frozen=True)
class Previewed(Event):
    """A preview was written."""

    step: int
    prompt: str
    seed: int
    path: str  # relative to the run folder


@dataclass(frozen=True)
class Judged(Event):
    """The guard has measured the held-out images and come to a verdict."""

    step: int
    verdict: str  # "go", "warn", "stop"
    code: str  # of the message that says why, and what fills it
    params: Mapping[str, object]
    check: Mapping[str, Any]  # `guard.reading.Check` as JSON: enough to come to the same verdict again
    evidence: Mapping[str, Any]  # what the report shows: gain with its interval, gaps, best step, range
    # Of `folds` trainings in turn this is number `fold`, from 1; 0: all of them together. Without folds both are 0.
    fold: int = 0
    folds: int = 0

    def words(self, lang: str) -> str:
        """Why, and what to do about it."""
        return sentence(self.code, self.params).to(lang)


@dataclass(frozen=True)
class Chosen(Event):
    """The guard has chosen the length of the final training; `Stepped` begins at 1 again after it."""

    kind: str  # how images were held out: "hold-out", "folds", or "none" if they are too few
    look_step: int  # the best step of the trial run, without the held-out images; 0 is the untrained base model
    step: int  # the same for the training on all images, which takes a little longer
    range: Mapping[str, int]  # `safe`, `balanced`, `likeness`, in steps of the training on all images
    code: str  # of the message that says why, and what fills it; empty for none
    params: Mapping[str, object]
    held_out: Sequence[str] = ()  # names of the held-out images; of all images for folds
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
    message: str  # in English
    # What fills the message of the code, if it has one.
    params: Mapping[str, object] = field(default_factory=dict, compare=False)

    def words(self, lang: str) -> str:
        """The message in a language; in English if the code has no message."""
        return sentence(self.code, self.params).to(lang) if self.params and self.code in MESSAGES else self.message


Warn = Callable[[Warned], None]


def note(code: str, **params: object) -> Warned:
    """What happened, why, and what to do, in one message; `Warned.words` has it in other languages.

    Args:
        code: of the message.
        params: what fills its placeholders.

    Raises:
        KeyError: the code has no message, or a placeholder no value.
    """
    # Without parameters `words` would take the message for one without a code.
    warned = Warned(code, "", params or {"code": code})
    return replace(warned, message=warned.words("en"))


@dataclass(frozen=True)
class Written(Event):
    """A result file was written, read back and found to do what the model does."""

    path: str
    format: str
    sha256: str
    largest_relative_error: float  # of the ΔW of any layer, against the model in memory


@dataclass(frozen=True)
class Finished(Event):
    """The run is over."""

    stopped_by: str  # "steps", "guard", "user", "diverged"
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
    """The events of a run, and how many lines are none: one cut short by a kill, or damaged.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
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
