"""What an artifact's tensors say of the adapter they are of: its kind, its layers, their ranks and shapes. No model.

Parts have LyCORIS' and kohya's names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from tsuika.core.errors import FormatError
from tsuika.core.texts import _
from tsuika.core.types import Artifact, canonical
from tsuika.diffusion import lora_parts
from tsuika.diffusion.lora_parts import adapter, inner_factor

if TYPE_CHECKING:
    from torch import Tensor

# peft's parameter dictionaries of a layer -> the part's name in an Artifact.
PARTS: Final[dict[str, dict[str, str]]] = {
    "lora": {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight"},
    "dora": {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight", "lora_magnitude_vector": "dora_scale"},
    "loha": {name: name for name in lora_parts.LOHA},
    "lokr": {name: name for name in lora_parts.LOKR},
}


def layers_of(kind: str, artifact: Artifact) -> dict[tuple[str, str], dict[str, Tensor]]:
    """The artifact's tensors by (component, canonical path), then by part.

    Raises:
        FormatError: FM001, a layer has parts that this kind of adapter has not, or not all of them.
    """
    layers: dict[tuple[str, str], dict[str, Tensor]] = {}
    known = (*PARTS[kind].values(), "alpha")
    expected = f"{kind}: {', '.join(known)}"
    for name, tensor in artifact.tensors.items():
        part = next((part for part in known if name.endswith(f".{part}")), None)
        if part is None:
            raise FormatError("FM001", where=name, found=name.rpartition(".")[2], expected=expected)
        component, _dot, path = name.removesuffix(f".{part}").partition(".")
        layers.setdefault((component, canonical(component, path)), {})[part] = tensor
    for (component, path), parts in layers.items():
        if missing := _needed(kind, parts) - parts.keys():
            lacks = ", ".join(sorted(missing))
            found = _("a layer without {parts}", parts=lacks)
            raise FormatError("FM001", where=f"{component}.{path}", found=found, expected=expected)
    return layers


def _needed(kind: str, parts: Mapping[str, Tensor]) -> set[str]:
    """The parts that a layer of this kind must have, as it is split: LoHa with cores or without, LoKr's factors whole or not."""
    if kind == "lokr":
        factors = {n: f"lokr_w{n}" in parts for n in (1, 2)}
        return {f"lokr_w{n}{end}" for n, whole in factors.items() for end in (("",) if whole else ("_a", "_b"))}
    cores = {"hada_t1", "hada_t2"}
    return set(PARTS[kind].values()) - (set() if parts.keys() & cores else cores)


def rank_of(parts: Mapping[str, Tensor]) -> int:
    """The rank of a layer."""
    factor = inner_factor(parts)
    return max(parts["lokr_w2"].shape) if factor is None else len(factor)


def shape_of(kind: str, part: Mapping[str, Tensor]) -> tuple[int, int]:
    """(out, in * kernel) of the weight that an update is for."""
    if kind in ("lora", "dora"):
        return part["lora_up.weight"].shape[0], part["lora_down.weight"][0].numel()
    if kind == "loha":
        return _product(part["hada_w1_a"], part["hada_w1_b"], part.get("hada_t1"))
    first = _product(part["lokr_w1_a"], part["lokr_w1_b"], None) if "lokr_w1_a" in part else part["lokr_w1"].shape
    if "lokr_w2" in part:
        second = (part["lokr_w2"].shape[0], part["lokr_w2"][0].numel())
    else:
        second = _product(part["lokr_w2_a"], part["lokr_w2_b"], part.get("lokr_t2"))
    return first[0] * second[0], first[1] * second[1]


def _product(a: Tensor, b: Tensor, core: Tensor | None) -> tuple[int, int]:
    """Shape of a @ b, or of a Tucker product with its core (rank, rank, kernel...)."""
    return (a.shape[0], b.shape[1]) if core is None else (a.shape[1], b.shape[1] * core.shape[2:].numel())


def describe(artifact: Artifact) -> dict[str, Any]:
    """Kind, layers, ranks and alphas, for people."""
    layers = {
        tuple(name.removesuffix(f".{part}").partition(".")[::2])
        for name in artifact.tensors
        for part in lora_parts.PARTS
        if name.endswith(f".{part}")
    }
    tensors = artifact.tensors.items()
    ranks = [
        len(tensor) for name, tensor in tensors if name.endswith((".lora_down.weight", ".hada_w1_b", ".lokr_w2_b"))
    ]
    return {
        "adapter": adapter(artifact.tensors),
        "layers": len(layers),
        "targets": dict(Counter(component for component, _ in layers)),
        "convolutions": sum("resnets" in path or "samplers" in path for _, path in layers),
        "rank": _counted(ranks),
        "alpha": _counted(float(tensor) for name, tensor in tensors if name.endswith(".alpha")),
    }


def _counted(values: Iterable[float]) -> dict[str, int]:
    """`{"16": 264}`: each value, how often."""
    return {f"{value:g}": number for value, number in sorted(Counter(values).items())}
