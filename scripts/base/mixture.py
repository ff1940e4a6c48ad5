"""What the VAE learns from: the world in every hand, stickers, scribbles, photographs and fields of colour.

The world alone makes a VAE of the world: what it never saw (a character's stripes and eyes) blurs. Every picture is a
function of a random generator's state; (64, 64, 3) bytes, with the point that matters in it, in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from base.hands import Atlases
from base.sources import HANDS
from tsuika.embedded.things import Thing
from tsuika.embedded.world import PLAIN, SIZE_PX, World, draw

CANVAS_PX: Final = 3 * SIZE_PX  # stickers and scribbles are drawn large: PIL's shapes have hard edges
REDUCTIONS: Final = (Image.Resampling.BOX, Image.Resampling.BOX, Image.Resampling.HAMMING, Image.Resampling.LANCZOS)

Colour = tuple[int, int, int]


class Example(NamedTuple):
    """A picture and the point in it (x, y) that a crop should show."""

    pixels: NDArray[np.uint8]
    x: float
    y: float


def colour(rng: np.random.Generator) -> Colour:
    """Any colour, or one of the world's plain ones, or nearly black or white, as ink and paper are."""
    kind = rng.random()
    if kind < 0.5:
        red, green, blue = rng.integers(0, 256, 3)
    elif kind < 0.75:
        red, green, blue = np.clip(list(PLAIN.values())[rng.integers(len(PLAIN))] + rng.integers(-14, 15, 3), 0, 255)
    else:
        red, green, blue = rng.integers(0, 56, 3) if rng.random() < 0.6 else rng.integers(225, 256, 3)
    return int(red), int(green), int(blue)


def _ground(rng: np.random.Generator) -> Image.Image:
    """Plain, or shaded from one colour to another."""
    if rng.random() < 0.6:
        return Image.new("RGB", (CANVAS_PX, CANVAS_PX), colour(rng))
    corners = np.array([[colour(rng), colour(rng)], [colour(rng), colour(rng)]], np.uint8)
    return Image.fromarray(corners).resize((CANVAS_PX, CANVAS_PX), Image.Resampling.BILINEAR)


def _line(brush: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, y: float, reach: float, ink: Colour) -> None:
    """A round-ended curve through a point, 0.8 to 5 pixels wide in the finished picture."""
    width = rng.uniform(0.8, 5) * CANVAS_PX / SIZE_PX
    p = np.array([x, y]) + rng.uniform(-reach, reach, (3, 2))
    t = np.linspace(0, 1, 16)[:, None]
    path = (1 - t) ** 2 * p[0] + 2 * t * (1 - t) * p[1] + t**2 * p[2]
    brush.line([(float(a), float(b)) for a, b in path], ink, round(width), "curve")
    for end in (path[0], path[-1]):
        _disc(brush, end[0], end[1], width / 2, width / 2, ink)


def _disc(brush: ImageDraw.ImageDraw, x: float, y: float, rx: float, ry: float, ink: Colour) -> None:
    brush.ellipse((x - rx, y - ry, x + rx, y + ry), fill=ink)


def _stripes(image: Image.Image, rng: np.random.Generator, x: float, y: float) -> None:
    """A band or a patch of stripes, 1 to 6 pixels wide in the finished picture, at any angle."""
    unit = CANVAS_PX / SIZE_PX
    width, height = rng.uniform(8, 40, 2) * unit
    patch = Image.new("RGBA", (round(width), round(height)), (*colour(rng), 255))
    brush, step, ink = ImageDraw.Draw(patch), rng.uniform(2, 12) * unit, colour(rng)
    share, slant = rng.uniform(0.25, 0.75), rng.uniform(-1, 1) * height / 2
    for left in np.arange(-abs(slant), width + abs(slant), step):
        right = left + step * share
        brush.polygon([(left + slant, 0), (right + slant, 0), (right - slant, height), (left - slant, height)], ink)
    if rng.random() < 0.4:
        mask = Image.new("L", patch.size)
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, *patch.size), radius=min(width, height) / 2, fill=255)
        patch.putalpha(mask)
    patch = patch.rotate(rng.uniform(0, 360), Image.Resampling.BICUBIC, expand=True)
    image.paste(patch, (round(x - patch.width / 2), round(y - patch.height / 2)), patch)


def _shapes(image: Image.Image, rng: np.random.Generator, count: int) -> None:
    """Discs, boxes, polygons, lines, dots and stripes anywhere."""
    brush = ImageDraw.Draw(image)
    for _ in range(count):
        (x, y), (rx, ry) = rng.uniform(0, CANVAS_PX, 2), rng.uniform(0.02, 0.3, 2) * CANVAS_PX
        edge = (colour(rng), round(rng.uniform(1, 3) * CANVAS_PX / SIZE_PX)) if rng.random() < 0.3 else (None, 0)
        box, ink = (x - rx, y - ry, x + rx, y + ry), colour(rng)
        match rng.integers(6):
            case 0:
                brush.ellipse(box, ink, *edge)
            case 1:
                brush.rounded_rectangle(box, min(rx, ry) * rng.uniform(0, 1), ink, *edge)
            case 2:
                angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
                brush.polygon([(x + rx * np.cos(a), y + ry * np.sin(a)) for a in angles], ink, *edge)
            case 3:
                _line(brush, rng, x, y, CANVAS_PX / 3, ink)
            case 4:
                size = rng.uniform(0.8, 3) * CANVAS_PX / SIZE_PX
                for dx, dy in rng.uniform(-0.2, 0.2, (rng.integers(3, 12), 2)) * CANVAS_PX:
                    _disc(brush, x + dx, y + dy, size, size, ink)
            case _:
                _stripes(image, rng, x, y)


def _face(image: Image.Image, rng: np.random.Generator) -> tuple[float, float, float]:
    """A head with two eyes, a mouth and cheeks, of any colours; gives its middle and its radius."""
    brush = ImageDraw.Draw(image)
    radius = rng.uniform(0.12, 0.42) * CANVAS_PX
    x, y = rng.uniform(0.3, 0.7, 2) * CANVAS_PX
    _disc(brush, x, y, radius * rng.uniform(0.8, 1.2), radius, colour(rng))
    if rng.random() < 0.6:
        _disc(brush, x, y + radius * 0.15, radius * 0.8, radius * rng.uniform(0.5, 0.8), colour(rng))
    ink, white = colour(rng) if rng.random() < 0.4 else tuple(rng.integers(0, 50, 3).tolist()), (255, 255, 255)
    apart, high, eye = rng.uniform(0.25, 0.5), rng.uniform(0, 0.3), rng.uniform(0.07, 0.26)
    closed, ringed, look = rng.random() < 0.2, rng.random() < 0.3, rng.uniform(-0.3, 0.3, 2)
    for side in (-1, 1):
        ex, ey, size = x + side * apart * radius, y - high * radius, eye * radius
        if closed:
            brush.arc((ex - size, ey - size, ex + size, ey + size), 180, 360, ink, max(2, round(size * 0.5)))
            continue
        if ringed:
            _disc(brush, ex, ey, size * 1.6, size * 1.7, white)
        _disc(brush, ex + look[0] * size, ey + look[1] * size, size, size * rng.uniform(1, 1.4), ink)
        _disc(brush, ex + (look[0] + 0.3) * size, ey + (look[1] - 0.4) * size, size * 0.38, size * 0.38, white)
        if rng.random() < 0.5:
            _disc(brush, x + side * radius * 0.7, y + radius * 0.3, radius * 0.15, radius * 0.11, colour(rng))
    wide, low = rng.uniform(0.12, 0.4) * radius, y + rng.uniform(0.15, 0.5) * radius
    box = (x - wide, low - wide * 0.8, x + wide, low + wide * 0.8)
    match rng.integers(3):
        case 0:
            brush.chord(box, 0, 180, ink)
            _disc(brush, x, low + wide * 0.5, wide * 0.5, wide * 0.25, colour(rng))
        case 1:
            brush.arc(box, 10, 170, ink, max(2, round(rng.uniform(0.8, 2.2) * CANVAS_PX / SIZE_PX)))
        case _:
            brush.ellipse((x - wide * 0.5, low - wide * 0.3, x + wide * 0.5, low + wide * 0.5), ink)
    return x, y, radius


def scribble(rng: np.random.Generator) -> Example:
    """A face over or under shapes, often with a striped scarf and with limbs."""
    image = _ground(rng)
    _shapes(image, rng, int(rng.integers(0, 5)))
    x, y, radius = _face(image, rng)
    brush = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 4))):
        _line(brush, rng, x + rng.uniform(-1, 1) * radius, y + rng.uniform(-1, 1.5) * radius, radius, colour(rng))
    if rng.random() < 0.6:
        _stripes(image, rng, x + rng.uniform(-0.5, 0.5) * radius, y + radius)
    return _reduced(image, rng, x, y)


def _reduced(image: Image.Image, rng: np.random.Generator, x: float, y: float) -> Example:
    how = REDUCTIONS[rng.integers(len(REDUCTIONS))]
    pixels = np.asarray(image.resize((SIZE_PX, SIZE_PX), how))
    return Example(pixels, x * SIZE_PX / CANVAS_PX, y * SIZE_PX / CANVAS_PX)


def field(rng: np.random.Generator) -> Example:
    """Random colours, smooth or in blocks."""
    small = torch.from_numpy(rng.uniform(0, 255, (1, 3) + (int(rng.integers(2, 9)),) * 2))
    big = F.interpolate(small, size=SIZE_PX, mode="nearest" if rng.random() < 0.3 else "bicubic")
    pixels = big[0].permute(1, 2, 0).clamp(0, 255).numpy().astype(np.uint8)
    return Example(pixels, *rng.uniform(0, SIZE_PX, 2))


class Mixture:
    """Examples of every kind, each as often as SHARES says."""

    SHARES: Final = {"world": 0.4, "sticker": 0.34, "scribble": 0.14, "photograph": 0.08, "field": 0.04}

    def __init__(self, atlases: Atlases, photographs: list[NDArray[np.uint8]]) -> None:
        self.atlases, self.photographs = atlases, photographs
        self.things = tuple(f"{hand.name}/{name}" for hand in HANDS for name in atlases.shown)
        self.kinds: dict[str, Callable[[np.random.Generator], Example]] = {
            "world": self.world, "sticker": self.sticker, "scribble": scribble, "photograph": self.photograph, "field": field,
        }  # fmt: skip

    @cached_property
    def _world(self) -> World:
        things = tuple(Thing((name,), "object") for name in self.things)
        return World(things=things, max_tilt_deg=20, jitter=0.15)

    def world(self, rng: np.random.Generator) -> Example:
        """A picture of the world: one or two things in any hands."""
        picture = self._world.picture(rng)
        first = picture.things[0]
        return Example(draw(picture, source=self.atlases.glyph), first.x * SIZE_PX, first.y * SIZE_PX)

    def sticker(self, rng: np.random.Generator) -> Example:
        """One to three glyphs, large and small, in their own or in other colours, between shapes."""
        image = _ground(rng)
        _shapes(image, rng, int(rng.integers(0, 6)))
        x = y = CANVAS_PX / 2
        for _ in range(int(rng.integers(1, 4))):
            cell = self.atlases.glyph(self.things[rng.integers(len(self.things))])
            if rng.random() < 0.3:
                cell = _recoloured(cell, rng)
            side = round(rng.uniform(0.35, 1) * CANVAS_PX)
            cell = cell.rotate(rng.uniform(-25, 25), Image.Resampling.BICUBIC).resize(
                (side, side), Image.Resampling.BICUBIC
            )
            x, y = rng.uniform(0.25, 0.75, 2) * CANVAS_PX
            image.paste(cell, (round(x - side / 2), round(y - side / 2)), cell)
        if rng.random() < 0.3:
            _shapes(image, rng, 1)
        return _reduced(image, rng, x, y)

    def photograph(self, rng: np.random.Generator) -> Example:
        """A square of any size out of a photograph, brighter or darker."""
        whole = self.photographs[rng.integers(len(self.photographs))]
        side = int(SIZE_PX * (min(whole.shape[:2]) / SIZE_PX) ** rng.uniform(0, 1))
        top, left = (int(rng.integers(0, extent - side + 1)) for extent in whole.shape[:2])
        part = Image.fromarray(whole[top : top + side, left : left + side])
        small = np.asarray(part.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX), np.float32)
        if rng.random() < 0.5:
            small = small[:, ::-1]
        return Example(
            np.clip(small * rng.uniform(0.7, 1.3) + rng.uniform(-20, 20), 0, 255).astype(np.uint8),
            *rng.uniform(0, SIZE_PX, 2),
        )

    def example(self, rng: np.random.Generator) -> Example:
        """One of any kind."""
        kind = rng.choice(list(self.SHARES), p=list(self.SHARES.values()))
        return self.kinds[str(kind)](rng)


def _recoloured(cell: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The same glyph with its colour channels exchanged, or negative: shapes stay, colours are new."""
    red, green, blue, alpha = cell.split()
    bands = [(red, green, blue)[i] for i in rng.permutation(3)]
    if rng.random() < 0.3:
        bands = [band.point(lambda value: 255 - value) for band in bands]
    return Image.merge("RGBA", (*bands, alpha))
