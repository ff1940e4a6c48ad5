"""`Bank`: all latents of a run, by bucket, and which of them a step sees.

Shapes: N images, V variants, B images of a batch, C x H x W latents, masks of 1 x H x W.

**Memory.** With `data.cache` on, latents are the cache's files mapped into memory: the system reads what a step takes
and may drop it again, so hundreds of images need no more memory than ten. With it off, everything is held.

**The order.** A *pass* of a bucket is a shuffle of its images, each repeated as often as its `repeats`. Passes follow
each other without a gap, and a batch takes the next B of that sequence: batches are always full, and an image is drawn
again only when all others of its bucket have been. A *round* has as many steps as there are images (with repeats);
in it a bucket is visited exactly as often as it counts images, at stratified random places. So after every round of T
steps each image has been seen exactly `batch_size * repeats` times, and its share is near that at any time before.
Everything is a function of (seed, step): a run that is resumed at any step sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from tsuika.core.events import Event, Progress, note
from tsuika.core.sections import Data
from tsuika.core.seeds import generator
from tsuika.core.types import Batch
from tsuika.data.augment import variants
from tsuika.data.bucket import Bucket
from tsuika.data.cache import Encode, Encoded, latents_of
from tsuika.data.caption import vary
from tsuika.data.manifest import Sample

PHASE: Final = "encode"  # the name of the phase in `Progress` events
_CACHED_ORDERS: Final = 64  # shuffles of either kind that a bank keeps in memory; any can be drawn again


@dataclass(frozen=True)
class BucketLatents:
    """The latents of one bucket."""

    width: int  # px
    height: int
    samples: tuple[Sample, ...]
    latents_NVCHW: tuple[Tensor, ...]  # of each image (V, C, H, W), on the CPU
    masks_NV1HW: tuple[Tensor | None, ...] = ()  # of each image (V, 1, H, W) in 0..1, or None; empty: none has one

    def mask(self, row: int) -> Tensor | None:
        """The masks of an image."""
        return self.masks_NV1HW[row] if self.masks_NV1HW else None


class Bank:
    """Latents and the order in which steps see them."""

    def __init__(self, buckets: Sequence[BucketLatents], config: Data, device: torch.device) -> None:
        """`device` is where batches are put.

        Raises:
            ValueError: there is no image.
        """
        self.buckets = tuple(buckets)
        self.device = device
        self._config, self._sets = config, config.each()
        # Rows of each bucket, each as often as its repeats say.
        repeats = [torch.tensor([sample.repeats for sample in bucket.samples]) for bucket in self.buckets]
        self._entries = tuple(torch.arange(len(times)).repeat_interleave(times) for times in repeats)
        self._round_of = lru_cache(_CACHED_ORDERS)(partial(_round_order, [len(rows) for rows in self._entries]))
        self._pass_of = lru_cache(_CACHED_ORDERS)(partial(_pass_order, self._entries))
        if not self.round_steps:
            raise ValueError("a bank needs at least one image")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Its images, bucket by bucket."""
        return tuple(sample.name for bucket in self.buckets for sample in bucket.samples)

    @property
    def round_steps(self) -> int:
        """T: steps after which every image has been seen exactly `batch_size * repeats` times."""
        return sum(len(entries) for entries in self._entries)

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """What step `step` (from 0) sees: a pure function of the arguments, in any order of calls.

        Raises:
            ValueError: a negative step, or an empty batch.
        """
        if step < 0 or batch_size < 1:
            raise ValueError(f"step {step} with {batch_size} images: expected step >= 0 and at least one image")
        nth_round, position = divmod(step, self.round_steps)
        order = self._round_of(seed, nth_round)
        which = int(order[position])
        # How many visits the bucket has had before.
        visit = nth_round * len(self._entries[which]) + int((order[:position] == which).sum())
        bucket, entries = self.buckets[which], self._entries[which]
        rows: list[int] = []
        for place in range(visit * batch_size, (visit + 1) * batch_size):
            nth_pass, position = divmod(place, len(entries))
            rows.append(int(self._pass_of(seed, which, nth_pass)[position]))
        count = len(bucket.latents_NVCHW[0])
        # One draw for each place, by a generator of its own: a batch of 4 begins as a batch of 2 does.
        sources = [generator(seed, "variant", step, i) for i in range(batch_size)]
        draws = [int(torch.randint(count, (), generator=source)) for source in sources]
        captions = tuple(
            vary(sample, self._sets[sample.set], generator(seed, "caption", step, i))
            for i, sample in enumerate(bucket.samples[row] for row in rows)
        )
        return self._collect(bucket, rows, draws, captions)

    def plain(self) -> Iterator[Batch]:
        """Each image once, alone, without augmentation, its caption whole: for measuring."""
        for bucket in self.buckets:
            for row, sample in enumerate(bucket.samples):
                yield self._collect(bucket, [row], [0], (sample.caption,))

    def only(self, names: Collection[str]) -> Bank:
        """A bank of some of the images, with the same latents.

        Raises:
            ValueError: none of them is here.
        """
        buckets = []
        for bucket in self.buckets:
            rows = [row for row, sample in enumerate(bucket.samples) if sample.name in names]
            samples = tuple(bucket.samples[row] for row in rows)
            latents = tuple(bucket.latents_NVCHW[row] for row in rows)
            if rows:
                masks = tuple(bucket.mask(row) for row in rows)
                buckets.append(replace(bucket, samples=samples, latents_NVCHW=latents, masks_NV1HW=masks))
        return Bank(buckets, self._config, self.device)

    def size_px_of(self, batch: Batch) -> tuple[int, int]:
        """Width and height in px of a batch's images (SDXL's time ids).

        Raises:
            KeyError: no bucket has latents of this size.
        """
        for bucket in self.buckets:
            if bucket.latents_NVCHW[0].shape[-2:] == batch.latents_BCHW.shape[-2:]:
                return bucket.width, bucket.height
        raise KeyError(tuple(batch.latents_BCHW.shape))

    def _collect(
        self, bucket: BucketLatents, rows: Sequence[int], draws: Sequence[int], captions: tuple[str, ...]
    ) -> Batch:
        latents = torch.stack([bucket.latents_NVCHW[row][draw] for row, draw in zip(rows, draws, strict=True)])
        samples = [bucket.samples[row] for row in rows]
        weights = torch.tensor([sample.weight for sample in samples], dtype=torch.float32, device=self.device)
        names = tuple(sample.name for sample in samples)
        return Batch(latents.to(self.device), captions, names, weights, self._mask(bucket, rows, draws))

    def _mask(self, bucket: BucketLatents, rows: Sequence[int], draws: Sequence[int]) -> Tensor | None:
        found = [bucket.mask(row) for row in rows]
        if all(mask is None for mask in found):
            return None
        whole = torch.ones(1, *bucket.latents_NVCHW[0].shape[-2:])
        outside = [self._sets[bucket.samples[row].set].mask_outside for row in rows]
        shown = [
            whole if mask is None else least + (1 - least) * mask[draw]
            for mask, draw, least in zip(found, draws, outside, strict=True)
        ]
        return torch.stack(shown).to(self.device)


def _round_order(counts: Sequence[int], seed: int, nth_round: int) -> Tensor:
    """The bucket of each step of a round: the j-th visit of a bucket with n visits lies in the j-th n-th of it."""
    draw = generator(seed, "buckets", nth_round)
    times, owners = [], []
    for which, count in enumerate(counts):
        times.append((torch.arange(count) + torch.rand(count, generator=draw, dtype=torch.float64)) / count)
        owners.append(torch.full((count,), which))
    return torch.cat(owners)[torch.argsort(torch.cat(times), stable=True)]


def _pass_order(entries: Sequence[Tensor], seed: int, which: int, nth_pass: int) -> Tensor:
    rows = entries[which]
    return rows[torch.randperm(len(rows), generator=generator(seed, "order", which, nth_pass))]


def fill(
    buckets: Sequence[Bucket],
    config: Data,
    encode: Encode,
    *,
    vae: str,
    scale: float,
    folder: Path | None,
    device: torch.device,
    seed: int = 0,
) -> Generator[Event, None, Bank]:
    """Encode or read everything; yields `Progress` and `Warned`, returns the bank (`bank = yield from fill(...)`).

    Args:
        config: `config.cache` False keeps nothing on disk.
        encode: pixels (1, 3, H, W) on the CPU to scaled latents.
        vae: what identifies the encoder (see `cache.latents_of`).
        scale: the latent scale that `encode` applies.
        folder: where cache entries are kept.
        device: where batches are put.
        seed: of the augmentation; kept apart from the run's seed, another run on these images can use the cache.

    Raises:
        ImageError: an image can no longer be read.
        ModelError: the VAE gave numbers that are not finite (DS004).
        ResourceError: the cache cannot be written (RS002).
        ValueError: there is no image.
    """
    folder, sets = folder if config.cache else None, config.each()
    total, done = sum(len(bucket.samples) for bucket in buckets), 0
    yield Progress(PHASE, 0, total)

    def entry(sample: Sample, size: tuple[int, int]) -> tuple[Encoded, str]:
        transforms = variants(sample, sets[sample.set], seed)
        return latents_of(sample, transforms, size, encode, vae=vae, scale=scale, folder=folder)

    filled: list[BucketLatents] = []
    for bucket in buckets:
        parts: list[Encoded] = []
        for sample in bucket.samples:
            encoded, problem = entry(sample, bucket.size)
            if problem:
                yield note("DS009", name=sample.name, why=problem)
            if folder is None:
                parts.append(encoded)
            done += 1
            yield Progress(PHASE, done, total)
        # Mapped only when all are encoded: what a mapping allocates would lie between the encoder's buffers, and keep
        # the allocator from using or returning them (measured: 0.5 GiB for 0.5 GiB of latents).
        filled.append(_bucket(bucket, parts))
    if folder is not None:
        filled = [_bucket(one, [entry(sample, one.size)[0] for sample in one.samples]) for one in buckets]
    return Bank(filled, config, device)


def _bucket(bucket: Bucket, parts: Sequence[Encoded]) -> BucketLatents:
    latents, masks = tuple(one.latents_VCHW for one in parts), tuple(one.mask_V1HW for one in parts)
    return BucketLatents(bucket.width, bucket.height, bucket.samples, latents, masks)
