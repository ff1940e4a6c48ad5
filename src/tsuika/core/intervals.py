"""A mean and the interval it lies in, the same wherever something was measured; how it is found differs by what varies."""

from __future__ import annotations

import math
from dataclasses import dataclass

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

    def as_dict(self) -> dict[str, float | None]:
        """For JSON: None for what is not finite."""
        plain: dict[str, float | None] = jsonable(self)
        return plain
