"""LoRAs applied to a base's own weights, DoRA among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tsuika.core.errors import FormatError, ModelError
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.formats import common, lora
from tsuika.formats.delta import factors_of, layer_delta

if TYPE_CHECKING:
    from torch import Tensor

_THIS: Final = _("This LoRA")


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


def apply(base: Mapping[str, Tensor], shares: Sequence[Share]) -> Iterator[tuple[str, Tensor]]:
    """(name, weight) of every weight that the LoRAs change, with them in it: W + Σ strength_i ΔW_i; in the given order.

    Computed in float64 and rounded once, to the base's own number type. DoRA, Liu et al. 2024, eq. 5: its direction is
    W + ΔW, its length the trained magnitude.

    Raises:
        ModelError: a layer is not in the base, or has another shape there (MD004).
        FormatError: DoRA at a strength between (FM005); OFT, or keys left unread (FM002).
    """
    layers: dict[str, list[tuple[Share, str, lora.Parts]]] = {}
    for share in shares:
        common.refuse_unread(share.artifact, "merge")
        for (component, path), parts in lora.layers(share.artifact, "merge").items():
            layers.setdefault(f"{component}.{path}", []).append((share, component, parts))
    for name, changes in layers.items():
        weight = weight_of(base, name, changes[0][0].artifact)
        result = weight.double()
        for share, component, held in changes:
            _check_shape(share.artifact, name, held, weight)
            if strength := share.strength_of(component):
                result = changed(result, held, strength, name)
        yield f"{name}.weight", result.to(weight.dtype)


def weight_of(base: Mapping[str, Tensor], name: str, artifact: Artifact) -> Tensor:
    """A base's weight of the layer `<component>.<path>`, which the LoRA has.

    Raises:
        ModelError: the base has no such layer (MD004).
    """
    if f"{name}.weight" not in base:
        found, expected = artifact.family or _("another model"), _("this base (it has no such layer)")
        raise ModelError("MD004", where=name, artifact=_THIS, found=found, expected=expected)
    return base[f"{name}.weight"].detach().to("cpu")


def _check_shape(artifact: Artifact, name: str, parts: lora.Parts, weight: Tensor) -> None:
    factors = factors_of(parts)
    out, columns = (len(factors[0]), factors[1].shape[1]) if factors else layer_delta(parts).flatten(1).shape
    if (out, columns) != tuple(weight.flatten(1).shape):
        shape = "x".join(map(str, weight.shape))
        expected = _("a base whose layer is {shape}", shape=shape)
        found = f"{artifact.family} ({out}x{columns})"
        raise ModelError("MD004", where=name, artifact=_THIS, found=found, expected=expected)


def changed(weight: Tensor, parts: lora.Parts, strength: float, name: str) -> Tensor:
    """The weight with one LoRA in it, in float64.

    Raises:
        FormatError: DoRA at a strength other than 1 (FM005).
    """
    import torch

    factors = factors_of(parts)
    change = factors[0] @ factors[1] if factors else layer_delta(parts).double()
    if "dora_scale" not in parts:
        return weight + strength * change.reshape(weight.shape)
    if strength != 1:
        why = _("`{name}` is DoRA, which has no strength between 0 and 1.", name=name)
        raise FormatError("FM005", where=name, why=why, do=_("Give it strength 1."))
    direction = weight + change.reshape(weight.shape)
    scale = parts["dora_scale"].detach().to("cpu").double()
    # Of outputs, (out[, 1...]); or of inputs, (1, in[, 1, 1]), as old LyCORIS had them.
    axis = 0 if scale.ndim == 1 or len(scale) == len(weight) else 1
    others = [i for i in range(weight.ndim) if i != axis]
    length = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    result: Tensor = direction * (length / torch.linalg.vector_norm(direction, dim=others, keepdim=True))
    return result
