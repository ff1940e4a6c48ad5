"""How far two LoRAs are apart, without forming ΔW: as the dense difference in float64 says, down to tiny differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tsuika.core.types import Artifact
from tsuika.formats import lora, relative_errors, tensor_errors

KEY = "unet.mid_block.resnets.0.conv1"


def layer(down: Tensor, up: Tensor, alpha: float | None = None) -> Artifact:
    tensors = {f"{KEY}.lora_down.weight": down, f"{KEY}.lora_up.weight": up}
    return Artifact("lora", "sd1", tensors | ({} if alpha is None else {f"{KEY}.alpha": torch.tensor(alpha)}))


def pair(kernel: tuple[int, ...], rank: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, 40, *kernel, generator=generator)
    return down, torch.randn(24, rank, *[1] * len(kernel), generator=generator)


def dense(down: Tensor, up: Tensor, scale: float) -> Tensor:
    return scale * (up.double().flatten(1) @ down.double().flatten(1))


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-7, 1e-10])
@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3)])
def test_a_small_difference_is_measured_as_the_dense_one(kernel, size) -> None:
    """The other file is in another basis of the same subspace, so that nothing cancels term by term."""
    down, up = (factor.double() for factor in pair(kernel, 6))
    turn, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5)))
    noise, _ = pair(kernel, 6, seed=9)
    other_down = torch.einsum("ab,b...->a...", turn, down + size * noise)
    other_up = torch.einsum("oa...,ba->ob...", up, turn)
    expected = float((dense(other_down, other_up, 0.5) - dense(down, up, 0.5)).norm() / dense(down, up, 0.5).norm())
    found = relative_errors(layer(down, up, 3.0), layer(other_down, other_up, 3.0))[KEY]
    assert found == pytest.approx(expected, rel=1e-4)
    assert 0.1 * size < found < 10 * size


def test_ranks_and_alphas_may_differ() -> None:
    (down, up), (other_down, other_up) = pair((3, 3), 4), pair((3, 3), 30, seed=1)  # 34 columns: more than the 24 rows
    ours, theirs = dense(down, up, 2.0 / 4), dense(other_down, other_up, 1.0)
    found = relative_errors(layer(down, up, 2.0), layer(other_down, other_up))[KEY]
    assert found == pytest.approx(float((theirs - ours).norm() / ours.norm()), rel=1e-9)


def test_the_same_is_zero_and_what_cannot_be_compared_is_infinite() -> None:
    down, up = pair((3, 3), 4)
    assert relative_errors(layer(down, up), layer(down, up))[KEY] == 0
    assert relative_errors(layer(down, 0 * up), layer(0 * down, up))[KEY] == 0
    assert relative_errors(layer(down, 0 * up), layer(down, up))[KEY] == math.inf
    assert relative_errors(layer(down, up), layer(down.flatten(1), up.flatten(1)))[KEY] == math.inf
    assert relative_errors(layer(down, up), layer(down, up * math.nan))[KEY] == math.inf
    assert relative_errors(layer(down, up), layer(down, up[:-1]))[KEY] == math.inf


@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 7), (4, 5, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_are_compared_in_parts_as_wholes_are(shape, dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "_CACHED", 16)
    ours = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    theirs = (ours * 1.001).to(dtype)
    size = float(ours.double().norm())
    expected = float((theirs.double() - ours.double()).norm()) / size if size else 0.0
    assert tensor_errors({"a": ours}, {"a": theirs})["a"] == pytest.approx(expected, rel=1e-12)
    assert tensor_errors({"a": ours}, {"a": ours.clone()})["a"] == 0
    if ours.numel() > 1:
        for bad in (math.inf, math.nan):
            theirs.view(-1)[-1] = bad
            assert tensor_errors({"a": theirs.float()}, {"a": theirs.clone()})["a"] == math.inf
            assert tensor_errors({"a": ours}, {"a": theirs})["a"] == math.inf
