"""Signals that a result copies its training images, relative to the base. They need no held-out image.

- `resemblances`: the training image that each sample is nearest to, by a measure of the caller's.
- `measure_memorization`: what the model predicts from pure noise under a training caption. Layouts are memorized at high noise
  (T-LoRA, AAAI 2026), where the mean squared error hardly shows it.
- `Recall.pull`, in the same passes: how far the text moves the prediction (Wen et al. ICLR 2024, section 4).

Shapes: S samples, N training images, B draws of one forward pass, C latent channels, H x W latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, Final, cast

import torch
from torch import Tensor

from tsuika.core.plain import jsonable
from tsuika.core.seeds import generator
from tsuika.core.types import Attachment, Conditioning, Model
from tsuika.diffusion.objective import objective
from tsuika.guard.probe import CONTROLS, ProbedImage

SEEDS: Final = 4  # noises a caption

# From bench/memorise.py on the embedded base (docs/log/2026-11-21-does-it-copy.md): at most 1 % of what is no copy lies beyond each.
# The first two are for thumbnails; what of true images and of drawings is falsely taken for copies: `evaluation.near_copies`.
COPY_RATIO: Final = 0.5
COPY_SIMILARITY: Final = 0.93  # where all training images are of one group, and so there is no ratio
LEAK: Final = 0.28  # excess cosine; finds 81 % of the captions that copy


@dataclass(frozen=True)
class Resemblance:
    """A sample and the training image that it is nearest to, in a measure where 1 is equal."""

    sample: int  # row
    picture: int  # row of the training image
    similarity: float
    ratio: float  # of the distances to the nearest and the nearest of another group, 0..1: near 0 is this and no other
    base: float | None = None  # the base's sample of the same prompt and seed, to the image nearest to that

    @property
    def copies(self) -> bool:
        """Whether it is a copy: far nearer to one image than to any other. For similarities of thumbnails only."""
        return self.ratio <= COPY_RATIO or self.similarity >= COPY_SIMILARITY

    @property
    def excess(self) -> float | None:
        """The similarity less that of the base's sample to its own nearest image; 0 where the weights are the base's."""
        return None if self.base is None else self.similarity - self.base

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not finite becomes None."""
        return cast(dict[str, Any], jsonable(asdict(self) | {"excess": self.excess}))


def resemblances(
    similarity_SN: Tensor, base_SN: Tensor | None = None, groups: Sequence[int] | None = None
) -> tuple[Resemblance, ...]:
    """Each sample's nearest training image, in the order of the samples.

    `similarity_SN` of each sample to each training image is a cosine or a correlation: 1 is equal, sqrt(2 - 2 similarity) a
    distance; `base_SN` the same for the base's samples at the same prompts and seeds; `groups` number the N images, with one
    number for near-duplicates (none: all differ), as the second take of an image is no other image. Raises ValueError: no training
    image, or other numbers of the base.
    """
    if similarity_SN.ndim != 2 or not similarity_SN.shape[1]:
        raise ValueError(f"similarities of shape {tuple(similarity_SN.shape)}: expected samples x training images")
    if base_SN is not None and base_SN.shape != similarity_SN.shape:
        raise ValueError(f"{tuple(base_SN.shape)} similarities of the base, {tuple(similarity_SN.shape)} of the result")
    groups_N = torch.arange(similarity_SN.shape[1]) if groups is None else torch.tensor(groups)
    base = [None] * len(similarity_SN) if base_SN is None else base_SN.max(1).values.tolist()
    found = []
    for row, (values_N, of_base) in enumerate(zip(similarity_SN.double(), base, strict=True)):
        image = int(values_N.argmax())
        others = values_N[groups_N.to(values_N.device) != groups_N[image]]
        far = _distance(others.max()) if len(others) else 0.0
        ratio = _distance(values_N[image]) / far if far else 1.0
        found.append(Resemblance(row, image, float(values_N[image]), ratio, of_base))
    return tuple(found)


def _distance(similarity: Tensor) -> float:
    return math.sqrt(max(0.0, 2 - 2 * float(similarity)))


@dataclass(frozen=True)
class Recall:
    """The model's predictions from pure noise under one training caption, in the mean over noises."""

    key: str  # the image's, whose caption it is
    nearest: str  # the training image that the prediction is nearest to
    cosine: float  # to it, -1..1
    base: float  # of the base's prediction, to the image nearest to that
    # Log of how much further than the base's the text moves the prediction, less the same of control prompts.
    pull: float

    @property
    def excess(self) -> float:
        """The cosine less the base's; 0 where the weights are the base's."""
        return self.cosine - self.base

    @property
    def recalls(self) -> bool:
        return self.excess > LEAK


@dataclass(frozen=True)
class Memorization:
    recalls: tuple[Recall, ...]

    @property
    def recalled(self) -> int:
        return sum(one.recalls for one in self.recalls)

    @property
    def worst(self) -> float:
        return max(one.excess for one in self.recalls)

    @property
    def pull(self) -> float:
        return fmean(one.pull for one in self.recalls)

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not finite becomes None."""
        rows = [asdict(one) | {"excess": one.excess} for one in self.recalls]
        found = {"recalled": self.recalled, "worst": self.worst, "pull": self.pull, "leaks": rows}
        return cast(dict[str, Any], jsonable(found))


def measure_memorization(
    model: Model,
    attachment: Attachment,
    train: Sequence[ProbedImage],
    *,
    asked: Sequence[ProbedImage] | None = None,
    controls: Sequence[str] = CONTROLS[:3],
    seeds: int = SEEDS,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Memorization:
    """Look for training images in what the model and its base predict from pure noise; ends at strength 1.

    Costs 4 forward passes of `seeds` samples (noises) for each caption asked and each control. Deterministic: the noise depends
    on the image's key alone. `attachment` is at strength 1, in evaluation mode; all of `train` is searched for, the captions
    of `asked` (by default all) are tried; `controls` have nothing to do with the training, for the pull; `autocast` is the
    precision that training computes in. Raises ValueError: no training image.
    """
    asked = train if asked is None else asked
    if not (train and asked):
        raise ValueError("there must be at least one training image and one caption")
    # What an inpainting base is given behind its latents was not drawn by it.
    channels = model.facts.latent_channels
    asked, train = ([replace(one, latents_CHW=one.latents_CHW[:channels]) for one in rows] for rows in (asked, train))
    shape, size_px = asked[0].latents_CHW.shape, asked[0].size_px
    requests = [(f"leak/{one.key}", one.caption, one.latents_CHW.shape, one.size_px) for one in asked]
    requests += [(f"leak/control/{text}", text, shape, size_px) for text in controls]
    answers: dict[float, list[tuple[Tensor, float]]] = {}
    try:
        for strength in (0.0, 1.0):
            attachment.set_strength(strength)
            with torch.no_grad(), autocast():
                answers[strength] = [_from_noise(model, *one, seeds=seeds) for one in requests]
    finally:
        attachment.set_strength(1)
    base, now = answers.values()
    pulls = [math.log(here / there) if here and there else 0.0 for (_, here), (_, there) in zip(now, base)]
    common = fmean(pulls[len(asked) :]) if controls else 0.0
    found = []
    for one, (here, _), (there, _), pull in zip(asked, now, base, pulls):
        cosine, nearest = _nearest(here, train)
        found.append(Recall(one.key, nearest, cosine, _nearest(there, train)[0], pull - common))
    return Memorization(tuple(found))


def _from_noise(
    model: Model, purpose: str, caption: str, shape: torch.Size, size_px: tuple[int, int], *, seeds: int
) -> tuple[Tensor, float]:
    """The prediction from pure noise (`without_noise`), and the mean of ||output with text - output without||."""
    noise_BCHW = torch.stack([torch.randn(shape, generator=generator(0, purpose, i)) for i in range(seeds)])
    noise_BCHW = noise_BCHW.to(model.device)
    trained = objective(model.prediction, model.scheduler_config, model.device)
    texts = [model.encode_text([text], size_px=size_px) for text in ("", caption)]
    t_B = torch.full((seeds,), trained.noisiest, device=model.device)
    without_BCHW, with_BCHW = (
        model.denoise(noise_BCHW, t_B, Conditioning.join([text] * seeds)).float() for text in texts
    )
    clean_BCHW = without_noise(trained.clean_direction(noise_BCHW, with_BCHW, t_B), noise_BCHW)
    return clean_BCHW.cpu(), float((with_BCHW - without_BCHW).flatten(1).norm(dim=1).mean())


def without_noise(clean_BCHW: Tensor, noise_BCHW: Tensor) -> Tensor:
    """The clean latents that an output for pure noise means (up to a factor), without their part along the noise.

    For epsilon they are the small difference of two large vectors. That a network's epsilon is one part in a hundred too
    short would already put a seventh of the noise itself into them (SD1). A training image is independent of the noise, so
    what lies along it is error, and is taken out; it carries one of C x H x W directions.
    """
    clean, noise = clean_BCHW.flatten(1), noise_BCHW.flatten(1)
    along_B1 = (clean * noise).sum(1, keepdim=True) / noise.pow(2).sum(1, keepdim=True)
    return (clean - along_B1 * noise).view_as(clean_BCHW)


def _nearest(clean_BCHW: Tensor, train: Sequence[ProbedImage]) -> tuple[float, str]:
    """The mean cosine over draws to the image of this size that it is largest for; and that image's key."""
    best = (-1.0, "")
    here = _layout(clean_BCHW)
    for one in train:
        if one.latents_CHW.shape == clean_BCHW.shape[1:]:
            there = _layout(one.latents_CHW.float().cpu()[None])
            best = max(best, (float((here * there).sum(1).mean()), one.key))
    return best


def _layout(latents_BCHW: Tensor) -> Tensor:
    """Unit vectors of latents without the mean of each channel: where things are, not how bright it all is."""
    centred = latents_BCHW - latents_BCHW.mean((-1, -2), keepdim=True)
    return torch.nn.functional.normalize(centred.flatten(1), dim=1)
