"""Objectives against diffusers' own schedulers, and against themselves: what goes in comes out."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from tsuika.core.types import Prediction
from tsuika.diffusion.objective import (
    Flow,
    Objective,
    alphas_cumprod_T,
    min_snr_weight,
    objective,
    pyramid_noise,
    stratified,
    stratified_timesteps,
)

ZERO_SNR: dict[str, Any] = {"rescale_betas_zero_snr": True}


def some(seed: int, count: int = 5) -> Tensor:
    return torch.randn(count, 4, 3, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=get_args(Prediction))
def trained(request: pytest.FixtureRequest) -> Objective:
    return objective(request.param, {}, "cpu")


def test_an_output_means_what_the_target_was_made_of(trained: Objective) -> None:
    clean, noise, t_B = some(0), some(1), torch.tensor([1, 250, 500, 800, 950])
    noisy = trained.add_noise(clean, noise, t_B)
    output = trained.target(clean, noise, t_B)
    for found, true in zip(trained.split(noisy, output, t_B), (clean, noise), strict=True):
        torch.testing.assert_close(found, true, rtol=1e-3, atol=1e-3)
    direction = trained.clean_direction(noisy, output, t_B).flatten(1)
    torch.testing.assert_close(torch.cosine_similarity(direction, clean.flatten(1)), torch.ones(5), rtol=0, atol=1e-3)


def test_more_noise_with_time_and_nothing_else_at_the_end(trained: Objective) -> None:
    clean, noise = some(0, 1), some(1, 1)
    parts = [trained.add_noise(clean, 0 * noise, torch.tensor([t])).abs().mean() for t in (1, 300, 600, 900)]
    assert parts == sorted(parts, reverse=True)
    last = trained.add_noise(clean, noise, torch.tensor([trained.noisiest]))
    assert float(torch.cosine_similarity(last.flatten(), noise.flatten(), dim=0)) > 0.99


def test_times_keep_their_order_and_strata(trained: Objective) -> None:
    u_B = torch.linspace(0, 1, 500)
    times = trained.times(u_B)
    assert (times.diff() >= 0).all() and times[0] >= 0 and times[-1] <= trained.noisiest


def test_noise_schedules_draw_as_they_always_did() -> None:
    source, same = (torch.Generator().manual_seed(4) for _ in range(2))
    trained = objective("epsilon", {}, "cpu")
    assert torch.equal(trained.times(stratified(7, source)), stratified_timesteps(7, 1000, same))
    t_B = torch.tensor([3, 700])
    assert torch.equal(trained.weight(t_B, 5.0), min_snr_weight("epsilon", alphas_cumprod_T({})[t_B], 5.0))


def test_the_last_time_that_says_something() -> None:
    assert [objective(kind, ZERO_SNR, "cpu").noisiest for kind in ("epsilon", "v_prediction")] == [998, 999]


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_is_that_of_diffusers(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    clean, noise, t_B = some(0), some(1), scheduler.timesteps[[0, 250, 500, 750, 998]]
    flow = objective("flow", scheduler.config, "cpu")
    noisy = flow.add_noise(clean, noise, t_B)
    torch.testing.assert_close(noisy, scheduler.scale_noise(clean, t_B, noise))
    # One Euler step from any time to none, along the true target, ends at the clean latents.
    torch.testing.assert_close(noisy - (t_B / 1000).view(-1, 1, 1, 1) * flow.target(clean, noise, t_B), clean)
    assert (flow.weight(t_B, 5.0) == 1).all()


def test_flow_times_are_logit_normal_and_shifted() -> None:
    """Quantiles by the formula of Esser et al. 2024: s = 3 l / (1 + 2 l), l the logistic function of a normal number."""
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    normal = torch.distributions.Normal(0.0, 1.0).icdf(quantiles)
    logistic = 1 / (1 + torch.exp(-normal))
    torch.testing.assert_close(Flow(3.0).times(quantiles) / 1000, 3 * logistic / (1 + 2 * logistic))


@pytest.mark.parametrize("spread", ["auto", "uniform", "logit-normal"])
def test_a_span_keeps_every_time_in_it_and_the_strata(trained: Objective, spread: Any) -> None:
    u_B = torch.linspace(0, 1 - 1e-7, 1000)
    times = trained.times(u_B, spread, (200, 500))
    assert (
        (times.diff() >= 0).all() and times.min() >= 200 and times.max() <= (499 if times.dtype == torch.long else 500)
    )
    whole = trained.times(u_B, spread)
    torch.testing.assert_close(times.float(), 200 + 0.3 * whole.float(), rtol=0, atol=1.5)


def test_logit_normal_times_are_so_distributed() -> None:
    """Their logits are a standard normal's: 68 % within one deviation, half below the middle."""
    u_B = stratified(4000, torch.Generator().manual_seed(0))
    share = (objective("epsilon", {}, "cpu").times(u_B, "logit-normal").double() + 0.5) / 1000
    logits = share.logit()
    assert float((logits.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.005)
    assert float((logits < 0).double().mean()) == pytest.approx(0.5, abs=0.005)


def test_pyramid_noise_by_its_definition() -> None:
    """Of unit variance, the same for a seed, and with the low frequencies that each level adds."""
    plain = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    made, again = (pyramid_noise(plain, 6, 0.8, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(made, again) and float(made.std()) == pytest.approx(1)
    source, total, levels = torch.Generator().manual_seed(1), plain.clone(), 0
    upsample = torch.nn.Upsample(size=(16, 24), mode="bilinear")
    for level in range(6):
        ratio = float(torch.rand((), generator=source)) * 2 + 2
        height, width = max(1, int(16 / ratio**level)), max(1, int(24 / ratio**level))
        total += upsample(torch.randn(2, 4, height, width, generator=source)) * 0.8**level
        levels += 1
        if height == 1 or width == 1:
            break
    torch.testing.assert_close(made, total / total.std())
    assert 1 < levels < 6 and torch.equal(plain, torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(0)))
    assert made.mean((2, 3)).std() > 2 * plain.mean((2, 3)).std()
