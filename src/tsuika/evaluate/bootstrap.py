"""Intervals for means over prompts x seeds, by bootstrap: prompts are the clusters, and seeds are shared by all of them.

Both are resampled, each by itself (Owen 2007, "The pigeonhole bootstrap"), as the same seed gives pictures that resemble
each other under several prompts. Which prompts and seeds a resample takes follows from the table's shape alone. So tables
of one shape are resampled alike: the difference of two points is paired, and so is anything that is computed of several.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tsuika.core.intervals import Interval

Table = NDArray[np.float64]  # prompts x seeds; a prompt that was not measured is a row of nan
DRAWS: Final = 2000


@cache
def _picks(prompts: int, seeds: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng([prompts, seeds])
    return rng.integers(prompts, size=(DRAWS, prompts)), rng.integers(seeds, size=(DRAWS, seeds))


def resampled(table: Table) -> NDArray[np.float64]:
    """The mean of each of `DRAWS` resamples; nan for one without a number in it."""
    rows, columns = _picks(*table.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing is nan, as it should be
        means: NDArray[np.float64] = np.nanmean(table[rows[:, :, None], columns[:, None, :]], axis=(1, 2))
    return means


def interval(table: Table) -> Interval | None:
    """The mean of a table; None where nothing was measured."""
    known = table[~np.isnan(table)]
    if not known.size:
        return None
    return around(float(known.mean()), resampled(table), alone=known.size < 2)


def around(value: float, draws: NDArray[np.float64], *, alone: bool = False) -> Interval:
    """A statistic with the 95 % interval that its resamples span; unbounded where it is `alone`, of one picture."""
    draws = draws[~np.isnan(draws)]
    if alone or not draws.size:
        return Interval(value)
    low, high = np.percentile(draws, (2.5, 97.5))
    return Interval(value, float(low), float(high))


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
