"""Text for people: English in the code, other languages in gettext catalogues under `locale/`, one more for each, which
`make messages` extracts, updates and compiles."""

from __future__ import annotations

import gettext
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path, PurePath
from typing import Any, Final

DOMAIN: Final = "tsuika"
LOCALE: Final = Path(__file__).parents[1] / "locale"


class Text(str):
    """A message for people: as a string it is English, `to` gives it in another language. `{name}` in it is filled with
    the parameter of that name, and a parameter that is a `Text` is translated along with it. Without parameters (None)
    braces are plain text."""

    msgid: str
    plural: str
    number: int
    params: Mapping[str, object] | None

    def __new__(cls, msgid: str, params: Mapping[str, object] | None = None, plural: str = "", number: int = 1) -> Text:
        chosen = msgid if not plural or number == 1 else plural
        text = super().__new__(cls, chosen if params is None else chosen.format(**params))
        text.msgid, text.plural, text.number, text.params = msgid, plural, number, params
        return text

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.msgid, self.params, self.plural, self.number

    def filled(self, params: Mapping[str, object]) -> Text:
        """The same message with these parameters. Raises KeyError: a gap has no parameter."""
        return Text(self.msgid, params, self.plural, self.number)

    def to(self, lang: str) -> str:
        """The message in a language; English if the language or the message is unknown."""
        # The empty message is the head of a catalogue.
        if lang == "en" or not self.msgid:
            return str(self)
        catalogue = _catalogue(lang)
        if self.plural:
            chosen = catalogue.ngettext(self.msgid, self.plural, self.number)
        else:
            chosen = catalogue.gettext(self.msgid)
        return chosen if self.params is None else chosen.format(**translated(self.params, lang))


def _(msgid: str, **params: object) -> Text:
    """A message; `{name}` in it is filled with the parameter of that name. Without parameters braces are plain text."""
    return Text(msgid, params or None)


def _n(singular: str, plural: str, count: int, **params: object) -> Text:
    return Text(singular, {"count": count, **params}, plural, count)


def listed(items: Iterable[object]) -> Text:
    """Items in a row, with the comma of the language between them."""
    every = [*items]
    if len(every) < 2:
        return Text("{item}", {"item": every[0]}) if every else Text("")
    half = len(every) // 2
    return _("{first}, {second}", first=listed(every[:half]), second=listed(every[half:]))


def few(names: Iterable[str], count: int = 3) -> Text:
    """The first few names, and how many more there are."""
    names = sorted(names)
    shown, more = ", ".join(names[:count]), len(names) - count
    return _("{names} and {count} more", names=shown, count=more) if more > 0 else Text("{names}", {"names": shown})


# Written with a vowel, spoken with a consonant.
_SPOKEN: Final = re.compile(r"uni|us[eu]|eu|one|once|ufo|uk|ewe", re.IGNORECASE)


def article(words: str) -> str:
    """English for prompts and captions, which are never translated, with `a` or `an`: `a dog`, `an owl`, `a unicorn`."""
    is_vowel = words[:1].casefold() in tuple("aeiou") and not _SPOKEN.match(words)
    return f"an {words}" if is_vowel else f"a {words}"


def limited(value: object, most: int = 300) -> object:
    """A value for a message, a path in one line; texts that come from outside are cut where they are longer, at any depth."""
    if isinstance(value, Text):
        params = None if value.params is None else {name: limited(one, most) for name, one in value.params.items()}
        return Text(value.msgid, params, value.plural, value.number)
    if isinstance(value, PurePath):
        return one_line(str(value))
    if isinstance(value, str):
        return value if len(value) <= most else f"{value[: most - 60]} ... {value[-50:]}"
    return limited(str(value), most) if isinstance(value, list | tuple | dict | set | bytes | BaseException) else value


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def one_line(name: str) -> str:
    """The name of a file, which may hold even the end of a line, as it can stand within one."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", name)


def in_language(value: object, lang: str) -> object:
    """A value in a language: a `Text` translated, anything else as it is."""
    return value.to(lang) if isinstance(value, Text) else value


def translated(params: Mapping[str, object], lang: str) -> dict[str, object]:
    """Parameters in a language."""
    return {name: in_language(value, lang) for name, value in params.items()}


@cache
def languages() -> tuple[str, ...]:
    """English, and every language that has a catalogue."""
    return "en", *sorted(path.parents[1].name for path in LOCALE.glob(f"*/LC_MESSAGES/{DOMAIN}.po"))


@cache
def _catalogue(lang: str) -> gettext.NullTranslations:
    return gettext.translation(DOMAIN, LOCALE, [lang], fallback=True)
