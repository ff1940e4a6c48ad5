"""Real LoRA files on a model: the kohya format, the LoRA method and `compose` together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tsuika import formats
from tsuika.formats.kohya_lora import KohyaLora
from tsuika.generation.compose import Requested, compose
from tsuika.generation.pipeline import sample, size_step
from tsuika.methods import METHODS
from tsuika.methods.lora import Lora
from tsuika.methods.lora import layers as lora


def draw(model: Any) -> torch.Tensor:
    return sample(model, "a (red:1.2) cat", seed=1, cfg=2, steps=2, sampler="Euler", size_px=(size_step(model),) * 2)


def trained(model: Any, seed: int, path: Path, *, text: bool) -> torch.Tensor:
    """Writes a LoRA with random weights; gives the picture that the model in memory draws with it."""
    attachment = lora.attach(model, Lora(rank=2, text_encoder=text), torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    for tensor in attachment.tensors().values():
        tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    picture = draw(model)
    KohyaLora().write(attachment.artifact(), path, dtype=torch.float32)
    attachment.detach()
    return picture


@pytest.mark.parametrize("text", [False, True])
def test_a_file_draws_what_the_model_in_memory_drew(sd1: Any, tmp_path: Path, text: bool) -> None:
    base = draw(sd1)
    path = tmp_path / "ついか犬.safetensors"
    expected = trained(sd1, 1, path, text=text)
    assert not torch.equal(expected, base)
    with compose(sd1, [Requested(path)], formats, METHODS) as composition:
        assert composition.parts[0].unmatched == ()
        assert len(composition.parts[0].attachments) == (2 if text else 1)
        torch.testing.assert_close(draw(sd1), expected, rtol=0, atol=1e-5)
        composition.set_strength(0, 0)
        assert torch.equal(draw(sd1), base)
    assert torch.equal(draw(sd1), base)


def test_two_files_at_0_are_the_base_and_both_count(sd1: Any, tmp_path: Path) -> None:
    base = draw(sd1)
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    expected = trained(sd1, 1, one, text=False)
    trained(sd1, 2, two, text=True)
    with compose(sd1, [Requested(one), Requested(two, 0)], formats, METHODS) as composition:
        torch.testing.assert_close(draw(sd1), expected, rtol=0, atol=1e-5)
        composition.set_strength(1, 1.0)
        assert float((draw(sd1) - expected).abs().max()) > 1e-4
        for number in (0, 1):
            composition.set_strength(number, 0)
        assert torch.equal(draw(sd1), base)
    assert torch.equal(draw(sd1), base)
