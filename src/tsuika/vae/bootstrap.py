"""Intervals of a mean over pictures by resampling them; copies of one picture are drawn together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
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
    (expanded percentile interval). It is never narrower than Student's own: no resample leaves the range of the pictures,
    in which the mean of three lies three times out of four only.

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
    point, wider = student(level, count - 1), math.sqrt(count / (count - 1))
    tail = NormalDist().cdf(-wider * point)
    low, high = np.quantile(means, [tail, 1 - tail])
    half = point * wider * float(np.sqrt(((sums - mean * sizes) ** 2).sum()) / sizes.sum())
    return Interval(mean, min(float(low), mean - half), max(float(high), mean + half))


def paired(
    left: Sequence[float],
    right: Sequence[float],
    groups: Sequence[int] | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Of the mean difference left - right of the same pictures; two equal values, also infinite ones, differ by 0."""
    differences = [0.0 if a == b else a - b for a, b in zip(left, right, strict=True)]
    return interval(differences, groups, level=level, seed=seed)


@cache
def student(level: float, freedom: int) -> float:
    """The point up to which, on both sides of zero, Student's t has this share (0..1); beyond 300 degrees of freedom that of 300.

    Source: Abramowitz & Stegun 1964, 26.7.3 and 26.7.4, bisected.
    """
    freedom = min(freedom, 300)

    def within(t: float) -> float:
        angle = math.atan(t / math.sqrt(freedom))
        odd, square = freedom % 2, math.cos(angle) ** 2
        term = math.cos(angle) if odd else 1.0
        total = term if freedom > 1 else 0.0
        for k in range(2 + odd, freedom - 1, 2):
            term *= (k - 1) / k * square
            total += term
        share = math.sin(angle) * total
        return 2 / math.pi * (angle + share) if odd else share

    low, high = 0.0, 1e4
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < level else (low, middle)
    return high
