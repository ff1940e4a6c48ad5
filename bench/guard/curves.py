"""The collected curves, as the rules hear them.

Regret is in log ratio to the base's loss; the tables show it in percentage points (pp).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Log ratios at rungs: steps (S,), values (S, pictures, timesteps)."""

    steps: Floats
    values: Floats

    def mean(self) -> Floats:
        return self.values.mean((1, 2))

    def at(self, step: float, pictures: Sequence[int] | None = None) -> float:
        """At any step: linear in log steps between rungs, 0 at the base."""
        values = self.values if pictures is None else self.values[:, list(pictures)]
        return interpolated(self.steps, values.mean((1, 2)), step)

    def best(self, pictures: Sequence[int] | None = None) -> float:
        """The rung with the smallest mean, 0 where none is better than the base."""
        values = (self.values if pictures is None else self.values[:, list(pictures)]).mean((1, 2))
        return float(self.steps[values.argmin()]) if values.min() < 0 else 0.0


def interpolated(steps: Floats, values: Floats, step: float) -> float:
    if step <= steps[0]:
        return float(values[0] * max(step, 0) / steps[0])
    return float(np.interp(math.log(step), np.log(steps), values))


@dataclass(frozen=True)
class Fold:
    trained_on: int
    held_out: Curve
    held_high: Floats  # (S, pictures, timesteps)
    twin: Curve
    twin_high: Floats
    base: Floats  # (pictures, 6 + 2), the base's own losses
    truth: Curve  # of this very lane, at few rungs


@dataclass(frozen=True, eq=False)
class Run:
    """One configuration."""

    method: str
    concept: str
    pictures: int
    seed: int
    steps: int
    batch: int
    rate: float
    folds: tuple[Fold, ...]
    truth: Curve
    twin: Curve  # of the all-pictures lane
    losses: Floats  # raw training loss, step by step
    fixed: Floats  # (ticks, 2): step, loss of DVAR's batch
    kind: str = "hold-out"
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return f"{self.method}/{self.concept}/{self.pictures}/{self.seed}"

    @property
    def gain(self) -> float:
        """What the true curve gains at its best."""
        return max(0.0, -float(self.truth.mean().min()))

    @property
    def a_rung_off(self) -> float:
        """What it costs to end one rung beside the best: the jitter of weights that learn at a high rate."""
        means = self.truth.mean()
        i = int(means.argmin())
        return float(np.mean([means[j] - means[i] for j in (i - 1, i + 1) if 0 <= j < len(means)]))

    def regret(self, step: float) -> float:
        return self.truth.at(step) + self.gain

    def fair_regret(self, step: float) -> float:
        """The same, the best step found on one half of the fresh pictures and compared on the other, both ways.

        The minimum of a measured curve is too low on average; this one is not, but the step found is not quite the best.
        """
        count = self.truth.values.shape[1]
        sides = range(0, count, 2), range(1, count, 2)
        return float(
            np.mean([self.truth.at(step, b) - self.truth.at(self.truth.best(a), b) for a, b in (sides, sides[::-1])])
        )


def read(path: Path, folds_of: Path | None = None) -> Run:
    """A configuration from its file; `folds_of`: another file, whose folds stand in for its own."""
    tables = json.loads(path.read_text(encoding="utf-8"))
    looks = json.loads(folds_of.read_text(encoding="utf-8"))["lanes"] if folds_of else tables["lanes"]

    def curve(lane: Mapping[str, Any], what: str) -> Curve:
        rows = [row for row in lane["rungs"] if row[what] and row[what]["mid"]]
        return Curve(
            np.array([row["step"] for row in rows], dtype=float),
            np.array([row[what]["mid"] for row in rows], dtype=float),
        )

    def high(lane: Mapping[str, Any], what: str) -> Floats:
        return np.array([row[what]["high"] for row in lane["rungs"]], dtype=float)

    folds = tuple(
        Fold(
            lane["trained_on"],
            curve(lane, "held_out"),
            high(lane, "held_out"),
            curve(lane, "train"),
            high(lane, "train"),
            np.array(lane["base"]["held_out"], dtype=float).reshape(len(lane["held_out"]), -1),
            curve(lane, "population"),
        )
        for lane in looks
        if lane["kind"] != "all"
    )
    whole = next(lane for lane in tables["lanes"] if lane["kind"] == "all")
    return Run(
        *(tables[key] for key in ("method", "concept", "pictures", "seed", "steps", "batch", "rate")),
        folds,
        curve(whole, "population"),
        curve(whole, "train"),
        np.array(whole["losses"]),
        np.array(whole["fixed_batch"]),
        looks[0]["kind"],
    )
