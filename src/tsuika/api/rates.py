"""The learning-rate finder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from tsuika.api import training
from tsuika.api.run import Events, starts
from tsuika.config import Recipe
from tsuika.core.rundir import RunDir
from tsuika.training import rate_finder
from tsuika.training.rate_finder import RateFound


@starts
def find_rate(recipe: Recipe, *, rates: Sequence[float] = (), steps: int = rate_finder.STEPS) -> Events[RateFound]:
    """Try learning rates for a few steps each on the recipe's images. Keeps no file.

    Args:
        recipe: as for `train`; its own learning rate is the middle of what is tried.
        rates: to try instead of those around the recipe's.
        steps: of each.

    Raises:
        RecipeError: RC020, the optimizer finds its rate by itself.
        TsuikaError: what a run of this recipe would raise.
    """
    with TemporaryDirectory(prefix="tsuika-") as scratch:
        for event in rate_finder.find(recipe, RunDir(Path(scratch)), training.services(), rates, steps):
            yield event
    return cast(RateFound, event)
