"""Shapes to draw a new thing from: filled polygons, superellipses and round-ended strokes, with a soft vertical shade."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from tsuika.embedded.hands import GLYPH_PX
from tsuika.embedded.world import Colour

SUPERSAMPLING: Final = 4

Shade = tuple[Colour, Colour]  # lit from above: top, bottom
Point = tuple[float, float]


class Canvas:
    """Shapes with a soft vertical shade, in glyph pixels, drawn SUPERSAMPLING times larger."""

    def __init__(self) -> None:
        self.side = GLYPH_PX * SUPERSAMPLING
        self.image = Image.new("RGBA", (self.side, self.side))

    def polygon(self, points: Sequence[Point], shade: Shade, inside: Image.Image | None = None) -> Image.Image:
        """Fill a polygon, only `inside` a mask if given; gives its mask."""
        mask = Image.new("L", (self.side, self.side))
        scaled = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points]
        ImageDraw.Draw(mask).polygon(scaled, fill=255)
        if inside is not None:
            mask = Image.composite(mask, Image.new("L", mask.size), inside)
        top, bottom = min(y for _, y in scaled), max(y for _, y in scaled)
        t = np.clip((np.arange(self.side) - top) / max(1.0, bottom - top), 0, 1)[:, None]
        column = np.array(shade[0]) * (1 - t) + np.array(shade[1]) * t
        paint = np.repeat(column.astype(np.uint8)[:, None, :], self.side, axis=1)
        self.image.paste(Image.fromarray(paint), (0, 0), mask)
        return mask

    def blob(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        shade: Shade,
        *,
        square: float = 2.0,
        pear: float = 0.0,
        tilt_deg: float = 0.0,
        inside: Image.Image | None = None,
    ) -> Image.Image:
        """A superellipse (exponent `square`), `pear`-shaped (wider below) and tilted."""
        points = []
        cos_tilt, sin_tilt = math.cos(math.radians(tilt_deg)), math.sin(math.radians(tilt_deg))
        for angle in np.linspace(0, 2 * np.pi, 180, endpoint=False):
            c, s = math.cos(angle), math.sin(angle)
            dx = math.copysign(abs(c) ** (2 / square), c) * rx * (1 + pear * s)
            dy = math.copysign(abs(s) ** (2 / square), s) * ry
            points.append((x + dx * cos_tilt - dy * sin_tilt, y + dx * sin_tilt + dy * cos_tilt))
        return self.polygon(points, shade, inside)

    def stroke(self, path: Sequence[Point], widths: tuple[float, float], shade: Shade) -> None:
        """A round-ended line along a quadratic curve (three points), from one width to another."""
        (x0, y0), (x1, y1), (x2, y2) = path
        left, right = [], []
        for t in np.linspace(0, 1, 40):
            x = (1 - t) ** 2 * x0 + 2 * t * (1 - t) * x1 + t * t * x2
            y = (1 - t) ** 2 * y0 + 2 * t * (1 - t) * y1 + t * t * y2
            dx = 2 * (1 - t) * (x1 - x0) + 2 * t * (x2 - x1)
            dy = 2 * (1 - t) * (y1 - y0) + 2 * t * (y2 - y1)
            half = (widths[0] * (1 - t) + widths[1] * t) / 2 / math.hypot(dx, dy)
            left.append((x - dy * half, y + dx * half))
            right.append((x + dy * half, y - dx * half))
        end = math.atan2(left[-1][1] - y2, left[-1][0] - x2)
        radius = widths[1] / 2
        cap = [(x2 + radius * math.cos(end - a), y2 + radius * math.sin(end - a)) for a in np.linspace(0, np.pi, 16)]
        self.polygon([*left, *cap, *reversed(right)], shade)

    def reduced(self) -> Image.Image:
        """The glyph, GLYPH_PX square."""
        # Averaging colours weighted by alpha: no dark fringe where the glyph meets its background.
        return self.image.resize((GLYPH_PX, GLYPH_PX), Image.Resampling.BOX)
