"""The learning rate as a function of the step. A resumed run needs no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from tsuika.core.sections import Train

SCHEDULE_FREE: Final = ("prodigy", "schedule-free")  # these optimizers keep no schedule of their own accord


@dataclass(frozen=True)
class Schedule:
    """The share (0..1) of the learning rate at each step from `first` to `last`: linear warm-up, then the shape.

    A trial run's rate is `steady`, since its end is not known; what goes on from it takes the rate down to nothing, `falling`.
    """

    shape: Literal["constant", "linear", "cosine"]
    warmup: float  # steps
    first: int  # steps done before it begins
    last: int  # steps done at its end
    # Sum of the shares over the whole training that this is a part of: what the dose of L2 is spread over.
    total: float

    def share(self, step: int) -> float:
        """The share at a step, which is the number of steps done before it."""
        return _share(self.shape, self.warmup, step - self.first, self.last - self.first)

    @staticmethod
    def of(train: Train) -> Schedule:
        warmup = _warmup(train, train.steps)
        return Schedule(_shape(train), warmup, 0, train.steps, _sum(_shape(train), warmup, train.steps))

    @staticmethod
    def steady(train: Train, last: int | None = None) -> Schedule:
        """The recipe's warm-up, then the whole rate up to `last` (by default the recipe's steps)."""
        last = train.steps if last is None else last
        return Schedule("constant", _warmup(train, train.steps), 0, last, _total_of_both(train))

    @staticmethod
    def falling(train: Train, first: int, last: int) -> Schedule:
        """The recipe's schedule, warm-up included, over the steps from `first` to `last`."""
        return Schedule(_shape(train), _warmup(train, last - first), first, last, _total_of_both(train))


def _shape(train: Train) -> Literal["constant", "linear", "cosine"]:
    return "constant" if train.optimizer in SCHEDULE_FREE else train.schedule


def _warmup(train: Train, steps: int) -> float:
    """In steps; the schedule-free optimizer warms up by itself."""
    return 0.0 if train.optimizer == "schedule-free" else train.warmup * steps


def _share(shape: str, warmup: float, step: int, steps: int) -> float:
    if step + 1 < warmup:
        return (step + 1) / warmup
    if shape == "constant":
        return 1.0
    progress = min(1.0, max(0.0, (step - warmup) / max(1.0, steps - warmup)))
    return 0.5 * (1 + math.cos(math.pi * progress)) if shape == "cosine" else 1 - progress


def _sum(shape: str, warmup: float, steps: int) -> float:
    return sum(_share(shape, warmup, step, steps) for step in range(steps))


def _total_of_both(train: Train) -> float:
    """Of a trial run and what goes on from it, at their longest: the recipe's steps at a steady rate, about."""
    return _sum("constant", _warmup(train, train.steps), train.steps)
