"""What a base has learnt to predict, as one object: how noise is mixed in, the target, the way back, and the weights.
Shapes: B images, C latent channels, H x W latents. Latents with more channels than their noise have behind them what an
inpainting model is given: it stays as it is. Times `t_B` are what `Model.denoise` takes: whole timesteps of a noise
schedule, or 1000 times the share of noise for flow. Pure tensor functions: no model, no settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

from tsuika.core import kinds
from tsuika.core.texts import _
from tsuika.core.types import Prediction

Spread = Literal["auto", "uniform", "logit-normal"]
# The scale of a flow's times, and the number of timesteps that others are given for: of Stable Diffusion's schedule.
SCALE: Final = 1000
_EDGE: Final = 1e-4  # of the uniform draw, so that its logit is finite


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


def logit_normal(u_B: Tensor) -> Tensor:
    """Numbers drawn uniformly from 0..1 as draws of sigmoid(standard normal) (Esser et al. 2024), in the same order."""
    drawn: Tensor = torch.special.ndtri(u_B.double().clamp(_EDGE, 1 - _EDGE)).sigmoid()
    return drawn


def pyramid_noise(noise_BCHW: Tensor, levels: int, discount: float, generator: torch.Generator) -> Tensor:
    """Noise with noise of lower resolutions on it, each weaker by `discount`, at unit variance again (Whitaker 2023, as in
    kohya's sd-scripts: `multires_noise_iterations`). (B, C, H, W)."""
    _b, _c, height, width = noise_BCHW.shape
    total = noise_BCHW.clone()
    for level in range(levels):
        # Rather than always half the size.
        ratio = (2 + 2 * float(torch.rand((), generator=generator))) ** level
        size = max(1, int(height / ratio)), max(1, int(width / ratio))
        coarse = torch.randn(*noise_BCHW.shape[:2], *size, generator=generator)
        total += discount**level * functional.interpolate(coarse, (height, width), mode="bilinear")
        if 1 in size:
            break
    return total / total.std()


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


def squared_error(output_BCHW: Tensor, target_BCHW: Tensor, mask_B1HW: Tensor | None = None) -> Tensor:
    """Mean squared error of each image, float32 (B,). A mask multiplies the error of each latent, and the mean stays over
    all of them, as in kohya's sd-scripts (`apply_masked_loss`): an image of which little is shown weighs little."""
    error_BCHW = (output_BCHW.float() - target_BCHW).pow(2)
    return (error_BCHW if mask_B1HW is None else error_BCHW * mask_B1HW).flatten(1).mean(1)


def min_snr_weight(prediction: Prediction, alphas_B: Tensor, gamma: float) -> Tensor:
    """Min-SNR-gamma weights (B,) (Hang et al. 2023, section 3.4); gamma 0 weighs all timesteps alike. min(snr, gamma) /
    snr for epsilon, min(snr, gamma) / (snr + 1) for v."""
    snr = alphas_B / (1 - alphas_B).clamp_min(1e-8)
    if gamma == 0:
        return snr.new_ones(snr.shape)
    floor = 1 if prediction == "v_prediction" else 0
    return snr.clamp(max=gamma) / (snr + floor).clamp_min(1e-8)


@dataclass(frozen=True)
class Denoising:
    """Epsilon or v on a noise schedule (Ho et al. 2020; Salimans & Ho 2022). What its methods do, `Flow`'s do, too."""

    prediction: Prediction
    alphas_T: Tensor

    def times(self, u_B: Tensor, spread: Spread = "auto", span: tuple[int, int] = (0, SCALE)) -> Tensor:
        """The times (B,) for numbers drawn uniformly from 0..1, in the same order: the larger, the noisier. `spread`:
        how they lie (`auto`: uniform; of a flow logit-normal); `span`: from which timestep to below which, of 1000."""
        count, (low, high) = len(self.alphas_T), (end / SCALE for end in span)
        share_B = logit_normal(u_B) if spread == "logit-normal" else u_B
        return ((low + share_B * (high - low)) * count).long().clamp_(max=math.ceil(high * count) - 1)

    def noise_to_signal(self, t_B: Tensor) -> Tensor:
        """sqrt((1 - a) / a) at the times (B,); infinite at zero SNR."""
        a = self._alphas(t_B)
        return ((1 - a) / a).sqrt()

    def at(self, t: int) -> int:
        """The time nearest to a timestep of Stable Diffusion's schedule (0..999)."""
        return t * len(self.alphas_T) // SCALE

    @property
    def noisiest(self) -> int:
        """The last time at which the output says something of the clean latents."""
        # With epsilon at zero SNR the output says nothing of the clean latents.
        return len(self.alphas_T) - 1 if self.prediction != "epsilon" else int((self.alphas_T > 0).sum()) - 1

    def add_noise(self, latents_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """The noisy latents that the model is given."""
        own_BCHW, given_BCHW = _parted(latents_BCHW, noise_BCHW)
        return _joined(add_noise(own_BCHW, noise_BCHW, self._alphas(t_B)), given_BCHW)

    def target(self, latents_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """What its output should be."""
        return target(self.prediction, _parted(latents_BCHW, noise_BCHW)[0], noise_BCHW, self._alphas(t_B))

    def split(self, noisy_BCHW: Tensor, output_BCHW: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        """The clean latents and the noise that an output means: `add_noise` and `target` turned around."""
        a = self._alphas(t_B).view(-1, 1, 1, 1)
        if self.prediction == "epsilon":
            return (noisy_BCHW - (1 - a).sqrt() * output_BCHW) / a.sqrt(), output_BCHW
        # Salimans & Ho 2022, appendix D
        return self.clean_direction(noisy_BCHW, output_BCHW, t_B), a.sqrt() * output_BCHW + (1 - a).sqrt() * noisy_BCHW

    def clean_direction(self, noisy_BCHW: Tensor, output_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """The clean latents that an output means, up to a positive factor; finite at every time."""
        a = self._alphas(t_B).view(-1, 1, 1, 1)
        own = 1 if self.prediction == "epsilon" else a.sqrt()
        return own * noisy_BCHW - (1 - a).sqrt() * output_BCHW

    def _alphas(self, t_B: Tensor) -> Tensor:
        return self.alphas_T[t_B.to(self.alphas_T.device)].to(t_B.device)

    def weight(self, t_B: Tensor, min_snr_gamma: float) -> Tensor:
        """The loss weights (B,) of the times."""
        return min_snr_weight(self.prediction, self._alphas(t_B), min_snr_gamma)


@dataclass(frozen=True)
class Flow:
    """Rectified flow: x = (1 - s) x_0 + s noise, and the model predicts noise - x_0 (Liu et al. 2023; Esser et al.
    2024). Times are drawn as Esser et al. 2024 do: logit-normal, then moved towards noise by `shift`. Every time weighs
    alike."""

    shift: float = 1.0

    def times(self, u_B: Tensor, spread: Spread = "auto", span: tuple[int, int] = (0, SCALE)) -> Tensor:
        s_B = u_B.double() if spread == "uniform" else logit_normal(u_B)
        low, high = (end / SCALE for end in span)
        t_B = SCALE * self.shift * s_B / (1 + (self.shift - 1) * s_B)
        return (SCALE * low + t_B * (high - low)).float()

    def at(self, t: int) -> int:
        return t

    @property
    def noisiest(self) -> int:
        return SCALE

    def add_noise(self, latents_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
        s, (own_BCHW, given_BCHW) = _share(t_B), _parted(latents_BCHW, noise_BCHW)
        return _joined((1 - s) * own_BCHW + s * noise_BCHW, given_BCHW)

    def target(self, latents_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
        del t_B
        return noise_BCHW - _parted(latents_BCHW, noise_BCHW)[0]

    def split(self, noisy_BCHW: Tensor, output_BCHW: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        return self.clean_direction(noisy_BCHW, output_BCHW, t_B), noisy_BCHW + (1 - _share(t_B)) * output_BCHW

    def clean_direction(self, noisy_BCHW: Tensor, output_BCHW: Tensor, t_B: Tensor) -> Tensor:
        return noisy_BCHW - _share(t_B) * output_BCHW

    def weight(self, t_B: Tensor, min_snr_gamma: float) -> Tensor:
        return torch.ones(t_B.shape, device=t_B.device)


Objective = Denoising | Flow


def _parted(latents_BCHW: Tensor, like_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Latents, as many channels as `like_BCHW` has, and what is given behind them; mostly nothing."""
    own = like_BCHW.shape[1]
    return latents_BCHW[:, :own], latents_BCHW[:, own:]


def _joined(noisy_BCHW: Tensor, given_BCHW: Tensor) -> Tensor:
    return torch.cat([noisy_BCHW, given_BCHW.to(noisy_BCHW)], dim=1) if given_BCHW.shape[1] else noisy_BCHW


def _share(t_B: Tensor) -> Tensor:
    return (t_B.float() / SCALE).view(-1, 1, 1, 1)


def flow_shift(scheduler_config: Mapping[str, Any]) -> float:
    """How far times are moved towards noise: flow's own schedulers and the others have two names for it."""
    return float(scheduler_config.get("shift", scheduler_config.get("flow_shift", 1.0)))


def objective(prediction: Prediction, scheduler_config: Mapping[str, Any], device: torch.device | str) -> Objective:
    """What a base with this prediction and diffusers scheduler config is trained by. Raises ModelError: a beta schedule
    that Stable Diffusion does not use (MD002)."""
    if prediction == "flow":
        return Flow(flow_shift(scheduler_config))
    return Denoising(prediction, alphas_cumprod_T(scheduler_config).to(device))
