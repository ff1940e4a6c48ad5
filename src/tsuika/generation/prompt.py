"""Prompts in the syntax of the A1111 web UI: weights, `BREAK`, editing, and the LoRA and hypernetwork tags.

ComfyUI's `embedding:NAME` is understood, too. Knows no model and no tokenizer. The syntax is described on A1111's wiki
("Attention/emphasis", "Extra networks" and "Prompt editing").
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final

from tsuika.core.errors import RecipeError
from tsuika.core.texts import _
from tsuika.methods import METHODS, Method

ROUND = 1.1  # (x) multiplies by it, [x] divides by it
TAGS: Final[dict[str, Method]] = {method.tag: method for method in METHODS.values() if method.tag}  # by their word

_TAG = re.compile(r"<(\w+):([^<>]+)>")
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_TOKEN = re.compile(rf"\\[()\[\]\\]|:\s*({_NUMBER})\s*\)|[()\[\]]|[^\\()\[\]:]+|.", re.DOTALL)
# What is meant as a tag and is none: never closed, without a name, or with a space after the bracket.
_BROKEN_TAG = re.compile(rf"<\s*(?:{'|'.join(TAGS)})\b[^<>]*(?:>|$)", re.IGNORECASE)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_AND = re.compile(r"\bAND\b")
# ComfyUI's spelling of a new word: `embedding:NAME`, with a folder before and a file's ending behind it or without.
_NAMED = re.compile(r"(?<![^\s(\[,|:])embedding:([^\s,()\[\]|:]+)")
_FILE = re.compile(r"\.(safetensors|pt|bin|ckpt)$", re.IGNORECASE)
_INNERMOST: Final = re.compile(r"(?<!\\)\[((?:\\.|[^\[\]\\])*)\]")
_WHEN: Final = re.compile(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*")
# In the place of brackets that are no editing (they lower a weight), while those around them are looked at.
_KEPT: Final = str.maketrans("\0\1", "[]")


@dataclass(frozen=True)
class Weighted:
    """A stretch of plain text and how much it weighs; 1 is neutral."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Tag:
    kind: str  # of TAGS
    name: str
    unet: float = 1.0
    text: float = 1.0  # of the text encoders; the same where the method has one strength

    def __str__(self) -> str:
        two = self.text != self.unet and TAGS[self.kind].splits_strength
        text = f"{self.text:g}:{self.unet:g}" if two else f"{self.unet:g}"
        return f"<{self.kind}:{self.name}:{text}>"


@dataclass(frozen=True)
class Prompt:
    """A parsed prompt. `sections`, at least one, are what `BREAK` separates; neighbours in one differ in weight."""

    source: str
    sections: tuple[tuple[Weighted, ...], ...]
    tags: tuple[Tag, ...] = ()
    words: tuple[str, ...] = ()  # that are asked for by name, as `embedding:NAME`
    ignored: tuple[str, ...] = ()  # what the syntax knows elsewhere and tsuika does not do: for a warning

    @property
    def text(self) -> str:
        """What is left for a tokenizer that knows no weights."""
        return " ".join("".join(part.text for part in section) for section in self.sections)

    @property
    def is_plain(self) -> bool:
        """No weight other than 1 and no `BREAK`."""
        return len(self.sections) == 1 and all(part.weight == 1 for part in self.sections[0])


def parse(source: str) -> Prompt:
    """Read a prompt. Brackets without a partner are text, those never closed reach to the end.

    Raises RecipeError (RC002): a tag's strength or a weight is not a finite number.
    """
    tags: list[Tag] = []
    ignored: list[str] = []

    def take(match: re.Match[str]) -> str:
        kind = match[1].lower()
        if kind in TAGS:
            tag, unused = _tag(kind, match[2], match[0])
            tags.append(tag)
            ignored.extend(unused)
        else:
            ignored.append(match[0])
        return ""

    words: list[str] = []

    def name(match: re.Match[str]) -> str:
        words.append(_FILE.sub("", re.split(r"[/\\]", match[1])[-1]))
        return words[-1]

    text = _NAMED.sub(name, _TAG.sub(take, source))
    ignored += [match[0] for kind in (_BROKEN_TAG, _AND) for match in kind.finditer(text)]
    return Prompt(source, tuple(map(tuple, _sections(_weigh(text)))), tuple(tags), tuple(words), tuple(ignored))


def without_tags(source: str) -> str:
    """A prompt without the tags of artifacts; all else stays as it was written."""
    return _TAG.sub(lambda match: "" if match[1].lower() in TAGS else match[0], source).rstrip()


def _tag(kind: str, body: str, whole: str) -> tuple[Tag, list[str]]:
    name, *rest = body.split(":")
    given: dict[str, float] = {}
    unused: list[str] = []
    for place, value in zip(("te", "unet", "dyn"), [part for part in rest if "=" not in part], strict=False):
        given[place] = _number(value, whole)
    for part in (part for part in rest if "=" in part):
        key, _, value = part.partition("=")
        if key.strip() in ("te", "unet", "dyn"):
            given[key.strip()] = _number(value, whole)
        else:
            unused.append(f"{part} in {whole}")
    if "dyn" in given:
        unused.append(f"dyn in {whole}")
    text = given.get("te", 1.0)
    return Tag(kind, name.strip(), given.get("unet", text), text), unused


def _number(value: str, whole: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RecipeError("RC002", key="prompt", found=whole, why=f"`{value.strip()}` != 0.8, 1, -0.5 …")
    return number


def _weigh(text: str) -> list[Weighted]:
    parts: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # where each still open bracket's text begins

    def multiply(start: int, factor: float) -> None:
        parts[start:] = [(piece, weight * factor) for piece, weight in parts[start:]]

    for match in _TOKEN.finditer(text):
        piece, number = match[0], match[1]
        if len(piece) == 2 and piece[0] == "\\":
            parts.append((piece[1], 1.0))
        elif piece in opened:
            opened[piece].append(len(parts))
        elif number is not None and opened["("]:
            multiply(opened["("].pop(), float(number))
        elif piece == ")" and opened["("]:
            multiply(opened["("].pop(), ROUND)
        elif piece == "]" and opened["["]:
            multiply(opened["["].pop(), 1 / ROUND)
        else:
            parts.append((piece, 1.0))
    for start in opened["("]:
        multiply(start, ROUND)
    for start in opened["["]:
        multiply(start, 1 / ROUND)
    if huge := next((text for text, weight in parts if not math.isfinite(weight)), ""):
        raise RecipeError("RC002", key="prompt", found=huge, why=_("Its weight is too large."))
    merged = [
        Weighted("".join(text for text, _weight in group), weight) for weight, group in groupby(parts, itemgetter(1))
    ]
    return merged or [Weighted("")]


def _sections(parts: Sequence[Weighted]) -> list[list[Weighted]]:
    sections: list[list[Weighted]] = [[]]
    for part in parts:
        for number, text in enumerate(_BREAK.split(part.text)):
            if number:
                sections.append([])
            if text:
                sections[-1].append(Weighted(text, part.weight))
    return [section or [Weighted("")] for section in sections]


def at_step(source: str, step: int, steps: int) -> str:
    """What a prompt says at `step`, 1 to `steps`."""

    def chosen(match: re.Match[str]) -> str:
        edited = _edited(match[1], step, steps)
        return f"\0{match[1]}\1" if edited is None else edited

    while (text := _INNERMOST.sub(chosen, source)) != source:
        source = text
    return source.translate(_KEPT)


def plan(source: str, steps: int) -> tuple[tuple[int, str], ...]:
    """(last step, text) of every stretch of steps with one text, by prompt editing; one where nothing is edited.

    `[from:to:when]`, `[to:when]` and `[from::when]` change at a share of the steps (`0.5`) or after a number of them (`12`);
    `[one|two|...]` takes turns.
    """
    stretches: list[tuple[int, str]] = []
    for step in range(1, steps + 1):
        text = at_step(source, step, steps)
        if stretches and stretches[-1][1] == text:
            stretches.pop()
        stretches.append((step, text))
    return tuple(stretches)


def _edited(body: str, step: int, steps: int) -> str | None:
    """What stands at a step in place of brackets with this between them; None where it is no editing."""
    *texts, when = _split(body, ":")
    if 1 <= len(texts) <= 2 and (number := _WHEN.fullmatch(when)):
        # As A1111 has it: a number with a point is a share.
        last = int(min(steps, float(number[1]) * (steps if "." in number[1] else 1)))
        before, after = texts if len(texts) == 2 else ("", *texts)
        return before if step <= last else after
    turns = _split(body, "|")
    return turns[(step - 1) % len(turns)] if len(turns) > 1 else None


def _split(body: str, mark: str) -> list[str]:
    """The text at every mark that is in no parentheses and not escaped."""
    pieces, depth = [""], 0
    for token in re.findall(r"\\.|.", body, re.DOTALL):
        depth = max(depth + {"(": 1, ")": -1}.get(token, 0), 0)
        if token == mark and not depth:
            pieces.append("")
        else:
            pieces[-1] += token
    return pieces
