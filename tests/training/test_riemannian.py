"""Riemannian SGD: on the sphere, by the angle it is told, down to the minimum, and on from a saved state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tsuika.training import checkpoint
from tsuika.training.optim import Riemannian

LENGTHS = torch.tensor([[0.4], [3.0], [20.0]])


def start(seed: int = 0) -> nn.Parameter:
    rows = torch.randn(3, 12, generator=torch.Generator().manual_seed(seed))
    return nn.Parameter(LENGTHS * rows / rows.norm(dim=1, keepdim=True))


def angle(one: Tensor, other: Tensor) -> Tensor:
    """Between rows, in radians; by the arc tangent, which is exact at small angles."""
    u, v = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (one, other))
    return 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))


def descend(param: nn.Parameter, optimizer: Riemannian, goal: Tensor, steps: int, scale: float = 1.0) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (-scale * (param * goal).sum()).backward()
        optimizer.step()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_first_step_turns_by_the_learning_rate(scale: float) -> None:
    """Whatever the loss's scale and the vector's length, in the plane of vector and gradient."""
    param, goal = start(), start(1).detach()
    before = param.detach().clone()
    descend(param, Riemannian([param], 0.05, prior=0.0), goal, 1, scale)
    torch.testing.assert_close(angle(param.detach(), before), torch.full((3,), 0.05).double(), rtol=1e-3, atol=0)
    torch.testing.assert_close(angle(param.detach(), goal), angle(before, goal) - 0.05, rtol=1e-3, atol=1e-5)


def test_lengths_stay_over_many_steps() -> None:
    param, optimizer = start(), None
    optimizer = Riemannian([param], 0.3)
    generator = torch.Generator().manual_seed(5)
    for _ in range(500):
        param.grad = torch.randn(param.shape, generator=generator)
        optimizer.step()
    torch.testing.assert_close(param.detach().norm(dim=1, keepdim=True), LENGTHS)


def test_it_finds_the_minimum_on_the_sphere() -> None:
    """Of -<x, goal>: the goal's direction, at x's length."""
    param, goal = start(), start(1).detach()
    optimizer = Riemannian([param], 0.1, prior=0.0)
    for share in torch.linspace(1, 0.01, 150).tolist():
        optimizer.param_groups[0]["lr"] = 0.1 * share
        descend(param, optimizer, goal, 1)
    assert angle(param.detach(), goal).max() < 0.02


def test_the_prior_pulls_back_to_the_first_direction() -> None:
    """Against the closed form: -<x, g> - kappa <u, u0> is least where u is along |x| g + kappa u0."""
    param, goal = start(), start(1).detach()
    first = param.detach() / LENGTHS
    kappa = 5.0
    optimizer = Riemannian([param], 0.1, prior=kappa)
    for share in torch.linspace(1, 0.01, 200).tolist():
        optimizer.param_groups[0]["lr"] = 0.1 * share
        descend(param, optimizer, goal, 1)
    assert angle(param.detach(), LENGTHS * goal + kappa * first).max() < 0.02


def test_a_row_without_a_gradient_stays() -> None:
    param = start()
    before = param.detach().clone()
    optimizer = Riemannian([param], 0.1)
    for step in range(3):
        param.grad = torch.ones_like(param)
        param.grad[1] = 0
        if step == 1:
            param.grad[:] = 0
        optimizer.step()
    assert torch.equal(param[1], before[1])
    assert (param[0] != before[0]).any()
    assert param.isfinite().all()


def test_it_goes_on_from_a_saved_state_to_the_same_bits(tmp_path: Path) -> None:
    whole, goal = start(), start(1).detach()
    optimizer = Riemannian([whole], 0.1)
    descend(whole, optimizer, goal, 3)
    checkpoint.save(tmp_path, checkpoint.State(3, {"x": whole.detach()}, optimizer.state_dict()))
    descend(whole, optimizer, goal, 4)

    state, _damaged = checkpoint.newest(tmp_path)
    assert state is not None
    resumed = nn.Parameter(state.weights["x"])
    again = Riemannian([resumed], 0.1)
    again.load_state_dict(state.optimizer)
    descend(resumed, again, goal, 4)
    assert torch.equal(resumed, whole)
