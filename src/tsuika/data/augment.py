"""Variants of an image: random transforms (`variants`), and the pixels they give (`render`).

A `Transform` is in relative units, so that it holds for every training size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tsuika.core.sections import Data
from tsuika.core.seeds import generator
from tsuika.data.manifest import Sample

LUMA: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow's mode L

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Transform:
    """What happens to an image on its way to a bucket's size; the default is the plain image."""

    flip: bool = False
    scale: float = 1.0  # share of the largest possible view's side that is kept
    x: float = 0.5  # where the view lies in the room it has: 0 left, 1 right
    y: float = 0.5  # 0 top, 1 bottom
    angle_deg: float = 0.0  # counterclockwise
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0


def variants(sample: Sample, config: Data, seed: int) -> tuple[Transform, ...]:
    """The image's variants; the first is the plain image.

    Each is a function of (seed, the image's hash, its index) and each setting has draws of its own: more variants
    leave the earlier ones as they are, and switching one setting on does not move another. Every second variant is
    mirrored where `config.flip`. With nothing to vary there is one variant, with only the mirror two.
    """
    drawn = config.crop < 1 or config.rotate_deg > 0 or config.colour > 0
    count = config.variants if drawn else min(config.variants, 2 if config.flip else 1)
    return (Transform(), *(_draw(sample, config, seed, index) for index in range(1, count)))


def _draw(sample: Sample, config: Data, seed: int, index: int) -> Transform:
    random = torch.rand(7, generator=generator(seed, f"augment/{sample.sha256}", index), dtype=torch.float64).tolist()
    scale, x, y, angle, *colours = random
    x, y = (x, y) if config.crop < 1 else (0.5, 0.5)
    flip, kept = config.flip and index % 2 == 1, 1 - (1 - config.crop) * scale
    angle_deg = config.rotate_deg * (2 * angle - 1)
    brightness, contrast, saturation = (1 + config.colour * (2 * value - 1) for value in colours)
    return Transform(flip, kept, x, y, angle_deg, brightness, contrast, saturation)


def render(image: Image.Image, transform: Transform, size: tuple[int, int]) -> torch.Tensor:
    """The image at `size` (width, height) as float32 (3, H, W) in -1..1: covered, never letterboxed or distorted.

    Turned views are cut from inside the image, so no corner is ever empty. `image` must be RGB.
    """
    view, box = _view(image, transform, size)
    small = view.resize(size, Image.Resampling.LANCZOS, box=box)
    if transform.flip:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels: Floats = np.asarray(small, dtype=np.float32)
    if (transform.brightness, transform.contrast, transform.saturation) != (1.0, 1.0, 1.0):
        pixels = recolour(pixels / np.float32(255), transform) * np.float32(255)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))) / 127.5 - 1


def render_mask(
    mask: Image.Image, transform: Transform, size: tuple[int, int], latent_size: tuple[int, int]
) -> torch.Tensor:
    """What `render` shows of a mask of the image's size (mode L), averaged over each latent: float32 (1, h, w) in 0..1.

    Args:
        size: width and height of the image in training, px.
        latent_size: those of its latents.
    """
    view, box = _view(mask, transform, size)
    small = view.convert("F").resize(latent_size, Image.Resampling.BOX, box=box)
    if transform.flip:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(small, dtype=np.float32))[None].div(255).clamp(0, 1)


def recolour(pixels_HW3: Floats, transform: Transform) -> Floats:
    """Brightness, contrast around the mean luma, then saturation around each pixel's luma; in and out in 0..1."""
    bright = np.clip(pixels_HW3 * np.float32(transform.brightness), 0, 1)
    middle = np.float32((bright @ LUMA).mean(dtype=np.float64))
    contrasted = np.clip(middle + (bright - middle) * np.float32(transform.contrast), 0, 1)
    luma = (contrasted @ LUMA)[..., None]
    saturated: Floats = np.clip(luma + (contrasted - luma) * np.float32(transform.saturation), 0, 1)
    return saturated


def _view(
    image: Image.Image, transform: Transform, size: tuple[int, int]
) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """An image and the box in it that is to be resized to `size`."""
    (full_width, full_height), (target_width, target_height) = image.size, size
    width = min(full_width, full_height * target_width / target_height)
    height = width * target_height / target_width
    angle = math.radians(transform.angle_deg)
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    # The upright box that the turned view needs around it; it must hold the box before turning, too.
    extent_x, extent_y = max(width, width * cos + height * sin), max(height, width * sin + height * cos)
    shrink = min(1.0, full_width / extent_x, full_height / extent_y) * transform.scale
    # Turning a view much larger than its target is slow and aliases: reduce it first, to no less than twice the target.
    factor = max(int(min(width / target_width, height / target_height) * shrink / 2), 1) if angle else 1
    margin = 2 * factor if angle else 0  # px of the reduced image: rounding outwards, turned
    room_x, room_y = max(full_width - 2 * margin, 1), max(full_height - 2 * margin, 1)
    shrink = min(1.0, room_x / extent_x, room_y / extent_y) * transform.scale
    width, height, extent_x, extent_y = (side * shrink for side in (width, height, extent_x, extent_y))
    x = full_width / 2 + (transform.x - 0.5) * (room_x - extent_x)
    y = full_height / 2 + (transform.y - 0.5) * (room_y - extent_y)
    if angle:
        left, top = max(int(x - extent_x / 2) - margin, 0), max(int(y - extent_y / 2) - margin, 0)
        right, bottom = math.ceil(x + extent_x / 2) + margin, math.ceil(y + extent_y / 2) + margin
        image = image.crop((left, top, min(right, full_width), min(bottom, full_height)))
        image = image.reduce(factor) if factor > 1 else image
        x, y, width, height = (x - left) / factor, (y - top) / factor, width / factor, height / factor
        image = image.rotate(transform.angle_deg, Image.Resampling.BICUBIC, center=(x, y))
        # Resizing reads beyond its box, where the turned image's empty corners may be: nothing is left there to read.
        left, top = max(math.floor(x - width / 2), 0), max(math.floor(y - height / 2), 0)
        right, bottom = math.ceil(x + width / 2), math.ceil(y + height / 2)
        image = image.crop((left, top, min(right, image.width), min(bottom, image.height)))
        x, y = x - left, y - top
    return image, (
        max(x - width / 2, 0.0),
        max(y - height / 2, 0.0),
        min(x + width / 2, float(image.width)),
        min(y + height / 2, float(image.height)),
    )
