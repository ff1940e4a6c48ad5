"""Pictures in a page: as data URIs, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from tsuika.data.picture import open_picture

PictureSource = Image.Image | Path


def data_uri(image: PictureSource, side_px: int) -> str:
    """A picture, at most `side_px` on its longer side, as a data URI: PNG up to 128 px, WebP above.

    Raises:
        UnusableError: the file is not there or no picture.
    """
    small = opened(image)
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    if max(small.size) <= 128:
        small.save(stream, format="PNG", optimize=True)
        kind = "png"
    else:
        small.save(stream, format="WEBP", quality=88)
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def opened(image: PictureSource) -> Image.Image:
    """A picture of one's own to work on, read as for training: upright, sRGB, on white.

    Raises:
        UnusableError: the file is not there or no picture.
    """
    return open_picture(image) if isinstance(image, Path) else image.convert("RGB").copy()
