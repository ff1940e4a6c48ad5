"""In which programs a result works: what the formats write and the programs read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tsuika.core.errors import no_such
from tsuika.methods import METHODS

PROGRAMS: Final = ("tsuika", "A1111", "Forge", "ComfyUI", "diffusers")
_ALIASES: Final[Mapping[str, str]] = {
    **{name.lower(): name for name in PROGRAMS},
    "automatic1111": "A1111",
    "webui": "A1111",
    "comfy": "ComfyUI",
}


def program(name: str) -> str:
    """The program's own name; empty for none.

    Raises:
        RecipeError: RC002, it is not known.
    """
    if not name:
        return ""
    if (found := _ALIASES.get(name.casefold())) is None:
        raise no_such("--for", name, PROGRAMS)
    return found


def works_in(method: str, *, embedded: bool) -> tuple[str, ...]:
    """The programs that apply a result of this method. What was trained on the embedded base needs that base: tsuika alone."""
    if embedded:
        return ("tsuika",)
    return tuple(name for name in PROGRAMS if name in METHODS[method].programs)
