"""The object of the textual-inversion example: a temari (a hand ball) no model has seen, drawn from shapes by this file.

A 64 px base can only compose what it knows, so the outline is one it has (a ball), and the colours are a combination
that no known thing has: a yellow cap and a violet bowl with a broad cream band between. Other colours were tried and left:
the yardstick took a violet lantern with a cream band for a unicorn.

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

TRIGGER: Final = "temari"
CLASS_WORD: Final = "ball"

YELLOW: Final[Shade] = ((255, 218, 84), (246, 180, 34))
CREAM: Final[Shade] = ((255, 250, 228), (250, 236, 196))
VIOLET: Final[Shade] = ((142, 74, 208), (96, 36, 158))
THREAD: Final[Shade] = ((224, 68, 92), (200, 44, 72))

TRAINED_BACKGROUNDS: Final = ("white", "green", "light blue", "beach", "room")


@cache
def glyph() -> Image.Image:
    """The ball: RGBA, world.GLYPH_PX square."""
    canvas = Canvas()
    body = canvas.blob(56, 56, 47, 47, YELLOW)
    canvas.polygon([(0, 56), (112, 56), (112, 112), (0, 112)], VIOLET, body)
    band = [
        (9 + x, 56 + side * (12 + 4 * (1 - (x / 47 - 1) ** 2))) for side in (-1, 1) for x in range(-10, 110, 5)[::side]
    ]
    canvas.polygon(band, CREAM, body)
    for x in (25, 56, 87):  # stitched diamonds
        canvas.polygon([(x - 8, 56), (x, 47), (x + 8, 56), (x, 65)], THREAD, body)
    canvas.blob(38, 24, 11, 5, CREAM, tilt_deg=-32, inside=body)
    return canvas.reduced()


def source(name: str) -> Image.Image:
    """The world's glyphs and the ball (by its trigger), for `world.draw`."""
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
    """The training set: the ball alone on TRAINED_BACKGROUNDS in turn, without captions; PICTURE_PX square."""
    return _drawn([TRAINED_BACKGROUNDS[i % len(TRAINED_BACKGROUNDS)] for i in range(count)], seed, "training")


def held_out(count: int = 44, seed: int = 0) -> list[Drawn]:
    """Fresh pictures of the ball on every background, none of them in any training set."""
    return _drawn([world.BACKGROUNDS[i % len(world.BACKGROUNDS)] for i in range(count)], seed, "held-out")


def _drawn(backgrounds: list[str], seed: int, purpose: str) -> list[Drawn]:
    rng = np.random.default_rng(derive(seed, f"temari {purpose} pictures"))
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
