"""Prompt editing in the syntax of the A1111 web UI: text that is another at another step of the sampler.

`[from:to:when]`, `[to:when]` and `[from::when]` change at a share of the steps (`0.5`) or after a number of them (`12`);
`[one|two|...]` takes turns. Knows no model. The syntax is described on that program's wiki ("Prompt editing").
"""

from __future__ import annotations

import re
from typing import Final

_INNERMOST: Final = re.compile(r"(?<!\\)\[((?:\\.|[^\[\]\\])*)\]")
_WHEN: Final = re.compile(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*")
# In the place of brackets that are no editing (they lower a weight), while those around them are looked at.
_KEPT: Final = str.maketrans("\0\1", "[]")


def at_step(source: str, step: int, steps: int) -> str:
    """What a prompt says at `step`, 1 to `steps`."""

    def chosen(match: re.Match[str]) -> str:
        edited = _edited(match[1], step, steps)
        return f"\0{match[1]}\1" if edited is None else edited

    while (text := _INNERMOST.sub(chosen, source)) != source:
        source = text
    return source.translate(_KEPT)


def plan(source: str, steps: int) -> tuple[tuple[int, str], ...]:
    """(last step, text) of every stretch of steps with one text; one where nothing is edited."""
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
        last = min(steps, int(float(number[1]) * (steps if "." in number[1] else 1)))
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
