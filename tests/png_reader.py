"""Reads what a PNG says about how it was made, apart from the code that writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from tsuika.generation.png_info import PictureInfo

TEXTS = {
    "model_hash": "Model hash",
    "model": "Model",
    "vae_hash": "VAE hash",
    "vae": "VAE",
    "rng": "RNG",
    "version": "Version",
}
NUMBERS = {"steps": ("Steps", int), "cfg": ("CFG scale", float), "seed": ("Seed", int), "clip_skip": ("Clip skip", int)}
HASHES = {"lora_hashes": "Lora hashes", "ti_hashes": "TI hashes"}


def from_text(text: str) -> PictureInfo:
    """A `parameters` text of ours."""
    *lines, last = text.strip().split("\n")
    fields = parse_fields(last)
    start = next((n for n, line in enumerate(lines) if line.startswith("Negative prompt:")), len(lines))
    found: dict[str, Any] = {name: fields.pop(key, None) for name, key in TEXTS.items()}
    found |= {name: kind(fields.pop(key)) for name, (key, kind) in NUMBERS.items() if key in fields}
    for name, key in HASHES.items():
        pairs = (part.rpartition(": ") for part in fields.pop(key, "").split(", ") if part)
        found[name] = {name: digest for name, _, digest in pairs}
    if "Sampler" in fields:
        found["sampler"] = " ".join(fields.pop(key) for key in ("Sampler", "Schedule type") if key in fields)
    if "Size" in fields:
        found["size_px"] = tuple(map(int, fields.pop("Size").split("x")))
    negative = "\n".join(lines[start:]).removeprefix("Negative prompt:").strip()
    return PictureInfo("\n".join(lines[:start]).strip(), negative, **found, extra=fields)


def parse_fields(line: str) -> dict[str, str]:
    """`Key: value, Key: "quoted, value"` as a table, in order. What is not of this form ends the reading."""
    decoder = json.JSONDecoder()
    fields: dict[str, str] = {}
    place = 0
    while (colon := line.find(":", place)) >= 0:
        key = line[place:colon].strip()
        start = colon + 1 + (len(line[colon + 1 :]) - len(line[colon + 1 :].lstrip()))
        end = -1
        value = ""
        if line.startswith('"', start):
            try:
                value, end = decoder.raw_decode(line, start)
            except json.JSONDecodeError:
                end = -1
        if end < 0:
            comma = line.find(",", start)
            end = len(line) if comma < 0 else comma
            value = line[start:end].strip()
        if not key or "," in key:
            break
        fields[key] = value
        comma = line.find(",", end)
        if comma < 0:
            break
        place = comma + 1
    return fields


def read_png(path: Path) -> tuple[PictureInfo | None, dict[str, Any]]:
    """What a PNG says; None and {} where it says nothing."""
    with Image.open(path, formats=["PNG"]) as picture:
        texts = picture.text
    info = from_text(texts["parameters"]) if "parameters" in texts else None
    return info, json.loads(texts.get("tsuika", "{}"))
