"""What a section of the recipe is made of: fields with their help, for people, in both languages. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

Level = Literal["everyday", "expert"]


@dataclass(frozen=True)
class Help:
    """What a setting is, for people."""

    en: str
    ja: str
    unit: str = ""
    level: Level = "everyday"


def expert(en: str, ja: str, unit: str = "") -> Help:
    return Help(en, ja, unit, "expert")


class Section(BaseModel):
    """A frozen part of the recipe; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
