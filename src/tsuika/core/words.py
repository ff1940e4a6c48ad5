"""Words for people in two languages: the table of messages with its gaps filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from tsuika.core.messages import MESSAGES
from tsuika.core.texts import translated

Lang = Literal["en", "ja"]
Part = Literal["what", "why", "do"]
PARTS: Final[tuple[Part, ...]] = ("what", "why", "do")


class Words(str):
    """An English text that knows itself in Japanese: what goes into the gap of a message, and is no name or number."""

    ja: str

    def __new__(cls, en: str, ja: str = "") -> Words:
        words = super().__new__(cls, en)
        words.ja = ja or en
        return words


def sentence(code: str, params: Mapping[str, object], lang: str) -> str:
    """A message in one line: what, then why and what to do.

    Raises:
        KeyError: the code has no message, or a gap no value.
    """
    what, *rest = (text for part in PARTS if (text := filled(code, part, params, lang)))
    return f"{what}。{''.join(rest)}" if lang == "ja" else " ".join([f"{what}.", *rest])


def filled(code: str, part: Part, params: Mapping[str, object], lang: str) -> str:
    """One part of a message, in a language.

    Raises:
        KeyError: the code has no message, or a gap no value.
    """
    return MESSAGES[code][lang][part].format(**in_language(params, lang))


def in_language(values: Mapping[str, object], lang: str) -> dict[str, object]:
    """Values as they go into a text of a language: of `Words` the right ones."""
    texts = translated(values, lang)
    return {name: value.ja if lang == "ja" and isinstance(value, Words) else value for name, value in texts.items()}
