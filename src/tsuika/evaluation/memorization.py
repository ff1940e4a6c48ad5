"""The end check: every drawing beside the training image that it is nearest to, the worst first.

`similarity`, the correlation of small thumbnails, as they are or mirrored, sees layouts, and so copies, and decides.
`likeness`, an encoder's cosine, decides nothing: a subject that was learnt well is like its images, copied or not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from tsuika.core.rundir import RunDir
from tsuika.data import dedupe
from tsuika.data.manifest import Manifest
from tsuika.data.split import Split
from tsuika.evaluation.near_copies import ImageSource, MemorizationCheck, NearestImage, opened
from tsuika.guard.memorization import Memorization, Resemblance, resemblances

if TYPE_CHECKING:
    from tsuika.evaluation.report import BeforeAfter, TrainingImage

Pixels = NDArray[np.uint8]  # (H, W, 3)
Encode = Callable[[Sequence[Pixels]], Tensor]  # images to unit vectors (B, D)

THUMB_PX: Final = 32
FAINT: Final = 2.0  # grey levels: an image of less deviation is flat, and resembles nothing


def find(
    rows: Sequence[BeforeAfter],
    images: Sequence[TrainingImage],
    encode: Encode | None = None,
    *,
    encoder: str = "",
    groups: Sequence[int] | None = None,
    captions: Collection[str] = (),
    memorization: Memorization | None = None,
) -> MemorizationCheck | None:
    """Compare all drawings of the result with all training images; None where there is nothing to compare.

    `rows` are drawings of the base and of the result at the same prompts and seeds; `encode` an encoder that knows this base's
    images, if there is one, and `encoder` its name; `groups` number the training
    images, near-duplicates alike; `captions` are prompts that are training captions; `memorization` is told
    along. Raises UnusableError: a drawing or a training image can no longer be read.
    """
    drawn = [(row, *cells) for row in rows for cells in zip(row.seeds, row.before, row.after, strict=True)]
    if not drawn or not images:
        return None
    drawings = [opened(one[3]) for one in drawn] + [opened(one[2]) for one in drawn]  # of the result, then of the base
    trained: list[Pixels] = []
    thumbnails = []
    for image in images:  # one at a time: there may be thousands, of any size
        fitted = as_trained(image.source, drawings[0].size)
        thumbnails.append(thumbnail(fitted))
        if encode is not None:
            trained.append(np.asarray(fitted))
    alike_SN = similarity(drawings, thumbnails)
    found = resemblances(alike_SN[: len(drawn)], alike_SN[len(drawn) :], groups)
    likenesses: Sequence[Resemblance | None] = [None] * len(drawn)
    if encode is not None:
        alike_SN = encode([np.asarray(one) for one in drawings]) @ encode(trained).T
        likenesses = resemblances(alike_SN[: len(drawn)], alike_SN[len(drawn) :], groups)
    pairs = []
    for (row, seed, _, after), one, likeness in zip(drawn, found, likenesses, strict=True):
        nearest, of_training = images[one.picture], row.prompt in captions
        pairs.append(NearestImage(row.prompt, seed, after, nearest.name, nearest.source, one, likeness, of_training))
    pairs.sort(key=lambda pair: pair.rank)
    return MemorizationCheck(tuple(pairs), encoder if encode is not None else "", memorization)


def groups_of(folder: RunDir, manifest: Manifest) -> list[int]:
    """A number for each training image, near-duplicates alike: as the guard has split them, else found now."""
    file = folder.guard / "split.json"
    parted = Split.read(file).groups if file.exists() else dedupe.groups(manifest)
    numbers = {name: number for number, group in enumerate(parted) for name in group}
    return [numbers.setdefault(sample.name, len(numbers)) for sample in manifest.samples]


def as_trained(source: ImageSource, size_px: tuple[int, int]) -> Image.Image:
    """A training image about as it was trained on: its middle, in the shape of the drawings. Raises UnusableError: unreadable."""
    return ImageOps.fit(opened(source), size_px)


def thumbnail(image: Image.Image) -> Image.Image:
    return image.resize((THUMB_PX, THUMB_PX), Image.Resampling.BOX)


def similarity(drawings: Sequence[Image.Image], images: Sequence[Image.Image]) -> Tensor:
    """Correlations of thumbnails (S, N), the larger of as it is and mirrored; 1 is equal up to brightness and contrast."""
    drawings_SD, images_ND = _thumbnails(drawings), _thumbnails(images)
    mirrored_ND = _thumbnails([ImageOps.mirror(one) for one in images])
    return torch.maximum(drawings_SD @ images_ND.T, drawings_SD @ mirrored_ND.T)


def _thumbnails(images: Sequence[Image.Image]) -> Tensor:
    """(B, D): the mean of each colour taken out, of length 1; flat ones shorter."""
    small = np.stack([np.asarray(thumbnail(image), np.float64) for image in images])
    flat_BD = torch.from_numpy(small - small.mean((1, 2), keepdims=True)).flatten(1)
    unit_BD: Tensor = flat_BD / flat_BD.norm(dim=1, keepdim=True).clamp_min(FAINT * flat_BD.shape[1] ** 0.5)
    return unit_BD
