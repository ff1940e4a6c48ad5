"""What every method promises, on every family: silent at attach, the base untouched, learns, saves, stacks, goes away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lora_deltas import delta
from tiny_models import FAMILY_NAMES, bits, outputs, picture_batch, shallow
from tsuika import formats
from tsuika.core.errors import FormatError, ModelError, RecipeError
from tsuika.core.types import Artifact, Attachment, Model, canonical
from tsuika.diffusion.adapters import by_layer, own_change
from tsuika.diffusion.objective import objective
from tsuika.families import FAMILIES
from tsuika.families.network import UNET_ROLES
from tsuika.formats import relative_errors
from tsuika.methods import METHODS
from tsuika.methods.lora import Lora, is_convolution

KINDS: dict[str, Lora] = {
    "lora": Lora(rank=3),
    "dora": Lora(rank=3, adapter="dora"),
    "loha": Lora(rank=3, adapter="loha"),
    "lokr": Lora(rank=3, adapter="lokr"),
}
OPTIONS: dict[str, Lora] = {
    "alpha": Lora(rank=4, alpha=1.5),
    "conv-rank-stabilized": Lora(rank=4, alpha=2, rank_stabilized=True, conv=True, conv_rank=2),
    "text": Lora(rank=2, text_encoder=True),
    "dora-conv-text": Lora(rank=2, alpha=1, adapter="dora", conv=True, text_encoder=True),
    "loha-conv-text": Lora(rank=2, alpha=1, adapter="loha", conv=True, text_encoder=True),
    "lokr-conv-text": Lora(rank=2, alpha=1, adapter="lokr", conv=True, text_encoder=True),
    "lokr-whole": Lora(rank=64, alpha=8, adapter="lokr"),
}
SETTINGS = {**KINDS, **OPTIONS}
# Families differ in their layers, kinds in what they do to one: LoRA on every family, each kind with all options on one.
CASES = [
    *((name, "sd1") for name in OPTIONS if name != "alpha"),
    *(("text", family) for family in FAMILY_NAMES[1:]),
    ("dora", "sdxl"),
]
ATTACHED: list[Any] = []  # every set a test has made, so that one that fails leaves the shared models as they were


def attach(model: Model, name: str, seed: int = 0) -> Any:
    settings = SETTINGS[name]
    ATTACHED.append(METHODS[settings.name].attach(model, settings, torch.Generator().manual_seed(seed)))
    return ATTACHED[-1]


def restore(model: Model, artifact: Any) -> Any:
    ATTACHED.append(METHODS[artifact.method].restore(model, artifact))
    return ATTACHED[-1]


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    before = len(ATTACHED)
    yield
    while len(ATTACHED) > before:
        ATTACHED.pop().detach()


def disturb(attachment: Attachment, seed: int = 1) -> None:
    """Weights as if trained: none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in attachment.tensors().values():
        tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))


def loss_of(model: Model) -> Callable[[], Tensor]:
    """The loss on one picture, always with the same noise and timesteps."""
    latents = picture_batch(0, 1, model=model).latents_BCHW.repeat(2, 1, 1, 1)
    noise = torch.randn(latents[:1].shape, generator=torch.Generator().manual_seed(7)).expand_as(latents)
    t_B = torch.tensor([50, 550])
    told = objective(model.prediction, model.scheduler_config, "cpu")
    wanted = told.target(latents, noise, t_B)

    def loss() -> Tensor:
        cond = model.encode_text(["a cat"] * 2)
        return (model.denoise(told.add_noise(latents, noise, t_B), t_B, cond) - wanted).pow(2).mean()

    return loss


def fit(attachment: Attachment, loss: Callable[[], Tensor], steps: int, rate: float) -> list[float]:
    """Loss at every step."""
    params = [param for group in attachment.param_groups() for param in group.params]
    optimizer, losses = torch.optim.Adam(params, rate), []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        torch.autograd.backward(value)
        optimizer.step()
        losses.append(float(value.detach()))
    return losses


def train(model: Model, attachment: Attachment, steps: int) -> None:
    fit(attachment, loss_of(model), steps, rate=1e-2)


@contextmanager
def frozen(attachment: Attachment) -> Iterator[None]:
    params = [param for group in attachment.param_groups() for param in group.params]
    for param in params:
        param.requires_grad_(False)
    yield
    for param in params:
        param.requires_grad_(True)


def same(one: Artifact, other: Artifact) -> bool:
    """Whether two artifacts are one to `restore`."""
    if one.metadata.get("adapter") != other.metadata.get("adapter") or one.tensors.keys() != other.tensors.keys():
        return False
    return all(torch.equal(value, other.tensors[key]) for key, value in one.tensors.items())


def layers_of(attachment: Any) -> list[tuple[str, str, Any]]:
    return [(slot.component, slot.path, slot.layer) for slot in attachment.slots]


@cache
def shared(family: str) -> Any:
    """One model a family; every test gives it back as it was."""
    return shallow(family)


@dataclass
class Life:
    """A set of layers on a model, trained for a step, and what the model said before, at first, and now."""

    settings: Lora
    model: Any
    attachment: Any
    base: Tensor
    silent: Tensor
    trained: Tensor
    held: list[tuple[nn.Parameter, Tensor]]  # the base's parameters and what they were
    random_state_kept: bool


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def life(request: pytest.FixtureRequest) -> Iterator[Life]:
    name, family = request.param
    model = shared(family)
    base, state = outputs(model), torch.random.get_rng_state()
    held = [(param, param.detach().clone()) for root in model.components.values() for param in root.parameters()]
    attachment = attach(model, name)
    kept = torch.equal(state, torch.random.get_rng_state())
    silent = outputs(model)
    train(model, attachment, 1)
    disturb(attachment)
    yield Life(SETTINGS[name], model, attachment, base, silent, outputs(model), held, kept)
    attachment.detach()
    assert torch.equal(outputs(model), base)


def test_attaching_changes_no_bit_and_no_random_state(life: Life) -> None:
    assert torch.equal(life.silent, life.base)
    assert not torch.equal(life.trained, life.base)
    assert life.random_state_kept


def test_training_leaves_the_base_alone(life: Life) -> None:
    assert all(torch.equal(param, copy) and not param.requires_grad for param, copy in life.held)
    mine = {id(param) for group in life.attachment.param_groups() for param in group.params}
    trainable = {id(p) for root in life.model.components.values() for p in root.parameters() if p.requires_grad}
    assert mine == trainable
    assert len(mine) == len(life.attachment.tensors())


def test_trains_says_what_trains(life: Life) -> None:
    text = life.settings.text_encoder
    assert any(role.startswith("text.") for role in life.attachment.trains) == text
    assert {group.name for group in life.attachment.param_groups()} == ({"unet", "text"} if text else {"unet"})
    assert any(key.startswith("text_encoder") for key in life.attachment.tensors()) == text
    convs = [path for _, path, layer in layers_of(life.attachment) if path.endswith(".conv1")]
    assert bool(convs) == ("unet.conv" in life.attachment.trains) == life.settings.conv


def test_tensors_go_out_and_in(life: Life) -> None:
    kept = {key: value.clone() for key, value in life.attachment.tensors().items()}
    disturb(life.attachment, seed=9)
    assert not torch.equal(outputs(life.model), life.trained)
    life.attachment.load(kept)
    assert torch.equal(outputs(life.model), life.trained)
    kept.popitem()
    with pytest.raises(KeyError):
        life.attachment.load(kept)


def test_strength(life: Life) -> None:
    """0 is the base, bit for bit; between, a layer adds in proportion, or (DoRA) it is refused."""
    life.attachment.set_strength(0)
    assert torch.equal(outputs(life.model), life.base)
    life.attachment.set_strength(1)
    if life.settings.adapter == "dora":
        with pytest.raises(RecipeError, match="0 or 1"):
            life.attachment.set_strength(0.5)
    else:
        for _, _, layer in layers_of(life.attachment)[::20]:
            x = sample_input(layer)
            base, one = layer.get_base_layer()(x), layer(x)
            for strength in (-0.5, 0.3, 2.0):
                life.attachment.set_strength(strength)
                torch.testing.assert_close(layer(x) - base, strength * (one - base), rtol=1e-4, atol=1e-4)
            life.attachment.set_strength(1)
    assert torch.equal(outputs(life.model), life.trained)


def test_an_artifact_and_its_files_do_what_the_model_did(life: Life, tmp_path: Path) -> None:
    artifact = life.attachment.artifact()
    assert (artifact.method, artifact.family) == (life.settings.name, life.model.facts.family)
    # What is restored is frozen, and torch multiplies by weights that train through another kernel: freeze to compare.
    with frozen(life.attachment):
        said = outputs(life.model)
    torch.testing.assert_close(said, life.trained, rtol=0, atol=1e-5)
    life.attachment.set_strength(0)
    back = restore(life.model, artifact)
    if life.settings.adapter == "dora":  # laid on the weights, and so rounded in another place
        torch.testing.assert_close(outputs(life.model), said, rtol=0, atol=1e-5)
        back.set_strength(0.5)
        assert not torch.allclose(outputs(life.model), said, rtol=0, atol=1e-4)
        back.set_strength(0)
        assert torch.equal(outputs(life.model), life.base)
        back.set_strength(1)
    else:
        assert torch.equal(outputs(life.model), said)
    again = back.artifact()
    back.detach()
    assert again.tensors.keys() == artifact.tensors.keys()
    assert all(torch.equal(again.tensors[key], value) for key, value in artifact.tensors.items())
    held = []
    for format_ in formats.for_method("lora"):
        path = tmp_path / f"{format_.name.replace('/', '-')}{format_.suffix}"
        try:
            format_.write(artifact, path, dtype=torch.float32)
        except FormatError as error:
            assert error.code == "FM002"
            continue
        held.append(format_.name)
        read = formats.find(path).read(path)
        if same(read, artifact):
            continue
        back = restore(life.model, read)
        torch.testing.assert_close(outputs(life.model), said, rtol=0, atol=1e-5)
        back.detach()
    assert held
    assert len(held) == len(formats.for_method("lora")) or life.settings.adapter != "lora"
    life.attachment.set_strength(1)


def test_the_artifacts_change_of_a_weight_is_pefts_own(life: Life) -> None:
    artifact, layers = life.attachment.artifact(), layers_of(life.attachment)
    if life.settings.adapter == "dora":  # no sum of a weight and a change
        with pytest.raises((ValueError, FormatError)):
            list(delta(artifact))
        return
    ours = {(component, path): value for component, path, value in delta(artifact)}
    assert ours.keys() == {(component, path) for component, path, _ in layers}
    for component, path, layer in layers:
        theirs = layer.get_delta_weight(life.attachment.adapter)
        torch.testing.assert_close(ours[component, path].reshape(theirs.shape), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "family"), [("text", "sd1"), ("dora-conv-text", "sd1"), ("lokr-conv-text", "sd1")])
def test_the_base_comes_back(name: str, family: str) -> None:
    model = shared(family)
    modules = {f"{part}.{path}": m for part, root in model.components.items() for path, m in root.named_modules()}
    weights, said = bits(model), outputs(model)
    attributes = {part: set(vars(root)) for part, root in model.components.items()}
    attachment = attach(model, name)
    train(model, attachment, 1)
    attachment.detach()
    after = bits(model)
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[key], value) for key, value in weights.items())
    again = {f"{part}.{path}": m for part, root in model.components.items() for path, m in root.named_modules()}
    assert again.keys() == modules.keys()
    assert all(again[path] is module for path, module in modules.items())  # the very modules, so also their types
    assert not any(param.requires_grad for root in model.components.values() for param in root.parameters())
    assert {part: set(vars(root)) for part, root in model.components.items()} == attributes
    assert torch.equal(outputs(model), said)


@pytest.mark.parametrize("name", ["lora", "lokr"])
def test_the_generator_decides_the_start(name: str) -> None:
    sets = [attach(shared("sd1"), name, seed) for seed in (1, 1, 2)]
    first, same, other = ({key: value.clone() for key, value in one.tensors().items()} for one in sets)
    for one in sets:
        one.detach()
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", KINDS)
def test_learns_one_picture_by_heart(name: str) -> None:
    model = shared("sd1")
    attachment = attach(model, name)
    losses = fit(attachment, loss_of(model), 10, 5e-2)
    assert losses[-1] < losses[0] / 2
    assert min(losses) == min(losses[-5:])


def test_learns_what_another_set_does() -> None:
    """Within reach by construction, however little the layers of a tiny SDXL with random weights can change."""
    model = shared("sdxl")
    noisy_BCHW, t_B = picture_batch(0, 2).latents_BCHW, torch.tensor([50, 550])

    def said() -> Tensor:
        out_BCHW: Tensor = model.denoise(noisy_BCHW, t_B, model.encode_text(["a cat", "a dog"]))
        return out_BCHW

    teacher = attach(model, "text", seed=1)
    disturb(teacher)
    wanted = said().detach()
    teacher.detach()
    losses = fit(attach(model, "text"), lambda: (said() - wanted).pow(2).mean(), steps=6, rate=1e-2)
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize("name", ["lora", "dora", "loha-conv-text", "lokr-whole", "conv-rank-stabilized"])
def test_a_training_goes_on_from_what_a_file_held(name: str) -> None:
    """At the start the model says what it said with the file, the base is at strength 0, and what is written is the file's."""
    model = shared("sd1")
    base = outputs(model)
    first = attach(model, name)
    disturb(first)
    with frozen(first):
        said = outputs(model)
    start = first.artifact()
    first.detach()
    settings = Lora(start="a.safetensors", text_encoder=SETTINGS[name].text_encoder).started(start)
    assert (settings.adapter, settings.conv) == (SETTINGS[name].adapter, SETTINGS[name].conv)
    attachment = METHODS["lora"].attach(model, settings, torch.Generator(), start)
    ATTACHED.append(attachment)
    with frozen(attachment):
        torch.testing.assert_close(outputs(model), said, rtol=0, atol=1e-6)
    assert all(torch.equal(value, start.tensors[key]) for key, value in attachment.artifact().tensors.items())
    attachment.set_strength(0)
    assert torch.equal(outputs(model), base)
    attachment.set_strength(1)
    train(model, attachment, 1)
    assert not torch.allclose(outputs(model), said, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["alpha", "dora", "conv-rank-stabilized"])
def test_a_start_gets_a_larger_rank_that_is_nothing_yet_and_learns(name: str) -> None:
    model = shared("sd1")
    first = attach(model, name)
    disturb(first)
    with frozen(first):
        said = outputs(model)
    start = first.artifact()
    first.detach()
    before = Lora(start="a.safetensors").started(start)
    wanted = {"rank": before.rank + 3, **({"conv_rank": before.rank + 2} if before.conv else {})}
    settings = Lora(start="a.safetensors", **wanted).started(start)
    assert settings.rank == before.rank + 3
    assert settings.network["alpha"] / settings.rank == pytest.approx(before.network["alpha"] / before.rank)
    tensors = []
    for seed in (1, 1, 2):
        attachment = METHODS["lora"].attach(model, settings, torch.Generator().manual_seed(seed), start)
        tensors.append(attachment.artifact().tensors)
        with frozen(attachment):
            torch.testing.assert_close(outputs(model), said, rtol=0, atol=1e-6)
        attachment.detach()
    # What every layer adds is what the file adds, by a sum of its own.
    for layer, parts in by_layer(start.tensors).items():
        larger, rank = by_layer(tensors[0])[layer], len(parts["lora_down.weight"])
        grown = wanted.get("conv_rank", 0) if is_convolution(layer.partition(".")[2]) else wanted["rank"]
        assert len(larger["lora_down.weight"]) == grown
        assert torch.equal(larger["lora_down.weight"][:rank], parts["lora_down.weight"].float())
        assert not larger["lora_up.weight"][:, rank:].any() and larger["lora_down.weight"][rank:].any()
        assert float(larger["alpha"]) / grown == pytest.approx(float(parts["alpha"]) / rank)
    assert all(torch.equal(value, tensors[1][key]) for key, value in tensors[0].items())
    assert any(not torch.equal(value, tensors[2][key]) for key, value in tensors[0].items())
    attachment = METHODS["lora"].attach(model, settings, torch.Generator().manual_seed(1), start)
    ATTACHED.append(attachment)
    train(model, attachment, 1)
    after = attachment.artifact().tensors
    new = [value[:, before.rank :] for key, value in after.items() if key.endswith("lora_up.weight")]
    assert any(bool(value.any()) for value in new)


def test_text_layers_of_a_start_are_kept_untrained_and_penalties_go_towards_the_base() -> None:
    model = shared("sd1")
    plain = {}
    for name in ("text", "dora"):
        first = attach(model, name)
        plain[name] = first.updates()[0].start
        disturb(first)
        start = first.artifact()
        first.detach()
        settings = Lora(start="a.safetensors").started(start)
        attachment = METHODS["lora"].attach(model, settings, torch.Generator(), start)
        assert [group.name for group in attachment.param_groups()] == ["unet"]
        assert not any(role.startswith("text.") for role in attachment.trains)
        assert all(
            torch.equal(one, other) for one, other in zip(attachment.updates()[0].start, plain[name], strict=True)
        )
        train(model, attachment, 1)
        after = attachment.artifact().tensors
        text = [key for key in after if key.startswith("text_encoder")]
        assert bool(text) == (name == "text") and all(torch.equal(after[key], start.tensors[key]) for key in text)
        attachment.detach()


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"rank": 3}, "rank"),
        ({"alpha": 7.0}, "alpha"),
        ({"adapter": "loha"}, "adapter"),
        ({"conv": True}, "conv"),
        ({"text_encoder": True}, "text_encoder"),
    ],
)
def test_a_start_is_not_made_another_silently(more: dict[str, Any], key: str) -> None:
    model = shared("sd1")
    attachment = attach(model, "alpha")
    start = attachment.artifact()
    attachment.detach()
    assert Lora(start="a.safetensors", rank=4, alpha=1.5).started(start).network["alpha"] == 1.5
    with pytest.raises(RecipeError, match=r"tsuika resize a\.safetensors") as error:
        Lora(start="a.safetensors", **more).started(start)
    assert error.value.code == "RC002" and f"method.{key}" in str(error.value)
    with pytest.raises(ValueError, match="at least 1"):
        Lora(rank=0)


PATTERN = r"up_blocks\..*attn2\.to_[kv]|mid_block\..*resnets\.0\.conv1"


@pytest.mark.parametrize(
    "settings",
    [
        Lora(rank=4, targets=PATTERN, rank_pattern=("to_k=2", "resnets.*=3"), alpha_pattern=(r"attn2\.to_k=1.5",)),
        Lora(rank=2, targets="attention-ff-conv", rank_pattern=(r"down_blocks\..*\.proj_in=1",), text_encoder=True),
    ],
)
def test_patterns_mean_what_they_mean_in_peft(settings: Lora, tmp_path: Path) -> None:
    """The same layers, ranks and scales as peft's own; and files say each layer's, so every reader has them."""
    model = shallow("sd1")
    attachment = METHODS["lora"].attach(model, settings, torch.Generator().manual_seed(0))
    disturb(attachment)
    artifact = attachment.artifact()
    for format_ in formats.for_method("lora"):
        path = tmp_path / f"{format_.name.replace('/', '-')}{format_.suffix}"
        format_.write(artifact, path, dtype=torch.float32)
        assert max(relative_errors(artifact, formats.find(path).read(path)).values()) < 1e-6
    ours = {name: (slot.rank, slot.base_scale) for slot in attachment.slots for name in [slot.key] if "unet" in name}
    attachment.detach()
    ranks, alphas = (
        {key: float(number) for key, _equals, number in (entry.rpartition("=") for entry in entries)}
        for entries in (settings.rank_pattern, settings.alpha_pattern)
    )
    wanted = (
        settings.targets if settings.targets == PATTERN else "|".join(UNET_ROLES[role] for role in settings.roles[:3])
    )
    peft = LoraConfig(r=settings.rank, target_modules=wanted, rank_pattern=ranks, alpha_pattern=alphas)
    peft.rank_pattern = {key: int(value) for key, value in ranks.items()}
    # Where no alpha is given it is the rank, also of layers with a rank of their own.
    peft.alpha_pattern = alphas | peft.rank_pattern
    peft.lora_alpha = settings.rank
    inject_adapter_in_model(peft, model.unet)
    theirs = {
        f"unet.{path}": (layer.r["default"], layer.scaling["default"])
        for path, layer in model.unet.named_modules()
        if isinstance(layer, LoraLayer)
    }
    assert ours == theirs


def test_short_names_are_of_roles_and_the_usual_ones_keep_their_bits() -> None:
    model = shared("sd1")
    made = {}
    for more in (
        {},
        {"targets": "attention-ff"},
        {"conv": True},
        {"targets": "attention-ff-conv"},
        {"targets": "attention"},
    ):
        attachment = METHODS["lora"].attach(model, Lora(rank=2, **more), torch.Generator().manual_seed(0))
        made[str(more)] = {key: value.clone() for key, value in attachment.tensors().items()}
        trains = attachment.trains
        attachment.detach()
    usual, same, conv, with_conv, attention = made.values()
    assert all(torch.equal(usual[key], same[key]) for key in usual | same)
    assert all(torch.equal(conv[key], with_conv[key]) for key in conv | with_conv)
    assert trains == {"unet.attn"} and attention.keys() == {key for key in usual if ".ff." not in key}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"targets": "up_blocks.(*"}, "no regular expression"),
        ({"targets": "up_blocks.*attn2.*", "conv": True}, "which convolutions"),
        ({"rank_pattern": ("to_k",)}, "PATTERN=NUMBER"),
        ({"rank_pattern": ("to_k=0",)}, "PATTERN=NUMBER"),
        ({"alpha_pattern": ("to_k=nan",)}, "PATTERN=NUMBER"),
        ({"targets": "no_such_layer"}, "no layer"),
        ({"targets": r"up_blocks\..*to_k", "text_encoder": True}, "no layer"),
        ({"rank_pattern": ("resnets.*=2",)}, "no layer"),
    ],
)
def test_patterns_that_say_nothing_are_refused(more: dict[str, Any], why: str) -> None:
    with pytest.raises((ValueError, RecipeError), match=why):
        METHODS["lora"].attach(shared("sd1"), Lora(**more), torch.Generator()).detach()


# ------------------------------------------------------------------------------------------------------- stacking


def sample_input(layer: Any) -> Tensor:
    base = layer.get_base_layer()
    generator = torch.Generator().manual_seed(5)
    if isinstance(base, nn.Conv2d):
        return torch.randn(2, base.in_channels, 6, 6, generator=generator)
    return torch.randn(2, 5, base.in_features, generator=generator)


def with_weight(base: Any, weight: Tensor, x: Tensor) -> Tensor:
    if isinstance(base, nn.Conv2d):
        return nn.functional.conv2d(x, weight, base.bias, base.stride, base.padding)
    return nn.functional.linear(x, weight, base.bias)


@pytest.mark.parametrize(("one", "two"), [("lora", "alpha"), ("lokr", "lora"), ("loha", "lokr")])
def test_two_sets_add_up_each_at_its_strength(one: str, two: str) -> None:
    model = shared("sd1")
    base = outputs(model)
    first = attach(model, one)
    disturb(first, 1)
    alone = outputs(model)
    second = attach(model, two)
    assert torch.equal(outputs(model), alone)  # the second starts silent, and the first still counts
    disturb(second, 2)
    both = outputs(model)
    first.set_strength(0.7)
    second.set_strength(-0.4)
    deltas = [{(c, p): d for c, p, d in delta(attachment.artifact())} for attachment in (first, second)]
    for component, path, _ in layers_of(second)[::7]:
        layer: Any = model.module(component, path)
        plain, x = layer.get_base_layer(), sample_input(layer)
        change = sum(
            s * d[component, path].reshape(plain.weight.shape) for s, d in zip((0.7, -0.4), deltas, strict=True)
        )
        torch.testing.assert_close(layer(x), with_weight(plain, plain.weight + change, x), rtol=1e-4, atol=1e-5)
    for attachment, strength in ((second, 1), (first, 1)):
        attachment.set_strength(strength)
    assert torch.equal(outputs(model), both)
    second.set_strength(0)
    assert torch.equal(outputs(model), alone)
    first.set_strength(0)
    assert torch.equal(outputs(model), base)
    first.detach()
    second.detach()


@pytest.mark.parametrize(
    ("kinds", "first_goes_first"),
    [(("lora", "alpha"), True), (("dora", "lora"), False), (("lokr", "loha"), True), (("lokr", "loha"), False)],
)
def test_two_sets_go_in_any_order(kinds: tuple[str, str], first_goes_first: bool) -> None:
    model = shared("sd1")
    base, names = outputs(model), [name for name, _ in model.unet.named_modules()]
    sets = [attach(model, name) for name in kinds]
    alone: list[Tensor] = []
    for number, attachment in enumerate(sets):
        disturb(attachment, number)
    for attachment in sets:
        attachment.set_strength(0)
    for attachment in sets:
        attachment.set_strength(1)
        alone.append(outputs(model))
        attachment.set_strength(0)
    for attachment in sets:
        attachment.set_strength(1)
    first, second = (0, 1) if first_goes_first else (1, 0)
    sets[first].detach()
    assert torch.equal(outputs(model), alone[second])
    sets[second].detach()
    assert torch.equal(outputs(model), base)
    assert [name for name, _ in model.unet.named_modules()] == names


def test_a_frozen_set_stays_frozen_beside_one_that_trains() -> None:
    model = shared("sd1")
    attachment = attach(model, "lora")
    disturb(attachment)
    artifact = attachment.artifact()
    attachment.detach()
    frozen, other = restore(model, artifact), restore(model, artifact)
    learner = attach(model, "alpha")
    copies = {key: value.clone() for key, value in frozen.tensors().items()}
    other.detach()
    train(model, learner, 2)
    assert all(torch.equal(copies[key], value) for key, value in frozen.tensors().items())
    trainable = {id(p) for p in model.unet.parameters() if p.requires_grad}
    assert trainable == {id(param) for group in learner.param_groups() for param in group.params}
    learner.detach()
    frozen.detach()


# ------------------------------------------------------------------------------------------------ what does not fit


@cache
def _made(name: str) -> Artifact:
    attachment = attach(shared("sd1"), name)
    artifact: Artifact = attachment.artifact()
    attachment.detach()
    return artifact


def made_for_sd1(name: str) -> Artifact:
    """The artifact of a fresh set, with a dictionary of tensors for the test to change."""
    return replace(_made(name), tensors=dict(_made(name).tensors))


@pytest.mark.parametrize("name", KINDS)
def test_another_family_is_refused_and_leaves_nothing(name: str) -> None:
    artifact, model = made_for_sd1(name), shared("sdxl")
    modules = [name for name, _ in model.unet.named_modules()]
    with pytest.raises(ModelError) as caught:
        restore(model, artifact)
    assert caught.value.code == "MD004"
    assert [name for name, _ in model.unet.named_modules()] == modules


@pytest.mark.parametrize("name", KINDS)
def test_another_shape_is_refused(name: str) -> None:
    model, artifact = shared("sd1"), made_for_sd1(name)
    inputs = {"lora": "lora_down.weight", "dora": "lora_down.weight", "loha": "hada_w1_b", "lokr": "lokr_w1"}
    key = next(key for key in artifact.tensors if key.endswith(inputs[name]))
    wide = artifact.tensors[key]
    artifact.tensors[key] = torch.cat([wide, wide], dim=0 if name == "lokr" else 1)
    with pytest.raises(ModelError) as caught:
        restore(model, artifact)
    assert caught.value.code == "MD004"
    assert caught.value.where == key.removesuffix(f".{inputs[name]}")


def test_a_part_that_is_unknown_or_missing_is_named() -> None:
    model, artifact = shared("sd1"), made_for_sd1("lora")
    key = next(key for key in artifact.tensors if key.endswith("lora_up.weight"))
    foreign = key.replace("lora_up.weight", "hada_w1_a")
    artifact.tensors[foreign] = torch.zeros(3, 3)
    with pytest.raises(FormatError, match="hada_w1_a"):
        restore(model, artifact)
    del artifact.tensors[foreign], artifact.tensors[key]
    with pytest.raises(FormatError, match="lora_up"):
        restore(model, artifact)


@pytest.mark.parametrize(("kind", "part"), [("loha", "hada_w2_a"), ("lokr", "lokr_w1"), ("lokr", "lokr_w2_b")])
def test_a_part_that_a_split_needs_is_named(kind: str, part: str) -> None:
    artifact = made_for_sd1(kind)
    del artifact.tensors[next(key for key in artifact.tensors if key.endswith(f".{part}"))]
    with pytest.raises(FormatError, match=part) as caught:
        restore(shared("sd1"), artifact)
    assert caught.value.code == "FM001"
    with pytest.raises(FormatError, match="FM002"):
        list(delta(artifact))


def test_splits_of_other_programs_are_read() -> None:
    """Tucker cores and other Kronecker factors, as LyCORIS writes them, where peft would have chosen otherwise."""
    model = shared("sd1")
    path = model.targets("unet.conv")["unet"][0]
    weight: Any = model.module("unet", path).weight
    out, inside, *kernel = weight.shape
    draw = torch.Generator().manual_seed(0)

    def parts(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
        return {
            f"unet.{canonical('unet', path)}.{name}": 0.3 * torch.randn(shape, generator=draw)
            for name, shape in shapes.items()
        }

    tucker = parts(
        hada_w1_a=(2, out),
        hada_w1_b=(2, inside),
        hada_t1=(2, 2, *kernel),
        hada_w2_a=(2, out),
        hada_w2_b=(2, inside),
        hada_t2=(2, 2, *kernel),
    )
    kronecker = parts(lokr_w1_a=(2, 1), lokr_w1_b=(1, 2), lokr_w2=(out // 2, inside // 2, *kernel))
    for tensors in (tucker, kronecker):
        artifact = Artifact("lora", "sd1", tensors)
        (_, _, change), *_ = delta(artifact)
        attachment = restore(model, artifact)
        layer: Any = attachment.slots[0].layer
        x = sample_input(layer)
        expected = with_weight(layer.get_base_layer(), weight + change.reshape(weight.shape), x)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
        attachment.detach()


@pytest.mark.parametrize("first", ["w1", "w1_a w1_b"])
@pytest.mark.parametrize("second", ["w2", "w2_a w2_b", "w2_a w2_b t2"])
def test_the_scale_of_a_lokr_is_by_the_files_own_split(first: str, second: str) -> None:
    """alpha / rank wherever there is a factor with a rank, 1 where there is none; peft would split otherwise."""
    model = shared("sd1")
    path = model.targets("unet.conv")["unet"][0]
    weight: Any = model.module("unet", path).weight
    out, inside, *kernel = weight.shape
    is_tucker, rank = second.endswith("t2"), out  # of such a rank peft would make no factors at all
    shapes = {
        "w1": (2, 2),
        "w1_a": (2, rank),
        "w1_b": (rank, 2),
        "w2": (out // 2, inside // 2, *kernel),
        "w2_a": (rank, out // 2) if is_tucker else (out // 2, rank),
        "w2_b": (rank, inside // 2 * (1 if is_tucker else kernel[0] * kernel[1])),
        "t2": (rank, rank, *kernel),
    }
    draw, layer = torch.Generator().manual_seed(0), f"unet.{canonical('unet', path)}"
    parts = {f"lokr_{part}": torch.randn(shapes[part], generator=draw) for part in f"{first} {second}".split()}
    parts["alpha"] = torch.tensor(0.5)
    attachment = restore(model, Artifact("lora", "sd1", {f"{layer}.{part}": value for part, value in parts.items()}))
    (slot,) = attachment.slots
    change = slot.layer.get_delta_weight(attachment.adapter)
    torch.testing.assert_close(change, own_change(parts, torch.float32).reshape(weight.shape), rtol=1e-4, atol=1e-5)
    attachment.set_strength(2)
    torch.testing.assert_close(slot.layer.get_delta_weight(attachment.adapter), 2 * change)


@pytest.mark.parametrize("key", ["conv", "targets"])
def test_convolutions_are_refused_where_there_are_none(key: str) -> None:
    facts = {row.facts.attention: row.facts for row in FAMILIES}
    settings = Lora(conv=True) if key == "conv" else Lora(targets="attention-ff-conv")
    with pytest.raises(RecipeError) as error:
        settings.check(facts["joint"])
    assert error.value.code == "RC002" and f"method.{key}" in error.value.part("what")
    settings.check(facts["cross"])
    Lora(targets="attention-ff").check(facts["joint"])
