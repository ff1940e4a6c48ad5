"""Proximal steps against what they claim to minimise, found by other means."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tsuika.guard import proximal


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def minimised(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where a convex, smooth function is least."""
    at = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [at], max_iter=300, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective(at)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)
    return at.detach()


@pytest.mark.parametrize("dose", [0.01, 0.7, 30.0])
def test_a_lora_shrunk_by_one_factor_is_the_proximal_point_among_all_matrices(dose: float) -> None:
    up, down, scale = noise(6, 2), noise(2, 5, seed=1), 0.5
    matrix = scale * up @ down
    best = minimised(lambda z: (z - matrix).square().sum() / 2 + dose * z.square().sum() / 2, noise(6, 5, seed=2))
    shrunk = proximal.towards(up, torch.zeros_like(up), proximal.kept_by_l2(dose))
    torch.testing.assert_close(scale * shrunk @ down, best, rtol=0, atol=1e-7)


def test_towards_is_exact_at_both_ends() -> None:
    value, start = noise(1000).float(), noise(1000, seed=1).float()
    assert torch.equal(proximal.towards(value, start, 1.0), value)
    assert torch.equal(proximal.towards(value, start, torch.tensor(1.0)), value)
    assert torch.equal(proximal.towards(value, start, proximal.kept_by_l2(math.inf)), start)
    assert proximal.kept_by_l2(0.0) == 1.0


@pytest.mark.parametrize("dose", [0.0, 0.5])
@pytest.mark.parametrize("threshold", [0.05, 0.4])
def test_soft_threshold_then_l2_is_least_on_a_grid(threshold: float, dose: float) -> None:
    value, start = noise(40), noise(40, seed=1) / 4
    grid = torch.linspace(-6, 6, 24_001, dtype=torch.float64)[:, None]
    away = value - start
    objective = (grid - away).square() / 2 + threshold * grid.abs() + dose * grid.square() / 2
    best = grid[objective.argmin(0), 0]
    moved = proximal.soft_threshold(value, start, threshold)
    moved = proximal.towards(moved, start, proximal.kept_by_l2(dose))
    torch.testing.assert_close(moved - start, best, rtol=0, atol=6e-4)  # more than half of the grid's step
    assert torch.equal(moved == start, away.abs() <= threshold)


@pytest.mark.parametrize("threshold", [0.3, 1.5])
def test_group_threshold_is_the_proximal_point_of_the_sum_of_norms(threshold: float) -> None:
    groups = noise(8, 3) * torch.linspace(0.05, 2, 8, dtype=torch.float64)[:, None]
    kept = proximal.kept_by_group(groups.norm(dim=1), threshold)
    found = groups * kept[:, None]
    assert 0 < int((kept == 0).sum()) < 8

    def objective(z: Tensor) -> Tensor:
        return (z - groups).square().sum(-1) / 2 + threshold * z.norm(dim=-1)

    alive = kept > 0
    best = minimised(
        lambda z: ((z - groups[alive]).square() / 2).sum() + threshold * z.norm(dim=1).sum(), groups[alive]
    )
    torch.testing.assert_close(found[alive], best, rtol=0, atol=1e-6)
    for seed in range(200):  # at zero there is no gradient, and nothing near is better
        assert (objective(found) <= objective(found + 10.0 ** -(seed % 5) * noise(8, 3, seed=seed))).all()


def test_group_threshold_at_its_ends() -> None:
    norms = torch.tensor([0.0, 1e-20, 1.0, 1e20])
    assert torch.equal(proximal.kept_by_group(norms, math.inf), torch.zeros(4))
    assert proximal.kept_by_group(norms, 0.0).tolist() == [0.0, 1.0, 1.0, 1.0]


def test_the_ball_gives_the_nearest_point_and_leaves_what_is_inside() -> None:
    for scale in (0.1, 0.9, 3.0):
        value = noise(20) * scale
        found = value * proximal.kept_in_ball(value.norm(), 2.0)
        assert float(found.norm()) <= 2.0 + 1e-12
        for seed in range(50):  # the projection is the point with every other point of the ball behind it
            other = noise(20, seed=seed)
            other *= min(1.0, 2.0 / float(other.norm()))
            assert float((value - found) @ (other - found)) <= 1e-12
        assert torch.equal(found, value) == (float(value.norm()) <= 2.0)
    assert proximal.kept_in_ball(torch.tensor(0.0), 1.0) == 1


@pytest.mark.parametrize("kernel", [(), (3, 3)])
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_gram_norm_is_the_norm_of_the_product(rank: int, kernel: tuple[int, ...]) -> None:
    up, down = noise(24, rank, *[1 for _ in kernel]), noise(rank, 10, *kernel, seed=1)
    dense = -0.3 * up.flatten(1) @ down.flatten(1)
    torch.testing.assert_close(proximal.low_rank_norm(up, down, -0.3), dense.norm(), rtol=1e-12, atol=0)
    single = proximal.low_rank_norm(up.float(), down.float(), -0.3)
    torch.testing.assert_close(single.double(), dense.norm(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dose", [0.1, 1.0, 9.0])
def test_the_pull_on_the_sphere_is_the_proximal_point_there(dose: float) -> None:
    value_nD, start_nD = noise(5, 4), noise(5, 4, seed=1)
    found_nD = proximal.along_sphere(value_nD, start_nD, proximal.kept_by_l2(dose))
    torch.testing.assert_close(found_nD.norm(dim=1), value_nD.norm(dim=1))

    def angle(one: Tensor, other: Tensor) -> Tensor:
        return torch.nn.functional.cosine_similarity(one, other, dim=-1).clamp(-1, 1).acos()

    def objective(z_nD: Tensor) -> Tensor:
        return angle(z_nD, value_nD).square() / 2 + dose * angle(z_nD, start_nD).square() / 2

    for seed in range(300):
        other_nD = found_nD + 10.0 ** -(seed % 4) * noise(5, 4, seed=2 + seed)
        assert (objective(found_nD) <= objective(other_nD) + 1e-12).all()


def test_the_pull_on_the_sphere_at_its_ends() -> None:
    value_nD, start_nD = noise(5, 4).float(), noise(5, 4, seed=1).float()
    back_nD = proximal.along_sphere(value_nD, start_nD, 0.0)
    same_length_nD = start_nD * (value_nD.norm(dim=1) / start_nD.norm(dim=1))[:, None]
    torch.testing.assert_close(back_nD, same_length_nD)
    for at_nD in (start_nD, 2 * start_nD):
        torch.testing.assert_close(proximal.along_sphere(at_nD, start_nD, 0.5), at_nD)
    assert proximal.along_sphere(-start_nD, start_nD, 0.5).isfinite().all()
