"""A few settings in one process: all of them learn side by side on one split, each under a judge of its own."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

from tsuika.core.config import Recipe
from tsuika.core.errors import RecipeError
from tsuika.core.events import Event, note
from tsuika.core.words import Words
from tsuika.data import dedupe, split
from tsuika.guard.judge import Judge, Rule
from tsuika.guard.reading import Check
from tsuika.train import compare, gather
from tsuika.train.course import Budget, budget, why_alone

HALVED_AT: Final = 1 / 3  # of the steps the worse half leaves (successive halving, Jamieson & Talwalkar 2016)


@dataclass
class Entrant:
    """One point of the grid."""

    judge: Judge
    state: Literal["done", "pruned", "diverged"] = "done"

    @property
    def standing(self) -> float:
        """The best step's value by draws that did not choose it; at best 0 without one; infinite before any check."""
        if not self.judge.verdicts:
            return math.inf
        evidence = self.judge.verdicts[-1].evidence
        if evidence.best is not None:
            return evidence.best.mean
        return max(0.0, evidence.held_out.mean) if evidence.held_out is not None else 0.0


def hold(run: gather.Run, points: Sequence[Recipe]) -> Generator[Event, None, list[Entrant]]:
    """Train by each recipe until its judge says stop, the worse half leaving after a third of the steps.

    Args:
        run: a recipe that all share, and where encoded pictures are kept.
        points: recipes as `train.compare` takes them.

    Raises:
        RecipeError: RC024, fewer than four different pictures; RC025, these cannot learn side by side.
    """
    recipe = run.recipe
    with gather.clear_errors(recipe, recipe.data.images):
        accelerator = gather.accelerate_for(recipe)
        if any(why_alone(one, accelerator) for one in points):
            raise RecipeError("RC025")
        ground = yield from gather.prepare(run, accelerator)
        assert run.manifest is not None
        sides, allowed = _sides(dedupe.groups(run.manifest), recipe)
        yield note("GD027", held_out=len(sides.held_out), found=len(run.manifest), points=len(points))
        rule = Rule(patience=recipe.guard.patience)
        entrants = [
            Entrant(Judge(one.train.steps, one.train.learning_rate, rule, 0.0, allowed.rungs)) for one in points
        ]
        halved = next(step for step in allowed.rungs if step >= HALVED_AT * recipe.train.steps)
        behind: set[int] | None = None

        def hear(which: int, check: Check | None) -> bool:
            nonlocal behind
            one = entrants[which]
            if check is None:
                one.state = "diverged"
                return False
            if check.step > halved and behind is None:
                limit = median(other.standing for other in entrants)
                behind = {place for place, other in enumerate(entrants) if other.standing > limit}
            if behind is not None and which in behind:
                one.state = "pruned"
                return False
            return one.judge.hear(check).kind != "stop"

        yield from compare.compare(ground, points, allowed.rungs, sides, hear)
    return entrants


def _sides(groups: Sequence[split.Group], recipe: Recipe) -> tuple[compare.Sides, Budget]:
    """The split of a run, but that four to nine pictures are not left out in turn: a third of them is held out."""
    seed = recipe.train.seed
    if len(groups) < split.LEAST_TO_TRUST:
        why = Words("Fewer than four different pictures were found.", "異なる画像が4枚未満です。")
        raise RecipeError("RC024", why=why)
    if len(groups) >= split.LEAST_TO_HOLD_OUT:
        parted = split.split(groups, seed, share=recipe.guard.held_out)
    else:
        parts = split.split(groups, seed, folds=len(groups)).parts[: len(groups) // 3]
        parted = split.Split("hold-out", (tuple(name for part in parts for name in part),), tuple(groups), seed)
    witnesses = parted.witnesses()
    allowed = budget(recipe, len(witnesses))
    out = witnesses[: allowed.pictures]
    return compare.Sides(parted.inside(), out, parted.twins()[: allowed.twins], allowed.few), allowed
