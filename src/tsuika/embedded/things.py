"""The named things of the embedded world. `KNOWN` (known.json: code point of Noto Color Emoji, name, other words) is the
vocabulary the embedded base was trained to draw; `strangers()` were never shown to its UNet or text encoder: they are "new
things" for fine-tuning, and teach the VAE and the yardstick that there is more in the world than the vocabulary."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple


class Thing(NamedTuple):
    """One drawable thing: its Unicode code point, the words for it (the first is its name), and its kind."""

    codepoint: int
    words: tuple[str, ...]
    kind: str

    @property
    def name(self) -> str:
        """The name the thing is looked up by."""
        return self.words[0]


def _read(name: str) -> Any:
    return json.loads(files(__package__).joinpath(name).read_text(encoding="utf-8"))


KNOWN: Final[tuple[Thing, ...]] = tuple(
    Thing(int(codepoint, 16), tuple(words), kind)
    for kind, rows in _read("known.json").items()
    for codepoint, *words in rows
)


@cache
def strangers() -> tuple[Thing, ...]:
    """Things outside the vocabulary, in the order of the glyph atlas that ships with the package."""
    return tuple(Thing(codepoint, (name,), "object") for codepoint, name in _read("glyphs.json")[len(KNOWN) :])


@cache
def by_name() -> dict[str, Thing]:
    """Every thing, known or stranger, under each of its words."""
    return {word: thing for thing in (*strangers(), *KNOWN) for word in thing.words}
