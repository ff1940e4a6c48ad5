"""The layers of a LoRA by canonical name, of every kind: which tensors make one, and which family they are of. A
tensor's name is `<component>.<module path>.<part>`; the parts are kohya's and LyCORIS' own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from tsuika.core.errors import FormatError
from tsuika.core.texts import Text, _
from tsuika.core.types import Artifact
from tsuika.diffusion import adapters
from tsuika.families import FAMILIES
from tsuika.formats import common

if TYPE_CHECKING:
    from torch import Tensor

Key = tuple[str, str]  # component, canonical module path
Parts = adapters.Parts

METHOD: Final = "lora"
COMPONENTS: Final = ("unet", *dict.fromkeys(tower.component for family in FAMILIES for tower in family.towers))


def split_name(name: str) -> tuple[str, str, str] | None:
    """`unet.mid_block.attentions.0.proj_in.alpha` to (component, path, part); None if it is not a canonical name."""
    layer, part = adapters.split_name(name) or ("", "")
    component, _dot, path = layer.partition(".")
    return (component, path, part) if component in COMPONENTS and path else None


def layers(artifact: Artifact, format_name: str) -> dict[Key, dict[str, Tensor]]:
    """The artifact's tensors by (component, path), then by part, sorted. Raises FormatError: not a LoRA, or with
    tensors that are no part of one (FM002)."""
    if artifact.method != METHOD:
        raise common.of_another_method(artifact.method, format_name, _("LoRA"))
    result: dict[Key, dict[str, Tensor]] = {}
    for name, tensor in sorted(artifact.tensors.items()):
        if (split := split_name(name)) is None:
            why = _("`{name}` is no part of an adapter that tsuika knows.", name=name)
            do = _("Train with adapter lora, loha, lokr or dora.")
            raise FormatError("FM002", format=format_name, why=why, do=do)
        component, path, part = split
        result.setdefault((component, path), {})[part] = tensor
    for key, parts in result.items():
        if adapters.kind_of(parts) is None:
            why = incomplete(".".join(key), parts)
            raise FormatError("FM002", format=format_name, why=why, do=_("Give whole layers."))
    return result


def incomplete(layer: str, parts: Iterable[str]) -> Text:
    """What is wrong with a layer of which parts are missing, or that has parts of two kinds; for people."""
    kind = adapters.nearest_kind(list(parts))
    return _(
        "`{layer}` has {parts}; a layer of {kind} has all that it needs of {known}.",
        layer=layer,
        parts=", ".join(parts),
        kind=kind.name,
        known=", ".join((*kind.parts, *adapters.BESIDE)),
    )


def most_common(values: Iterable[float]) -> float:
    """The most frequent of the values, a whole number if it is one; 0 where there are none."""
    counted = Counter(values).most_common(1)
    value = counted[0][0] if counted else 0
    return int(value) if float(value).is_integer() else value
