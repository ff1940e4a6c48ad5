"""Masks by a model: looked at first, and written beside linked copies of the images where that is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from PIL import Image, ImageChops

from tsuika.api.annotation import Walk, check_probabilities, link, mode_of
from tsuika.api.run import Events, JsonResult, starts
from tsuika.core import files
from tsuika.core.errors import RecipeError
from tsuika.core.events import Phase, Warned, note
from tsuika.core.texts import few
from tsuika.data import masks
from tsuika.data.folder import ImageFile
from tsuika.data.image import read_image
from tsuika.data.roles import Masks

MOST_PX: Final = 200  # around what a mask's model finds


@dataclass(frozen=True)
class MaskedImage:
    """An image and its mask.

    Attributes:
        name: relative to the folder, with `/`.
        before: the share of the image that its mask shows, 0..1; None: it has none.
        after: the same of the mask that stands, or would stand, beside it in the copy.
        mask: the mask that was written for it, relative to `out`; empty: none was.
    """

    name: str
    before: float | None
    after: float
    mask: str = ""


@dataclass(frozen=True, kw_only=True)
class Masked(JsonResult):
    """What was made.

    Attributes:
        folder: of the images.
        model: as it was named.
        text: what is looked for.
        mode: `missing`, `replace` or `add`.
        images: all usable ones, in natural order.
        left_out: images that cannot be used, with the reason.
        out: the folder that was written; None: nothing was.
        notes: findings.
    """

    folder: Path
    model: str
    text: str
    mode: str
    images: tuple[MaskedImage, ...]
    left_out: Mapping[str, str]
    out: Path | None
    notes: tuple[Warned, ...]


@starts
def mask(
    folder: Path | str,
    *,
    text: str,
    model: str = "",
    mode: str = "missing",
    threshold: float = 0.3,
    grow_px: int = 10,
    out: Path | str | None = None,
    device: str = "auto",
) -> Events[Masked]:
    """Masks of a folder's images by a model, for `data.masks`. The folder is never changed; without `out` nothing is written.

    Args:
        folder: as for `train`.
        text: what is to be learned, in a few words: `a cat`.
        model: a folder or a Hugging Face model id of a CLIPSeg; empty: CIDAS/clipseg-rd64-refined.
        mode: `missing`: images without a mask; `replace`: all of them; `add`: what a mask does not show yet.
        threshold: the least probability that the text is shown, 0..1.
        grow_px: pixels around what is found that are shown, too, 0..200.
        out: a new folder: the images and texts (hard links, else copies), and `NAME-mask.png` beside each.
        device: where the model computes.

    Returns:
        A run with `Phase`, `Progress` and `Warned` events; its result is what was made.

    Raises:
        ImageError: no such folder (DS001), or no image in it that can be used (DS002).
        RecipeError: a mode, threshold or number that cannot be (RC002), no text (RC005), `out` is there already (DS005).
        ModelError: no segmentation model (CP020); NetworkError: it could not be downloaded (CP021).
    """
    from tsuika.annotation import segmenter
    from tsuika.training.device import pick_device

    model, how = model or segmenter.USUAL, mode_of(mode)
    if not text.strip():
        raise RecipeError("RC005", found="--text", do='tsuika mask DIR --text "a cat"')
    check_probabilities({"threshold": threshold})
    if not 0 <= grow_px <= MOST_PX:
        raise RecipeError("RC002", key="grow-px", found=grow_px, why=f"0..{MOST_PX}")
    walked = Walk.of(Path(folder), out)
    beside = Masks(one for one in walked.known.aside if one.reason == "mask")
    yield Phase("mask-model")
    clipseg = segmenter.load(model, pick_device(device))
    new: dict[str, Image.Image] = {}

    def masked(image: ImageFile) -> MaskedImage:
        opened = read_image(image.path)
        own = next((masks.read(one.path, opened)[0].image for one in beside.of(image.name)), None)
        after = own
        if after is None or how != "missing":
            after = segmenter.shown(clipseg.probabilities(opened.image, text), threshold, grow_px)
            if own is not None and how == "add":
                after = ImageChops.lighter(own, after)
            new[image.name] = after
        return MaskedImage(image.name, None if own is None else _share(own), _share(after))

    made, left_out = yield from walked.through("mask", masked)
    empty = [one.name for one in made if one.name in new and not one.after]
    notes = [note("CP022", count=len(empty), names=few(empty), text=text)] if empty else []
    yield from notes
    if walked.out:
        yield Phase("write")
        with files.whole(walked.out) as copy:
            replaced = {one.path for name in new for one in beside.of(name)}
            written = _write_masks(new, replaced, walked, copy / walked.inside)
        made = tuple(replace(one, mask=written.get(one.name, "")) for one in made)
    return Masked(
        folder=walked.folder,
        model=model,
        text=text,
        mode=how,
        images=made,
        left_out=left_out,
        out=walked.out,
        notes=tuple(notes),
    )


def _share(mask: Image.Image) -> float:
    return round(float(np.asarray(mask).mean()) / 255, 4)


def _write_masks(new: Mapping[str, Image.Image], replaced: set[Path], walked: Walk, inside: Path) -> dict[str, str]:
    """Images and texts as links, in the same subfolders, and the new masks; returns these by image, relative to `out`."""
    written = {}
    for one in (*walked.listing.images, *walked.listing.texts):
        if one.path not in replaced:
            link(inside / one.name, one.path)
    for name, image in new.items():
        path = PurePosixPath(name)
        shares = sum(PurePosixPath(other).with_suffix("") == path.with_suffix("") for other in new) > 1
        mask = path.with_name(f"{path.name if shares else path.stem}-mask.png").as_posix()
        files.make_folder((inside / mask).parent)
        image.save(inside / mask, format="PNG")
        written[name] = walked.inside + mask
    return written
