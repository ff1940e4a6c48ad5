"""The error tree. Every error a user can cause has a stable code, an exit status, and says what, where, why, what to do.

The words are in `messages.py`, by code.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar

from tsuika.core.messages import MESSAGES, Part
from tsuika.core.texts import Text, _, limited, listed


class TsuikaError(Exception):
    """Base of all errors that are not bugs.

    `code` is a key of `MESSAGES`; `params` fill its placeholders; `where` names the file, key or image.

    Raises:
        KeyError: the code has no message (a bug, caught by the tests).
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, code: str, *, where: object = "", **params: object) -> None:
        self.code, self.where = code, str(where)
        self.params = {name: limited(value) for name, value in params.items()}
        MESSAGES[code]
        super().__init__(self.describe())

    def text(self, name: Part) -> Text:
        """One part of the message, filled in."""
        return MESSAGES[self.code].part(name, {"where": self.where, **self.params})

    def part(self, name: Part, lang: str = "en") -> str:
        """One part of the message, in a language."""
        return self.text(name).to(lang)

    def lines(self) -> tuple[Text, ...]:
        """The message: what, then as far as they are known where, why and what to do."""
        where, why, do = self.where, self.text("why"), self.text("do")
        lines = [_("error[{code}] {what}", code=self.code, what=self.text("what"))]
        lines += [_("where: {text}", text=where)] if where else []
        lines += [_("why: {text}", text=why)] if why else []
        lines += [_("do: {text}", text=do)] if do else []
        return tuple(lines)

    def describe(self, lang: str = "en") -> str:
        """The whole block, what goes after the first line indented."""
        return "\n  ".join(line.to(lang) for line in self.lines())


class RecipeError(TsuikaError):
    """Wrong usage or recipe."""

    exit_status = 2


class ImageError(TsuikaError):
    """The images cannot be used."""

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

    Torch's own error is recognized by its name, since nothing here imports torch.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        none = _("The machine has no more memory.")
        less = _("Close other programs, or work on smaller images.")
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


def no_such(key: str, found: object, known: Iterable[str], *, where: object = "") -> RecipeError:
    """The error if a setting is none of the known names."""
    why = _("Possible values: {names}", names=listed(known))
    return RecipeError("RC002", where=where, key=key, found=found, why=why)


def misspelt(key: str, found: str, known: Iterable[str]) -> RecipeError:
    """The same, with the most similar name first."""
    names = [*known]
    nearest = get_close_matches(found, names, n=1, cutoff=0.0)[0]
    why = _("Did you mean {nearest}? Possible values: {names}", nearest=nearest, names=listed(names))
    return RecipeError("RC002", key=key, found=found, why=why)
