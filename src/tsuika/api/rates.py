"""The learning-rate finder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tsuika.api.run import Events, starts, until
from tsuika.api.training import services
from tsuika.config import Recipe
from tsuika.core.rundir import RunDir
from tsuika.training import rate_finder as finder
from tsuika.training.rate_finder import RateFound

__all__ = ["RateFound", "find_rate"]


@starts
def find_rate(recipe: Recipe, *, rates: Sequence[float] = (), steps: int = finder.STEPS) -> Events[RateFound]:
    """Try learning rates for a few steps each on the recipe's images. Keeps no file.

    Args:
        recipe: as for `train`; its own learning rate is the middle of what is tried.
        rates: to try instead of those around the recipe's.
        steps: of each.

    Raises:
        RecipeError: RC020, the optimizer finds its rate by itself.
        TsuikaError: What a run of this recipe would raise.
    """
    with TemporaryDirectory(prefix="tsuika-") as scratch:
        events = finder.find(recipe, RunDir(Path(scratch)), services(), rates, steps)
        return (yield from until(events, RateFound))
