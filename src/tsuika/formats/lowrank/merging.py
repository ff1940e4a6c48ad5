"""Several LoRAs as one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tsuika.core.errors import FormatError, ModelError
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.diffusion import adapters
from tsuika.families import title_of
from tsuika.formats import common, lora
from tsuika.formats.lora import Key
from tsuika.formats.lowrank.applying import Share
from tsuika.formats.lowrank.layers import Layer, artifact_of, exact
from tsuika.formats.lowrank.resizing import compress

if TYPE_CHECKING:
    from torch import Tensor


def concatenate(shares: Sequence[Share]) -> Artifact:
    """The sum of LoRAs, exactly: ΔW = Σ strength_i ΔW_i in every layer. Ranks add up.

    The factors are put side by side, [s_1 U_1, s_2 U_2] [D_1; D_2], so there are neither cross terms U_1 D_2 nor squared
    strengths. LoHa, LoKr and Tucker layers come in by their singular vectors, to 1e-6. Changes of norms and biases add up.

    Raises:
        ModelError: they are for different families (MD004).
        FormatError: DoRA, GLoRA, OFT or (IA)³, which are no sums, or layers of different shapes (FM005); keys left unread (FM002).
    """
    import torch

    layers: dict[Key, list[Layer]] = {}
    beside: dict[str, Tensor] = {}
    for share in shares:
        common.refuse_unread(share.artifact, "merge")
        _check_family(share.artifact, shares[0].artifact.family)
        for key, parts in lora.layers(share.artifact, "merge").items():
            strength = share.strength_of(key[0])
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


def merge(
    shares: Sequence[Share], *, rank: int | None = None, error: float | None = None
) -> tuple[Artifact, dict[str, float]]:
    """`concatenate`, then `compress` if a rank or an error is given; each layer's relative error by name. Raises
    ModelError: they are for different families (MD004); FormatError: as `concatenate`."""
    together = concatenate(shares)
    if rank is None and error is None:
        return together, {".".join(key): 0.0 for key in lora.layers(together, "merge")}
    return compress(together, rank=rank, error=error)


def _check_family(artifact: Artifact, family: str) -> None:
    if artifact.family != family:
        name = artifact.metadata.get("name") or _("One LoRA")
        raise ModelError("MD004", where=name, artifact=name, found=title_of(artifact.family), expected=title_of(family))


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
