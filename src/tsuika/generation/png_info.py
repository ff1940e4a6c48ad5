"""What an image says about how it was made, in a PNG: the A1111 `parameters` text, and tsuika's own JSON.

Order and quoting as in the A1111 web UI. LoRA and hypernetwork tags stay in the prompt; the old `Hypernet` field is never
written, since the web UI would add it to the prompt a second time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import files
from tsuika.data import image

if TYPE_CHECKING:
    from PIL.Image import Image

OWN_KEY = "tsuika"
LORA_HASHES = "Lora hashes"
TI_HASHES = "TI hashes"
# A1111 >= 1.9 writes them apart from the sampler's name.
_SCHEDULES = ("Karras", "Exponential")
_NEGATIVE = "Negative prompt:"


@dataclass(frozen=True)
class GenerationInfo:
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


def to_text(info: GenerationInfo) -> str:
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
    """A file's hash as the A1111 web UI shows it (10 digits); None of a folder.

    Of a LoRA 12 digits, of a safetensors file's behind its header (kohya's `sshs_model_hash`).
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


def write_png(path: Path, image: Image, info: GenerationInfo | None, own: Mapping[str, Any] | None = None) -> None:
    """Write a PNG, whole or not at all, with `parameters` and, under `tsuika`, `own` as JSON with the exact prompts."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    if info is not None:
        chunks.add_text("parameters", to_text(info))  # Pillow writes iTXt (UTF-8) where Latin-1 does not do
        own = {"prompt": info.prompt, "negative": info.negative, **(own or {})}
    if own is not None:
        chunks.add_text(OWN_KEY, json.dumps(dict(own), ensure_ascii=False))
    with files.whole(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=chunks)


def from_text(text: str) -> GenerationInfo:
    """The inverse of `to_text`; of another program's text what is understood, the rest in `extra`."""
    *lines, last = text.strip().split("\n")
    fields = _fields(last)
    if not fields.keys() & {"Steps", "Seed", "Sampler"}:
        lines, fields = [*lines, last], {}
    start = next((n for n, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines))
    found: dict[str, Any] = {"rng": None}
    for name, (key, convert) in _READ.items():
        try:
            found[name] = convert(fields[key])
        except (KeyError, ValueError):
            continue
        del fields[key]
    schedule = fields.pop("Schedule type", "")
    if schedule in _SCHEDULES and "sampler" in found:
        found["sampler"] += f" {schedule}"
    negative = "\n".join(lines[start:]).removeprefix(_NEGATIVE).strip()
    return GenerationInfo("\n".join(lines[:start]).strip(), negative, **found, extra=fields)


def _size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def _hashes(text: str) -> dict[str, str]:
    return {name: digest for name, _gap, digest in (part.rpartition(": ") for part in text.split(", ") if part)}


_READ: Final[Mapping[str, tuple[str, Callable[[str], object]]]] = {
    "steps": ("Steps", int),
    "sampler": ("Sampler", str),
    "cfg": ("CFG scale", float),
    "seed": ("Seed", int),
    "size_px": ("Size", _size),
    "model_hash": ("Model hash", str),
    "model": ("Model", str),
    "vae_hash": ("VAE hash", str),
    "vae": ("VAE", str),
    "clip_skip": ("Clip skip", int),
    "rng": ("RNG", str),
    "lora_hashes": (LORA_HASHES, _hashes),
    "ti_hashes": (TI_HASHES, _hashes),
    "version": ("Version", str),
}


def _fields(line: str) -> dict[str, str]:
    """`Key: value, Key: "quoted, value"`, in order; what is not of this form ends the reading."""
    decoder = json.JSONDecoder()
    fields: dict[str, str] = {}
    place = 0
    while (colon := line.find(":", place)) >= 0:
        key = line[place:colon].strip()
        start = len(line) - len(line[colon + 1 :].lstrip())
        if not key or "," in key:
            break
        comma = line.find(",", start)
        end = len(line) if comma < 0 else comma
        value = line[start:end].strip()
        if line.startswith('"', start):
            with suppress(json.JSONDecodeError):
                value, end = decoder.raw_decode(line, start)
        fields[key] = str(value)
        comma = line.find(",", end)
        if comma < 0:
            break
        place = comma + 1
    return fields


def read(path: Path) -> tuple[GenerationInfo | None, dict[str, Any]]:
    """How an image was made, as it says itself, and tsuika's own JSON; None and {} where it says nothing.

    Raises:
        ImageError: DS003, it is no image.
    """
    texts = image.texts(path)
    try:
        own = json.loads(texts.get(OWN_KEY, "{}"))
    except ValueError:
        own = {}
    return (from_text(texts["parameters"]) if "parameters" in texts else None), own if isinstance(own, dict) else {}
