"""What the methods share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, TypeVar

from torch import Tensor

from tsuika.core.errors import ModelError
from tsuika.core.texts import Text, _
from tsuika.core.types import Artifact, Attachment, Model

AnyAttachment = TypeVar("AnyAttachment", bound=Attachment)


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


class SideBySide(Generic[AnyAttachment]):
    """`core.types.Lanes` around a method's own `routed`, which takes block i of a batch through the i-th attachment given.

    `routed` is entered with all attachments at strength 0.
    """

    def __init__(
        self,
        attachments: Sequence[AnyAttachment],
        routed: Callable[[Sequence[AnyAttachment]], AbstractContextManager[None]],
    ) -> None:
        self._attachments, self._routed = tuple(attachments), routed
        self._lit: int | None = None  # the lane at strength 1
        for attachment in attachments:
            attachment.set_strength(0)

    @contextmanager
    def route(self, lanes: Sequence[int]) -> Iterator[None]:
        """See `core.types.Lanes`."""
        with self.alone(None), self._routed([self._attachments[lane] for lane in lanes]):
            yield

    @contextmanager
    def alone(self, lane: int | None) -> Iterator[None]:
        """See `core.types.Lanes`."""
        former = self._lit
        self._light(lane)
        try:
            yield
        finally:
            self._light(former)

    def _light(self, lane: int | None) -> None:
        if lane == self._lit:
            return
        if self._lit is not None:  # first off, then on: two lanes may hold the same word
            self._attachments[self._lit].set_strength(0)
        if lane is not None:
            self._attachments[lane].set_strength(1)
        self._lit = lane
