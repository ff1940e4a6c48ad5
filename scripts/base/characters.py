"""Characters that are harder than the mascot: drawn from shapes by this file, shown to no part of the embedded base.

What makes them hard is what a small model loses first: two sides that differ, thin lines, small repeated marks, eyes of two
colours. `glyph` draws one, `pictures` and `held_out` are picture sets of it, as those of the mascot and the doll.

Knows Pillow, NumPy and the embedded world; no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from tsuika.core.seeds import derive
from tsuika.embedded import world
from tsuika.embedded.gadget import alone, shown
from tsuika.embedded.mascot import Illustration
from tsuika.embedded.shapes import Canvas, Shade

PLUM: Final[Shade] = ((138, 84, 178), (96, 48, 136))
LILAC: Final[Shade] = ((226, 204, 242), (202, 172, 226))
BONE: Final[Shade] = ((252, 248, 238), (232, 222, 206))
INK: Final[Shade] = ((40, 32, 52), (26, 20, 36))
LIME: Final[Shade] = ((176, 232, 72), (122, 190, 34))
AMBER: Final[Shade] = ((255, 196, 62), (240, 150, 24))
WHITE: Final[Shade] = ((255, 255, 255), (242, 240, 248))
CORAL: Final[Shade] = ((255, 118, 96), (230, 78, 62))
NAVY: Final[Shade] = ((46, 70, 138), (26, 42, 94))
STEEL: Final[Shade] = ((222, 232, 240), (160, 178, 196))
SCREEN: Final[Shade] = ((28, 52, 60), (16, 32, 40))
MINT: Final[Shade] = ((128, 255, 214), (70, 226, 180))


class Pose(NamedTuple):
    """Arms in degrees, as the mascot's: 0 hangs down, 180 straight up."""

    words: str
    left_arm_deg: float
    right_arm_deg: float


POSES: Final = {
    "standing": Pose("", 30, 30),
    "waving": Pose("waving", 30, 138),
    "cheering": Pose("with arms up", 134, 134),
}
TRAINED_BACKGROUNDS: Final = ("white", "gray", "yellow", "light blue", "green", "meadow", "beach", "room")


class Character(NamedTuple):
    """A name that no caption has, what it is, and how it is drawn."""

    trigger: str
    class_word: str
    draw: Callable[[Canvas, Pose], None]


def _arms(canvas: Canvas, pose: Pose, y: float, sleeve: Shade, hand: Shade, *, raised: bool) -> None:
    """The arms that are raised, or the others: those pass in front of the head."""
    for side, angle_deg in ((-1, pose.left_arm_deg), (1, pose.right_arm_deg)):
        if (angle_deg > 90) != raised:
            continue
        reach = 33 if raised else 25
        angle, x = math.radians(angle_deg), 56 + side * 17
        end = (x + side * math.sin(angle) * reach, y + math.cos(angle) * reach)
        bend = (x + side * (math.sin(angle) * reach * 0.5 + 3), y + math.cos(angle) * reach * 0.5 + 2)
        canvas.stroke(((x, y), bend, end), (10, 9), sleeve)
        canvas.blob(end[0], end[1], 6, 6, hand)


def _sailor(canvas: Canvas, pose: Pose) -> None:
    """A horned cat of the sea: a patch over one eye, an earring, a striped shirt, freckles, and a lime tail with rings."""
    canvas.stroke(((70, 92), (104, 100), (99, 66)), (9, 6), LIME)
    for t in (0.35, 0.6, 0.85):  # rings across the tail
        x = (1 - t) ** 2 * 70 + 2 * t * (1 - t) * 104 + t * t * 99
        y = (1 - t) ** 2 * 92 + 2 * t * (1 - t) * 100 + t * t * 66
        canvas.blob(x, y, 2.2, 5.2, INK, tilt_deg=70 - 90 * t)
    for side in (-1, 1):
        canvas.blob(56 + side * 10, 104, 9, 6, INK)
        canvas.polygon([(56 + side * 32, 44), (56 + side * 31, 8), (56 + side * 10, 26)], PLUM)
    canvas.polygon([(81, 31), (83, 17), (73, 25)], LILAC)  # the inside of one ear; the other's tip is dark
    canvas.polygon([(25, 8), (32, 13.5), (24.7, 19)], INK)
    shirt = canvas.blob(56, 86, 21, 18, BONE, square=2.6, pear=0.08)
    for y in (74, 82, 90, 98):
        canvas.polygon([(30, y), (82, y), (82, y + 3.6), (30, y + 3.6)], NAVY, shirt)
    _arms(canvas, pose, 79, NAVY, PLUM, raised=False)
    canvas.blob(56, 46, 34, 26, PLUM, square=2.3)
    canvas.blob(56, 55, 21, 14, LILAC, square=2.2)
    canvas.stroke(((26, 28), (52, 38), (84, 60)), (2.6, 2.6), INK)  # the patch and its band
    canvas.blob(43, 42, 10, 9, INK, square=2.8)
    canvas.blob(70, 41, 9.5, 10.5, WHITE)
    canvas.blob(71, 42, 6, 7.4, AMBER)
    canvas.blob(71, 42, 2.6, 6.4, INK)
    canvas.blob(73.4, 38.6, 2.2, 2.4, WHITE)
    canvas.polygon([(52, 50), (60, 50), (56, 55)], CORAL)
    canvas.stroke(((56, 55), (50, 64), (44, 57)), (2.4, 2.4), INK)
    canvas.stroke(((56, 55), (63, 65), (69, 56)), (2.4, 2.4), INK)
    canvas.polygon([(62, 60.5), (66, 59), (64.6, 65)], WHITE)
    for x, y in ((78, 53), (83, 50), (83, 56)):
        canvas.blob(x, y, 1.3, 1.3, INK)
    canvas.blob(22, 54, 4.6, 4.6, AMBER)
    canvas.blob(22, 54, 2.2, 2.2, PLUM)
    _arms(canvas, pose, 79, NAVY, PLUM, raised=True)


def _clockwork(canvas: Canvas, pose: Pose) -> None:
    """A walking clock: a screen face with eyes of two colours, a checked waistcoat, a dial, a key in its side, odd boots."""
    canvas.stroke(((24, 84), (14, 82), (12, 78)), (5, 5), AMBER)
    canvas.blob(10, 72, 7.5, 5, AMBER, tilt_deg=70)
    canvas.blob(10, 72, 3, 1.8, INK, tilt_deg=70)
    for side, boot in ((-1, CORAL), (1, NAVY)):
        canvas.stroke(((56 + side * 11, 92), (56 + side * 11, 97), (56 + side * 12, 102)), (6, 6), STEEL)
        heel = 56 + side * 14
        canvas.blob(heel, 104, 11, 6.5, boot, square=3)
        canvas.polygon([(heel - 8, 101), (heel + 8, 101), (heel + 8, 103), (heel - 8, 103)], WHITE)
    coat = canvas.blob(56, 84, 25, 14, CORAL, square=4.5)
    for row in range(5):
        for column in range(8):
            if (row + column) % 2:
                left, top = 31 + column * 6.4, 70 + row * 6
                canvas.polygon([(left, top), (left + 6.4, top), (left + 6.4, top + 6), (left, top + 6)], BONE, coat)
    canvas.blob(56, 84, 9, 9, WHITE)
    canvas.blob(56, 84, 7, 7, NAVY)
    canvas.stroke(((56, 84), (56, 81), (56, 78.5)), (2, 2), WHITE)
    canvas.stroke(((56, 84), (58, 85), (60.5, 86.5)), (2, 2), AMBER)
    _arms(canvas, pose, 78, STEEL, NAVY, raised=False)
    canvas.stroke(((72, 20), (88, 14), (80, 6)), (2.6, 2.6), STEEL)  # an aerial on one side alone
    canvas.blob(80, 7, 4.4, 4.4, CORAL)
    canvas.blob(56, 43, 37, 26, STEEL, square=5)
    canvas.blob(56, 43, 31, 20.5, SCREEN, square=5)
    canvas.blob(42, 39, 7.5, 7.5, MINT, square=5)
    canvas.blob(42, 39, 3, 3, SCREEN, square=5)
    canvas.blob(70, 39, 7.5, 7.5, AMBER)
    canvas.blob(70, 39, 3.4, 3.4, SCREEN)
    for i, height in enumerate((2.0, 4.0, 2.6, 5.0, 3.4, 4.4, 2.0)):  # a mouth like a sound on a screen
        x = 44 + i * 4
        canvas.polygon(
            [(x - 1.2, 54 - height), (x + 1.2, 54 - height), (x + 1.2, 54 + height), (x - 1.2, 54 + height)], MINT
        )
    for x, y in ((23, 23), (89, 23), (23, 63), (89, 63)):
        canvas.blob(x, y, 1.8, 1.8, INK)
    _arms(canvas, pose, 78, STEEL, NAVY, raised=True)


CHARACTERS: Final = {
    one.trigger: one for one in (Character("wubbo", "sailor", _sailor), Character("tokkin", "automaton", _clockwork))
}


@cache
def glyph(trigger: str, pose: str = "standing") -> Image.Image:
    """A character in one of POSES: RGBA, hands.GLYPH_PX square.

    Raises:
        KeyError: there is no such character or pose.
    """
    canvas = Canvas()
    CHARACTERS[trigger].draw(canvas, POSES[pose])
    return canvas.reduced()


def source(name: str) -> Image.Image:
    """The world's glyphs and the characters (`wubbo/waving`), for `world.draw`."""
    trigger, _, pose = name.partition("/")
    return glyph(trigger, pose) if trigger in CHARACTERS else world.glyph(name)


def pictures(trigger: str, count: int = 20, seed: int = 0) -> list[Illustration]:
    """A training set: the character alone, in every pose, on TRAINED_BACKGROUNDS; PICTURE_PX square."""
    return _drawn(trigger, TRAINED_BACKGROUNDS, count, seed, "training")


def held_out(trigger: str, count: int = 44, seed: int = 0) -> list[Illustration]:
    """Fresh pictures of the character on every background, none of them in any training set."""
    return _drawn(trigger, world.BACKGROUNDS, count, seed, "held-out")


def _drawn(trigger: str, backgrounds: tuple[str, ...], count: int, seed: int, purpose: str) -> list[Illustration]:
    rng = np.random.default_rng(derive(seed, f"{trigger} {purpose} pictures"))
    drawn = []
    for i in range(count):
        pose = tuple(POSES)[i % len(POSES)]
        picture = alone(f"{trigger}/{pose}", backgrounds[i % len(backgrounds)], rng, largest=0.92, room=0.08)
        words = f"a {trigger} {CHARACTERS[trigger].class_word} {POSES[pose].words}".rstrip()
        drawn.append(shown(f"{trigger}_{i + 1:02d}", picture, words, source))
    return drawn
