"""What the UNet is asked to predict, and how much each timestep counts. Pure tensor functions."""

from __future__ import annotations

from torch import Tensor

from tsuika.core.types import Prediction


def target(prediction: Prediction, latents_BCHW: Tensor, noise_BCHW: Tensor, alphas_B: Tensor) -> Tensor:
    """The regression target: the noise, or v = sqrt(a) noise - sqrt(1 - a) x_0 (Salimans & Ho 2022, appendix D)."""
    if prediction == "epsilon":
        return noise_BCHW
    a = alphas_B.view(-1, 1, 1, 1)
    return a.sqrt() * noise_BCHW - (1 - a).sqrt() * latents_BCHW


def min_snr_weight(prediction: Prediction, alphas_B: Tensor, gamma: float) -> Tensor:
    """Min-SNR-gamma weights (B,) (Hang et al. 2023, section 3.4); gamma 0 weighs all timesteps alike.

    min(snr, gamma) / snr for epsilon, min(snr, gamma) / (snr + 1) for v.
    """
    snr = alphas_B / (1 - alphas_B).clamp_min(1e-8)
    if gamma == 0:
        return snr.new_ones(snr.shape)
    floor = 1 if prediction == "v_prediction" else 0
    return snr.clamp(max=gamma) / (snr + floor).clamp_min(1e-8)
