"""New words as files: kohya's `.safetensors`, A1111's `.pt` and diffusers' folder, each a format of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import safetensors
from tsuika.core.errors import FormatError
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.core.weights import load_pickle, open_safetensors, save_pickle
from tsuika.families import FAMILIES, family
from tsuika.formats import common, embedding, provenance

if TYPE_CHECKING:
    import torch

_PLACEHOLDER: Final = "*"
_PLACEHOLDER_ID: Final = 265  # CLIP's token id of `*</w>`, as A1111 writes it
_WIDTHS: Final = {row.text_width(tower.component) for row in FAMILIES for tower in row.towers}
# Names under which programs keep vectors or anything else, so that they are no words.
_NO_WORDS: Final = {
    *(name for layout in (*embedding.LAYOUTS, *embedding.OTHER, embedding.EARLY) for name in layout),
    *("string_to_param", "clip_h", *embedding.NAMELESS),
}
STEMS: Final = ("learned_embeds", "learned_embeds_2")


def _kohya_layout(names: Any) -> tuple[str, ...] | None:
    return next(
        (layout for layout in (*embedding.LAYOUTS, *embedding.OTHER, embedding.EARLY) if set(layout) == set(names)),
        None,
    )


class KohyaEmbedding:
    """A new word as every client takes it: a `.safetensors` with `emb_params`, or `clip_l` and `clip_g` (SDXL), and
    `t5xxl` (SD3). Also read: OneTrainer's `t5`, and the names of an early diffusers script, `text_encoders_0` and `_1`.
    See `core.types.Format`."""

    name = "kohya"
    method = embedding.METHOD
    suffix = ".safetensors"

    def sniff(self, path: Path) -> bool:
        """Whether the keys are one of the known sets."""
        header = safetensors.header_or_none(path)
        return header is not None and _kohya_layout(header.shapes) is not None

    def read(self, path: Path) -> Artifact:
        """The word is the header's `word`, else the file's name."""
        weights = open_safetensors(path)
        if (layout := _kohya_layout(weights.shapes)) is None:
            raise embedding.unknown(path, weights.shapes)
        vectors = {part: weights.tensor(name) for part, name in zip(embedding.COMPONENTS, layout, strict=False)}
        return embedding.join(path, {weights.metadata.get("word", ""): vectors}, weights.metadata)

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        word, vectors = embedding.split(artifact, self.name)
        ready = safetensors.cast(embedding.named(artifact, vectors), dtype, self.name)
        metadata = embedding.header(artifact, word)
        safetensors.save_tensors(path, ready, metadata | {"modelspec.hash_sha256": f"0x{safetensors.data_hash(ready)}"})


def _a1111_layout(content: Any) -> tuple[str, ...] | None:
    if not isinstance(content, dict):
        return None
    if "string_to_param" in content:
        return ("string_to_param",)
    several = sorted((layout for layout in embedding.LAYOUTS if len(layout) > 1), key=len, reverse=True)
    return next((layout for layout in several if set(layout) <= content.keys()), None)


class A1111Embedding:
    """A new word as the A1111 web UI saves it: a `.pt`, a table with the vectors under `string_to_param["*"]`. SDXL's is
    the table `clip_l`, `clip_g` and nothing else, as A1111 takes every entry for vectors. Written as plain tensors only,
    which every client's reader wants, with what A1111's check for harmful files lets pass. See `core.types.Format`."""

    name = "a1111"
    method = embedding.METHOD
    suffix = ".pt"

    def sniff(self, path: Path) -> bool:
        """Whether a torch file holds A1111's table."""
        return _a1111_layout(embedding.pickled(path)) is not None

    def read(self, path: Path) -> Artifact:
        """The word is the inner `name`, else the file's. A table of an unknown width counts as SD1 (`family_from`)."""
        if not path.is_file():
            raise FormatError("FM004", where=path)
        content: Any = load_pickle(path)
        if (layout := _a1111_layout(content)) is None:
            raise embedding.unknown(path, content)
        named = (
            ("step", "steps"),
            ("sd_checkpoint_name", "base_name"),
            ("family", "family"),
            (provenance.KEY, provenance.KEY),
        )
        facts = common.facts_of({fact: content.get(key) for key, fact in named})
        word = content.get("name") if isinstance(content.get("name"), str) else ""
        if len(layout) > 1:
            vectors = dict(zip(embedding.COMPONENTS, (content[name] for name in layout), strict=False))
            return embedding.join(path, {word: vectors}, facts)
        table = content["string_to_param"]
        if not isinstance(table, dict) or not table:
            raise safetensors.damaged(path, _("`string_to_param` is not a table of words"))
        # The first is the file's own word, whatever it is called in the table; A1111 calls it `*`.
        names = [word, *map(str, list(table)[1:])]
        first = embedding.COMPONENTS[0]
        return embedding.join(
            path, {name: {first: held} for name, held in zip(names, table.values(), strict=True)}, facts
        )

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """The same artifact gives the same bytes. SDXL's goes under the name of the word alone (FM002)."""
        word, vectors = embedding.split(artifact, self.name)
        if len(vectors) > 2:
            why = _("A1111 reads no vectors of T5; the `.safetensors` file has them, and A1111's own two.")
            raise FormatError("FM002", format=self.name, why=why, do=common.ANOTHER_FORMAT)
        if len(vectors) > 1 and path.stem != word:
            why = _("SDXL's has no place for the word, so the file's name is the word.")
            do = _("Call the file {file}.", file=f"{word}{self.suffix}")
            raise FormatError("FM002", format=self.name, why=why, do=do)
        ready = {name: value.clone() for name, value in safetensors.cast(vectors, dtype, self.name).items()}  # no views
        facts = artifact.metadata
        content: dict[str, Any]
        if len(ready) > 1:
            content = embedding.named(artifact, ready)
        else:
            content = {
                "string_to_token": {_PLACEHOLDER: _PLACEHOLDER_ID},
                "string_to_param": {_PLACEHOLDER: ready["text_encoder"]},
                "name": word,
                "step": common.whole_number(facts.get("steps")),
                "sd_checkpoint": None,
                "sd_checkpoint_name": facts.get("base_name"),
                **provenance.carried(facts),
            }
        save_pickle(content, path)


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
    """New words as diffusers' training scripts save them: a folder with `learned_embeds.safetensors`; a key is a word.
    SDXL's second encoder has a file of its own, `learned_embeds_2`, which only diffusers reads. Read, too: the single
    files, as `.safetensors` or `.bin`, of any name. See `core.types.Format`."""

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
        """The words are the keys."""
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
        """A folder, or for SD1 and SD2 the file itself where `path` ends in `.safetensors`."""
        word, vectors = embedding.split(artifact, self.name)
        if family(artifact.family).facts.attention == "joint":
            why = _("diffusers loads no new words into {family}.", family=family(artifact.family).title)
            raise FormatError("FM002", format=self.name, why=why, do=common.ANOTHER_FORMAT)
        if path.suffix == ".safetensors" and len(vectors) > 1:
            why = _("SDXL needs two files in this layout.")
            raise FormatError("FM002", format=self.name, why=why, do=_("Give a folder."))
        ready = safetensors.cast(vectors, dtype, self.name)
        metadata = embedding.header(artifact, word)
        for stem, tensor in zip(STEMS, ready.values(), strict=False):
            file = path if path.suffix == ".safetensors" else path / f"{stem}.safetensors"
            safetensors.save_tensors(file, {word: tensor}, metadata)
