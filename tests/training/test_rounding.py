"""bfloat16 weights: rounding is right on average, so that updates too small for bfloat16 still count."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import SGD, AdamW

from tsuika.training.optim import StochasticRounding, round_stochastically


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_mean_of_the_roundings_is_the_number() -> None:
    """5 standard errors: of a draw between two neighbours a gap apart, at most gap / 2 / sqrt(draws)."""
    draws = 4000
    values = torch.cat([torch.randn(50, generator=source(1)), torch.tensor([1.0 + 2**-9, -3.0e-5, 7e20, -1e-30])])
    rounded = round_stochastically(values.repeat(draws, 1), source())
    below = round_down(values)
    gap = (round_down(values * (1 + 2**-7)) - below).abs()  # at least the distance of the neighbours
    assert ((rounded.double().mean(0) - values.double()).abs() <= 5 * gap.double() / 2 / draws**0.5).all()
    assert all(len(column.unique()) <= 2 for column in rounded.T)


def round_down(values: torch.Tensor) -> torch.Tensor:
    """Towards zero."""
    return (values.view(torch.int32) & ~0xFFFF).view(torch.float32)


def test_what_bfloat16_holds_stays() -> None:
    values = torch.randn(1000, generator=source()).bfloat16()
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1.5], dtype=torch.bfloat16)
    for held in (values, special):
        assert torch.equal(round_stochastically(held.float(), source(2)), held)
    assert round_stochastically(torch.tensor([torch.nan]), source()).isnan().all()


def test_tiny_updates_survive_on_average() -> None:
    """1.0 with steps of 2^-12: bfloat16's gap below 1 is 2^-8, so rounding to the nearest never moves."""
    steps, rate = 256, 2.0**-12

    def train(make: object) -> torch.Tensor:
        weight = nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
        optimizer = make(weight)  # type: ignore[operator]
        for _ in range(steps):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        return weight.detach().float()

    plain = train(lambda weight: SGD([weight], lr=rate))
    assert torch.equal(plain, torch.ones(4096))
    rows = lambda weight: [{"params": [weight], "lr": rate}]  # noqa: E731
    stochastic = train(lambda weight: StochasticRounding(rows(weight), SGD, seed=0))
    expected = 1 - steps * rate
    # Each step adds a variance of at most (2^-8 / 2)^2, so the mean of all is this far from it in 5 standard errors:
    assert abs(float(stochastic.mean()) - expected) < 5 * 2**-9 * steps**0.5 / 4096**0.5


def test_a_step_is_the_inner_optimizers_in_float32() -> None:
    """Where the weight is float32, nothing is rounded: the very steps of AdamW, state and all."""
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 32)) for _ in range(2))
    settings = {"lr": 1e-2, "weight_decay": 0.1}
    wrapped = StochasticRounding([{"params": [ours], **settings}], AdamW, seed=0)
    plain = AdamW([{"params": [theirs], **settings}])
    for step in range(5):
        ours.grad = theirs.grad = torch.sin(torch.arange(32.0) + step)
        wrapped.step()
        plain.step()
    assert torch.equal(ours, theirs)


def test_the_draws_belong_to_seed_step_and_place() -> None:
    def trained(seed: int, pause: bool) -> torch.Tensor:
        weights = [nn.Parameter(torch.ones(512, dtype=torch.bfloat16)) for _ in range(2)]
        rows = [{"params": weights, "lr": 1e-3}]
        optimizer = StochasticRounding(rows, AdamW, seed=seed)
        for step in range(4):
            if pause and step == 2:
                state = optimizer.state_dict()
                optimizer = StochasticRounding([{"params": weights, "lr": 1e-3}], AdamW, seed=seed)
                optimizer.load_state_dict(state)
            for weight in weights:
                weight.grad = torch.full_like(weight, 1.0 + step)
            torch.rand(1)  # other draws have no part in it
            optimizer.step()
        assert optimizer.state[weights[0]]["exp_avg"].dtype == torch.float32
        return torch.stack([weight.detach() for weight in weights])

    once = trained(0, False)
    assert torch.equal(once, trained(0, True))
    assert not torch.equal(once, trained(1, False))
    assert not torch.equal(once[0], once[1])
