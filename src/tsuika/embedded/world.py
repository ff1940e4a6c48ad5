"""The embedded world: a picture maker whose true distribution is known. `draw` turns a `Picture` (background, things,
places) into pixels, `thing_mask` into ground truth, `caption` into words; `World` draws random pictures. Everything is a
pure function of its seed. Knows Pillow and NumPy only: no model, no file but the atlases beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tsuika.core import texts
from tsuika.embedded import hands
from tsuika.embedded.hands import GlyphSource
from tsuika.embedded.things import KNOWN, Thing

SIZE_PX: Final = 64  # native side of the embedded base

Pixels = NDArray[np.uint8]  # (H, W, 3)
Colour = tuple[int, int, int]

PLAIN: Final[Mapping[str, Colour]] = {
    "white": (246, 246, 246),
    "black": (18, 18, 20),
    "gray": (128, 128, 130),
    "red": (206, 38, 42),
    "orange": (240, 132, 30),
    "yellow": (246, 214, 46),
    "green": (46, 148, 64),
    "blue": (36, 78, 200),
    "light blue": (140, 205, 245),
    "purple": (122, 52, 160),
    "pink": (246, 156, 190),
    "brown": (120, 76, 44),
}
SCENES: Final[Mapping[str, tuple[str, ...]]] = {
    "sky": ("in the sky", "among the clouds", "in a blue sky with clouds"),
    "beach": ("on the beach", "at the beach", "on a sandy beach by the sea"),
    "snow": ("in the snow", "on a snowy day", "in a snowy field"),
    "night": ("at night", "under the stars", "on a starry night"),
    "sunset": ("at sunset", "in the evening sun", "under a sunset sky"),
    "meadow": ("in a meadow", "on the grass", "in a green meadow"),
    "desert": ("in the desert", "on a sand dune", "in a hot desert"),
    "sea": ("under the sea", "underwater", "deep in the sea"),
    "forest": ("in the forest", "in the woods", "in a dark forest"),
    "room": ("in a room", "on a wooden floor", "indoors"),
}
BACKGROUNDS: Final[tuple[str, ...]] = (*PLAIN, *SCENES)


@dataclass(frozen=True)
class Placed:
    """One thing in a picture. `size`, `x`, `y` are fractions of the frame (longest side; centre)."""

    thing: str
    size: float
    x: float = 0.5
    y: float = 0.5
    tilt_deg: float = 0.0
    flipped: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture as a description: what stands where on what. `seed` moves the background's details."""

    background: str
    things: tuple[Placed, ...]
    seed: int


def glyph(name: str) -> Image.Image:
    """The RGBA glyph of a thing in the first hand, GLYPH_PX square. Raises KeyError: no thing has this name."""
    return hands.glyph(hands.HANDS[0].name, name)


def _blobs(
    rng: np.random.Generator, size_px: int, count: int, low_y: float, high_y: float, radius: float
) -> NDArray[np.float32]:
    """A soft 0..1 mask (H, W) of round spots: clouds, stars, flakes, bubbles."""
    y, x = _axes(size_px)
    mask = np.zeros((size_px, size_px), np.float32)
    for _ in range(count):
        cx, cy, r = rng.uniform(0, 1), rng.uniform(low_y, high_y), radius * rng.uniform(0.6, 1.4)
        mask = np.maximum(mask, np.clip((r - np.hypot(x - cx, y - cy)) * size_px + 0.5, 0, 1))
    return mask


def _gradient(top: Colour, bottom: Colour, size_px: int) -> NDArray[np.float32]:
    t = np.linspace(0, 1, size_px, dtype=np.float32)[:, None, None]
    column = np.asarray(top, np.float32) * (1 - t) + np.asarray(bottom, np.float32) * t
    return np.broadcast_to(column, (size_px, size_px, 3)).copy()


def _axes(size_px: int) -> NDArray[np.float32]:
    """y and x of every pixel (2, H, W), 0..1."""
    return np.asarray(np.mgrid[0:size_px, 0:size_px].astype(np.float32) / size_px, np.float32)


def _ground(image: NDArray[np.float32], top: Colour, bottom: Colour, horizon: float, wave: float, phase: float) -> None:
    """Paint a ground below a (wavy) horizon into `image` (H, W, 3), in place."""
    size_px = image.shape[0]
    y, x = _axes(size_px)
    edge = horizon + wave * np.sin(x * 2 * np.pi * 1.3 + phase)
    cover = np.clip((y - edge) * size_px + 0.5, 0, 1)[..., None]
    image[:] = image * (1 - cover) + _gradient(top, bottom, size_px) * cover


def _paint(image: NDArray[np.float32], mask: NDArray[np.float32], colour: Colour) -> None:
    image[:] = image * (1 - mask[..., None]) + np.asarray(colour, np.float32) * mask[..., None]


def draw_background(name: str, seed: int, size_px: int = SIZE_PX) -> Pixels:
    """A plain colour or a soft scene, (size_px, size_px, 3); the same name and seed give the same pixels. Raises
    KeyError: `name` is no background of this world."""
    rng = np.random.default_rng([seed, 1])
    if name in PLAIN:
        colour = np.asarray(PLAIN[name], np.float32) + rng.uniform(-7, 7, 3).astype(np.float32)
        return np.broadcast_to(np.clip(colour, 0, 255), (size_px, size_px, 3)).astype(np.uint8)
    horizon, phase = rng.uniform(0.6, 0.72), rng.uniform(0, 2 * np.pi)
    match name:
        case "sky":
            image = _gradient((64, 142, 226), (176, 218, 248), size_px)
            for _ in range(3):
                cx, cy = rng.uniform(0, 1), rng.uniform(0.08, 0.95)
                y, x = _axes(size_px)
                for dx, dy, r in ((0, 0, 0.09), (-0.09, 0.025, 0.065), (0.1, 0.02, 0.075)):
                    spot = np.clip((r - np.hypot(x - cx - dx, (y - cy - dy) * 1.3)) * size_px * 0.5 + 0.5, 0, 1)
                    _paint(image, spot * 0.9, (250, 252, 255))
        case "beach":
            image = _gradient((120, 196, 240), (214, 238, 248), size_px)
            _ground(image, (20, 120, 180), (40, 170, 200), horizon - 0.2, 0, 0)
            _ground(image, (244, 222, 166), (228, 190, 120), horizon + 0.03, 0.02, phase)
        case "snow":
            image = _gradient((158, 182, 206), (206, 220, 232), size_px)
            _ground(image, (255, 255, 255), (226, 236, 246), horizon, 0.03, phase)
            _paint(image, _blobs(rng, size_px, 26, 0, 1, 0.016), (255, 255, 255))
        case "night":
            image = _gradient((8, 10, 44), (34, 36, 92), size_px)
            _paint(image, _blobs(rng, size_px, 20, 0, 0.65, 0.01), (255, 250, 210))
            _ground(image, (16, 26, 30), (6, 12, 16), horizon + 0.06, 0.03, phase)
        case "sunset":
            image = _gradient((94, 40, 116), (255, 168, 64), size_px)
            cx = rng.uniform(0.2, 0.8)
            y, x = _axes(size_px)
            _paint(image, np.clip((0.12 - np.hypot(x - cx, y - horizon)) * size_px + 0.5, 0, 1), (255, 236, 150))
            _ground(image, (62, 26, 52), (34, 14, 34), horizon + 0.02, 0.015, phase)
        case "meadow":
            image = _gradient((126, 198, 246), (214, 240, 252), size_px)
            _ground(image, (126, 200, 80), (52, 142, 50), horizon - 0.08, 0.04, phase)
            _paint(image, _blobs(rng, size_px, 9, horizon + 0.05, 1, 0.018), (255, 226, 90))
        case "desert":
            image = _gradient((250, 214, 150), (255, 238, 200), size_px)
            _ground(image, (226, 150, 70), (196, 110, 50), horizon - 0.08, 0.07, phase)
            _ground(image, (240, 172, 90), (206, 124, 56), horizon + 0.08, 0.05, phase + 2)
        case "sea":
            image = _gradient((30, 150, 186), (6, 46, 104), size_px)
            _ground(image, (52, 96, 116), (30, 60, 84), 0.86, 0.03, phase)
            _paint(image, _blobs(rng, size_px, 9, 0, 0.85, 0.024) * 0.55, (190, 236, 246))
        case "forest":
            image = _gradient((44, 92, 62), (24, 56, 38), size_px)
            x = np.arange(size_px, dtype=np.float32)[None, :] / size_px
            for cx in rng.uniform(0, 1, 6):
                trunk = np.clip((0.03 - np.abs(x - cx)) * size_px + 0.5, 0, 1) * np.ones((size_px, 1), np.float32)
                _paint(image, trunk, (58, 40, 28))
            _ground(image, (42, 66, 34), (22, 36, 20), 0.82, 0.02, phase)
        case "room":
            image = _gradient((238, 226, 208), (224, 206, 184), size_px)
            _ground(image, (176, 116, 66), (140, 88, 48), horizon + 0.02, 0, 0)
            for line in np.linspace(horizon + 0.1, 1, 3):
                row = min(int(line * size_px), size_px - 1)
                image[row] *= 0.86
        case _:
            raise KeyError(name)
    return np.clip(image + rng.uniform(-5, 5, 3), 0, 255).astype(np.uint8)


def _stamp(placed: Placed, size_px: int, source: GlyphSource) -> tuple[Image.Image, tuple[int, int]]:
    cell = source(placed.thing)
    if placed.flipped:
        cell = cell.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = max(4, round(placed.size * size_px))
    if placed.tilt_deg:
        cell = cell.rotate(placed.tilt_deg, Image.Resampling.BICUBIC)
    stamp = cell.resize((side, side), Image.Resampling.BOX if side * 2 < cell.width else Image.Resampling.BICUBIC)
    return stamp, (round(placed.x * size_px - side / 2), round(placed.y * size_px - side / 2))


def draw(picture: Picture, size_px: int = SIZE_PX, source: GlyphSource = glyph) -> Pixels:
    """The picture as pixels, (size_px, size_px, 3). `source` maps a thing's name to its RGBA glyph: pass your own to
    draw new things, or the same things in a new style."""
    image = Image.fromarray(draw_background(picture.background, picture.seed, size_px))
    for placed in picture.things:
        stamp, corner = _stamp(placed, size_px, source)
        image.paste(stamp, corner, stamp)
    return np.asarray(image)


def thing_mask(picture: Picture, size_px: int = SIZE_PX, source: GlyphSource = glyph) -> NDArray[np.float32]:
    """Where the things are: 0..1, (size_px, size_px)."""
    mask = Image.new("L", (size_px, size_px))
    for placed in picture.things:
        stamp, corner = _stamp(placed, size_px, source)
        mask.paste(255, corner, stamp.getchannel("A"))
    return np.asarray(mask, np.float32) / np.float32(255)


def article(words: str) -> str:
    """`a dog`, `an owl`, `pizza`."""
    return words if words in ("grapes", "ice cream", "pizza") else texts.article(words)


SIZE_WORDS: Final = ((0.0, 0.5, ("small", "little", "tiny")), (0.82, 1.0, ("big", "large", "huge")))
_SYLLABLES: Final = ("zo", "ka", "ri", "mu", "sks", "tsu", "vex", "lo", "qi", "ne", "br", "oh", "xy", "pa", "wu", "gi")


def where(background: str, choice: int = 0) -> str:
    """Words for a background: `on the beach`, `on a red background`; `choice` picks the wording."""
    if background in SCENES:
        wordings = SCENES[background]
        return wordings[choice % len(wordings)]
    colour = article(background)
    return (f"on {colour} background", f"on {background}", f"in front of {colour} wall")[choice % 3]


@dataclass(frozen=True)
class World:
    """A distribution of pictures: which things, how calmly placed."""

    things: tuple[Thing, ...] = KNOWN
    max_tilt_deg: float = 8.0
    jitter: float = 0.06
    pairs: float = 0.12
    scenic: float = 0.5

    def picture(self, rng: np.random.Generator, *, thing: str | None = None, background: str | None = None) -> Picture:
        """A random picture; `thing` and `background` fix those."""
        if background is None:
            background = str(rng.choice(list(SCENES if rng.random() < self.scenic else PLAIN)))
        paired = thing is None and rng.random() < self.pairs
        names = [thing or self.things[rng.integers(len(self.things))].name]
        if paired:
            names.append(self.things[rng.integers(len(self.things))].name)
            sizes = rng.uniform(0.42, 0.5, 2)
            xs: tuple[float, ...] = (0.26, 0.74)
        else:
            kind = rng.random()
            low, high = (0.38, 0.5) if kind < 0.12 else (0.82, 0.95) if kind < 0.27 else (0.58, 0.8)
            sizes, xs = rng.uniform(low, high, 1), (0.5,)
        placed: list[Placed] = []
        for name, size, x in zip(names, sizes, xs, strict=True):
            free = min(self.jitter, max(0.0, (1 - size) / 2)) / (3 if paired else 1)
            left, top, tilt = (float(rng.uniform(-most, most)) for most in (free, free, self.max_tilt_deg))
            lowered = 0.04 if background in SCENES and size < 0.8 else 0
            flipped = bool(rng.random() < 0.5)
            placed.append(Placed(name, float(size), float(x + left), float(0.5 + top + lowered), tilt, flipped))
        return Picture(background, tuple(placed), int(rng.integers(1 << 31)))

    def caption(self, picture: Picture, rng: np.random.Generator) -> str:
        """Words for a picture, in varied wording; now and then vague, or with an unknown word in it."""
        words = {thing.name: thing for thing in self.things}
        phrases: list[str] = []
        for placed in picture.things:
            thing = words[placed.thing]
            roll = rng.random()
            name = thing.kind if roll < 0.04 else str(rng.choice(thing.words)) if roll < 0.4 else thing.name
            if rng.random() < 0.06:  # a model that has met nonsense does not fall apart on a trigger word
                name = f"{''.join(rng.choice(_SYLLABLES, rng.integers(1, 4)))} {name}"
            for low, high, sizes in SIZE_WORDS:
                if len(picture.things) == 1 and low <= placed.size < high and rng.random() < 0.8:
                    name = f"{rng.choice(sizes)} {name}"
            phrases.append(article(name))
        what = " and ".join(phrases)
        place = where(picture.background, int(rng.integers(3)))
        style = rng.random()
        if style < 0.45:
            return f"{what} {place}"
        if style < 0.65:
            return f"{rng.choice(('a picture of', 'a drawing of', 'an emoji of'))} {what} {place}"
        if style < 0.8:
            return f"{what}, {place.removeprefix('on ') if picture.background in PLAIN else place}"
        if style < 0.96:
            return f"{place}, {what}" if picture.background in SCENES else f"{picture.background} background, {what}"
        return what
