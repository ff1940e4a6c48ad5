"""Hypernetwork files against two readers written from their rules: A1111's, by name, and ComfyUI's, by order."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tiny_models import CROSS_NAMES, outputs, tiny
from tsuika import formats
from tsuika.core.errors import FormatError, ModelError, TsuikaError
from tsuika.core.types import Artifact
from tsuika.formats import hypernetwork as files
from tsuika.generation.compose import Requested, compose
from tsuika.methods import METHODS
from tsuika.methods.hypernetwork import Hypernetwork
from tsuika.methods.hypernetwork import nets as hypernetwork

A1111, NATIVE = formats.for_method("hypernetwork")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leakyrelu": nn.functional.leaky_relu,
    "elu": nn.functional.elu,
    "swish": nn.functional.hardswish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softsign": nn.functional.softsign,
    "mish": nn.functional.mish,
}
HEADER = {
    "step",
    "name",
    "layer_structure",
    "activation_func",
    "is_layer_norm",
    "weight_initialization",
    "sd_checkpoint",
    "sd_checkpoint_name",
    "activate_output",
    "use_dropout",
    "dropout_structure",
    "last_layer_dropout",
    "optional_info",
}
CONFIGS = {
    "plain": Hypernetwork(),
    "deep": Hypernetwork(layer_structure=(1, 2, 4, 2, 1), activation="swish"),
    "fractions": Hypernetwork(layer_structure=(1, 0.5, 1.5, 1), activation="softsign", activate_output=True),
    "norm": Hypernetwork(activation="mish", layer_norm=True, activate_output=True),
    "norm-linear": Hypernetwork(layer_norm=True, layer_structure=(1, 1, 1, 1)),
    "dropout": Hypernetwork(activation="relu", layer_structure=(1, 2, 2, 1), dropout=(0, 0.3, 0.3, 0.3)),
    "dropout-norm": Hypernetwork(
        activation="elu", activate_output=True, layer_norm=True, dropout=(0, 0.3, 0.1), sizes="all"
    ),
    **{name: Hypernetwork(activation=name, zero_last=False, activate_output=True) for name in ACTIVATIONS},  # type: ignore[arg-type]
}


class Activated(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.function = ACTIVATIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def as_a1111(content: Mapping[Any, Any], width: int, side: int, *, norm: bool = True) -> nn.Module:
    """A net as A1111 builds it: modules from the header, weights strictly by name; dropout counts as a module."""
    structure = content.get("layer_structure", [1, 2, 1])
    activation, drops = content.get("activation_func"), content.get("dropout_structure")
    modules: list[nn.Module] = []
    for i in range(len(structure) - 1):
        modules.append(nn.Linear(int(width * structure[i]), int(width * structure[i + 1])))
        last = i == len(structure) - 2
        if activation not in (None, "linear") and (not last or content.get("activate_output", True)):
            modules.append(Activated(activation))
        if norm and content.get("is_layer_norm", False):
            modules.append(nn.LayerNorm(int(width * structure[i + 1])))
        if drops is not None and drops[i + 1] > 0:
            modules.append(nn.Dropout(drops[i + 1]))
    net = nn.Module()
    net.linear = nn.Sequential(*modules)
    net.load_state_dict(content[width][side], strict=True)
    return net.linear.eval()


def as_comfyui(content: Mapping[Any, Any], width: int, side: int) -> Callable[[Tensor], Tensor]:
    """A net as ComfyUI builds it: from the order and shapes of the weights; names and layer_structure are not asked."""
    assert not content.get("use_dropout", False), "ComfyUI would leave dropout on"
    state = content[width][side]
    weights = [name for name in state if name.endswith(".weight")]

    def run(x: Tensor) -> Tensor:
        for i, name in enumerate(weights):
            weight, bias = state[name], state[name.removesuffix("weight") + "bias"]
            if weight.ndim == 1:
                x = nn.functional.layer_norm(x, weight.shape, weight, bias)
                continue
            x = nn.functional.linear(x, weight, bias)
            if (i < len(weights) - 1 or content.get("activate_output", False)) and content[
                "activation_func"
            ] != "linear":
                x = ACTIVATIONS[content["activation_func"]](x)
        return x

    return run


def trained(model: Any, config: Hypernetwork) -> Any:
    attachment = hypernetwork.attach(model, config, torch.Generator().manual_seed(0))
    noise = torch.Generator().manual_seed(1)
    for tensor in attachment.tensors().values():
        tensor.add_(0.2 * torch.randn(tensor.shape, generator=noise))
    for module in model.unet.modules():
        module.training = False
    return attachment


def artifact_of(config: Hypernetwork, family: str = "sd1", widths: tuple[int, ...] = (24,)) -> Artifact:
    """As if trained, without a model."""
    nets = {f"{width}.{side}": hypernetwork.Net(width, config) for width in widths for side in "kv"}
    tensors = {f"{key}.{name}": param.data for key, net in nets.items() for name, param in net.named_parameters()}
    header = hypernetwork.header(config)
    return Artifact(
        "hypernetwork", family, tensors, {**header, "name": "画風", "steps": "300", "base_sha256": "ab" * 32}
    )


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("sd1")


@pytest.mark.parametrize("name", CONFIGS)
def test_other_programs_see_what_the_model_in_memory_does(name: str, model: Any, tmp_path: Path) -> None:
    config = CONFIGS[name]
    attachment = trained(model, config)
    path = tmp_path / "画風.pt"
    A1111.write(attachment.artifact(), path, dtype=torch.float32)
    content = torch.load(path, weights_only=True)
    widths = {key for key in content if isinstance(key, int)}
    assert widths == {int(key.partition(".")[0]) for key in attachment.tensors()}
    for width in widths:
        x = torch.randn(2, 7, width, generator=torch.Generator().manual_seed(width))
        for number, side in enumerate("kv"):
            with torch.no_grad():
                wanted = attachment.through(side, x)
                torch.testing.assert_close(x + as_a1111(content, width, number)(x), wanted)
                torch.testing.assert_close(x + as_comfyui(content, width, number)(x), wanted)
    attachment.detach()


def test_the_one_structure_on_which_programs_differ() -> None:
    """Layer normalisation without an activated output: what the help of `layer_norm` warns of."""
    artifact = artifact_of(Hypernetwork(layer_norm=True, activation="tanh"))
    _, nets = files._checked(artifact, "")
    content = {name: json.loads(artifact.metadata[name]) for name in files._DEFAULTS} | {
        24: (nets["24.k"], nets["24.v"])
    }
    x = torch.randn(2, 24, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(as_a1111(content, 24, 0)(x), as_comfyui(content, 24, 0)(x), atol=1e-3)


def test_every_field_in_plain_types(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    A1111.write(artifact_of(CONFIGS["dropout"]), path, dtype=torch.float16)
    content = torch.load(path, weights_only=True)
    assert content.keys() == HEADER | {24}
    assert content["activation_func"] == "relu" and content["layer_structure"] == [1, 2, 2, 1]
    assert (content["use_dropout"], content["dropout_structure"], content["last_layer_dropout"]) == (
        False,
        [0] * 4,
        False,
    )
    assert content["step"] == 300 and content["name"] == "画風" and content["sd_checkpoint"] == "ab" * 5
    plain = (int, float, str, bool, list, type(None))
    assert all(type(value) in plain for key, value in content.items() if key != 24)
    assert all(type(entry) is float for entry in content["layer_structure"] + content["dropout_structure"])
    assert type(content[24]) is tuple and len(content[24]) == 2
    assert list(content[24][0]) == [f"linear.{i}.{part}" for i in (0, 2, 4) for part in ("weight", "bias")]
    assert {tensor.dtype for state in content[24] for tensor in state.values()} == {torch.float16}
    A1111.write(artifact_of(CONFIGS["plain"]), path, dtype=torch.float16)
    assert torch.load(path, weights_only=True)["activation_func"] == "linear", "never None"


@pytest.mark.parametrize("form", [A1111, NATIVE], ids=lambda form: form.name)
@pytest.mark.parametrize("family", CROSS_NAMES)
def test_round_trip(form: Any, family: str, tmp_path: Path) -> None:
    model = tiny(family)
    attachment = trained(model, CONFIGS["dropout-norm"])
    artifact, said = attachment.artifact(), outputs(model)
    attachment.detach()
    path = tmp_path / f"a{form.suffix}"
    form.write(artifact, path, dtype=torch.float32)
    assert formats.find(path) is form and [known for known in formats.FORMATS if known.sniff(path)] == [form]
    again = form.read(path)
    assert again.family == family and again.tensors.keys() == artifact.tensors.keys()
    assert set(formats.relative_errors(artifact, again).values()) == {0.0}
    assert {name: again.metadata[name] for name in artifact.metadata} == artifact.metadata
    restored = hypernetwork.restore(model, again)
    assert torch.equal(outputs(model), said)
    same = path.read_bytes()
    form.write(again, path, dtype=torch.float32)
    assert path.read_bytes() == same
    restored.detach()


@pytest.mark.parametrize(
    ("widths", "family"), [((320, 768), "sd1"), ((1024,), "sd2"), ((640, 1280, 2048), "sdxl"), ((640,), "sd1")]
)
def test_family_by_the_width_of_the_text(widths: tuple[int, ...], family: str, tmp_path: Path) -> None:
    state = {width: foreign_net(width, 1) for width in widths}
    torch.save({width: (net, net) for width, net in state.items()} | {"layer_structure": [1, 1]}, tmp_path / "a.pt")
    artifact = A1111.read(tmp_path / "a.pt")
    assert artifact.family == family
    assert artifact.metadata["family_from"] == ("default" if widths == (640,) else "shapes")
    path = tmp_path / "b.pt"
    A1111.write(replace(artifact, family="sdxl"), path, dtype=torch.float32)
    assert A1111.read(path).family == "sdxl", "what is written says so"


def foreign_net(width: int, *multiples: float) -> dict[str, Tensor]:
    sizes = [width, *(int(width * multiple) for multiple in multiples)]
    return {
        f"linear.{i}.{part}": torch.randn((out, inside) if part == "weight" else (out,))
        for i, (inside, out) in enumerate(pairwise(sizes))
        for part in ("weight", "bias")
    }


def renamed(state: Mapping[str, Tensor], numbers: tuple[str, ...]) -> OrderedDict[str, Tensor]:
    return OrderedDict(
        (f"linear{numbers[i // 2]}.{name.rpartition('.')[2]}", tensor) for i, (name, tensor) in enumerate(state.items())
    )


def test_foreign_files(tmp_path: Path, model: Any) -> None:
    """A zip with dropout among the modules, a bare one with the oldest names, and lists for pairs."""
    width = model.unet.config.cross_attention_dim
    x = torch.randn(2, 7, width, generator=torch.Generator().manual_seed(2))
    net = foreign_net(width, 2, 2, 1)
    dropped = {
        "layer_structure": [1, 2, 2, 1],
        "activation_func": "relu",
        "activate_output": False,
        "use_dropout": True,
        "dropout_structure": [0, 0.3, 0.3, 0],
        "step": 7,
        "name": "x",
        width: (renamed(net, (".0", ".3", ".6")),) * 2,
    }
    oldest = {width: [renamed(foreign_net(width, 2, 1), ("1", "2"))] * 2}
    normed = {"activation_func": "mish", "is_layer_norm": True, width: (with_norms(width),) * 2}
    for number, content in enumerate((dropped, oldest, normed)):
        path = tmp_path / f"{number}.pt"
        torch.save(content, path)
        assert formats.find(path) is A1111
        artifact = replace(A1111.read(path), family="sd1")
        attachment = hypernetwork.restore(model, artifact)
        if content is oldest:
            state = {
                name.replace("linear1", "linear.0").replace("linear2", "linear.1"): tensor
                for name, tensor in oldest[width][0].items()
            }
            reference = as_a1111({width: (state, state)}, width, 0)
        else:
            reference = as_a1111(content, width, 0)
        with torch.no_grad():
            torch.testing.assert_close(attachment.through("k", x), x + reference(x))
        attachment.detach()
        out = tmp_path / "out.pt"
        A1111.write(artifact, out, dtype=torch.float32)
        written = torch.load(out, weights_only=True)
        with torch.no_grad():
            torch.testing.assert_close(as_comfyui(written, width, 1)(x), reference(x))


def with_norms(width: int) -> dict[str, Tensor]:
    """[1, 2, 1] with activation and layer normalisation after both layers, numbered 0, 2, 3, 5."""
    sizes = {"0": (2 * width, width), "2": (2 * width,), "3": (width, 2 * width), "5": (width,)}
    return {
        f"linear.{i}.{part}": torch.randn(shape if part == "weight" else shape[:1])
        for i, shape in sizes.items()
        for part in ("weight", "bias")
    }


def test_stacked_from_files_with_a_width_too_many_said(model: Any, tmp_path: Path) -> None:
    base, path = outputs(model), tmp_path / "style.pt"
    attachment = trained(model, CONFIGS["deep"])
    artifact, said = attachment.artifact(), outputs(model)
    attachment.detach()
    strange = artifact_of(CONFIGS["deep"]).tensors
    A1111.write(replace(artifact, tensors=artifact.tensors | strange), path, dtype=torch.float32)
    with compose(model, [Requested(path)], formats, METHODS) as composition:
        (part,) = composition.parts
        assert set(part.matched) == artifact.tensors.keys() and set(part.unmatched) == strange.keys()
        assert torch.equal(outputs(model), said)
        composition.set_strength(0, 0.0)
        assert torch.equal(outputs(model), base)
    assert torch.equal(outputs(model), base)


class Payload:
    """Creates a file when it is unpickled by a reader that runs what it finds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("place", ["step", "linear.0.bias", "outside"])
def test_hostile_pickles_are_refused_and_nothing_is_run(place: str, zipped: bool, tmp_path: Path) -> None:
    mark, path = tmp_path / "was-run", tmp_path / "style.pt"
    net: dict[str, Any] = dict(foreign_net(24, 2, 1))
    content: dict[Any, Any] = {24: (net, net), "step": 1}
    if place == "linear.0.bias":
        net[place] = Payload(mark)
    else:
        content[place] = Payload(mark)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    pickle.loads(pickle.dumps(Payload(tmp_path / "works")))
    assert (tmp_path / "works").exists(), "the payload is a real one"
    with pytest.raises(ModelError, match="MD005"):
        formats.find(path).read(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation_func": "glu"}, "glu"),
        ({"activation_func": "print"}, "print"),
        ({"layer_structure": [1, float("nan"), 1]}, "layer_structure"),
        ({"layer_structure": [1, float("inf"), 1]}, "layer_structure"),
        ({"layer_structure": [1, -2, 1]}, "layer_structure"),
        ({"layer_structure": [1, 10**400, 1]}, "layer_structure"),
        ({"layer_structure": [1, 1e6, 1]}, "layer_structure"),
        ({"layer_structure": [1, 2, 2]}, "layer_structure"),
        ({"layer_structure": [1]}, "layer_structure"),
        ({"layer_structure": []}, "layer_structure"),
        ({"layer_structure": [1, 3, 1]}, "layer_structure"),
        ({"layer_structure": "1, 2, 1"}, "layer_structure"),
        ({24: ({"linear.0.weight": torch.zeros(24, 24)}, {})}, "24.k"),
        ({24: ({"conv.weight": torch.zeros(24, 24)}, {})}, "conv.weight"),
        ({24: ({"linear.0.weight": 1}, {})}, "linear.0.weight"),
        ({24: torch.zeros(3)}, "Tensor"),
    ],
)
def test_what_is_wrong_is_named(change: dict[Any, Any], words: str, tmp_path: Path) -> None:
    net = foreign_net(24, 2, 1)
    torch.save({24: (net, net)} | change, tmp_path / "a.pt")
    with pytest.raises(FormatError, match="FM001") as caught:
        A1111.read(tmp_path / "a.pt")
    said = caught.value.describe()
    # Every gap is filled, that of what was expected too.
    assert words in said and "None" not in said and "{" not in said


def test_other_files_are_not_taken_for_hypernetworks(tmp_path: Path) -> None:
    embedding = {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(1, 768)}, "name": "x"}
    torch.save(embedding, tmp_path / "embedding.pt")
    torch.save({"clip_l": torch.zeros(1, 768)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("linear.0.weight", encoding="utf-8")
    for path in [*tmp_path.iterdir(), tmp_path, tmp_path / "missing.pt"]:
        assert not A1111.sniff(path) and not NATIVE.sniff(path)
    with pytest.raises(TsuikaError):
        A1111.read(tmp_path / "old.pt")


def test_what_the_formats_cannot_hold(tmp_path: Path) -> None:
    good = artifact_of(CONFIGS["plain"])
    name = "24.v.linear.1.bias"
    for form in (A1111, NATIVE):
        path = tmp_path / f"a{form.suffix}"
        for wrong, code in (
            (replace(good, method="lora"), "FM002"),
            (replace(good, metadata={}), "FM001"),
            (replace(good, tensors={key: value for key, value in good.tensors.items() if key != name}), "FM001"),
            (replace(good, tensors={key: value for key, value in good.tensors.items() if ".v." not in key}), "FM001"),
            (replace(good, tensors=good.tensors | {name: torch.full((24,), 1e6)}), "FM002"),
        ):
            with pytest.raises(FormatError, match=code):
                form.write(wrong, path, dtype=torch.float16)
        assert not path.exists()


def test_a_header_whose_length_looks_like_a_pickle_is_none(tmp_path: Path) -> None:
    """Header lengths are multiples of 8: one in 32 begins with the byte that begins a pickle."""
    artifact = artifact_of(next(iter(CONFIGS.values())))
    path, sizes = tmp_path / "a.safetensors", set()
    for padding in range(0, 264, 8):
        NATIVE.write(
            replace(artifact, metadata={**artifact.metadata, "comment": "x" * padding}), path, dtype=torch.float32
        )
        sizes.add(path.read_bytes()[0])
        assert formats.find(path) is NATIVE
        assert NATIVE.read(path).tensors.keys() == artifact.tensors.keys()
    assert 0x80 in sizes
