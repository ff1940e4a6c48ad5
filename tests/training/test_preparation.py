"""Finished results applied to the base of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tiny_models import outputs, tiny
from tsuika.core.errors import ModelError
from tsuika.core.types import Model
from tsuika.methods import METHODS
from tsuika.training import preparation


def lora_file(path: Path, model: Model, **more: Tensor) -> Path:
    """A LoRA of one layer in which nothing tells the family, with kohya's names."""
    weight: Any = model.module("unet", "mid_block.resnets.0.conv1").weight
    out, inside, *kernel = weight.shape
    layer, draw = "lora_unet_mid_block_resnets_0_conv1", torch.Generator().manual_seed(0)
    down, up = torch.randn(2, inside, *kernel, generator=draw), torch.randn(out, 2, 1, 1, generator=draw)
    save_file({f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up, **more}, path)
    return path


def test_a_result_that_is_applied_in_part_says_so(tmp_path: Path) -> None:
    model = tiny("sd1")
    base = outputs(model)
    assert (
        list(preparation.apply_artifact(str(lora_file(tmp_path / "whole.safetensors", model)), model, METHODS["lora"]))
        == []
    )
    applied = outputs(model)
    assert not torch.equal(applied, base)
    part = lora_file(tmp_path / "part.safetensors", model, **{"stranger.weight": torch.ones(2)})
    (told,) = preparation.apply_artifact(f"{part}:0.5", model, METHODS["lora"])
    assert told.code == "GN007" and "stranger.weight" in told.message and "1 of 3" in told.message
    assert not torch.equal(outputs(model), applied)


def test_a_file_that_does_not_tell_its_family_fits_where_its_sizes_do(tmp_path: Path) -> None:
    model = tiny("sdxl")
    base = outputs(model)
    assert (
        list(preparation.apply_artifact(str(lora_file(tmp_path / "a.safetensors", model)), model, METHODS["lora"]))
        == []
    )
    assert not torch.equal(outputs(model), base)
    wide = {
        "lora_unet_mid_block_resnets_0_conv2.lora_down.weight": torch.ones(2, 999, 3, 3),
        "lora_unet_mid_block_resnets_0_conv2.lora_up.weight": torch.ones(8, 2, 1, 1),
    }
    with pytest.raises(ModelError) as caught:
        list(
            preparation.apply_artifact(
                str(lora_file(tmp_path / "b.safetensors", model, **wide)), model, METHODS["lora"]
            )
        )
    assert caught.value.code == "MD004" and "sd1" not in str(caught.value)
