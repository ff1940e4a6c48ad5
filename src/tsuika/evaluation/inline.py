"""Images of a report, from memory or from a file."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tsuika import pages
from tsuika.data.image import open_image

PictureSource = Image.Image | Path


def data_uri(image: PictureSource, side_px: int) -> str:
    """An image, at most `side_px` on its longer side, as a data URI. Raises UnusableError as `opened`."""
    return pages.data_uri(opened(image), side_px)


def opened(image: PictureSource) -> Image.Image:
    """An image to work on, read as for training: upright, sRGB, on white. Raises UnusableError: the file is gone or no image."""
    return open_image(image) if isinstance(image, Path) else image.convert("RGB").copy()
