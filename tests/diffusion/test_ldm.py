"""The original layout's names: an average's names, which have lost their dots, lead back to the tensors they are of."""

from __future__ import annotations

import pytest
import torch
from accelerate import init_empty_weights

from tsuika.diffusion import ldm
from tsuika.families import FAMILIES, Family
from tsuika.families.network import UNET, build_unet


@pytest.mark.parametrize("family", [row for row in FAMILIES if row.network is UNET], ids=lambda family: family.name)
def test_averaged_names_of_every_tensor(family: Family) -> None:
    """LitEma (CompVis ema.py) keeps `name.replace(".", "")` of each parameter of `model`."""
    config = family.geometry("epsilon").unet
    with init_empty_weights():
        names = build_unet(config).state_dict()
    for name in names:
        full = f"model.diffusion_model.{ldm.unet_place(name, config).name}"
        assert ldm.averaged(f"model_ema.{full.removeprefix('model.').replace('.', '')}") == full


@pytest.mark.parametrize("name", ["model_ema.decay", "model_ema.num_updates", "model_ema.diffusion_model", "a.b"])
def test_what_is_no_average(name: str) -> None:
    assert ldm.averaged(name) is None


def test_a_convolution_of_one_pixel_is_a_linear_layer_and_nothing_else_is() -> None:
    numbers = torch.arange(6.0)
    for stored, asked in (((2, 3), (2, 3, 1, 1)), ((2, 3, 1, 1), (2, 3)), ((2, 3), (2, 3))):
        taken = ldm.take(numbers.reshape(stored), ldm.Place("a"), asked)
        assert taken.shape == asked and torch.equal(taken.flatten(), numbers)
    for wrong in ((3, 2), (6,), (2, 3, 1, 2), (1, 2, 3)):
        with pytest.raises(ValueError, match=r"^2x3$"):
            ldm.take(numbers.reshape(2, 3), ldm.Place("a"), wrong)


def test_what_is_packed_is_taken_out_as_it_was() -> None:
    """A third of q, k, v; halves the other way round; a bare matrix, input first."""
    three = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).unbind()
    for number, one in enumerate(three):
        assert torch.equal(ldm.take(torch.cat(three), ldm.Place("a", third=number), (4, 5)), one)
    one = three[0]
    assert torch.equal(ldm.take(torch.cat([one[2:], one[:2]]), ldm.Place("a", swapped=True), (4, 5)), one)
    assert torch.equal(ldm.take(one.T, ldm.Place("a", transposed=True), (4, 5)), one)
