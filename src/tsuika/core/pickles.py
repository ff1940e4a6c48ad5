"""Pickles, read without running anything that is in them: every name stands for one of a few makers of plain values, or for a
class that holds nothing. What a pickle says of tensors (storage, number type, shape) is kept, and checked by who reads them."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, Final

from tsuika.core.errors import ModelError
from tsuika.core.safetensors import BITS, TORCH_NAMES
from tsuika.core.texts import _

MAX_PICKLE_BYTES: Final = 1 << 24  # of the pickle without its numbers; that of SDXL with its optimizer's state has 4 MB
_MAX_COUNT: Final = 1 << 62
_MAX_COPIED: Final = 64  # what a call may copy: the bytes of a number, the sizes of a tensor
# Source: torch/serialization.py.
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


@dataclass(frozen=True)
class Stored:
    """A tensor as the pickle describes it. Nothing of it is checked before it is read."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any
    dtype: Any


@dataclass(frozen=True)
class Storage:
    """Where the numbers of tensors lie, as the pickle names it: by a key of the file, and how many bytes."""

    dtype: str
    key: str
    bytes: int
    begin: int = 0  # in the storage of this key: of a view


def width(dtype: str) -> int:
    """Bytes of a number."""
    return BITS[dtype] // 8


class Limited:
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


def unpickled(path: Path, stream: Any, held: dict[str, int] | None = None) -> Any:
    """What the next pickle in a stream holds: plain values, with a `Stored` for each tensor and a `StandIn` for all else.

    Args:
        path: the file, for the error.
        stream: at the pickle's first byte; behind its last one afterwards.
        held: gets the bytes of a number of each storage that is named.

    Raises:
        ModelError: MD005, the pickle names programs.
        Exception: whatever a pickle that is not whole leads to.
    """
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
    return Stored(storage, offset, shape, stride, storage.dtype) if isinstance(storage, Storage) else StandIn()


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

    def persistent_load(self, identity: Any) -> Storage:
        """A storage of numbers, as torch names them. Source: torch/serialization.py."""
        kind, named, key, _place, count, *view = identity
        if kind != "storage" or not isinstance(named, _Named) or not isinstance(key, str):
            raise ValueError("storage")
        size = width(named.dtype)
        self._held[key] = size
        if not (view and view[0]):
            return Storage(named.dtype, key, _whole(count) * size)
        _key, offset, length = view[0]
        return Storage(named.dtype, key, _whole(length) * size, _whole(offset) * size)

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
    if not is_whole(count):
        raise ValueError("count")
    return int(count)


def is_whole(count: object) -> bool:
    """Whether it is a number that can count something."""
    return type(count) is int and 0 <= count < _MAX_COUNT
