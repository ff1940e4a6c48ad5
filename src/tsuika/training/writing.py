"""Results are written in every format of the method; each file is read back and compared with what was trained."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from tsuika import families, formats
from tsuika.core.errors import FormatError
from tsuika.core.events import Event, Written, note
from tsuika.core.files import sha256
from tsuika.core.finite import is_finite
from tsuika.core.texts import _
from tsuika.core.types import Artifact, Format, Model
from tsuika.methods import find
from tsuika.training.device import DTYPES

# Relative, of a layer's ΔW or a tensor: twice the format's rounding.
LARGEST_ERROR: Final = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1.6e-2}
FAINT_ERROR: Final = 2.0  # for layers that the format cannot hold: rounding at most doubles a number or drops it


def faint_layers(artifact: Artifact, precision: str) -> frozenset[str]:
    """What `precision` cannot hold to its relative error, because the numbers are near its smallest.

    A layer that learns nothing but rounding noise is like that: attention over a single position, for one.
    """
    dtype, limit = DTYPES[precision], LARGEST_ERROR[precision]
    found: set[str] = set()
    for part in formats.compared_parts(artifact):
        tensors = {
            key: value if key.endswith(".alpha") else value.to(dtype).float() for key, value in part.tensors.items()
        }
        if not all(map(is_finite, tensors.values())):  # too large: for the formats to refuse
            return frozenset()
        try:
            errors = formats.relative_errors(part, replace(part, tensors=tensors))
        except FormatError:  # a kind without ΔW: also for the formats to refuse
            return frozenset()
        found |= {layer for layer, error in errors.items() if limit < error <= FAINT_ERROR}
    return frozenset(found)


def write(
    artifact: Artifact, folder: Path, run: Path, *, name: str, precision: str, model: Model | None
) -> Iterator[Event]:
    """Write the artifact in every format for its method into a folder, read each file back, and compare what they do.

    Events name the files relative to the folder `run`. `name` is without suffix; a whole model is read back as one like
    `model`, which the artifact was trained on. Raises FormatError: FM003, a file does not do what the model in memory does;
    FM002, no format can hold it.
    """
    dtype, faint = DTYPES[precision], faint_layers(artifact, precision)
    if faint:
        yield note("TR005", count=len(faint), precision=precision, layer=min(faint))
    for stem, piece in formats.pieces(artifact, name).items():
        left = len(known := formats.for_method(piece.method, find(piece.method).formats))
        for format_ in known:
            path = folder / f"{stem}{format_.suffix}"
            try:
                format_.write(piece, path, dtype=dtype)
            except FormatError as error:
                left -= 1
                if error.code != "FM002" or not left:  # a run that leaves no file has not succeeded
                    raise
                yield note(error.code, **error.params)
                continue
            if isinstance(format_, formats.WriteOnly):
                yield from (note(code, file=path.name) for code in format_.notes(piece))
            errors = _errors(piece, format_, path, model)
            error_size = largest_error(errors, faint, precision, path)
            file = path if path.is_file() else next(path.rglob("*.safetensors"))
            yield Written(str(path.relative_to(run)), format_.name, sha256(file), error_size)


def largest_error(errors: Mapping[str, float], faint: Collection[str], precision: str, path: Path) -> float:
    """The largest relative error of what `precision` can hold. Raises FormatError (FM003): the file does not do what it should."""
    limit = LARGEST_ERROR[precision]
    wrong = {name: error for name, error in errors.items() if not error <= (FAINT_ERROR if name in faint else limit)}
    if wrong:
        worst = max(wrong, key=lambda name: wrong[name])
        why = _("`{name}` differs by {share} of its size.", name=worst, share=f"{wrong[worst]:.2g}")
        raise FormatError("FM003", where=path, why=why)
    solid = [error for name, error in errors.items() if name not in faint]
    return max(solid or errors.values(), default=0.0)


def _errors(piece: Artifact, format_: Format, path: Path, model: Model | None) -> dict[str, float]:
    """How far what was read back is from what was to be written, by layer or tensor.

    A whole model is read tensor by tensor: a second one may not fit beside the first.
    """
    if not isinstance(format_, formats.WriteOnly):
        return formats.relative_errors(piece, format_.read(path))
    assert model is not None
    found, weights = families.written(path, model)
    if found.prediction != piece.metadata["prediction"]:
        why = _("It is read as a model that predicts {prediction}.", prediction=found.prediction)
        raise FormatError("FM003", where=path, why=why)
    used = {name: value for name, value in piece.tensors.items() if not name.startswith("extra.")}
    return formats.tensor_errors(used, weights)
