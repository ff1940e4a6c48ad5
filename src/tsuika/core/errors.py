"""The error tree. Every error a user can cause has a stable code, an exit status, and says what, where, why, what to
do. The words are in `messages.py`, by code."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar, Final

from tsuika.core.messages import MESSAGES, Part
from tsuika.core.texts import Text, _, limited, listed, one_line


class TsuikaError(Exception):
    """Base of all errors that are not bugs.

    Args:
        code: a key of `MESSAGES`.
        where: the file, key or image.
        params: what fills the placeholders of the message.

    Raises:
        KeyError: the code has no message (a bug, caught by the tests).
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, code: str, *, where: object = "", **params: object) -> None:
        self.code, self.where = code, one_line(str(where))
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


# What the system says is the cause, by what is to be done about it.
_CODES: Final = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "RS002"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "RS003"),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.EILSEQ, errno.ELOOP, errno.EEXIST, errno.ENOTDIR), "RC028"),
}
_OURS: Final = frozenset({errno.EBADF, errno.EINVAL, errno.EFAULT})  # wrong use of the system by a program
# A library's own error with the system's number or words in it: safetensors, torch, SQLite.
_NUMBERED: Final = re.compile(r"\(os error (\d+)\)|: [\w ]+ \((\d+)\)$")
_COPIED: Final = re.compile(r"\[Errno (\d+)\]")
_IN_WORDS: Final = (
    (re.compile(r"DefaultCPUAllocator|out of memory|ALLOC_FAILED"), errno.ENOMEM),
    (re.compile(r"database or disk is full"), errno.ENOSPC),
    (re.compile(r"readonly database|unable to open database file"), errno.EROFS),
    (re.compile(r"disk I/O error"), errno.EIO),
    # Of `Path.resolve` before Python 3.13.
    (re.compile(r"^Symlink loop"), errno.ELOOP),
)
_LIBRARIES: Final = ("SafetensorError", "OutOfMemoryError", "AcceleratorError", "OperationalError", "RuntimeError")


def system_number(error: BaseException) -> int | None:
    """The number (`errno`) of a system error, also where a library has wrapped it in an error of its own."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return errno.ENOMEM
    if isinstance(error, shutil.Error):
        # Of a folder that is copied: the errors of its files, as text.
        found = _COPIED.search(str(error))
        return int(found[1]) if found else None
    if isinstance(error, OSError):
        return error.errno
    if type(error).__name__ not in _LIBRARIES:
        return None
    said = str(error).strip()
    if found := _NUMBERED.search(said):
        number = int(found[1] or found[2])
        if os.name == "nt":
            return OSError(0, "", None, number).errno
        return number if os.strerror(number) in said else None
    return next((number for pattern, number in _IN_WORDS if pattern.search(said)), None)


def outer_cause(
    error: BaseException, *, where: object = "", instead_of: object = None, do: str = ""
) -> TsuikaError | None:
    """The error of ours for what is no fault of the program: memory, disk, permissions; None where it is something else.

    Args:
        error: as it was raised.
        where: named where the error itself names no file, or `instead_of` a temporary one, or one in it.
        do: what helps where memory is short.
    """
    number = system_number(error)
    if number is None or (number in _OURS and not getattr(error, "filename", None)):
        return None
    # Of a copy, the second one is what is written.
    named = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if named and not (instead_of and Path(os.fsdecode(named)).is_relative_to(str(instead_of))):
        where = named
    if number == errno.ENOMEM:
        said = "" if isinstance(error, OSError) else str(error).partition("\n")[0]
        why = said or _("The machine has no more memory.")
        return ResourceError(
            "RS001", where=where, why=why, do=do or _("Close other programs, or work on smaller images.")
        )
    code = _CODES.get(number, "RS004")
    return (RecipeError if code == "RC028" else ResourceError)(code, where=where, why=os.strerror(number))


class StopRequested(BaseException):
    """Thrown into the events of a run by `Run.stop`: end between two steps, and leave what is best so far."""


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


def check_least(key: str, value: int | None, least: int = 1) -> None:
    """Raises RecipeError: RC002, a number is given that is smaller."""
    if value is not None and value < least:
        raise RecipeError("RC002", key=key, found=value, why=f"≥ {least}")


def needs(key: str, found: object, other: str) -> RecipeError:
    """The error if a setting was given that does nothing without another one."""
    return RecipeError("RC002", key=key, found=found, why=_("It has an effect only with `{other}`.", other=other))


def misspelt(key: str, found: str, known: Iterable[str]) -> RecipeError:
    """As `no_such`, with the most similar name first, where one is similar."""
    names = [*known]
    if not (like := nearest(found, names)):
        return no_such(key, found, names)
    why = _("Did you mean {nearest}? Possible values: {names}", nearest=like, names=listed(names))
    return RecipeError("RC002", key=key, found=found, why=why)


def nearest(found: str, known: Iterable[str]) -> str:
    """The known name that was meant, in whatever case; empty: none is like it."""
    folded = {name.casefold(): name for name in known}
    return next((folded[name] for name in get_close_matches(found.casefold(), folded, n=1)), "")
