"""The numbers of a check, their means and intervals. Plain numbers; no torch, no clock.

Every number of a grid is the log ratio of one draw's loss to the base's loss on the same draw: 0 is the base, -0.01 is
1 % better. The same noise on both sides takes out nearly all of the variance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Final, Literal, cast

from tsuika.core.intervals import student
from tsuika.core.plain import jsonable

# A row per image, a value per draw. Columns are timesteps where all images have the same ones.
Grid = tuple[tuple[float, ...], ...]

ENOUGH_IMAGES: Final = 4  # from here on an interval over images is narrow enough to say something (t = 3.2)


def t95(freedom: int) -> float:
    """The factor on a standard error for a 95 % interval; infinite without a degree of freedom."""
    if freedom < 1:
        return math.inf
    # From printed tables: three digits, and beyond 30 an approximation that is right to 0.003.
    return round(student(0.95, freedom), 3) if freedom <= 30 else 1.96 + 2.37 / freedom


@dataclass(frozen=True)
class Ratios:
    """Log ratios of a set of images in the middle and in the high-noise range."""

    mid: Grid = ()
    high: Grid = ()

    def __len__(self) -> int:
        return len(self.mid)

    @property
    def finite(self) -> bool:
        return all(math.isfinite(value) for row in (*self.mid, *self.high) for value in row)


@dataclass(frozen=True)
class Reading:
    """A probe's measurement of one state of the weights. `held_out` is empty where there are too few images."""

    held_out: Ratios
    train: Ratios = Ratios()  # as many images that are trained on; empty where it was not measured this time
    # Squared change of what the base says to unrelated prompts, as a share of that from one such prompt to another.
    drift: float | None = None
    own_drift: float | None = None  # the same on training captions, on the same scale


@dataclass(frozen=True)
class Check:
    step: int
    reading: Reading
    guard_s: float = 0.0  # seconds spent on checks since the run began, this one included
    train_s: float = 0.0  # seconds spent on training steps since the run began

    def to_json(self) -> dict[str, Any]:
        """For `events.jsonl`; what is not finite becomes None, for JSON has no such numbers."""
        return cast(dict[str, Any], jsonable(self))

    @staticmethod
    def from_json(tables: Mapping[str, Any]) -> Check:
        """The inverse of `to_json` (KeyError, TypeError: not a check)."""
        reading = dict(tables["reading"])
        for name in ("held_out", "train"):
            reading[name] = Ratios(**{part: _grid(rows) for part, rows in reading[name].items()})
        return Check(tables["step"], Reading(**reading), tables["guard_s"], tables["train_s"])


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    `pictures`: it speaks of more images like these. `draws`: it speaks of these images at other timesteps, which is all that
    fewer than four images allow.
    """

    mean: float
    se: float  # standard error
    low: float
    high: float
    kind: Literal["pictures", "draws"]


def estimate(grid: Grid, overlap: float = 0.0) -> Estimate:
    """The mean of a grid of log ratios, or of their differences, with at least one image.

    `overlap`: 1 / training images of a fold, where rows come from different folds: their models share images, so that the
    images' errors are correlated (Nadeau & Bengio 2003, with test sets of one image); 0 for a plain hold-out set.
    """
    over_images = len(grid) >= ENOUGH_IMAGES
    values = [fmean(row) for row in grid] if over_images else [fmean(column) for column in zip(*grid, strict=True)]
    mean, count = fmean(values), len(values)
    if count < 2 or not math.isfinite(mean):
        se, half = math.inf, math.inf
    else:
        se = stdev(values) * math.sqrt(1 / count + (overlap if over_images else 0.0))
        half = t95(count - 1) * se
    return Estimate(mean, se, mean - half, mean + half, "pictures" if over_images else "draws")


def minus(left: Grid, right: Grid) -> Grid:
    """Paired differences, draw by draw."""
    return tuple(tuple(a - b for a, b in zip(one, other, strict=True)) for one, other in zip(left, right, strict=True))


def mean(grid: Grid) -> float:
    """Over all draws; every image has as many."""
    return fmean(value for row in grid for value in row)


def standard_error(grid: Grid) -> float:
    """Of `mean`, from how much the images differ; infinite for fewer than two."""
    return stdev(map(fmean, grid)) / math.sqrt(len(grid)) if len(grid) > 1 else math.inf


def cross_fitted(checks: Sequence[Grid]) -> float | None:
    """What the best check is worth to an image that had no part in choosing it, on average; None for fewer than two images.

    For each image the check is chosen by the mean of all others (Stone 1974, "Cross-validatory choice"). The smallest of
    several noisy means is too small by about the difference.
    """
    rows = [[fmean(row) for row in grid] for grid in checks]
    if not rows or len(rows[0]) < 2:
        return None
    chosen = (min(rows, key=lambda row, i=i: sum(row) - row[i])[i] for i in range(len(rows[0])))  # type: ignore[misc]
    return fmean(chosen)


def _grid(rows: Sequence[Sequence[float | None]]) -> Grid:
    return tuple(tuple(math.nan if value is None else value for value in row) for row in rows)
