"""Folders of this machine to choose from, inside allowed roots. A page names them by what it was handed, never by a path."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tsuika.core.errors import RecipeError
from tsuika.core.files import at_home
from tsuika.core.texts import _
from tsuika.data.folder import IMAGES as SUFFIXES

MODELS: Final = frozenset({".safetensors", ".ckpt", ".pt"})
# Files that are listed beside folders, by what is picked.
SHOWN: Final[Mapping[str, frozenset[str]]] = {
    "models": MODELS,
    "all": MODELS | {".bin", ".json", ".toml", ".txt", *SUFFIXES},
}
# Files of a folder that are looked at to count its images.
MOST_LOOKED_AT: Final = 2000


@dataclass(frozen=True)
class Picker:
    """Folders below some roots.

    Attributes:
        roots: that may be looked into.
        secret: by which a place that was handed out is known again.
        home: of the studio, where jobs run.
    """

    roots: tuple[Path, ...]
    secret: bytes
    home: Path

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

    def refuse_outside(self, key: str, text: str, *, is_path: bool = False) -> None:
        """See that a text that was typed names nothing outside the roots.

        Args:
            key: what it was typed for, for the error.
            text: a path, perhaps with `:` and a number behind it, or anything else.
            is_path: whether it can be nothing but a path: then it must be there.

        Raises:
            RecipeError: RC015, it does.
        """
        # Jobs run in the home, so that is where a path begins which does not say.
        path = self.home / at_home(text)
        strength = text.rpartition(":")[0]
        if strength and not _is_there(path):
            path = self.home / at_home(strength)
        looks_like_one = "/" in text or "\\" in text or text.startswith("~")
        if (is_path or (looks_like_one and _is_there(path))) and not self.allowed(path):
            why = _("It is not in your home folder, in the studio's, or where the studio was started.")
            raise RecipeError("RC015", key=key, found=text[:200], why=why, do="tsuika --help")

    def listing(self, folder: Path | None, files: str = "") -> dict[str, Any]:
        """Folders (and files, as SHOWN has them) of a folder, or the roots; how many images the folder holds itself."""
        if folder is None:
            rows = [self._row(root, str(root)) for root in self.roots if root.is_dir()]
            return {"path": "", "parent": None, "here": None, "folders": rows, "files": [], "images": 0}
        entries = sorted(_entries(folder), key=lambda one: one.name.casefold())
        folders = [one for one in entries if one.is_dir() and self.allowed(one)]
        shown = [one for one in entries if one.suffix.lower() in SHOWN.get(files, ()) and self.allowed(one)]
        above = folder.parent if folder not in self.roots and self.allowed(folder.parent) else None
        return {
            "path": str(folder),
            "parent": self.handle(above) if above else "",
            "here": self.handle(folder),
            "folders": [self._row(one, one.name) for one in folders],
            "files": [self._row(one, one.name) for one in shown],
            "images": sum(one.suffix.lower() in SUFFIXES for one in entries[:MOST_LOOKED_AT]),
        }

    def _row(self, path: Path, name: str) -> dict[str, str]:
        return {"id": self.handle(path), "name": name}


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    # Too long, or with a NUL.
    except (OSError, ValueError):
        return False


def _entries(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (one for one in folder.iterdir() if not one.name.startswith("."))
