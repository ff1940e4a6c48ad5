"""Small images for the pages, made by Pillow, kept by the content of what they were made of."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image

from tsuika.core.files import sha256, whole
from tsuika.data.image import open_image

# Longest sides that are made; 0 would be a file as it is, which no page gets.
SIDES: Final = (256, 512, 1600)
# At a time: each holds a decoded image.
AT_ONCE: Final = 2


@dataclass(frozen=True)
class Thumbnails:
    """A folder of them."""

    folder: Path
    _hashes: dict[tuple[str, int, int], str] = field(default_factory=dict)
    _turns: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(AT_ONCE))
    # Of each content: two images may have the same.
    _locks: dict[str, threading.Lock] = field(default_factory=dict)

    def of(self, image: Path, side: int) -> Path:
        """An image whose longest side is `side` at most, as WebP, upright; made if it is not there yet.

        Raises:
            OSError: the image cannot be read.
            ValueError: it is none.
        """
        about = image.stat()
        known = str(image), about.st_size, about.st_mtime_ns
        with self._turns:
            if known not in self._hashes:
                self._hashes[known] = sha256(image)
            name = self._hashes[known]
            target = self.folder / name[:2] / f"{name[2:34]}-{side}.webp"
            with self._locks.setdefault(name, threading.Lock()):
                if target.exists():
                    return target
                opened = open_image(image)
                opened.thumbnail((side, side), Image.Resampling.LANCZOS)
                with whole(target) as temporary:
                    opened.save(temporary, format="WEBP", quality=84, method=2)
                return target
