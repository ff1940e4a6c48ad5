"""Weights that come in are finite: of every number type, every way of not being so, at every place of a tensor."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tsuika.core import finite
from tsuika.core.errors import FormatError
from tsuika.core.weights import open_weights

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_value_that_is_not_finite_is_found(dtype: torch.dtype) -> None:
    good = torch.linspace(-4, 4, 40).to(dtype)
    assert finite.is_finite(good)
    for value in (math.nan, math.inf, -math.inf):
        for place in (0, 17, 39):
            bad = good.float()
            bad[place] = value
            # float8_e4m3fn has no infinity: there the largest number takes its place.
            assert finite.is_finite(bad.to(dtype)) == bool(torch.isfinite(bad.to(dtype).float()).all())


def test_whole_numbers_empty_tensors_and_extremes_are_finite() -> None:
    assert all(map(finite.is_finite, (torch.arange(3), torch.empty(0), torch.tensor(True), torch.tensor(1e38))))
    assert finite.is_finite(torch.tensor([65504.0, -65504.0], dtype=torch.float16))
    assert not finite.is_finite(torch.tensor(complex(1, math.nan)))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_names_its_tensor_when_it_is_read(suffix: str, tmp_path: Path) -> None:
    tensors = {"good": torch.ones(3), "unet.bad": torch.tensor([1.0, math.nan, math.inf])}
    path = tmp_path / f"a{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    opened = open_weights(path)
    assert torch.equal(opened.tensor("good"), torch.ones(3)) and opened.raw("unet.bad").isnan().any()
    with pytest.raises(FormatError) as caught:
        opened.tensor("unet.bad")
    assert (caught.value.code, caught.value.exit_status, caught.value.where) == ("MD011", 4, str(path))
    assert "`unet.bad`" in str(caught.value) and "2 of its 3 values" in str(caught.value)


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -math.inf, 1e30, -1e6])
def test_an_alpha_that_cannot_be_meant(alpha: float, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"unet\.x\.alpha"):
        finite.check_alpha(tmp_path / "a", "unet.x.alpha", alpha)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -16.0, 1448.2, 65504.0])
def test_an_alpha_that_trainers_write(alpha: float, tmp_path: Path) -> None:
    finite.check_alpha(tmp_path / "a", "unet.x.alpha", alpha)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_numbers_of_8_bits_are_read_in_half_precision_to_the_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(dtype)
    every = every[torch.isfinite(every.float())].contiguous()
    save_file({"a": every}, tmp_path / "a.safetensors")
    opened = open_weights(tmp_path / "a.safetensors")
    assert opened.tensor("a").dtype == torch.float16 and torch.equal(opened.tensor("a").float(), every.float())
    assert opened.raw("a").dtype == dtype
