"""A new word as every client takes it: a `.safetensors` with `emb_params`, or `clip_l` and `clip_g` (SDXL). Also read:
the names of an early diffusers script, `text_encoders_0` and `_1`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import safetensors
from tsuika.core.types import Artifact
from tsuika.core.weights import open_safetensors
from tsuika.formats import embedding

if TYPE_CHECKING:
    import torch

_LAYOUTS: Final = (*embedding.LAYOUTS, embedding.EARLY)


def _layout(names: Any) -> tuple[str, ...] | None:
    return next((layout for layout in _LAYOUTS if set(layout) == set(names)), None)


class KohyaEmbedding:
    """The format. See `core.types.Format`."""

    name = "kohya"
    method = embedding.METHOD
    suffix = ".safetensors"

    def sniff(self, path: Path) -> bool:
        """Whether the keys are one of the known sets."""
        header = safetensors.header_or_none(path)
        return header is not None and _layout(header.shapes) is not None

    def read(self, path: Path) -> Artifact:
        """The word is the header's `word`, else the file's name. Raises FormatError: damaged (MD003), a pickle (MD005),
        or of another layout (FM001)."""
        weights = open_safetensors(path)
        if (layout := _layout(weights.shapes)) is None:
            raise embedding.unknown(path, weights.shapes)
        vectors = {part: weights.tensor(name) for part, name in zip(embedding.COMPONENTS, layout, strict=False)}
        return embedding.join(path, {weights.metadata.get("word", ""): vectors}, weights.metadata)

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        word, vectors = embedding.split(artifact, self.name)
        named = dict(zip(embedding.names_of(artifact), vectors.values(), strict=True))
        ready = safetensors.cast(named, dtype, self.name)
        metadata = embedding.header(artifact, word)
        safetensors.save_tensors(path, ready, metadata | {"modelspec.hash_sha256": f"0x{safetensors.data_hash(ready)}"})
