"""LoRAs of every kind applied to a base's own weights, several as one, of smaller rank, and any kind as plain LoRA."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsuika.core.errors import FormatError, ModelError
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.diffusion import adapters
from tsuika.families import title_of
from tsuika.formats import common, lora, provenance
from tsuika.formats.lora import Key
from tsuika.formats.lowrank.layers import Layer, artifact_of, exact, nearest, refuse_not_finite, split

if TYPE_CHECKING:
    from torch import Tensor

# What a file says of the training that made it, and what is no longer true once its numbers have changed.
_OUTDATED: Final = ("rank", "alpha", "adapter", "modelspec.date", "modelspec.hash_sha256", provenance.KEY)


@dataclass(frozen=True)
class Share:
    """A LoRA in a merge. `file`: where it is from, for errors."""

    artifact: Artifact
    strength: float = 1.0
    file: Path | str = ""

    @property
    def name(self) -> str:
        return Path(self.file).name or self.artifact.metadata.get("name") or _("This LoRA")


def apply(base: Mapping[str, Tensor], shares: Sequence[Share]) -> Iterator[tuple[str, Tensor]]:
    """(name, weight) of every weight and bias that the LoRAs change, with them in it; in the given order. W + strength
    * (W' - W), one after the other (`diffusion.adapters`), in float64 and rounded once, to the base's own number type.
    Raises ModelError: a layer is not in the base, or has another shape there (MD004); FormatError: keys left unread
    (FM002)."""
    layers: dict[str, list[tuple[Share, lora.Parts]]] = {}
    for share in shares:
        common.refuse_unread(share.artifact, "merge")
        for key, parts in lora.layers(share.artifact, "merge").items():
            layers.setdefault(".".join(key), []).append((share, parts))
    for name, changes in layers.items():
        weight = _weight_of(base, name, changes[0][0])
        result, bias = weight.double(), None
        for share, held in changes:
            if not adapters.fits(held, tuple(weight.shape)):
                raise _misshapen(share, name, weight)
            if strength := share.strength:
                result = adapters.changed(held, result, strength)
                if (change := adapters.bias_change(held)) is not None:
                    bias = strength * change.to("cpu").double().flatten() + (0 if bias is None else bias)
        yield f"{name}.weight", result.to(weight.dtype)
        if bias is not None:
            if f"{name}.bias" not in base:
                raise _misshapen(changes[0][0], f"{name}.bias", weight)
            own = base[f"{name}.bias"].detach().to("cpu")
            yield f"{name}.bias", (own.double() + bias).to(own.dtype)


def unfit(share: Share, expected: str) -> ModelError:
    """The error where a LoRA was made for something else than what is expected."""
    found = title_of(share.artifact.family) if share.artifact.family else _("another model")
    return ModelError("MD004", where=share.file, artifact=share.name, found=found, expected=expected)


def _weight_of(base: Mapping[str, Tensor], name: str, share: Share) -> Tensor:
    if f"{name}.weight" not in base:
        raise unfit(share, _("this base (it has no layer {name})", name=name))
    return base[f"{name}.weight"].detach().to("cpu")


def _misshapen(share: Share, name: str, weight: Tensor) -> ModelError:
    shape = "x".join(map(str, weight.shape))
    return unfit(share, _("a base whose layer {name} is {shape}", name=name, shape=shape))


def concatenate(shares: Sequence[Share]) -> Artifact:
    """The sum of LoRAs, exactly: ΔW = Σ strength_i ΔW_i in every layer. Ranks add up: the factors are put side by side,
    [s_1 U_1, s_2 U_2] [D_1; D_2], so there are neither cross terms U_1 D_2 nor squared strengths. LoHa, LoKr and Tucker
    layers come in by their singular vectors, to 1e-6. Changes of norms and biases add up. Raises ModelError: they are
    for different families (MD004); FormatError: DoRA, GLoRA, OFT or (IA)³, which are no sums, or layers of different
    shapes (FM005); keys left unread (FM002)."""
    import torch

    layers: dict[Key, list[Layer]] = {}
    beside: dict[str, Tensor] = {}
    for share in shares:
        common.refuse_unread(share.artifact, "merge")
        if share.artifact.family != shares[0].artifact.family:
            raise unfit(share, title_of(shares[0].artifact.family))
        for key, parts in lora.layers(share.artifact, "merge").items():
            strength = share.strength
            if strength and (adapters.has_matrix(parts) or adapters.reads_weight(parts)):
                layer = exact(share.artifact.family, key, parts)
                layers.setdefault(key, []).append(_balanced(layer, strength))
            for part, tensor in adapters.beside(parts).items() if strength else ():
                name = f"{'.'.join(key)}.{part}"
                beside[name] = strength * tensor.float() + beside.get(name, 0)
    if not layers and not beside:
        why = _("Nothing is left of them: all strengths are 0.")
        raise FormatError("FM005", why=why, do=_("Give other strengths."))
    tensors: dict[Key, Layer] = {}
    for key, pieces in layers.items():
        if len({(len(piece.up_OR), math.prod(piece.inner)) for piece in pieces}) > 1:
            name = ".".join(key)
            why = _("`{name}` has different shapes in them.", name=name)
            do = _("Merge LoRAs of one kind of base model.")
            raise FormatError("FM005", where=name, why=why, do=do)
        up, down = torch.cat([piece.up_OR for piece in pieces], 1), torch.cat([piece.down_RI for piece in pieces])
        tensors[key] = Layer(up, down, max((piece.inner for piece in pieces), key=len))
    return artifact_of(shares[0].artifact.family, tensors, beside, _merged_metadata(shares))


def merge(shares: Sequence[Share], *, rank: int | None = None) -> tuple[Artifact, dict[str, float]]:
    """`concatenate`, then `compress` if a rank is given; each layer's relative error by name. Raises as `concatenate`."""
    together = concatenate(shares)
    if rank is None:
        return together, {".".join(key): 0.0 for key in lora.layers(together, "merge")}
    return compress(together, rank=rank)


def _balanced(layer: Layer, strength: float) -> Layer:
    """The layer at a strength, both factors of like size, so that half precision holds them. By a power of two: exact."""
    up, down = layer.up_OR * strength, layer.down_RI
    sizes = float(up.norm()), float(down.norm())
    if not all(sizes):
        return Layer(up, down, layer.inner)
    shift = 2.0 ** round(math.log2(sizes[1] / sizes[0]) / 2)
    return Layer(up * shift, down / shift, layer.inner)


def _merged_metadata(shares: Sequence[Share]) -> dict[str, str]:
    """What still holds of several together: their names and strengths, all trigger words, a prediction they share."""
    metadata = [share.artifact.metadata for share in shares]
    names = [known.get("name", "") for known in metadata]
    triggers = dict.fromkeys(known["trigger"] for known in metadata if known.get("trigger"))
    recipe = [
        {"name": name, "strength": share.strength, "text_strength": share.strength}
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


def compress(
    artifact: Artifact, *, rank: int | None = None, error: float | None = None, base: Mapping[str, Tensor] | None = None
) -> tuple[Artifact, dict[str, float]]:
    """The nearest plain LoRA of at most `rank` (None: all there is), and of the smallest rank whose relative error is
    at most `error`, layer by layer (`rank` goes first); and each layer's relative error |ΔW' - ΔW| / |ΔW|. Nearest in
    the Frobenius norm (Eckart and Young 1936). Plain LoRA: QR of both factors and an SVD of the small core. LoHa, LoKr,
    Tucker: SVD of ΔW. DoRA, GLoRA, OFT and (IA)³: SVD of what it makes of the weight in `base`
    (`<component>.<path>.weight`), less that weight. Changes of norms and biases stay as they are. Raises FormatError:
    such a kind without a base, numbers that are not finite (FM005), keys left unread (FM002); ModelError: such a kind
    on a base that it does not fit (MD004)."""
    common.refuse_unread(artifact, "resize")
    layers: dict[Key, Layer] = {}
    beside: dict[str, Tensor] = {}
    errors: dict[str, float] = {}
    for key, parts in lora.layers(artifact, "resize").items():
        name = ".".join(key)
        beside |= {f"{name}.{part}": tensor for part, tensor in adapters.beside(parts).items()}
        if base is not None and adapters.reads_weight(parts):
            weight = _weight_of(base, name, Share(artifact))
            if not adapters.fits(parts, tuple(weight.shape)):
                raise _misshapen(Share(artifact), name, weight)
            refuse_not_finite(name, weight, *parts.values())
            change_OI = (adapters.changed(parts, weight.double()) - weight.double()).flatten(1)
            layers[key], errors[name] = split(change_OI, tuple(weight.shape[1:]), rank, error)
        elif adapters.has_matrix(parts) or adapters.reads_weight(parts):
            layers[key], errors[name] = nearest(artifact.family, key, parts, rank, error)
    metadata = {key: text for key, text in artifact.metadata.items() if key not in _OUTDATED}
    return artifact_of(artifact.family, layers, beside, metadata), errors
