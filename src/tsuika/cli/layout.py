"""Text on a terminal: how wide it is, wrapped lines, and tables that fit.

Kana and kanji take two columns and have no spaces to wrap at. No line begins with a closing bracket, a comma or a long
vowel mark, none ends with an opening bracket (kinsoku), and neither numbers nor words in Latin letters or katakana are cut.
"""

from __future__ import annotations

import re
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final

_NO_START: Final = (
    r"、。,，．・：；？！?!:;)\]}）」』】〉》〕”’ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮー々〜～…%％°枚個本回件分秒"
)
_NO_END: Final = r"(\[{（「『【〈《〔“‘"
# A unit is never cut: a word, a run of katakana or one character, with the marks that must stay beside it.
_UNIT: Final = re.compile(
    rf"[{_NO_END}]*(?:[\u30a0-\u30ff]+|[^\s\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef{_NO_END}]+|[^\s{_NO_END}])[{_NO_START}]*|[{_NO_END}]+"
)
GAP: Final = "  "


# Control characters but the end of a line, and those that turn the direction of writing: a terminal obeys them.
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """A text that does nothing to a terminal but to be shown; the names in a file may be anything. JSON stays JSON."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def columns() -> int:
    """Columns of the terminal: `COLUMNS` where it is set, 80 where there is no terminal."""
    return shutil.get_terminal_size().columns


def width(text: str) -> int:
    """Columns that a text takes."""
    return sum(1 + (unicodedata.east_asian_width(one) in "WF") for one in text if not unicodedata.combining(one))


def pad(text: str, wide: int, *, right: bool = False) -> str:
    """A text filled up with spaces to a number of columns."""
    space = " " * (wide - width(text))
    return space + text if right else text + space


def wrap(text: str, *, first: str = "", rest: str = "", wide: int = 0) -> str:
    """A text in lines of at most `wide` columns (0: those of the terminal).

    Args:
        first: what the first line begins with.
        rest: what the other lines begin with.
    """
    return "\n".join(_lines(text, wide or columns(), first, rest))


def _lines(text: str, wide: int, first: str, rest: str) -> Iterator[str]:
    line, begin, end = "", first, 0
    for found in _UNIT.finditer(text):
        # What is never cut, with the spaces before it.
        gap, unit, end = text[end : found.start()], found[0], found.end()
        if line and width(begin + line + gap + unit) > wide:
            yield begin + line
            line, begin = unit, rest
        else:
            line = line + gap + unit if line else unit
    yield (begin + line).rstrip()


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), wide: int = 0) -> str:
    """Rows in columns as wide as they need to be; the last column wraps where the terminal ends.

    Args:
        right: columns that are set flush right, such as numbers.
    """
    if not rows:
        return ""
    widths = [max(width(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [pad(cell, size, right=place in right) for place, (cell, size) in enumerate(zip(row, widths))]
        first = GAP.join([*cells, ""])
        lines.append(wrap(row[-1], first=first, rest=" " * width(first), wide=wide).rstrip())
    return "\n".join(lines)
