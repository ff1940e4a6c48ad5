"""What advice is based on: our own measurements (`evidence.json`, written by bench/methods), publications, and folklore.

A statement has a text, how strong its evidence is, and where it is from. Nothing here decides anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

from tsuika import methods
from tsuika.core.intervals import Interval
from tsuika.core.texts import Text, _
from tsuika.pages import in_languages

# "known" follows from the program itself, as a file's size.
Strength = Literal["measured", "published", "folklore", "known"]
Goal = Literal["character", "style", "object", "concept"]
GOALS: Final[tuple[Goal, ...]] = ("character", "style", "object", "concept")
BENCH: Final = "bench/methods.py, docs/log"


@dataclass(frozen=True)
class Statement:
    """One thing to say."""

    text: Text
    strength: Strength
    source: str = ""

    def to_dict(self) -> dict[str, str]:
        """The text by language, strength and source."""
        return {**in_languages(self.text), "strength": self.strength, "source": self.source}


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
        """Method -> cell at the nearest number of images, by ratio, at which every method was measured."""
        by_count: dict[int, dict[str, Cell]] = {}
        for cell in self.cells:
            if cell.goal == goal and cell.method in METHODS:
                by_count.setdefault(cell.images, {})[cell.method] = cell
        whole = sorted(count for count, row in by_count.items() if row.keys() >= set(METHODS))
        if not whole:
            return {}
        return by_count[min(whole, key=lambda count: max(count / max(1, images), images / count))]


def _interval(row: Mapping[str, Any]) -> Interval:
    return Interval(row["mean"], row["low"], row["high"])


def read(tables: Mapping[str, Any]) -> Measurements:
    """The table in the form that bench/methods writes."""
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
        for row in tables["cells"]
    )
    pairs = tuple(CombinedResults(row["name"], _interval(row["over_best_alone"])) for row in tables["pairs"])
    return Measurements(cells, pairs)


@cache
def measured() -> Measurements:
    """The measurements that ship with the package."""
    return read(json.loads(files(__package__).joinpath("evidence.json").read_text(encoding="utf-8")))


_RUIZ: Final = "Ruiz et al. 2023, DreamBooth, arXiv:2208.12242, tables 1 and 2"
_YEH: Final = "Yeh et al. 2024, LyCORIS, arXiv:2309.14859"
_GAL: Final = "Gal et al. 2023, Textual Inversion, arXiv:2208.01618"
_PEFT: Final = "huggingface/peft, method_comparison/image-gen (one concept, one seed)"
_NOVELAI: Final = "NovelAI, Improvements on Stable Diffusion, 2022"

# (method, goal or "") -> what publications say for it.
PUBLISHED_FOR: Final[Mapping[tuple[str, str], Statement]] = {
    ("lora", ""): Statement(
        _(
            "In a public comparison of adapters, LoRA reaches a likeness of 0.70-0.74 and training all weights 0.58 (DINO;"
            " differences under 0.05 are noise)."
        ),
        "published",
        _PEFT,
    ),
    ("lora", "style"): Statement(
        _("LoRA and its relatives learn styles in a comparison of 234 trained models."), "published", _YEH
    ),
    ("textual-inversion", ""): Statement(
        _("It was made for 3 to 5 images, and leaves the base model untouched."), "published", _GAL
    ),
    ("dreambooth", ""): Statement(
        _(
            "DreamBooth shows the subject better than Textual Inversion: DINO 0.668 against 0.569; 68% of users preferred it,"
            " 22% the other."
        ),
        "published",
        _RUIZ,
    ),
    ("hypernetwork", ""): Statement(
        _("Its makers report that it works with image sets of varied size; they give no numbers."),
        "published",
        _NOVELAI,
    ),
}

PUBLISHED_AGAINST: Final[Mapping[str, Statement]] = {
    "textual-inversion": Statement(
        _(
            "It shows the subject less well than DreamBooth: DINO 0.569 against 0.668, preferred by 22% of users against 68%."
        ),
        "published",
        _RUIZ,
    ),
    "dreambooth": Statement(
        _("Training all weights is best in likeness only at the right learning rate; at a wrong one it is worst."),
        "published",
        _YEH,
    ),
    "hypernetwork": Statement(_("No controlled comparison with LoRA has been published."), "folklore"),
}

METHODS: Final = tuple(name for name in methods.METHODS if (name, "") in PUBLISHED_FOR)


# The rules of thumb of the Japanese guide that this project began with: which methods for which goal.
RULES: Final[Mapping[str, tuple[str, ...]]] = {
    "character": ("lora", "dreambooth"),
    "style": ("textual-inversion", "hypernetwork"),
    "object": ("textual-inversion",),
    "concept": ("textual-inversion",),
}
