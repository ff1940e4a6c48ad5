"""The safetensors container: headers checked before anything is read, tensors, files written byte for byte the same.

Knows no key layout of any program; those live in the format files.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import files
from tsuika.core.errors import FormatError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_MAX_HEADER_BYTES: Final = 100_000_000  # the limit of the safetensors library itself
_ITEM_BITS: Final = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64,
    "U64": 64,
}  # fmt: skip
_DTYPES: Final = {
    "torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16",
    "torch.float8_e4m3fn": "F8_E4M3", "torch.float8_e5m2": "F8_E5M2", "torch.int64": "I64", "torch.int32": "I32",
    "torch.int16": "I16", "torch.int8": "I8", "torch.uint8": "U8", "torch.bool": "BOOL",
}  # fmt: skip
_DISGUISES: Final = (  # first bytes -> (error code, what it is)
    (b"PK\x03\x04", "MD005", "it is a zip archive (a PyTorch pickle), whatever its name says"),
    (b"\x80", "MD005", "it is a Python pickle, whatever its name says"),
    (b"version https://git-lfs", "MD003", "it is a Git LFS pointer, not the file itself"),
    (b"<", "MD003", "it is a web page (HTML or XML), probably a failed download"),
)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a safetensors header describes it; `start` and `end` are byte offsets in the data section."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """A checked safetensors header."""

    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]
    data_start: int  # bytes


def read_header(path: Path) -> Header:
    """The header of a safetensors file, checked against the file's size; no tensor is read.

    Source: the safetensors format description (8-byte little-endian length, JSON, data without gaps).

    Raises:
        FormatError: not there (FM004), damaged or something else (MD003), a pickle (MD005).
    """
    if not path.is_file():
        raise FormatError("FM004", where=path)
    size = path.stat().st_size
    with path.open("rb") as stream:
        first = stream.read(64)
        for magic, code, why in _DISGUISES:
            # A safetensors header whose length happens to start with such a byte has `{` right after the length.
            if first.lstrip().startswith(magic) and first[8:9] != b"{":
                raise FormatError(code, where=path, why=f"Found: {why}.")
        if size < 8:
            raise damaged(path, f"it has only {size} bytes")
        length = int.from_bytes(first[:8], "little")
        if first[8:9] != b"{" and size > 8:
            raise damaged(
                path, f"not safetensors: the header does not begin with `{{` (first bytes {first[:16].hex(' ')})"
            )
        if length > _MAX_HEADER_BYTES or length < 2:
            raise damaged(path, f"a header of {length} bytes is declared")
        if 8 + length > size:
            raise damaged(path, f"cut off in the header: it needs {8 + length} bytes, the file has {size}")
        stream.seek(8)
        raw = stream.read(length)
    try:
        table = json.loads(raw)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise damaged(path, f"the header is not JSON ({error})") from None
    if not isinstance(table, dict):
        raise damaged(path, "the header is not a table")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise damaged(path, "the metadata is not a table of strings")
    tensors = {name: _tensor_info(path, name, entry) for name, entry in table.items()}
    _check_layout(path, tensors, size - 8 - length)
    return Header(metadata, tensors, 8 + length)


def damaged(path: Path, why: str) -> FormatError:
    return FormatError("MD003", where=path, why=f"Found: {why}.")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tensor_info(path: Path, name: str, entry: Any) -> TensorInfo:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise damaged(path, f"the entry of tensor `{name}` is not complete") from None
    if not isinstance(dtype, str) or dtype not in _ITEM_BITS:
        raise damaged(path, f"tensor `{name}` has the unknown number type {dtype!r}")
    if not isinstance(shape, list) or not all(map(_is_size, [*shape, start, end])):
        raise damaged(path, f"tensor `{name}` has an impossible shape or place")
    if end < start or (end - start) * 8 != math.prod(shape) * _ITEM_BITS[dtype]:
        raise damaged(path, f"tensor `{name}` has {end - start} bytes, which does not fit {dtype} {shape}")
    return TensorInfo(dtype, tuple(shape), start, end)


def _check_layout(path: Path, tensors: Mapping[str, TensorInfo], data_bytes: int) -> None:
    place = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != place:
            raise damaged(path, f"tensor `{name}` begins at byte {info.start} of the data instead of {place}")
        place = info.end
    if place > data_bytes:
        raise damaged(path, f"cut off: the tensors need {place} bytes, the file has {data_bytes}")
    if place < data_bytes:
        raise damaged(path, f"{data_bytes - place} bytes after the last tensor belong to nothing")


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file whose header was checked by `read_header`.

    Raises:
        FormatError: the library refuses it (MD003).
    """
    import safetensors
    import safetensors.torch

    try:
        return dict(safetensors.torch.load_file(str(path)))
    except (safetensors.SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from None


def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype, format_name: str) -> dict[str, Tensor]:
    """Copies in `dtype`, on the CPU, contiguous.

    Raises:
        FormatError: a number is not finite, or is not any more in `dtype` (FM002).
    """
    import torch

    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor.detach().to("cpu", dtype).contiguous()
        if not torch.isfinite(result[name]).all():
            largest = tensor.detach().float().abs().max().item()
            if math.isfinite(largest):
                why, do = f"`{name}` holds {largest:.3g}, too large for {dtype}.", "Write it as bf16 or fp32."
            else:
                why, do = f"`{name}` holds a number that is not finite.", "Use an earlier saved state."
            raise FormatError("FM002", format=format_name, why=why, do=do)
    return result


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _ordered(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    return sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))


def _header_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, tensor in _ordered(tensors):
        end = place + tensor.numel() * tensor.element_size()
        table[name] = {"dtype": _DTYPES[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    raw = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    make: Callable[[str], Tensor] | None = None,
) -> None:
    """Write tensors as safetensors, whole or not at all.

    The same input gives the same bytes (the safetensors library shuffles metadata), and the header JSON begins with
    `{"`, which A1111 demands.

    Args:
        path: The file.
        tensors: By name, on the CPU; on the meta device with `make`.
        metadata: Of the header.
        make: A name to its numbers, asked for one after the other, so that a whole model is never there twice.
    """
    with files.whole(path) as temporary, temporary.open("wb") as stream:
        stream.write(_header_bytes(tensors, metadata))
        for name, tensor in _ordered(tensors):
            stream.write(_bytes(make(name) if make else tensor))


def data_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 of the data section that `save_tensors` writes (kohya's `sshs_model_hash`, Civitai's AutoV3)."""
    digest = hashlib.sha256()
    for _, tensor in _ordered(tensors):
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def legacy_hash(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """kohya's `sshs_legacy_hash`: 8 hex digits over bytes 0x100000-0x110000 of a file with this metadata."""
    skip, want = 0x100000, 0x10000
    place, piece = 0, b""
    for block in [_header_bytes(tensors, metadata), *(_bytes(tensor) for _, tensor in _ordered(tensors))]:
        begin = max(skip - place, 0)
        piece += bytes(block[begin : begin + want - len(piece)])
        place += len(block)
        if len(piece) >= want:
            break
    return hashlib.sha256(piece).hexdigest()[:8]
