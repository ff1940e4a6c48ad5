"""What advice is based on: our own measurements (`evidence.json`, written by bench/methods), publications, and folklore.

A statement has a text, how strong its evidence is, and where it is from. Nothing here decides anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal, get_args

from tsuika import methods
from tsuika.core.intervals import Interval
from tsuika.core.texts import Text
from tsuika.methods.guidance import Claim, Goal, Guidance
from tsuika.pages import in_languages

# "known" follows from the program itself, as a file's size.
Strength = Literal["measured", "published", "folklore", "known"]
GOALS: Final[tuple[Goal, ...]] = get_args(Goal)
BENCH: Final = "bench/methods.py, docs/log"
GUIDANCE: Final[Mapping[str, Guidance]] = {
    name: method.guidance for name, method in methods.METHODS.items() if method.guidance is not None
}
METHODS: Final = tuple(GUIDANCE)  # that can be advised
# The rules of thumb: which methods for which goal.
RULES: Final[Mapping[str, tuple[str, ...]]] = {
    goal: tuple(name for name, guidance in GUIDANCE.items() if goal in guidance.goals) for goal in GOALS
}


@dataclass(frozen=True)
class Statement:
    """One thing to say."""

    text: Text
    strength: Strength
    source: str = ""

    def to_dict(self) -> dict[str, str]:
        """The text by language, strength and source."""
        return {**in_languages(self.text), "strength": self.strength, "source": self.source}

    @classmethod
    def of(cls, claim: Claim) -> Statement:
        """What somebody says of a method; without a source it is folklore."""
        return cls(claim.text, "published" if claim.source else "folklore", claim.source)


@dataclass(frozen=True)
class Cell:
    """A method on a goal with so many images, as bench/methods measured it."""

    goal: str
    images: int
    method: str
    seeds: int
    gain: Interval  # percent of the base's loss, with its 95% interval over seeds
    against: Interval | None  # points over the best of the others
    rival: str  # that best other method
    fidelity: float
    drift: float
    bytes: int
    seconds: float  # of training that each method had


@dataclass(frozen=True)
class CombinedResults:
    """Two results on one base together, against the better one alone, on images that need both."""

    name: str
    over_best_alone: Interval

    @property
    def won(self) -> bool:
        """Whether both together are surely better than either alone."""
        return self.over_best_alone.sign > 0


@dataclass(frozen=True)
class Measurements:
    """Everything that was measured."""

    cells: tuple[Cell, ...] = ()
    pairs: tuple[CombinedResults, ...] = ()

    def row(self, goal: str, images: int) -> dict[str, Cell]:
        """Method -> cell at the nearest number of images, by ratio, at which every method of this goal was measured."""
        cells = [cell for cell in self.cells if cell.goal == goal and cell.method in METHODS]
        by_count: dict[int, dict[str, Cell]] = {}
        for cell in cells:
            by_count.setdefault(cell.images, {})[cell.method] = cell
        whole = sorted(count for count, row in by_count.items() if row.keys() >= {cell.method for cell in cells})
        if not whole:
            return {}
        return by_count[min(whole, key=lambda count: max(count / max(1, images), images / count))]


def _interval(row: Mapping[str, Any]) -> Interval:
    return Interval(row["mean"], row["low"], row["high"])


def read(tables: Mapping[str, Any], listed: str = "cells") -> Measurements:
    """The table in the form that bench/methods writes, by the name of its list of cells."""
    plain = ("goal", "method", "seeds", "fidelity", "drift", "bytes")
    cells = tuple(
        Cell(
            **{name: row[name] for name in plain},
            images=row["pictures"],
            gain=_interval(row["gain"]),
            against=_interval(row["against"]) if "against" in row else None,
            rival=row.get("against", {}).get("method", ""),
            seconds=tables["seconds"],
        )
        for row in tables[listed]
    )
    pairs = tuple(CombinedResults(row["name"], _interval(row["over_best_alone"])) for row in tables["pairs"])
    return Measurements(cells, pairs)


@cache
def measured(*, embedded: bool) -> Measurements:
    """The measurements that ship with the package; for another base than the embedded one a LoRA without convolutions."""
    tables = json.loads(files(__package__).joinpath("evidence.json").read_text(encoding="utf-8"))
    return read(tables, "cells" if embedded else "cells_without_convolutions")
