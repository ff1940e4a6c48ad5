"""A layer of plain LoRA as its two factors, made of a layer of any kind or of a whole ΔW: exactly, or of smaller rank."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tsuika.core.errors import FormatError
from tsuika.core.finite import is_finite
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.diffusion import adapters
from tsuika.families import family
from tsuika.formats.lora import METHOD, Key, Parts, factors_of

if TYPE_CHECKING:
    from torch import Tensor

_NUMERICAL: Final = 1e-6  # relative; below it a part of a ΔW in float32 is that number type's rounding


@dataclass(frozen=True)
class Layer:
    """ΔW = up @ down; `inner` is (in) or (in, k, k)."""

    up_OR: Tensor
    down_RI: Tensor
    inner: tuple[int, ...]

    @classmethod
    def of(cls, parts: Parts) -> Layer | None:
        """From kohya's tensors; None where they are not plain LoRA. A DoRA's magnitudes are not looked at."""
        if (factors := factors_of(parts)) is None:
            return None
        return cls(*factors, tuple(parts["lora_down.weight"].shape[1:]))

    def parts(self) -> dict[str, Tensor]:
        """As kohya's tensors: contiguous, float32."""
        import torch

        rank, out = len(self.down_RI), len(self.up_OR)
        ones = [1] * (len(self.inner) - 1)
        return {
            "lora_down.weight": self.down_RI.float().reshape(rank, *self.inner).contiguous(),
            "lora_up.weight": self.up_OR.float().reshape(out, rank, *ones).contiguous(),
            "alpha": torch.tensor(float(rank)),
        }


def exact(family_name: str, key: Key, parts: Parts) -> Layer:
    """A layer as plain LoRA, of the rank that it needs: itself, or the singular vectors of its ΔW, to 1e-6. Raises
    FormatError: what it does depends on the base's weights, or it holds numbers that are not finite (FM005)."""
    _refuse_other_than_sums(key, parts)
    refuse_not_finite(".".join(key), *parts.values())
    return Layer.of(parts) or split(*_dense(family_name, key, parts), None, _NUMERICAL)[0]


def nearest(family_name: str, key: Key, parts: Parts, rank: int | None, error: float | None) -> tuple[Layer, float]:
    """The plain layer of at most `rank`, and of the smallest rank whose error is at most `error`; and its relative
    error. Raises FormatError: what it does depends on the base's weights, or it holds numbers that are not finite
    (FM005)."""
    _refuse_other_than_sums(key, parts)
    refuse_not_finite(".".join(key), *parts.values())
    if (layer := Layer.of(parts)) is not None:
        return _truncate(layer, rank, error)
    return split(*_dense(family_name, key, parts), rank, error)


def split(change_OI: Tensor, inner: tuple[int, ...], rank: int | None, error: float | None) -> tuple[Layer, float]:
    """`nearest` of a whole ΔW, through the eigenvectors of its smaller Gram matrix: for long matrices much faster than
    an SVD (10240x1280 in 1.4 s on one core). Squaring blurs directions weaker than 1e-8 of the strongest. They only
    matter to errors of that size, and the error is measured on ΔW itself."""
    import torch

    is_wide = change_OI.shape[0] <= change_OI.shape[1]
    matrix = change_OI if is_wide else change_OI.T
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
    kept = _kept(squares.flip(0).clamp(min=0).sqrt(), rank, error)
    basis = vectors.flip(1)[:, :kept]
    rows = basis.T @ matrix
    size, lost = float(matrix.norm()), float((matrix - basis @ rows).norm())
    root = rows.norm(dim=1).clamp(min=torch.finfo(rows.dtype).tiny).sqrt()
    first, second = basis * root, rows / root[:, None]
    layer = Layer(first, second, inner) if is_wide else Layer(second.T, first.T, inner)
    return layer, lost / size if size else 0.0


def artifact_of(
    family_name: str, layers: Mapping[Key, Layer], beside: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Artifact:
    """Layers as a LoRA; `beside` are changes of norms and biases by their full names."""
    tensors = {
        f"{component}.{path}.{part}": tensor
        for (component, path), layer in layers.items()
        for part, tensor in layer.parts().items()
    }
    tensors |= {name: tensor.float().contiguous() for name, tensor in beside.items()}
    return Artifact(METHOD, family_name, tensors, {**metadata, "adapter": adapters.adapter(tensors)})


def _dense(family_name: str, key: Key, parts: Parts) -> tuple[Tensor, tuple[int, ...]]:
    import torch

    change = adapters.own_change(parts, torch.float64)
    assert change is not None
    return change.flatten(1), _inner(family_name, key[1], change)


def _inner(family_name: str, path: str, change: Tensor) -> tuple[int, ...]:
    """(in, k, k) of a weight; LoHa and LoKr hold convolutions flat, so that the kernel shows only in the name."""
    columns = change.shape[1]
    if change.ndim > 2:
        return tuple(change.shape[1:])
    if re.search(r"(resnets\.\d+\.conv[12]|samplers\.0\.conv|^conv_(in|out))$", path):
        return (columns // 9, 3, 3)
    if path.endswith((".proj_in", ".proj_out")):
        return (columns,) if family(family_name).has_linear_projections else (columns, 1, 1)
    return (columns, 1, 1) if path.endswith("conv_shortcut") else (columns,)


def _truncate(layer: Layer, rank: int | None, error: float | None) -> tuple[Layer, float]:
    """The nearest layer of smaller rank and its relative error, through an SVD no larger than the rank."""
    import torch

    up_q, up_r = torch.linalg.qr(layer.up_OR)
    down_q, down_r = torch.linalg.qr(layer.down_RI.T)
    left, values, right = torch.linalg.svd(up_r @ down_r.T, full_matrices=False)
    kept = _kept(values, rank, error)
    size, root = float(values.norm()), values[:kept].sqrt()
    smaller = Layer(up_q @ left[:, :kept] * root, (root * (down_q @ right[:kept].T)).T, layer.inner)
    return smaller, float(values[kept:].norm()) / size if size else 0.0


def _kept(values: Tensor, rank: int | None, error: float | None) -> int:
    """How many singular values to keep, at least 1: what is zero to float64 never."""
    tails = values.square().flip(0).cumsum(0).flip(0).sqrt()  # tails[k]: the error of keeping k
    needed = int((tails > (error or 1e-14) * float(tails[0])).sum())
    return max(1, needed if rank is None else min(needed, rank))


def refuse_not_finite(name: str, *tensors: Tensor) -> None:
    """Refuse numbers that no decomposition can be made of. Raises FormatError: NaN or infinity in a layer (FM005)."""
    if not all(map(is_finite, tensors)):
        why = _("`{name}` holds a number that is not finite.", name=name)
        do = _("The file is damaged: get it again.")
        raise FormatError("FM005", where=name, why=why, do=do)


def _refuse_other_than_sums(key: Key, parts: Parts) -> None:
    """Refuse what no plain LoRA can be without the base: a change that depends on its weights."""
    if adapters.reads_weight(parts):
        name = ".".join(key)
        kind = adapters.adapter({f"{name}.{part}": tensor for part, tensor in parts.items()})
        why = _("`{name}` is {kind}: what it does depends on the base's weights.", name=name, kind=kind)
        do = _("Make it a plain LoRA first: tsuika convert FILE --to kohya --lossy --base BASE --out OUT")
        raise FormatError("FM005", where=name, why=why, do=do)
