"""A new word as the A1111 web UI saves it: a `.pt`, a table with the vectors under `string_to_param["*"]`.

SDXL's is the table `clip_l`, `clip_g` and nothing else, as A1111 takes every entry for vectors. Written in torch's old
layout, which A1111's check for harmful files lets pass; plain tensors only, which every other client's reader wants.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import weights
from tsuika.core.errors import FormatError
from tsuika.core.types import Artifact
from tsuika.core.words import Words
from tsuika.formats import container, embedding

if TYPE_CHECKING:
    import torch

_PLACEHOLDER: Final = "*"
_PLACEHOLDER_ID: Final = 265  # CLIP's token id of `*</w>`, as A1111 writes it


def _is_table(content: Any) -> bool:
    return isinstance(content, dict) and ("string_to_param" in content or set(embedding.SDXL) <= content.keys())


class A1111Embedding:
    """The format. See `core.types.Format`."""

    name = "a1111"
    method = embedding.METHOD
    suffix = ".pt"

    def sniff(self, path: Path) -> bool:
        """Whether a torch file holds A1111's table."""
        return _is_table(embedding.pickled(path))

    def read(self, path: Path) -> Artifact:
        """The word is the inner `name`, else the file's. A table of an unknown width counts as SD1 (`family_from`).

        Raises:
            FormatError: damaged (MD003), a pickle with more than tensors in it (MD005), or of another layout (FM001).
        """
        content: Any = embedding.load_pickle(path)
        if not _is_table(content):
            raise embedding.unknown(path, content)
        facts = {
            fact: str(content[key])
            for key, fact in (("step", "steps"), ("sd_checkpoint_name", "base_name"), ("family", "family"))
            if content.get(key) is not None
        }
        word = content.get("name")
        vectors = {
            component: content.get(name) for component, name in zip(embedding.COMPONENTS, embedding.SDXL, strict=True)
        }
        if "string_to_param" in content:
            table = content["string_to_param"]
            if not isinstance(table, dict) or len(table) != 1:
                why = Words(
                    "`string_to_param` is not a table of one word",
                    "`string_to_param` が1つの単語だけのテーブルになっていません",
                )
                raise container.damaged(path, why)
            vectors = {"text_encoder": next(iter(table.values()))}
        return embedding.join(path, word if isinstance(word, str) else "", vectors, facts)

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """Write whole or not at all; the same artifact gives the same bytes.

        Raises:
            FormatError: FM002, not one word, numbers that `dtype` cannot hold, or SDXL's under another name than the word.
        """
        word, vectors = embedding.split(artifact, self.name)
        if len(vectors) == 2 and path.stem != word:
            why = Words(
                "SDXL's has no place for the word, so the file's name is the word.",
                "SDXL用には単語を入れる場所がなく、ファイル名が単語になります。",
            )
            do = Words(f"Call the file {word}{self.suffix}.", f"ファイル名を {word}{self.suffix} にしてください。")
            raise FormatError("FM002", format=self.name, why=why, do=do)
        ready = {name: value.clone() for name, value in container.cast(vectors, dtype, self.name).items()}  # no views
        facts = artifact.metadata
        content: dict[str, Any]
        if len(ready) == 2:
            content = dict(zip(embedding.SDXL, ready.values(), strict=True))
        else:
            content = {
                "string_to_token": {_PLACEHOLDER: _PLACEHOLDER_ID},
                "string_to_param": {_PLACEHOLDER: ready["text_encoder"]},
                "name": word,
                "step": int(facts.get("steps", 0)),
                "sd_checkpoint": None,
                "sd_checkpoint_name": facts.get("base_name"),
            }
        weights.save_pickle(content, path)
