"""The report's words: sentences in every language, of which the page shows one, and numbers for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

from markupsafe import Markup, escape

from tsuika.core.texts import Text
from tsuika.evaluate.report_texts import TEXTS

Language = Literal["en", "ja"]
LANGUAGES: Final[tuple[Language, ...]] = ("en", "ja")


def text(key: str, language: Language, **values: object) -> str:
    """A sentence of the table; a key of an open set (`phase.`, `score.`, ...) that is not in it names itself."""
    sentence = TEXTS[language].get(key)
    if sentence is None:
        group, _, name = key.partition(".")
        if group not in ("phase", "score", "family", "stopped"):
            raise KeyError(key)
        return name
    return sentence.format(**values)


def _rich(sentence: str) -> Markup:
    """Escaped, with `words in backticks` as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(sentence))))  # noqa: S704 - escaped just before


def unbroken(paste: str) -> Markup:
    """Text to paste whose words do not break at their hyphens; what is copied stays the same."""
    return Markup("").join(
        Markup("<span>{}</span>").format(word) if word.strip() else word for word in re.split(r"(\s+)", paste)
    )


def spans(sentences: Mapping[str, str]) -> Markup:
    """A sentence that is there in every language; the page shows one."""
    return Markup("").join(
        Markup('<span class="t" lang="{}">{}</span>').format(language, _rich(sentences[language]))
        for language in LANGUAGES
    )


def both(key: str, **values: object) -> Markup:
    """A sentence of the table, or a message, in every language. A value may be a dict of one word a language."""
    if isinstance(key, Text):
        return spans({language: key.to(language) for language in LANGUAGES})
    said: dict[str, str] = {}
    for language in LANGUAGES:
        own = {name: value[language] if isinstance(value, dict) else value for name, value in values.items()}
        said[language] = text(key, language, **own)
    return spans(said)


def words(key: str) -> dict[str, str]:
    return {language: text(key, language) for language in LANGUAGES}


def duration(seconds: float) -> dict[str, str]:
    """`3 min 12 s` and `3分12秒`."""
    if seconds < 10:
        return {"en": f"{seconds:.1f} s", "ja": f"{seconds:.1f}秒"}
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return {"en": f"{hours} h {minutes} min", "ja": f"{hours}時間{minutes}分"}
    if minutes:
        return {"en": f"{minutes} min {rest} s", "ja": f"{minutes}分{rest}秒"}
    return {"en": f"{rest} s", "ja": f"{rest}秒"}


def size(count: float) -> str:
    """Bytes for people, decimal: `4.2 MB`."""
    for unit in ("B", "kB", "MB"):
        if round(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
