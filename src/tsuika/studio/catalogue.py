"""The texts of the pages in every language, from the same catalogues as everybody's: English in the code, gettext."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from tsuika.core.texts import Text, languages

WEB: Final = Path(__file__).parent / "web"
_STRING: Final = r'"((?:[^"\\]|\\.)*)"'
# `_("...")`, and `_n("...", "...", count)`, as `scripts/messages.py` finds them.
_CALLS: Final = re.compile(rf"\b(?:_\(\s*{_STRING}|_n\(\s*{_STRING}\s*,\s*{_STRING})")


def messages(sources: Iterable[Path] | None = None) -> dict[str, str]:
    """Every message of the pages, with its plural or nothing."""
    found = {}
    for path in sorted(WEB.glob("*.js")) if sources is None else sources:
        for single, singular, plural in _CALLS.findall(path.read_text(encoding="utf-8")):
            found[json.loads(f'"{single or singular}"')] = json.loads(f'"{plural}"')
    return found


@cache
def catalogue(lang: str) -> dict[str, str | list[str]]:
    """English to a language: a text, or where it has a plural its forms for one and for many."""
    found: dict[str, str | list[str]] = {}
    for singular, plural in messages().items():
        if plural:
            found[singular] = [Text(singular, None, plural, number).to(lang) for number in (1, 2)]
        else:
            found[singular] = Text(singular).to(lang)
    return found


def known() -> tuple[str, ...]:
    """The languages."""
    return languages()
