"""Masks: which file is whose mask, and what it says. Where it is white, the image is learned; where black, it is not.

A mask is a file of its own, or the image's own transparency. kohya's sd-scripts (`conditioning_data_dir`, `alpha_mask`)
and OneTrainer (`NAME-masklabel.png`) read the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from PIL import Image, ImageChops

from tsuika.core.errors import ImageError
from tsuika.core.sections import AUTO, Data
from tsuika.core.texts import _
from tsuika.data.folder import ImageFile, walk
from tsuika.data.image import Opened, UnusableError, read_image
from tsuika.data.manifest import LeftOut, Note, Sample
from tsuika.data.roles import Masks, masked

_NOISE: Final = 16  # of 255: what JPEG makes of pure black and white stays below


@dataclass(frozen=True)
class Mask:
    """A mask that was read."""

    path: Path
    sha256: str
    image: Image.Image  # mode L, of the image's size


def find(
    config: Data, root: Path, subject: Sequence[ImageFile], aside: Iterable[LeftOut]
) -> tuple[dict[str, Path], list[Note]]:
    """The file of each image's mask, by the image's name, and notes on masks that are for no image.

    Args:
        config: says where masks are.
        root: the folder of the images.
        subject: the images.
        aside: what lies among them and is none.

    Raises:
        ImageError: DS001, there is no such folder.
    """
    if not config.masks:
        return {}, []
    folder = Path(config.masks)
    if config.masks == AUTO or folder.resolve() == root.resolve():
        masks = [one for one in aside if one.reason == "mask"]
        known = Masks(masks)
        found = {image.name: own[0].path for image in subject if (own := known.of(image.name))}
    elif folder.is_dir():
        masks = [LeftOut(one.path, "mask", "", one.name) for one in walk(folder).images]
        by_key = _by_key(masks, whole=False) | _by_key(masks, whole=True)
        keys = {image.name: next((key for key in _keys(image.name) if key in by_key), "") for image in subject}
        found = {name: by_key[key].path for name, key in keys.items() if key}
    else:
        raise ImageError("DS001", where=folder)
    used = set(found.values())
    return found, [Note(one.name, "mask-orphan", "") for one in masks if one.path not in used]


def _keys(name: str) -> tuple[str, ...]:
    """What the mask of an image may be called, the surest first."""
    path = PurePosixPath(name.casefold())
    return f"/{path.with_suffix('')}", f"/{path}", path.stem, path.name


def _by_key(found: Sequence[LeftOut], *, whole: bool) -> dict[str, LeftOut]:
    """Masks by their place below their folder, or by name alone, where only one has it; `NAME-mask` stands above `NAME`."""
    found = sorted(found, key=lambda one: masked(PurePosixPath(one.name).stem) != PurePosixPath(one.name).stem)
    keys = []
    for one in found:
        path = PurePosixPath(one.name.casefold())
        stem = masked(path.stem)
        keys.append(f"/{path.with_name(stem)}" if whole else stem)
    return {key: one for key, one in zip(keys, found, strict=True) if whole or keys.count(key) == 1}


def read(path: Path, opened: Opened) -> tuple[Mask, tuple[int, int]]:
    """A mask file for an image that was read, in its size, and the size that it has itself. Transparent is black.

    Raises:
        UnusableError: it cannot be read.
    """
    found = read_image(path)
    image = found.image.convert("L")
    if found.alpha is not None:
        # It lies on white by now.
        image = ImageChops.subtract(image, ImageChops.invert(found.alpha))
    own = image.size
    if own != opened.image.size:
        image = image.resize(opened.image.size, Image.Resampling.BOX)
    return Mask(path, found.sha256, image), own


def look(path: Path | None, image: Path, opened: Opened, config: Data) -> tuple[Mask | None, list[tuple[str, str]]]:
    """The mask of an image, by its file or by its transparency, and what should be known of it, as (code, words)."""
    notes: list[tuple[str, str]] = []
    if path is not None:
        try:
            mask, own = read(path, opened)
        except UnusableError as error:
            return None, [("mask-unreadable", error.words)]
        if own != opened.image.size:
            sizes = {"mask": "{}x{}".format(*own), "image": "{}x{}".format(*opened.image.size)}
            notes.append(("mask-size", _("mask {mask}, image {image} px", **sizes)))
    elif config.alpha_mask and opened.alpha is not None:
        mask = Mask(image, opened.sha256, opened.alpha)
    else:
        return None, [("mask-none", "")] if config.masks_images else []
    values = np.asarray(mask.image)
    low, high = int(values.min()), int(values.max())
    if high < _NOISE:
        notes.append(("mask-empty", ""))
    elif low > 255 - _NOISE:
        notes.append(("mask-white", ""))
    return mask, notes


def of_sample(sample: Sample, opened: Opened) -> Image.Image | None:
    """The mask of a scanned image, in its size (mode L); None: it has none.

    Raises:
        UnusableError: it can no longer be read, or is not the one that was scanned.
    """
    if sample.mask is None:
        return None
    if sample.mask_kind == "transparency":
        return opened.alpha
    mask, _size = read(sample.mask, opened)
    if mask.sha256 != sample.mask_sha256:
        raise UnusableError(sample.mask, "unreadable", _("The file has changed since the folder was read."))
    return mask.image
