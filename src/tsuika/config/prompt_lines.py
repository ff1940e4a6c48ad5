"""Prompts with settings of their own, in the form of kohya's sd-scripts (`--sample_prompts`): `PROMPT --n NEGATIVE --w 512
--h 768 --d 1 --l 7 --s 25 --ss euler_a`; files with one a line. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tsuika.core.errors import RecipeError
from tsuika.core.texts import _, listed

# kohya's letters -> a field of `PromptLine`, and how its value is read.
_OPTIONS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "n": ("negative", str),
    "w": ("width", int),
    "h": ("height", int),
    "d": ("seed", int),
    "l": ("cfg", float),
    "s": ("steps", int),
    "ss": ("sampler", str),
}


@dataclass(frozen=True)
class PromptLine:
    """A prompt, and what it says of how it is drawn; None: as everywhere."""

    prompt: str
    text: str  # the whole line
    negative: str | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    cfg: float | None = None
    steps: int | None = None
    sampler: str | None = None

    @property
    def size_px(self) -> tuple[int, int] | None:
        """Width and height."""
        return None if self.width is None or self.height is None else (self.width, self.height)


def parse(text: str, *, key: str = "prompts", where: object = "") -> PromptLine:
    """One line. `key` and `where` (a file) are for errors. Raises RecipeError (RC002): an option that is unknown, has no
    such value, or gives one side of two."""
    prompt, *options = re.split(r"\s--(?=[A-Za-z]+(?:\s|$))", f" {text.strip()}")
    fields: dict[str, Any] = {}
    for option in options:
        letter, _space, value = option.strip().partition(" ")
        name, read = _OPTIONS.get(letter.lower(), ("", str))
        try:
            fields[name] = read(value.strip())
        except ValueError:
            name = ""
        if not name or not value.strip():
            known = listed(f"--{letter}" for letter in _OPTIONS)
            why = _("`--{option}` is not understood; a line may have {known}.", option=option.strip(), known=known)
            raise RecipeError("RC002", where=where, key=key, found=text, why=why)
    if ("width" in fields) != ("height" in fields):
        raise RecipeError("RC002", where=where, key=key, found=text, why=_("Give both --w and --h."))
    return PromptLine(prompt.strip(), text.strip(), **fields)


def read(file: Path, *, key: str) -> tuple[str, ...]:
    """The lines of a file, without comments (`#`). Raises RecipeError (RC002): it cannot be read or holds none, or a line
    is not understood."""
    lines, why = [], _("Write one prompt a line into the file.")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except OSError:
        why = _("There is no such file, or it cannot be opened.")
    except UnicodeDecodeError:
        why = _("It is not UTF-8 text.")
    found = tuple(line for line in lines if line and not line.startswith("#"))
    if not found:
        raise RecipeError("RC002", where=file, key=key, found=file.name, why=why)
    for line in found:
        parse(line, key=key, where=file)
    return found
