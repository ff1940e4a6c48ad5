"""Regularization images: beside the images of the subject, as many of its class (prior preservation, Ruiz et al. 2023, 3.2).

Every batch of B images becomes one of 2B: the second half are regularization images of the same size, with a loss
weight of their own. Their captions are their caption files, or the class; never the trigger word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from tsuika.core.sections import Data
from tsuika.core.seeds import derive
from tsuika.core.texts import article
from tsuika.core.types import Batch
from tsuika.data.bank import Bank
from tsuika.data.bucket import Bucket, by_size
from tsuika.data.manifest import Manifest

_PLAIN: Final = {"variants": 1, "flip": False, "crop": 1.0, "rotate_deg": 0.0, "colour": 0.0}


def class_caption(class_word: str) -> str:
    """Prompt and caption of an image of the class."""
    return article(class_word) if class_word else ""


def settings(data: Data) -> Data:
    """How regularization images are read: as the recipe says, without trigger word and augmentation."""
    own = {"trigger": "", "class_word": class_caption(data.class_word), "template": "none", "repeats": 1}
    own |= {"masks": "", "alpha_mask": False, "mask_outside": 0.0, "weight": 1.0, "sets": ()}
    own |= {"caption_prefix": "", "caption_suffix": ""}
    return data.model_copy(update=own | _PLAIN)


def assign(manifest: Manifest, buckets: Sequence[Bucket]) -> tuple[Bucket, ...]:
    """Regularization images in the sizes of the subject's buckets, each in the one nearest to its shape.

    A size that is nearest to none of them takes all of them, cropped: no batch goes without.
    """
    choices = [bucket.size for bucket in buckets]
    chosen = by_size(manifest.samples, choices)
    return tuple(Bucket(*size, samples or manifest.samples) for size, samples in chosen.items())


@dataclass(frozen=True)
class RegularizedBank:
    """Two banks as one: every batch of the subject's, followed by as many regularization images of its size.

    Within a size regularization images come in shuffled passes, as a function of the step.
    """

    subject: Bank
    classes: Mapping[tuple[int, int], Bank]  # (width, height) in px -> regularization images of that size
    weight: float  # of a regularization image in the loss

    def __len__(self) -> int:
        return len(self.subject)

    def only(self, names: Collection[str]) -> RegularizedBank:
        """The same with some of the subject's images.

        Raises:
            ValueError: none of them is here.
        """
        return replace(self, subject=self.subject.only(names))

    def plain(self) -> Iterator[Batch]:
        """Each image of the subject once, for measuring."""
        return self.subject.plain()

    def size_px_of(self, batch: Batch) -> tuple[int, int]:
        """Width and height in px of a batch's images."""
        return self.subject.size_px_of(batch)

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """What step `step` sees, 2 x `batch_size` images: a pure function of the arguments."""
        mine = self.subject.batch(step, batch_size, seed)
        theirs = self.classes[self.size_px_of(mine)].batch(step, batch_size, derive(seed, "class pictures"))
        mask_B1HW = mine.mask_B1HW
        if mask_B1HW is not None:
            mask_B1HW = torch.cat([mask_B1HW, torch.ones_like(mask_B1HW)])
        return Batch(
            torch.cat([mine.latents_BCHW, theirs.latents_BCHW]),
            mine.captions + theirs.captions,
            mine.names + theirs.names,
            torch.cat([mine.weight_B, theirs.weight_B * self.weight]),
            mask_B1HW,
        )
