"""Text for people: English in the code, at the place of use; other languages in gettext catalogues under `locale/`.

`make messages` extracts the English, updates the catalogues and compiles them. A third language is one more catalogue.
"""

from __future__ import annotations

import gettext
from collections.abc import Iterable, Mapping
from functools import cache, reduce
from pathlib import Path
from typing import Any, Final

DOMAIN: Final = "tsuika"
LOCALE: Final = Path(__file__).parents[1] / "locale"


class Text(str):
    """A message for people: as a string it is English, `to` gives it in another language.

    Parameters that are `Text` themselves are translated along with it.
    """

    msgid: str
    plural: str
    number: int
    params: Mapping[str, object]

    def __new__(cls, msgid: str, params: Mapping[str, object], plural: str = "", number: int = 1) -> Text:
        chosen = msgid if not plural or number == 1 else plural
        text = super().__new__(cls, chosen.format(**params) if params else chosen)
        text.msgid, text.plural, text.number, text.params = msgid, plural, number, params
        return text

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.msgid, self.params, self.plural, self.number

    def to(self, lang: str) -> str:
        """The message in a language; English where the language or the message is unknown."""
        if lang == "en":
            return str(self)
        catalogue = _catalogue(lang)
        if self.plural:
            chosen = catalogue.ngettext(self.msgid, self.plural, self.number)
        else:
            chosen = catalogue.gettext(self.msgid)
        return chosen.format(**translated(self.params, lang)) if self.params else chosen


def _(msgid: str, **params: object) -> Text:
    """A message; `{name}` in it is filled with the parameter of that name. Without parameters braces are plain text."""
    return Text(msgid, params)


def _n(singular: str, plural: str, count: int, **params: object) -> Text:
    """A message about `count` things, which is one of its parameters, in the singular or the plural."""
    return Text(singular, {"count": count, **params}, plural, count)


def in_language(value: object, lang: str) -> object:
    """A value in a language: a `Text` translated, anything else as it is."""
    return value.to(lang) if isinstance(value, Text) else value


def translated(params: Mapping[str, object], lang: str) -> dict[str, object]:
    """Parameters in a language."""
    return {name: in_language(value, lang) for name, value in params.items()}


def listed(texts: Iterable[str]) -> Text:
    """Texts, at least one, as a list in one sentence: `a, b, c`."""
    first, *others = texts
    return reduce(
        lambda before, last: _("{before}, {last}", before=before, last=last), others, Text("{text}", {"text": first})
    )


@cache
def languages() -> tuple[str, ...]:
    """English, and every language that has a catalogue."""
    return "en", *sorted(path.parents[1].name for path in LOCALE.glob(f"*/LC_MESSAGES/{DOMAIN}.po"))


@cache
def _catalogue(lang: str) -> gettext.NullTranslations:
    return gettext.translation(DOMAIN, LOCALE, [lang], fallback=True)
