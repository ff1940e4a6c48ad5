"""The guard's measurements: the loss of a few fixed draws, and how far the model has drifted on unrelated prompts.

Everything is fixed by the images' contents (latents without augmentation, captions without dropout, noise, timesteps), so
the same weights give the same numbers to the bit. The caller puts the weights on the model that will be written.
Shapes: B draws of one forward pass, C latent channels, H x W latents, T timesteps of the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

import torch
from torch import Tensor

from tsuika.core.seeds import generator
from tsuika.core.types import Attachment, Conditioning, Model
from tsuika.diffusion.objective import objective, squared_error
from tsuika.guard.reading import Grid, Ratios, Reading, minus

# Of 1000. The midpoints of six strata of 50..700, where 88 % of the held-out signal lies in 18 public training logs of
# SD1.5; and two in the high-noise range, where layouts are memorised (T-LoRA, AAAI 2026).
MID: Final = (104, 213, 321, 429, 538, 646)
HIGH: Final = (775, 925)
HIGHS: Final = 3  # images that are also measured there, where each image has a part of MID only
PATH: Final = (925, 646, 321, 104)  # from noise towards an image: where drift is measured

CONTROLS: Final = (
    "a photo of a dog",
    "a red car on a street",
    "a portrait of an old man",
    "a bowl of fruit on a table",
    "a house by a lake",
    "a city at night",
    "a mountain under a blue sky",
    "a drawing of a flower",
)


@dataclass(frozen=True)
class ProbedImage:
    key: str  # the content's hash, which decides the noise
    latents_CHW: Tensor  # scaled, the posterior mean, without augmentation
    caption: str  # whole: no dropout, no shuffling
    size_px: tuple[int, int]  # width, height
    mask_1HW: Tensor | None = None  # loss weight of each latent; None: all weigh alike


@dataclass(frozen=True)
class _Draw:
    noisy_CHW: Tensor
    target_CHW: Tensor
    t: int
    caption: str
    size_px: tuple[int, int]
    mask_1HW: Tensor | None = None


@dataclass(frozen=True)
class _Row:
    """An image's draws: the first `mids` of them in the middle range."""

    draws: tuple[_Draw, ...]
    mids: int


def strata(place: int, draws: int) -> tuple[int, ...]:
    """Which of the six of MID an image has, by its place: `draws` (1, 2, 3 or 6) of them, rotated over images.

    From both ends in turn: what grows with the timestep cancels over any even number of them.
    """
    order = (0, 5, 1, 4, 2, 3)
    return tuple(sorted(order[(place * draws + j) % len(order)] for j in range(draws)))


def passes(images: int, draws: int) -> int:
    """Forward passes that a side of a probe takes."""
    return images * draws + (len(HIGH) * images if draws == len(MID) else min(images, HIGHS))


def class_prompts(class_word: str) -> tuple[str, ...]:
    """Prompts of a class word without a trigger word, one for each step of PATH."""
    places = ("a {word}", "a photo of a {word}", "a {word} on the beach", "a {word} in the snow")
    return tuple(text.format(word=class_word) for text in places)


def controls_for(class_word: str) -> tuple[str, ...]:
    """The unrelated prompts without those that name the trained class."""
    return tuple(text for text in CONTROLS if not set(class_word.casefold().split()) & set(text.split()))


class Probe:
    """The fixed draws of a run, and the base's losses on them."""

    def __init__(
        self,
        model: Model,
        attachment: Attachment,
        held_out: Sequence[ProbedImage],
        train: Sequence[ProbedImage],
        *,
        controls: Sequence[str] = CONTROLS,
        own: Sequence[str] | None = None,
        draws: tuple[int, int] = (len(MID), len(MID)),
        first: int = 0,
        chunk: int = 16,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Fix the draws and measure the base, which is the model at strength 0; afterwards it is at strength 1.

        Args:
            model: with `attachment`, which is trained, on it; both in evaluation mode, at strength 1.
            held_out: images that are not trained on; may be empty.
            train: some that are trained on; best as many as are held out.
            controls: unrelated prompts, for drift; none: drift is not measured.
            own: prompts whose drift is measured beside it, as many as controls; None: captions of `train`.
            draws: timesteps of MID for each image, held out and trained on (`strata`): with fewer more images can be measured in
                the same time, and images differ far more than timesteps do (docs/log/2026-11-30-guard-statistics.md). The
                images of a side together have all of them.
            first: the place of the first held-out image, where others are measured by other probes.
            chunk: samples of a forward pass. Another number may give other last bits.
            autocast: the precision that training computes in.

        Raises:
            ValueError: there is no image at all.
        """
        if not (held_out or train):
            raise ValueError("a probe needs at least one image")
        self._model = model
        self._chunk, self._autocast = chunk, autocast
        self._trains_text = any(role.startswith("text.") for role in attachment.trains)
        self._encoded: dict[tuple[str, tuple[int, int]], Conditioning] = {}
        self._objective = objective(model.prediction, model.scheduler_config, "cpu")
        self._held_out, self._train = self._rows(held_out, draws[0], first), self._rows(train, draws[1], 0)
        attachment.set_strength(0)
        try:
            with torch.no_grad():
                self._base = self._logs(self._held_out), self._logs(self._train)
                size = (train or held_out)[0].size_px if controls else (0, 0)
                own_CHW = (train or held_out)[0].latents_CHW[: model.facts.latent_channels]
                shape = own_CHW.shape if controls else torch.Size()
                own = list(dict.fromkeys(one.caption for one in train)) if own is None else own
                self._controls = self._path(controls, shape, size)
                self._own = self._path(own[: len(controls)], shape, size) if controls else []
                self._apart = self._between(self._controls)
        finally:
            attachment.set_strength(1)
        self._encoded.clear()

    def measure(self, *, train: bool = True, drift: bool = True) -> Reading:
        """Measure the model, relative to the base: images that are trained on with `train`, `controls` and `own` with `drift`."""
        with torch.no_grad():
            held_out = self._ratios(self._held_out, self._base[0])
            trained_on = self._ratios(self._train, self._base[1]) if train else Ratios()
            if not drift:
                return Reading(held_out, trained_on)
            return Reading(held_out, trained_on, self._moved(self._controls), self._moved(self._own))

    @property
    def draws(self) -> int:
        sides = sum(len(row.draws) for row in (*self._held_out, *self._train))
        return sides + len(self._controls) + len(self._own)

    def _rows(self, subjects: Sequence[ProbedImage], draws: int, first: int) -> list[_Row]:
        whole, rows = draws == len(MID), []
        for place, one in enumerate(subjects):
            mid = [MID[stratum] for stratum in strata(first + place, draws)]
            high = HIGH if whole else HIGH[(first + place) % len(HIGH) :][:1] if place < HIGHS else ()
            rows.append(_Row(tuple(self._draw(one, self._objective.at(t)) for t in (*mid, *high)), len(mid)))
        return rows

    def _draw(self, one: ProbedImage, t: int) -> _Draw:
        clean_BCHW, t_B = one.latents_CHW.float().cpu()[None], torch.tensor([t])
        shape = clean_BCHW[:, : self._model.facts.latent_channels].shape
        noise_BCHW = torch.randn(shape, generator=generator(0, f"guard/{one.key}", t))
        noisy = self._objective.add_noise(clean_BCHW, noise_BCHW, t_B)[0].to(self._model.device)
        target_CHW = self._objective.target(clean_BCHW, noise_BCHW, t_B)[0].to(self._model.device)
        mask_1HW = None if one.mask_1HW is None else one.mask_1HW.to(self._model.device)
        return _Draw(noisy, target_CHW, t, one.caption, one.size_px, mask_1HW)

    def _path(self, captions: Sequence[str], shape: torch.Size, size_px: tuple[int, int]) -> list[_Draw]:
        """One draw a caption, spread over PATH, on the base's own way from pure noise (DDIM, Song et al. 2021, eq. 12).

        The target is what the base says there.
        """
        if not captions:
            return []
        noise = [torch.randn(shape, generator=generator(0, "guard/path", i)) for i in range(len(captions))]
        noisy_BCHW = torch.stack(noise).to(self._model.device)
        steps = [self._objective.at(t) for t in PATH]
        draws: dict[int, _Draw] = {}
        for place, t in enumerate(steps):
            here = [_Draw(x, x, t, caption, size_px) for x, caption in zip(noisy_BCHW, captions, strict=True)]
            output_BCHW = self._predict(here)
            for i in range(place, len(captions), len(steps)):
                draws[i] = _Draw(noisy_BCHW[i], output_BCHW[i], t, captions[i], size_px)
            if place + 1 < len(steps):
                here_B, following_B = torch.tensor([[t], [steps[place + 1]]], device=noisy_BCHW.device)
                split = self._objective.split(noisy_BCHW, output_BCHW, here_B)
                noisy_BCHW = self._objective.add_noise(*split, following_B)
        return [draws[i] for i in range(len(captions))]

    def _losses(self, draws: Sequence[_Draw]) -> list[float]:
        """Mean squared error of each draw, weighted by its mask alone."""
        if not draws:
            return []
        errors: dict[int, Tensor] = {}
        for rows in self._batches(draws):
            output_BCHW = self._predict([draws[row] for row in rows])
            target_BCHW = torch.stack([draws[row].target_CHW for row in rows])
            found = [draws[row].mask_1HW for row in rows]
            masks = [torch.ones_like(target_BCHW[0, :1]) if mask is None else mask for mask in found]
            mask_B1HW = torch.stack(masks) if any(mask is not None for mask in found) else None
            errors |= zip(rows, squared_error(output_BCHW, target_BCHW, mask_B1HW), strict=True)
        losses: list[float] = torch.stack([errors[row] for row in range(len(draws))]).tolist()
        return losses

    def _moved(self, draws: Sequence[_Draw]) -> float | None:
        """Mean of ||now - base||^2 over draws of `_path`, as a share of that between two unrelated prompts in the base."""
        if not draws or not self._apart:
            return None
        return fmean(self._losses(draws)) / self._apart

    def _between(self, draws: Sequence[_Draw]) -> float:
        """Mean of ||base at another of the prompts - base at its own||^2 over draws; 0 without any."""
        if not draws:
            return 0.0
        others = [*[draw.caption for draw in draws[1:]], draws[0].caption if len(draws) > 1 else ""]
        return fmean(self._losses([replace(draw, caption=other) for draw, other in zip(draws, others, strict=True)]))

    def _batches(self, draws: Sequence[_Draw]) -> list[list[int]]:
        """Rows of draws that go through together: one size of latents, at most a chunk, always the same ones."""
        sizes: dict[torch.Size, list[int]] = {}
        for row, draw in enumerate(draws):
            sizes.setdefault(draw.noisy_CHW.shape, []).append(row)
        return [
            rows[start : start + self._chunk] for rows in sizes.values() for start in range(0, len(rows), self._chunk)
        ]

    def _predict(self, draws: Sequence[_Draw]) -> Tensor:
        """What the model predicts, float32 (B, C, H, W); all draws of one size."""
        with self._autocast():
            cond = self._encode([(draw.caption, draw.size_px) for draw in draws])
            t_B = torch.tensor([draw.t for draw in draws], device=self._model.device)
            return self._model.denoise(torch.stack([draw.noisy_CHW for draw in draws]), t_B, cond).float()

    def _encode(self, requests: Sequence[tuple[str, tuple[int, int]]]) -> Conditioning:
        """Each caption alone, so that its numbers do not depend on its neighbours; kept where no text role trains."""
        held = {} if self._trains_text else self._encoded
        for caption, size_px in dict.fromkeys(requests):
            if (caption, size_px) not in held:
                held[caption, size_px] = self._model.encode_text([caption], size_px=size_px)
        return Conditioning.join([held[one] for one in requests])

    def _logs(self, rows: Sequence[_Row]) -> Grid:
        losses = iter(self._losses([draw for row in rows for draw in row.draws]))
        return tuple(tuple(_log(next(losses)) for _ in row.draws) for row in rows)

    def _ratios(self, rows: Sequence[_Row], base: Grid) -> Ratios:
        found = list(zip(rows, minus(self._logs(rows), base), strict=True))
        high = (logs[row.mids :] for row, logs in found)
        return Ratios(tuple(logs[: row.mids] for row, logs in found), tuple(logs for logs in high if logs))


def _log(loss: float) -> float:
    return math.log(loss) if 0 < loss < math.inf else math.nan
