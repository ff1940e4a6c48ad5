"""`fit`: the one training loop, a generator of events. It knows no method, no family, no file.

Noising, target and weighting are `diffusion.objective`, with the papers' equations.
Shapes: B images of a micro-batch (of this process, within `fit`), C latent channels, H x W latents.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from tsuika.core.errors import DivergedError
from tsuika.core.events import Stepped
from tsuika.core.sections import Train
from tsuika.core.seeds import derive, generator
from tsuika.core.types import Attachment, Batch, Conditioning, Model
from tsuika.diffusion import losses
from tsuika.diffusion.objective import Objective, pyramid_noise, stratified
from tsuika.training.fit import Conditioner, Fit

# Encoded captions in memory: 0.1 MB each (SD1) to 0.3 MB (SDXL). With shuffled tags every caption is a new one.
CAPTIONS: Final = 1024
# Those of SD3 have 3 to 6 MB each.
CAPTION_BYTES: Final = 400_000_000


def fit(run: Fit, until: int | None = None) -> Iterator[Stepped]:
    """Train from `run.step` to step `until` (by default the schedule's end). Close the generator to stop between steps.

    Yields an event after each step of the optimizer. Raises DivergedError: a loss or gradient is not finite; the weights are
    still the last good ones.
    """
    train, accelerator, objective = run.recipe.train, run.accelerator, run.objective
    # Every process draws the global batch and takes its rows, so that their number changes no sample.
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    while run.step < (run.schedule.last if until is None else until):
        began = time.monotonic()
        torch.manual_seed(derive(train.seed, "dropout", run.step, accelerator.process_index))
        rate_share = run.schedule.share(run.step)
        run.set_rate(rate_share)
        run.optimizer.zero_grad(set_to_none=True)
        total, errors = torch.zeros((), device=run.model.device), list[tuple[tuple[str, ...], Tensor]]()
        for micro_batch in range(run.step * train.accumulate, (run.step + 1) * train.accumulate):
            batch = run.batch(micro_batch)
            # What an inpainting base is given behind the latents gets no noise.
            own_BCHW = batch.latents_BCHW[:, : run.model.facts.latent_channels]
            t_B, noise_BCHW = draw(train, micro_batch, own_BCHW, objective)
            seen_BCHW = perturbed(train, micro_batch, noise_BCHW)
            part, noise_BCHW, seen_BCHW, t_B = batch[mine], noise_BCHW[mine], seen_BCHW[mine], t_B[mine]
            latents_BCHW = part.latents_BCHW
            with accelerator.autocast():
                noisy_BCHW = objective.add_noise(latents_BCHW, seen_BCHW, t_B)
                output_BCHW, class_drift_B = run.predict(noisy_BCHW, t_B, part)
            target_BCHW = objective.target(latents_BCHW, noise_BCHW, t_B)
            threshold_B = None
            if train.loss != "l2":
                threshold_B = losses.thresholds(objective, train.huber_schedule, train.huber_c, t_B)
            error_B = losses.errors(train.loss, output_BCHW.float(), target_BCHW, threshold_B, part.mask_B1HW)
            if class_drift_B is not None:
                error_B = error_B + run.recipe.regularize.output_preservation * class_drift_B
            weight_B = objective.weight(t_B, train.min_snr_gamma) * part.weight_B
            loss = (error_B * weight_B).mean() / train.accumulate
            accelerator.backward(loss)
            total += loss.detach()
            errors.append((batch.names, error_B.detach()))
        # A device is waited for once in a step, here.
        mean_loss, grad_norm = torch.stack([accelerator.reduce(total, "mean"), run.clip_gradients()]).tolist()
        # A norm that is not finite alone: fp16's scaler skips such a step by itself.
        if not math.isfinite(mean_loss) or not (math.isfinite(grad_norm) or accelerator.mixed_precision == "fp16"):
            raise _diverged(run, _not_finite(run, errors))
        run.advance(rate_share)
        yield Stepped(run.step, mean_loss, grad_norm, train.learning_rate * rate_share, time.monotonic() - began)


def draw(train: Train, micro_batch: int, like_BCHW: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    """Stratified times (B,) and noise (B, C, H, W) of a global micro-batch: a function of the seed and its number."""
    source = generator(train.seed, "noise", micro_batch)
    shape = like_BCHW.shape
    t_B = objective.times(stratified(shape[0], source), train.timesteps, (train.min_timestep, train.max_timestep))
    noise_BCHW = torch.randn(shape, generator=source)
    if train.noise_offset:
        noise_BCHW = noise_BCHW + train.noise_offset * torch.randn(*shape[:2], 1, 1, generator=source)
    if train.multires_noise:
        noise_BCHW = pyramid_noise(noise_BCHW, train.multires_noise, train.multires_noise_discount, source)
    return t_B.to(like_BCHW.device), noise_BCHW.to(like_BCHW.device)


def perturbed(train: Train, micro_batch: int, noise_BCHW: Tensor) -> Tensor:
    """The noise that a global micro-batch's images get, where its targets are made of `noise_BCHW` (Ning et al. 2023,
    "Input Perturbation Reduces Exposure Bias in Diffusion Models"; as sd-scripts' `ip_noise_gamma`)."""
    if not train.ip_noise_gamma:
        return noise_BCHW
    source = generator(train.seed, "input perturbation", micro_batch)
    return noise_BCHW + train.ip_noise_gamma * torch.randn(noise_BCHW.shape, generator=source).to(noise_BCHW.device)


def conditioner(
    model: Model, attachment: Attachment, size_px: Callable[[Batch], tuple[int, int]], *, of_base: bool = False
) -> Conditioner:
    """Captions to conditioning; where no text role trains each is encoded once, and the latest `CAPTIONS` are held, as far
    as `CAPTION_BYTES` go. `of_base`: it is only asked while the attachment is off."""
    trains_text = not of_base and any(role.startswith("text.") for role in attachment.trains)
    held: dict[Any, Conditioning] = {}

    def encode(batch: Batch) -> Conditioning:
        size = size_px(batch)
        if trains_text:
            return model.encode_text(batch.captions, size_px=size)
        for caption in dict.fromkeys(batch.captions):
            if (caption, size) in held:
                held[caption, size] = held.pop((caption, size))  # to the end: the first are the longest unused
            else:
                # By itself: its bits must not depend on which others were missing, as after a resume.
                with torch.no_grad():
                    held[caption, size] = model.encode_text([caption], size_px=size)
        found = Conditioning.join([held[caption, size] for caption in batch.captions])
        while len(held) > CAPTIONS or (len(held) > 1 and sum(map(_size_of, held.values())) > CAPTION_BYTES):
            del held[next(iter(held))]
        return found

    return encode


def _size_of(cond: Conditioning) -> int:
    return cond.tokens_BSD.nbytes + (0 if cond.pooled_BP is None else cond.pooled_BP.nbytes)


def _not_finite(run: Fit, errors: Sequence[tuple[tuple[str, ...], Tensor]]) -> tuple[str, ...]:
    """The images of a step, of all processes, whose error is not finite; all of them where only mean or gradient is not."""
    processes, found = run.accelerator.num_processes, list[str]()
    for names, error_B in errors:
        # Process by process.
        ordered = [name for i in range(processes) for name in names[i::processes]]
        bad = (~torch.isfinite(run.accelerator.gather(error_B))).tolist()
        found += [name for name, is_bad in zip(ordered, bad, strict=True) if is_bad]
    return tuple(dict.fromkeys(found or [name for names, _error in errors for name in names]))


def _diverged(run: Fit, images: tuple[str, ...]) -> DivergedError:
    rate = f"{run.recipe.train.learning_rate / 3:.2g}"
    return DivergedError("TR001", step=run.step + 1, pictures=", ".join(images), kept=run.step, rate=rate)
