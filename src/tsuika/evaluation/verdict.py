"""From measures to a verdict, by stated rules: numbers only.

A point is one set of weights at one strength. Against the base it has

- gained: the 95 % interval of its likeness' difference lies above 0, and it came `LEAST` of the way to the training images;
- lost adherence, other prompts or diversity: that interval lies below 0, and `LEAST` of the base's (adherence: above chance)
  is gone;
- moved other prompts: their drawings have drifted by `DRIFTED` or more of what lies between two prompts;
- cost too dearly: lost, and less than `KEPT` of adherence (above chance) or of other prompts is left, or `VARIED` of diversity;
- copied: more drawings than chance makes of a result that copies nothing (`near_copies.are_copies`) are training images
  again, above the base's own, and `COPIED` of all.

The grade is that of the file as it is, at strength 1: `copies`, `unclear` (as much as a gain on average, but the interval
reaches 0), `nothing` (not gained), `dear`, `slight` (gained, but less than `SEEN` of the way), `doubtful` (gained, but by the
guard nothing was learned), `trade` (gained, and lost or moved), `good`;
without an encoder `copies`, `stiff` (diversity too dear) or `unmeasured`.

A point's score is the share of the way from the base's likeness to that of the training images, times the share of
adherence that is left (of diversity, where no adherence is measured). The best trade is one of the points that are `good` or
`trade` and within one standard error of the highest score (paired): one with a file that was written before a saved state;
then one that moves the base least, within one standard error (paired); then the one of the highest score.

Two kept steps are compared at equal likeness: the highest that all reach, each on its own line from strength 0 up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tsuika.core.bootstrap import Table, around, of_table, resampled, rows_of
from tsuika.core.intervals import Interval
from tsuika.evaluation.measures import Scale, Tables
from tsuika.evaluation.near_copies import are_copies

LEAST: Final = 0.05
# Of the way to the training images: below, drawings show hardly anything of it (a teapot at likeness 0.04 of 0.96).
SEEN: Final = 0.2
DRIFTED: Final = 0.3  # of what lies between two unrelated prompts: more is a side effect that is worth a word
KEPT: Final = 0.7
VARIED: Final = 0.5
COPIED: Final = 0.05

Grade = Literal["good", "trade", "slight", "doubtful", "dear", "copies", "unclear", "nothing", "stiff", "unmeasured"]
Cost = Literal["adherence", "others", "diversity", "drift"]
COSTS: Final[tuple[Cost, ...]] = ("adherence", "others", "diversity")  # those that are compared with the base
Draws = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """One set of weights at one strength."""

    state: str  # its name for people: `balanced`, `step-000060`
    file: str  # relative to the run folder
    step: int
    strength: float
    tables: Tables
    main: bool = False  # the file that one uses without further thought

    @property
    def written(self) -> bool:
        """Whether there is a file to use; a saved state of the run is none."""
        return not self.file.startswith("checkpoints/")


@dataclass(frozen=True)
class Judgement:
    """What can be said of one point against the base."""

    gain: Interval | None  # of fidelity
    gained: bool
    unclear: bool  # a gain, were there more drawings that say so
    lost: tuple[Cost, ...]
    dear: tuple[Cost, ...]
    copies: int
    drawings: int
    copying: bool
    slight: bool
    doubted: bool  # by the guard
    score: float | None
    draws: Draws | None  # of the score

    @property
    def grade(self) -> Grade:
        if self.copying:
            return "copies"
        if self.gain is None:
            return "stiff" if self.dear else "unmeasured"
        if not self.gained:
            return "unclear" if self.unclear else "nothing"
        if self.dear:
            return "dear"
        if self.slight or self.doubted:
            return "slight" if self.slight else "doubtful"
        return "trade" if self.lost else "good"


@dataclass(frozen=True)
class Matched:
    """Adherence of kept steps at equal likeness; the first is the best."""

    fidelity: float
    states: tuple[tuple[str, int, Interval], ...]  # name, step, adherence
    lead: Interval  # of the first over the second

    def to_dict(self) -> dict[str, Any]:
        rows = [{"state": name, "step": step, "adherence": value.to_dict()} for name, step, value in self.states]
        return {"fidelity": self.fidelity, "states": rows, "lead": self.lead.to_dict()}


@dataclass(frozen=True)
class EvaluationVerdict:
    """The outcome: rows count the points."""

    grade: Grade
    main: int
    best: int | None
    judgements: tuple[Judgement, ...]
    matched: Matched | None


def judge(base: Tables, points: Sequence[Point], scale: Scale, *, doubted: bool = False) -> EvaluationVerdict:
    """The verdict on an evaluation. `doubted`: the guard says that nothing was learned, or no step better than the base."""
    if not points:
        raise ValueError("there is nothing to judge")
    judgements = tuple(_judge(base, point.tables, scale, doubted) for point in points)
    main = min(
        range(len(points)), key=lambda row: (not points[row].main, abs(points[row].strength - 1), -points[row].step)
    )
    return EvaluationVerdict(judgements[main].grade, main, _best(points, judgements), judgements, matched(base, points))


def difference(table: Table | None, base: Table | None) -> Interval | None:
    """Of a measure to the base's at the same prompts and seeds."""
    return None if table is None or base is None else of_table(table - base)


def moved(tables: Tables, scale: Scale) -> float | None:
    """How far drawings of unrelated prompts have moved, as a share of what lies between the base's of two prompts."""
    return float(tables.drift.mean()) / scale.other_prompt if tables.drift is not None and scale.other_prompt else None


def _judge(base: Tables, tables: Tables, scale: Scale, doubted: bool) -> Judgement:
    found = {name: difference(getattr(tables, name), getattr(base, name)) for name in COSTS}
    losses = {name: value for name, value in found.items() if value is not None}
    left = {
        name: _left(getattr(tables, name), getattr(base, name), scale.chance if name == "adherence" else 0.0)
        for name in losses
    }
    lost = tuple(name for name, value in losses.items() if value.sign < 0 and left[name] <= 1 - LEAST)
    dear = tuple(name for name in lost if left[name] < (VARIED if name == "diversity" else KEPT))
    if (moved(tables, scale) or 0.0) >= DRIFTED:
        lost = (*lost, "drift")
    copies, drawings = int(tables.copies.sum()), tables.copies.size
    extra = copies - int(base.copies.sum())
    draws, score = _score(base, tables, scale)
    gain = difference(tables.fidelity, base.fidelity)
    side = gain.sign if gain is not None and 0 < gain.mean >= LEAST * way(base, scale) else None
    gained, unclear = side == 1, side == 0
    copying = are_copies(extra, drawings) and extra >= COPIED * drawings
    slight = gain is not None and gain.mean < SEEN * way(base, scale)
    return Judgement(gain, gained, unclear, lost, dear, copies, drawings, copying, slight, doubted, score, draws)


def way(base: Tables, scale: Scale) -> float:
    """How far the base's drawings are from the likeness of the training images; 0 where they are as near."""
    if base.fidelity is None:
        return 0.0
    return max(0.0, (1.0 if scale.real is None else scale.real) - float(base.fidelity.mean()))


def _left(table: Table, base: Table, chance: float) -> float:
    """The share of the base's measure, above chance, that is left; 1 where the base has none to lose."""
    had = float(np.nanmean(base)) - chance
    return max(0.0, float(np.nanmean(table)) - chance) / had if had > 1e-6 else 1.0


def _score(base: Tables, tables: Tables, scale: Scale) -> tuple[Draws | None, float | None]:
    """Resamples and value of the score; None without an encoder."""
    if tables.fidelity is None or base.fidelity is None:
        return None, None

    def clipped(ours: Draws, theirs: Draws, zero: Draws | float) -> Draws:
        span = theirs - zero
        share: Draws = np.where(span > 1e-6, (ours - zero) / np.where(span > 1e-6, span, 1.0), 1.0)
        return np.clip(share, 0.0, 1.0)

    real = 1.0 if scale.real is None else scale.real
    of_adherence = tables.adherence is not None and base.adherence is not None
    kept, had = (tables.adherence, base.adherence) if of_adherence else (tables.diversity, base.diversity)
    chance = scale.chance if of_adherence else 0.0
    both = []
    for mean in (resampled, lambda table: np.array([np.nanmean(table)])):
        was = mean(base.fidelity)
        gain = clipped(mean(tables.fidelity), np.full_like(was, real), was)
        both.append(gain if kept is None or had is None else gain * clipped(mean(kept), mean(had), chance))
    return both[0], float(both[1][0])


def _best(points: Sequence[Point], judgements: Sequence[Judgement]) -> int | None:
    rows = [
        row
        for row, one in enumerate(judgements)
        if points[row].strength > 0 and one.score is not None and one.grade in ("good", "trade")
    ]
    if not rows:
        return None
    top = max(rows, key=lambda row: judgements[row].score or 0.0)
    equal = [row for row in rows if _as_good(judgements[row], judgements[top])]
    equal = [row for row in equal if points[row].written] or equal
    drifts = {row: points[row].tables.drift for row in equal}
    size = {row: 0.0 if drift is None else float(drift.mean()) for row, drift in drifts.items()}
    gentlest = min(equal, key=lambda row: (size[row], points[row].strength * points[row].step))
    gentle = [row for row in equal if _as_gentle(drifts[row], drifts[gentlest])]
    return max(gentle, key=lambda row: (judgements[row].score or 0.0, -points[row].strength * points[row].step))


def _as_gentle(one: Table | None, least: Table | None) -> bool:
    if one is None or least is None or one is least:
        return True
    return float((one - least).mean()) <= float(np.nanstd(resampled(one - least)))


def _as_good(one: Judgement, top: Judgement) -> bool:
    assert one.draws is not None and top.draws is not None and one.score is not None and top.score is not None
    return one is top or top.score - one.score <= float(np.nanstd(top.draws - one.draws))


def matched(base: Tables, points: Sequence[Point]) -> Matched | None:
    """Kept steps at equal likeness; None where fewer than two have reached any, or no adherence is measured."""
    ordered = sorted((one for one in points if one.strength > 0), key=lambda one: (one.step, one.state, one.strength))
    states = groupby(ordered, key=lambda one: (one.state, one.step))
    lines = {key: [_pair(base), *(_pair(one.tables) for one in group)] for key, group in states}
    paths = {key: [pair for pair in line if pair is not None] for key, line in lines.items()}
    if len(paths) < 2 or any(len(path) < len(lines[key]) for key, path in paths.items()):
        return None
    start = of_table(next(iter(paths.values()))[0][0])
    level = min(max(float(np.nanmean(fidelity)) for fidelity, _ in path) for path in paths.values())
    if start is None or level <= (start.high if start.is_bounded else start.mean):
        return None
    values: list[tuple[tuple[str, int], float, Draws]] = []
    for key, path in paths.items():
        xs, ys = zip(*path, strict=True)
        value = at_level([np.nanmean(x) for x in xs], [np.nanmean(y) for y in ys], level)
        draws = at_level([resampled(x) for x in xs], [resampled(y) for y in ys], level)
        # A resample whose line ends below the level has come as near to it as it can: its end.
        values.append((key, float(value), np.where(np.isnan(draws), resampled(ys[-1]), draws)))
    values.sort(key=lambda one: -one[1])
    count = min(rows_of(table) for path in paths.values() for pair in path for table in pair)
    lead = around(values[0][1] - values[1][1], values[0][2] - values[1][2], count)
    found = tuple((name, step, around(value, draws, count)) for (name, step), value, draws in values)
    return Matched(level, found, lead)


def _pair(tables: Tables) -> tuple[Table, Table] | None:
    """Fidelity and adherence, where both are measured."""
    return None if tables.fidelity is None or tables.adherence is None else (tables.fidelity, tables.adherence)


def at_level(path_x: Sequence[Any], path_y: Sequence[Any], level: float) -> NDArray[np.float64]:
    """Where a path of points first reaches x = `level`, its y; elementwise over resamples. nan where it never does.

    Linear between neighbouring points. A path that begins above the level has it where it begins.
    """
    xs, ys = np.stack(path_x).astype(np.float64), np.stack(path_y).astype(np.float64)
    found = np.where(xs[0] >= level, ys[0], np.nan)
    for here in range(1, len(xs)):
        rise = xs[here] - xs[here - 1]
        share = (level - xs[here - 1]) / np.where(rise == 0, 1.0, rise)
        crossing = np.isnan(found) & (xs[here - 1] < level) & (xs[here] >= level)
        found = np.where(crossing, ys[here - 1] + share * (ys[here] - ys[here - 1]), found)
    return found
