"""The original layout's names: an average's names, which have lost their dots, lead back to the tensors they are of."""

from __future__ import annotations

import pytest
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
