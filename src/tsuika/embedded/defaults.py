"""What training on the embedded base takes where a recipe is silent: facts of its weights, in `training.toml`. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import tomlkit


@cache
def training() -> Mapping[str, Mapping[str, Any]]:
    """Method -> settings by dotted key; a method from outside has none."""
    text = files(__package__).joinpath("training.toml").read_text(encoding="utf-8")
    return tomlkit.parse(text).unwrap()
