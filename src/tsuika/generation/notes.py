"""Warnings of this part as events, in the words of `core.messages`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tsuika.core.errors import TsuikaError
from tsuika.core.events import Warned, note

Warn = Callable[[Warned], None]


def refusal(path: Path, error: TsuikaError) -> Warned:
    """A file that was found by its name and is not used."""
    return note("GN006", artifact=path.name, why=error.text("what"))
