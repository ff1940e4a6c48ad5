"""A new word as diffusers' training scripts save it: a folder with `learned_embeds.safetensors`, one key, the word.

SDXL's second encoder has a file of its own, `learned_embeds_2`, which only diffusers reads. Read, too: the single files,
as `.safetensors` or `.bin`, of any name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import safetensors
from tsuika.core.errors import FormatError
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.families import FAMILIES
from tsuika.formats import embedding

if TYPE_CHECKING:
    import torch

_WIDTHS: Final = {row.text_width(tower.component) for row in FAMILIES for tower in row.towers}
STEMS: Final = ("learned_embeds", "learned_embeds_2")


def _files(path: Path) -> list[Path]:
    """The encoders' files, in their order: of a folder, or of a single file whose neighbour may be the second."""
    if path.is_dir():
        found = [[path / f"{stem}{suffix}" for suffix in (".safetensors", ".bin")] for stem in STEMS]
        first = [next((file for file in choice if file.is_file()), None) for choice in found]
        return [file for file in first if file is not None] if first[0] is not None else []
    second = path.with_name(f"{STEMS[1]}{path.suffix}")
    return [path, second] if path.stem == STEMS[0] and second.is_file() else [path]


def _shapes(table: Mapping[Any, Any]) -> dict[Any, tuple[int, ...]]:
    return {key: tuple(getattr(value, "shape", ())) for key, value in table.items()}


def _is_table(shapes: Mapping[Any, tuple[int, ...]], *, is_ours: bool = False) -> bool:
    """One key that can be a word, over vectors of a width that some text encoder has (any, where our header says so)."""
    if len(shapes) != 1:
        return False
    ((key, shape),) = shapes.items()
    if not isinstance(key, str) or key in ("emb_params", "string_to_param") or key.endswith((".weight", ".bias")):
        return False
    return len(shape) in (1, 2) and (is_ours or shape[-1] in _WIDTHS)


class DiffusersEmbedding:
    """The format. See `core.types.Format`."""

    name = "diffusers"
    method = embedding.METHOD
    suffix = ""

    def sniff(self, path: Path) -> bool:
        """Whether every file holds one tensor of one or two dimensions, under a name of its own."""
        found = _files(path)
        return bool(found) and all(self._sniff_file(file) for file in found)

    def _sniff_file(self, path: Path) -> bool:
        if (header := safetensors.header_or_none(path)) is not None:
            return _is_table(header.shapes, is_ours=header.metadata.get("method") == self.method)
        content = embedding.pickled(path)
        return isinstance(content, dict) and _is_table(_shapes(content))

    def read(self, path: Path) -> Artifact:
        """The word is the key.

        Raises:
            FormatError: damaged (MD003), a pickle with more than tensors in it (MD005), or of another layout (FM001).
        """
        vectors: dict[str, Any] = {}
        word = ""
        facts: dict[str, str] = {}
        for component, file in zip(embedding.COMPONENTS, _files(path), strict=False):
            tensors, metadata = embedding.load_table(file)
            if not _is_table(_shapes(tensors), is_ours=metadata.get("method") == self.method):
                raise embedding.unknown(file, tensors)
            ((key, vectors[component]),) = tensors.items()
            if word and key != word:
                why = _("the word `{word}`, which is `{first}` in the first file", word=key, first=word)
                raise safetensors.damaged(file, why)
            word, facts = key, {**metadata, **facts}
        if not vectors:
            raise embedding.unknown(path, ())
        return embedding.join(path, word, vectors, facts)

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """A folder, or for SD1 and SD2 the file itself where `path` ends in `.safetensors`.

        Raises:
            FormatError: FM002, not one word, or numbers that `dtype` cannot hold.
        """
        word, vectors = embedding.split(artifact, self.name)
        if path.suffix == ".safetensors" and len(vectors) > 1:
            why = _("SDXL needs two files in this layout.")
            raise FormatError("FM002", format=self.name, why=why, do=_("Give a folder."))
        ready = safetensors.cast(vectors, dtype, self.name)
        metadata = embedding.header(artifact, word)
        for stem, tensor in zip(STEMS, ready.values(), strict=False):
            file = path if path.suffix == ".safetensors" else path / f"{stem}.safetensors"
            safetensors.save_tensors(file, {word: tensor}, metadata)
