"""The layers of a LoRA by canonical name, of every kind: which tensors make one (`<component>.<module path>.<part>`, parts as
kohya's and LyCORIS'), and how far two artifacts are apart in what they do to a weight: for the check after writing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tsuika.core.errors import FormatError
from tsuika.core.texts import Text, _
from tsuika.core.types import Artifact
from tsuika.diffusion import adapters
from tsuika.families import FAMILIES
from tsuika.formats import common

if TYPE_CHECKING:
    from torch import Tensor

Key = tuple[str, str]  # component, canonical module path
Parts = adapters.Parts

METHOD: Final = "lora"
_CACHED: Final = 1 << 17  # numbers that are compared at once
COMPONENTS: Final = ("unet", *dict.fromkeys(tower.component for family in FAMILIES for tower in family.towers))


def split_name(name: str) -> tuple[str, str, str] | None:
    """`unet.mid_block.attentions.0.proj_in.alpha` to (component, path, part); None if it is not a canonical name."""
    layer, part = adapters.split_name(name) or ("", "")
    component, _dot, path = layer.partition(".")
    return (component, path, part) if component in COMPONENTS and path else None


def layers(artifact: Artifact, format_name: str) -> dict[Key, dict[str, Tensor]]:
    """The artifact's tensors by (component, path), then by part, sorted. Raises FormatError: not a LoRA, or with
    tensors that are no part of one (FM002)."""
    if artifact.method != METHOD:
        raise common.of_another_method(artifact.method, format_name, _("LoRA"))
    result: dict[Key, dict[str, Tensor]] = {}
    for name, tensor in sorted(artifact.tensors.items()):
        if (split := split_name(name)) is None:
            why = _("`{name}` is no part of an adapter that tsuika knows.", name=name)
            do = _("Train with adapter lora, loha, lokr or dora.")
            raise FormatError("FM002", format=format_name, why=why, do=do)
        component, path, part = split
        result.setdefault((component, path), {})[part] = tensor
    for key, parts in result.items():
        if adapters.kind_of(parts) is None:
            why = incomplete(".".join(key), parts)
            raise FormatError("FM002", format=format_name, why=why, do=_("Give whole layers."))
    return result


def incomplete(layer: str, parts: Iterable[str]) -> Text:
    """What is wrong with a layer of which parts are missing, or that has parts of two kinds; for people."""
    kind = adapters.nearest_kind(list(parts))
    return _(
        "`{layer}` has {parts}; a layer of {kind} has all that it needs of {known}.",
        layer=layer,
        parts=", ".join(parts),
        kind=kind.name,
        known=", ".join((*kind.parts, *adapters.BESIDE)),
    )


def most_common(values: Iterable[float]) -> float:
    """The most frequent of the values, a whole number if it is one; 0 where there are none."""
    counted = Counter(values).most_common(1)
    value = counted[0][0] if counted else 0
    return int(value) if float(value).is_integer() else value


def compared_parts(artifact: Artifact) -> Iterator[Artifact]:
    """The artifact in the smallest parts that `relative_errors` can compare: a LoRA's layers need each other's tensors.
    Of everything else tensor by tensor, since a whole model is large."""
    if artifact.method == "lora":
        yield artifact
    else:
        yield from (replace(artifact, tensors={name: tensor}) for name, tensor in artifact.tensors.items())


def relative_errors(a: Artifact, b: Artifact) -> dict[str, float]:
    """How far b is from a by layer (`unet.mid_block...`), or by tensor where the method is not LoRA. LoRA: |ΔW_b -
    ΔW_a| / |ΔW_a| (Frobenius). Changes of biases and DoRA's magnitudes are compared in the same way, beside it, and so
    is each tensor of a kind whose ΔW depends on the base's weight. Infinite where layers or shapes differ. Raises
    FormatError: one is not made of whole layers (FM002)."""
    if a.method != "lora":
        return tensor_errors(a.tensors, b.tensors)
    ours, theirs = layers(a, "ΔW"), layers(b, "ΔW")
    errors = {".".join(key): math.inf for key in ours.keys() ^ theirs.keys()}
    for key in ours.keys() & theirs.keys():
        errors[".".join(key)] = max(_layers_apart(ours[key], theirs[key]), _beside(ours[key], theirs[key]))
    return errors


def factors_of(parts: Parts) -> tuple[Tensor, Tensor] | None:
    """(up, down) in float64 with ΔW = up @ down: (out, r), (r, in * kernel), the scale in `up`. None where a layer is
    not plain LoRA (LoHa, LoKr, Tucker). A DoRA's magnitudes are not looked at."""
    if "lora_down.weight" not in parts or "lora_mid.weight" in parts:
        return None
    down, up = (parts[f"lora_{way}.weight"].detach().to("cpu").double().flatten(1) for way in ("down", "up"))
    return up * adapters.scale_of(parts), down


def _low_rank_norm(up: Tensor, down: Tensor) -> float:
    """Frobenius norm of up @ down from its triangular factor: (out, r), (r, in). Exact to float64's precision of the
    terms, even where they cancel. The norm by Gram matrices, tr(GuGd), is a difference of squares and loses half of the
    digits: two files that agree to 1e-7 would look the same."""
    import torch

    return float((torch.linalg.qr(up, mode="r").R @ down).norm())


def tensor_errors(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, float]:
    """|b - a| / |a| (Frobenius) by name, infinite where a name is in one only; each tensor is asked for once."""
    shared = a.keys() & b.keys()
    return dict.fromkeys(a.keys() ^ b.keys(), math.inf) | {name: _apart(a[name], b[name]) for name in shared}


def _beside(a: Parts, b: Parts) -> float:
    pairs = [(a.get("dora_scale"), b.get("dora_scale")), (adapters.bias_change(a), adapters.bias_change(b))]
    errors = [
        _apart(one.flatten(), other.flatten()) if one is not None and other is not None else math.inf
        for one, other in pairs
        if one is not None or other is not None
    ]
    return max(errors, default=0.0)


def _layers_apart(a: Parts, b: Parts) -> float:
    import torch

    ours, theirs = factors_of(a), factors_of(b)
    if ours is None or theirs is None:
        kinds = adapters.kind_of(a), adapters.kind_of(b)
        if any(kind is None or kind.reads_weight for kind in kinds):
            return max(tensor_errors(a, b).values())
        one, other = (adapters.own_change(parts, torch.float32) for parts in (a, b))
        if one is None or other is None:
            return 0.0 if one is other else math.inf
        return _apart(one, other)
    if len(ours[0]) != len(theirs[0]) or a["lora_down.weight"].shape[1:] != b["lora_down.weight"].shape[1:]:
        return math.inf
    stacked = torch.cat([theirs[0], -ours[0]], dim=1), torch.cat([theirs[1], ours[1]])
    if not all(bool(factor.isfinite().all()) for factor in stacked):
        return math.inf
    if all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True)):
        return 0.0  # not the rounding of a sum
    return _ratio(_low_rank_norm(*stacked), _low_rank_norm(*ours))


def _apart(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return math.inf
    import torch

    a, b = (tensor.detach().to("cpu").reshape(-1) for tensor in (a, b))
    error = size = 0.0
    # In parts that a processor's cache holds: a quarter of the time that whole copies in float64 take.
    for ours, theirs in zip(torch.split(a, _CACHED), torch.split(b, _CACHED), strict=True):
        exact = ours.double()
        apart = theirs.double() - exact
        error, size = error + float(apart.dot(apart)), size + float(exact.dot(exact))
    return _ratio(math.sqrt(error), math.sqrt(size))


def _ratio(error: float, size: float) -> float:
    if not math.isfinite(error):
        return math.inf
    return error / size if size else (0.0 if error == 0 else math.inf)
