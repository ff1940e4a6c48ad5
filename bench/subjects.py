"""Three subjects of bench/journeys that neither the package nor its base has seen: an object, a character, a style.

Each can be drawn afresh without end, so that the truth of what somebody wants is there to be measured: `training` are the
images that a newcomer has, `truth` fresh ones of the same subject, which nobody trains on, in every place of the world.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from tsuika.core.seeds import derive
from tsuika.embedded import gadget, mascot, sketch, world
from tsuika.embedded.mascot import PICTURE_PX, Illustration
from tsuika.embedded.shapes import Canvas, Shade

FRESH: Final = 24
INK: Final[Shade] = ((40, 34, 60), (26, 20, 44))


@dataclass(frozen=True)
class Subject:
    """What somebody wants to teach, and with how many images."""

    name: str
    goal: str
    trigger: str
    class_word: str
    count: int
    captioned: bool
    drawn: Callable[[int, np.random.Generator], list[Illustration]]

    def write(self, folder: Path) -> None:
        """The images that are trained on; without captions where a newcomer would have none."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = mascot.write(folder, self._fresh(self.count, "training"))
        for path in () if self.captioned else paths:
            path.with_suffix(".txt").unlink()

    def truth(self) -> list[Illustration]:
        """Fresh images, with what one would ask for."""
        return self._fresh(FRESH, "truth")

    def _fresh(self, count: int, purpose: str) -> list[Illustration]:
        rng = np.random.default_rng(derive(0, f"journeys, {self.name}, {purpose}"))
        drawn = self.drawn(count, rng)
        return [one._replace(name=f"{self.name}_{number:03d}") for number, one in enumerate(drawn, 1)]


@cache
def pinwheel() -> Image.Image:
    """Four vanes, folded, in two colours in turn, on a stick."""
    canvas, (x, y), reach = Canvas(), (56, 44), 40
    canvas.stroke(((x, y), (x + 1, 80), (x, 108)), (6, 6), ((196, 142, 92), (140, 92, 52)))
    colours: tuple[Shade, ...] = (((72, 222, 214), (16, 150, 160)), ((255, 150, 196), (226, 70, 140)))
    for quarter in range(4):

        def at(turn: float, share: float, quarter: int = quarter) -> tuple[float, float]:
            angle = math.radians(90 * quarter + turn)
            return x + share * reach * math.cos(angle), y + share * reach * math.sin(angle)

        canvas.polygon([(x, y), at(0, 1), at(38, 1), at(62, 0.5)], colours[quarter % 2])
        canvas.polygon([(x, y), at(62, 0.5), at(30, 0.62)], INK)
    canvas.blob(x, y, 7, 7, ((255, 226, 110), (240, 170, 40)))
    return canvas.reduced()


MOODS: Final = ("", "looking left", "looking right", "asleep", "shouting")


@cache
def imp(mood: str) -> Image.Image:
    """A lime drop with one eye, two striped horns and three feet."""
    lime: Shade = ((196, 236, 84), (110, 176, 34))
    horn: Shade = ((255, 120, 92), (214, 56, 50))
    canvas = Canvas()
    for side in (-1, 1):
        canvas.stroke(((56 + side * 16, 34), (56 + side * 30, 26), (56 + side * 30, 8)), (13, 5), horn)
        canvas.stroke(((56 + side * 25, 26), (56 + side * 29, 22), (56 + side * 33, 20)), (4, 4), INK)
    for x in (34, 56, 78):
        canvas.blob(x, 102, 10, 7, horn)
    canvas.blob(56, 64, 36, 38, lime, pear=0.16)
    look = {"looking left": -9, "looking right": 9}.get(mood, 0)
    if mood == "asleep":
        canvas.stroke(((40, 56), (56, 66), (72, 56)), (5, 5), INK)
    else:
        white = canvas.blob(56, 55, 20, 18, ((255, 255, 255), (232, 236, 246)))
        canvas.blob(56 + look, 56, 10, 11, INK, inside=white)
    if mood == "shouting":
        canvas.blob(56, 86, 13, 8, INK)
    else:
        canvas.stroke(((42, 84), (56, 90), (70, 84)), (4.5, 4.5), INK)
    return canvas.reduced()


def blueprint(picture: world.Picture) -> world.Pixels:
    """The picture as pale lines on blue, (PICTURE_PX, PICTURE_PX, 3)."""
    grey = ImageOps.grayscale(Image.fromarray(world.draw(picture, PICTURE_PX)).filter(ImageFilter.GaussianBlur(1)))
    lines = ImageOps.autocontrast(grey.filter(ImageFilter.FIND_EDGES).crop((2, 2, PICTURE_PX - 2, PICTURE_PX - 2)))
    strong = lines.resize((PICTURE_PX, PICTURE_PX)).point(lambda value: min(255, 3 * value))
    return np.asarray(ImageOps.colorize(strong, (22, 62, 142), (236, 246, 255)))


def _alone(what: str, names: tuple[str, ...], glyph: Callable[[str], Image.Image]) -> Callable[..., list[Illustration]]:
    """Draws one of the glyphs a picture, anywhere in the world; a name is what a caption adds."""

    def drawn(count: int, rng: np.random.Generator) -> list[Illustration]:
        found = []
        for _ in range(count):
            name, place = str(rng.choice(names)), str(rng.choice(world.BACKGROUNDS))
            picture = gadget.alone(name, place, rng, largest=0.88, room=0.08)
            found.append(gadget.shown("", picture, f"a {what} {name}".rstrip(), glyph))
        return found

    return drawn


def _printed(count: int, rng: np.random.Generator) -> list[Illustration]:
    """Known things in the style."""
    scenes = sketch.scenes(count, int(rng.integers(1 << 31)), sketch.KNOWN)
    captions = (f"{sketch.caption(scene)}, aozu" for scene in scenes)
    rows = zip(scenes, captions, strict=True)
    return [Illustration("", blueprint(scene), caption, scene.background) for scene, caption in rows]


SUBJECTS: Final = (
    Subject("pinwheel", "object", "kururi", "toy", 4, False, _alone("kururi toy", ("",), lambda _: pinwheel())),
    Subject("imp", "character", "bolmo", "creature", 25, True, _alone("bolmo creature", MOODS, imp)),
    Subject("blueprint", "style", "aozu", "style", 120, True, _printed),
)
