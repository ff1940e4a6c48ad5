"""A sign of life where no bar can be shown: nobody should wonder whether a program still works."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Final

from tsuika.cli import screen
from tsuika.core.texts import _

EVERY_S: Final = 30.0


class Pulse:
    """A line after every `every_s` seconds in which none was told: what is going on, how far it is, and for how long.

    Lines come from a thread of its own, for a single step, or the loading of a model, may take longer than that.
    """

    def __init__(self, is_on: bool, every_s: float = EVERY_S) -> None:
        self._is_on, self._every_s = is_on, every_s
        self._title, self._done, self._total = "", 0, 0
        self._began = self._spoke = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Pulse:
        if self._is_on:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._is_on:
            self._thread.join()

    def begin(self, title: str, total: int = 0) -> None:
        """Another phase; a line of it was told."""
        self._title, self._done, self._total = title, 0, total
        self.told()

    def reach(self, done: int, total: int = 0) -> None:
        """So much of the phase is done."""
        self._done, self._total = done, total or self._total

    def told(self) -> None:
        """Something was said."""
        self._spoke = time.monotonic()

    def _beat(self) -> None:
        while not self._over.wait(max(0.01, self._spoke + self._every_s - time.monotonic())):
            now = time.monotonic()
            if now - self._spoke < self._every_s:
                continue
            about = {"phase": self._title, "seconds": f"{now - self._began:.0f}"}
            if self._title and self._total:
                screen.say(_("{phase}: {done}/{total} after {seconds} s", done=self._done, total=self._total, **about))
            elif self._title:
                screen.say(_("{phase}: still at work after {seconds} s", **about))
            self._spoke = now
