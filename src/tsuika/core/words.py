"""Words in two languages beside each other. It goes as soon as every text is in the catalogue (`core.texts`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tsuika.core import messages
from tsuika.core.texts import Text, translated

Lang = str


class Words(Text):
    """An English text that holds its Japanese itself."""

    ja: str

    def __new__(cls, en: str, ja: str = "") -> Words:
        words = super().__new__(cls, en)
        assert isinstance(words, cls)
        words.ja = ja or en
        return words

    def __getnewargs__(self) -> tuple[Any, ...]:
        return str(self), self.ja

    def to(self, lang: str) -> str:
        """The text in a language."""
        return self.ja if lang == "ja" else str(self)


def sentence(code: str, params: Mapping[str, object], lang: str) -> str:
    """A message in one line, in a language."""
    return messages.sentence(code, params).to(lang)


def in_language(values: Mapping[str, object], lang: str) -> dict[str, object]:
    """Values in a language."""
    return translated(values, lang)
