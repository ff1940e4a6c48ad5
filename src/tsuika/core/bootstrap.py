"""Intervals for means by resampling: of values, one an image, and of tables of prompts x seeds. What belongs together is
drawn together (copies of an image; all seeds of a prompt, all prompts of a seed). A table's resamples follow from its
shape alone: differences of two tables, and what is computed from several, are paired."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tsuika.core.intervals import Interval, student

# Prompts x seeds; a prompt that was not measured is a row of nan.
Table = NDArray[np.float64]
TABLE_DRAWS: Final = 2000
DRAWS: Final = 4000
LEAST: Final = 3
"""Different images, or prompts, below which an interval says nothing."""


def of_values(
    values: Sequence[float], groups: Sequence[int] | None = None, *, level: float = 0.95, seed: int = 0
) -> Interval:
    """The interval of the mean of values, one an image; unbounded where there are too few images or one value is not
    finite. `groups` number the images that are the same one; none: all differ."""
    numbers = np.asarray(values, float)
    labels = np.arange(len(numbers)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(labels.max()) + 1 if len(labels) else 0
    mean = float(numbers.mean()) if len(numbers) else math.nan
    if count < LEAST or not np.isfinite(numbers).all():
        return Interval(mean)
    sums, sizes = np.bincount(labels, numbers), np.bincount(labels)
    picked = np.random.default_rng(seed).integers(0, count, (DRAWS, count))
    return around(mean, sums[picked].sum(1) / sizes[picked].sum(1), count, level)


def of_differences(
    left: Sequence[float],
    right: Sequence[float],
    groups: Sequence[int] | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The interval of the mean of left - right on the same images; equal values, also infinite ones, differ by 0."""
    differences = [0.0 if a == b else a - b for a, b in zip(left, right, strict=True)]
    return of_values(differences, groups, level=level, seed=seed)


def of_table(table: Table) -> Interval | None:
    """The mean of a table with its 95 % interval; None where nothing was measured."""
    known = table[~np.isnan(table)]
    return around(float(known.mean()), resampled(table), rows_of(table)) if known.size else None


def rows_of(table: Table) -> int:
    """How many prompts of a table were measured."""
    return int((~np.isnan(table)).any(1).sum())


def resampled(table: Table) -> NDArray[np.float64]:
    """The mean of each of `TABLE_DRAWS` resamples, nan for one without a number in it. Prompts and seeds are resampled,
    each by itself, as one seed gives images that resemble each other under several prompts. Source: Owen 2007, "The
    pigeonhole bootstrap"."""
    rows, columns = _picks(*table.shape)
    with warnings.catch_warnings():
        # The mean of nothing is nan, as it should be.
        warnings.simplefilter("ignore", RuntimeWarning)
        means: NDArray[np.float64] = np.nanmean(table[rows[:, :, None], columns[:, None, :]], axis=(1, 2))
    return means


@cache
def _picks(prompts: int, seeds: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng([prompts, seeds])
    return rng.integers(prompts, size=(TABLE_DRAWS, prompts)), rng.integers(seeds, size=(TABLE_DRAWS, seeds))


def around(value: float, draws: NDArray[np.float64], count: int, level: float = 0.95) -> Interval:
    """A statistic of `count` images or prompts with the interval that its resamples span; unbounded below `LEAST`.

    The percentiles are set further out than the `level` (0..1), as a bootstrap of few is too narrow by what Student's t is
    wider than the normal distribution, and by the root of count / (count - 1) (expanded percentile interval; Hesterberg
    2015, "What teachers should know about the bootstrap", 5.2). It is never narrower than Student's own: no resample
    leaves the range of the values, in which the mean of three lies three times out of four only."""
    draws = draws[~np.isnan(draws)]
    if count < LEAST or not draws.size:
        return Interval(value)
    wide = student(level, count - 1) * math.sqrt(count / (count - 1))
    tail = NormalDist().cdf(-wide)
    low, high = np.quantile(draws, [tail, 1 - tail])
    half = wide * float(draws.std())
    return Interval(value, min(float(low), value - half), max(float(high), value + half))
