"""What adapters do to a base's weights: of which tensors (kohya's and LyCORIS' names) each kind's layers are made, and their
formulas. W' = W + strength * ΔW for every kind, as A1111 and LyCORIS have it. Sources: LoRA, Hu et al. 2021; LoHa, LoKr,
Tucker, GLoRA, diag-OFT: LyCORIS, Yeh et al. 2024, and its modules; DoRA, Liu et al. 2024; (IA)³, Liu et al. 2022; OFT, Qiu
et al. 2023; BOFT, Liu et al. 2023."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Parts = Mapping[str, "Tensor"]


@dataclass(frozen=True)
class AdapterKind:
    """One kind of layer."""

    name: str
    parts: tuple[str, ...]
    is_whole: Callable[[Collection[str]], bool]  # whether these parts are all that it needs, and none is there twice
    # ΔW without its scale from the parts and W, in one number type; None: the weight stays.
    change: Callable[[Parts, Tensor], Tensor | None]
    # The part whose first axis is the rank that alpha is divided by; the first that is there counts.
    ranked: tuple[str, ...] = ()
    reads_weight: bool = False  # ΔW depends on W, so that it is no sum of a weight and a change


def _low_rank(parts: Parts, weight: Tensor) -> Tensor:
    import torch

    down, up = parts["lora_down.weight"], parts["lora_up.weight"].flatten(1)
    if (mid := parts.get("lora_mid.weight")) is not None:
        return torch.einsum("oa,ab...,bi->oi...", up, mid, down.flatten(1))
    return (up @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def _tucker(core: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    import torch

    return torch.einsum("ab...,ao,bi->oi...", core, outer, inner)


def _hadamard(parts: Parts, weight: Tensor) -> Tensor:
    first, second = (parts[f"hada_w{n}_a"] for n in (1, 2))
    if "hada_t1" in parts:
        one = _tucker(parts["hada_t1"], first, parts["hada_w1_b"])
        return one * _tucker(parts["hada_t2"], second, parts["hada_w2_b"])
    return (first @ parts["hada_w1_b"]) * (second @ parts["hada_w2_b"])


def _kronecker(parts: Parts, weight: Tensor) -> Tensor:
    import torch

    first = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    if "lokr_w2" in parts:
        second = parts["lokr_w2"]
    elif "lokr_t2" in parts:
        second = _tucker(parts["lokr_t2"], parts["lokr_w2_a"], parts["lokr_w2_b"])
    else:
        second = parts["lokr_w2_a"] @ parts["lokr_w2_b"]
    return torch.kron(first, second.flatten(1).contiguous())


def _glora(parts: Parts, weight: Tensor) -> Tensor:
    """W A + B, with A = a1 @ a2 on the inputs' channels and B = b1 @ b2."""
    import torch

    a1, a2, b1, b2 = (parts[f"{name}.weight"].flatten(1) for name in ("a1", "a2", "b1", "b2"))
    # Named the other way round, as LyCORIS did before 2.0: B = b2 @ b1.
    if (len(b1), b2.shape[1]) != (len(weight), weight[0].numel()):
        a1, a2, b1, b2 = a2, a1, b2, b1
    through = torch.einsum("oi...,ij,jk->ok...", weight, a1, a2)
    return through + (b1 @ b2).reshape(weight.shape)


def _ia3(parts: Parts, weight: Tensor) -> Tensor:
    axis = 1 if bool(parts["on_input"].flatten()[:1].any()) else 0
    return weight * parts["weight"].reshape([-1 if i == axis else 1 for i in range(weight.ndim)])


def _rotations(parts: Parts, weight: Tensor) -> Tensor:
    """Orthogonal blocks by Cayley's transform, (I + Q)(I - Q)⁻¹ with Q = B - Bᵀ, of a norm of at most alpha * outputs."""
    import torch

    blocks = parts["oft_blocks"]
    skew = blocks - blocks.mT
    # Zero means no limit.
    if "alpha" in parts and (limit := float(parts["alpha"]) * len(weight)) > 0:
        skew = skew * (limit / (skew.norm() + 1e-8)).clamp(max=1)
    one = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    rotations: Tensor = torch.linalg.solve(one - skew, one + skew)
    return rotations


def _rescaled(parts: Parts, rotated: Tensor, weight: Tensor) -> Tensor:
    if (rescale := parts.get("rescale")) is not None:
        rotated = rotated * rescale.reshape(-1, *[1] * (weight.ndim - 1))
    return rotated - weight


def _oft(parts: Parts, weight: Tensor) -> Tensor:
    """Neighbouring outputs turned in blocks. `oft_diag` (LyCORIS before 2.0) holds the rotations themselves."""
    import torch

    rotations = parts["oft_diag"] if "oft_diag" in parts else _rotations(parts, weight)
    blocks = weight.reshape(*rotations.shape[:2], *weight.shape[1:])
    return _rescaled(parts, torch.einsum("knm,kn...->km...", rotations, blocks).flatten(0, 1), weight)


def _boft(parts: Parts, weight: Tensor) -> Tensor:
    """Several such turns after one another, each of outputs that lie twice as far apart."""
    import torch

    rotated, inner = weight, weight.shape[1:]
    for i, rotation in enumerate(_rotations(parts, weight)):
        size = rotation.shape[-1]
        apart = 2**i * (size // 2)
        rotated = rotated.reshape(-1, 2, apart, *inner).transpose(1, 2).reshape(-1, size, *inner)
        rotated = torch.einsum("bij,bj...->bi...", rotation, rotated)
        rotated = rotated.reshape(-1, apart, 2, *inner).transpose(1, 2).reshape(weight.shape)
    return _rescaled(parts, rotated, weight)


def _is_whole_loha(names: Collection[str]) -> bool:
    factors = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
    return factors <= set(names) and len({"hada_t1", "hada_t2"} & set(names)) != 1


def _is_whole_lokr(names: Collection[str]) -> bool:
    """Each of the two factors whole, or as a product."""
    halves = [{f"lokr_w{n}_a", f"lokr_w{n}_b"} & set(names) for n in (1, 2)]
    is_split = [f"lokr_w{n}" not in names for n in (1, 2)]
    complete = all(len(two) == (2 if split else 0) for two, split in zip(halves, is_split, strict=True))
    return complete and (is_split[1] or "lokr_t2" not in names)


def _needs(*names: str) -> Callable[[Collection[str]], bool]:
    return lambda found: set(names) <= set(found)


LOHA: Final = tuple(f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2"))
LOKR: Final = tuple(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))
_GLORA: Final = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")

_NORM: Final = AdapterKind("norm", ("w_norm",), _needs("w_norm"), lambda parts, weight: parts["w_norm"])
KINDS: Final = (
    AdapterKind(
        "lora",
        ("lora_down.weight", "lora_up.weight", "lora_mid.weight", "lora_up.bias"),
        _needs("lora_down.weight", "lora_up.weight"),
        _low_rank,
        ranked=("lora_down.weight",),
    ),
    AdapterKind("loha", LOHA, _is_whole_loha, _hadamard, ranked=("hada_w1_b",)),
    AdapterKind("lokr", LOKR, _is_whole_lokr, _kronecker, ranked=("lokr_w2_b", "lokr_w1_b")),
    AdapterKind("glora", _GLORA, _needs(*_GLORA), _glora, reads_weight=True),
    AdapterKind(
        "oft",
        ("oft_blocks", "oft_diag", "rescale"),
        lambda names: "oft_blocks" in names or "oft_diag" in names,
        _oft,
        reads_weight=True,
    ),
    AdapterKind("ia3", ("weight", "on_input"), _needs("weight", "on_input"), _ia3, reads_weight=True),
    AdapterKind("full", ("diff",), _needs("diff"), lambda parts, weight: parts["diff"]),
    _NORM,
)
# What any layer may have beside: a bias's change, magnitudes of rows or columns (DoRA), the scale.
_BIASES: Final = ("diff_b", "b_norm")
BESIDE: Final = (*_BIASES, "alpha", "dora_scale")
PARTS: Final = (*dict.fromkeys(part for kind in KINDS for part in kind.parts), *BESIDE)
_BOFT: Final = AdapterKind("boft", ("oft_blocks", "rescale"), _needs("oft_blocks"), _boft, reads_weight=True)
_BIAS: Final = AdapterKind("bias", (), lambda names: bool(set(_BIASES) & set(names)), lambda parts, weight: None)
_NUMBERS: Final = ("alpha", "on_input")  # parts that are numbers, whatever holds them
_ENDS: Final = tuple(sorted(PARTS, key=len, reverse=True))  # longest first, since `a1.weight` ends in `weight`


def split_name(name: str) -> tuple[str, str] | None:
    """A tensor's name as its layer's and the part; None if it ends in no part's name."""
    part = next((part for part in _ENDS if name.endswith(f".{part}")), None)
    return None if part is None else (name.removesuffix(f".{part}"), part)


def kind_of(parts: Parts) -> AdapterKind | None:
    """The kind of a layer; None where its parts are of several kinds, of none, or not all there."""
    kind = nearest_kind(parts)
    if not set(parts) <= {*kind.parts, *BESIDE} or not kind.is_whole(parts):
        return None
    return _BOFT if "oft_blocks" in parts and parts["oft_blocks"].ndim == 4 else kind


def nearest_kind(names: Collection[str]) -> AdapterKind:
    """The kind that parts of these names are of, be the layer whole or not; of several the first."""
    return next((kind for kind in KINDS if set(names) & set(kind.parts)), _BIAS)


def adapter(tensors: Mapping[str, Tensor]) -> str:
    """The kinds of these tensors' layers, the most frequent first: "lora", "dora" (LoRA with magnitudes), "lora+norm"."""
    counts: Counter[str] = Counter()
    for parts in by_layer(tensors).values():
        kind = kind_of(parts)
        names = [kind.name] if kind else []
        if "dora_scale" in parts:
            names = ["dora"] if names == ["lora"] else [*names, "dora"]
        counts.update(names)
    return "+".join(name for name, _count in counts.most_common()) or "lora"


def by_layer(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by layer, then by part, sorted by name; those whose names end in no part's name are left out."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in sorted(tensors.items()):
        if (split := split_name(name)) is not None:
            layers.setdefault(split[0], {})[split[1]] = tensor
    return layers


def inner_factor(parts: Parts) -> Tensor | None:
    """The factor whose first axis is the layer's rank; None where it has none (LoKr of two full factors, for instance)."""
    kind = kind_of(parts)
    if kind is not None and kind.name == "glora":
        # Either way round, its smaller side.
        return min((parts["a1.weight"].flatten(1), parts["a1.weight"].flatten(1).T), key=len)
    return next((parts[name] for name in (kind.ranked if kind else ()) if name in parts), None)


def scale_of(parts: Parts) -> float:
    """What ΔW is multiplied by: alpha / rank; 1 without either. Of OFT alpha is something else."""
    inner = inner_factor(parts)
    return float(parts["alpha"]) / len(inner) if inner is not None and "alpha" in parts else 1.0


def reads_weight(parts: Parts) -> bool:
    """Whether what the layer does depends on the base's weight."""
    kind = kind_of(parts)
    return "dora_scale" in parts or (kind is not None and kind.reads_weight)


def changes_weight(parts: Parts) -> bool:
    """Whether a layer changes more than the bias."""
    return kind_of(parts) is not _BIAS


def has_matrix(parts: Parts) -> bool:
    """Whether a layer adds a matrix to the weight that no weight is needed for, as plain LoRA can hold it."""
    kind = kind_of(parts)
    return kind is not None and kind.name in ("lora", "loha", "lokr", "full") and "dora_scale" not in parts


def beside(parts: Parts) -> dict[str, Tensor]:
    """The changes of a norm's weight and of a bias, at strength 1, by part: what of a layer is a sum by itself."""
    made = {"w_norm": parts["w_norm"]} if "w_norm" in parts else {}
    if (bias := bias_change(parts)) is not None:
        made["b_norm" if {"w_norm", "b_norm"} & set(parts) else "diff_b"] = bias
    return made


def weight_change(parts: Parts, weight: Tensor) -> Tensor | None:
    """ΔW at strength 1 in the number type and shape of W, without DoRA's magnitudes; None: only the bias is changed.
    Raises RuntimeError: the parts are not for a weight of this shape, as torch says it."""
    if (kind := kind_of(parts)) is None:
        raise RuntimeError(f"not one whole layer: {', '.join(parts)}")
    if (change := kind.change(_like(parts, weight), weight)) is None:
        return None
    if (len(change), change.numel()) != (len(weight), weight.numel()):
        raise RuntimeError(f"{tuple(change.shape)} for a weight {tuple(weight.shape)}")
    return change.reshape(weight.shape) * scale_of(parts)


def own_change(parts: Parts, dtype: torch.dtype) -> Tensor | None:
    """ΔW at strength 1 of a layer that needs no W for it, on the CPU; of a DoRA without its magnitudes. In the weight's
    shape, except convolutions of LoHa and LoKr, which come flat as (out, in * k * k). None: there is none."""
    import torch

    kind = kind_of(parts)
    assert kind is not None and not kind.reads_weight
    change = kind.change(_like(parts, torch.empty((), dtype=dtype)), torch.empty(()))
    return None if change is None else change * scale_of(parts)


def _like(parts: Parts, weight: Tensor) -> dict[str, Tensor]:
    return {
        name: tensor if name in _NUMBERS else tensor.detach().to(weight.device, weight.dtype)
        for name, tensor in parts.items()
    }


def bias_change(parts: Parts) -> Tensor | None:
    """The change of the bias at strength 1; None: it stays."""
    for name, scale in (*((name, 1.0) for name in _BIASES), ("lora_up.bias", scale_of(parts))):
        if name in parts:
            return parts[name].detach().float() * scale
    return None


def with_magnitudes(direction: Tensor, scale: Tensor) -> Tensor:
    """DoRA (eq. 5): a weight of this direction (W + ΔW) whose outputs, or for old LyCORIS inputs, have these lengths:
    `scale` of outputs, (out) or (out, 1[, 1, 1]), or of inputs, (1, in[, 1, 1]). Raises RuntimeError: there is not one
    length for each output or input."""
    import torch

    axis = 0 if scale.ndim < 2 or len(scale) == len(direction) else 1
    others = [i for i in range(direction.ndim) if i != axis]
    length = scale.to(direction).reshape([-1 if i == axis else 1 for i in range(direction.ndim)])
    if length.shape[axis] != direction.shape[axis]:
        raise RuntimeError(f"dora_scale {tuple(scale.shape)} for a weight {tuple(direction.shape)}")
    result: Tensor = direction * (length / torch.linalg.vector_norm(direction, dim=others, keepdim=True))
    return result


def changed(parts: Parts, weight: Tensor, strength: float = 1.0) -> Tensor:
    """W with a layer in it: W + strength * (W' - W), with W' what it makes of W at strength 1. Raises RuntimeError: the
    parts are not for a weight of this shape, as torch says it."""
    change = weight_change(parts, weight)
    if change is None:
        return weight
    if "dora_scale" in parts:
        change = with_magnitudes(weight + change, parts["dora_scale"]) - weight
    return weight + strength * change


def implied_shape(parts: Parts) -> tuple[int, int] | None:
    """(outputs, inputs * kernel) of the weight that a layer is for; None where its tensors do not tell. (0, 0) where
    they do not fit together."""
    import torch

    kind = kind_of(parts)
    if kind is None or kind.reads_weight or kind in (_BIAS, _NORM):
        return None
    if (inner := inner_factor(parts)) is not None and not len(inner):
        return 0, 0
    try:
        change = kind.change(_bare(parts), torch.empty((), device="meta"))
        assert change is not None
        return len(change), change[0].numel()
    except (RuntimeError, ValueError, IndexError, TypeError):
        return 0, 0


def _bare(parts: Parts) -> dict[str, Tensor]:
    """The parts without numbers, for questions of shape."""
    import torch

    return {
        name: tensor if name in _NUMBERS else torch.empty(tensor.shape, device="meta") for name, tensor in parts.items()
    }


def fits(parts: Parts, shape: tuple[int, ...]) -> bool:
    """Whether a layer can be applied to a weight of this shape: tried on tensors without numbers."""
    import torch

    bare = _bare(parts)
    try:
        changed(bare, torch.empty(shape, device="meta"))
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False
    bias = bias_change(bare)
    return bias is None or bias.numel() == shape[0]
