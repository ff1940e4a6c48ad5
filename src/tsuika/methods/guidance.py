"""`Guidance`: what advice needs to know of a method beside measurements. A method without it is never advised; one with it
has an `outline`, so that the size of its results is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from tsuika.core.texts import Text

Goal = Literal["character", "style", "object", "concept"]

# Settings that take least memory of what trains beside a frozen base.
FROZEN: Final[Mapping[str, Any]] = {"base.quantize": "int8"}
# Publications that speak of several methods.
RUIZ: Final = "Ruiz et al. 2023, DreamBooth, arXiv:2208.12242, tables 1 and 2"
YEH: Final = "Yeh et al. 2024, LyCORIS, arXiv:2309.14859"


@dataclass(frozen=True)
class Claim:
    """What somebody says of a method, and where; without a source it is hearsay."""

    text: Text
    source: str = ""


@dataclass(frozen=True, eq=False)
class Guidance:
    """How long a method trains, how large its results may be, and what publications and rules of thumb say of it."""

    place: int  # among all methods where nothing is measured, the best first, as publications suggest
    steps: int  # the cap on real bases at 20 images, for the guard to stop before
    growth: float  # the cap grows with the number of images to this power
    embedded_growth: float  # the same on the embedded base
    # What the rules of thumb of the Japanese guide that this project began with name it for.
    goals: tuple[Goal, ...] = ()
    sizes: tuple[Mapping[str, Any], ...] = ({},)  # settings, from the largest result to the smallest
    frugal: Mapping[str, Any] = field(default_factory=dict)  # settings that take least memory
    # Regularization images to be drawn on real bases, where the class must not change with a subject.
    reg_images: int = 0
    suffix: str = ""  # of an advised result's name; empty: the method's name
    said_for: Mapping[str, Claim] = field(default_factory=dict)  # by goal; "": for any of them
    said_against: Claim | None = None
    unsupported: Text | None = None  # which programs one would expect to use its results, and do not
