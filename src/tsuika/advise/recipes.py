"""The recipe of each piece of advice: what a run needs beside its method's defaults, and how it is made to fit a machine.

Steps are a cap for the guard to stop before. For real bases they and the rates are those in use, from diffusers' examples
and public training logs; for the embedded base those of `examples/`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import tomlkit

from tsuika.core import config
from tsuika.core.config import Recipe
from tsuika.core.methods import is_usable_word

_TRIGGERS: Final = {"character": "mychara", "style": "mystyle", "object": "mything", "concept": "myidea"}
_CLASS_WORDS: Final = {"character": "character", "style": "style", "object": "object", "concept": ""}
_INIT: Final = {
    "character": "robot",
    "style": "white",
    "object": "present",
    "concept": "small",
}  # of the embedded world
# Cap of steps at 20 pictures, and the power of their number that it grows with (real bases, batch 4).
_STEPS: Final = {
    "lora": (800, 0.45),
    "textual-inversion": (1000, 0.0),
    "dreambooth": (1500, 0.44),
    "hypernetwork": (3800, 0.46),
}
_EMBEDDED_STEPS: Final = {  # the same for the embedded base, batch 8
    "lora": (300, 0.3),
    "textual-inversion": (150, 0.0),
    "dreambooth": (300, 0.3),
    "hypernetwork": (300, 0.25),
}
_EMBEDDED: Final[Mapping[str, Mapping[str, Any]]] = {
    "lora": {"method.conv": True, "train.learning_rate": 2e-3, "train.ema": 0.98},
    "textual-inversion": {"method.vectors": 4, "train.learning_rate": 2e-2},
    "dreambooth": {"train.learning_rate": 3e-4, "train.ema": 0.98},
    "hypernetwork": {
        "method.sizes": "all",
        "method.activation": "swish",
        "train.learning_rate": 1e-3,
        "train.ema": 0.98,
    },
}
_PRIOR: Final = 100  # class pictures to be drawn, for a subject whose class must not change with it


@dataclass(frozen=True)
class Candidate:
    """A way to go: a method, and how much it may hold."""

    method: str
    rank: int = 0  # LoRA
    vectors: int = 0  # textual inversion


@dataclass(frozen=True)
class Subject:
    """What a recipe is written for."""

    goal: str
    images: str
    pictures: int  # different ones
    base: str
    trigger: str = ""
    class_word: str = ""
    captioned: bool = False  # every picture has a caption of its own
    embedded: bool = False


@dataclass(frozen=True)
class Thrift:
    """What is done to take less memory."""

    batch: int = 0  # 0: the usual one
    checkpointing: bool = False
    small_optimizer: bool = False  # DreamBooth: bf16 weights and Adafactor


def ways(candidate: Candidate, *, embedded: bool) -> Iterator[Thrift]:
    """From the quickest to the most frugal."""
    usual = 8 if embedded else 4
    yield Thrift()
    yield Thrift(usual // 2)
    yield Thrift(usual // 4)
    for batch in (usual, 1):
        tight = Thrift(batch, checkpointing=True)
        yield tight
        if candidate.method == "dreambooth":
            yield replace(tight, small_optimizer=True)


def trigger_of(subject: Subject, method: str) -> str:
    """The word that calls the result up: the user's, or one that can be changed; none where captions say everything."""
    if subject.trigger:
        return subject.trigger
    if subject.goal == "style" and subject.captioned and method != "textual-inversion":
        return ""
    return _TRIGGERS[subject.goal]


def steps_of(subject: Subject, method: str) -> int:
    """The cap of steps."""
    cap, power = (_EMBEDDED_STEPS if subject.embedded else _STEPS)[method]
    exact = cap * math.pow(max(1, min(subject.pictures, 1000)) / 20, power)
    return 10 * round(exact / 10)


def recipe_of(subject: Subject, candidate: Candidate, thrift: Thrift = Thrift()) -> Recipe:
    """The checked recipe."""
    return config.build(_tables(subject, candidate, thrift))


def toml_of(subject: Subject, candidate: Candidate, thrift: Thrift = Thrift()) -> str:
    """The same recipe as a short TOML: only what differs from the defaults."""
    document = tomlkit.document()
    document.add(tomlkit.comment(f"Advised by tsuika for {subject.pictures} pictures of a {subject.goal}."))
    document.add(tomlkit.comment("tsuika train --recipe THIS-FILE --out RUN   (every setting: tsuika settings)"))
    for name, values in _tables(subject, candidate, thrift).items():
        table = tomlkit.table()
        for key, value in values.items():
            table.add(key, value)
        document.add(name, table)
    return tomlkit.dumps(document)


def _tables(subject: Subject, candidate: Candidate, thrift: Thrift) -> dict[str, Any]:
    method, usual = candidate.method, 8 if subject.embedded else 4
    batch = thrift.batch or usual
    trigger = trigger_of(subject, method)
    usable = trigger if is_usable_word(trigger) else _TRIGGERS[subject.goal]
    settings: dict[str, Any] = {
        "base.model": subject.base,
        "data.images": subject.images,
        "data.trigger": trigger,
        "data.class_word": (subject.class_word or _CLASS_WORDS[subject.goal]) if trigger else "",
        "method.name": method,
        "train.steps": steps_of(subject, method),
        "train.batch_size": batch,
        "train.accumulate": usual // batch,
        **(_EMBEDDED[method] if subject.embedded else _real(subject, method)),
    }
    if candidate.rank:
        settings["method.rank"] = candidate.rank
    if method == "textual-inversion":
        settings["method.vectors"] = candidate.vectors or settings.get("method.vectors", 2)
        settings["data.template"] = "style" if subject.goal == "style" else "object"
        if subject.embedded and not subject.class_word:
            settings["method.init"] = _INIT[subject.goal]
    if thrift.checkpointing:
        settings["train.gradient_checkpointing"] = True
    if thrift.small_optimizer:
        settings |= {"method.weights": "bf16", "train.optimizer": "adafactor"}
    settings["output.name"] = f"{usable}-{method}" if method != "textual-inversion" else usable
    silent = {"data.trigger": "", "data.class_word": "", "train.accumulate": 1}
    return config.override({}, {key: value for key, value in settings.items() if silent.get(key, ...) != value})


def _real(subject: Subject, method: str) -> Mapping[str, Any]:
    if method == "dreambooth" and subject.goal in ("character", "object"):
        return {"data.reg_generate": _PRIOR}
    return {"method.rank": 16} if method == "lora" else {}
