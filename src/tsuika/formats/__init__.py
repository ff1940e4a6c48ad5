"""File formats for artifacts. `FORMATS` is the whole list; a new format is one file and one entry. A method from
outside can name formats that live outside, too, or `native`, which holds results of any method."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tsuika.core import kinds
from tsuika.core.errors import FormatError, ModelError
from tsuika.core.outside import imported
from tsuika.core.texts import _
from tsuika.core.types import Artifact, Format
from tsuika.core.weights import open_weights
from tsuika.families.detection import of_folder
from tsuika.formats import embedding, hypernetwork, lora_reading
from tsuika.formats.checkpoint import DiffusersFolder, SingleFile
from tsuika.formats.common import WriteOnly, count_tags, run_facts
from tsuika.formats.embedding_files import A1111Embedding, DiffusersEmbedding, KohyaEmbedding
from tsuika.formats.hypernetwork import A1111Hypernetwork
from tsuika.formats.kohya_lora import KohyaLora
from tsuika.formats.layouts import KOHYA, LAYOUTS
from tsuika.formats.lora import compared_parts, relative_errors, tensor_errors
from tsuika.formats.lora_reading import LoraFile
from tsuika.formats.native import Native, method_of
from tsuika.formats.peft_lora import PeftLora

FORMATS: Final[tuple[Format, ...]] = (
    KohyaLora(),
    PeftLora(),
    KohyaEmbedding(),
    A1111Embedding(),
    DiffusersEmbedding(),
    A1111Hypernetwork(),
    hypernetwork.NATIVE,
)
SYNONYMS: Final = {(LoraFile.method, "a1111"): KOHYA.name}  # A1111 reads kohya's layout
LORA: Final = tuple(known for known in FORMATS if known.method == LoraFile.method)
# By name; of the layouts that are not written, too.
_LORA_READERS: Final = {layout.name: LoraFile(layout) for layout in LAYOUTS} | {known.name: known for known in LORA}
CHECKPOINTS: Final[tuple[Format, ...]] = (SingleFile(), DiffusersFolder())  # written only: `families` opens them
NATIVE: Final = "native"
_EXPECTED: Final = _("a LoRA, an embedding or a hypernetwork")

# What is defined elsewhere and looked for here.
__all__ = ["WriteOnly", "compared_parts", "count_tags", "relative_errors", "run_facts", "tensor_errors"]


def for_method(method: str, also: Iterable[str] = ()) -> tuple[Format, ...]:
    """The formats that hold results of a method, the main one first. `also` is the method's own list beside what is
    here: `native`, or addresses (`core.outside`) of formats. Raises RecipeError: an address cannot be imported, or is
    no format (RC002)."""
    here = tuple(known for known in (*FORMATS, *CHECKPOINTS) if known.method == method)
    kind: Any = Format
    return here + tuple(Native(method) if name == NATIVE else imported(name, kind, key="formats") for name in also)


def pieces(artifact: Artifact, name: str) -> dict[str, Artifact]:
    """What goes into a file each, by file stem: everything in one called `name`, but several new words one by one.
    Programs call a new word by its file's name, so that is the word."""
    words = {key.rpartition(".")[0] for key in artifact.tensors} if artifact.method == "textual-inversion" else set()
    if len(words) < 2:
        return {name: artifact}
    return {
        word: replace(
            artifact, tensors={key: value for key, value in artifact.tensors.items() if key.rpartition(".")[0] == word}
        )
        for word in sorted(words)
    }


def find(path: Path, also: Iterable[Format] = ()) -> Format:
    """The format of a file or folder, from its header alone. `also` are formats of methods from outside, asked first.
    Raises ModelError: damaged (MD003), a pickle with more than tensors (MD005), or without them (MD002); FormatError:
    not there (FM004), something else (MD002)."""
    for known in also:
        if known.sniff(path):
            return known
    if (layout := lora_reading.layout_in(path)) is not None:
        return _LORA_READERS[layout.name]
    for known in FORMATS:
        if known not in LORA and known.sniff(path):
            return known
    if method := method_of(path):
        return Native(method)
    if not path.exists():
        raise FormatError("FM004", where=path)
    if (error := _refusal(path)) is not None:
        raise error
    found = of_folder(path) if path.is_dir() else open_weights(path).kind
    if found.name in kinds.OF_METHODS:
        what = _("{kind} with other names or sizes than tsuika knows", kind=found.title)
        raise FormatError("FM001", where=path, found=what, expected=_("one for SD 1.x, SD 2.x, SDXL or SD 3.x"))
    raise kinds.unlike(path, found, _EXPECTED)


def _refusal(path: Path) -> FormatError | None:
    """The error for a LoRA or an embedding that no Stable Diffusion can take; None for anything else."""
    if (error := lora_reading.foreign(path)) is not None:
        return error
    try:
        found = embedding.unusable(open_weights(path).shapes) if path.is_file() else None
    except ModelError:
        return None
    return None if found is None else FormatError("FM001", where=path, found=found, expected=_EXPECTED)


def is_artifact(path: Path) -> bool:
    """Whether some format of this list knows the file, or it is a result that none can use: `find` says why."""
    if lora_reading.layout_in(path) is not None or any(known.sniff(path) for known in FORMATS if known not in LORA):
        return True
    return bool(method_of(path)) or _refusal(path) is not None


def bundled(path: Path, family: str) -> tuple[Artifact, ...]:
    """The new words inside a LoRA's file, for `family`; none in any other file. Raises ModelError: damaged (MD003), a
    pickle with more than tensors in it (MD005)."""
    return tuple(lora_reading.bundled(path, family))
