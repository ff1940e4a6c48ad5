"""What a stack of artifacts is, in words and numbers: what matched, what was refused, who changes the same layers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from tsuika.generation.compose import Composition, Part

FEW = 5  # names that stand for the rest


@dataclass(frozen=True)
class Used:
    """One artifact on the base, with how many of its tensors found their place."""

    file: str
    method: str
    strength: float
    text_strength: float | None  # of the text encoders, where it differs
    matched: int
    unmatched: int
    unmatched_first: tuple[str, ...]
    layers: int  # that it changes
    words: tuple[str, ...]  # that an embedding answers to
    sha256: str | None


@dataclass(frozen=True)
class Refusal:
    """An artifact that was found and is not used."""

    file: str
    why: str


@dataclass(frozen=True)
class Conflict:
    """Two artifacts that change the same layers: what they do adds up, and may be too much."""

    first: str
    second: str
    layers: int
    example: str


@dataclass(frozen=True)
class Combination:
    artifacts: tuple[Used, ...] = ()
    refused: tuple[Refusal, ...] = ()
    conflicts: tuple[Conflict, ...] = ()


def describe(composition: Composition) -> Combination:
    """What is on the base now. Artifacts at strength 0 change nothing, so they are in no conflict."""
    acting = [part for part in composition.parts if part.request.strength or part.request.text_strength]
    shared = [(one, two, one.layers & two.layers) for one, two in combinations(acting, 2)]
    refused = [Refusal(str(one.request.path), one.error.part("what")) for one in composition.refused]
    conflicts = [
        Conflict(str(one.request.path), str(two.request.path), len(both), min(both))
        for one, two, both in shared
        if both
    ]
    return Combination(tuple(map(_used, composition.parts)), tuple(refused), tuple(conflicts))


def _used(part: Part) -> Used:
    path, strengths = str(part.request.path), (part.request.strength, part.request.text_strength)
    counts, layers = (len(part.matched), len(part.unmatched)), len(part.layers)
    return Used(path, part.method, *strengths, *counts, part.unmatched[:FEW], layers, part.words, part.sha256)
