"""New words as diffusers' training scripts save them: a folder with `learned_embeds.safetensors`; a key is a word.
SDXL's second encoder has a file of its own, `learned_embeds_2`, which only diffusers reads. Read, too: the single
files, as `.safetensors` or `.bin`, of any name."""

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
# Names under which programs keep vectors or anything else, so that they are no words.
_NO_WORDS: Final = {
    *(name for layout in (*embedding.LAYOUTS, embedding.EARLY) for name in layout),
    *("string_to_param", "t5xxl", "clip_h", *embedding.NAMELESS),
}
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
    """Keys that can be words, over vectors of a width that some text encoder has (any, where our header says so)."""
    return (
        bool(shapes)
        and all(
            isinstance(key, str) and key not in _NO_WORDS and not key.endswith((".weight", ".bias")) for key in shapes
        )
        and all(len(shape) in (1, 2) and (is_ours or shape[-1] in _WIDTHS) for shape in shapes.values())
    )


class DiffusersEmbedding:
    """The format. See `core.types.Format`."""

    name = "diffusers"
    method = embedding.METHOD
    suffix = ""

    def sniff(self, path: Path) -> bool:
        """Whether every file holds tensors of one or two dimensions alone, under names that can be words."""
        for file in (files := _files(path)):
            if (header := safetensors.header_or_none(file)) is not None:
                is_table = _is_table(header.shapes, is_ours=header.metadata.get("method") == self.method)
            else:
                content = embedding.pickled(file)
                is_table = isinstance(content, dict) and _is_table(_shapes(content))
            if not is_table:
                return False
        return bool(files)

    def read(self, path: Path) -> Artifact:
        """The words are the keys. Raises FormatError: damaged (MD003), a pickle with more than tensors in it (MD005),
        or of another layout (FM001)."""
        words: dict[str, dict[str, Any]] = {}
        facts: dict[str, str] = {}
        for component, file in zip(embedding.COMPONENTS, _files(path), strict=False):
            tensors, metadata = embedding.load_table(file)
            if not _is_table(_shapes(tensors), is_ours=metadata.get("method") == self.method):
                raise embedding.unknown(file, tensors)
            if words and tensors.keys() != words.keys():
                why = _(
                    "the words {words}, which are {first} in the first file",
                    words=", ".join(tensors),
                    first=", ".join(words),
                )
                raise safetensors.damaged(file, why)
            for word, value in tensors.items():
                words.setdefault(word, {})[component] = value
            facts = {**metadata, **facts}
        if not words:
            raise embedding.unknown(path, ())
        return embedding.join(path, words, facts)

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """A folder, or for SD1 and SD2 the file itself where `path` ends in `.safetensors`. Raises FormatError: FM002,
        not one word, or numbers that `dtype` cannot hold."""
        word, vectors = embedding.split(artifact, self.name)
        if path.suffix == ".safetensors" and len(vectors) > 1:
            why = _("SDXL needs two files in this layout.")
            raise FormatError("FM002", format=self.name, why=why, do=_("Give a folder."))
        ready = safetensors.cast(vectors, dtype, self.name)
        metadata = embedding.header(artifact, word)
        for stem, tensor in zip(STEMS, ready.values(), strict=False):
            file = path if path.suffix == ".safetensors" else path / f"{stem}.safetensors"
            safetensors.save_tensors(file, {word: tensor}, metadata)
