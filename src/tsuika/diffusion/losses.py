"""The error of a prediction, image by image. Shapes: B images, C latent channels, H x W latents.

Huber and smooth L1 are the pseudo-Huber forms of kohya's sd-scripts (Khrapov et al. 2024, arXiv:2403.16728): quadratic for
differences below a threshold, linear above it, with a threshold that may depend on the timestep."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tsuika.diffusion.objective import SCALE, Denoising, Objective

LossKind = Literal["l2", "huber", "smooth-l1"]
HuberSchedule = Literal["snr", "exponential", "constant"]


def errors(kind: LossKind, output_BCHW: Tensor, target_BCHW: Tensor, threshold_B: Tensor | None = None) -> Tensor:
    """Mean error of each image (B,). l2: the squared difference d^2. With the threshold c, huber: 2 c (sqrt(d^2 + c^2) -
    c), which is d^2 for small ones; smooth-l1: the same by c, which is 2 |d| for large ones."""
    square = (output_BCHW - target_BCHW).pow(2)
    if threshold_B is None:
        return square.flatten(1).mean(1)
    c = threshold_B.view(-1, 1, 1, 1)
    # sqrt(d^2 + c^2) - c without the difference of two numbers that are nearly the same.
    smooth_B = 2 * (square / ((square + c**2).sqrt() + c)).flatten(1).mean(1)
    return threshold_B * smooth_B if kind == "huber" else smooth_B


def thresholds(objective: Objective, schedule: HuberSchedule, c: float, t_B: Tensor) -> Tensor:
    """The threshold (B,) at the times: `constant` c; `exponential` from 1 at no noise to c at the last timestep; `snr`
    (1 - c) / (1 + sigma)^2 + c with sigma the noise by the signal. Raises ValueError: `snr` with a flow, which kohya's
    scripts do not define."""
    if schedule == "constant":
        return torch.full(t_B.shape, c, device=t_B.device)
    if schedule == "exponential":
        count = len(objective.alphas_T) if isinstance(objective, Denoising) else SCALE
        return c ** (t_B.float() / count)
    if not isinstance(objective, Denoising):
        raise ValueError("the schedule snr needs a noise schedule")
    return (1 - c) / (1 + objective.noise_to_signal(t_B)) ** 2 + c
