"""LoRA: low-rank updates beside frozen layers (Hu et al. 2021), also DoRA, LoHa and LoKr. Settings and use; no torch here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, Final, Literal

from tsuika.core.errors import FormatError, RecipeError
from tsuika.core.section import everyday, expert
from tsuika.core.sections import Data
from tsuika.core.texts import _
from tsuika.core.types import Artifact, Facts, Model, Role, canonical
from tsuika.diffusion import adapters
from tsuika.methods.layers import weight_shapes
from tsuika.methods.method import TEXT_RATE, TRAINS_TEXT, Method, MethodSection, Outline
from tsuika.methods.uses import Result, Use, by_node, by_tag, in_diffusers, in_sd_scripts, in_tsuika

if TYPE_CHECKING:
    from torch import Tensor

# peft's parameter dictionaries of a layer -> the part's name in an Artifact.
PARTS: Final[dict[str, dict[str, str]]] = {
    "lora": {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight"},
    "dora": {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight", "lora_magnitude_vector": "dora_scale"},
    "loha": {name: name for name in adapters.LOHA},
    "lokr": {name: name for name in adapters.LOKR},
}

Layers = dict[tuple[str, str], dict[str, "Tensor"]]


class Lora(MethodSection):
    """Low-rank adaptation (Hu et al. 2021) and its relatives, through peft."""

    name: Literal["lora"] = "lora"
    adapter: Literal["lora", "dora", "loha", "lokr"] = expert(
        "lora", "Kind of adapter; only `lora` loads in every program"
    )
    rank: int = everyday(16, "Rank (dim): how much can be learned, and the file's size", ge=1, le=1024)
    alpha: float = expert(0.0, "Alpha: the scale is alpha / rank; 0 = same as rank", ge=0)
    rank_stabilized: bool = expert(False, "rsLoRA: scale by alpha / sqrt(rank) (Kalajdzievski 2023)")
    conv: bool = expert(False, "Adapt convolutions as well (LoCon)")
    conv_rank: int = expert(0, "Rank of 3x3 convolutions; 0 = same as rank", ge=0, le=1024)
    text_encoder: bool = TRAINS_TEXT
    text_learning_rate: float = TEXT_RATE
    dropout: float = expert(0.0, "Dropout inside the adapter", ge=0, lt=1)

    @property
    def network(self) -> Mapping[str, Any]:
        """Rank, alpha (as rank where none is set) and dropout."""
        return {"rank": self.rank, "alpha": self.alpha or self.rank, "dropout": self.dropout}

    @property
    def some_unused(self) -> bool:
        """SDXL reads text before the last layer, and a whole adapter can drop out."""
        return self.text_encoder or self.dropout > 0

    def check(self, facts: Facts) -> None:
        """Files for SD3 have q, k and v as one layer, which LoKr's products cannot be put together in."""
        if facts.attention == "joint" and self.adapter == "lokr":
            why = _("Programs keep q, k and v of {family} as one layer, which LoKr cannot be.", family=facts.title)
            raise RecipeError("RC002", key="method.adapter", found=self.adapter, why=why)

    @property
    def roles(self) -> tuple[Role, ...]:
        """Which layers are adapted."""
        conv: tuple[Role, ...] = ("unet.conv",) if self.conv else ()
        return ("unet.attn", "unet.ff", *conv, *(("text.attn", "text.ff") if self.text_encoder else ()))

    def rank_of(self, shape: tuple[int, ...]) -> int:
        """The rank of a layer whose weight has this shape."""
        return (self.conv_rank or self.rank) if prod(shape[2:]) > 1 else self.rank


def outline(settings: Lora, data: Data, model: Model) -> Outline:
    """Of plain LoRA; the relatives have about as many numbers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in weight_shapes(model, settings.roles).items():
        rank = settings.rank_of(shape)
        shapes[f"{name}.lora_down.weight"] = (rank, *shape[1:])
        shapes[f"{name}.lora_up.weight"] = (shape[0], rank, *(1 for _size in shape[2:]))
        shapes[f"{name}.alpha"] = ()
    return Outline(shapes, {"adapter": "lora"})


def layers_of(artifact: Artifact) -> Layers:
    """The artifact's tensors by (component, canonical path), then by part. Raises FormatError: FM001, a tensor is no
    part of an adapter, or a layer is not whole."""
    layers: Layers = {}
    for name, tensor in artifact.tensors.items():
        if (split := adapters.split_name(name)) is None:
            raise FormatError("FM001", where=name, found=name.rpartition(".")[2], expected=", ".join(adapters.PARTS))
        component, _dot, path = split[0].partition(".")
        layers.setdefault((component, canonical(component, path)), {})[split[1]] = tensor
    for (component, path), parts in layers.items():
        if adapters.kind_of(parts) is None:
            kind = adapters.nearest_kind(parts)
            found, expected = _("a layer of {parts}", parts=", ".join(parts)), f"{kind.name}: {', '.join(kind.parts)}"
            raise FormatError("FM001", where=f"{component}.{path}", found=found, expected=expected)
    return layers


def peft_kind(layers: Layers) -> str | None:
    """The kind of adapter as which peft can hold all of these layers; None where it is none, or DoRA or a Tucker form.
    peft has no magnitudes of inputs, and no strength between for any."""
    kinds = {found.name for parts in layers.values() if (found := adapters.kind_of(parts)) is not None}
    kind = kinds.pop() if len(kinds) == 1 else ""
    known = {*PARTS.get(kind, {}).values(), "alpha"}
    return kind if kind in PARTS and all(parts.keys() <= known for parts in layers.values()) else None


def rank_of(parts: Mapping[str, Tensor]) -> int:
    """The rank of a layer that peft can hold."""
    factor = adapters.inner_factor(parts)
    return max(parts["lokr_w2"].shape) if factor is None else len(factor)


def describe(artifact: Artifact) -> dict[str, Any]:
    """Kinds, layers, ranks and alphas, for people."""
    layers = adapters.by_layer(artifact.tensors)
    paths = [layer.partition(".")[::2] for layer in layers]
    factors = [factor for parts in layers.values() if (factor := adapters.inner_factor(parts)) is not None]
    alphas = [float(parts["alpha"]) for parts in layers.values() if "alpha" in parts]
    # Of those that are bundled in its file
    words = json.loads(artifact.metadata.get("bundled_words", "[]"))
    return {
        **({"words": words} if words else {}),
        "adapter": adapters.adapter(artifact.tensors),
        "layers": len(layers),
        "targets": dict(Counter(component for component, _path in paths)),
        "convolutions": sum("resnets" in path or "samplers" in path for _component, path in paths),
        "rank": _counted(map(len, factors)),
        "alpha": _counted(alphas),
    }


def _counted(values: Iterable[float]) -> dict[str, int]:
    """`{"16": 264}`: each value, how often."""
    return {f"{value:g}": number for value, number in sorted(Counter(values).items())}


def uses(result: Result) -> Iterator[Use]:
    """Every program loads plain LoRA in kohya's layout."""
    if (file := result.first(".safetensors")) is None:
        return
    yield from in_tsuika(result, "--lora", file)
    strength = _("The number after the last colon is the strength; try 0.6 to 1.")
    forge = "Forge" if result.is_joint else "A1111 / Forge"
    yield by_tag(forge, file, "models/Lora/", f"{result.prompt} <lora:{file.stem}:1>", strength)
    no_tag = _("In ComfyUI the prompt has no `<lora:…>` tag.")
    yield by_node(file, "models/loras/", "Load LoRA", result.prompt, no_tag)
    if result.is_joint:
        # It passes over kohya's names of SD3 with a warning, and draws as without the file.
        if (folder := result.first("")) is not None:
            yield from in_diffusers(result, [f"pipe.load_lora_weights({json.dumps(str(folder))})"])
    elif not result.on_embedded:
        where, name = json.dumps(str(file.parent)), json.dumps(file.name)
        yield from in_diffusers(result, [f"pipe.load_lora_weights({where}, weight_name={name})"])
        yield from in_sd_scripts(result, ["--network_module", "networks.lora", "--network_weights", str(file)])


METHOD: Final = Method(
    settings=Lora,
    title=_("LoRA"),
    module="tsuika.methods.lora.layers",
    images=(15, 50),
    flag="lora",
    tag="lora",
    splits_strength=True,
    png_hashes="Lora hashes",
    backward="adapter",
    outline=outline,
    describe=describe,
    uses=uses,
)
