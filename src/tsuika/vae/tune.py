"""Fine-tuning a VAE's decoder on images, and whether it is better on images it has never seen. Latents stay bit for bit.

Every draw is a function of (seed, step). The loss has no learnt judge: absolute and squared error, error of the gradients
(Mathieu et al. 2016, "Deep multi-scale video prediction beyond mean square error"), and by purpose that of local contrast
(`metrics.log_contrasts`; pixel errors alone make it too smooth) or of colour (CIE94, a smooth forerunner of CIEDE2000).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsuika.core.bootstrap import of_differences
from tsuika.core.errors import ImageError
from tsuika.core.events import Event, Progress
from tsuika.core.intervals import Interval
from tsuika.core.seeds import generator
from tsuika.data.split import Group, split
from tsuika.vae import metrics, roundtrip

Purpose = Literal["balanced", "texture", "colour"]
PURPOSES: Final[tuple[Purpose, ...]] = ("balanced", "texture", "colour")
# What must be better on images never seen, by purpose; more is better for PSNR alone.
PROOF: Final = {"balanced": "psnr", "texture": "texture_error", "colour": "colour"}

# Of local contrast and of colour, beside an L1 of 0.02 to 0.06.
_WEIGHTS: Final = {"balanced": (0.02, 0.002), "texture": (0.3, 0.002), "colour": (0.0, 0.1)}
LEAST: Final = 12  # different images: seven or more to learn from, one or two to choose by, four to prove by
# Drawn latents are never quite those of an image; without noise a decoder learns to lean on their last digits.
_LATENT_NOISE: Final = 0.03  # of the latents' standard deviation


@dataclass(frozen=True)
class Settings:
    purpose: Purpose = "balanced"
    steps: int = 600
    batch: int = 4
    learning_rate: float = 1e-4
    average: float = 0.99  # of the weights over steps
    check_every: int = 50
    patience: int = 4  # checks without gain, after which to stop
    seed: int = 0
    half: bool = False  # bf16 for the decoder's own computing


@dataclass(frozen=True)
class Fitted:
    """What a fit has come to; step 0 is the decoder as it was."""

    best_step: int
    steps_done: int
    checks: tuple[tuple[int, float], ...]  # step, loss on the images kept for stopping


def loss(output_B3HW: Tensor, target_B3HW: Tensor, purpose: Purpose) -> Tensor:
    """What a fit makes smaller: a scalar, differentiable also where colours are equal."""
    rows = F.l1_loss(output_B3HW.diff(dim=-2), target_B3HW.diff(dim=-2))
    columns = F.l1_loss(output_B3HW.diff(dim=-1), target_B3HW.diff(dim=-1))
    total = F.l1_loss(output_B3HW, target_B3HW) + 1.5 * F.mse_loss(output_B3HW, target_B3HW) + 0.5 * (rows + columns)
    contrast, colour = _WEIGHTS[purpose]
    lab, truth = metrics.to_lab(output_B3HW), metrics.to_lab(target_B3HW)
    if contrast:
        pairs = zip(metrics.log_contrasts(lab[:, :1]), metrics.log_contrasts(truth[:, :1]), strict=True)
        total = total + contrast * torch.stack([(a - b).abs().mean() for a, b in pairs]).mean()
    return total + colour * _cie94(lab, truth).mean()


def _cie94(lab_B3HW: Tensor, truth_B3HW: Tensor) -> Tensor:
    """Colour difference (B, H, W), weighted by the original's chroma. Source: CIE 116-1995."""
    (l1, a1, b1), (l2, a2, b2) = truth_B3HW.unbind(1), lab_B3HW.unbind(1)
    c1, c2 = (a1**2 + b1**2 + 1e-6).sqrt(), (a2**2 + b2**2 + 1e-6).sqrt()
    chroma = (c2 - c1) ** 2
    hue = ((a2 - a1) ** 2 + (b2 - b1) ** 2 - chroma).clamp(min=0)
    return ((l2 - l1) ** 2 + chroma / (1 + 0.045 * c1) ** 2 + hue / (1 + 0.015 * c1) ** 2 + 1e-4).sqrt()


def rate(vae: nn.Module) -> float:
    """A learning rate by the decoder's width: 1e-5 at the 512 channels of Stable Diffusion, 1.6e-4 at 128."""
    return 1e-5 * math.pow(512 / max(roundtrip.config(vae)["block_out_channels"]), 2)


def crops(images: Sequence[Tensor], settings: Settings, side: int) -> Callable[[int], Tensor]:
    """What a step trains on: random crops of random images (1, 3, H, W), mirrored at random; `side` px fit into all."""

    def draw(step: int) -> Tensor:
        source = generator(settings.seed, "vae tune", step)
        rows = torch.randint(len(images), (settings.batch,), generator=source).tolist()
        made = []
        for row in rows:
            image, place = images[row], torch.rand(3, generator=source).tolist()
            top, left = (int(share * (have - side + 1)) for share, have in zip(place, image.shape[-2:]))
            crop = image[..., top : top + side, left : left + side]
            made.append(crop.flip(-1) if place[2] < 0.5 else crop)
        return torch.cat(made)

    return draw


@torch.no_grad()
def loss_on(vae: nn.Module, images: Sequence[Tensor], purpose: Purpose) -> float:
    """Mean loss over whole images (1, 3, H, W)."""
    device = next(vae.parameters()).device
    losses = []
    for image in images:
        target = image.to(device)
        output = roundtrip.decode(vae, roundtrip.encode(vae, target))
        losses.append(float(loss(output.clamp(-1, 1), target, purpose)))
    return math.fsum(losses) / len(losses)


def fit(
    vae: nn.Module, draw: Callable[[int], Tensor], judge: Callable[[nn.Module], float], settings: Settings
) -> Generator[Event, None, Fitted]:
    """Train `vae.decoder` (float32, frozen) in place, with a `Progress` for each step.

    It ends as the average of weights that the judge found best (as it was, if none). `draw`: step -> images (B, 3, H, W) to
    train on; `judge`: of a VAE, by images that `draw` never gives; less is better.
    Raises FloatingPointError: the loss is not finite; the decoder is as it was.
    """
    decoder: nn.Module = vae.decoder  # type: ignore[assignment]
    device = next(decoder.parameters()).device
    start = {name: value.clone() for name, value in decoder.state_dict().items()}
    average = copy.deepcopy(decoder).requires_grad_(False)
    decoder.requires_grad_(True)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)

    def judged() -> float:
        vae.decoder = average
        try:
            return judge(vae)
        finally:
            vae.decoder = decoder

    best, best_step, step = start, 0, 0
    checks = [(0, judged())]
    try:
        for step in range(1, settings.steps + 1):
            # A twentieth of the steps up, then a half cosine down to a hundredth.
            up, turn = min(1.0, step / max(1, settings.steps / 20)), math.cos(math.pi * step / settings.steps)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * (up * (0.01 + 0.99 * 0.5 * (1 + turn)))
            target = draw(step).to(device)
            latents = roundtrip.encode(vae, target)
            noise = torch.randn(latents.shape, generator=generator(settings.seed, "vae tune noise", step)).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.half):
                output = vae.decode(latents + _LATENT_NOISE * latents.std() * noise).sample  # type: ignore[operator]
            value = loss(output.float(), target, settings.purpose)
            if not value.isfinite():
                best, best_step = start, 0
                raise FloatingPointError(step)
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
            optimizer.step()
            keep = min(settings.average, (1 + step) / (10 + step))  # early weights do not linger
            for mean, now in zip(average.parameters(), decoder.parameters(), strict=True):
                mean.lerp_(now.detach(), 1 - keep)
            yield Progress("tune-vae", step, settings.steps)
            if step % settings.check_every == 0 or step == settings.steps:
                checks.append((step, judged()))
                if checks[-1][1] < min(number for _, number in checks[:-1]):
                    best = {name: value.clone() for name, value in average.state_dict().items()}
                    best_step = step
                elif step - best_step >= settings.patience * settings.check_every:
                    break
    finally:
        decoder.load_state_dict(best)
        decoder.requires_grad_(False)
    return Fitted(best_step, step, tuple(checks))


@dataclass(frozen=True)
class Parts:
    train: tuple[str, ...]
    choose: tuple[str, ...]
    prove: tuple[str, ...]


def parts(groups: Sequence[Group], seed: int) -> Parts:
    """Deal images out, those of one group together: what was chosen by images looks better on them than it is.

    Raises ImageError (VA021): too few different ones.
    """
    if len(groups) < LEAST:
        raise ImageError("VA021", found=len(groups), needed=LEAST)
    dealt = split(groups, seed, count=min(72, round(0.4 * len(groups))))
    out = set(dealt.parts[0])
    held = [group for group in groups if out & set(group)]
    first = max(1, len(held) // 3)
    choose, prove = ([name for group in some for name in group] for some in (held[:first], held[first:]))
    return Parts(dealt.inside(), tuple(choose), tuple(prove))


@dataclass(frozen=True)
class Proof:
    """Changes of every measure on the images kept for proving: after - before."""

    measure: str  # what had to become better
    changes: Mapping[str, Interval]
    before: Mapping[str, float]
    after: Mapping[str, float]

    @property
    def is_better(self) -> bool:
        return self.changes[self.measure].sign == (1 if metrics.MEASURES[self.measure] else -1)

    @property
    def costs(self) -> list[str]:
        """The measures that are worse by more than chance."""
        worse: dict[bool | None, int] = {True: -1, False: 1}
        return [name for name, change in self.changes.items() if change.sign == worse.get(metrics.MEASURES[name])]


def prove(
    before: Sequence[Mapping[str, float]],
    after: Sequence[Mapping[str, float]],
    groups: Sequence[int],
    purpose: Purpose,
    seed: int,
) -> Proof:
    names = list(metrics.MEASURES)
    changes = {
        name: of_differences([row[name] for row in after], [row[name] for row in before], groups, seed=seed)
        for name in names
    }
    first, second = ({name: metrics.mean(rows, name) for name in names} for rows in (before, after))
    return Proof(PROOF[purpose], changes, first, second)


def measured(vae: nn.Module, images: Sequence[Tensor]) -> list[dict[str, float]]:
    """`metrics.measure` of each image (1, 3, H, W) after a round trip."""
    made = (roundtrip.decode(vae, roundtrip.encode(vae, image)) for image in images)
    return [metrics.measure(one, image.to(one.device))[0] for one, image in zip(made, images, strict=True)]


def narrowest(tensors: Iterable[Tensor]) -> torch.dtype:
    """The smallest number type that holds these numbers bit for bit: what they were stored in."""
    every = list(tensors)
    for dtype in (torch.float16, torch.bfloat16):
        if all(torch.equal(one.to(dtype).to(one.dtype), one) for one in every):
            return dtype
    return torch.float32


def rounded(vae: nn.Module, dtype: torch.dtype) -> None:
    """Give a VAE's numbers, in place, what storing them in `dtype` leaves: what is proven is what is written."""
    for value in vae.state_dict().values():
        value.copy_(value.to(dtype))


def words(change: Interval) -> dict[str, str]:
    """An interval for a message: `mean`, `low`, `high`."""
    return {key: "–" if value is None else f"{value:+.3f}" for key, value in change.to_dict().items()}
