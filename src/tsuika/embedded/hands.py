"""The same things as several groups of artists draw them: a style whose true answer is known for every thing. One atlas a
hand, with the same things in the same order: first those that a base may learn, then the new ones, which no text encoder
or UNet of a base is shown. The drawings stay under their own licences: see NOTICE."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

from PIL import Image

GlyphSource = Callable[[str], Image.Image]  # a thing's name to its RGBA glyph
GLYPH_PX: Final = 112  # side of an atlas cell
ATLAS_COLUMNS: Final = 14
FOLDER: Final = "atlases"


class Hand(NamedTuple):
    """A hand, the word for it in captions, and whose it is."""

    name: str
    word: str
    by: str


HANDS: Final = (
    Hand("noto", "cartoon", "Noto Emoji, Google"),
    Hand("fluent", "glossy", "Fluent Emoji, Microsoft"),
    Hand("flat", "flat", "Fluent Emoji Flat, Microsoft"),
    Hand("twemoji", "sticker", "Twemoji, Twitter and contributors"),
    Hand("blobs", "blob", "Noto Emoji before 2017, Google"),
)
UNSEEN: Final = "blobs"  # the hand that no base is shown: a style to be learnt


@cache
def _index() -> dict[str, list[str]]:
    text = files(__package__).joinpath(FOLDER, "names.json").read_text(encoding="utf-8")
    index: dict[str, list[str]] = json.loads(text)
    return index


def known_things() -> tuple[str, ...]:
    """The things that a base may learn."""
    return tuple(_index()["known"])


def new_things() -> tuple[str, ...]:
    """The things that no base is shown, in any hand."""
    return tuple(_index()["new"])


@cache
def _atlas(hand: str) -> Image.Image:
    if hand not in {one.name for one in HANDS}:
        raise KeyError(hand)
    with files(__package__).joinpath(FOLDER, f"{hand}.webp").open("rb") as stream:
        return Image.open(stream).convert("RGBA")


def glyph(hand: str, thing: str) -> Image.Image:
    """A thing in a hand: RGBA, GLYPH_PX square. Raises KeyError: no such hand, or no such thing in it."""
    atlas, things = _atlas(hand), (*known_things(), *new_things())
    if thing not in things:
        raise KeyError(thing)
    row, column = divmod(things.index(thing), ATLAS_COLUMNS)
    corner = column * GLYPH_PX, row * GLYPH_PX
    return atlas.crop((*corner, corner[0] + GLYPH_PX, corner[1] + GLYPH_PX))


def source(hand: str) -> GlyphSource:
    """What draws the world's things in a hand, for `world.draw`."""
    return lambda thing: glyph(hand, thing)
