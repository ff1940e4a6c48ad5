"""Small images for the pages, made by Pillow, kept by the content of what they were made of; those of a set ahead of time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image

from tsuika.core.errors import TsuikaError
from tsuika.core.files import sha256, whole
from tsuika.data.image import open_image
from tsuika.studio.home import Database

# Longest sides that are made; 0 would be a file as it is, which no page gets. The first is that of a list of images.
SIDES: Final = (256, 512, 1600)
# At a time: each holds a decoded image.
AT_ONCE: Final = 2
# While a page waits for one, none is made ahead; looked at again after so many seconds.
PAUSE_S: Final = 0.02


@dataclass(frozen=True)
class Thumbnails:
    """A folder of them, and a database that knows the contents of files that have not changed."""

    folder: Path
    db: Database
    _turns: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(AT_ONCE))
    # Of each content: two images may have the same.
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    # One thing for each that a page waits for.
    _asked: set[object] = field(default_factory=set)
    # Made ahead, or to be: when the file was changed last. And what is still to be made.
    _seen: dict[Path, int] = field(default_factory=dict)
    _ahead: list[Path] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, image: Path, side: int) -> Path:
        """An image whose longest side is `side` at most, as WebP, upright; made if it is not there yet.

        Raises:
            OSError: the image cannot be read.
            ValueError: it is none.
        """
        mine = object()
        self._asked.add(mine)
        try:
            return self._made(image, side)
        finally:
            self._asked.discard(mine)

    def ahead(self, images: Iterable[Path]) -> None:
        """Have images made small for lists, one after another, by a thread that ends when all are."""
        with self._lock:
            new = []
            for image in images:
                with suppress(OSError):
                    changed = image.stat().st_mtime_ns
                    if self._seen.get(image) != changed:
                        self._seen[image] = changed
                        new.append(image)
            begins = bool(new) and not self._ahead
            self._ahead.extend(new)
        if begins:
            threading.Thread(target=self._make_ahead, name="thumbnails", daemon=True).start()

    def _make_ahead(self) -> None:
        more = True
        while more:
            while self._asked:
                time.sleep(PAUSE_S)
            with suppress(OSError, ValueError, TsuikaError):
                self._made(self._ahead[0], SIDES[0])
            # It stays in the list until it is made, so that one thread is at work.
            with self._lock:
                del self._ahead[0]
                more = bool(self._ahead)

    def _made(self, image: Path, side: int) -> Path:
        name = self._content(image)
        target = self.folder / name[:2] / f"{name[2:34]}-{side}.webp"
        # Nothing that is there waits for what is being made.
        if target.exists():
            return target
        with self._turns, self._locks.setdefault(name, threading.Lock()):
            if target.exists():
                return target
            opened = open_image(image)
            opened.thumbnail((side, side), Image.Resampling.LANCZOS)
            with whole(target) as temporary:
                opened.save(temporary, format="WEBP", quality=84, method=2)
            return target

    def _content(self, image: Path) -> str:
        """The hash of a file, read once until it changes."""
        about = image.stat()
        # The same wherever it is moved to in the home.
        key = f"{about.st_dev}-{about.st_ino}-{about.st_size}-{about.st_mtime_ns}"
        found = self.db.rows("select sha256 from contents where file = ?", key)
        if found:
            return str(found[0]["sha256"])
        name = sha256(image)
        self.db.rows("insert or replace into contents values (?, ?)", key, name)
        return name
