"""Weight files opened by what is in them, not by their names: header first, tensors on demand, never a running pickle.

Knows the containers (safetensors, torch pickles) and how to name a file that is something else; knows no family.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsuika.core.errors import ModelError
from tsuika.core.files import whole

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_MAX_HEADER = 100_000_000  # bytes; the safetensors reader's own limit
_PICKLE = b"\x80"

# A file that is no weights at all, by its first bytes.
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"GGUF", "a GGUF file (quantised weights of another program)"),
    (b"version https://git-lfs", "a Git LFS pointer: the real file was not downloaded (git lfs pull)"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"RIFF", "a WebP picture or a sound"),
    (b"%PDF", "a PDF"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
)

# Weights that are not a whole Stable Diffusion, by a piece of a tensor name. The first match names the file.
_KINDS: tuple[tuple[str, str], ...] = (
    (r"^lora_(unet|te\d?)_|\.lora_(up|down|A|B)\.|\.lora\.(up|down)\.|\.(hada|lokr)_w1|\.oft_(blocks|diag)", "a LoRA"),
    (r"^control_model\.|^controlnet_cond_embedding|^input_hint_block", "a ControlNet"),
    (r"^(emb_params|string_to_param\.|clip_[lg]$)", "a Textual Inversion embedding"),
    (r"(^|\.)double_blocks\.\d|(^|\.)single_blocks\.\d", "a Flux model"),
    (r"(^|\.)joint_blocks\.\d", "a Stable Diffusion 3 model"),
    (r"^conditioner\.embedders\.0\.model\.", "the SDXL refiner"),
    (r"^(edm_mean|edm_std|edm_vpred\.)", "an SDXL made for EDM sampling (Playground, CosXL)"),
    (r"^(down_blocks|up_blocks|mid_block)\.", "a UNet alone, in diffusers layout"),
    (r"^(first_stage_model\.)?(encoder|decoder)\.(down|up|mid|conv_in)", "a VAE"),
    (r"^(text_model|encoder\.layers|embeddings\.token_embedding)\b", "a text encoder alone"),
)  # fmt: skip
_UNET = "model.diffusion_model."


@dataclass(frozen=True)
class Weights:
    """An opened file of tensors: names, shapes and text metadata are known; a tensor is read when asked for."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    tensor: Callable[[str], Tensor]

    def starts(self, prefix: str) -> bool:
        """Whether any tensor's name begins so."""
        return any(name.startswith(prefix) for name in self.shapes)

    def names(self, prefix: str) -> list[str]:
        """The tensors whose names begin so."""
        return [name for name in self.shapes if name.startswith(prefix)]


def open_weights(path: Path) -> Weights:
    """Open a weight file by its content.

    Raises:
        ModelError: not there (MD001), not weights (MD002), damaged (MD003), a pickle with code in it (MD005).
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise ModelError("MD001", where=path, why=f"It cannot be read: {error.strerror}.") from None
    if size == 0:
        raise ModelError("MD003", where=path, why="The file is empty (0 bytes).")
    if len(head) > 8 and head[8:9] == b"{":  # first: a safetensors header of 128 bytes begins as a pickle does
        return _open_safetensors(path, size)
    if head.startswith(b"PK\x03\x04") or head.startswith(_PICKLE):
        return _open_pickle(path)
    raise ModelError("MD002", where=path, found=_name_bytes(head))


def _name_bytes(head: bytes) -> str:
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        return "a web page: an error page was saved instead of the model"
    if text.startswith((b"{", b"[")):
        return "a JSON text"
    return f"data of an unknown kind, beginning with {head[:8].hex(' ')}"


def _open_safetensors(path: Path, size: int) -> Weights:
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(size - 8, _MAX_HEADER):
            why = f"Its header should be {length:,} bytes long, but the whole file has {size:,}."
            raise ModelError("MD003", where=path, why=why)
        raw = stream.read(length)
    try:
        header: dict[str, Any] = json.loads(raw)
        metadata = {str(key): str(value) for key, value in header.pop("__metadata__", {}).items()}
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelError("MD003", where=path, why=f"Its safetensors header cannot be read: {error}.") from None
    if (needed := 8 + length + end) != size:
        why = f"It should be {needed:,} bytes long and has {size:,}."
        raise ModelError("MD003", where=path, why=why)
    try:
        handle = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ModelError("MD003", where=path, why=f"{error}.") from None
    return Weights(path, shapes, metadata, handle.get_tensor)


def load_pickle(path: Path) -> Any:
    """What a torch file holds: tensors and plain values only; nothing in it is ever run.

    Raises:
        ModelError: damaged (MD003), a pickle that asks for more than that (MD005).
    """
    import torch

    # The old, not zipped layout cannot be mapped into memory; and of a path, torch takes the name for the content.
    mapped = zipfile.is_zipfile(path) and path.suffix.lower() != ".safetensors"
    try:
        with path.open("rb") as stream:
            return torch.load(path if mapped else stream, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL\s+(\S+)", str(error)) or re.search(
            r"(?:type|class|function)\s+['\"]?([\w.]+)", str(error)
        )
        names = found.group(1) if found else "something that is not a tensor"
        raise ModelError("MD005", where=path, why=f"The pickle asks for: {names}. Nothing of it was run.") from None
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        IndexError,
        OSError,
        AssertionError,
        TypeError,
        struct.error,
        zipfile.BadZipFile,
    ) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError("MD003", where=path, why=f"It is no complete torch file: {line}.") from None


def is_pickle(path: Path) -> bool:
    """Whether a file begins as torch's pickles do, zipped or not (and not as safetensors, whose length may look so)."""
    with path.open("rb") as stream:
        head = stream.read(9)
    return head.startswith((b"PK\x03\x04", _PICKLE)) and head[8:] != b"{"


_MEMBERS = re.compile(r"[^/]+/(data\.pkl|version|data/\d+)")  # of a torch file: what every A1111 lets pass


def save_pickle(content: Any, path: Path) -> None:
    """Write tensors and plain values as a torch file that old and new programs open, whole or not at all.

    The same content gives the same bytes. A1111's guard refuses a file with the members that torch adds today
    (`.format_version`, `.storage_alignment`, ...), and torch's old layout has memory addresses in it.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    with (
        zipfile.ZipFile(buffer) as full, whole(path) as temporary, zipfile.ZipFile(temporary, "w") as bare,
    ):  # fmt: skip
        for name in filter(_MEMBERS.fullmatch, full.namelist()):
            bare.writestr(zipfile.ZipInfo(name), full.read(name))  # dated 1980, not compressed


def _open_pickle(path: Path) -> Weights:
    import torch

    content = load_pickle(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors = (
        {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, dict) else {}
    )
    if not tensors:
        raise ModelError("MD002", where=path, found=f"a pickle without tensors ({type(content).__name__})")
    return Weights(path, {name: tuple(value.shape) for name, value in tensors.items()}, {}, tensors.__getitem__)


def open_folder(folder: Path, stem: str) -> Weights:
    """The weights of one diffusers or transformers component, in one file or sharded; safetensors before pickles.

    Args:
        folder: The component's folder.
        stem: `diffusion_pytorch_model` or `model`.

    Raises:
        ModelError: none there (MD003), or as `open_weights`.
    """
    pickled = "pytorch_model" if stem == "model" else stem
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors", f"{pickled}.bin", f"{pickled}.fp16.bin"):
        if (folder / name).is_file():
            return open_weights(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _open_shards(index)
    raise ModelError("MD003", where=folder, why=f"There is no {stem}.safetensors in it.")


def _open_shards(index: Path) -> Weights:
    places: dict[str, str] = read_json(index).get("weight_map", {})
    parts = {name: open_weights(index.with_name(name)) for name in sorted(set(places.values()))}
    owner = {tensor: parts[name] for tensor, name in places.items()}
    if lost := [tensor for tensor, part in owner.items() if tensor not in part.shapes]:
        raise ModelError("MD003", where=index, why=f"Tensors are not in the part that should hold them: {few(lost)}.")
    shapes = {tensor: part.shapes[tensor] for tensor, part in owner.items()}
    return Weights(index, shapes, {}, lambda name: owner[name].tensor(name))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        ModelError: not there or no JSON object (MD003).
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError("MD003", where=path, why=f"It cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ModelError("MD003", where=path, why=f"It is no JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ModelError("MD003", where=path, why=f"It holds a JSON {type(value).__name__}, not an object.")
    return value


def describe(weights: Weights) -> str:
    """What a file of tensors is, in words, for an error message."""
    names = list(weights.shapes)
    for pattern, kind in _KINDS:
        if any(re.search(pattern, name) for name in names) and not (kind == "a VAE" and weights.starts(_UNET)):
            return kind
    channels = weights.shapes.get(f"{_UNET}input_blocks.0.0.weight", (0, 4))[1]
    if channels != 4:
        return f"a model with {channels} input channels (inpainting, depth or editing), where 4 are expected"
    if weights.starts(_UNET):
        return "a UNet without a text encoder that tsuika knows"
    return f"{len(names)} tensors of no known kind: {few(names)}"


def few(names: Iterable[str], count: int = 3) -> str:
    """The first few names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
