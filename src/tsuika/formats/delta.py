"""What a LoRA does to a weight: ΔW, and how far two artifacts are apart in it. For the check after writing. Plain LoRA
is compared without ever forming ΔW; see `_low_rank_norm`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from tsuika.core.types import Artifact
from tsuika.diffusion import adapters
from tsuika.formats import lora

if TYPE_CHECKING:
    from torch import Tensor


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
    ours, theirs = lora.layers(a, "ΔW"), lora.layers(b, "ΔW")
    errors = {".".join(key): math.inf for key in ours.keys() ^ theirs.keys()}
    for key in ours.keys() & theirs.keys():
        errors[".".join(key)] = max(_layers_apart(ours[key], theirs[key]), _beside(ours[key], theirs[key]))
    return errors


def factors_of(parts: lora.Parts) -> tuple[Tensor, Tensor] | None:
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


def _beside(a: lora.Parts, b: lora.Parts) -> float:
    pairs = [(a.get("dora_scale"), b.get("dora_scale")), (adapters.bias_change(a), adapters.bias_change(b))]
    errors = [
        _apart(one.flatten(), other.flatten()) if one is not None and other is not None else math.inf
        for one, other in pairs
        if one is not None or other is not None
    ]
    return max(errors, default=0.0)


def _layers_apart(a: lora.Parts, b: lora.Parts) -> float:
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
    a, b = (tensor.detach().to("cpu").double() for tensor in (a, b))
    return _ratio(float((b - a).norm()), float(a.norm()))


def _ratio(error: float, size: float) -> float:
    if not math.isfinite(error):
        return math.inf
    return error / size if size else (0.0 if error == 0 else math.inf)
