"""A LoRA of smaller rank, and any kind as plain LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from tsuika.core.types import Artifact
from tsuika.diffusion import adapters
from tsuika.formats import common, lora
from tsuika.formats.lora import Key
from tsuika.formats.lowrank.applying import unfit, weight_of
from tsuika.formats.lowrank.layers import Layer, artifact_of, nearest, refuse_not_finite, split

if TYPE_CHECKING:
    from torch import Tensor

# What a file says of the training that made it, and what is no longer true once its numbers have changed.
_OUTDATED: Final = ("rank", "alpha", "adapter", "modelspec.date", "modelspec.hash_sha256")


def compress(
    artifact: Artifact, *, rank: int | None = None, error: float | None = None, base: Mapping[str, Tensor] | None = None
) -> tuple[Artifact, dict[str, float]]:
    """The nearest plain LoRA of at most `rank`, and of the smallest rank whose error is at most `error`, layer by layer.

    Nearest in the Frobenius norm (Eckart and Young 1936). Plain LoRA: QR of both factors and an SVD of the small core.
    LoHa, LoKr, Tucker: SVD of ΔW. DoRA, GLoRA, OFT and (IA)³: SVD of what it makes of the base's weight, less that weight.
    Changes of norms and biases stay as they are.

    Args:
        artifact: LoRA of any kind.
        rank: At most this; None: as `error` asks, at most all there is.
        error: Largest relative error of a layer's ΔW; if `rank` is reached first, the error is larger.
        base: For kinds that read them: the base's weights by `<component>.<path>.weight`.

    Returns:
        The LoRA, and each layer's relative error |ΔW' - ΔW| / |ΔW|.

    Raises:
        FormatError: such a kind without a base, numbers that are not finite (FM005), keys left unread (FM002).
        ModelError: such a kind on a base that it does not fit (MD004).
    """
    common.refuse_unread(artifact, "resize")
    layers: dict[Key, Layer] = {}
    beside: dict[str, Tensor] = {}
    errors: dict[str, float] = {}
    for key, parts in lora.layers(artifact, "resize").items():
        name = ".".join(key)
        beside |= {f"{name}.{part}": tensor for part, tensor in adapters.beside(parts).items()}
        if base is not None and adapters.reads_weight(parts):
            weight = weight_of(base, name, artifact)
            if not adapters.fits(parts, tuple(weight.shape)):
                raise unfit(artifact, name, weight)
            refuse_not_finite(name, weight, *parts.values())
            change_OI = (adapters.changed(parts, weight.double()) - weight.double()).flatten(1)
            layers[key], errors[name] = split(change_OI, tuple(weight.shape[1:]), rank, error)
        elif adapters.has_matrix(parts) or adapters.reads_weight(parts):
            layers[key], errors[name] = nearest(artifact.family, key, parts, rank, error)
    metadata = {key: text for key, text in artifact.metadata.items() if key not in _OUTDATED}
    return artifact_of(artifact.family, layers, beside, metadata), errors
