"""What the methods share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tsuika.core.errors import ModelError
from tsuika.core.types import Artifact, Model
from tsuika.core.words import Words


def copy_in(mine: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Copy tensors into live ones of the same names, in their shapes.

    Raises:
        KeyError: a name is missing or unknown.
    """
    if mine.keys() != given.keys():
        raise KeyError(sorted(mine.keys() ^ given.keys())[:3])
    for name, target in mine.items():
        target.copy_(given[name].reshape(target.shape))


def misfit(where: str, this: Words, artifact: Artifact, model: Model) -> ModelError:
    """The error where an artifact is for another kind of model."""
    found = artifact.family or Words("another model", "別の種類")
    return ModelError("MD004", where=where, artifact=this, found=found, expected=model.facts.title)
