"""What frontier.py recorded: the ways to go on, what the judge makes of them, the tables and the picture. Trains nothing.

Every number here is made from bench/guard/frontier.jsonl.xz, or a folder of the same.
"""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from analyse import pp, table
from curves import Curve, Fold, Run
from rules import Judged, growth, judged

PLANS = (1, 3)  # times the bench's budget
LOOKS = (1.0, 0.8)  # of the plan, the look at most
LENGTHS = (0.25, 0.5, 1.0)  # of the second part, by what starting again would take


class Part(NamedTuple):
    """A training with all pictures; from the look's weights at `begin`, or from the start where that is 0."""

    begin: int
    steps: int
    shape: str = "linear"

    @property
    def name(self) -> str:
        return f"{self.shape} {self.begin} {self.steps}"


class Way(NamedTuple):
    """Of a second part: its length by what starting again would take, up to a limit for everything."""

    look: float  # of the plan, at most
    length: float
    limit: float = 9.0  # for all steps, by the plan
    power: float | None = 1.0  # None: the product's
    shape: str = "linear"


WAS = "whole look, a whole second part: as it was"
WAYS = {
    WAS: Way(1.0, 1.0, power=None),
    **{f"whole look, {length:g} of it": Way(1.0, length) for length in LENGTHS},
    **{
        f"look to 0.8, {length:g} of it, {limit:g} plans at most": Way(0.8, length, limit)
        for length in LENGTHS
        for limit in (1.0, 1.3)
    },
    "look to 0.8, 0.5 of it with 1 - sqrt, 1.3 plans at most": Way(0.8, 0.5, 1.3, shape="sqrt"),
    "look to 0.8, the rest of the plan": Way(0.8, 9.0, 1.0),
}


@dataclass(frozen=True)
class Looked:
    """A recorded look, and what followed."""

    tables: dict[str, Any]

    @property
    def plan(self) -> int:
        return int(self.tables["steps"])

    def run(self, steps: int) -> Run:
        """The look as one of so many planned steps, for the judge; rungs beyond them were never reached."""
        rows = [row for row in self.tables["rungs"] if row["step"] <= steps]

        def curve(what: str) -> Curve:
            return Curve(np.array([row["step"] for row in rows], float), np.array([row[what]["mid"] for row in rows]))

        def high(what: str) -> np.ndarray:
            return np.array([row[what]["high"] for row in rows])

        one, none = self.tables, np.zeros(0)
        fold = Fold(
            one["trained_on"],
            curve("held_out"),
            high("held_out"),
            curve("train"),
            high("train"),
            none,
            Curve(none, none),
        )
        return Run(
            *(one[key] for key in ("method", "concept", "pictures", "seed")),
            steps,
            one["batch"],
            one["rate"],
            (fold,),
            Curve(none, none),
            Curve(none, none),
            none,
            none,
        )

    def judged(self, plan: float, look: float) -> Judged | None:
        """What the judge chooses of a look at most so long; None where it had not stopped by the last rung that is there."""
        steps = round(plan * look * self.plan)
        found = judged(self.run(steps))
        reached = self.tables["rungs"][-1]["step"]
        return found if reached >= steps or found.stop < reached else None

    def part(self, plan: float, way: Way) -> tuple[Part, float] | None:
        """The second part of a way, and the steps of everything; None where the judge's choice is not known."""
        found = self.judged(plan, way.look)
        if found is None:
            return None
        more = self.tables["pictures"] / self.tables["trained_on"]
        wanted = found.best * more ** (growth(self.tables["method"]) if way.power is None else way.power)
        # The product never goes on for more than the plan.
        wanted = way.length * min(wanted, plan * self.plan)
        steps = max(1, round(min(wanted, way.limit * plan * self.plan - found.stop)))
        if not found.best:
            return None
        return Part(round(found.best), steps, way.shape), found.stop + steps


def parts(looked: Looked) -> set[Part]:
    return {found[0] for plan in PLANS for way in WAYS.values() if (found := looked.part(plan, way))}


class Cost(NamedTuple):
    """What one way came to in one configuration."""

    steps: float  # of everything, by the plan's
    value: float  # mean log ratio to the base on fresh pictures


def cost(looked: Looked, planned: int, way: Way) -> Cost | None:
    """Of a way where `planned` times the bench's budget were planned; None where that is not known."""
    found = looked.part(planned, way)
    if found is None or found[0].name not in looked.tables["parts"]:
        return None
    part, steps = found
    return Cost(steps / (planned * looked.plan), looked.tables["parts"][part.name]["mean"])


def plain(looked: Looked, share: float) -> float | None:
    """The value of a training without a look, of this share of the bench's budget."""
    part = looked.tables["parts"].get(Part(0, round(share * looked.plan)).name)
    return part["mean"] if part else None


def told(looks: Sequence[Looked], planned: int) -> str:
    """Every way over the configurations in which all of them are known, beside plain runs."""
    known = [one for one in looks if all(cost(one, planned, way) for way in WAYS.values())]
    if not known:
        return "none\n"
    usual = [plain(one, 1) for one in known]
    before = [cost(one, planned, WAYS[WAS]).value for one in known]
    rows = []
    for name, way in WAYS.items():
        costs = [cost(one, planned, way) for one in known]
        values = [one.value for one in costs]
        rows.append(
            (
                name,
                f"{np.mean([one.steps for one in costs]):.2f}",
                pp([a - b for a, b in zip(values, before)]),
                f"{100 * max(a - b for a, b in zip(values, before)):.1f}",
                pp([a - b for a, b in zip(values, usual)]),
            )
        )
    for share in (0.5, 1, 3):
        values = [plain(one, share) for one in known]
        if all(value is not None for value in values):
            worst = f"{100 * max(a - b for a, b in zip(values, before)):.1f}"
            less = pp([a - b for a, b in zip(values, before)]), worst, pp([a - b for a, b in zip(values, usual)])
            rows.append((f"plain, {share:g} of the budget", f"{share / planned:.2f}", *less))
    head = "way | steps by the plan's | less as it was, pp | worst, pp | less a plain run of the budget, pp"
    return f"{len(known)} of {len(looks)} configurations\n\n{table(head, rows)}\n"


# What is drawn, in both languages.
SHOWN = {
    WAS: (
        "guard as it was: whole look, as long again, 2 plans at most",
        "以前のガード: 探すのも仕上げも計画どおりまで、計2倍まで",
    ),
    "look to 0.8, 1 of it, 1.3 plans at most": (
        "guard now: look to 0.8, 1.3 plans at most",
        "現在のガード: 探すのは0.8倍まで、計1.3倍まで",
    ),
    "look to 0.8, 1 of it, 1 plans at most": ("the same, 1 plan at most", "同じく、計1倍まで"),
    "look to 0.8, 0.5 of it, 1.3 plans at most": ("half of the last part", "仕上げが半分"),
    "look to 0.8, 0.25 of it, 1.3 plans at most": ("a quarter of the last part", "仕上げが4分の1"),
}
PLAIN = {
    0.5: ("no guard, half of the right plan", "ガードなし、適切な計画の半分"),
    1: ("no guard, the right plan", "ガードなし、適切な計画"),
    3: ("no guard, three times the right plan", "ガードなし、適切な計画の3倍"),
}
TITLES = {
    1: ("The plan was about right", "計画がほぼ適切なとき"),
    3: ("The plan was three times too long", "計画が3倍長すぎたとき"),
}
AXES = (
    ("steps in all, by the plan", "全ステップ数(計画を1とする)"),
    ("loss on fresh images less that of before, points", "未知の画像でのロス(以前との差、ポイント)"),
)
STYLE = """
  .card { fill: #fff; stroke: #e6e1d8 } text { font: 12px system-ui, "Hiragino Sans", "Yu Gothic UI", "Noto Sans CJK JP", sans-serif; fill: #6b6776 }
  .title { font-size: 14px; font-weight: 600; fill: #23212b } .line { stroke: #e6e1d8 } .zero { stroke: #6b6776 }
  .guard { fill: #0b8a86; stroke: #0b8a86; stroke-width: 2 } .plain { fill: #7c5cc4; stroke: #7c5cc4; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    .card { fill: #1e1d25; stroke: #33313d } text { fill: #a5a1b3 } .title { fill: #eceaf2 } .line { stroke: #33313d }
    .zero { stroke: #a5a1b3 } .guard { fill: #3fd0c4; stroke: #3fd0c4 } .plain { fill: #b7a0f5; stroke: #b7a0f5 }
  }"""  # noqa: E501
WIDTH, HEIGHT, LEFT, WIDEST = 760, 250, 66, 2.1  # the last in plans


def points(looks: Sequence[Looked], planned: int) -> list[tuple[str | float, float, float, float]]:
    """What is drawn of a plan: which it is, steps by the plan, difference to what was and its standard error."""
    known = [one for one in looks if all(cost(one, planned, WAYS[way]) for way in SHOWN)]
    before = [cost(one, planned, WAYS[WAS]).value for one in known]
    found: list[tuple[str | float, float, float, float]] = []
    for way in SHOWN:
        costs = [cost(one, planned, WAYS[way]) for one in known]
        found.append((way, float(np.mean([one.steps for one in costs])), *spread([one.value for one in costs], before)))
    for share in PLAIN:
        pairs = [(value, other) for one, other in zip(known, before) if (value := plain(one, share)) is not None]
        if pairs and share / planned < WIDEST:
            found.append((share, share / planned, *spread(*zip(*pairs))))
    return found


def spread(values: Sequence[float], before: Sequence[float]) -> tuple[float, float]:
    """Mean of the differences and its standard error, in percentage points."""
    less = 100 * (np.array(values) - np.array(before))
    return float(less.mean()), float(less.std(ddof=1) / math.sqrt(len(less))) if len(less) > 1 else 0.0


def picture(looks: Sequence[Looked], language: int) -> str:
    """Price against regret, as an SVG file that stands alone."""
    panels = {planned: points(looks, planned) for planned in PLANS}
    values = [value for panel in panels.values() for *_, less, error in panel for value in (less - error, less + error)]
    low, high = math.floor(min(values)) - 1, math.ceil(max(values)) + 1
    inner, tall = WIDTH - LEFT - 18, HEIGHT - 78
    step = max(1, round((high - low) / 6))
    drawn_ones = {name for panel in panels.values() for name, *_ in panel}
    letters = dict(zip((name for name in (*SHOWN, *PLAIN) if name in drawn_ones), "ABCDEFGH"))
    tallest = len(PLANS) * HEIGHT + 54 + 18 * len(letters)
    parts = [f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{tallest - 1}" rx="12"/>']
    for number, (planned, panel) in enumerate(panels.items()):
        top = number * HEIGHT + 40

        def x(steps: float) -> float:
            return LEFT + inner * steps / WIDEST

        def y(value: float, top: int = top) -> float:
            return top + tall * (high - value) / (high - low)

        parts.append(f'<text class="title" x="16" y="{top - 16}">{TITLES[planned][language]}</text>')
        for tick in range(step * math.ceil(low / step), high + 1, step):
            kind = "zero" if tick == 0 else "line"
            parts.append(f'<path class="{kind}" d="M{LEFT} {y(tick):.1f}h{inner}"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:+d}</text>')
        for tick in (0.5, 1, 1.5, 2):
            parts.append(f'<text x="{x(tick):.1f}" y="{top + tall + 16}" text-anchor="middle">{tick:g}</text>')
        for name, steps, less, error in panel:
            kind = "guard" if isinstance(name, str) else "plain"
            parts.append(
                f'<path class="{kind}" d="M{x(steps):.1f} {y(less - error):.1f}V{y(less + error):.1f}"/>'
                f'<circle class="{kind}" cx="{x(steps):.1f}" cy="{y(less):.1f}" r="4"/>'
                f'<text class="title" x="{x(steps) + 7:.1f}" y="{y(less) - 5:.1f}">{letters[name]}</text>'
            )
    bottom = len(PLANS) * HEIGHT + 16
    parts.append(f'<text x="{WIDTH - 18}" y="{bottom}" text-anchor="end">{AXES[0][language]}</text>')
    parts.append(f'<text x="16" y="{bottom}">{AXES[1][language]}</text>')
    for row, (name, letter) in enumerate(letters.items()):
        words = (SHOWN[name] if isinstance(name, str) else PLAIN[name])[language]
        parts.append(f'<text x="30" y="{bottom + 26 + 18 * row}"><tspan class="title">{letter}</tspan> {words}</text>')
    bottom += 38 + 18 * len(letters)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom}" width="{WIDTH}" height="{bottom}" '
        f'role="img"><style>{STYLE}\n</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def recorded(place: Path) -> list[Looked]:
    """What a folder holds, or a file that it was packed into."""
    if place.is_dir():
        return [Looked(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(place.glob("*.json"))]
    with lzma.open(place, "rt", encoding="utf-8") as lines:
        return [Looked(json.loads(line)) for line in lines]


def read(looks: Sequence[Looked]) -> None:
    """The tables: all, by method and by the share that is held out."""
    groups = {"all": looks}
    for key in ("method", "pictures"):
        for value in sorted({one.tables[key] for one in looks}):
            groups[f"{key} {value}"] = [one for one in looks if one.tables[key] == value]
    for planned in PLANS:
        for name, some in groups.items():
            print(f"**{planned} times the budget planned, {name}**: {told(some, planned)}")
