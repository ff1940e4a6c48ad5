"""tsuika's own layout, for results of any method: the artifact's tensors under their own names, the rest in the header.
No other program reads it; a method that other programs know has formats of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsuika.core import safetensors
from tsuika.core.errors import FormatError
from tsuika.core.texts import Text, _
from tsuika.core.types import Artifact
from tsuika.core.weights import open_safetensors
from tsuika.formats import common

if TYPE_CHECKING:
    import torch

_LAYOUT: Final = "tsuika"
_OWN: Final = ("format", "layout", "method", "family", *common.NOTES_OF_READING)


@dataclass(frozen=True)
class Native:
    """A `.safetensors` of results of `method`. See `core.types.Format`."""

    method: str
    # Says in the header that it is of this layout; a file of a method of our own goes by its method alone.
    is_marked: bool = True
    # The artifact with what its header must hold, checked; gets the place too, for errors.
    check: Callable[[Artifact, str], Artifact] = lambda artifact, where: artifact
    name: str = "native"
    suffix: str = ".safetensors"

    def _is_own(self, metadata: Mapping[str, str]) -> bool:
        marked = metadata.get("layout") == _LAYOUT or not self.is_marked
        return marked and metadata.get("method") == self.method

    def sniff(self, path: Path) -> bool:
        """Whether the header says so."""
        header = safetensors.header_or_none(path)
        return header is not None and self._is_own(header.metadata)

    def read(self, path: Path) -> Artifact:
        weights = open_safetensors(path)
        if not self._is_own(weights.metadata):
            raise FormatError("FM001", where=path, found=method_of(path) or _("another layout"), expected=self.method)
        if not weights.shapes:
            raise safetensors.damaged(path, _("no tensors"))
        metadata = {key: text for key, text in weights.metadata.items() if key not in _OWN}
        metadata[common.FAMILY_FROM] = "metadata"
        artifact = Artifact(self.method, weights.metadata.get("family", ""), weights.load(), metadata)
        return self.check(artifact, str(path))

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        artifact = self.check(artifact, self.name)
        if artifact.method != self.method:
            raise common.of_another_method(artifact.method, self.name, Text(f"`{self.method}`"))
        metadata = {key: text for key, text in artifact.metadata.items() if key not in _OWN}
        metadata |= {"format": "pt", "method": self.method, "family": artifact.family}
        if self.is_marked:
            metadata["layout"] = _LAYOUT
        ready = safetensors.cast(artifact.tensors, dtype, self.name)
        safetensors.save_tensors(path, ready, dict(sorted(metadata.items())))


def method_of(path: Path) -> str:
    """The method that a file of this layout names; empty for any other file."""
    header = safetensors.header_or_none(path)
    metadata = header.metadata if header is not None else {}
    return metadata.get("method", "") if metadata.get("layout") == _LAYOUT else ""
