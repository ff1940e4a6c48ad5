"""What advice stands on: our own measurements (`evidence.json`, written by bench/methods), publications, and folklore.

A statement has its words in both languages, how strong it is, and where it is from. Nothing here decides anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

from tsuika import methods
from tsuika.core.intervals import Interval

Strength = Literal[
    "measured", "published", "folklore", "known"
]  # known: follows from the program itself, as a file's size
Goal = Literal["character", "style", "object", "concept"]
GOALS: Final[tuple[Goal, ...]] = ("character", "style", "object", "concept")
BENCH: Final = "bench/methods.py, docs/log.md"
SMALL_NET: Final = "embedded base, 64 px, 16.7 million weights"


@dataclass(frozen=True)
class Statement:
    """One thing to say."""

    en: str
    ja: str
    strength: Strength
    source: str = ""

    def words(self, lang: str) -> str:
        """In a language."""
        return self.ja if lang == "ja" else self.en


@dataclass(frozen=True)
class Cell:
    """A method on a goal with so many pictures, as bench/methods measured it. Gains are per cent of the base's loss, intervals
    95 % over seeds."""

    goal: str
    pictures: int
    method: str
    seeds: int
    gain: Interval
    against: Interval | None  # points over the best of the others
    rival: str
    fidelity: float
    adherence: float
    drift: float
    best_s: float
    steps: int
    bytes: int
    seconds: float  # of training that each method had


@dataclass(frozen=True)
class Pair:
    """Two results laid on one base, against each alone, on pictures that need both."""

    name: str
    seeds: int
    first: Interval
    second: Interval
    both: Interval
    over_best_alone: Interval

    @property
    def won(self) -> bool:
        """Whether both together are surely better than either alone."""
        return self.over_best_alone.sign > 0


@dataclass(frozen=True)
class Table:
    """Everything that was measured."""

    cells: tuple[Cell, ...] = ()
    pairs: tuple[Pair, ...] = field(default=())

    def row(self, goal: str, pictures: int) -> dict[str, Cell]:
        """Method -> cell at the nearest number of pictures, by ratio, at which every method was measured."""
        by_count: dict[int, dict[str, Cell]] = {}
        for cell in self.cells:
            if cell.goal == goal and cell.method in METHODS:
                by_count.setdefault(cell.pictures, {})[cell.method] = cell
        whole = sorted(count for count, row in by_count.items() if row.keys() >= set(METHODS))
        if not whole:
            return {}
        return by_count[min(whole, key=lambda count: max(count / max(1, pictures), pictures / count))]


def _interval(row: Mapping[str, float]) -> Interval:
    return Interval(row["mean"], row["low"], row["high"])


def read(tables: Mapping[str, Any]) -> Table:
    """The table in the form that bench/methods writes."""
    cells = tuple(
        Cell(
            row["goal"],
            row["pictures"],
            row["method"],
            row["seeds"],
            _interval(row["gain"]),
            _interval(row["against"]) if "against" in row else None,
            row.get("against", {}).get("method", ""),
            row["fidelity"],
            row["adherence"],
            row["drift"],
            row["best_s"],
            row["steps"],
            row["bytes"],
            tables["seconds"],
        )
        for row in tables["cells"]
    )
    pairs = tuple(
        Pair(
            row["name"], row["seeds"], *(_interval(row[key]) for key in ("first", "second", "both", "over_best_alone"))
        )
        for row in tables["pairs"]
    )
    return Table(cells, pairs)


@cache
def measured() -> Table:
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
        "In a public comparison of adapters, LoRA's likeness is 0.70-0.74 and training all weights 0.58 (DINO; differences"
        " under 0.05 are noise).",
        "公開されているアダプター比較では、被写体の再現度はLoRAが0.70〜0.74、全重みの学習が0.58です(DINO。0.05未満の差は誤差)。",
        "published",
        _PEFT,
    ),
    ("lora", "style"): Statement(
        "LoRA and its relatives learn styles in a comparison of 234 trained models.",
        "234個の学習済みモデルの比較で、LoRA系の方法で画風を学習できることが示されています。",
        "published",
        _YEH,
    ),
    ("textual-inversion", ""): Statement(
        "It was made for 3 to 5 pictures, and leaves the base untouched.",
        "3〜5枚の画像で学習するために作られた方法で、ベースモデルを変えません。",
        "published",
        _GAL,
    ),
    ("dreambooth", ""): Statement(
        "DreamBooth shows the subject better than Textual Inversion: DINO 0.668 against 0.569; 68 % of users preferred it,"
        " 22 % the other.",
        "DreamBoothはTextual Inversionより被写体をよく再現します: DINO 0.668対0.569、利用者の68%が支持(Textual Inversionは22%)。",
        "published",
        _RUIZ,
    ),
    ("hypernetwork", ""): Statement(
        "Its makers report that it works with picture sets of varied size; they give no numbers.",
        "開発元は、さまざまな規模の画像セットで使えると報告していますが、数値は示していません。",
        "published",
        _NOVELAI,
    ),
}

PUBLISHED_AGAINST: Final[Mapping[str, Statement]] = {
    "textual-inversion": Statement(
        "It shows the subject less well than DreamBooth: DINO 0.569 against 0.668, preferred by 22 % of users against 68 %.",
        "被写体の再現はDreamBoothより劣ります: DINO 0.569対0.668、利用者の支持は22%対68%。",
        "published",
        _RUIZ,
    ),
    "dreambooth": Statement(
        "Training all weights is best in likeness only at the right learning rate; at a wrong one it is worst.",
        "全重みの学習が最も高い再現度になるのは学習率が適切な場合だけで、外れると最も低くなります。",
        "published",
        _YEH,
    ),
    "hypernetwork": Statement(
        "No controlled comparison with LoRA has been published.",
        "LoRAと条件をそろえて比べた公開結果はありません。",
        "folklore",
    ),
}


METHODS: Final = tuple(name for name in methods.METHODS if (name, "") in PUBLISHED_FOR)


@dataclass(frozen=True)
class Rule:
    """A rule of thumb of the Japanese guide that this project began with."""

    methods: tuple[str, ...]
    goals: tuple[str, ...] = ()  # which method for which goal
    pictures: tuple[int, int] | None = None  # or: how many pictures a method wants


RULES: Final[tuple[Rule, ...]] = (
    Rule(("lora", "dreambooth"), ("character",)),
    Rule(("textual-inversion", "hypernetwork"), ("style",)),
    Rule(("textual-inversion",), ("object", "concept")),
    *(Rule((name,), pictures=method.images) for name, method in methods.METHODS.items()),
)


def said(goal: str) -> tuple[str, ...]:
    """The methods that the rules of thumb name for a goal."""
    return next(rule.methods for rule in RULES if goal in rule.goals)


def wanted(method: str) -> tuple[int, int]:
    """How many pictures the rules of thumb want for a method."""
    return methods.METHODS[method].images
