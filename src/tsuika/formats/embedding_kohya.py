"""A new word as every client takes it: a `.safetensors` with `emb_params`, or `clip_l` and `clip_g` (SDXL).

Also read: the names of an early diffusers script, `text_encoders_0` and `_1`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core.types import Artifact
from tsuika.formats import container, embedding

if TYPE_CHECKING:
    import torch

_LAYOUTS: Final = (("emb_params",), embedding.SDXL, ("text_encoders_0", "text_encoders_1"))


def _layout(names: Any) -> tuple[str, ...] | None:
    return next((layout for layout in _LAYOUTS if set(layout) == set(names)), None)


class KohyaEmbedding:
    """The format. See `core.types.Format`."""

    name = "kohya"
    method = embedding.METHOD
    suffix = ".safetensors"

    def sniff(self, path: Path) -> bool:
        """Whether the keys are one of the known sets."""
        header = embedding.header_of(path)
        return header is not None and _layout(header.tensors) is not None

    def read(self, path: Path) -> Artifact:
        """The word is the header's `word`, else the file's name.

        Raises:
            FormatError: damaged (MD003), a pickle (MD005), or of another layout (FM001).
        """
        header = container.read_header(path)
        if (layout := _layout(header.tensors)) is None:
            raise embedding.unknown(path, header.tensors)
        tensors, metadata = container.load_tensors(path), header.metadata
        vectors = {component: tensors[name] for component, name in zip(embedding.COMPONENTS, layout, strict=False)}
        return embedding.join(path, metadata.get("word", ""), vectors, metadata)

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """Write whole or not at all.

        Raises:
            FormatError: FM002, not one word, or numbers that `dtype` cannot hold.
        """
        word, vectors = embedding.split(artifact, self.name)
        names = embedding.SDXL if len(vectors) == 2 else ("emb_params",)
        ready = container.cast(dict(zip(names, vectors.values(), strict=True)), dtype, self.name)
        metadata = embedding.header(artifact, word)
        container.save_tensors(path, ready, metadata | {"modelspec.hash_sha256": f"0x{container.data_hash(ready)}"})
