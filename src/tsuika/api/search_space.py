"""What a search may vary, read from text: `train.learning_rate=1e-4..3e-3`, `method.rank=8,16,32`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

from tsuika import config
from tsuika.config import Recipe
from tsuika.core.errors import RecipeError
from tsuika.core.texts import _

LOG_FROM: Final = 10  # a range this many times wider than its beginning is searched by its logarithm
STUDY: Final = "search.db"  # Optuna's study, in a search's folder
RANGE: Final = re.compile(r"\s*([^.]\S*?|\.\d\S*?)\.\.(\S+?)\s*(?:\((log|linear)\))?\s*")

# Settings that decide what is measured, or what is written: trials that differ in them cannot be compared by the guard.
SECTIONS: Final = ("train", "method", "regularize", "data")
FIXED: Final = (
    "method.name",
    "method.words",
    "train.seed",
    "train.device",
    "train.precision",
    "data.images",
    "data.sets",
    "data.trigger",
    "data.class_word",
    "data.template",
    "data.masks",
    "data.alpha_mask",
    "data.mask_outside",
    "data.size_px",
    "data.min_size_px",
    "data.buckets",
    "data.cache",
)


def is_begun(folder: Path) -> bool:
    """Whether a folder is that of a search, which the same call goes on with."""
    return (folder / STUDY).is_file()


@dataclass(frozen=True)
class Over:
    """One setting and its values: a list, or a range."""

    key: str
    choices: tuple[Any, ...] = ()  # empty: the range
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False  # whole numbers only

    def __str__(self) -> str:
        if self.choices:
            return f"{self.key}={','.join(map(str, self.choices))}"
        low, high = self.ends
        return f"{self.key}={low}..{high}({'log' if self.log else 'linear'})"

    @property
    def ends(self) -> tuple[float, float]:
        """Of the range."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)


def read(text: str, recipe: Recipe) -> Over:
    """A setting and what to try, checked against a recipe.

    Raises:
        RecipeError: RC001, no such setting; RC002, a value it cannot have; RC021, not of a form that can be searched.
    """
    key, equals, values = text.partition("=")
    key = key.strip().replace("-", "_")
    if not equals or not values.strip():
        raise RecipeError("RC021", found=text, why=_("A setting, `=`, and values or a range are needed."))
    if key.partition(".")[0] in Recipe.model_fields and not searchable(key):
        why = _(
            "Trials that differ in it would be measured by different things, or it changes nothing of what is learnt."
        )
        raise RecipeError("RC021", found=text, why=why)
    ends = RANGE.fullmatch(values)
    over = _range(key, ends, text) if ends else _list(key, values)
    if not ends and len(set(over.choices)) != len(over.choices):
        raise RecipeError("RC021", found=text, why=_("A value is there twice."))
    for value in over.choices or over.ends:
        apply(recipe, {key: value})
    return over


def searchable(key: str) -> bool:
    """Whether trials that differ in a setting can be compared."""
    return key not in FIXED and key.partition(".")[0] in SECTIONS


def _list(key: str, values: str) -> Over:
    found = tuple(config.parse_assignment(f"{key}={part.strip()}")[1] for part in values.split(","))
    if not all(isinstance(one, (bool, int, float, str)) for one in found):
        why = _("Only numbers, words, true and false can be searched over.")
        raise RecipeError("RC021", found=f"{key}={values}", why=why)
    return Over(key, found)


def _range(key: str, ends: re.Match[str], text: str) -> Over:
    whole = any(one.key == key and one.type is int for one in config.settings())
    try:
        low, high = (int(end) if whole else float(end) for end in ends.group(1, 2))
    except ValueError:
        raise RecipeError("RC021", found=text, why=_("A range goes from a number to a number.")) from None
    if not low < high or (ends[3] == "log" and low <= 0):
        raise RecipeError("RC021", found=text, why=_("A range rises, and by logarithms it begins above 0."))
    log = ends[3] == "log" if ends[3] else low > 0 and high >= LOG_FROM * low
    return Over(key, (), low, high, log, whole)


def apply(recipe: Recipe, params: Mapping[str, Any]) -> Recipe:
    """The recipe with dotted settings replaced.

    Raises:
        RecipeError: RC001, RC002.
    """
    return config.build(config.override(recipe.model_dump(mode="json"), params))


def grid(overs: Sequence[Over]) -> list[dict[str, Any]]:
    """All points where every setting has a list of values; none where one has a range."""
    if not all(over.choices for over in overs):
        return []
    return [dict(zip((over.key for over in overs), point)) for point in product(*(over.choices for over in overs))]
