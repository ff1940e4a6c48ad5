"""DreamBooth: other weights in the place of the base's, with adapters over or under them, in fp32 or bf16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_models import FAMILY_NAMES, bits, outputs, picture_batch, shallow
from tsuika import config
from tsuika.config import Recipe
from tsuika.core.errors import ModelError
from tsuika.core.seeds import generator
from tsuika.core.types import Attachment, model_tensors
from tsuika.families import StableDiffusion
from tsuika.methods.dreambooth import DreamBooth
from tsuika.methods.dreambooth import weights as dreambooth
from tsuika.methods.lora import Lora
from tsuika.methods.lora import layers as lora
from tsuika.training import checkpoint, optim
from tsuika.training.fit import Fit
from tsuika.training.loop import conditioner, fit
from tsuika.training.preparation import accelerate_for


def recipe(weights: str = "fp32", text_encoder: bool = False, **train: Any) -> Recipe:
    loop = {"steps": 4, "batch_size": 2, "precision": "fp32", "device": "cpu", "learning_rate": 1e-3, **train}
    method = {"name": "dreambooth", "weights": weights, "text_encoder": text_encoder}
    return config.build({"method": method, "train": loop})


def start(what: Recipe, model: StableDiffusion) -> Fit:
    attachment = dreambooth.attach(model, what.method, generator(0, "init"))  # type: ignore[arg-type]
    condition = conditioner(model, attachment, lambda _: (64, 64))
    return Fit(model, attachment, what, accelerate_for(what), lambda n: picture_batch(n, 2, model=model), condition)


def run(training: Fit, steps: int) -> None:
    for _ in zip(range(steps), fit(training)):
        pass


def shaken(model: StableDiffusion, *, text_encoder: bool = False) -> dreambooth.DreamBoothAttachment:
    """Attached, with every weight a little elsewhere."""
    attachment = dreambooth.attach(model, DreamBooth(text_encoder=text_encoder), generator(0, "init"))
    source = torch.Generator().manual_seed(1)
    for value in attachment.tensors().values():
        value.add_(0.02 * torch.randn(value.shape, generator=source))
    return attachment


def parameters(model: StableDiffusion) -> dict[str, Any]:
    return {f"{part}.{name}": p for part, root in model.components.items() for name, p in root.named_parameters()}


def copies(attachment: Attachment) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in attachment.tensors().items()}


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("text_encoder", [False, True])
def test_everything_trains_that_should_and_nothing_else(family: str, text_encoder: bool) -> None:
    model = shallow(family)
    before, silent = parameters(model), outputs(model)
    what = recipe(text_encoder=text_encoder, steps=1)
    training = start(what, model)
    assert torch.equal(outputs(model), silent)
    # T5 stays as it is, and what no single file holds.
    parts = ["unet", *(model.targets("text.attn") if text_encoder else [])]
    whole = {name: value.clone() for name, value in model_tensors(model).items()}
    assert training.attachment.tensors().keys() == {
        name
        for name in whole
        if name.partition(".")[0] in parts and name not in {*model.fixed, "unet.pos_embed.pos_embed"}
    }
    rates = {group["name"]: group["base_lr"] for group in training.optimizer.param_groups}
    text = {"text": pytest.approx(1e-3 * optim.TEXT_SHARE)} if text_encoder else {}
    assert rates == {"unet": 1e-3, **text}
    run(training, 1)
    changed = {name for name, value in model_tensors(model).items() if not torch.equal(value, whole[name])}
    assert {name.partition(".")[0] for name in changed} == set(parts)
    training.attachment.detach()
    assert all(parameters(model)[name] is param for name, param in before.items())
    assert torch.equal(outputs(model), silent)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_strength_goes_from_the_base_to_what_was_trained(family: str) -> None:
    model = shallow(family)
    base, plain = bits(model), outputs(model)
    attachment = shaken(model, text_encoder=True)
    trained = bits(model)
    attachment.set_strength(0.0)
    assert torch.equal(outputs(model), plain)
    attachment.set_strength(0.25)
    for name, value in bits(model).items():
        torch.testing.assert_close(value, base[name] + 0.25 * (trained[name] - base[name]), rtol=1e-5, atol=1e-6)
    attachment.set_strength(1.0)
    assert all(torch.equal(value, trained[name]) for name, value in bits(model).items())


@pytest.mark.parametrize(("under", "lora_goes_first"), [(True, True), (True, False), (False, False)])
def test_adapters_come_and_go_in_any_order(under: bool, lora_goes_first: bool) -> None:
    """A LoRA attached before (`under`) or after, and taken off first or last."""
    model = shallow("sd1")
    before, names, plain = parameters(model), model_tensors(model).keys(), outputs(model)
    whole = None if under else shaken(model)
    adapter = lora.attach(model, Lora(rank=2), generator(0, "init"))
    adapter.load({name: torch.full_like(value, 0.05) for name, value in adapter.tensors().items()})
    whole = whole or shaken(model)
    assert whole.artifact().tensors.keys() == names
    both = outputs(model)
    whole.set_strength(0.0)
    alone = outputs(model)
    adapter.set_strength(0.0)
    assert torch.equal(outputs(model), plain)
    whole.set_strength(1.0)
    adapter.set_strength(1.0)
    assert torch.equal(outputs(model), both)
    if lora_goes_first:
        adapter.detach()
        whole.detach()
    else:
        whole.detach()
        assert torch.equal(outputs(model), alone)
        adapter.detach()
    assert parameters(model).keys() == before.keys()
    assert all(parameters(model)[name] is param for name, param in before.items())


def test_a_bf16_base_learns_in_fp32_masters_and_computes_without_autocast() -> None:
    model = shallow("sdxl")
    for part in (model.unet, *model.text_encoders.values()):
        part.to(torch.bfloat16)
    plain = outputs(model)
    training = start(recipe(text_encoder=True), model)
    assert {value.dtype for value in training.attachment.tensors().values()} == {torch.float32}
    torch.testing.assert_close(outputs(model), plain.float(), rtol=0.1, atol=0.1)
    run(training, 1)
    assert outputs(model).isfinite().all()
    training.attachment.detach()
    assert torch.equal(outputs(model), plain)


@pytest.mark.parametrize(("weights", "optimizer"), [("bf16", "adamw"), ("fp32", "adafactor")])
def test_goes_on_to_the_same_bits(weights: str, optimizer: str, tmp_path: Path) -> None:
    what = recipe(weights, text_encoder=True, optimizer=optimizer, ema=0.5 if optimizer == "adamw" else 0.0)
    whole = start(what, shallow("sd1"))
    first = copies(whole.attachment)
    run(whole, 4)
    assert {value.dtype for value in whole.attachment.tensors().values()} == {dreambooth.DTYPES[weights]}
    assert any(not torch.equal(value, first[name]) for name, value in whole.attachment.tensors().items())

    half = start(what, shallow("sd1"))
    run(half, 2)
    with half.written_weights():
        pass
    checkpoint.save(tmp_path, half.state())
    again = start(what, shallow("sd1"))
    state, _damaged = checkpoint.newest(tmp_path)
    assert state is not None
    again.restore(state)
    run(again, 2)
    ours = again.attachment.tensors()
    assert all(torch.equal(value, ours[name]) for name, value in whole.attachment.tensors().items())
    assert all(torch.equal(value, again.average[name]) for name, value in whole.average.items())


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_whole_model_is_laid_over_another(family: str) -> None:
    made = shallow(family, seed=4)
    artifact = shaken(made, text_encoder=True).artifact()
    model = shallow(family)
    vae, plain = model.vae, outputs(model)
    back = dreambooth.restore(model, artifact)
    assert torch.equal(outputs(model), outputs(made))
    assert model.vae is vae
    assert back.artifact().tensors.keys() == artifact.tensors.keys()
    back.detach()
    assert torch.equal(outputs(model), plain)


def test_what_does_not_fit_is_refused() -> None:
    artifact = shaken(shallow("sd1")).artifact()
    with pytest.raises(ModelError) as caught:
        dreambooth.restore(shallow("sd2"), artifact)
    assert caught.value.code == "MD004"
    artifact.tensors["unet.conv_in.weight"] = torch.zeros(1)
    model = shallow("sd1")
    plain = outputs(model)
    with pytest.raises(ModelError):
        dreambooth.restore(model, artifact)
    assert torch.equal(outputs(model), plain)
