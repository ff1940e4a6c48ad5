"""Multi-aspect buckets: each picture is trained at the size, of about equal area, nearest to its own aspect ratio.

The idea is NovelAI's (2022, "Aspect ratio bucketing"); sizes never exceed the target area, so memory is bounded by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tsuika.core.errors import RecipeError
from tsuika.core.texts import _
from tsuika.data.manifest import Manifest, Sample

# Pictures of a rare shape join a neighbouring bucket only where this share of them stays visible.
MERGE_KEEPS: Final = 0.75


@dataclass(frozen=True)
class Bucket:
    """Pictures that are trained at one size."""

    width: int  # px
    height: int
    samples: tuple[Sample, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px."""
        return self.width, self.height


class Enlarged(NamedTuple):
    """A picture that has fewer pixels than its bucket."""

    sample: Sample
    factor: float  # each way, > 1


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


def kept_share(sample: Sample, size: tuple[int, int]) -> float:
    """Share of the picture's area that covering `size` leaves visible, in (0, 1]."""
    ratio = (sample.width * size[1]) / (sample.height * size[0])
    return min(ratio, 1 / ratio)


def assign(
    manifest: Manifest,
    *,
    size_px: int,
    step_px: int,
    max_aspect: float = 2.0,
    buckets: bool = True,
    min_pictures: int = 1,
) -> tuple[Bucket, ...]:
    """Every picture in the bucket nearest to its shape; empty buckets are left out; manifest order inside.

    Args:
        manifest: the pictures.
        size_px: side of the square of the target area.
        step_px: what sides must be multiples of (the model's pixels per latent times its down-sampling).
        max_aspect: longest allowed side ratio; longer pictures are cropped to it.
        buckets: False puts everything into the square.
        min_pictures: buckets with fewer join the nearest one in use, so that a batch need not hold one picture many
            times over; only where `MERGE_KEEPS` of every moved picture stays visible.

    Raises:
        RecipeError: `size_px` does not suit the model (RC002).
    """
    choices = sizes(size_px, step_px, max_aspect) if buckets else sizes(size_px, step_px, 1.0)
    home = [nearest(sample.width, sample.height, choices) for sample in manifest.samples]
    fixed: set[tuple[int, int]] = set()
    while True:
        counts = {size: home.count(size) for size in choices if size in home}
        small = [size for size, count in counts.items() if count < min_pictures and size not in fixed]
        if len(counts) < 2 or not small:
            break
        smallest = min(small, key=lambda size: (counts[size], choices.index(size)))
        others = [size for size in counts if size != smallest]
        moves = {
            i: nearest(sample.width, sample.height, others)
            for i, sample in enumerate(manifest.samples)
            if home[i] == smallest
        }
        if all(kept_share(manifest.samples[i], size) >= MERGE_KEEPS for i, size in moves.items()):
            for i, size in moves.items():
                home[i] = size
        else:
            fixed.add(smallest)
    return tuple(
        Bucket(*size, tuple(sample for sample, own in zip(manifest.samples, home, strict=True) if own == size))
        for size in choices
        if size in home
    )


def enlarged(buckets: Sequence[Bucket], crop: float = 1.0) -> tuple[Enlarged, ...]:
    """Pictures that are blown up to fill their bucket, for a warning; `crop` is the recipe's smallest share."""
    found = (
        Enlarged(sample, max(bucket.width / sample.width, bucket.height / sample.height) / crop)
        for bucket in buckets
        for sample in bucket.samples
    )
    return tuple(item for item in found if item.factor > 1)
