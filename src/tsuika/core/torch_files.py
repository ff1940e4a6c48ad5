"""PyTorch's files (zipped, and the older layout) and plain pickles: what the pickle in them holds, and where the numbers of its
tensors lie. The numbers are read when asked for; until then without torch."""

from __future__ import annotations

import math
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from tsuika.core import kinds
from tsuika.core.errors import ModelError
from tsuika.core.pickles import MAX_PICKLE_BYTES, Limited, Storage, Stored, is_whole, unpickled, width
from tsuika.core.safetensors import TORCH_NAMES, is_shape
from tsuika.core.texts import _

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Torch does not compress, and weights hardly can be: a member that shrinks more is made to fill the memory.
_MAX_RATIO: Final = 20
# Source: torch/serialization.py.
_MAGIC: Final = 0x1950A86A20F9469CFC6C
# What can go wrong in a file that is not whole, or is made to fail; all of it means just that.
_BROKEN: Final = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, AssertionError),
)


@dataclass(frozen=True)
class TorchFile:
    """A file whose pickle has been read. `content` is plain values, with a `Stored` for each tensor and a `StandIn` for
    all else; `places` are first byte and length of each storage."""

    path: Path
    content: Any
    places: Mapping[str, tuple[int, int]]
    inflate: Callable[[str], bytes] | None = None  # for storages that are compressed

    def tensor(self, stored: Stored) -> Tensor:
        """The numbers of a tensor, in memory of its own. Raises ModelError: they are not all there, or the file contradicts
        itself (MD003)."""
        import torch

        try:
            dtype, size = getattr(torch, TORCH_NAMES[stored.dtype]), width(stored.dtype)
            shape, stride, offset = stored.shape, stored.stride, stored.offset
            if not (is_shape(shape) and all(map(is_whole, (*stride, offset)))):
                raise ValueError("shape")
            count = math.prod(shape)
            if not count:
                return torch.empty(shape, dtype=dtype)
            last = offset + sum((one - 1) * step for one, step in zip(shape, stride, strict=True))
            # More values than there are numbers would be a view that repeats them without end.
            if max(last + 1, count) * size > stored.storage.bytes:
                raise EOFError(f"{shape} / {stored.storage.bytes:,}")
            numbers = self._bytes(stored.storage, offset * size, (last + 1) * size)
            return torch.from_numpy(numbers).view(dtype).as_strided(shape, stride)
        except _BROKEN as error:
            raise broken(self.path, error) from None

    def _bytes(self, storage: Storage, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """A part of what a tensor's storage holds."""
        import numpy as np

        held = np.frombuffer(bytearray(self.inflate(storage.key)), np.uint8) if self.inflate is not None else None
        begin, length = self.places[storage.key] if held is None else (0, len(held))
        if storage.begin + storage.bytes > length:
            raise EOFError(f"data/{storage.key}: {length - storage.begin:,} / {storage.bytes:,}")
        start, stop = begin + storage.begin + start, begin + storage.begin + stop
        numbers = np.fromfile(self.path, np.uint8, stop - start, offset=start) if held is None else held[start:stop]
        if len(numbers) != stop - start:
            raise EOFError(f"data/{storage.key}: {len(numbers):,} / {stop - start:,}")
        return numbers if numbers.ctypes.data % 8 == 0 else numbers.copy()


def broken(path: Path, error: BaseException) -> ModelError:
    """The error for a torch file that is not whole."""
    reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
    return ModelError("MD003", where=path, why=_("It is no complete torch file: {reason}.", reason=reason))


def open_torch(path: Path) -> TorchFile:
    """What a torch file, or a plain pickle, holds. Raises ModelError: not whole, or not what it says (MD003), a pickle
    that names programs (MD005)."""
    try:
        with path.open("rb") as stream:
            if stream.read(2) == b"PK":
                return _zipped(path)
            stream.seek(0)
            return _bare(path, stream)
    except _BROKEN as error:
        raise broken(path, error) from None


def _zipped(path: Path) -> TorchFile:
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        for member in members.values():
            _refuse_bomb(member)
        roots = [name.removesuffix("data.pkl") for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(roots) != 1:
            raise ValueError("data.pkl")
        (root,) = roots
        if f"{root}constants.pkl" in members:
            raise kinds.unlike(path, kinds.other(_("a TorchScript program, not plain weights")), kinds.WEIGHTS)
        order = members.get(f"{root}byteorder")
        if order is not None and archive.read(order)[:8].strip() != b"little":
            raise ValueError("byteorder")
        head = members[f"{root}data.pkl"]
        if head.file_size > MAX_PICKLE_BYTES:
            raise ValueError(f"data.pkl: {head.file_size:,}")
        content = unpickled(path, BytesIO(archive.read(head)))
        storages = {
            name.removeprefix(f"{root}data/"): member
            for name, member in members.items()
            if name.startswith(f"{root}data/")
        }
        if any(member.compress_type != zipfile.ZIP_STORED for member in storages.values()):

            def inflate(key: str) -> bytes:
                with zipfile.ZipFile(path) as again:
                    return again.read(f"{root}data/{key}")

            return TorchFile(path, content, {}, inflate)
        with path.open("rb") as stream:
            places = {key: _place(stream, member) for key, member in storages.items()}
        return TorchFile(path, content, places)


def _refuse_bomb(member: zipfile.ZipInfo) -> None:
    if member.flag_bits & 1:
        raise ValueError(f"{member.filename}: encrypted")
    if member.compress_type != zipfile.ZIP_STORED and member.file_size > (1 << 20) + _MAX_RATIO * member.compress_size:
        raise ValueError(f"{member.filename}: {member.compress_size:,} -> {member.file_size:,}")


def _place(stream: IO[bytes], member: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the bytes of a member lie that is not compressed. Source: PKWARE's APPNOTE, 4.3.7."""
    stream.seek(member.header_offset)
    head = stream.read(30)
    if head[:4] != b"PK\x03\x04":
        raise ValueError(member.filename)
    name, extra = struct.unpack("<HH", head[26:30])
    return member.header_offset + 30 + name + extra, member.file_size


def _bare(path: Path, stream: IO[bytes]) -> TorchFile:
    """Torch's older layout, pickles and then the storages one after another, or any other pickle."""
    limited = Limited(stream)
    first = unpickled(path, limited)
    if first != _MAGIC:
        return TorchFile(path, first, {})
    _protocol, system = unpickled(path, limited), unpickled(path, limited)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise ValueError("little_endian")
    held: dict[str, int] = {}
    content = unpickled(path, limited, held)
    keys = unpickled(path, limited)
    places = {}
    for key in keys:
        (count,) = struct.unpack("<q", stream.read(8))
        length = count * held[key]
        if length < 0:
            raise ValueError(f"{key}: {count:,}")
        places[key] = (stream.tell(), length)
        stream.seek(length, 1)
    return TorchFile(path, content, places)
