"""Masks by a model: looked at first, and written beside linked copies of the images where that is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from PIL import Image, ImageChops

from tsuika.api.image_set import link_or_copy
from tsuika.api.run import Events, JsonResult, starts
from tsuika.core import files
from tsuika.core.errors import ImageError, RecipeError, no_such
from tsuika.core.events import Phase, Progress, Warned, note
from tsuika.core.texts import _, few
from tsuika.data import check_fix, masks
from tsuika.data.faults import FAULTS
from tsuika.data.folder import Listing, walk
from tsuika.data.image import UnusableError, read_image
from tsuika.data.roles import Masks, tell_apart

MODES: Final = ("missing", "replace", "add")
MOST_PX: Final = 200  # around what is found


@dataclass(frozen=True)
class MaskedImage:
    """An image and its mask.

    Attributes:
        name: relative to the folder, with `/`.
        before: the share of the image that its mask shows, 0..1; None: it has none.
        after: the same of the mask that stands, or would stand, beside it in the copy.
    """

    name: str
    before: float | None
    after: float


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
    from tsuika import masking
    from tsuika.training.device import pick_device

    folder, target, model = Path(folder), Path(out) if out else None, model or masking.USUAL
    if mode not in MODES:
        raise no_such("mode", mode, MODES)
    if not text.strip():
        raise RecipeError("RC005", found="--text", do='tsuika mask DIR --text "a cat"')
    if not 0 <= threshold <= 1:
        raise RecipeError("RC002", key="threshold", found=threshold, why=_("It is a probability: 0 to 1."))
    if not 0 <= grow_px <= MOST_PX:
        raise RecipeError("RC002", key="grow-px", found=grow_px, why=f"0..{MOST_PX}")
    if not folder.is_dir():
        raise ImageError("DS001", where=folder)
    if target:
        check_fix.may_write(folder, target)
    listing = walk(folder)
    known = tell_apart(listing, folder)
    beside = Masks(one for one in known.aside if one.reason == "mask")
    yield Phase("mask-model")
    segmenter = masking.load(model, pick_device(device))
    yield Phase("mask", len(known.subject))
    made: list[MaskedImage] = []
    new: dict[str, Image.Image] = {}
    left_out = {one.name: str(FAULTS[one.reason].what) for one in listing.left_out}
    for done, image in enumerate(known.subject, 1):
        try:
            opened = read_image(image.path)
            own = next((masks.read(one.path, opened)[0].image for one in beside.of(image.name)), None)
        except UnusableError as error:
            left_out[image.name] = str(FAULTS[error.reason].what)
            yield note("DS006", name=image.name, reason=FAULTS[error.reason].what, words=error.words)
        else:
            after = own
            if own is None or mode != "missing":
                after = masking.shown(segmenter.probabilities(opened.image, text), threshold, grow_px)
                if own is not None and mode == "add":
                    after = ImageChops.lighter(own, after)
                new[image.name] = after
            assert after is not None
            made.append(MaskedImage(image.name, None if own is None else _share(own), _share(after)))
        yield Progress("mask", done, len(known.subject))
    if not made:
        counts = {"usable": 0, "total": len(left_out), "needed": 1}
        raise ImageError("DS002", where=folder, why="", report="tsuika check", **counts)
    empty = [one.name for one in made if one.name in new and not one.after]
    notes = [note("CP022", count=len(empty), names=few(empty), text=text)] if empty else []
    yield from notes
    if target:
        yield Phase("write")
        replaced = {one.path for name in new for one in beside.of(name)}
        _write(listing, new, replaced, folder, target)
    return Masked(
        folder=folder,
        model=model,
        text=text,
        mode=mode,
        images=tuple(made),
        left_out=left_out,
        out=target,
        notes=tuple(notes),
    )


def _share(mask: Image.Image) -> float:
    return round(float(np.asarray(mask).mean()) / 255, 4)


def _write(listing: Listing, new: Mapping[str, Image.Image], replaced: set[Path], folder: Path, out: Path) -> None:
    """The copy: images and texts as links, in the same subfolders, and the new masks."""
    inside = out / check_fix.inside_folder(folder.resolve().name, out.resolve().name)
    for one in (*listing.images, *listing.texts):
        target = inside / one.name
        files.make_folder(target.parent)
        if one.path not in replaced and not target.exists():
            link_or_copy(target, one.path)
    for name, image in new.items():
        path = PurePosixPath(name)
        shares = sum(PurePosixPath(other).with_suffix("") == path.with_suffix("") for other in new) > 1
        with files.whole(inside / path.with_name(f"{path.name if shares else path.stem}-mask.png")) as temporary:
            image.save(temporary, format="PNG")
