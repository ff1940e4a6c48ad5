"""What is to be drawn, in one frozen value: what `generate` and `grid` are asked for, and what an axis changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Drawing:
    """A wish for a picture. None and "" stand for the base's own.

    Artifacts are `FILE` or `FILE:STRENGTH`; those that the prompts name are looked up below `artifacts` (the current
    folder and its `runs` if None).
    """

    prompt: str
    negative: str = ""
    base: str = "embedded"  # or a diffusers folder, a single file, a hub id; a DreamBooth result is one too
    vae: str = "builtin"  # or a file or folder
    tokenizer: str = ""  # a folder, for a single-file base
    lora: tuple[str, ...] = ()
    embedding: tuple[str, ...] = ()
    hypernetwork: tuple[str, ...] = ()
    more: tuple[str, ...] = ()  # artifacts of any method
    strengths: tuple[
        tuple[str, float], ...
    ] = ()  # in place of what is said elsewhere: (file stem or "" for all, value)
    artifacts: Path | None = None
    seed: int = 0
    steps: int | None = None
    cfg: float | None = None
    sampler: str | None = None
    size: str = ""  # WIDTHxHEIGHT in pixels
    device: str = "auto"
    precision: str = "auto"
