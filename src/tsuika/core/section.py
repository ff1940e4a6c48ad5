"""What a section of the recipe is made of: fields with their help for people. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tsuika.core.texts import Text

Level = Literal["everyday", "expert"]


@dataclass(frozen=True)
class Help:
    """What a setting is, for people."""

    text: Text
    unit: str = ""
    level: Level = "everyday"


def expert(text: Text, unit: str = "") -> Help:
    """Help of a setting that few need."""
    return Help(text, unit, "expert")


class Section(BaseModel):
    """A frozen part of the recipe; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
