"""Programs on this machine that use what tsuika makes: where they keep models, and what they have. No torch."""

from __future__ import annotations

import os
import re
import string
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tsuika.core.files import at_home

# A folder of the program is one that holds these; the first is that of its base models.
_MARKS: Final[Mapping[str, tuple[str, ...]]] = {
    "ComfyUI": ("models/checkpoints", "models/loras"),
    "Forge": ("models/Stable-diffusion", "modules_forge"),
    "A1111": ("models/Stable-diffusion",),
}
# Where each keeps its VAEs.
_VAES: Final[Mapping[str, str]] = {"ComfyUI": "models/vae", "Forge": "models/VAE", "A1111": "models/VAE"}

_NAMED: Final = re.compile(r"stable.?diffusion|web.?ui|comfy|forge|automatic1111|\bsd\b|\bai\b|models?$", re.IGNORECASE)
_USUAL: Final = ("", "Documents", "Desktop", "Downloads", "AI", "ai", "sd", "src", "git")
_DEPTH: Final = 2  # below a usual place: `AI/sd.webui/webui`
SUFFIXES: Final = (".safetensors", ".ckpt")
LEAST_BYTES: Final = 500_000_000  # smaller ones are no base models
MOST: Final = 300


@dataclass(frozen=True)
class Program:
    """A program's folder."""

    name: str  # `A1111`, `Forge` or `ComfyUI`
    root: Path  # the folder

    def bases(self) -> Iterator[Path]:
        """The base models that it has, by size."""
        for path in self._files(_MARKS[self.name][0], SUFFIXES):
            with suppress(OSError):
                if path.stat().st_size >= LEAST_BYTES:
                    yield path

    def vaes(self) -> Iterator[Path]:
        """The files in its folder of VAEs."""
        yield from self._files(_VAES[self.name], (*SUFFIXES, ".pt"))

    def _files(self, inside: str, suffixes: tuple[str, ...]) -> Iterator[Path]:
        for folder, _folders, files in os.walk(self.root / inside):
            yield from (Path(folder, name) for name in sorted(files) if Path(name).suffix.lower() in suffixes)


def program_at(folder: Path) -> Program | None:
    """The program whose folder this is; None: it is none's."""
    for name, marks in _MARKS.items():
        with suppress(OSError):
            if all((folder / mark).is_dir() for mark in marks):
                return Program(name, folder)
    return None


def programs(places: Iterable[Path] | None = None) -> list[Program]:
    """The programs in the usual places of this machine, or below `places`."""
    found: dict[Path, Program] = {}
    for place in usual_places() if places is None else places:
        for folder in _folders(place, _DEPTH):
            if program := program_at(folder):
                found.setdefault(folder.resolve(), program)
    return sorted(found.values(), key=lambda one: (one.name, str(one.root)))


def usual_places() -> Iterator[Path]:
    """Where people put such programs."""
    yield from (at_home("~") / name for name in _USUAL)
    yield from map(Path, ("/opt", "/workspace", "/content"))
    if sys.platform == "win32":
        yield from (Path(f"{letter}:\\") / name for letter in string.ascii_uppercase[2:] for name in ("", "AI", "sd"))


def _folders(place: Path, depth: int) -> Iterator[Path]:
    """A folder, and those below it whose names sound like one of the programs."""
    try:
        below = [one for one in place.iterdir() if not one.name.startswith(".") and one.is_dir()]
    except OSError:
        return
    yield place
    if depth:
        for one in below:
            if _NAMED.search(one.name):
                yield from _folders(one, depth - 1)
