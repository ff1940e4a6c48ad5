"""The object of the textual-inversion example: a paper lantern that no model has seen, drawn from shapes by this file.

A 64 px base can only compose what it knows, so the lantern's outline is near a known one (a round body), and its colours
and bands are its own: a violet body, a broad cream band, golden caps.

Knows Pillow, NumPy and the embedded world; no model.
"""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from tsuika.core.seeds import derive
from tsuika.embedded import world
from tsuika.embedded.mascot import PICTURE_PX, Drawn
from tsuika.embedded.shapes import Canvas, Shade
from tsuika.embedded.world import SCENES, Picture, Placed

TRIGGER: Final = "chochin"
CLASS_WORD: Final = "lantern"

VIOLET: Final[Shade] = ((150, 84, 214), (104, 40, 168))
CREAM: Final[Shade] = ((255, 248, 220), (250, 232, 186))
GOLD: Final[Shade] = ((255, 210, 74), (232, 160, 24))
RIB: Final[Shade] = ((92, 34, 150), (70, 20, 120))

TRAINED_BACKGROUNDS: Final = ("white", "green", "light blue", "beach", "room")


@cache
def glyph() -> Image.Image:
    """The lantern: RGBA, world.GLYPH_PX square."""
    canvas = Canvas()
    canvas.stroke(((56, 14), (56, 8), (56, 3)), (5, 5), GOLD)
    canvas.stroke(((56, 96), (56, 102), (56, 108)), (9, 13), GOLD)
    body = canvas.blob(56, 56, 45, 40, VIOLET, square=2.5)
    canvas.polygon([(6, 41), (106, 41), (106, 71), (6, 71)], CREAM, body)
    for y in (30, 82):
        canvas.polygon([(6, y - 1.5), (106, y - 1.5), (106, y + 1.5), (6, y + 1.5)], RIB, body)
    for y in (15, 97):
        canvas.blob(56, y, 24, 7, GOLD, square=5)
    return canvas.reduced()


def source(name: str) -> Image.Image:
    """The world's glyphs and the lantern (by its trigger), for `world.draw`."""
    return glyph() if name == TRIGGER else world.glyph(name)


class Prompt(NamedTuple):
    """A before/after prompt and what a right answer shows; `thing` is the known thing of a control, else empty."""

    text: str
    background: str
    thing: str = ""


# No background of a prompt is in the training pictures.
TEST_PROMPTS: Final[tuple[Prompt, ...]] = (
    Prompt(f"a {TRIGGER} in the snow", "snow"),
    Prompt(f"a {TRIGGER} at night", "night"),
    Prompt(f"a {TRIGGER} on a pink background", "pink"),
    Prompt(f"a {TRIGGER} in the desert", "desert"),
    Prompt("an umbrella in the snow", "snow", "umbrella"),
    Prompt("a frog on a pink background", "pink", "frog"),
)


def pictures(count: int = 5, seed: int = 0) -> list[Drawn]:
    """The training set: the lantern alone on TRAINED_BACKGROUNDS in turn, without captions; PICTURE_PX square."""
    return _drawn([TRAINED_BACKGROUNDS[i % len(TRAINED_BACKGROUNDS)] for i in range(count)], seed, "training")


def held_out(count: int = 44, seed: int = 0) -> list[Drawn]:
    """Fresh pictures of the lantern on every background, none of them in any training set."""
    return _drawn([world.BACKGROUNDS[i % len(world.BACKGROUNDS)] for i in range(count)], seed, "held-out")


def _drawn(backgrounds: list[str], seed: int, purpose: str) -> list[Drawn]:
    rng = np.random.default_rng(derive(seed, f"lantern {purpose} pictures"))
    drawn = []
    for number, background in enumerate(backgrounds, 1):
        size = float(rng.uniform(0.6, 0.85))
        free = min(0.07, (1 - size) / 2)
        x, y = 0.5 + rng.uniform(-free, free, 2)
        lowered = 0.03 if background in SCENES and size < 0.8 else 0.0
        placed = Placed(TRIGGER, size, float(x), float(y + lowered), float(rng.uniform(-8, 8)))
        picture = Picture(background, (placed,), int(rng.integers(1 << 31)))
        caption = f"a {TRIGGER} {world.where(background)}"
        drawn.append(Drawn(f"{TRIGGER}_{number:02d}", world.draw(picture, PICTURE_PX, source), caption, background))
    return drawn
