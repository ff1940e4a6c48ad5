"""tsuika's own layout, for results of any method: the artifact's tensors under their own names, the rest in the header.

No other program reads it; a method that other programs know has formats of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsuika.core import safetensors
from tsuika.core.errors import FormatError
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.core.weights import open_safetensors
from tsuika.formats import common

if TYPE_CHECKING:
    import torch

_LAYOUT: Final = {"format": "pt", "layout": "tsuika"}
_OWN: Final = (*_LAYOUT, "method", "family", *common.NOTES_OF_READING)


@dataclass(frozen=True)
class Native:
    """A `.safetensors` of results of `method`. See `core.types.Format`."""

    method: str
    name: str = "native"
    suffix: str = ".safetensors"

    def sniff(self, path: Path) -> bool:
        """Whether the header says so."""
        return method_of(path) == self.method

    def read(self, path: Path) -> Artifact:
        """The artifact, tensors in the file's dtype.

        Raises:
            FormatError: damaged (MD003, MD005), or of another method or layout (FM001).
        """
        header = safetensors.read_header(path)
        if (found := method_of(path)) != self.method:
            raise FormatError("FM001", where=path, found=found or _("another layout"), expected=self.method)
        metadata = {key: text for key, text in header.metadata.items() if key not in _OWN}
        family = header.metadata.get("family", "")
        return Artifact(self.method, family, open_safetensors(path).load(), metadata | {common.FAMILY_FROM: "metadata"})

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """Write whole or not at all.

        Raises:
            FormatError: of another method, or `dtype` cannot hold its numbers (FM002).
        """
        if artifact.method != self.method:
            why = _(
                "It is of method `{method}`, and this format is for `{own}`.", method=artifact.method, own=self.method
            )
            raise FormatError("FM002", format=self.name, why=why, do=common.ANOTHER_FORMAT)
        metadata = {key: text for key, text in artifact.metadata.items() if key not in _OWN}
        metadata |= {**_LAYOUT, "method": self.method, "family": artifact.family}
        safetensors.save_tensors(
            path, safetensors.cast(artifact.tensors, dtype, self.name), dict(sorted(metadata.items()))
        )


def method_of(path: Path) -> str:
    """The method that a file of this layout names; empty for any other file."""
    if not path.is_file():
        return ""
    try:
        metadata = safetensors.read_header(path).metadata
    except FormatError:
        return ""
    return metadata.get("method", "") if metadata.get("layout") == _LAYOUT["layout"] else ""
