"""A base in fewer bits: how near it is, what it takes, and that what trains beside it learns as beside the same numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

import small_methods
import tiny_models
from tiny_models import outputs, shallow
from training.runs import arguments, make_place, program
from tsuika.core.errors import RecipeError
from tsuika.core.seeds import generator
from tsuika.core.types import Model
from tsuika.diffusion import quantization
from tsuika.diffusion.quantization import BYTES, Kind, check, layers, quantize
from tsuika.methods import METHODS
from tsuika.training.surroundings import fingerprint

pytest.importorskip("torchao")
KINDS: tuple[Kind, ...] = tuple(kind for kind in get_args(Kind) if kind != "none")
BESIDE = [name for name in METHODS if small_methods.recipe(name).method.fits_quantized("int8")]


def dense(weight: Any) -> Tensor:
    """What torchao computes with, as numbers."""
    found: Tensor = weight.get_original_weight() if hasattr(weight, "get_original_weight") else weight.dequantize()
    return found


def held_bytes(weight: Any) -> int:
    names, _rest = weight.__tensor_flatten__()
    parts = [getattr(weight, name) for name in names]
    return sum(held_bytes(part) if hasattr(part, "__tensor_flatten__") else part.nbytes for part in parts)


def gradients(model: Model, method: str) -> dict[str, Tensor]:
    """Of what a method trains, once it is no longer at its beginning."""
    attachment = small_methods.attach(model, method)
    random = generator(1, "away from the beginning")
    attachment.load(
        {
            name: value + 0.05 * torch.randn(value.shape, generator=random)
            for name, value in attachment.tensors().items()
        }
    )
    noisy_BCHW = torch.randn(2, model.facts.latent_channels, 8, 8, generator=generator(2, "noise"))
    said = model.denoise(noisy_BCHW, torch.tensor([300, 700]), model.encode_text(("a zuzu cat", "zuzu")))
    said.pow(2).sum().backward()
    named = {id(value): name for name, value in attachment.tensors().items()}
    params = [param for group in attachment.param_groups() for param in group.params]
    return {
        named.get(id(param), str(number)): param.grad for number, param in enumerate(params) if param.grad is not None
    }


@pytest.mark.parametrize("family", tiny_models.FAMILY_NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_near_the_base_and_changes_attention_and_feed_forward_alone(kind: Kind, family: str) -> None:
    model = shallow(family)
    base, chosen = outputs(model), list(layers(model))
    before = {name: value.clone() for name, value in model.unet.state_dict().items()}
    quantize(model, kind)
    own = {id(layer.weight) for layer in chosen}
    changed = {name for name, value in model.unet.named_parameters() if type(value.data) is not Tensor}
    assert changed == {name for name, value in model.unet.named_parameters() if id(value) in own}
    assert changed and all("attentions." in name or "transformer_blocks." in name for name in changed)
    for name, value in model.unet.named_parameters():
        assert not value.requires_grad
        assert name in changed or torch.equal(value, before[name])
        assert value.shape == before[name].shape and value.dtype == before[name].dtype
    least, most = {"int8": (0.0, 0.01), "fp8": (0.001, 0.03), "nf4": (0.005, 0.15)}[kind]
    for layer in chosen:
        name = next(name for name, value in model.unet.named_parameters() if value is layer.weight)
        off = float((dense(layer.weight) - before[name]).norm() / before[name].norm())
        assert least < off < most
    assert 0 < float((outputs(model) - base).norm() / base.norm()) < most


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", BESIDE)
def test_gradients_beside_it_are_those_beside_the_same_numbers(method: str, kind: Kind) -> None:
    quantised, same = shallow(), shallow()
    quantize(quantised, kind)
    for layer, twin in zip(layers(quantised), layers(same), strict=True):
        twin.weight = nn.Parameter(dense(layer.weight).clone(), requires_grad=False)
    found, expected = gradients(quantised, method), gradients(same, method)
    assert found.keys() == expected.keys() and found
    # Of some nothing is left but rounding: a bias of keys moves no attention.
    rounding = 1e-6 * max(float(value.norm()) for value in expected.values())
    for name, value in found.items():
        assert float((value - expected[name]).norm()) <= 1e-3 * float(expected[name].norm()) + rounding


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_takes_as_many_bytes_as_advice_counts(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = nn.Linear(1280, 640).bfloat16()
    monkeypatch.setattr(quantization, "layers", lambda model: iter([wide]))
    quantize(shallow(), kind)
    assert held_bytes(wide.weight) == pytest.approx(BYTES[kind] * wide.weight.numel(), rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_the_device_never_holds_the_unet_as_it_was(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shallow()
    model.vae.to("meta")
    assert model.device.type == "meta"
    chosen, at_once = list(layers(model)), list[int]()

    def seen(layer: nn.Linear, kind: Kind) -> None:
        there = [one for one in chosen if one.weight.device.type == "meta" and type(one.weight.data) is Tensor]
        at_once.append(len(there))
        replace(layer, kind)

    replace = quantization._replace
    monkeypatch.setattr(quantization, "_replace", seen)
    quantize(model, kind)
    assert len(at_once) == len(chosen) and set(at_once) == {1}
    assert {value.device.type for value in model.unet.parameters()} == {"meta"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_is_known_again_by_its_fewer_bits(kind: Kind) -> None:
    whole, first, second, other = (shallow() for _ in range(4))
    with torch.no_grad():
        next(layers(other)).weight.mul_(1.5)
    for model in (first, second, other):
        quantize(model, kind)
    assert fingerprint(first) == fingerprint(second)
    assert len({fingerprint(model) for model in (whole, first, other)}) == 3


def test_an_artifact_of_the_base_stays_in_force() -> None:
    """peft's layers around those of the base."""
    model = shallow()
    attachment = small_methods.attach(model, "lora")
    attachment.load({name: torch.ones_like(value) * 0.1 for name, value in attachment.tensors().items()})
    with_it = outputs(model)
    quantize(model, "int8")
    assert float((outputs(model) - with_it).norm() / with_it.norm()) < 0.01
    attachment.set_strength(0)
    assert float((outputs(model) - with_it).norm() / with_it.norm()) > 0.02


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check("none")
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(RecipeError, match="torchao") as caught:
        check("int8")
    assert caught.value.code == "RC002"


def test_a_run_trains_beside_it_and_others_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, pictures = make_place(tmp_path)

    def asked(out: str, name: str, kind: str, **method: Any) -> int:
        more = {"method": method} if method else {}
        words = arguments(base, pictures, tmp_path / out, name, **more)
        return program(*words, "--set", f"base.quantize={kind}")

    assert asked("whole", "lora", "none") == asked("eighth", "lora", "int8") == 0
    start = tmp_path / "eighth/artifacts/result.safetensors"
    assert asked("on", "lora", "nf4", start=str(start)) == 0
    capsys.readouterr()
    for name, kind, method in (("dreambooth", "int8", {}), ("lora", "nf4", {"adapter": "dora"})):
        assert asked("refused", name, kind, **method) == 2
        told = capsys.readouterr().err
        assert "RC002" in told and "base.quantize" in told
    assert not (tmp_path / "refused").exists()
