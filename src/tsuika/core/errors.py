"""The error tree. Every error a user can cause has a stable code, an exit status, and says what, where, why, what to do.

The words live in `messages.py`, in English and Japanese, keyed by the code.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar

from tsuika.core.messages import MESSAGES
from tsuika.core.words import PARTS, Lang, Part, Words, filled

_LABELS = {
    "en": {"error": "error", "note": "note", "where": "where:", "why": "why:", "do": "do:"},
    "ja": {"error": "エラー", "note": "お知らせ", "where": "場所:", "why": "原因:", "do": "対処:"},
}


class TsuikaError(Exception):
    """Base of all errors that are not bugs.

    `code` is a key of `MESSAGES`; `params` fill its placeholders; `where` names the file, key or picture.

    Raises:
        KeyError: the code has no message (a bug, caught by the tests).
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, code: str, *, where: object = "", **params: object) -> None:
        self.code, self.where, self.params = code, str(where), params
        MESSAGES[code]
        super().__init__(self.describe())

    def part(self, name: Part, lang: Lang = "en") -> str:
        """One part of the message, filled in."""
        return filled(self.code, name, {"where": self.where, **self.params}, lang)

    def describe(self, lang: Lang = "en") -> str:
        """The whole block, as the terminal shows it."""
        label = _LABELS[lang]
        lines = [f"{label['error']}[{self.code}] {self.part('what', lang)}"]
        if self.where:
            lines.append(f"  {label['where']} {self.where}")
        for part in PARTS[1:]:
            if text := self.part(part, lang):
                lines.append(f"  {label[part]} {text}")
        return "\n".join(lines)


class RecipeError(TsuikaError):
    """Wrong usage or recipe."""

    exit_status = 2


class PictureError(TsuikaError):
    """The pictures cannot be used."""

    exit_status = 3


class ModelError(TsuikaError):
    """A file or model is missing, refused or incompatible."""

    exit_status = 4


class FormatError(ModelError):
    """A file is not what it should be, or a format cannot hold what it should."""


class ResourceError(TsuikaError):
    """Out of memory or disk."""

    exit_status = 5


def exhausted(error: BaseException, *, where: object = "", do: str = "") -> ResourceError | None:
    """The error of ours where memory (RS001) or disk (RS002) has run out; None where it is something else.

    Torch's own is told by its name: nothing here imports torch.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        none = Words("The machine has no more memory.", "このマシンのメモリに空きがありません。")
        less = Words(
            "Close other programs, or work on smaller pictures.",
            "ほかのプログラムを終了するか、画像を小さくしてください。",
        )
        return ResourceError("RS001", where=where, why=str(error).partition("\n")[0] or none, do=do or less)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError("RS002", where=error.filename or where, why=error.strerror)
    return None


class DivergedError(TsuikaError):
    """Training met a non-finite number."""

    exit_status = 6


class NetworkError(TsuikaError):
    """Network, licence or login needed."""

    exit_status = 7


class InterruptedRunError(TsuikaError):
    """The run was interrupted and can be resumed."""

    exit_status = 8


def no_such(key: str, found: object, known: Iterable[str], *, what: str = "", where: object = "") -> RecipeError:
    """The error where a setting is none of the names that there are; `what` they are, in English."""
    names = ", ".join(known)
    why = Words(f"The {what} are: {names}" if what else f"one of {names}", f"使えるもの: {names}")
    return RecipeError("RC002", where=where, key=key, found=found, why=why)


def misspelt(key: str, found: str, known: Iterable[str]) -> RecipeError:
    """The same, with the name first that is most like what was given."""
    names = list(known)
    nearest = get_close_matches(found, names, n=1, cutoff=0.0)[0]
    return RecipeError("RC002", key=key, found=found, why=f"→ {nearest} ({', '.join(names)})")
