"""A mean and the interval it lies in, Student's t, and the binomial limit: the same wherever something was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from tsuika.core.plain import jsonable


@dataclass(frozen=True)
class Interval:
    """A mean with its interval; from -inf to inf where there is too little to tell."""

    mean: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def is_bounded(self) -> bool:
        """Whether anything is known of where the mean lies."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def sign(self) -> int:
        """1 or -1 where all of the interval is on that side of zero, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    def __neg__(self) -> Interval:
        return Interval(-self.mean, -self.high, -self.low)

    def to_dict(self) -> dict[str, float | None]:
        """For JSON: None for what is not finite."""
        plain: dict[str, float | None] = jsonable(self)
        return plain


@cache
def student(level: float, freedom: int) -> float:
    """The point up to which, on both sides of zero, Student's t has this share (`level`, in 0..1), with so many degrees
    of freedom; beyond 300 the point of 300 is given. Source: Abramowitz & Stegun 1964, 26.7.3 and 26.7.4, bisected."""
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


@cache
def beyond_chance(count: int, rate: float, level: float) -> int:
    """The least number of hits that `count` independent tries, each a hit with probability `rate` (0..1), reach with a
    probability of `level` at most; count + 1 where no number is that rare."""
    below = 0.0
    for hits in range(count + 1):
        if 1 - below <= level:
            return hits
        below += math.comb(count, hits) * rate**hits * (1 - rate) ** (count - hits)
    return count + 1
