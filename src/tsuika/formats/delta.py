"""What a LoRA does to a weight: ΔW, and how far two artifacts are apart in it. For the check after writing.

Plain LoRA is compared without ever forming ΔW; see `_low_rank_norm`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from tsuika.core.types import Artifact
from tsuika.diffusion.lora_parts import inner_factor
from tsuika.formats import lora

if TYPE_CHECKING:
    from torch import Tensor


def compared_parts(artifact: Artifact) -> Iterator[Artifact]:
    """The artifact in the smallest parts that `relative_errors` can compare: a LoRA's layers need each other's tensors.

    Of everything else tensor by tensor, since a whole model is large.
    """
    if artifact.method == "lora":
        yield artifact
    else:
        yield from (replace(artifact, tensors={name: tensor}) for name, tensor in artifact.tensors.items())


def relative_errors(a: Artifact, b: Artifact) -> dict[str, float]:
    """How far b is from a by layer (`unet.mid_block...`), or by tensor where the method is not LoRA.

    LoRA: |ΔW_b - ΔW_a| / |ΔW_a| (Frobenius); DoRA's magnitudes are compared in the same way, beside its low-rank part.
    Infinite where layers or shapes differ.

    Raises:
        FormatError: one is a LoRA of a kind without ΔW (FM002).
    """
    if a.method != "lora":
        return tensor_errors(a.tensors, b.tensors)
    ours, theirs = lora.layers(a, "ΔW"), lora.layers(b, "ΔW")
    errors = {".".join(key): math.inf for key in ours.keys() ^ theirs.keys()}
    for key in ours.keys() & theirs.keys():
        error = _layers_apart(ours[key], theirs[key])
        scales = ours[key].get("dora_scale"), theirs[key].get("dora_scale")
        if scales[0] is not None and scales[1] is not None:
            error = max(error, _apart(scales[0].float().flatten(), scales[1].float().flatten()))
        elif (scales[0] is None) != (scales[1] is None):
            error = math.inf
        errors[".".join(key)] = error
    return errors


def factors_of(parts: lora.Parts) -> tuple[Tensor, Tensor] | None:
    """(up, down) in float64 with ΔW = up @ down: (out, r), (r, in * kernel), the scale in `up`.

    None where a layer is not plain LoRA (LoHa, LoKr, Tucker). A DoRA's magnitudes are not looked at.
    """
    if "lora_down.weight" not in parts or "lora_mid.weight" in parts:
        return None
    down, up = (parts[f"lora_{way}.weight"].detach().to("cpu").double().flatten(1) for way in ("down", "up"))
    scale = float(parts["alpha"]) / len(down) if "alpha" in parts else 1.0
    return up * scale, down


def _low_rank_norm(up: Tensor, down: Tensor) -> float:
    """Frobenius norm of up @ down from its triangular factor: (out, r), (r, in).

    Exact to float64's precision of the terms, even where they cancel. The norm by Gram matrices, tr(GuGd), is a
    difference of squares and loses half of the digits: two files that agree to 1e-7 would look the same.
    """
    import torch

    return float((torch.linalg.qr(up, mode="r").R @ down).norm())


def tensor_errors(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, float]:
    """|b - a| / |a| (Frobenius) by name, infinite where a name is in one only; each tensor is asked for once."""
    shared = a.keys() & b.keys()
    return dict.fromkeys(a.keys() ^ b.keys(), math.inf) | {name: _apart(a[name], b[name]) for name in shared}


def _layers_apart(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    import torch

    ours, theirs = factors_of(a), factors_of(b)
    if ours is None or theirs is None:
        return _apart(layer_delta(a), layer_delta(b))
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


def layer_delta(parts: Mapping[str, Tensor]) -> Tensor:
    """ΔW of one layer in fp32, what is added to its weight at strength 1; of a DoRA the low-rank part alone.

    Shapes are the weight's own, except convolutions of LoHa and LoKr, which come flat as (out, in * k * k).
    Sources: LoRA, Hu et al. 2021, eq. 3; LoHa, LoKr and Tucker: LyCORIS, Yeh et al. 2024.
    """
    import torch

    part = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in parts.items()}
    alpha = float(part["alpha"]) if "alpha" in part else None
    weight = (_low_rank if "lora_down.weight" in part else _hadamard if "hada_w1_a" in part else _kronecker)(part)
    inner = inner_factor(part)
    # Two full Kronecker factors have no rank: every program takes scale 1.
    return weight * (alpha / len(inner)) if alpha is not None and inner is not None else weight


def _low_rank(part: Mapping[str, Tensor]) -> Tensor:
    import torch

    down, up = part["lora_down.weight"], part["lora_up.weight"].flatten(1)
    if (mid := part.get("lora_mid.weight")) is not None:
        return torch.einsum("oa,abkl,bi->oikl", up, mid, down.flatten(1))
    return (up @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


def _tucker(core: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    import torch

    return torch.einsum("ab...,ao,bi->oi...", core, outer, inner)


def _hadamard(part: Mapping[str, Tensor]) -> Tensor:
    first, second = (part[f"hada_w{n}_a"] for n in (1, 2))
    if "hada_t1" in part:
        return _tucker(part["hada_t1"], first, part["hada_w1_b"]) * _tucker(part["hada_t2"], second, part["hada_w2_b"])
    return (first @ part["hada_w1_b"]) * (second @ part["hada_w2_b"])


def _kronecker(part: Mapping[str, Tensor]) -> Tensor:
    import torch

    first = part["lokr_w1"] if "lokr_w1" in part else part["lokr_w1_a"] @ part["lokr_w1_b"]
    if "lokr_w2" in part:
        second = part["lokr_w2"]
    elif "lokr_t2" in part:
        second = _tucker(part["lokr_t2"], part["lokr_w2_a"], part["lokr_w2_b"])
    else:
        second = part["lokr_w2_a"] @ part["lokr_w2_b"]
    return torch.kron(first, second.flatten(1).contiguous()) if second.ndim > 2 else torch.kron(first, second)
