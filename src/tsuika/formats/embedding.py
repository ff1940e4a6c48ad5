"""What the formats of new words share: one word and its vectors in and out of an artifact, family and facts of a file.
Shapes: n vectors, D text width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core.errors import FormatError, ModelError
from tsuika.core.safetensors import damaged
from tsuika.core.texts import Text, _
from tsuika.core.types import Artifact
from tsuika.core.weights import is_pickle, load_pickle, open_safetensors
from tsuika.families import FAMILIES, Family, family
from tsuika.families.common import SGM
from tsuika.formats import common

if TYPE_CHECKING:
    from torch import Tensor

METHOD: Final = "textual-inversion"
MAX_BYTES: Final = 1 << 24  # of a file that can be a word: 16 vectors of SDXL in fp32 take 131 kB
# The sets of names under which programs keep a word's vectors, one of each family's text encoders
LAYOUTS: Final = tuple(dict.fromkeys(tuple(tower.embedding for tower in row.towers) for row in FAMILIES))
OTHER: Final = (("clip_l", "clip_g", "t5"),)  # OneTrainer's of SD3
EARLY: Final = ("text_encoders_0", "text_encoders_1")  # an early diffusers script's
NAMELESS: Final = {"weight", "bias", "alpha"}  # what tensors are called that no word is
# Every component that a word can have vectors for, in the encoders' order
COMPONENTS: Final = max((row.facts.text_encoders for row in FAMILIES), key=len)


def split(artifact: Artifact, format_name: str) -> tuple[str, dict[str, Tensor]]:
    """The word, and its vectors (n, D) by component, in the encoders' order. Raises FormatError: FM002, not a new word,
    several, or without some text encoder's vectors."""
    if artifact.method != METHOD:
        raise common.of_another_method(artifact.method, format_name, _("new words"))
    parts = {name.rpartition(".")[::2]: vectors for name, vectors in artifact.tensors.items()}
    words = {word for word, _component in parts}
    if len(words) != 1:
        why = _(
            "It holds {count} words, and programs take one from a file: {words}.",
            count=len(words),
            words=", ".join(sorted(words)),
        )
        raise FormatError("FM002", format=format_name, why=why, do=_("Write each word into a file of its own."))
    towers = family(artifact.family).towers
    needed = [tower.component for tower in towers if not tower.optional]
    by_component = {component: vectors for (_word, component), vectors in parts.items()}
    known = [tower.component for tower in towers]
    if not set(needed) <= set(by_component) <= set(known):
        why = _(
            "{family} needs vectors for {needed}; there are {found}.",
            family=artifact.family,
            needed=", ".join(needed),
            found=", ".join(by_component),
        )
        do = _("Train the word again, or correct its family.")
        raise FormatError("FM002", format=format_name, why=why, do=do)
    return words.pop(), {component: by_component[component] for component in known if component in by_component}


def named(artifact: Artifact, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Vectors by component, by what programs call those of the artifact's family."""
    row = family(artifact.family)
    return {row.tower(component).embedding: value for component, value in vectors.items()}


def join(path: Path, words: Mapping[str, Mapping[str, Any]], facts: Mapping[str, str]) -> Artifact:
    """An artifact of the words in the file `path`; `facts`, its text metadata, may name its family, else its widths do.
    `words`: word -> component -> vectors, (n, D) or (D); where the word is empty, it is called as the file. Raises
    FormatError: MD003, these are no vectors."""
    tensors: dict[str, Tensor] = {}
    found: dict[str, str] = {}
    for word, parts in words.items():
        vectors = {component: _rows(path, value) for component, value in parts.items()}
        counts = [str(len(value)) for value in vectors.values()]
        if len(set(counts)) > 1:
            raise damaged(path, _("different numbers of vectors for one word: {counts}", counts=", ".join(counts)))
        row, evidence = _family(vectors, facts)
        found[row.name] = evidence
        tensors |= {f"{word or path.stem}.{component}": value for component, value in vectors.items()}
    if len(found) > 1:
        raise damaged(path, _("words for several families: {names}", names=", ".join(sorted(found))))
    ((family, told_by),) = found.items()
    return Artifact(METHOD, family, tensors, {**facts, common.FAMILY_FROM: told_by})


def _rows(path: Path, value: Any) -> Tensor:
    import torch

    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.ndim not in (1, 2):
        found = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise damaged(path, _("{found} instead of a row of vectors", found=found))
    if not value.numel():
        raise damaged(path, _("no vectors"))
    return value.detach().reshape(-1, value.shape[-1])


def unusable(names: Iterable[Any]) -> Text | None:
    """What is wrong with a table of vectors that are not a whole word, or that nothing names; None if nothing is."""
    there = set(names)
    if "t5xxl" in there and "clip_g" not in there:
        return _("an embedding for FLUX (`t5xxl` without `clip_g`)")
    if len(there) == 1 and there <= NAMELESS:
        return _("vectors under `{key}`, which is no word", key=next(iter(there)))
    for layout in (*LAYOUTS, EARLY):
        if len(layout) > 1 and there & set(layout) and not there >= set(layout):
            missing = ", ".join(name for name in layout if name not in there)
            return _("half of an SDXL embedding, without {missing}", missing=missing)
    return None


def _family(vectors: Mapping[str, Tensor], facts: Mapping[str, str]) -> tuple[Family, str]:
    for row in FAMILIES:
        needed = {tower.component for tower in row.towers if not tower.optional}
        if row.name == facts.get("family") and needed <= vectors.keys() <= set(row.facts.text_encoders):
            return row, "metadata"
    # Of SD3 without T5 nothing but that says so: SDXL has the same two.
    possible = [row for row in FAMILIES if set(row.facts.text_encoders) == vectors.keys()]
    if len(possible) == 1:
        return possible[0], "shapes"
    for row in possible:
        if all(row.text_width(component) == value.shape[1] for component, value in vectors.items()):
            return row, "shapes"
    return FAMILIES[0], "default"


def header(artifact: Artifact, word: str) -> dict[str, str]:
    """Text metadata of a safetensors file, sorted; what the artifact brought from another file stays."""
    facts = artifact.metadata
    kept = {key: text for key, text in facts.items() if key.startswith(("ss_", "modelspec.", "tsuika."))}
    architecture = facts.get("architecture") or family(artifact.family).names.modelspec["epsilon"]
    made = {
        "family": artifact.family,
        "method": METHOD,
        "word": word,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/textual-inversion",
        "modelspec.implementation": SGM,
        "modelspec.title": facts.get("title") or facts.get("name") or word,
        "modelspec.trigger_phrase": word,
    }
    spec = {"description", "author", "license", "date", "resolution"}
    made |= {f"modelspec.{fact}": facts[fact] for fact in spec if facts.get(fact)}
    also = {"steps": "ss_steps", "t5_tokens": "ss_t5xxl_max_token_length"}
    made |= {key: facts[fact] for fact, key in also.items() if facts.get(fact)}
    return dict(sorted((kept | made).items()))


def pickled(path: Path) -> Any:
    """What a small torch file holds, running nothing of it; None where it is something else, or refused."""
    if not path.is_file() or path.stat().st_size > MAX_BYTES or not is_pickle(path):
        return None
    try:
        return load_pickle(path)
    except ModelError as error:
        if error.code == "MD011":
            raise
        return None


def load_table(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors and text metadata of a safetensors file or of a torch file that is a plain table. Raises ModelError: not
    there (FM004), damaged (MD003), a pickle with more than tensors in it (MD005)."""
    if path.is_file() and is_pickle(path):
        content = load_pickle(path)
        return (content if isinstance(content, dict) else {"": content}), {}
    opened = open_safetensors(path)
    return opened.load(), dict(opened.metadata)


def unknown(path: Path, names: Any) -> FormatError:
    """The error for a file of no layout of new words."""
    half = unusable(names) if hasattr(names, "__iter__") else None
    keys = ", ".join(sorted(map(str, names))[:5]) if hasattr(names, "__iter__") else type(names).__name__
    expected = _(
        "an embedding: `emb_params`, `clip_l` and `clip_g` (and `t5xxl`), A1111's .pt, or diffusers' learned_embeds"
    )
    return FormatError("FM001", where=path, found=half or keys or _("nothing"), expected=expected)
