"""Real LoRA files on a model: the kohya format, the LoRA method and `compose` together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tsuika import formats
from tsuika.core.types import Artifact
from tsuika.diffusion import adapters
from tsuika.formats.kohya_lora import KohyaLora
from tsuika.generation.compose import Requested, compose
from tsuika.generation.pipeline import sample
from tsuika.methods import METHODS
from tsuika.methods.lora import Lora
from tsuika.methods.lora import layers as lora


def draw(model: Any) -> torch.Tensor:
    return sample(model, "a (red:1.2) cat", seed=1, cfg=2, steps=2, sampler="Euler", size_px=(model.size_step_px,) * 2)


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


def test_every_kind_of_adapter_is_laid_on_the_weights(sd1: Any, tmp_path: Path) -> None:
    """One file with a layer of each kind: the model's weights become W + strength * ΔW, and are its own again at 0 and off."""
    draw_number = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return 0.2 * torch.randn(shape, generator=draw_number)

    def q(block: str, leaf: str) -> tuple[str, Any]:
        path = f"{block}.attentions.0.transformer_blocks.0.attn1.{leaf}"
        return f"unet.{path}", sd1.module("unet", path)

    places = dict(
        [q(block, leaf) for block in ("mid_block", "up_blocks.1") for leaf in ("to_q", "to_k", "to_v", "to_out.0")]
    )
    places |= {f"unet.{path}": sd1.module("unet", path) for path in ("conv_norm_out", "conv_in")}
    places["text_encoder.text_model.final_layer_norm"] = sd1.module("text_encoder", "text_model.final_layer_norm")
    names = iter(places)
    width = len(next(iter(places.values())).weight)
    layers: dict[str, dict[str, torch.Tensor]] = {}
    plain = {"lora_down.weight": numbers(2, width), "lora_up.weight": numbers(width, 2)}
    layers[next(names)] = plain | {"dora_scale": 1 + numbers(1, width).abs()}
    layers[next(names)] = {
        "lokr_w1": numbers(2, 2),
        "lokr_w2": numbers(width // 2, width // 2),
        "dora_scale": 1 + numbers(width, 1).abs(),
    }
    layers[next(names)] = {
        "a1.weight": numbers(width, 2),
        "a2.weight": numbers(2, width),
        "b1.weight": numbers(width, 2),
        "b2.weight": numbers(2, width),
    }
    layers[next(names)] = {"diff": numbers(width, width), "diff_b": numbers(width)}
    layers[next(names)] = {"weight": numbers(width), "on_input": torch.tensor(1)}
    layers[next(names)] = {"oft_blocks": numbers(width // 4, 4, 4), "alpha": torch.tensor(0.0)}
    layers[next(names)] = {"oft_blocks": numbers(2, width // 4, 4, 4)}
    layers[next(names)] = {name: value.clone() for name, value in plain.items()}
    norm = places[next(names)]
    layers["unet.conv_norm_out"] = {"w_norm": numbers(len(norm.weight)), "b_norm": numbers(len(norm.weight))}
    out, inside, *kernel = places[next(names)].weight.shape
    layers["unet.conv_in"] = {
        "lora_down.weight": numbers(2, inside, 1, 1),
        "lora_mid.weight": numbers(2, 2, *kernel),
        "lora_up.weight": numbers(out, 2, 1, 1),
    }
    size = len(places[next(names)].weight)
    layers["text_encoder.text_model.final_layer_norm"] = {"w_norm": numbers(size)}

    path = tmp_path / "all.safetensors"
    tensors = {f"{layer}.{part}": value for layer, parts in layers.items() for part, value in parts.items()}
    KohyaLora().write(Artifact("lora", "sd1", tensors), path, dtype=torch.float32)
    base = draw(sd1)
    own = {name: (module.weight, module.bias) for name, module in places.items()}
    with compose(sd1, [Requested(path), Requested(path, 0.0)], formats, METHODS) as composition:
        assert composition.parts[0].unmatched == ()
        for strength in (1.0, -0.5):
            composition.set_strength(0, strength)
            assert not torch.allclose(draw(sd1), base, atol=1e-4)
            for name, module in places.items():
                weight, bias = own[name]
                torch.testing.assert_close(module.weight, adapters.changed(layers[name], weight.detach(), strength))
                change = adapters.bias_change(layers[name])
                if change is not None:
                    torch.testing.assert_close(module.bias, strength * change + (0 if bias is None else bias.detach()))
        composition.set_strength(0, 0)
        assert all(
            (module.weight, module.bias) == own[name] or module.weight is own[name][0]
            for name, module in places.items()
        )
        assert torch.equal(draw(sd1), base)
        composition.set_strength(0, 1)
        composition.set_strength(1, 0.5)
        twice = adapters.changed(layers["unet.conv_norm_out"], own["unet.conv_norm_out"][0].detach(), 1.5)
        torch.testing.assert_close(norm.weight, twice)
    assert all(module.weight is own[name][0] and module.bias is own[name][1] for name, module in places.items())
    assert torch.equal(draw(sd1), base)


def test_words_inside_a_lora_are_words_of_the_prompt(sd1: Any, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    trained(sd1, 1, path, text=False)
    width = sd1.text_encoders["text_encoder"].config.hidden_size
    save_file(load_file(path) | {"bundle_emb.tsuipi.clip_l": torch.randn(3, width)}, path)
    with compose(sd1, [Requested(path)], formats, METHODS) as composition:
        assert composition.parts[0].words == ("tsuipi",)
        assert sd1.count_tokens("tsuipi") == (3,)
    assert not sd1.words
