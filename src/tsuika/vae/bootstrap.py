"""Intervals of a mean over pictures by resampling them; copies of one picture are drawn together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

import numpy as np

from tsuika.core.intervals import Interval

RESAMPLES: Final = 4000
LEAST: Final = 3  # different pictures, below which an interval says nothing


def interval(
    values: Sequence[float], groups: Sequence[int] | None = None, *, level: float = 0.95, seed: int = 0
) -> Interval:
    """Of the mean of values, one a picture; unbounded where there are too few pictures.

    The percentiles are set further out than the level, as a bootstrap of few pictures is too narrow by what Student's t
    is wider than the normal distribution. Source: Hesterberg 2015, "What teachers should know about the bootstrap", 5.2
    (expanded percentile interval).

    Args:
        values: no interval can be told where one is not finite.
        groups: which pictures are the same one, by number; none: all differ.
        level: of the interval, in 0..1.
        seed: of the draws.
    """
    numbers = np.asarray(values, float)
    labels = np.arange(len(numbers)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(labels.max()) + 1 if len(labels) else 0
    mean = float(numbers.mean()) if len(numbers) else math.nan
    if count < LEAST or not np.isfinite(numbers).all():
        return Interval(mean)
    sums, sizes = np.bincount(labels, numbers), np.bincount(labels)
    picked = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    means = sums[picked].sum(1) / sizes[picked].sum(1)
    z = NormalDist().inv_cdf((1 + level) / 2)
    tail = NormalDist().cdf(-math.sqrt(count / (count - 1)) * student(z, count - 1))
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def paired(
    left: Sequence[float], right: Sequence[float], groups: Sequence[int] | None = None, *, level: float = 0.95,
    seed: int = 0,
) -> Interval:  # fmt: skip
    """Of the mean difference left - right of the same pictures; two equal values, also infinite ones, differ by 0."""
    differences = [0.0 if a == b else a - b for a, b in zip(left, right, strict=True)]
    return interval(differences, groups, level=level, seed=seed)


def student(z: float, freedom: int) -> float:
    """The point of Student's t where the normal distribution has z. Source: Abramowitz & Stegun 1964, 26.7.5."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom) ** (power + 1) for power, term in enumerate(terms))
