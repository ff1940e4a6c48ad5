"""PyTorch's files (zipped, and the older layout) and plain pickles, read without running anything that is in them: every
name in a pickle stands for one of a few makers of plain values, or for a class that holds nothing. What it says of
tensors (place, number type, shape) is kept, and their numbers are read when asked for; until then without torch."""

from __future__ import annotations

import math
import pickle
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Final

from tsuika.core import kinds
from tsuika.core.errors import ModelError
from tsuika.core.safetensors import BITS, TORCH_NAMES, is_shape
from tsuika.core.texts import _

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

MAX_PICKLE_BYTES: Final = 1 << 24  # of the pickle without its numbers; that of SDXL with its optimizer's state has 4 MB
# Torch does not compress, and weights hardly can be: a member that shrinks more is made to fill the memory.
_MAX_RATIO: Final = 20
_MAX_COUNT: Final = 1 << 62
_MAX_COPIED: Final = 64  # what a call may copy: the bytes of a number, the sizes of a tensor
# Source: torch/serialization.py.
_MAGIC: Final = 0x1950A86A20F9469CFC6C
_STORAGES: Final = (
    {"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16"}
    | {"LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8"}
    | {"ByteStorage": "U8", "BoolStorage": "BOOL", "ComplexFloatStorage": "C64", "UntypedStorage": "U8"}
)
# Of the standard library, what files name that hold settings beside weights; nothing else there belongs into weights.
_PLAIN_MODULES: Final = {
    *("collections", "datetime", "pathlib", "argparse", "enum", "uuid", "decimal", "fractions", "typing", "logging"),
    *("dataclasses", "abc", "random", "numbers", "re"),
}
_PLAIN_NAMES: Final = {
    *("set", "frozenset", "list", "dict", "tuple", "object", "int", "float", "bool", "str", "bytes", "bytearray"),
    *("complex", "slice", "range", "SimpleNamespace", "partial", "deque", "datetime", "date", "time", "timedelta"),
    *("timezone", "_compile", "getLogger"),
}
# What can go wrong in a file that is not whole, or is made to fail; all of it means just that.
_BROKEN: Final = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, AssertionError),
)


@dataclass(frozen=True)
class Stored:
    """A tensor as the pickle describes it. Nothing of it is checked before it is read."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any
    dtype: Any


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    bytes: int
    begin: int = 0  # in the storage of this key: of a view


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
            if not (is_shape(shape) and all(map(_is_whole, (*stride, offset)))):
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

    def _bytes(self, storage: _Storage, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
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


def width(dtype: str) -> int:
    """Bytes of a number."""
    return BITS[dtype] // 8


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
        content = _unpickled(path, BytesIO(archive.read(head)))
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
    limited = _Limited(stream)
    first = _unpickled(path, limited)
    if first != _MAGIC:
        return TorchFile(path, first, {})
    _protocol, system = _unpickled(path, limited), _unpickled(path, limited)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise ValueError("little_endian")
    held: dict[str, int] = {}
    content = _unpickled(path, limited, held)
    keys = _unpickled(path, limited)
    places = {}
    for key in keys:
        (count,) = struct.unpack("<q", stream.read(8))
        length = count * held[key]
        if length < 0:
            raise ValueError(f"{key}: {count:,}")
        places[key] = (stream.tell(), length)
        stream.seek(length, 1)
    return TorchFile(path, content, places)


class _Limited:
    """A file of which only so many bytes are given out: a pickle is small, and one that is not fills the memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._left = stream, MAX_PICKLE_BYTES

    def _take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise pickle.UnpicklingError(f"> {MAX_PICKLE_BYTES:,}")

    def read(self, count: int) -> bytes:
        self._take(count)
        return self._stream.read(count)

    def readline(self) -> bytes:
        line = self._stream.readline(self._left + 1)
        self._take(len(line))
        return line


def _unpickled(path: Path, stream: Any, held: dict[str, int] | None = None) -> Any:
    return _Unpickler(path, stream, {} if held is None else held).load()


class _Fixed:
    """What a pickle can give no attributes."""

    __slots__ = ()

    def __setstate__(self, state: object = None) -> None:
        """Keeps nothing."""


class StandIn(_Fixed):
    """In the place of an object of a class that is none of ours: takes anything, keeps nothing."""

    __slots__ = ()

    def __new__(cls, *arguments: object, **named: object) -> StandIn:
        return super().__new__(cls)

    def _nothing(self, *arguments: object) -> None:
        """Keeps nothing."""

    __setitem__ = append = extend = add = update = _nothing


class _Table(_Fixed, dict[Any, Any]):
    """A dictionary that may come with attributes, as OrderedDict and its kin do; they are dropped."""


class _Parameters(_Table):
    """`torch.nn.ParameterDict`, in which first Textual Inversion files keep their vectors: a module's parameters."""

    def __init__(self, *arguments: object) -> None:
        super().__init__()

    def __setstate__(self, state: object = None) -> None:
        parameters = state.get("_parameters") if isinstance(state, dict) else None
        if isinstance(parameters, dict):
            self.update(parameters)


class _Maker(_Fixed):
    """What a name in a pickle stands for that is called there: a function of ours, made anew for each file."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)


@dataclass
class _Named(_Fixed):
    """A number type or a type of storage, by safetensors' name of the number type."""

    dtype: str


class _NumpyType:
    """`numpy.dtype`, of plain numbers only."""

    def __init__(self, code: object = "", *flags: object) -> None:
        self._code = code if isinstance(code, str) and re.fullmatch(r"[biuf][1248]", code) else ""
        self._order = "<"

    def __setstate__(self, state: object = None) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|"):
            self._order = state[1]

    def number(self, raw: object) -> Any:
        """The number in these bytes; None where it is none."""
        if not self._code or not isinstance(raw, bytes) or len(raw) != int(self._code[1]):
            return None
        import numpy as np

        return np.frombuffer(raw, self._order + self._code)[0].item()


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_more: Any) -> Stored | StandIn:
    # Python's own pickles have a file of torch in the place of a storage.
    return Stored(storage, offset, shape, stride, storage.dtype) if isinstance(storage, _Storage) else StandIn()


def _tensor_of_type(storage: Any, offset: Any, shape: Any, stride: Any, *more: Any) -> Stored:
    _gradient, _hooks, named = more[:3]
    return Stored(storage, offset, shape, stride, named.dtype)


def _from_type(make: Any, kind: Any, arguments: Any, *_state: Any) -> Any:
    return make(*arguments) if isinstance(make, _Maker) else StandIn()


def _bytes_of(text: Any, encoding: Any = "latin1") -> Any:
    is_number = isinstance(text, str) and len(text) <= _MAX_COPIED and encoding == "latin1"
    return text.encode("latin1") if is_number else StandIn()


def _sizes(sizes: Any = ()) -> tuple[Any, ...]:
    return tuple(sizes) if isinstance(sizes, list | tuple) and len(sizes) <= _MAX_COPIED else ()


def _object_of(kind: Any, *_more: Any) -> Any:
    return kind() if kind in (StandIn, _Parameters) else StandIn()


def _scalar(kind: Any, raw: Any = None) -> Any:
    return kind.number(raw) if isinstance(kind, _NumpyType) else None


_MAKERS: Final[Mapping[str, Callable[..., Any]]] = {
    **dict.fromkeys(("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"), _tensor),
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": lambda tensor, *_more: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_more: tensor,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.Size": _sizes,
    "collections.OrderedDict": lambda *_items: _Table(),  # the items come after it
    "collections.defaultdict": lambda *_factory: _Table(),
    "_codecs.encode": _bytes_of,
    "copyreg._reconstructor": _object_of,
    "copy_reg._reconstructor": _object_of,
    "numpy.dtype": _NumpyType,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}


class _Unpickler(pickle._Unpickler):
    """Python's own stack machine, the one written in Python: its memo cannot be made to fill the memory. Keys are texts
    and whole numbers, and there are no sets: to hash what is nested a million deep ends the program."""

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, path: Path, stream: Any, held: dict[str, int]) -> None:
        super().__init__(stream, encoding="utf-8", errors="replace")
        self._path, self._held = path, held

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for here; never what it names. Raises ModelError: it names a part of Python that runs
        something (MD005)."""
        full = f"{module}.{name}"
        if full in _MAKERS:
            return _Maker(_MAKERS[full])
        if full == "torch.nn.modules.container.ParameterDict":
            return _Parameters
        root = module.partition(".")[0]
        if root == "torch" and name in _STORAGES:
            return _Named(_STORAGES[name])
        if module == "torch" and name in TORCH_NAMES.values():
            return _Named(next(ours for ours, theirs in TORCH_NAMES.items() if theirs == name))
        is_python = root in sys.stdlib_module_names or root in ("__builtin__", "copy_reg")
        is_class = root in _PLAIN_MODULES and name.isidentifier() and name[0].isupper()
        if is_python and not is_class and name not in _PLAIN_NAMES:
            why = _("The pickle asks for: {asked}. Nothing of it was run.", asked=full[:200])
            raise ModelError("MD005", where=self._path, why=why)
        return StandIn

    def persistent_load(self, identity: Any) -> _Storage:
        """A storage of numbers, as torch names them. Source: torch/serialization.py."""
        kind, named, key, _place, count, *view = identity
        if kind != "storage" or not isinstance(named, _Named) or not isinstance(key, str):
            raise ValueError("storage")
        size = width(named.dtype)
        self._held[key] = size
        if not (view and view[0]):
            return _Storage(named.dtype, key, _whole(count) * size)
        _key, offset, length = view[0]
        return _Storage(named.dtype, key, _whole(length) * size, _whole(offset) * size)

    def _set(self, table: Any, items: list[Any]) -> None:
        if isinstance(table, dict):
            keys, values = items[::2], items[1::2]
            table |= {key: one for key, one in zip(keys, values, strict=True) if type(key) in (str, int)}

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [key, value])

    def _load_setitems(self) -> None:
        items = self.pop_mark()
        self._set(self.stack[-1], items)

    def _load_dict(self) -> None:
        items = self.pop_mark()
        table: dict[Any, Any] = {}
        self._set(table, items)
        self.append(table)

    def _load_frozenset(self) -> None:
        self.pop_mark()
        self.append(StandIn())

    # Without bytearrays, for which Python takes the memory before it reads.
    dispatch: ClassVar[dict[int, Any]] = {
        **{code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]},
        pickle.SETITEM[0]: _load_setitem,
        pickle.SETITEMS[0]: _load_setitems,
        pickle.DICT[0]: _load_dict,
        pickle.EMPTY_SET[0]: lambda self: self.append(StandIn()),
        pickle.ADDITEMS[0]: lambda self: self.pop_mark(),
        pickle.FROZENSET[0]: _load_frozenset,
    }


def _whole(count: Any) -> int:
    if not _is_whole(count):
        raise ValueError("count")
    return int(count)


def _is_whole(count: object) -> bool:
    return type(count) is int and 0 <= count < _MAX_COUNT
