"""What happens in a run, as frozen events: the command line, tests, `events.jsonl` and later the web app read one stream."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tsuika.core.messages import MESSAGES, sentence
from tsuika.core.plain import jsonable


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    def to_json(self) -> str:
        """One line of `events.jsonl`; what is no Unicode (of a file's name) stands there as JSON's escapes."""
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
    trainable: int  # scalars


@dataclass(frozen=True)
class Phase(Event):
    """A named phase begins; `total` counts its units where known."""

    name: str  # "load", "pictures", "encode", "train", "preview", "write", "report"
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
    """A preview picture was written."""

    step: int
    prompt: str
    seed: int
    path: str  # relative to the run folder


@dataclass(frozen=True)
class Judged(Event):
    """The guard has looked at the held-out pictures and come to a verdict."""

    step: int
    verdict: str  # "go", "warn", "stop"
    code: str  # of the message that says why
    params: Mapping[str, object]  # of that message
    check: Mapping[str, Any]  # `guard.reading.Check` as JSON: enough to come to the same verdict again
    evidence: Mapping[str, Any]  # what the report shows: gain with its interval, gaps, best step, range

    def words(self, lang: str) -> str:
        """Why, and what to do about it."""
        return sentence(self.code, self.params).to(lang)


@dataclass(frozen=True)
class Chosen(Event):
    """The guard has looked and says how long the run that is kept will be; `Stepped` begins at 1 again after it."""

    kind: str  # how pictures were kept back: "hold-out", "folds", or "none" where they are too few
    look_step: int  # the best step of the look, in which some pictures were not trained on; 0 is the untrained base
    step: int  # the same for the run on all pictures, which needs a little more
    range: Mapping[str, int]  # `safe`, `balanced`, `likeness`, in steps of the run on all pictures
    code: str  # of the message that says why; empty for none
    params: Mapping[str, object]  # of that message
    held_out: Sequence[str] = ()  # names of the pictures that were kept back; of all of them for folds
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
    params: Mapping[str, object] = field(default_factory=dict, compare=False)  # of the code's message, if it has one

    def words(self, lang: str) -> str:
        """The message in a language, where the table of messages has it; else in English."""
        return sentence(self.code, self.params).to(lang) if self.params and self.code in MESSAGES else self.message


def note(code: str, **params: object) -> Warned:
    """What happened, why, and what to do, in one message; `Warned.words` has it in other languages.

    Raises:
        KeyError: the code has no message, or a placeholder no value.
    """
    warned = Warned(code, "", params or {"code": code})  # without any, `words` takes the message for somebody's own
    return replace(warned, message=warned.words("en"))


@dataclass(frozen=True)
class Written(Event):
    """A result file was written, read back and found to do what the model does."""

    path: str
    format: str
    sha256: str
    largest_relative_error: float  # of any layer's ΔW against the model in memory


@dataclass(frozen=True)
class Finished(Event):
    """The run is over."""

    stopped_by: str  # "steps", "guard", "user", "diverged"
    steps_done: int


KINDS = {
    kind.__name__: kind
    for kind in (Started, Phase, Progress, Stepped, Previewed, Judged, Chosen, Saved, Warned, Written, Finished)
}


def read(path: Path) -> list[Event]:
    """The events of a run; a half-written last line (after a kill) is left out, wherever it was cut."""
    events: list[Event] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue
        events.append(KINDS[row.pop("event")](**row))
    return events
