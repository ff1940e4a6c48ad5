"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tsuika.core.errors import RecipeError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder; renamed to `path`, flushed to disk, if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all; what is no Unicode (in the name of a file) is escaped."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def split_strength(text: str) -> tuple[Path, float]:
    """`FILE` or `FILE:STRENGTH` (a Windows drive's colon is not one); the strength is 1 by default.

    Raises:
        RecipeError: the strength is no finite number (RC002).
    """
    head, colon, tail = text.rpartition(":")
    try:
        path, strength = (Path(head), float(tail)) if colon and not Path(text).exists() else (Path(text), 1.0)
    except ValueError:
        return Path(text), 1.0
    if not math.isfinite(strength):
        raise RecipeError("RC002", key="strength", found=text, why="0.8, 1, -0.5, …")
    return path, strength


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a file for this process alone; it is free again when the block, or the process, ends, however it ends.

    Args:
        path: of the lock; made if need be, and left empty.
        wait: until nobody else holds it.

    Yields:
        Whether it is held: False where another process holds it and we do not wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        try:
            _lock(stream.fileno(), wait)
        except OSError:
            if wait:
                raise
            yield False
            return
        yield True


def _lock(handle: int, wait: bool) -> None:
    if sys.platform == "win32":
        import msvcrt

        # LK_LOCK gives up after ten seconds.
        msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
