"""Hypernetworks on a model: silent at attach, in A1111's place and order, beside LoRA, and gone without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from tiny_models import CROSS_NAMES, bits, outputs, shallow, tiny
from tsuika.core.errors import FormatError, ModelError, RecipeError
from tsuika.core.types import Activation, count_params
from tsuika.families import FAMILIES, StableDiffusion
from tsuika.families.network import build_unet
from tsuika.methods.hypernetwork import Hypernetwork
from tsuika.methods.hypernetwork import nets as hypernetwork
from tsuika.methods.lora import Lora
from tsuika.methods.lora import layers as lora

DEEP = Hypernetwork(sizes="all", layer_structure=(1, 2, 4, 2, 1), activation="swish")


@cache
def shared(family: str) -> Any:
    """One model a family; every test gives it back as it was."""
    return tiny(family)


def attach(model: Any, config: Hypernetwork, seed: int = 0, *, trained: bool = False) -> Any:
    attachment = hypernetwork.attach(model, config, torch.Generator().manual_seed(seed))
    if trained:
        noise = torch.Generator().manual_seed(seed + 100)
        for tensor in attachment.tensors().values():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=noise))
    return attachment


def processors(model: Any) -> list[Any]:
    return [module.processor for module in model.unet.modules() if hasattr(module, "processor")]


@contextmanager
def given_back(model: Any) -> Iterator[None]:
    """Checks that after the block everything is as before: outputs, weights, and the very processors and modules."""
    before, weights, objects, names = (
        outputs(model),
        bits(model),
        processors(model),
        [name for name, _ in model.unet.named_modules()],
    )
    yield
    assert [id(one) for one in processors(model)] == [id(one) for one in objects]
    assert [name for name, _ in model.unet.named_modules()] == names
    after = bits(model)
    assert after.keys() == weights.keys() and all(torch.equal(value, after[name]) for name, value in weights.items())
    assert torch.equal(outputs(model), before)


def read_by(model: Any, path: str, side: str, x: Tensor) -> Tensor:
    """What `to_k` or `to_v` of an attention really gets, where the attention is given x."""
    attention, seen = model.unet.get_submodule(path), []
    layer = getattr(attention, f"to_{side}")
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    query = torch.zeros(len(x), 4, attention.to_q.weight.shape[1])
    attention(query, encoder_hidden_states=x) if "attn2" in path else attention(x)
    handle.remove()
    return seen[0].detach()


@pytest.mark.parametrize("sizes", ["cross", "all"])
@pytest.mark.parametrize("family", CROSS_NAMES)
def test_silent_at_attach_and_at_strength_zero(family: str, sizes: Any) -> None:
    model = shared(family)
    with given_back(model):
        base, weights = outputs(model), bits(model)
        attachment = attach(model, Hypernetwork(sizes=sizes, activation="mish", dropout=(0, 0.3, 0.1)))
        assert torch.equal(outputs(model), base)
        held = bits(model)
        assert all(torch.equal(held[name], value) for name, value in weights.items())
        text = model.unet.config.cross_attention_dim
        widths = {int(name.partition(".")[0]) for name in attachment.tensors()}
        assert widths == ({text} if sizes == "cross" else {text, *model.unet.config.block_out_channels} & widths)
        assert (len(widths) == 1) == (sizes == "cross")
        for tensor in attachment.tensors().values():
            tensor.add_(0.1)
        assert not torch.equal(outputs(model), base)
        attachment.set_strength(0)
        assert torch.equal(outputs(model), base)
        attachment.detach()


def test_initial_weights_come_from_the_generator_alone() -> None:
    model = shared("sd1")
    state = torch.random.get_rng_state()
    one, other, different = (attach(model, Hypernetwork(zero_last=False, layer_norm=True), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    pairs = [(one.tensors()[name], other.tensors()[name], different.tensors()[name]) for name in one.tensors()]
    assert all(torch.equal(a, b) and (not a.any() or not torch.equal(a, c)) for a, b, c in pairs)
    for attachment in (one, other, different):
        attachment.detach()


@pytest.mark.parametrize(
    ("family", "text", "channels"),
    [("sd1", 768, (320, 640, 1280)), ("sd2", 1024, (320, 640, 1280)), ("sdxl", 2048, (640, 1280))],
)
def test_widths_of_the_real_models(family: str, text: int, channels: tuple[int, ...]) -> None:
    kind = next(row for row in FAMILIES if row.facts.family == family)
    with torch.device("meta"):
        unet = build_unet(kind.geometry(kind.facts.prediction).unet)
    model = StableDiffusion(
        family=kind,
        prediction=kind.facts.prediction,
        unet=unet,
        vae=nn.Linear(1, 1, device="meta"),
        text_encoders={},
        tokenizers={},
        scheduler_config={},
        latent_scale=1,
        native_size_px=512,
        source="",
    )
    for sizes, widths in (("cross", (text,)), ("all", (*channels, text))):
        attachment = attach(model, Hypernetwork(sizes=sizes))
        assert {width for width, _ in attachment.nets} == set(widths)
        # A pair of nets of two layers, d -> 2d -> d, with biases.
        wanted = sum(2 * (4 * width**2 + 3 * width) for width in widths)
        assert count_params(attachment.param_groups()[0].params) == wanted
        attachment.detach()


@pytest.mark.parametrize("kind", ["Normal", "KaimingUniform", "KaimingNormal", "XavierUniform", "XavierNormal"])
def test_kinds_of_initial_weights_have_their_spread(kind: Any) -> None:
    net = hypernetwork.Net(256, Hypernetwork(layer_norm=True))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net.start(kind, zero_last=False)
    spread = {"N": 0.01, "K": (2 / 256) ** 0.5, "X": (2 / (256 + 512)) ** 0.5}[kind[0]]
    first, norm = net.linear[0], net.linear[1]
    assert float(first.weight.std()) == pytest.approx(spread, rel=0.02)
    assert float(norm.weight.std()) == pytest.approx(0.01, rel=0.2)
    assert not any(module.bias.any() for module in net.linear)


@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation", get_args(Activation))
def test_starts_at_the_base_and_can_leave_it_or_is_refused(activation: Any, layer_norm: bool, output: bool) -> None:
    model, config = (
        shared("sd1"),
        Hypernetwork(activation=activation, layer_norm=layer_norm, activate_output=output, sizes="all"),
    )
    if output and activation in ("relu", "sigmoid"):
        with pytest.raises(RecipeError, match="RC002"):
            attach(model, config)
        attach(model, config.model_copy(update={"zero_last": False})).detach()
        return
    base = outputs(model)
    attachment = attach(model, config)
    assert torch.equal(outputs(model), base)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    last = max(int(name.split(".")[3]) for name in attachment.tensors() if not layer_norm or "weight" in name)
    grads = {name: param.grad for net in attachment.nets.values() for name, param in net.named_parameters()}
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
    moves = [name for name, grad in grads.items() if grad.any()]
    assert moves, f"the last layer, linear.{last}, must move away from zero"
    attachment.detach()


def loss_of(model: Any) -> Tensor:
    noisy_BCHW = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5)).to(model.dtype)
    with torch.no_grad():
        cond = model.encode_text(["a cat", "a dog"])
    loss: Tensor = model.denoise(noisy_BCHW, torch.tensor([20, 700]), cond).float().pow(2).mean()
    return loss


def grads_of(attachment: Any, loss: Tensor) -> list[Tensor]:
    params = [param for group in attachment.param_groups() for param in group.params]
    return list(torch.autograd.grad(loss, params))


def test_learns() -> None:
    model = shared("sdxl")
    with given_back(model):
        attachment = attach(model, Hypernetwork())
        (group,) = attachment.param_groups()
        optimizer = torch.optim.Adam(group.params, 1e-2)
        losses = []
        for _ in range(8):
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses == sorted(losses, reverse=True)
        attachment.detach()


def test_keys_and_values_read_through_their_own_nets_one_set_after_another() -> None:
    model, config = shared("sd1"), DEEP
    with given_back(model):
        x = torch.randn(2, 7, model.unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(1))
        first, second = attach(model, config, 1, trained=True), attach(model, config, 2, trained=True)
        second.set_strength(0.5)
        path = "mid_block.attentions.0.transformer_blocks.0.attn2"
        for side in ("k", "v"):
            inner = x + first.nets[x.shape[-1], side](x)
            wanted = inner + 0.5 * second.nets[x.shape[-1], side](inner)
            torch.testing.assert_close(read_by(model, path, side, x), wanted.detach())
        first.detach()
        alone = x + 0.5 * second.nets[x.shape[-1], "k"](x)
        torch.testing.assert_close(read_by(model, path, "k", x), alone.detach())
        second.detach()


def test_goes_by_width_alone() -> None:
    """Where channels are as wide as the text, a net for the text works on self-attention as well, as in A1111."""
    model = shared("sd1")
    text = model.unet.config.cross_attention_dim
    path = next(
        name
        for name, module in model.unet.named_modules()
        if name.endswith("attn1") and module.to_k.in_features == text
    )
    with given_back(model):
        attachment = attach(model, Hypernetwork(), trained=True)
        x = torch.randn(1, 9, text, generator=torch.Generator().manual_seed(1))
        wanted = x + attachment.nets[text, "v"](x)
        torch.testing.assert_close(read_by(model, path, "v", x), wanted.detach())
        attachment.detach()


def test_the_order_of_lora_and_hypernetwork_is_nothing() -> None:
    model = shared("sdxl")
    said = []
    for lora_first in (True, False):
        for lora_goes_first in (True, False):
            with given_back(model):
                made: dict[str, Any] = {}
                for name in ("lora", "hyper") if lora_first else ("hyper", "lora"):
                    if name == "lora":
                        made[name] = lora.attach(model, Lora(rank=2), torch.Generator().manual_seed(0))
                        for tensor in made[name].tensors().values():
                            tensor.add_(0.05)
                    else:
                        made[name] = attach(model, DEEP, trained=True)
                said.append(outputs(model))
                for name in ("lora", "hyper") if lora_goes_first else ("hyper", "lora"):
                    made[name].detach()
    assert all(torch.equal(one, said[0]) for one in said)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)])
def test_goes_away_in_any_order(order: tuple[int, ...]) -> None:
    model = shared("sd2")
    with given_back(model):
        sets = [
            attach(model, config, i, trained=True)
            for i, config in enumerate((DEEP, Hypernetwork(dropout=(0, 0.5, 0)), Hypernetwork(dropout=(0, 0.1, 0.1))))
        ]
        for i in order:
            sets[i].detach()


def test_dropout_follows_the_mode_of_the_unet() -> None:
    model = shared("sd1")
    with given_back(model):
        attachment = attach(model, Hypernetwork(dropout=(0, 0.5, 0)), trained=True)
        with torch.random.fork_rng():
            assert not torch.equal(outputs(model), outputs(model)), "new sets train"
            for module in model.unet.modules():  # as the loop does around previews and writing
                module.training = False
            assert torch.equal(outputs(model), outputs(model))
        quiet = outputs(model)
        artifact = attachment.artifact()
        attachment.detach()
        again = hypernetwork.restore(model, artifact)
        assert torch.equal(outputs(model), quiet)
        again.detach()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_nets_on_a_unet_of_half_precision(dtype: torch.dtype, autocast: bool) -> None:
    model = shallow("sd1")
    exact = attach(model, DEEP, trained=True)
    wanted = grads_of(exact, loss_of(model))
    exact.detach()
    for component in (model.unet, *model.text_encoders.values()):
        component.to(dtype)
    exact = attach(model, DEEP, trained=True)
    with torch.autocast("cpu", dtype, enabled=autocast):
        grads = grads_of(exact, loss_of(model))
    assert {tensor.dtype for tensor in exact.tensors().values()} == {torch.float32}
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)
    flat, want = (torch.cat([grad.flatten() for grad in some]) for some in (grads, wanted))
    assert torch.nn.functional.cosine_similarity(flat, want, dim=0) > 0.99
    exact.set_strength(0)
    silent = outputs(model)
    exact.detach()
    assert torch.equal(outputs(model), silent)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model = shallow("sdxl")
    attachment = attach(model, DEEP, trained=True)
    wanted = grads_of(attachment, loss_of(model))
    model.unet.enable_gradient_checkpointing()
    model.unet.train()
    assert all(torch.equal(a, b) for a, b in zip(grads_of(attachment, loss_of(model)), wanted, strict=True))


def test_saved_and_loaded() -> None:
    model = shared("sd1")
    with given_back(model):
        attachment = attach(model, DEEP, trained=True)
        quiet, artifact = outputs(model), attachment.artifact()
        attachment.set_strength(0.3)
        weaker = outputs(model)
        attachment.detach()
        again = hypernetwork.restore(model, artifact)
        assert torch.equal(outputs(model), quiet) and again.artifact().tensors.keys() == artifact.tensors.keys()
        assert not any(param.requires_grad for group in again.param_groups() for param in group.params)
        again.set_strength(0.3)
        assert torch.equal(outputs(model), weaker)
        with pytest.raises(KeyError):
            again.load({"1.k.linear.0.weight": torch.zeros(1)})
        again.detach()


def test_widths_that_a_model_has_not() -> None:
    model = shared("sd1")
    with given_back(model):
        attachment = attach(model, Hypernetwork(sizes="all"), trained=True)
        quiet, artifact = outputs(model), attachment.artifact()
        attachment.detach()
        strange = attach_elsewhere(24)
        artifact.tensors |= strange
        artifact.family = ""  # a file that does not say: its widths do
        again = hypernetwork.restore(model, artifact)
        assert torch.equal(outputs(model), quiet)
        assert artifact.tensors.keys() - again.tensors().keys() == strange.keys()
        again.detach()
        artifact.tensors = strange
        with pytest.raises(ModelError, match="MD004"):
            hypernetwork.restore(model, artifact)


def attach_elsewhere(width: int) -> dict[str, Tensor]:
    """Tensors of a net for a width that no tiny model has."""
    net = hypernetwork.Net(width, Hypernetwork())
    return {f"{width}.{side}.{name}": param.data for side in "kv" for name, param in net.named_parameters()}


def test_tensors_that_do_not_fit_their_header_are_refused() -> None:
    model = shared("sd1")
    with given_back(model):
        attachment = attach(model, Hypernetwork())
        artifact = attachment.artifact()
        attachment.detach()
        name, tensor = next(iter(artifact.tensors.items()))
        for wrong in ({name: tensor.T}, {"text.k.linear.0.weight": tensor}):
            with pytest.raises(FormatError, match="FM001"):
                hypernetwork.restore(
                    model, type(artifact)("hypernetwork", "sd1", artifact.tensors | wrong, artifact.metadata)
                )
        for header in (
            {},
            artifact.metadata | {"activation_func": '"gelu"'},
            artifact.metadata | {"layer_structure": "[2]"},
        ):
            with pytest.raises(FormatError, match="FM001"):
                hypernetwork.restore(model, type(artifact)("hypernetwork", "sd1", artifact.tensors, header))


@pytest.mark.parametrize("dropout", [(0.1, 0.1, 0), (0, 0.1), (0, 1, 0), (0, -0.1, 0)])
def test_dropout_that_makes_no_sense(dropout: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="3 numbers"):
        Hypernetwork(dropout=dropout)
    assert isinstance(hypernetwork.Net(4, Hypernetwork(dropout=(0, 0.1, 0.2))).drops[1], nn.Dropout)
