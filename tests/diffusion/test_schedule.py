"""The forward process against diffusers' own schedulers, and the statistics of stratified timesteps."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from tsuika.core.errors import ModelError
from tsuika.diffusion.objective import add_noise, alphas_cumprod_T, min_snr_weight, stratified_timesteps, target

CONFIGS = [
    {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000},
    {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 200},
    {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True},
    {"trained_betas": [0.001 + 0.00002 * i for i in range(500)], "num_train_timesteps": 500},
]


@pytest.mark.parametrize("config", CONFIGS)
def test_alphas_are_those_of_diffusers(config: dict[str, object]) -> None:
    torch.testing.assert_close(
        alphas_cumprod_T(config), DDPMScheduler(**config).alphas_cumprod.float(), rtol=1e-4, atol=1e-6
    )


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ModelError, match="squaredcos"):
        alphas_cumprod_T({"beta_schedule": "squaredcos_cap_v2"})


def test_noise_and_targets_are_those_of_diffusers() -> None:
    scheduler = DDPMScheduler(**CONFIGS[0])
    alphas = alphas_cumprod_T(CONFIGS[0])
    latents, noise = torch.randn(2, 5, 4, 3, 3, generator=torch.Generator().manual_seed(0)).unbind(0)
    t = torch.tensor([0, 3, 400, 901, 999])
    torch.testing.assert_close(
        add_noise(latents, noise, alphas[t]), scheduler.add_noise(latents, noise, t), rtol=1e-4, atol=1e-5
    )
    velocity = scheduler.get_velocity(latents, noise, t)
    torch.testing.assert_close(target("v_prediction", latents, noise, alphas[t]), velocity, rtol=1e-4, atol=1e-5)
    assert target("epsilon", latents, noise, alphas[t]) is noise


@pytest.mark.parametrize("size", [1, 3, 8])
def test_every_stratum_gets_one_timestep_and_all_are_reached(size: int) -> None:
    source = torch.Generator().manual_seed(1)
    draws = torch.stack([stratified_timesteps(size, 1000, source) for _ in range(2000)])
    assert draws.min() >= 0 and draws.max() <= 999
    low = torch.arange(size) * 1000 / size
    ordered = draws.sort(dim=1).values
    assert (ordered >= low.floor()).all() and (ordered < (low + 1000 / size).ceil()).all()
    assert abs(float(draws.float().mean()) - 499.5) < 4 * 289 / (2000 * size) ** 0.5
    assert len(draws.unique()) > 800


def test_as_many_draws_as_timesteps_are_each_of_them_once() -> None:
    drawn = stratified_timesteps(16, 16, torch.Generator().manual_seed(1))
    assert drawn.tolist() != list(range(16)) and sorted(drawn.tolist()) == list(range(16))


def test_min_snr_bounds_epsilon_weights_and_is_one_below_gamma() -> None:
    alphas = alphas_cumprod_T(CONFIGS[0])
    weight = min_snr_weight("epsilon", alphas, 5.0)
    snr = alphas / (1 - alphas)
    assert (weight[snr <= 5] == 1).all()
    torch.testing.assert_close((weight * snr)[snr > 5], torch.full_like(snr[snr > 5], 5.0))
    assert (min_snr_weight("v_prediction", alphas, 0) == 1).all()


def test_v_weights_are_the_same_loss_on_the_clean_latent() -> None:
    """min(snr, gamma) / (snr + 1) on v is min(snr, gamma) on x0, as for epsilon: one loss in three coordinates."""
    alphas = alphas_cumprod_T(CONFIGS[0])[[50, 500, 900]]
    clean, wrong, noise = torch.randn(3, 3, 4, 2, 2, generator=torch.Generator().manual_seed(2)).unbind(0)
    noisy = add_noise(clean, noise, alphas)
    a = alphas.view(-1, 1, 1, 1)
    losses = {}
    for kind in ("epsilon", "v_prediction"):
        implied_noise = (noisy - a.sqrt() * wrong) / (1 - a).sqrt()
        error = target(kind, wrong, implied_noise, alphas) - target(kind, clean, noise, alphas)
        losses[kind] = error.pow(2).mean((1, 2, 3)) * min_snr_weight(kind, alphas, 5.0)
    torch.testing.assert_close(losses["epsilon"], losses["v_prediction"], rtol=1e-4, atol=1e-6)
