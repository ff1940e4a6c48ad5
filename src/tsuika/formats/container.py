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
from tsuika.core.words import Words

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_MAX_HEADER_BYTES: Final = 100_000_000  # the limit of the safetensors library itself
_ITEM_BITS: Final = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
_DTYPES: Final = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
_DISGUISES: Final = (  # first bytes -> (error code, what it is)
    (
        b"PK\x03\x04",
        "MD005",
        Words(
            "it is a zip archive (a PyTorch pickle), whatever its name says",
            "ファイル名に関わらず、中身はzip書庫(PyTorchのpickle)です",
        ),
    ),
    (
        b"\x80",
        "MD005",
        Words("it is a Python pickle, whatever its name says", "ファイル名に関わらず、中身はPythonのpickleです"),
    ),
    (
        b"version https://git-lfs",
        "MD003",
        Words("it is a Git LFS pointer, not the file itself", "Git LFSのポインターで、ファイルの本体ではありません"),
    ),
    (
        b"<",
        "MD003",
        Words(
            "it is a web page (HTML or XML), probably a failed download",
            "Webページ(HTMLまたはXML)です。ダウンロードに失敗した可能性があります",
        ),
    ),
)
ANOTHER_FORMAT: Final = Words("Choose another format.", "別の形式を選んでください。")


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
                raise FormatError(code, where=path, why=_found(why))
        if size < 8:
            raise damaged(path, Words(f"it has only {size} bytes", f"{size}バイトしかありません"))
        length = int.from_bytes(first[:8], "little")
        if first[8:9] != b"{" and size > 8:
            begin = first[:16].hex(" ")
            why = Words(
                f"not safetensors: the header does not begin with `{{` (first bytes {begin})",
                f"safetensorsではありません: ヘッダーが `{{` で始まっていません(先頭のバイト: {begin})",
            )
            raise damaged(path, why)
        if length > _MAX_HEADER_BYTES or length < 2:
            why = Words(f"a header of {length} bytes is declared", f"ヘッダーの長さが{length}バイトと記録されています")
            raise damaged(path, why)
        if 8 + length > size:
            why = Words(
                f"cut off in the header: it needs {8 + length} bytes, the file has {size}",
                f"ヘッダーの途中で切れています: {8 + length}バイト必要ですが、ファイルは{size}バイトです",
            )
            raise damaged(path, why)
        stream.seek(8)
        raw = stream.read(length)
    try:
        table = json.loads(raw)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        why = Words(f"the header is not JSON ({error})", f"ヘッダーがJSONではありません({error})")
        raise damaged(path, why) from None
    if not isinstance(table, dict):
        raise damaged(path, Words("the header is not a table", "ヘッダーがテーブルになっていません"))
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        why = Words("the metadata is not a table of strings", "メタデータが文字列のテーブルになっていません")
        raise damaged(path, why)
    tensors = {name: _tensor_info(path, name, entry) for name, entry in table.items()}
    _check_layout(path, tensors, size - 8 - length)
    return Header(metadata, tensors, 8 + length)


def damaged(path: Path, why: Words) -> FormatError:
    return FormatError("MD003", where=path, why=_found(why))


def _found(why: Words) -> Words:
    return Words(f"Found: {why}.", f"{why.ja}。")


def of_another_method(method: str, format_name: str, kind: Words) -> FormatError:
    """The error where a format for `kind` gets something else."""
    why = Words(
        f"It is of method `{method}`, and this format is for {kind}.",
        f"種類は `{method}` で、この形式は{kind.ja}用です。",
    )
    return FormatError("FM002", format=format_name, why=why, do=ANOTHER_FORMAT)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tensor_info(path: Path, name: str, entry: Any) -> TensorInfo:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        why = Words(f"the entry of tensor `{name}` is not complete", f"テンソル `{name}` の項目が不完全です")
        raise damaged(path, why) from None
    if not isinstance(dtype, str) or dtype not in _ITEM_BITS:
        why = Words(
            f"tensor `{name}` has the unknown number type {dtype!r}", f"テンソル `{name}` の数値型が未知の{dtype!r}です"
        )
        raise damaged(path, why)
    if not isinstance(shape, list) or not all(map(_is_size, [*shape, start, end])):
        why = Words(
            f"tensor `{name}` has an impossible shape or place", f"テンソル `{name}` の形状または位置があり得ない値です"
        )
        raise damaged(path, why)
    if end < start or (end - start) * 8 != math.prod(shape) * _ITEM_BITS[dtype]:
        why = Words(
            f"tensor `{name}` has {end - start} bytes, which does not fit {dtype} {shape}",
            f"テンソル `{name}` は{end - start}バイトで、{dtype} {shape} に合いません",
        )
        raise damaged(path, why)
    return TensorInfo(dtype, tuple(shape), start, end)


def _check_layout(path: Path, tensors: Mapping[str, TensorInfo], data_bytes: int) -> None:
    place = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != place:
            why = Words(
                f"tensor `{name}` begins at byte {info.start} of the data instead of {place}",
                f"テンソル `{name}` がデータの{place}バイト目ではなく{info.start}バイト目から始まっています",
            )
            raise damaged(path, why)
        place = info.end
    if place > data_bytes:
        why = Words(
            f"cut off: the tensors need {place} bytes, the file has {data_bytes}",
            f"途中で切れています: テンソルに{place}バイト必要ですが、ファイルには{data_bytes}バイトしかありません",
        )
        raise damaged(path, why)
    if place < data_bytes:
        why = Words(
            f"{data_bytes - place} bytes after the last tensor belong to nothing",
            f"最後のテンソルの後に、どこにも属さない{data_bytes - place}バイトがあります",
        )
        raise damaged(path, why)


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
        raise damaged(path, Words(str(error))) from None


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
                why = Words(
                    f"`{name}` holds {largest:.3g}, too large for {dtype}.",
                    f"`{name}` の値{largest:.3g}は、{dtype}には大きすぎます。",
                )
                do = Words("Write it as bf16 or fp32.", "bf16かfp32で書き出してください。")
            else:
                why = Words(f"`{name}` holds a number that is not finite.", f"`{name}` にNaNまたは無限大があります。")
                do = Words("Use an earlier saved state.", "それより前の途中保存を使ってください。")
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
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], make: Callable[[str], Tensor] | None = None
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
