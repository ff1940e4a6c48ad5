"""Multi-aspect buckets: each image is trained at the size, of about equal area, nearest to its own aspect ratio.

The idea is NovelAI's (2022, "Aspect ratio bucketing"); sizes never exceed the target area, so memory is bounded by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tsuika.core.errors import RecipeError
from tsuika.core.sections import Data
from tsuika.core.texts import _
from tsuika.data.manifest import Manifest, Sample


@dataclass(frozen=True)
class Bucket:
    """Images that are trained at one size."""

    width: int  # px
    height: int
    samples: tuple[Sample, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px."""
        return self.width, self.height


def sizes(size_px: int, step_px: int, max_aspect: float = 2.0) -> tuple[tuple[int, int], ...]:
    """Bucket sizes (width, height): multiples of `step_px`, area at most `size_px` squared, aspect at most the limit.

    For each width the tallest height that fits, and the same turned; narrowest first. The square is always there.

    Raises:
        RecipeError: `size_px` is no positive multiple of `step_px` (RC002).
    """
    if size_px < step_px or size_px % step_px:
        near = max(round(size_px / step_px), 1) * step_px
        why = _("This model needs a multiple of {step_px} px; the nearest is {near}.", step_px=step_px, near=near)
        raise RecipeError("RC002", key="data.size_px", found=size_px, why=why)
    found = {(size_px, size_px)}
    for width in range(step_px, size_px, step_px):
        height = size_px * size_px // width // step_px * step_px
        if height / width <= max_aspect:
            found |= {(width, height), (height, width)}
    return tuple(sorted(found, key=lambda size: (size[0] / size[1], size)))


def nearest(width: int, height: int, choices: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The size whose aspect ratio is nearest, as a ratio of ratios; of equals the larger, then the wider."""

    def distance(size: tuple[int, int]) -> tuple[float, int, int]:
        return abs(math.log(size[0] * height / (size[1] * width))), -size[0] * size[1], -size[0]

    return min(choices, key=distance)


def assign(manifest: Manifest, *, size_px: int, step_px: int, buckets: bool = True) -> tuple[Bucket, ...]:
    """Every image in the bucket nearest to its shape; empty buckets are left out; manifest order inside.

    Args:
        size_px: side of the square of the target area.
        step_px: what sides must be multiples of (the model's pixels per latent times its down-sampling).
        buckets: False puts everything into the square.

    Raises:
        RecipeError: `size_px` does not suit the model (RC002).
    """
    choices = sizes(size_px, step_px) if buckets else sizes(size_px, step_px, 1.0)
    return tuple(Bucket(*size, samples) for size, samples in by_size(manifest.samples, choices).items() if samples)


def assign_sets(manifest: Manifest, data: Data, *, size_px: int, step_px: int) -> tuple[Bucket, ...]:
    """As `assign` for every set by its own size, `size_px` where it has none; sets share buckets of one size.

    Raises:
        RecipeError: a size does not suit the model (RC002).
    """
    found: dict[tuple[int, int], tuple[Sample, ...]] = {}
    for name, own in data.each().items():
        inside = manifest.of(name)
        for bucket in assign(inside, size_px=own.size_px or size_px, step_px=step_px, buckets=own.buckets):
            found[bucket.size] = (*found.get(bucket.size, ()), *bucket.samples)
    return tuple(Bucket(*size, samples) for size, samples in found.items())


def by_size(samples: Sequence[Sample], choices: Sequence[tuple[int, int]]) -> dict[tuple[int, int], tuple[Sample, ...]]:
    """For each size the images that are nearest to its shape, in their order; perhaps none."""
    home = [nearest(sample.width, sample.height, choices) for sample in samples]
    return {size: tuple(sample for sample, own in zip(samples, home, strict=True) if own == size) for size in choices}


def enlarged(buckets: Sequence[Bucket], crop: float = 1.0) -> dict[str, float]:
    """Images, by name, that are blown up to fill their bucket, and by what factor each way; `crop`: the smallest share."""
    factors = {
        sample.name: max(bucket.width / sample.width, bucket.height / sample.height) / crop
        for bucket in buckets
        for sample in bucket.samples
    }
    return {name: factor for name, factor in factors.items() if factor > 1}
