"""What the file formats share: the safetensors header, writing, canonical names, facts of a run, guessing the family.

Knows no key layout of any program; those live in the format files.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import files
from tsuika.core.errors import FormatError
from tsuika.core.types import Artifact

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

PARTS: Final = (
    "lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale",
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
)  # fmt: skip
COMPONENTS: Final = ("unet", "text_encoder", "text_encoder_2")
UNREAD: Final = "unread_keys"  # Artifact.metadata: JSON list of keys in the file that were not understood
FAMILY_FROM: Final = "family_from"  # Artifact.metadata: "metadata" | "shapes" | "default" (no evidence: sd1 assumed)
NOTES_OF_READING: Final = (UNREAD, FAMILY_FROM)


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
            raise _damaged(path, f"it has only {size} bytes")
        length = int.from_bytes(first[:8], "little")
        if first[8:9] != b"{" and size > 8:
            raise _damaged(
                path, f"not safetensors: the header does not begin with `{{` (first bytes {first[:16].hex(' ')})"
            )
        if length > _MAX_HEADER_BYTES or length < 2:
            raise _damaged(path, f"a header of {length} bytes is declared")
        if 8 + length > size:
            raise _damaged(path, f"cut off in the header: it needs {8 + length} bytes, the file has {size}")
        stream.seek(8)
        raw = stream.read(length)
    try:
        table = json.loads(raw)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise _damaged(path, f"the header is not JSON ({error})") from None
    if not isinstance(table, dict):
        raise _damaged(path, "the header is not a table")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "the metadata is not a table of strings")
    tensors = {name: _tensor_info(path, name, entry) for name, entry in table.items()}
    _check_layout(path, tensors, size - 8 - length)
    return Header(metadata, tensors, 8 + length)


def _damaged(path: Path, why: str) -> FormatError:
    return FormatError("MD003", where=path, why=f"Found: {why}.")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tensor_info(path: Path, name: str, entry: Any) -> TensorInfo:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise _damaged(path, f"the entry of tensor `{name}` is not complete") from None
    if not isinstance(dtype, str) or dtype not in _ITEM_BITS:
        raise _damaged(path, f"tensor `{name}` has the unknown number type {dtype!r}")
    if not isinstance(shape, list) or not all(map(_is_size, [*shape, start, end])):
        raise _damaged(path, f"tensor `{name}` has an impossible shape or place")
    if end < start or (end - start) * 8 != math.prod(shape) * _ITEM_BITS[dtype]:
        raise _damaged(path, f"tensor `{name}` has {end - start} bytes, which does not fit {dtype} {shape}")
    return TensorInfo(dtype, tuple(shape), start, end)


def _check_layout(path: Path, tensors: Mapping[str, TensorInfo], data_bytes: int) -> None:
    place = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != place:
            raise _damaged(path, f"tensor `{name}` begins at byte {info.start} of the data instead of {place}")
        place = info.end
    if place > data_bytes:
        raise _damaged(path, f"cut off: the tensors need {place} bytes, the file has {data_bytes}")
    if place < data_bytes:
        raise _damaged(path, f"{data_bytes - place} bytes after the last tensor belong to nothing")


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
        raise _damaged(path, str(error)) from None


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


def split_name(name: str) -> tuple[str, str, str] | None:
    """`unet.mid_block.attentions.0.proj_in.alpha` to (component, path, part); None if it is not a canonical name."""
    component, _, rest = name.partition(".")
    for part in PARTS:
        path = rest.removesuffix(f".{part}")
        if component in COMPONENTS and path != rest and path:
            return component, path, part
    return None


def layers(artifact: Artifact, format_name: str) -> dict[tuple[str, str], dict[str, Tensor]]:
    """The artifact's tensors by (component, path), then by part, sorted.

    Raises:
        FormatError: not a LoRA, or with tensors that are no part of one (FM002).
    """
    if artifact.method != "lora":
        why = f"It is of method `{artifact.method}`, and this format is for LoRA."
        raise FormatError("FM002", format=format_name, why=why, do="Choose another format.")
    result: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, tensor in sorted(artifact.tensors.items()):
        split = split_name(name)
        if split is None:
            why = f"`{name}` is no part that this format knows (OFT, for instance, is not)."
            raise FormatError("FM002", format=format_name, why=why, do="Train with adapter lora, loha, lokr or dora.")
        component, path, part = split
        result.setdefault((component, path), {})[part] = tensor
    for (component, path), parts in result.items():
        if ("lora_down.weight" in parts) != ("lora_up.weight" in parts) or not parts.keys() - {"alpha", "dora_scale"}:
            why = f"`{component}.{path}` has only {', '.join(parts)}."
            raise FormatError("FM002", format=format_name, why=why, do="Give whole layers.")
    return result


def check_shapes(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse what no program could apply.

    Raises:
        FormatError: MD003, a matrix is not one, an alpha is not one number, down and up do not fit together.
    """
    for name, tensor in tensors.items():
        if name.endswith(".alpha"):
            fits = tensor.numel() == 1
        else:
            fits = name.endswith(".dora_scale") or tensor.ndim in (2, 3, 4, 5)
        if name.endswith(".lora_down.weight"):
            up = tensors.get(f"{name.removesuffix('lora_down.weight')}lora_up.weight")
            fits = fits and up is not None and up.ndim >= 2 and up.shape[1:].numel() == tensor.shape[0] > 0
        if not fits:
            raise _damaged(path, f"`{name}` has the shape {tuple(tensor.shape)}, which fits nothing")


def refuse_unread(artifact: Artifact, format_name: str) -> None:
    """A file that was not read in full is not converted as if it had been.

    Raises:
        FormatError: keys were left unread (FM002).
    """
    if unread := json.loads(artifact.metadata.get(UNREAD, "[]")):
        why = f"It was read from a file with {len(unread)} keys that were not understood, such as `{unread[0]}`."
        raise FormatError(
            "FM002", format=format_name, why=why, do=f"Remove `{UNREAD}` from the metadata to go without them."
        )


def adapter(names: Iterable[str]) -> str:
    """Which kind of adapter these tensors are: "lora", "dora", "loha" or "lokr"."""
    text = "\n".join(names)
    return "loha" if ".hada_" in text else "lokr" if ".lokr_" in text else "dora" if ".dora_scale" in text else "lora"


def guess_family(tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """The family and where it shows ("shapes" or "default"), from canonical names and shapes.

    Cross-attention reads text of width 768 (SD1), 1024 (SD2), 2048 (SDXL); only SDXL has a second encoder, or more than
    one transformer block in a row; only SD1's `proj_in` is a convolution.
    """
    widths = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
    if any(name.startswith("text_encoder_2.") for name in tensors):
        return "sdxl", "shapes"
    for name, tensor in tensors.items():
        if re.search(r"\.attn2\.to_[kv]\.(lora_down\.weight|hada_w1_b)$", name) and tensor.shape[1] in widths:
            return widths[tensor.shape[1]], "shapes"
    if any(re.search(r"\.transformer_blocks\.[1-9]", name) for name in tensors):
        return "sdxl", "shapes"
    for name, tensor in tensors.items():
        if name.startswith("text_encoder.") and name.endswith("q_proj.lora_down.weight") and tensor.shape[1] == 1024:
            return "sd2", "shapes"
        if name.endswith(".proj_in.lora_down.weight") and tensor.ndim == 4:
            return "sd1", "shapes"
    return "sd1", "default"


@dataclass(frozen=True)
class RunFacts:
    """What a file tells about its run. Set by the training layer: `artifact.metadata.update(facts.metadata())`.

    Empty fields are not written. Nothing here is looked up: a date, a hash, a name comes in or stays out.
    """

    name: str = ""  # of the result; the alias in A1111 prompts
    title: str = ""  # for people; `name` where empty
    trigger: str = ""
    description: str = ""
    author: str = ""
    license: str = ""
    tags: str = ""
    date: str = ""  # ISO 8601
    started_at: float | None = None  # Unix time, seconds
    finished_at: float | None = None
    prediction: str = ""  # "epsilon" or "v_prediction"
    base_name: str = ""
    base_sha256: str = ""
    base_legacy_hash: str = ""  # 8 hex digits
    vae_name: str = ""
    vae_sha256: str = ""
    resolution: str = ""  # "512x768": width x height in pixels
    rank: int | None = None  # the most frequent one of the tensors where None
    alpha: float | None = None  # as set; the file's tensors hold the effective one
    dropout: float | None = None
    pictures: int | None = None
    steps: int | None = None  # done
    max_steps: int | None = None  # planned
    epochs: int | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    learning_rate: float | None = None
    unet_learning_rate: float | None = None
    text_learning_rate: float | None = None
    optimizer: str = ""
    schedule: str = ""
    warmup_steps: int | None = None
    min_snr_gamma: float | None = None
    noise_offset: float | None = None
    clip_norm: float | None = None
    max_norm: float | None = None  # of a layer's ΔW; None: no limit
    caption_dropout: float | None = None
    precision: str = ""  # "fp16", "bf16", "no"
    gradient_checkpointing: bool | None = None
    cache_latents: bool | None = None
    clip_skip: int | None = None
    max_token_length: int | None = None
    seed: int | None = None
    comment: str = ""
    tag_frequency: Mapping[str, Mapping[str, int]] | None = None  # folder -> tag -> captions with it
    bucket_info: Mapping[str, Any] | None = None  # {"buckets": {"0": {"resolution": [w, h], "count": n}}}
    dataset_dirs: Mapping[str, Mapping[str, int]] | None = None  # folder -> {"n_repeats": n, "img_count": n}

    def metadata(self) -> dict[str, str]:
        """As strings by field name; tables as JSON."""
        result = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Mapping):
                result[field.name] = json.dumps(value, ensure_ascii=False)
            elif value is not None and value != "":
                result[field.name] = str(value)
        return result


class WriteOnly:
    """The reading half of `core.types.Format` for whole models: they are bases, which `families` opens."""

    def sniff(self, path: Path) -> bool:
        """Never: a whole model is no artifact that could be laid on another."""
        del path
        return False

    def notes(self, artifact: Artifact) -> Iterator[str]:
        """What people should know about a file of this artifact."""
        del artifact
        yield from ()

    def read(self, path: Path) -> Artifact:
        """Refuses.

        Raises:
            FormatError: always (FM001).
        """
        raise FormatError("FM001", where=path, found="a whole model (checkpoint)", expected="a file to use with a base")


def count_tags(captions: Iterable[str]) -> dict[str, int]:
    """How often each comma-separated tag occurs, lower-cased, most frequent first (one folder of `tag_frequency`)."""
    tags = (tag.strip().lower() for caption in captions for tag in caption.split(","))
    return dict(Counter(tag for tag in tags if tag).most_common())
