"""Results of the file tools, written and read back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tsuika import families, formats
from tsuika.api.run import JsonResult
from tsuika.core import files
from tsuika.core.errors import FormatError, no_such
from tsuika.core.events import Warned, note
from tsuika.core.files import sha256
from tsuika.core.texts import Text, _, _n, few
from tsuika.core.types import Artifact, Format, Model, model_tensors
from tsuika.formats import common
from tsuika.methods import textual_inversion
from tsuika.methods.whole_model import metadata_of
from tsuika.training.device import DTYPES
from tsuika.training.writing import faint_layers, largest_error

if TYPE_CHECKING:
    from torch import Tensor

_WORDS = formats.for_method(textual_inversion.METHOD.name)[0]  # of the words in LoRA files

NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, kw_only=True)
class ModelFile(JsonResult):
    """A file or folder that was written, read back and compared.

    Attributes:
        out: the file, or the folder of a diffusers layout.
        format: its name in `formats`, such as `kohya`, `diffusers` or `single-file`.
        dtype: fp16, bf16 or fp32; `as it was` where tensors keep their own.
        sha256: of the file; of a folder, of its first weights file.
        layers: that were compared; None for a whole model.
        tensors: in it; None where layers were compared.
        largest_relative_error: of any layer, of the file against what was to be written.
        too_faint_for_dtype: layers with numbers too small for `dtype`; None for none.
        words: files of the words that were bundled in a LoRA, beside `out`; None for none.
    """

    out: Path
    format: str
    dtype: str
    sha256: str
    layers: int | None = None
    tensors: int | None = None
    largest_relative_error: float = 0.0
    too_faint_for_dtype: tuple[str, ...] | None = None
    words: tuple[Path, ...] | None = None


def free_model(out: Path, *originals: Path, overwrite: bool, suffix: str = "", copied: bool = False) -> None:
    """`files.check_out` for a whole model: of a single file also the `.yaml` beside it, which says what the model predicts.

    Args:
        copied: the one original is copied together with its `.yaml`, so `out` may stand beside it and share that.

    Raises:
        TsuikaError: as `files.check_out`.
    """
    files.check_out(out, *originals, overwrite=overwrite, suffix=suffix)
    if out.suffix.lower() != ".safetensors":
        return
    yaml, theirs = out.with_suffix(".yaml"), [path.with_suffix(".yaml") for path in originals if path.is_file()]
    if not (copied and yaml.exists() and any(path.exists() and yaml.samefile(path) for path in theirs)):
        files.check_out(yaml, *theirs, overwrite=overwrite)


@dataclass(frozen=True)
class Rest:
    """What is in LoRA files beside their layers, and goes into none: words, written beside the result, and keys."""

    words: Mapping[Path, Artifact]  # file -> word
    notes: tuple[Warned, ...]

    def write(self, dtype: str) -> tuple[Path, ...] | None:
        """Write each word into its file; None for none."""
        for path, word in self.words.items():
            _WORDS.write(word, path, dtype=DTYPES[dtype])
        return tuple(self.words) or None


def without_rest(
    artifacts: Sequence[tuple[Path, Artifact]], out: Path, *, lossy: bool, overwrite: bool
) -> tuple[list[Artifact], Rest]:
    """LoRAs as if nothing else were in their files, and that; as they are where it may not be left out.

    Args:
        artifacts: files, and what was read from each.
        out: the result, beside which words will stand.
        lossy: whether anything may be left out.
        overwrite: replace files of words.

    Raises:
        RecipeError: a word's file exists (RC007).
    """
    if not lossy:
        return [artifact for _file, artifact in artifacts], Rest({}, ())
    words: dict[Path, Artifact] = {}
    notes: list[Warned] = []
    for file, artifact in artifacts:
        if unread := common.unread_keys(artifact):
            notes.append(note("FM007", keys=few(unread)))
        for word in formats.bundled(file, artifact.family) if common.bundled_words(artifact) else ():
            name = next(iter(word.tensors)).rpartition(".")[0]
            path = out.with_name(re.sub(r"[^\w.<>-]|^\.+", "_", name) + _WORDS.suffix)
            files.check_out(path, *(original for original, _artifact in artifacts), overwrite=overwrite)
            words[path] = word
    return [common.without_unread(artifact) for _file, artifact in artifacts], Rest(words, tuple(notes))


def check_same(out: Path, tensors: Mapping[str, Tensor], back: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Tensors that were read back are those that were written, rounded to `dtype` once.

    Raises:
        FormatError: they are not (FM003).
    """
    wrong = [name for name, tensor in tensors.items() if not torch.equal(back[name].to(dtype), tensor.to(dtype))]
    if wrong:
        why = _n(
            "{count} tensor differs: `{name}`.", "{count} tensors differ, such as `{name}`.", len(wrong), name=wrong[0]
        )
        raise FormatError("FM003", where=out, why=why)


def number_type(requested: str, tensors: Mapping[str, Tensor]) -> str:
    """fp16, bf16 or fp32: as requested, else what most numbers of the file are in (fp32 for any other type).

    Raises:
        RecipeError: no such type (RC002).
    """
    if requested:
        if requested not in DTYPES:
            raise no_such("dtype", requested, DTYPES)
        return requested
    largest = max(tensors.values(), key=lambda tensor: tensor.numel())
    return NAMES.get(largest.dtype, "fp32")


def write(artifact: Artifact, format_: Format, out: Path, dtype: str) -> ModelFile:
    """Write an artifact, read the file back, and compare what the two do.

    Raises:
        FormatError: the format cannot hold it (FM002), or the file does not do the same (FM003).
    """
    format_.write(artifact, out, dtype=DTYPES[dtype])
    faint = faint_layers(artifact, dtype)
    errors = formats.relative_errors(artifact, format_.read(out))
    return ModelFile(
        out=out,
        format=format_.name,
        dtype=dtype,
        sha256=sha256_of(out),
        layers=len(errors),
        largest_relative_error=largest_error(errors, faint, dtype, out),
        too_faint_for_dtype=tuple(sorted(faint)) or None,
    )


def write_model(model: Model, format_: Format, out: Path, dtype: str, facts: Mapping[str, str]) -> ModelFile:
    """The same of a whole model: every number must be there again, rounded to `dtype` once.

    Raises:
        FormatError: the format cannot hold it (FM002), or the file does not hold the same (FM003).
    """
    tensors = model_tensors(model)
    extra = {f"extra.{name}": tensor for name, tensor in model.extra_tensors.items()}
    metadata = {**metadata_of(model), **facts}
    number_type = DTYPES[dtype]
    format_.write(Artifact(format_.method, model.facts.family, tensors | extra, metadata), out, dtype=number_type)
    back = model_tensors(families.read_back(out, model, dtype=number_type))
    check_same(out, tensors, back, number_type)
    return ModelFile(out=out, format=format_.name, dtype=dtype, sha256=sha256_of(out), tensors=len(tensors))


def sha256_of(out: Path) -> str:
    """Of a file; of a folder, of its first weights file."""
    return sha256(out if out.is_file() else min(out.rglob("*.safetensors")))


def summary(errors: Mapping[str, float]) -> Text:
    """Layers' relative errors, for people: the median and the largest."""
    values = torch.tensor(sorted(errors.values()))
    worst = max(errors, key=lambda name: errors[name])
    median, largest = f"{float(values.median()):.2g}", f"{errors[worst]:.2g}"
    return _("median {median}, largest {largest} ({layer})", median=median, largest=largest, layer=worst)
