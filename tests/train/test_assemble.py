"""Finished results laid on the base of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tiny_models import outputs, tiny
from tsuika.core.types import Model
from tsuika.train import assemble


def lora_file(path: Path, model: Model, **more: Tensor) -> Path:
    """A LoRA of one layer in which nothing tells the family, with kohya's names."""
    weight: Any = model.module("unet", "mid_block.resnets.0.conv1").weight
    out, inside, *kernel = weight.shape
    layer, draw = "lora_unet_mid_block_resnets_0_conv1", torch.Generator().manual_seed(0)
    down, up = torch.randn(2, inside, *kernel, generator=draw), torch.randn(out, 2, 1, 1, generator=draw)
    save_file({f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up, **more}, path)
    return path


def test_a_result_that_is_laid_on_in_part_says_so(tmp_path: Path) -> None:
    model = tiny("sd1")
    base = outputs(model)
    assert list(assemble.lay(str(lora_file(tmp_path / "whole.safetensors", model)), model)) == []
    laid = outputs(model)
    assert not torch.equal(laid, base)
    part = lora_file(tmp_path / "part.safetensors", model, **{"stranger.weight": torch.ones(2)})
    (told,) = assemble.lay(f"{part}:0.5", model)
    assert told.code == "GN005" and "stranger.weight" in told.message and "1 of 3" in told.message
    assert not torch.equal(outputs(model), laid)
