"""A drawing style with ground truth: any picture of the embedded world as a two-colour woodblock print (hanga) in indigo
and vermilion on cream paper. Places and shapes stay as they are, so the right answer to "this thing in that place, in this
style" is `stylise` of the very picture. Knows Pillow, NumPy and the embedded world; no model."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tsuika.core.seeds import derive
from tsuika.embedded import world
from tsuika.embedded.hands import GlyphSource
from tsuika.embedded.mascot import PICTURE_PX, Illustration
from tsuika.embedded.things import KNOWN, Thing
from tsuika.embedded.world import Picture, Pixels, World

NAME: Final = "hanga"

PAPER: Final = (246, 235, 208)
INDIGO: Final = (26, 38, 92)
BLUE: Final = (36, 84, 150)  # indigo thinned with water, for what is behind: indigo itself over cream turns grey
VERMILION: Final = (206, 62, 38)

HELD_OUT: Final[tuple[Thing, ...]] = KNOWN[4::3]  # 20 things of every kind, in no style picture
TRAINED: Final[tuple[Thing, ...]] = tuple(thing for thing in KNOWN if thing not in HELD_OUT)


def _calm(things: tuple[Thing, ...] = KNOWN) -> World:
    return World(things=things, max_tilt_deg=6.0, jitter=0.04, pairs=0.0)


def stylise(picture: Picture, size_px: int = PICTURE_PX, source: GlyphSource = world.glyph) -> Pixels:
    """The picture as a print, (size_px, size_px, 3). A pure function of the picture."""
    drawn = world.draw(picture, size_px, source)
    mask = world.thing_mask(picture, size_px, source)
    behind = world.draw_background(picture.background, picture.seed, size_px)
    paper = np.asarray(PAPER, np.float32)
    # Behind the thing at most 45 % ink, so that even a black ground leaves the thing in front.
    ground = _printed(behind, BLUE)
    ground = paper + (ground - paper) * 0.45
    thing = _printed(drawn, INDIGO)
    image = ground * (1 - mask[..., None]) + thing * mask[..., None]
    line = _outline(mask, size_px)[..., None]
    image = image * (1 - line) + np.asarray(INDIGO, np.float32) * line
    return np.clip(image, 0, 255).astype(np.uint8)


def _printed(pixels: Pixels, cool: tuple[int, int, int]) -> NDArray[np.float32]:
    """Flat tones between paper and ink: vermilion where the colour is warm, `cool` elsewhere."""
    smooth = np.asarray(Image.fromarray(pixels).filter(ImageFilter.MedianFilter(3)), np.float32) / 255
    red, green, blue = np.moveaxis(smooth, -1, 0)
    darkness = 1 - (0.30 * red + 0.59 * green + 0.11 * blue)
    tone = np.clip(np.round(darkness * 1.15 * 3), 0, 3) / 3
    # A warm colour is red above all; dark ones (fur, wood) stay indigo like the key block of a print.
    warm = np.clip((red - np.maximum(green * 0.8, blue)) * 6 - 0.3, 0, 1) * np.clip((red - 0.35) * 6, 0, 1)
    warm = warm[..., None]
    ink = np.asarray(VERMILION, np.float32) * warm + np.asarray(cool, np.float32) * (1 - warm)
    paper = np.asarray(PAPER, np.float32)
    result: NDArray[np.float32] = paper + (ink - paper) * tone[..., None]
    return result


def _outline(mask: NDArray[np.float32], size_px: int) -> NDArray[np.float32]:
    """0..1: a line about one sixty-fourth of the picture wide on each side of the mask's edge."""
    radius = max(1, round(size_px / 64))
    solid = Image.fromarray((mask * 255).astype(np.uint8))
    wide = np.asarray(solid.filter(ImageFilter.MaxFilter(2 * radius + 1)), np.float32)
    narrow = np.asarray(solid.filter(ImageFilter.MinFilter(2 * radius + 1)), np.float32)
    line: NDArray[np.float32] = (wide - narrow) / np.float32(255)
    return line


def scenes(count: int, seed: int, things: tuple[Thing, ...]) -> list[Picture]:
    """Calm pictures of one thing each, things and backgrounds about equally often; not yet in the style."""
    rng = np.random.default_rng(derive(seed, "style pictures"))
    maker = _calm(things)
    pictures = []
    for i in range(count):
        background = world.BACKGROUNDS[int(rng.integers(len(world.BACKGROUNDS)))]
        pictures.append(maker.picture(rng, thing=things[i % len(things)].name, background=background))
    return pictures


def again(picture: Picture, seed: int) -> Picture:
    """The same thing on the same background, placed afresh: another right answer to the same prompt."""
    rng = np.random.default_rng(derive(seed, "style picture again", picture.seed))
    return _calm().picture(rng, thing=picture.things[0].thing, background=picture.background)


def caption(picture: Picture) -> str:
    """`a cat on the beach`: what is shown. The style has no word; a hypernetwork is called by its own tag."""
    return f"{world.article(picture.things[0].thing)} {world.where(picture.background)}"


def pictures(count: int = 300, seed: int = 0) -> list[Illustration]:
    """The training set: TRAINED things in the style, PICTURE_PX square."""
    return [
        Illustration(f"{NAME}_{number:03d}", stylise(picture), caption(picture), picture.background)
        for number, picture in enumerate(scenes(count, seed, TRAINED), 1)
    ]
