"""Lanes: what a shared pass gives each attachment is what it gets in a pass of its own, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_models import bits, outputs, tiny
from tsuika.core.types import Attachment, Conditioning, Lanes, Model
from tsuika.methods import METHODS
from tsuika.methods.hypernetwork import Hypernetwork
from tsuika.methods.lora import Lora
from tsuika.methods.textual_inversion import TextualInversion

LORA = (Lora(rank=2), Lora(rank=5, alpha=2), Lora(rank=3))
CONV = (Lora(rank=2, conv=True), Lora(rank=4, conv=True, conv_rank=3, alpha=1), Lora(rank=3, conv=True))
TEXT = (Lora(rank=2, text_encoder=True),) * 3
NETS = (Hypernetwork(), Hypernetwork(activation="swish", layer_norm=True), Hypernetwork(layer_structure=(1, 1)))
ALL_NETS = (Hypernetwork(sizes="all"),) * 3
WORDS = (TextualInversion(words=("tsuipi",), init="cat"),) * 3
CASES = {
    "lora-sd2": ("sd2", LORA),
    "conv-sd1": ("sd1", CONV),
    "text-sdxl": ("sdxl", TEXT),
    "nets-sd1": ("sd1", NETS),
    "all-nets-sd2": ("sd2", ALL_NETS),
    "nets-sdxl": ("sdxl", NETS),
    "words-sd1": ("sd1", WORDS),
    "words-sdxl": ("sdxl", WORDS),
}
ROWS = 2  # of each lane
CAPTIONS = ("a tsuipi", "a dog")


@cache
def shared(family: str) -> Any:
    """One model a family; every test gives it back as it was."""
    return tiny(family)


def attach(model: Model, config: Any, seed: int) -> Attachment:
    """An attachment as if trained, at strength 0."""
    attachment: Attachment = METHODS[config.name].attach(model, config, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 100)
    for tensor in attachment.tensors().values():
        tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    attachment.set_strength(0)
    return attachment


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Iterator[tuple[Any, list[Attachment], Lanes]]:
    """A model, three attachments, and their lanes; at the end the model is checked to be as before, bit for bit."""
    family, configs = CASES[request.param]
    model = shared(family)
    before, said = bits(model), outputs(model)
    attachments = [attach(model, config, seed) for seed, config in enumerate(configs)]
    yield model, attachments, METHODS[configs[0].name].side_by_side(attachments)
    assert torch.equal(outputs(model), said)
    for attachment in attachments:
        attachment.detach()
    after = bits(model)
    assert after.keys() == before.keys() and all(torch.equal(after[name], value) for name, value in before.items())


def noisy(lanes: int) -> tuple[Tensor, Tensor]:
    """Latents and timesteps that differ from row to row."""
    generator = torch.Generator().manual_seed(11)
    return torch.randn(lanes * ROWS, 4, 8, 8, generator=generator), torch.arange(lanes * ROWS) * 97 + 5


def together(model: Model, lanes: Lanes, order: Sequence[int], then: Callable[[Tensor], object]) -> Tensor:
    """One pass; `then` is called while the lanes are still open."""
    texts = []
    for lane in order:
        with lanes.alone(lane):
            texts.append(model.encode_text(CAPTIONS))
    latents, t_B = noisy(len(order))
    with lanes.route(order):
        out: Tensor = model.denoise(latents, t_B, Conditioning.join(texts))
        then(out)
    return out.detach()


def one_by_one(
    model: Model, attachments: Sequence[Attachment], order: Sequence[int], then: Callable[[Tensor], object]
) -> Tensor:
    """A pass for each, through the ordinary attachment."""
    latents, t_B = noisy(len(order))
    outs = []
    for i, lane in enumerate(order):
        rows = slice(i * ROWS, (i + 1) * ROWS)
        attachments[lane].set_strength(1)
        out = model.denoise(latents[rows], t_B[rows], model.encode_text(CAPTIONS))
        then(out)
        attachments[lane].set_strength(0)
        outs.append(out.detach())
    return torch.cat(outs)


def gradients(attachments: Sequence[Attachment]) -> list[dict[int, Tensor]]:
    """Of each attachment, by the parameter's number; taken: what was accumulated is cleared."""
    taken = []
    for attachment in attachments:
        params = [param for group in attachment.param_groups() for param in group.params]
        taken.append({i: param.grad for i, param in enumerate(params) if param.grad is not None})
        for param in params:
            param.grad = None
    return taken


def backward(out: Tensor) -> None:
    weights = torch.randn(out.shape[1:], generator=torch.Generator().manual_seed(12))
    torch.autograd.backward((out * weights).sum())


def assert_same_gradients(found: list[dict[int, Tensor]], wanted: list[dict[int, Tensor]]) -> None:
    """But for sums in another order, in float32: some gradients are nothing but rounding (a bias of keys)."""
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        whole = sum(float(value.norm()) for value in other.values())
        assert whole > 0 or not other
        assert all((one[i] - value).norm() <= 1e-4 * value.norm() + 1e-6 * whole for i, value in other.items())


def test_a_shared_pass_is_the_separate_passes(case: tuple[Any, list[Attachment], Lanes]) -> None:
    model, attachments, lanes = case
    separate = one_by_one(model, attachments, (0, 1, 2), backward)
    wanted = gradients(attachments)
    assert all(wanted)
    torch.testing.assert_close(together(model, lanes, (0, 1, 2), backward), separate, rtol=1e-5, atol=1e-5)
    assert_same_gradients(gradients(attachments), wanted)


@pytest.mark.parametrize("case", ["conv-sd1", "nets-sd1", "words-sd1"], indirect=True)
@pytest.mark.parametrize("order", [(2, 0), (1,), (2, 1, 0, 1)], ids=str)
def test_any_lanes_in_any_order(case: tuple[Any, list[Attachment], Lanes], order: tuple[int, ...]) -> None:
    model, attachments, lanes = case
    separate = one_by_one(model, attachments, order, backward)
    wanted = gradients(attachments)
    torch.testing.assert_close(together(model, lanes, order, backward), separate, rtol=1e-5, atol=1e-5)
    assert_same_gradients(gradients(attachments), wanted)


@pytest.mark.parametrize("case", ["conv-sd1", "text-sdxl", "nets-sd1"], indirect=True)
def test_gradient_checkpointing(case: tuple[Any, list[Attachment], Lanes]) -> None:
    model, attachments, lanes = case
    together(model, lanes, (0, 1, 2), backward)
    wanted = gradients(attachments)
    model.unet.enable_gradient_checkpointing()
    model.unet.train()
    try:
        together(model, lanes, (0, 1, 2), backward)
    finally:
        model.unet.disable_gradient_checkpointing()
        model.unet.eval()
    assert_same_gradients(gradients(attachments), wanted)


@pytest.mark.parametrize("case", ["conv-sd1", "nets-sd1", "words-sd1", "text-sdxl"], indirect=True)
def test_alone(case: tuple[Any, list[Attachment], Lanes]) -> None:
    """One at a time, nested as one likes; what was open before is open again, after errors too."""
    model, attachments, lanes = case
    said = []
    for attachment in attachments:
        attachment.set_strength(1)
        said.append(outputs(model, CAPTIONS))
        attachment.set_strength(0)
    base = outputs(model, CAPTIONS)
    assert not any(torch.equal(one, base) for one in said)
    with lanes.alone(1):
        assert torch.equal(outputs(model, CAPTIONS), said[1])
        with pytest.raises(KeyError), lanes.alone(2):
            assert torch.equal(outputs(model, CAPTIONS), said[2])
            raise KeyError
        with lanes.alone(None):
            assert torch.equal(outputs(model, CAPTIONS), base)
        with pytest.raises(KeyError), lanes.route([0, 2]):
            raise KeyError
        assert torch.equal(outputs(model, CAPTIONS), said[1])
    assert torch.equal(outputs(model, CAPTIONS), base)


@pytest.mark.parametrize("case", ["conv-sd1", "nets-sd1"], indirect=True)
def test_the_lit_lane_does_not_reach_into_a_shared_pass(case: tuple[Any, list[Attachment], Lanes]) -> None:
    model, _, lanes = case
    with lanes.alone(2):
        inside = together(model, lanes, (0, 1), lambda _: None)
    assert torch.equal(inside, together(model, lanes, (0, 1), lambda _: None))


WORD = TextualInversion(words=("dog",), init="cat cat cat", vectors=3)
LAID = {  # under what: first what is of the same kind, then what works elsewhere
    "lora": (LORA[:2], (Lora(rank=3), Lora(rank=3, adapter="lokr"), Hypernetwork(), WORD)),
    "nets": (NETS[:2], (Hypernetwork(), Lora(rank=3))),
    "words": (WORDS[:2], (WORD,)),
}


@pytest.mark.parametrize("kind", LAID)
def test_what_is_laid_on_the_base_acts_on_every_row(kind: str) -> None:
    model, (configs, laid), below = shared("sd1"), LAID[kind], []
    bare = outputs(model, CAPTIONS)
    for config in laid:
        made = attach(model, config, seed=50)
        artifact = made.artifact()
        made.detach()
        below.append(METHODS[artifact.method].restore(model, artifact))
    attachments = [attach(model, config, seed) for seed, config in enumerate(configs)]
    lanes = METHODS[configs[0].name].side_by_side(attachments)
    separate = one_by_one(model, attachments, (0, 1), backward)
    wanted = gradients(attachments)
    said = together(model, lanes, (0, 1), backward)
    torch.testing.assert_close(said, separate, rtol=1e-5, atol=1e-5)
    assert_same_gradients(gradients(attachments), wanted)
    for one in below:
        one.set_strength(0)
        former, said = said, together(model, lanes, (0, 1), lambda _: None)
        assert not any(torch.equal(*pair) for pair in zip(former.chunk(2), said.chunk(2), strict=True))
    for one in (*below, *attachments):
        one.detach()
    assert torch.equal(outputs(model, CAPTIONS), bare)


@pytest.mark.parametrize("case", ["conv-sd1"], indirect=True)
def test_in_double_precision_gradients_agree_to_the_last_digits(case: tuple[Any, list[Attachment], Lanes]) -> None:
    """So what is left in float32 is rounding."""
    model, attachments, lanes = case
    model.unet.double()
    try:
        one_by_one(model, attachments, (0, 1, 2), backward)
        wanted = gradients(attachments)
        together(model, lanes, (0, 1, 2), backward)
        found = gradients(attachments)
    finally:
        model.unet.float()
    for one, other in zip(found, wanted, strict=True):
        whole = max(value.norm() for value in other.values())
        assert all((one[i] - value).norm() <= 1e-12 * whole for i, value in other.items())


@pytest.mark.parametrize("case", ["conv-sd1"], indirect=True)
def test_autocast(case: tuple[Any, list[Attachment], Lanes]) -> None:
    """In half precision the difference to separate passes is that of rounding, not of another computation."""
    model, attachments, lanes = case
    exact = one_by_one(model, attachments, (0, 1, 2), lambda _: None)
    with torch.autocast("cpu", torch.bfloat16):
        separate = one_by_one(model, attachments, (0, 1, 2), lambda _: None)
        at_once = together(model, lanes, (0, 1, 2), lambda _: None)
    assert (at_once - exact).norm() < 1.5 * (separate - exact).norm()


def test_what_would_not_come_out_as_alone_is_refused() -> None:
    model = shared("sd1")
    plain, more, other, random = (
        attach(model, Lora(rank=2, **extra), 0) for extra in ({}, {"conv": True}, {"adapter": "loha"}, {"dropout": 0.1})
    )
    net = attach(model, Hypernetwork(dropout=(0, 0.1, 0)), 0)
    for why, attachments in {"layers": (plain, more), "kind": (other, other), "dropout": (plain, random)}.items():
        with pytest.raises(ValueError, match=why):
            METHODS["lora"].side_by_side(attachments)
    with pytest.raises(ValueError, match="dropout"):
        METHODS["hypernetwork"].side_by_side((net,))
    for one in (net, random, other, more, plain):
        one.detach()
