"""The safetensors container: headers checked before a tensor is read, and the same input written as the same bytes.
Source: the safetensors format description (8-byte little-endian length, JSON header, data without gaps)."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import files, finite
from tsuika.core.errors import FormatError
from tsuika.core.plain import parsed
from tsuika.core.texts import _

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAX_HEADER_BYTES: Final = 100_000_000  # the limit of the safetensors library itself
BITS: Final = (
    {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
    | dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8)
    | dict.fromkeys(("I16", "U16", "F16", "BF16"), 16)
    | dict.fromkeys(("I32", "U32", "F32"), 32)
    | dict.fromkeys(("C64", "F64", "I64", "U64"), 64)
)
# Number types that torch has too, by its names.
TORCH_NAMES: Final = (
    {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    | {f"I{bits}": f"int{bits}" for bits in (64, 32, 16, 8)}
    | {f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}
    | {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "C64": "complex64", "BOOL": "bool"}
)
_DTYPES: Final = {f"torch.{theirs}": ours for ours, theirs in TORCH_NAMES.items()}
_MAX_DIMENSIONS: Final = 64
_MAX_SIZE: Final = 1 << 62
# First bytes of other files that often carry the name of a safetensors file.
_PICKLES: Final = (b"PK\x03\x04", b"\x80")
_OTHERS: Final = (
    (b"version https://git-lfs", _("it is a Git LFS pointer, not the file itself")),
    (b"<", _("it is a web page (HTML or XML), probably a failed download")),
)


@dataclass(frozen=True)
class Header:
    """A checked safetensors header: the text metadata, and of each tensor the shape, the number type (`F16`), and its first
    and last byte in the file."""

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    ranges: dict[str, tuple[int, int]]


def damaged(path: Path, why: str) -> FormatError:
    """The error for a file that contradicts itself; `why` is half a sentence: what was found."""
    return FormatError("MD003", where=path, why=_("Found: {what}.", what=why))


def is_pickle_head(head: bytes) -> bool:
    """Whether a file that begins so is a pickle, zipped or not; a safetensors file's length may look like one."""
    return head.startswith(_PICKLES) and head[8:9] != b"{"


def read_header(path: Path) -> Header:
    """The header of a safetensors file, checked against the file's size; no tensor is read. Raises FormatError: not
    there (FM004), damaged or something else (MD003), a pickle (MD005)."""
    if not path.is_file():
        raise FormatError("FM004", where=path)
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = _header_length(path, stream.read(64), size)
        stream.seek(8)
        raw = stream.read(length)
    try:
        table = parsed(raw)
    except ValueError as error:
        raise damaged(path, _("the header is not JSON ({error})", error=error)) from None
    if not isinstance(table, dict):
        raise damaged(path, _("the header is not a table"))
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise damaged(path, _("the metadata is not a table of strings"))
    ranges = {name: _range(path, name, entry) for name, entry in table.items()}
    begin = 8 + len(raw)
    _check_layout(path, ranges, begin, size)
    shapes = {name: tuple(entry["shape"]) for name, entry in table.items()}
    dtypes = {name: entry["dtype"] for name, entry in table.items()}
    return Header(
        metadata, shapes, dtypes, {name: (begin + start, begin + end) for name, (start, end) in ranges.items()}
    )


def read_tensor(path: Path, header: Header, name: str) -> Tensor:
    """A tensor of a file whose header was read, in memory of its own: the pages of a mapped file would stay beside what is
    made of them, and go wrong where the file changes. Raises FormatError: damaged, or of a type that torch lacks (MD003)."""
    import numpy as np
    import torch

    if (dtype := header.dtypes[name]) not in TORCH_NAMES:
        raise damaged(path, _("tensor `{name}` has the unknown number type {dtype}", name=name, dtype=repr(dtype)))
    begin, end = header.ranges[name]
    if begin == end:
        return torch.empty(header.shapes[name], dtype=getattr(torch, TORCH_NAMES[dtype]))
    try:
        numbers = np.fromfile(path, np.uint8, end - begin, offset=begin)
    except OSError as error:
        raise damaged(path, str(error)) from None
    if len(numbers) < end - begin:
        raise damaged(path, _("tensor `{name}` is cut off", name=name))
    return torch.from_numpy(numbers).view(getattr(torch, TORCH_NAMES[dtype])).reshape(header.shapes[name])


def header_or_none(path: Path) -> Header | None:
    """The header of a safetensors file; None where it is something else or damaged."""
    try:
        return read_header(path)
    except FormatError:
        return None


def _header_length(path: Path, head: bytes, size: int) -> int:
    if is_pickle_head(head):
        what = _("it is a PyTorch or Python pickle, whatever its name says")
        raise FormatError("MD005", where=path, why=_("Found: {what}.", what=what))
    for magic, what in _OTHERS:
        if head.lstrip().startswith(magic) and head[8:9] != b"{":
            raise damaged(path, what)
    if size < 8:
        raise damaged(path, _("it has only {size} bytes", size=size))
    length = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" and size > 8:
        begin = head[:16].hex(" ")
        raise damaged(path, _("no safetensors header: the first bytes are {begin}", begin=begin))
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise damaged(path, _("a header of {length} bytes is declared", length=f"{length:,}"))
    if 8 + length > size:
        why = _("its header ends at byte {end}, and the file has {size}", end=f"{8 + length:,}", size=f"{size:,}")
        raise damaged(path, why)
    return length


def is_shape(shape: object) -> bool:
    """Whether it can be a tensor's shape: a few whole numbers, neither they nor their product absurd."""
    if not isinstance(shape, list | tuple) or len(shape) > _MAX_DIMENSIONS or not all(map(_is_size, shape)):
        return False
    return math.prod(shape) < _MAX_SIZE


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_SIZE


def _range(path: Path, name: str, entry: Any) -> tuple[int, int]:
    """First and last byte of a tensor in the data section, its entry in the header checked."""
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise damaged(path, _("the entry of tensor `{name}` is not complete", name=name)) from None
    if not isinstance(dtype, str) or dtype not in BITS:
        raise damaged(path, _("tensor `{name}` has the unknown number type {dtype}", name=name, dtype=repr(dtype)))
    if not is_shape(shape) or not _is_size(start) or not _is_size(end):
        raise damaged(path, _("tensor `{name}` has an impossible shape or place", name=name))
    if end < start or (end - start) * 8 != math.prod(shape) * BITS[dtype]:
        found = {"name": name, "count": end - start, "dtype": dtype, "shape": shape}
        raise damaged(path, _("tensor `{name}` has {count} bytes, which does not fit {dtype} {shape}", **found))
    return start, end


def _check_layout(path: Path, ranges: Mapping[str, tuple[int, int]], begin: int, size: int) -> None:
    place = 0
    for name, (start, end) in sorted(ranges.items(), key=lambda item: item[1]):
        if start != place:
            found = {"name": name, "start": start, "place": place}
            raise damaged(path, _("tensor `{name}` begins at byte {start} of the data instead of {place}", **found))
        place = end
    if begin + place != size:
        needed = f"{begin + place:,}"
        raise damaged(path, _("it should be {needed} bytes long and has {size}", needed=needed, size=f"{size:,}"))


def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype, format_name: str) -> dict[str, Tensor]:
    """Copies in `dtype`, on the CPU, contiguous. Raises FormatError: a number is not finite, or is not any more in
    `dtype` (FM002)."""
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor.detach().to("cpu", dtype).contiguous()
        if finite.is_finite(result[name]):
            continue
        largest = tensor.detach().float().abs().max().item()
        if math.isfinite(largest):
            why = _("`{name}` holds {value}, too large for {dtype}.", name=name, value=f"{largest:.3g}", dtype=dtype)
            do = _("Write it as bf16 or fp32.")
        else:
            why = _("`{name}` holds a number that is not finite.", name=name)
            do = _("Use an earlier saved state.")
        raise FormatError("FM002", format=format_name, why=why, do=do)
    return result


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], make: Callable[[str], Tensor] | None = None
) -> None:
    """Write tensors as safetensors, whole or not at all. The same input gives the same bytes (the safetensors library
    shuffles metadata), and the header JSON begins with `{"`, which A1111 demands. Tensors are on the CPU, or on the
    meta device with `make`, which gives the numbers of a name: asked for one after the other, so that a whole model is
    never there twice."""
    with files.whole(path) as temporary, temporary.open("wb") as stream:
        stream.writelines(blocks(tensors, metadata, make))


def blocks(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], make: Callable[[str], Tensor] | None = None
) -> Iterator[bytes | memoryview]:
    """What `save_tensors` writes, piece by piece; the tensors may be on any device."""
    yield _header_bytes(tensors, metadata)
    for name, tensor in _ordered(tensors):
        yield _bytes(make(name) if make else tensor)


def copy_without(source: Path, target: Path, fields: Iterable[str]) -> bool:
    """Copy a file without some fields of its metadata, the tensors as they are; False, and no copy, if it has none of
    them. Raises FormatError: as `read_header`; TsuikaError: as `files.whole`."""
    dropped = {*fields} & read_header(source).metadata.keys()
    if not dropped:
        return False
    with source.open("rb") as stream, files.whole(target) as temporary, temporary.open("wb") as copy:
        table = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        table["__metadata__"] = {key: text for key, text in table["__metadata__"].items() if key not in dropped}
        header = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
        # Tensors begin at a multiple of 8, as the library has it.
        header += b" " * (-len(header) % 8)
        copy.write(len(header).to_bytes(8, "little") + header)
        shutil.copyfileobj(stream, copy, 1 << 20)
    return True


def data_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 of the data section that `save_tensors` writes (kohya's `sshs_model_hash`, Civitai's AutoV3)."""
    digest = hashlib.sha256()
    for _name, tensor in _ordered(tensors):
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def legacy_hash(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """kohya's `sshs_legacy_hash`: 8 hex digits over bytes 0x100000-0x110000 of a file with this metadata."""
    skip, count = 0x100000, 0x10000
    place, piece = 0, b""
    for block in [_header_bytes(tensors, metadata), *(_bytes(tensor) for _name, tensor in _ordered(tensors))]:
        begin = max(skip - place, 0)
        piece += bytes(block[begin : begin + count - len(piece)])
        place += len(block)
        if len(piece) >= count:
            break
    return hashlib.sha256(piece).hexdigest()[:8]


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    return tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data


def _ordered(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    return sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))


def _header_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, tensor in _ordered(tensors):
        end = place + tensor.numel() * tensor.element_size()
        table[name] = {"dtype": _DTYPES[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    raw = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw
