"""The LoRA of what fine-tuning changed in a base."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tsuika.core.errors import FormatError
from tsuika.core.texts import _, _n
from tsuika.core.types import Artifact
from tsuika.formats.lora import Key
from tsuika.formats.lowrank.layers import Layer, artifact_of, refuse_not_finite, split

if TYPE_CHECKING:
    from torch import Tensor

_OF_ONE_FAMILY: Final = _("Give two checkpoints of one family.")


@dataclass(frozen=True)
class Extracted:
    """A LoRA out of two checkpoints, and what it does not hold of their difference."""

    artifact: Artifact
    errors: dict[str, float]  # of each layer, relative to its difference
    energy: float  # share of the whole difference's squared norm that it holds, 0..1
    left_out: dict[str, float]  # weights that differ and are no layer of it -> norm of their difference


def extract(
    tuned: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    layers: Collection[str],
    *,
    family: str,
    rank: int,
    conv_rank: int | None = None,
) -> Extracted:
    """The LoRA nearest to what fine-tuning changed, from weights by `<component>.<parameter path>`, asked for one by
    one and let go. `layers` are the `<component>.<path>` of the modules that get a LoRA layer if their weight differs:
    of at most `rank`, larger convolutions of at most `conv_rank` (None: `rank`). Raises FormatError: the two are not of
    one structure, do not differ in these layers, or hold numbers that are not finite (FM005)."""
    import torch

    if unmatched := tuned.keys() ^ base.keys():
        why = _n(
            "{count} weight is in only one of the two: `{name}`.",
            "{count} weights are in only one of the two, such as `{name}`.",
            len(unmatched),
            name=min(unmatched),
        )
        raise FormatError("FM005", why=why, do=_OF_ONE_FAMILY)
    made: dict[Key, Layer] = {}
    errors, left_out = {}, {}
    total = lost_of_total = 0.0
    for name in base:
        ours, theirs = tuned[name], base[name]
        if ours.shape != theirs.shape:
            why = _(
                "`{name}` has the shape {one} in one and {other} in the other.",
                name=name,
                one=tuple(ours.shape),
                other=tuple(theirs.shape),
            )
            raise FormatError("FM005", why=why, do=_OF_ONE_FAMILY)
        # A weight that was only rounded on its way into a half-precision file has not changed.
        if not ours.is_floating_point() or torch.equal(ours, theirs.to(ours.dtype)):
            continue
        change = ours.detach().to("cpu").double() - theirs.detach().to("cpu").double()
        refuse_not_finite(name, change)
        size = float(change.norm())
        total += size**2
        layer_name = name.removesuffix(".weight")
        if layer_name == name or layer_name not in layers or change.ndim < 2:
            left_out[name] = size
            lost_of_total += size**2
            continue
        component, _dot, path = layer_name.partition(".")
        inner = tuple(change.shape[1:])
        at_most = conv_rank if conv_rank is not None and math.prod(inner[1:]) > 1 else rank
        made[component, path], errors[layer_name] = split(change.flatten(1), inner, at_most, None)
        lost_of_total += (errors[layer_name] * size) ** 2
    if not made:
        why = _("Their weights do not differ in any layer that a LoRA would have.")
        do = _("Give a fine-tuned checkpoint first, then the base it began as.")
        raise FormatError("FM005", why=why, do=do)
    return Extracted(artifact_of(family, made, {}, {}), errors, 1 - lost_of_total / total, left_out)
