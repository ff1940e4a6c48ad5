"""Folders of this machine to choose from, inside allowed roots. A page names them by what it was handed, never by a path."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tsuika.data.folder import IMAGES as SUFFIXES

MODELS: Final = frozenset({".safetensors", ".ckpt", ".pt"})
# Files of a folder that are looked at to count its images.
MOST_LOOKED_AT: Final = 2000


@dataclass(frozen=True)
class Picker:
    """Folders below some roots.

    Attributes:
        roots: that may be looked into.
        secret: by which a place that was handed out is known again.
    """

    roots: tuple[Path, ...]
    secret: bytes

    def handle(self, path: Path) -> str:
        """What stands for a path."""
        raw = os.fsencode(path)
        return base64.urlsafe_b64encode(self._mark(raw) + raw).decode("ascii")

    def path(self, handle: str) -> Path | None:
        """The path that a handle stands for; None where it was never handed out, or leads out of the roots by now."""
        try:
            content = base64.urlsafe_b64decode(handle.encode("ascii"))
        except ValueError:
            return None
        mark, raw = content[:16], content[16:]
        if not hmac.compare_digest(mark, self._mark(raw)):
            return None
        path = Path(os.fsdecode(raw))
        return path if self.allowed(path) else None

    def _mark(self, raw: bytes) -> bytes:
        return hmac.new(self.secret, b"place:" + raw, hashlib.sha256).digest()[:16]

    def allowed(self, path: Path) -> bool:
        """Whether a path, with all links followed, lies in a root."""
        try:
            real = path.resolve(strict=True)
        except OSError:
            return False
        return any(real.is_relative_to(root.resolve()) for root in self.roots)

    def listing(self, folder: Path | None, *, models: bool = False) -> dict[str, Any]:
        """Folders (and model files) of a folder, or the roots; how many images the folder holds itself."""
        if folder is None:
            rows = [self._row(root, str(root)) for root in self.roots if root.is_dir()]
            return {"path": "", "parent": None, "here": None, "folders": rows, "files": [], "images": 0}
        entries = sorted(_entries(folder), key=lambda one: one.name.casefold())
        folders = [one for one in entries if one.is_dir() and self.allowed(one)]
        files = [one for one in entries if models and one.suffix.lower() in MODELS and self.allowed(one)]
        above = folder.parent if folder not in self.roots and self.allowed(folder.parent) else None
        return {
            "path": str(folder),
            "parent": self.handle(above) if above else "",
            "here": self.handle(folder),
            "folders": [self._row(one, one.name) for one in folders],
            "files": [self._row(one, one.name) for one in files],
            "images": sum(one.suffix.lower() in SUFFIXES for one in entries[:MOST_LOOKED_AT]),
        }

    def _row(self, path: Path, name: str) -> dict[str, str]:
        return {"id": self.handle(path), "name": name}


def _entries(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (one for one in folder.iterdir() if not one.name.startswith("."))
