"""LoRA algebra on artifacts: merge, resize, make plain, extract, lay onto weights. Knows no file and no model.

Plain LoRA is worked on through its factors, never through ΔW. All in float64; what comes out is float32, every layer at
scale 1 (alpha = rank), the singular values split evenly between the two factors.

Shapes: O outputs, I inputs times kernel, R rank.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tsuika.core.errors import FormatError, ModelError
from tsuika.core.types import Artifact
from tsuika.core.words import Words
from tsuika.formats import common
from tsuika.formats.delta import factors_of, layer_delta

if TYPE_CHECKING:
    from torch import Tensor

Key = tuple[str, str]  # component, canonical module path
_NUMERICAL: Final = 1e-6  # relative; below it a part of a ΔW in float32 is that number type's rounding
_THIS: Final = Words("This LoRA", "このLoRA")
_OF_ONE_FAMILY: Final = Words(
    "Give two checkpoints of one family.", "同じ種類のチェックポイントを2つ指定してください。"
)
# What a file says of the training that made it, and what is no longer true once its numbers have changed.
_OUTDATED: Final = ("rank", "alpha", "adapter", "modelspec.date", "modelspec.hash_sha256")


@dataclass(frozen=True)
class Share:
    """A LoRA in a merge. `text_strength` is for the text encoders where it differs."""

    artifact: Artifact
    strength: float = 1.0
    text_strength: float | None = None

    def strength_of(self, component: str) -> float:
        """How strongly it is taken in a component."""
        own = self.text_strength if component.startswith("text_encoder") else None
        return self.strength if own is None else own


@dataclass(frozen=True)
class Extracted:
    """A LoRA out of two checkpoints, and what it does not hold of their difference."""

    artifact: Artifact
    errors: dict[str, float]  # of each layer, relative to its difference
    energy: float  # share of the whole difference's squared norm that it holds, 0..1
    left_out: dict[str, float]  # weights that differ and are no layer of it -> norm of their difference


@dataclass(frozen=True)
class _Layer:
    """ΔW = up @ down; `inner` is (in) or (in, k, k)."""

    up_OR: Tensor
    down_RI: Tensor
    inner: tuple[int, ...]

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


def concatenate(shares: Sequence[Share]) -> Artifact:
    """The sum of LoRAs, exactly: ΔW = Σ strength_i ΔW_i in every layer. Ranks add up.

    The factors are put side by side, [s_1 U_1, s_2 U_2] [D_1; D_2], so there are neither cross terms U_1 D_2 nor squared
    strengths. LoHa, LoKr and Tucker layers come in by their singular vectors, to 1e-6.

    Raises:
        ModelError: they are for different families (MD004).
        FormatError: DoRA, which is no sum, or layers of different shapes (FM005); keys left unread (FM002).
    """
    import torch

    layers: dict[Key, list[_Layer]] = {}
    for share in shares:
        common.refuse_unread(share.artifact, "merge")
        _check_family(share.artifact, shares[0].artifact.family)
        for (component, path), parts in common.layers(share.artifact, "merge").items():
            if strength := share.strength_of(component):
                layer = _exact(share.artifact.family, component, path, parts)
                layers.setdefault((component, path), []).append(_balanced(layer, strength))
    if not layers:
        why = Words("Nothing is left of them: all strengths are 0.", "強さがすべて0のため、何も残りません。")
        raise FormatError("FM005", why=why, do=Words("Give other strengths.", "別の強さを指定してください。"))
    tensors: dict[Key, _Layer] = {}
    for key, pieces in layers.items():
        if len({(len(piece.up_OR), math.prod(piece.inner)) for piece in pieces}) > 1:
            name = ".".join(key)
            why = Words(f"`{name}` has different shapes in them.", f"`{name}` の形がファイルによって異なります。")
            do = Words("Merge LoRAs of one kind of base model.", "同じ種類のベースモデル用のLoRAをマージしてください。")
            raise FormatError("FM005", where=name, why=why, do=do)
        up, down = torch.cat([piece.up_OR for piece in pieces], 1), torch.cat([piece.down_RI for piece in pieces])
        tensors[key] = _Layer(up, down, max((piece.inner for piece in pieces), key=len))
    return _artifact(shares[0].artifact.family, tensors, _merged_metadata(shares))


def compress(
    artifact: Artifact, *, rank: int | None = None, error: float | None = None, base: Mapping[str, Tensor] | None = None
) -> tuple[Artifact, dict[str, float]]:
    """The nearest plain LoRA of at most `rank`, and of the smallest rank whose error is at most `error`, layer by layer.

    Nearest in the Frobenius norm (Eckart and Young 1936). Plain LoRA: QR of both factors and an SVD of the small core.
    LoHa, LoKr, Tucker: SVD of ΔW. DoRA: SVD of what it makes of the base's weight, less that weight.

    Args:
        artifact: LoRA of any kind but OFT.
        rank: At most this; None: whatever `error` asks, at most all there is.
        error: Largest relative error of a layer's ΔW; if `rank` is reached first, the error is larger.
        base: For DoRA: the base's weights by `<component>.<path>.weight`.

    Returns:
        The LoRA, and each layer's relative error |ΔW' - ΔW| / |ΔW|.

    Raises:
        FormatError: DoRA without a base (FM005), OFT (FM002), keys left unread (FM002).
        ModelError: DoRA on a base that it does not fit (MD004).
    """
    common.refuse_unread(artifact, "resize")
    layers: dict[Key, _Layer] = {}
    errors: dict[str, float] = {}
    for (component, path), parts in common.layers(artifact, "resize").items():
        name = f"{component}.{path}"
        if "dora_scale" in parts and base is not None:
            weight = _weight(base, name, artifact)
            change_OI = (_laid(weight.double(), parts, 1.0, name) - weight.double()).flatten(1)
            layer, lost = _split(change_OI, tuple(weight.shape[1:]), rank, error)
        elif (factors := factors_of(parts)) is not None and "dora_scale" not in parts:
            layer, lost = _truncate(_Layer(*factors, tuple(parts["lora_down.weight"].shape[1:])), rank, error)
        else:
            _refuse_dora(name, parts)
            layer, lost = _split(*_dense(artifact.family, path, parts), rank, error)
        layers[component, path], errors[name] = layer, lost
    metadata = {key: text for key, text in artifact.metadata.items() if key not in _OUTDATED}
    return _artifact(artifact.family, layers, metadata), errors


def merge(
    shares: Sequence[Share], *, rank: int | None = None, error: float | None = None
) -> tuple[Artifact, dict[str, float]]:
    """`concatenate`, then `compress` if a rank or an error is given; each layer's relative error by name.

    Raises:
        ModelError: they are for different families (MD004).
        FormatError: as `concatenate`.
    """
    together = concatenate(shares)
    if rank is None and error is None:
        return together, {".".join(key): 0.0 for key in common.layers(together, "merge")}
    return compress(together, rank=rank, error=error)


def extract(
    tuned: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    layers: Collection[str],
    *,
    family: str,
    rank: int,
    conv_rank: int | None = None,
    error: float | None = None,
) -> Extracted:
    """The LoRA of at most `rank` nearest to what fine-tuning changed. Weights are asked for one by one, and let go.

    Args:
        tuned: Weights by `<component>.<parameter path>`; may read each from its file when asked.
        base: The same of the model that `tuned` began as.
        layers: `<component>.<path>` of the modules that get a LoRA layer, if their weight differs.
        family: "sd1", "sd2" or "sdxl".
        rank: At most this for matrices and 1x1 convolutions.
        conv_rank: At most this for larger convolutions; None: `rank`.
        error: As in `compress`.

    Raises:
        FormatError: the two are not of one structure, or do not differ in these layers (FM005).
    """
    import torch

    if strangers := tuned.keys() ^ base.keys():
        why = Words(
            f"{len(strangers)} weights are in only one of the two, such as `{min(strangers)}`.",
            f"{len(strangers)}個の重みが一方にしかありません(`{min(strangers)}` など)。",
        )
        raise FormatError("FM005", why=why, do=_OF_ONE_FAMILY)
    made: dict[Key, _Layer] = {}
    errors, left_out = {}, {}
    total = lost_of_total = 0.0
    for name in base:
        ours, theirs = tuned[name], base[name]
        if ours.shape != theirs.shape:
            why = Words(
                f"`{name}` has the shape {tuple(ours.shape)} in one and {tuple(theirs.shape)} in the other.",
                f"`{name}` の形が、一方では{tuple(ours.shape)}、もう一方では{tuple(theirs.shape)}です。",
            )
            raise FormatError("FM005", why=why, do=_OF_ONE_FAMILY)
        # A weight that was only rounded on its way into a half-precision file has not changed.
        if not ours.is_floating_point() or torch.equal(ours, theirs.to(ours.dtype)):
            continue
        change = ours.detach().to("cpu").double() - theirs.detach().to("cpu").double()
        size = float(change.norm())
        total += size**2
        layer_name = name.removesuffix(".weight")
        if layer_name == name or layer_name not in layers or change.ndim < 2:
            left_out[name] = size
            lost_of_total += size**2
            continue
        component, _, path = layer_name.partition(".")
        inner = tuple(change.shape[1:])
        at_most = conv_rank if conv_rank is not None and math.prod(inner[1:]) > 1 else rank
        made[component, path], errors[layer_name] = _split(change.flatten(1), inner, at_most, error)
        lost_of_total += (errors[layer_name] * size) ** 2
    if not made:
        why = Words(
            "Their weights do not differ in any layer that a LoRA would have.",
            "LoRAにできるどの層でも、重みに違いがありません。",
        )
        do = Words(
            "Give a fine-tuned checkpoint first, then the base it began as.",
            "先にファインチューニング済みのチェックポイント、次に元のベースモデルを指定してください。",
        )
        raise FormatError("FM005", why=why, do=do)
    return Extracted(_artifact(family, made, {}), errors, 1 - lost_of_total / total, left_out)


def lay_on(base: Mapping[str, Tensor], shares: Sequence[Share]) -> Iterator[tuple[str, Tensor]]:
    """(name, weight) of every weight that the LoRAs change, with them in it: W + Σ strength_i ΔW_i; in the given order.

    Computed in float64 and rounded once, to the base's own number type. DoRA, Liu et al. 2024, eq. 5: its direction is
    W + ΔW, its length the trained magnitude.

    Raises:
        ModelError: a layer is not in the base, or has another shape there (MD004).
        FormatError: DoRA at a strength between (FM005); OFT, or keys left unread (FM002).
    """
    wanted: dict[str, list[tuple[Share, str, Mapping[str, Tensor]]]] = {}
    for share in shares:
        common.refuse_unread(share.artifact, "merge")
        for (component, path), parts in common.layers(share.artifact, "merge").items():
            wanted.setdefault(f"{component}.{path}", []).append((share, component, parts))
    for name, changes in wanted.items():
        weight = _weight(base, name, changes[0][0].artifact)
        laid = weight.double()
        for share, component, held in changes:
            _check_shape(share.artifact, name, held, weight)
            if strength := share.strength_of(component):
                laid = _laid(laid, held, strength, name)
        yield f"{name}.weight", laid.to(weight.dtype)


def _weight(base: Mapping[str, Tensor], name: str, artifact: Artifact) -> Tensor:
    if f"{name}.weight" not in base:
        raise ModelError(
            "MD004", where=name, artifact=_THIS, found=artifact.family or Words("another model", "別の種類"),
            expected=Words("this base (it has no such layer)", "この層がないこのベースモデル"),
        )  # fmt: skip
    return base[f"{name}.weight"].detach().to("cpu")


def _check_shape(artifact: Artifact, name: str, parts: Mapping[str, Tensor], weight: Tensor) -> None:
    factors = factors_of(parts)
    out, columns = (len(factors[0]), factors[1].shape[1]) if factors else layer_delta(parts).flatten(1).shape
    if (out, columns) != tuple(weight.flatten(1).shape):
        shape = "x".join(map(str, weight.shape))
        expected = Words(f"a base whose layer is {shape}", f"層の形が{shape}のベースモデル")
        found = f"{artifact.family} ({out}x{columns})"
        raise ModelError("MD004", where=name, artifact=_THIS, found=found, expected=expected)


def _laid(weight: Tensor, parts: Mapping[str, Tensor], strength: float, name: str) -> Tensor:
    """The weight with one LoRA in it, in float64."""
    import torch

    factors = factors_of(parts)
    change = factors[0] @ factors[1] if factors else layer_delta(parts).double()
    if "dora_scale" not in parts:
        return weight + strength * change.reshape(weight.shape)
    if strength != 1:
        why = Words(
            f"`{name}` is DoRA, which has no strength between 0 and 1.",
            f"`{name}` はDoRAで、0と1の間の強さは使えません。",
        )
        raise FormatError("FM005", where=name, why=why, do=Words("Give it strength 1.", "強さを1にしてください。"))
    direction = weight + change.reshape(weight.shape)
    axis = _magnitude_axis(parts["dora_scale"], weight)
    others = [i for i in range(weight.ndim) if i != axis]
    length = (
        parts["dora_scale"].detach().to("cpu").double().reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    )
    laid: Tensor = direction * (length / torch.linalg.vector_norm(direction, dim=others, keepdim=True))
    return laid


def _magnitude_axis(scale: Tensor, weight: Tensor) -> int:
    """0: of outputs, (out[, 1...]); 1: of inputs, (1, in[, 1, 1]), as old LyCORIS had them."""
    return 0 if scale.ndim == 1 or len(scale) == len(weight) else 1


def _refuse_dora(name: str, parts: Mapping[str, Tensor]) -> None:
    if "dora_scale" in parts:
        why = Words(
            f"`{name}` is DoRA: what it does depends on the base's weights.",
            f"`{name}` はDoRAで、効果はベースモデルの重みで決まります。",
        )
        do = Words(
            "Make it a plain LoRA first: tsuika convert FILE --to kohya --lossy --base BASE --out OUT",
            "先に通常のLoRAにしてください: tsuika convert FILE --to kohya --lossy --base BASE --out OUT",
        )
        raise FormatError("FM005", where=name, why=why, do=do)


def _check_family(artifact: Artifact, family: str) -> None:
    if artifact.family != family:
        name = artifact.metadata.get("name") or Words("One LoRA", "LoRAの1つ")
        raise ModelError("MD004", where=name, artifact=name, found=artifact.family, expected=family)


def _exact(family: str, component: str, path: str, parts: Mapping[str, Tensor]) -> _Layer:
    _refuse_dora(f"{component}.{path}", parts)
    if (factors := factors_of(parts)) is not None:
        return _Layer(*factors, tuple(parts["lora_down.weight"].shape[1:]))
    return _split(*_dense(family, path, parts), None, _NUMERICAL)[0]


def _dense(family: str, path: str, parts: Mapping[str, Tensor]) -> tuple[Tensor, tuple[int, ...]]:
    change = layer_delta(parts).double()
    return change.flatten(1), _inner(family, path, change)


def _inner(family: str, path: str, change: Tensor) -> tuple[int, ...]:
    """(in, k, k) of a weight; LoHa and LoKr hold convolutions flat, so that the kernel shows only in the name."""
    columns = change.shape[1]
    if change.ndim > 2:
        return tuple(change.shape[1:])
    if re.search(r"(resnets\.\d+\.conv[12]|samplers\.0\.conv|^conv_(in|out))$", path):
        return (columns // 9, 3, 3)
    is_1x1 = path.endswith("conv_shortcut") or (family == "sd1" and path.endswith((".proj_in", ".proj_out")))
    return (columns, 1, 1) if is_1x1 else (columns,)


def _balanced(layer: _Layer, strength: float) -> _Layer:
    """The layer at a strength, both factors of like size, so that half precision holds them. By a power of two: exact."""
    up, down = layer.up_OR * strength, layer.down_RI
    sizes = float(up.norm()), float(down.norm())
    if not all(sizes):
        return _Layer(up, down, layer.inner)
    shift = 2.0 ** round(math.log2(sizes[1] / sizes[0]) / 2)
    return _Layer(up * shift, down / shift, layer.inner)


def _truncate(layer: _Layer, rank: int | None, error: float | None) -> tuple[_Layer, float]:
    """The nearest layer of smaller rank and its relative error, through an SVD no larger than the rank."""
    import torch

    up_q, up_r = torch.linalg.qr(layer.up_OR)
    down_q, down_r = torch.linalg.qr(layer.down_RI.T)
    left, values, right = torch.linalg.svd(up_r @ down_r.T, full_matrices=False)
    kept = _kept(values, rank, error)
    size, root = float(values.norm()), values[:kept].sqrt()
    smaller = _Layer(up_q @ left[:, :kept] * root, (root * (down_q @ right[:kept].T)).T, layer.inner)
    return smaller, float(values[kept:].norm()) / size if size else 0.0


def _split(change_OI: Tensor, inner: tuple[int, ...], rank: int | None, error: float | None) -> tuple[_Layer, float]:
    """The same of a whole ΔW, through the eigenvectors of its smaller Gram matrix: for long matrices much faster than an
    SVD (10240x1280 in 1.4 s on one core).

    Squaring blurs directions weaker than 1e-8 of the strongest. They only matter to errors of that size, and the error
    is measured on ΔW itself.
    """
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
    layer = _Layer(first, second, inner) if is_wide else _Layer(second.T, first.T, inner)
    return layer, lost / size if size else 0.0


def _kept(values: Tensor, rank: int | None, error: float | None) -> int:
    """How many singular values to keep, at least 1: what is zero to float64 never."""
    tails = values.square().flip(0).cumsum(0).flip(0).sqrt()  # tails[k]: the error of keeping k
    needed = int((tails > (error or 1e-14) * float(tails[0])).sum())
    return max(1, needed if rank is None else min(needed, rank))


def _artifact(family: str, layers: Mapping[Key, _Layer], metadata: Mapping[str, str]) -> Artifact:
    tensors = {
        f"{component}.{path}.{part}": tensor
        for (component, path), layer in layers.items()
        for part, tensor in layer.parts().items()
    }
    return Artifact("lora", family, tensors, {**metadata, "adapter": "lora"})


def _merged_metadata(shares: Sequence[Share]) -> dict[str, str]:
    """What still holds of several together: their names and strengths, all trigger words, a prediction they share."""
    metadata = [share.artifact.metadata for share in shares]
    names = [known.get("name", "") for known in metadata]
    triggers = dict.fromkeys(known["trigger"] for known in metadata if known.get("trigger"))
    recipe = [
        {"name": name, "strength": share.strength, "text_strength": share.strength_of("text_encoder")}
        for name, share in zip(names, shares, strict=True)
    ]
    made = {"comment": " " + json.dumps({"merged": recipe}, ensure_ascii=False)}
    if all(names):
        made["modelspec.merged_from"] = ", ".join(names)
    if triggers:
        made["trigger"] = ", ".join(triggers)
    predictions = {known.get("prediction", "") for known in metadata}
    if len(predictions) == 1 and (prediction := predictions.pop()):
        made["prediction"] = prediction
    return made
