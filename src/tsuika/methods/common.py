"""What the methods share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from tsuika.core.errors import ModelError
from tsuika.core.texts import Text, _
from tsuika.core.types import Artifact, Model, ParamGroup


def copy_in(mine: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Copy tensors into live ones of the same names, in their shapes. Raises KeyError: a name is missing or unknown."""
    if mine.keys() != given.keys():
        raise KeyError(sorted(mine.keys() ^ given.keys())[:3])
    for name, target in mine.items():
        target.copy_(given[name].reshape(target.shape))


def incompatible(where: str, this: Text, artifact: Artifact, model: Model) -> ModelError:
    """The error where an artifact is for another kind of model."""
    if artifact.family == model.facts.family:
        found: str = _("a {family} of other sizes", family=model.facts.title)
        return ModelError("MD004", where=where, artifact=this, found=found, expected=_("this base model"))
    found = artifact.family or _("another model")
    return ModelError("MD004", where=where, artifact=this, found=found, expected=model.facts.title)


def copies(live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies for an artifact: float32, on the CPU."""
    return {name: value.detach().to("cpu", torch.float32, copy=True) for name, value in live.items()}


def by_side(params: Iterable[tuple[str, nn.Parameter]], text_rates: tuple[float, float]) -> list[ParamGroup]:
    """Groups of the UNet's and of the text encoders' parameters, given with their component; the latter have rates."""
    first, second = text_rates
    rates = {"unet": 0.0, "text": first} | ({"text_2": second} if second != first else {})
    groups: dict[str, list[nn.Parameter]] = {}
    for component, param in params:
        side = component.replace("text_encoder", "text")
        groups.setdefault(side if side in rates else "text", []).append(param)
    return [ParamGroup(name, held, rates[name]) for name, held in groups.items()]
