"""The forward process, what the UNet is asked to predict, and how much each timestep counts. Pure tensor functions.
Shapes: T timesteps of the schedule, B images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tsuika.core import kinds
from tsuika.core.texts import _
from tsuika.core.types import Prediction


def alphas_cumprod_T(config: Mapping[str, Any]) -> Tensor:
    """Cumulative products of 1 - beta for a diffusers scheduler config, float32 (T,). Betas as in Ho et al. 2020
    (`linear`) and CompVis latent diffusion (`scaled_linear`), or those that the config lists (`trained_betas`);
    `rescale_betas_zero_snr` as in Lin et al. 2023, algorithm 1. Raises ModelError: a beta schedule that Stable
    Diffusion does not use (MD002)."""
    count = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 0.00085)), float(config.get("beta_end", 0.012))
    kind = config.get("beta_schedule", "scaled_linear")
    if (listed := config.get("trained_betas")) is not None:
        betas = torch.tensor(listed, dtype=torch.float64)
    elif kind == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64) ** 2
    elif kind == "linear":
        betas = torch.linspace(start, end, count, dtype=torch.float64)
    else:
        found = _("a model with the noise schedule {kind} (scaled_linear or linear is needed)", kind=kind)
        raise kinds.unlike("scheduler_config.json", kinds.other(found))
    alphas = torch.cumprod(1 - betas, dim=0)
    if config.get("rescale_betas_zero_snr", False):
        root = alphas.sqrt()
        alphas = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return alphas.float()


def stratified(size: int, generator: torch.Generator) -> Tensor:
    """One number from each of `size` equal strata of 0..1, in random order (size,). The timestep explains most of the
    variance of a batch's loss; strata take that variance out of the gradient without moving its mean."""
    strata = (torch.arange(size) + torch.rand(size, generator=generator)) / size
    return strata[torch.randperm(size, generator=generator)]


def stratified_timesteps(size: int, count: int, generator: torch.Generator) -> Tensor:
    """One timestep from each of `size` equal strata of 0..count-1, in random order (size,)."""
    return (stratified(size, generator) * count).long().clamp_(max=count - 1)


def add_noise(latents_BCHW: Tensor, noise_BCHW: Tensor, alphas_B: Tensor) -> Tensor:
    """q(x_t | x_0): sqrt(a) x_0 + sqrt(1 - a) noise (Ho et al. 2020, equation 4)."""
    a = alphas_B.view(-1, 1, 1, 1)
    return a.sqrt() * latents_BCHW + (1 - a).sqrt() * noise_BCHW


def target(prediction: Prediction, latents_BCHW: Tensor, noise_BCHW: Tensor, alphas_B: Tensor) -> Tensor:
    """The regression target: the noise, or v = sqrt(a) noise - sqrt(1 - a) x_0 (Salimans & Ho 2022, appendix D)."""
    if prediction == "epsilon":
        return noise_BCHW
    a = alphas_B.view(-1, 1, 1, 1)
    return a.sqrt() * noise_BCHW - (1 - a).sqrt() * latents_BCHW


def min_snr_weight(prediction: Prediction, alphas_B: Tensor, gamma: float) -> Tensor:
    """Min-SNR-gamma weights (B,) (Hang et al. 2023, section 3.4); gamma 0 weighs all timesteps alike. min(snr, gamma) /
    snr for epsilon, min(snr, gamma) / (snr + 1) for v."""
    snr = alphas_B / (1 - alphas_B).clamp_min(1e-8)
    if gamma == 0:
        return snr.new_ones(snr.shape)
    floor = 1 if prediction == "v_prediction" else 0
    return snr.clamp(max=gamma) / (snr + floor).clamp_min(1e-8)
