"""What an artifact's tensors say of the adapter they are of: its kinds, its layers and their ranks. No model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from tsuika.core.errors import FormatError
from tsuika.core.texts import _
from tsuika.core.types import Artifact, canonical
from tsuika.diffusion import adapters

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
