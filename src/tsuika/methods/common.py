"""What the methods share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tsuika.core.errors import ModelError
from tsuika.core.texts import Text, _
from tsuika.core.types import Artifact, Model


def copy_in(mine: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Copy tensors into live ones of the same names, in their shapes.

    Raises:
        KeyError: a name is missing or unknown.
    """
    if mine.keys() != given.keys():
        raise KeyError(sorted(mine.keys() ^ given.keys())[:3])
    for name, target in mine.items():
        target.copy_(given[name].reshape(target.shape))


def incompatible(where: str, this: Text, artifact: Artifact, model: Model) -> ModelError:
    """The error where an artifact is for another kind of model."""
    found = artifact.family or _("another model")
    return ModelError("MD004", where=where, artifact=this, found=found, expected=model.facts.title)
