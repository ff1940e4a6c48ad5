"""The recipe of each piece of advice: what a run needs beside its method's defaults, and how it is made to fit a machine.

Steps are a cap for the guard to stop before. For real bases they (`methods.guidance`) and the rates are those in use, from
diffusers' examples and public training logs; the embedded base has its own (`embedded.defaults`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import tomlkit

from tsuika import config
from tsuika.advice.evidence import GUIDANCE
from tsuika.config import Recipe
from tsuika.core.texts import article
from tsuika.core.types import is_usable_word
from tsuika.embedded.defaults import training
from tsuika.methods import METHODS

# Trigger and class word for a goal, where nobody says otherwise.
_GOALS: Final = {
    "character": ("mychara", "character"),
    "style": ("mystyle", "style"),
    "object": ("mything", "object"),
    "concept": ("myidea", ""),
}
_BATCH: Final = 4


@dataclass(frozen=True)
class MethodSize:
    """A way to go: a method, and how much it may hold."""

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """What a recipe is written for."""

    goal: str
    images: str
    image_count: int  # different ones
    base: str
    trigger: str = ""
    class_word: str = ""
    captioned: bool = False  # every image has a caption of its own
    embedded: bool = False
    start_word: str = ""  # that a new word best starts from, as tried on the images; empty: the class word


@dataclass(frozen=True)
class Thrift:
    """What is done to take less memory."""

    batch: int = 0  # 0: the usual one
    checkpointing: bool = False
    frugal: bool = False  # the method's own settings for it


def sizes(method: str, *, embedded: bool) -> list[MethodSize]:
    """From the largest result to the smallest; on the embedded base from the one that was measured there."""
    known = GUIDANCE[method].sizes
    own = {key: value for key, value in _measured(method, embedded).items() if key in known[0]}
    return [MethodSize(method, one) for one in ([own] if own and own not in known else []) + [*known]]


def ways(candidate: MethodSize, *, embedded: bool) -> Iterator[Thrift]:
    """From the quickest to the most frugal."""
    usual = _batch(candidate.method, embedded)
    yield Thrift()
    yield Thrift(usual // 2)
    yield Thrift(usual // 4)
    for batch in (usual, 1):
        tight = Thrift(batch, checkpointing=True)
        yield tight
        if GUIDANCE[candidate.method].frugal:
            yield replace(tight, frugal=True)


def trigger_of(subject: Subject, method: str) -> str:
    """The word that calls the result up: the user's, or one that can be changed; none where captions say everything."""
    if subject.trigger:
        return subject.trigger
    if subject.goal == "style" and subject.captioned and not METHODS[method].adds_words:
        return ""
    return _GOALS[subject.goal][0]


def class_word_of(subject: Subject) -> str:
    """The user's, or one that fits the goal; empty where neither is."""
    return subject.class_word or _GOALS[subject.goal][1]


def steps_of(subject: Subject, method: str) -> int:
    """The cap of steps."""
    guidance = GUIDANCE[method]
    most = _measured(method, subject.embedded).get("train.steps", guidance.steps)
    power = guidance.embedded_growth if subject.embedded else guidance.growth
    return 10 * round(int(most) * math.pow(max(1, min(subject.image_count, 1000)) / 20, power) / 10)


def _batch(method: str, embedded: bool) -> int:
    return int(_measured(method, embedded).get("train.batch_size", _BATCH))


def _measured(method: str, embedded: bool) -> Mapping[str, Any]:
    """Settings that the method trains well with on the embedded base."""
    return training().get(method, {}) if embedded else {}


def recipe_of(subject: Subject, candidate: MethodSize, thrift: Thrift = Thrift()) -> Recipe:
    """The checked recipe."""
    return config.build(_tables(subject, candidate, thrift))


def toml_of(subject: Subject, candidate: MethodSize, thrift: Thrift = Thrift()) -> str:
    """The same recipe as a short TOML: only what differs from the defaults."""
    document = tomlkit.document()
    images = f"{subject.image_count} image{'s' * (subject.image_count != 1)}"
    document.add(tomlkit.comment(f"Advised by tsuika for {images} of {article(subject.goal)}."))
    document.add(tomlkit.comment("tsuika train --recipe THIS-FILE --out RUN   (every setting: tsuika settings)"))
    for name, values in _tables(subject, candidate, thrift).items():
        document.add(name, tomlkit.item(values))
    return tomlkit.dumps(document)


def _tables(subject: Subject, candidate: MethodSize, thrift: Thrift) -> dict[str, Any]:
    method, usual = candidate.method, _batch(candidate.method, subject.embedded)
    kind, guidance = METHODS[method], GUIDANCE[method]
    batch = thrift.batch or usual
    trigger = trigger_of(subject, method)
    usable = trigger if is_usable_word(trigger) else _GOALS[subject.goal][0]
    settings: dict[str, Any] = {
        "base.model": subject.base,
        "data.images": subject.images,
        "data.trigger": trigger,
        "data.class_word": class_word_of(subject) if trigger else "",
        "method.name": method,
        "train.steps": steps_of(subject, method),
        "train.batch_size": batch,
        "train.accumulate": usual // batch,
    }
    settings = {**settings, **_measured(method, subject.embedded), **settings, **candidate.settings}
    if guidance.reg_images and not subject.embedded and subject.goal in ("character", "object"):
        settings["data.reg_generate"] = guidance.reg_images
    if kind.adds_words:
        settings["data.template"] = "style" if subject.goal == "style" else "object"
        if subject.start_word:
            settings["method.init"] = subject.start_word
    if thrift.checkpointing:
        settings["train.gradient_checkpointing"] = True
    if thrift.frugal:
        settings |= guidance.frugal
    # Never the trigger word itself: a file of that name would be applied wherever a prompt holds the word.
    settings["output.name"] = f"{usable}-{guidance.suffix or method}"
    silent = {"data.trigger": "", "data.class_word": "", "train.accumulate": 1}
    return config.override({}, {key: value for key, value in settings.items() if silent.get(key, ...) != value})
