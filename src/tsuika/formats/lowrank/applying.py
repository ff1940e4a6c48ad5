"""LoRAs of every kind applied to a base's own weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tsuika.core.errors import ModelError
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.diffusion import adapters
from tsuika.formats import common, lora

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
    """(name, weight) of every weight and bias that the LoRAs change, with them in it; in the given order.

    W + strength * (W' - W), one after the other (`diffusion.adapters`), in float64 and rounded once, to the base's own
    number type.

    Raises:
        ModelError: a layer is not in the base, or has another shape there (MD004).
        FormatError: keys left unread (FM002).
    """
    layers: dict[str, list[tuple[Share, str, lora.Parts]]] = {}
    for share in shares:
        common.refuse_unread(share.artifact, "merge")
        for (component, path), parts in lora.layers(share.artifact, "merge").items():
            layers.setdefault(f"{component}.{path}", []).append((share, component, parts))
    for name, changes in layers.items():
        weight = weight_of(base, name, changes[0][0].artifact)
        result, bias = weight.double(), None
        for share, component, held in changes:
            if not adapters.fits(held, tuple(weight.shape)):
                raise unfit(share.artifact, name, weight)
            if strength := share.strength_of(component):
                result = adapters.changed(held, result, strength)
                if (change := adapters.bias_change(held)) is not None:
                    bias = strength * change.to("cpu").double().flatten() + (0 if bias is None else bias)
        yield f"{name}.weight", result.to(weight.dtype)
        if bias is not None:
            if f"{name}.bias" not in base:
                raise unfit(changes[0][0].artifact, f"{name}.bias", weight)
            own = base[f"{name}.bias"].detach().to("cpu")
            yield f"{name}.bias", (own.double() + bias).to(own.dtype)


def weight_of(base: Mapping[str, Tensor], name: str, artifact: Artifact) -> Tensor:
    """A base's weight of the layer `<component>.<path>`, which the LoRA has. Raises ModelError: the base has no such
    layer (MD004)."""
    if f"{name}.weight" not in base:
        found, expected = artifact.family or _("another model"), _("this base (it has no such layer)")
        raise ModelError("MD004", where=name, artifact=_THIS, found=found, expected=expected)
    return base[f"{name}.weight"].detach().to("cpu")


def unfit(artifact: Artifact, name: str, weight: Tensor) -> ModelError:
    """The error where a layer is for a weight of another shape."""
    expected = _("a base whose layer is {shape}", shape="x".join(map(str, weight.shape)))
    return ModelError("MD004", where=name, artifact=_THIS, found=artifact.family, expected=expected)
