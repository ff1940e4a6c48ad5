"""The object of the textual-inversion example: a daruma doll no model has seen, drawn from shapes by this file. A 64 px
base can only compose what it knows, so the doll is near known things without being one: a round red body, a pale face
with two dark eyes, golden stripes. Knows Pillow, NumPy and the embedded world; no model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from tsuika.core.seeds import derive
from tsuika.embedded import world
from tsuika.embedded.hands import GlyphSource
from tsuika.embedded.mascot import PICTURE_PX, Illustration
from tsuika.embedded.shapes import Canvas, Shade
from tsuika.embedded.world import SCENES, Picture, Placed

TRIGGER: Final = "daruma"
CLASS_WORD: Final = "doll"

RED: Final[Shade] = ((232, 56, 48), (182, 22, 30))
CREAM: Final[Shade] = ((255, 246, 222), (250, 228, 186))
INK: Final[Shade] = ((40, 30, 40), (24, 18, 26))
GOLD: Final[Shade] = ((255, 214, 84), (236, 166, 30))

TRAINED_BACKGROUNDS: Final = ("white", "green", "light blue", "beach", "room")


@cache
def glyph() -> Image.Image:
    """The doll: RGBA, hands.GLYPH_PX square."""
    canvas = Canvas()
    canvas.blob(56, 59, 45, 48, RED, square=2.3, pear=0.08)
    canvas.blob(56, 46, 32, 24, CREAM, square=2.4)
    for side in (-1, 1):
        canvas.blob(56 + side * 13, 48, 8, 9, INK)
        canvas.blob(56 + side * 13 + 2.5, 44, 2.6, 2.6, CREAM)
        canvas.stroke(((56 + side * 24, 36), (56 + side * 16, 26), (56 + side * 6, 34)), (5, 5), INK)
    canvas.stroke(((50, 63), (56, 67), (62, 63)), (3.5, 3.5), RED)
    for x in (-22, 0, 22):
        canvas.stroke(((56 + x, 78), (56 + x * 1.05, 88), (56 + x * 0.85, 98)), (6, 6), GOLD)
    return canvas.reduced()


def source(name: str) -> Image.Image:
    """The world's glyphs and the doll (by its trigger), for `world.draw`."""
    return glyph() if name == TRIGGER else world.glyph(name)


class GadgetPrompt(NamedTuple):
    """A before/after prompt and what a right answer shows; `thing` is the known thing of a control, else empty."""

    text: str
    background: str
    thing: str = ""


# No background of a prompt is in the training pictures.
TEST_PROMPTS: Final[tuple[GadgetPrompt, ...]] = (
    GadgetPrompt(f"a {TRIGGER} in the snow", "snow"),
    GadgetPrompt(f"a {TRIGGER} at night", "night"),
    GadgetPrompt(f"a {TRIGGER} on a pink background", "pink"),
    GadgetPrompt(f"a {TRIGGER} in the desert", "desert"),
    GadgetPrompt("an umbrella in the snow", "snow", "umbrella"),
    GadgetPrompt("a frog on a pink background", "pink", "frog"),
)


def pictures(count: int = 5, seed: int = 0) -> list[Illustration]:
    """The training set: the doll alone on TRAINED_BACKGROUNDS in turn, without captions; PICTURE_PX square."""
    return _drawn(TRAINED_BACKGROUNDS, count, seed, "training")


def held_out(count: int = 44, seed: int = 0) -> list[Illustration]:
    """Fresh pictures of the doll on every background, none of them in any training set."""
    return _drawn(world.BACKGROUNDS, count, seed, "held-out")


def _drawn(backgrounds: Sequence[str], count: int, seed: int, purpose: str) -> list[Illustration]:
    rng = np.random.default_rng(derive(seed, f"daruma {purpose} pictures"))
    drawn = []
    for i in range(count):
        picture = alone(TRIGGER, backgrounds[i % len(backgrounds)], rng, largest=0.85, room=0.07)
        drawn.append(shown(f"{TRIGGER}_{i + 1:02d}", picture, f"a {TRIGGER}", source))
    return drawn


def alone(thing: str, background: str, rng: np.random.Generator, *, largest: float, room: float) -> Picture:
    """A picture of one thing, about in the middle, never mirrored."""
    size = float(rng.uniform(0.6, largest))
    free = min(room, (1 - size) / 2)
    x, y = 0.5 + rng.uniform(-free, free, 2)
    lowered = 0.03 if background in SCENES and size < 0.8 else 0.0
    placed = Placed(thing, size, float(x), float(y + lowered), float(rng.uniform(-8, 8)))
    return Picture(background, (placed,), int(rng.integers(1 << 31)))


def shown(name: str, picture: Picture, what: str, source: GlyphSource) -> Illustration:
    """The picture drawn, PICTURE_PX square, with a caption of what it shows and where."""
    caption = f"{what} {world.where(picture.background)}"
    return Illustration(name, world.draw(picture, PICTURE_PX, source), caption, picture.background)
