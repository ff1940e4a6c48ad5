"""Weight files opened by what is in them, not by their names: header first, tensors on demand, never a running pickle.
Knows the containers (safetensors, torch pickles) and how to name a file that is something else; knows no family."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import finite, kinds, pickles, safetensors, torch_files
from tsuika.core.errors import FormatError, ModelError, outer_cause
from tsuika.core.files import whole
from tsuika.core.plain import parsed
from tsuika.core.texts import Text, _, few

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT_SUFFIXES: Final = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
# Under which programs keep a model's weights beside other things, the likeliest first; one may lie in another.
_WRAPPERS: Final = (
    *("state_dict", "model_state_dict", "model", "module", "generator", "params_ema", "params", "net", "weights"),
    *("state_dict_ema", "model_ema", "ema"),
)
_DEEPEST: Final = 4
# Of embeddings, where the name of the table says what its tensors are.
_OWN_TABLES: Final = frozenset({"string_to_param", "string_to_token"})
# `torch.nn.DataParallel` and `torch.compile`, around a model or a part of it.
_WRAPPED: Final = re.compile(r"(^|\.)(?:module\.|_orig_mod\.)+")
UNET_PREFIX: Final = kinds.UNET_PREFIX
VAE_PREFIXES: Final = ("first_stage_model.", "vae.", "")  # of a VAE: in a checkpoint, in a diffusers pickle, alone


@dataclass(frozen=True)
class Weights:
    """An opened file of tensors: names, shapes and text metadata are known; a tensor is read when asked for."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    raw: Callable[[str], Tensor]  # a tensor as it is in the file, unchecked
    dtypes: Mapping[str, str] = field(default_factory=dict)  # safetensors' names: `F16`
    is_renamed: bool = False  # the names in the file are longer, by what some program has wrapped the model in

    def tensor(self, name: str) -> Tensor:
        """A tensor whose values are all finite. Raises FormatError: some are not (MD011)."""
        return finite.checked(self.path, name, self.raw(name))

    def starts(self, prefix: str) -> bool:
        """Whether any tensor's name begins so."""
        return any(name.startswith(prefix) for name in self.shapes)

    def names(self, prefix: str) -> list[str]:
        """The tensors whose names begin so."""
        return [name for name in self.shapes if name.startswith(prefix)]

    def load(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {name: self.tensor(name) for name in self.shapes}

    def renamed(self, names: Mapping[str, str]) -> Weights:
        """The same tensors under other names, given by their present ones; as they are where two would have one name."""
        stored = {new: old for old, new in names.items()}
        if len(stored) < len(names) or all(new == old for new, old in stored.items()):
            return self
        return replace(
            self,
            shapes={new: self.shapes[old] for new, old in stored.items()},
            dtypes={new: self.dtypes[old] for new, old in stored.items()},
            raw=lambda new: self.raw(stored[new]),
            is_renamed=True,
        )

    @property
    def kind(self) -> kinds.Kind:
        """What is in it."""
        return kinds.of_tensors(self.shapes)

    @property
    def vae_prefix(self) -> str | None:
        """What stands before the names of a VAE in the file; None where there is none."""
        return next((prefix for prefix in VAE_PREFIXES if self.starts(f"{prefix}decoder.")), None)


def open_weights(path: Path) -> Weights:
    """Open a weight file by its content. Raises ModelError: not there (MD001), not weights (MD002), damaged (MD003), a
    pickle with code in it (MD005); ResourceError: the system cannot read it."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        # Reading a pipe or a device may never come to an end.
        raise kinds.unlike(path, kinds.other(_("a pipe or a device")), kinds.WEIGHTS)
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ModelError("MD001", where=path, why=_unreadable(error)) from None
    except OSError as error:
        raise outer_cause(error, where=path) or error from None
    if not head:
        raise FormatError("MD003", where=path, why=_("The file is empty (0 bytes)."))
    if len(head) > 8 and head[8:9] == b"{":  # first: a safetensors header of 128 bytes begins as a pickle does
        return open_safetensors(path)
    if safetensors.is_pickle_head(head):
        return _open_pickle(path)
    raise kinds.unlike(path, kinds.of_bytes(head), kinds.WEIGHTS)


def _unreadable(error: OSError) -> Text:
    return _("It cannot be read: {reason}.", reason=error.strerror)


def open_safetensors(path: Path) -> Weights:
    """A safetensors file, its header checked; a tensor is read when asked for. Raises
    FormatError: not there (FM004), damaged or something else (MD003), a pickle (MD005)."""
    header = safetensors.read_header(path)
    read = partial(safetensors.read_tensor, path, header)
    return _unwrapped(Weights(path, header.shapes, header.metadata, read, header.dtypes))


def load_pickle(path: Path) -> Any:
    """What a torch file or a plain pickle holds: tensors, all finite, and plain values; nothing in it is ever run.
    Objects of any other class are None. Raises ModelError: damaged (MD003), a pickle that names programs (MD005), NaN
    or infinite values (MD011)."""
    opened = torch_files.open_torch(path)
    try:
        return _filled(opened, opened.content, (), {})
    except RecursionError as error:
        raise torch_files.broken(path, error) from None


def _filled(opened: torch_files.TorchFile, value: Any, names: tuple[str, ...], seen: dict[int, Any]) -> Any:
    """A value with its tensors; what is there several times is made once."""
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, pickles.Stored):
        made = finite.checked(opened.path, ".".join(names), opened.tensor(value))
        return seen.setdefault(id(value), made)
    if isinstance(value, dict):
        table = seen[id(value)] = {}
        table |= {key: _filled(opened, one, (*names, str(key)), seen) for key, one in value.items()}
        return table
    if isinstance(value, list | tuple):
        items: list[Any] = []
        seen[id(value)] = items
        items += [_filled(opened, one, (*names, str(number)), seen) for number, one in enumerate(value)]
        seen[id(value)] = items if isinstance(value, list) else tuple(items)
        return seen[id(value)]
    return None if isinstance(value, pickles.StandIn | type) else value


def is_pickle(path: Path) -> bool:
    """Whether a file begins as torch's pickles do, zipped or not (and not as safetensors, whose length may look so)."""
    with path.open("rb") as stream:
        return safetensors.is_pickle_head(stream.read(9))


_MEMBERS = re.compile(r"[^/]+/(data\.pkl|version|data/\d+)")  # of a torch file: what every A1111 lets pass


def save_pickle(content: Any, path: Path) -> None:
    """Write tensors and plain values as a torch file that old and new programs open, whole or not at all. The same
    content gives the same bytes. A1111's guard refuses a file with the members that torch adds today
    (`.format_version`, `.storage_alignment`, ...), and torch's old layout has memory addresses in it."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as full, whole(path) as temporary, zipfile.ZipFile(temporary, "w") as bare:
        for name in filter(_MEMBERS.fullmatch, full.namelist()):
            bare.writestr(zipfile.ZipInfo(name), full.read(name))  # dated 1980, not compressed


def _open_pickle(path: Path) -> Weights:
    opened = torch_files.open_torch(path)
    # A bare list's tensors go by their numbers.
    content = dict(enumerate(opened.content)) if isinstance(opened.content, list) else opened.content
    tensors = {str(name): one for name, one in _table_of(content).items() if isinstance(one, pickles.Stored)}
    if not tensors:
        kind = type(opened.content).__name__
        raise kinds.unlike(path, kinds.other(_("a pickle without tensors ({kind})", kind=kind)), kinds.WEIGHTS)
    for name, one in tensors.items():
        if not safetensors.is_shape(one.shape) or one.dtype not in safetensors.TORCH_NAMES:
            raise safetensors.damaged(path, _("tensor `{name}` has an impossible shape or place", name=name))
    return _unwrapped(
        Weights(
            path,
            {name: tuple(one.shape) for name, one in tensors.items()},
            {},
            lambda name: opened.tensor(tensors[name]),
            {name: one.dtype for name, one in tensors.items()},
        )
    )


def _table_of(content: Any) -> dict[Any, Any]:
    """The tensors by name, which programs wrap in tables of other things; `{}` where there are none."""
    for _depth in range(_DEEPEST):
        if not isinstance(content, dict):
            return {}
        inner = {name: one for name, one in content.items() if isinstance(one, dict) and _holds_tensors(one)}
        named = next((inner[name] for name in _WRAPPERS if name in inner), None)
        is_table = any(isinstance(one, pickles.Stored) for one in content.values())
        if named is None and len(inner) == 1 and not is_table and not inner.keys() & _OWN_TABLES:
            (named,) = inner.values()
        if named is None:
            return content if is_table else dict(_flat(content, ()))
        content = named
    return {}


def _flat(content: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(content, pickles.Stored):
        yield ".".join(names), content
    elif len(names) < _DEEPEST and isinstance(content, dict | list | tuple):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        for name, one in pairs:
            yield from _flat(one, (*names, str(name)))


def _holds_tensors(table: dict[Any, Any], depth: int = 0) -> bool:
    values = table.values()
    if any(isinstance(one, pickles.Stored) for one in values):
        return True
    return depth < _DEEPEST and any(isinstance(one, dict) and _holds_tensors(one, depth + 1) for one in values)


def _unwrapped(weights: Weights) -> Weights:
    """The same tensors under the names that they have without the wrappers of `torch.nn.DataParallel` and its kin."""
    inner = {name: _WRAPPED.sub(r"\1", name) for name in weights.shapes}
    while inner and all(name.startswith("state_dict.") for name in inner.values()):
        inner = {name: short.removeprefix("state_dict.") for name, short in inner.items()}
    if any(short.startswith(f"model.{UNET_PREFIX}") for short in inner.values()):
        inner = {name: short.removeprefix("model.") for name, short in inner.items()}
    return weights.renamed(inner)


def open_folder(folder: Path, stem: str) -> Weights:
    """The weights of one diffusers or transformers component, in one file or sharded; safetensors before pickles.
    `stem` is `diffusion_pytorch_model` or `model`. Raises ModelError: none there (MD003), or as `open_weights`."""
    pickled = "pytorch_model" if stem == "model" else stem
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors", f"{pickled}.bin", f"{pickled}.fp16.bin"):
        if (folder / name).is_file():
            return open_weights(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _open_shards(index)
    raise ModelError("MD003", where=folder, why=_("There is no {file} in it.", file=f"{stem}.safetensors"))


def _open_shards(index: Path) -> Weights:
    places = read_json(index).get("weight_map", {})
    if not isinstance(places, dict) or not all(map(_is_beside, places.values())):
        why = _("Its `weight_map` is no table of tensors and the files beside it that hold them.")
        raise ModelError("MD003", where=index, why=why)
    parts = {name: open_weights(index.with_name(name)) for name in sorted(set(places.values()))}
    owner = {tensor: parts[name] for tensor, name in places.items()}
    if lost := [tensor for tensor, part in owner.items() if tensor not in part.shapes]:
        why = _("Tensors are not in the part that should hold them: {names}.", names=few(lost))
        raise ModelError("MD003", where=index, why=why)
    shapes = {tensor: part.shapes[tensor] for tensor, part in owner.items()}
    dtypes = {tensor: part.dtypes[tensor] for tensor, part in owner.items()}
    return Weights(index, shapes, {}, lambda name: owner[name].raw(name), dtypes)


def _is_beside(name: object) -> bool:
    """Whether it is a file's plain name, which leads nowhere else."""
    return isinstance(name, str) and name.isprintable() and name not in ("", "..") and Path(name).name == name


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file. Raises ModelError: not there or no JSON object (MD003)."""
    try:
        value = parsed(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError("MD003", where=path, why=_unreadable(error)) from None
    except ValueError as error:
        raise ModelError("MD003", where=path, why=_("It is no JSON: {error}.", error=error)) from None
    if not isinstance(value, dict):
        why = _("It holds a JSON {kind}, not an object.", kind=type(value).__name__)
        raise ModelError("MD003", where=path, why=why)
    return value
