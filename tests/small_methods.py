"""Every method small and quick, for the tests that go through all of them: the one place in the tests where a method is set."""

from __future__ import annotations

from typing import Any, Final

from tsuika import config
from tsuika.config import Recipe
from tsuika.core.seeds import generator
from tsuika.core.types import Attachment, Model
from tsuika.methods import METHODS

# What a method's own defaults are too large or too slow for; a method that is not here has them.
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "lora": {"method.rank": 2},
    "textual-inversion": {
        "method.words": ("zuzu",),
        "method.vectors": 2,
        "method.init": "noise",
        "train.learning_rate": 0.1,
    },
    "dreambooth": {"train.learning_rate": 1e-3},
    "hypernetwork": {"method.sizes": "all", "method.init": "KaimingNormal"},
}
# So that three steps show.
QUICK: Final = {"train.learning_rate": 1e-2, "train.warmup": 0.0}


def recipe(method: str, **keys: Any) -> Recipe:
    """A recipe of a method, with settings by dotted key before those of `SETTINGS`."""
    return config.build(config.override({}, {"method.name": method, **QUICK, **SETTINGS.get(method, {}), **keys}))


def attach(model: Model, method: str, seed: int = 0) -> Attachment:
    """The method on a model."""
    return METHODS[method].attach(model, recipe(method).method, generator(seed, "init"))
