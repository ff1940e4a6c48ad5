"""Warnings of this part as events, in the words of `core.messages`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tsuika.core.errors import TsuikaError
from tsuika.core.events import Warned

Warn = Callable[[Warned], None]


def note(code: str, **params: object) -> Warned:
    """What happened, why, and what to do, in one message; `Warned.words` has it in other languages.

    Raises:
        KeyError: the code has no message, or a placeholder no value.
    """
    warned = Warned(code, "", params)
    return replace(warned, message=warned.words("en"))


def refusal(path: Path, error: TsuikaError) -> Warned:
    """A file that was found by its name and is not used."""
    return note("GN006", artifact=path.name, why=error.part("what"), why_ja=error.part("what", "ja"))
