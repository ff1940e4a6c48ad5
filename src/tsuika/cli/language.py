"""The language that people are spoken to in: by `--lang`, the environment, or the system's own."""

from __future__ import annotations

import locale
import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Final

from tsuika.core.errors import no_such
from tsuika.core.texts import Text, languages

AUTO: Final = "auto"
_FLAG: Final = "--lang"
_VARIABLES: Final = ("TSUIKA_LANG", "LC_ALL", "LC_MESSAGES", "LANG")  # `TSUIKA_LANG`, then as gettext does it
_asked: ContextVar[str | None] = ContextVar("language", default=None)


def use(language: str | None) -> None:
    """Speak a language from here on; None: nobody has asked for one."""
    _asked.set(language)


def asked() -> str | None:
    """The language that was asked for, in which pages open; None leaves it to the browser."""
    return _asked.get()


def current() -> str:
    """The language in use."""
    return _asked.get() or "en"


def local(text: str) -> str:
    """A text in the language in use; one that was made of a `Text` is looked up again."""
    return (text if isinstance(text, Text) else Text(text)).to(current())


def requested(arguments: Sequence[str]) -> tuple[list[str], str]:
    """The arguments without `--lang`, wherever on the line it is, and its value; `auto` without it."""
    rest, request = taken(arguments, _FLAG)
    return rest, request or AUTO


def taken(arguments: Sequence[str], wanted: str) -> tuple[list[str], str]:
    """The arguments without a flag, wherever on the line it is, and its last value; empty without it."""
    rest, last = [*arguments], ""
    end = rest.index("--") if "--" in rest else len(rest)
    for place in range(end - 1, -1, -1):
        flag, equals, value = rest[place].partition("=")
        if flag == wanted and (equals or place + 1 < end):
            last = last or (value if equals else rest[place + 1])
            del rest[place : place + (1 if equals else 2)]
    return rest, last


def chosen(request: str, environment: Mapping[str, str]) -> str | None:
    """The language of a request; `auto` is that of the environment, then of the system; None if it is unknown here.

    Raises:
        RecipeError: RC002, the language is unknown.
    """
    if request != AUTO:
        if request not in languages():
            raise no_such(_FLAG, request, (*languages(), AUTO))
        return request
    named = [environment[name] for name in _VARIABLES if environment.get(name) not in (None, "", AUTO)]
    return _known(named[0] if named else _of_system())


def _known(name: str) -> str | None:
    """The language of a locale's name (`ja_JP.UTF-8`), if it is one of ours."""
    code = name.replace("-", "_").partition(".")[0]
    return next((one for one in languages() if code == one or code.lower().startswith(f"{one.lower()}_")), None)


def _of_system() -> str:
    """The locale of the user's interface; empty if it is unknown."""
    if sys.platform == "win32":
        import ctypes

        return locale.windows_locale.get(ctypes.windll.kernel32.GetUserDefaultUILanguage(), "")
    try:
        return locale.getlocale()[0] or ""
    except ValueError:
        return ""
