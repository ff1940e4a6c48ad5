"""What an image says about how it was made: the A1111 `parameters` text, and tsuika's own JSON beside it, in a PNG.

Field order and quoting as the A1111 web UI writes them: a value with a comma, a colon or a line break is written as a
JSON string. LoRA and hypernetwork tags stay in the prompt; the old `Hypernet` field is never written, since the web UI
would add it to the prompt a second time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsuika.core import files

if TYPE_CHECKING:
    from PIL.Image import Image

OWN_KEY = "tsuika"
LORA_HASHES = "Lora hashes"
TI_HASHES = "TI hashes"
_SCHEDULES = ("Karras", "Exponential")  # A1111 >= 1.9 writes them apart from the sampler's name
_NEGATIVE = "Negative prompt:"


@dataclass(frozen=True)
class PictureInfo:
    """How an image was made. Fields that are None, "" or empty are not written."""

    prompt: str
    negative: str = ""
    steps: int | None = None
    sampler: str | None = None  # with its schedule: "DPM++ 2M Karras"
    cfg: float | None = None
    seed: int | None = None
    size_px: tuple[int, int] | None = None  # width, height
    model_hash: str | None = None  # first 10 of the SHA-256
    model: str | None = None
    vae_hash: str | None = None
    vae: str | None = None
    clip_skip: int | None = None
    rng: str | None = "CPU"
    lora_hashes: Mapping[str, str] = field(default_factory=dict)  # name -> hash
    ti_hashes: Mapping[str, str] = field(default_factory=dict)
    version: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)  # further fields


def to_text(info: PictureInfo) -> str:
    """The `parameters` text."""
    sampler, schedule = _split_schedule(info.sampler)
    fields: dict[str, object] = {
        "Steps": info.steps,
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": None if info.cfg is None else f"{info.cfg:.12g}",
        "Seed": info.seed,
        "Size": None if info.size_px is None else f"{info.size_px[0]}x{info.size_px[1]}",
        "Model hash": info.model_hash,
        "Model": info.model,
        "VAE hash": info.vae_hash,
        "VAE": info.vae,
        "Clip skip": info.clip_skip,
        "RNG": info.rng,
        LORA_HASHES: _listed(info.lora_hashes),
        TI_HASHES: _listed(info.ti_hashes),
        **info.extra,
        "Version": info.version,
    }
    lines = [info.prompt]
    if info.negative:
        lines.append(f"{_NEGATIVE} {info.negative}")
    lines.append(", ".join(f"{key}: {quote(str(value))}" for key, value in fields.items() if value not in (None, "")))
    return "\n".join(lines)


def _listed(hashes: Mapping[str, str]) -> str:
    """`name: hash` pairs; a comma or colon in a name would not be read back, so A1111 leaves it out."""
    return ", ".join(f"{re.sub('[,:]', '', name)}: {digest}" for name, digest in hashes.items())


def quote(value: str) -> str:
    """A field's value as it stands in the text: a JSON string where it would not be read back otherwise."""
    if any(mark in value for mark in ",:\n") or value.startswith('"') or value != value.strip():
        return json.dumps(value, ensure_ascii=False)
    return value


def _split_schedule(sampler: str | None) -> tuple[str | None, str | None]:
    for schedule in _SCHEDULES:
        if sampler and sampler.endswith(f" {schedule}"):
            return sampler.removesuffix(f" {schedule}"), schedule
    return sampler, None


def short_hash(path: Path, sha256: str | None, *, tensors_only: bool) -> str | None:
    """A file's hash as the A1111 web UI shows it; None of a folder.

    Of a LoRA the first 12 digits of the SHA-256 of a safetensors file behind its header (kohya's `sshs_model_hash`), of
    anything else the first 10 of the file's own.
    """
    if sha256 is None or not path.is_file():
        return None
    if not tensors_only:
        return sha256[:10]
    if path.suffix.lower() != ".safetensors":
        return sha256[:12]
    with path.open("rb") as file:
        file.seek(int.from_bytes(file.read(8), "little"), 1)
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:12]


def write_png(path: Path, picture: Image, info: PictureInfo | None, own: Mapping[str, Any] | None = None) -> None:
    """Write a PNG, whole or not at all, with `parameters` and, under `tsuika`, `own` as JSON with the exact prompts."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    if info is not None:
        chunks.add_text("parameters", to_text(info))  # Pillow writes iTXt (UTF-8) where Latin-1 does not do
        own = {"prompt": info.prompt, "negative": info.negative, **(own or {})}
    if own is not None:
        chunks.add_text(OWN_KEY, json.dumps(dict(own), ensure_ascii=False))
    with files.whole(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=chunks)
