"""A new word as the A1111 web UI saves it: a `.pt`, a table with the vectors under `string_to_param["*"]`. SDXL's is
the table `clip_l`, `clip_g` and nothing else, as A1111 takes every entry for vectors. Written in torch's old layout,
which A1111's check for harmful files lets pass; plain tensors only, which every other client's reader wants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import safetensors
from tsuika.core.errors import FormatError
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.core.weights import load_pickle, save_pickle
from tsuika.formats import common, embedding

if TYPE_CHECKING:
    import torch

_PLACEHOLDER: Final = "*"
_PLACEHOLDER_ID: Final = 265  # CLIP's token id of `*</w>`, as A1111 writes it


def _layout(content: Any) -> tuple[str, ...] | None:
    if not isinstance(content, dict):
        return None
    if "string_to_param" in content:
        return ("string_to_param",)
    several = (layout for layout in embedding.LAYOUTS if len(layout) > 1)
    return next((layout for layout in several if set(layout) <= content.keys()), None)


class A1111Embedding:
    """The format. See `core.types.Format`."""

    name = "a1111"
    method = embedding.METHOD
    suffix = ".pt"

    def sniff(self, path: Path) -> bool:
        """Whether a torch file holds A1111's table."""
        return _layout(embedding.pickled(path)) is not None

    def read(self, path: Path) -> Artifact:
        """The word is the inner `name`, else the file's. A table of an unknown width counts as SD1 (`family_from`)."""
        if not path.is_file():
            raise FormatError("FM004", where=path)
        content: Any = load_pickle(path)
        if (layout := _layout(content)) is None:
            raise embedding.unknown(path, content)
        facts = {
            fact: str(content[key])
            for key, fact in (("step", "steps"), ("sd_checkpoint_name", "base_name"), ("family", "family"))
            if content.get(key) is not None
        }
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
        """The same artifact gives the same bytes. Raises FormatError also where SDXL's goes under another name than the
        word (FM002)."""
        word, vectors = embedding.split(artifact, self.name)
        if len(vectors) > 1 and path.stem != word:
            why = _("SDXL's has no place for the word, so the file's name is the word.")
            do = _("Call the file {file}.", file=f"{word}{self.suffix}")
            raise FormatError("FM002", format=self.name, why=why, do=do)
        ready = {name: value.clone() for name, value in safetensors.cast(vectors, dtype, self.name).items()}  # no views
        facts = artifact.metadata
        content: dict[str, Any]
        if len(ready) > 1:
            content = dict(zip(embedding.names_of(artifact), ready.values(), strict=True))
        else:
            content = {
                "string_to_token": {_PLACEHOLDER: _PLACEHOLDER_ID},
                "string_to_param": {_PLACEHOLDER: ready["text_encoder"]},
                "name": word,
                "step": common.whole_number(facts.get("steps")),
                "sd_checkpoint": None,
                "sd_checkpoint_name": facts.get("base_name"),
            }
        save_pickle(content, path)
