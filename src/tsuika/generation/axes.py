"""Axes of a comparison: what one varies, its values as people write them, and what each makes of a drawing.

`NAME=V1,V2,...`; quotes around a value that has a comma; ranges as in the A1111 web UI: `1-5`, `0-1 (+0.25)` (step),
`1-10 [5]` (so many, evenly).
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any, Final

from tsuika.core.errors import RecipeError, misspelt
from tsuika.core.files import split_strength
from tsuika.core.texts import _
from tsuika.generation.drawing import FLAGS, Drawing
from tsuika.generation.lookup import saved_steps

MOST_CELLS = 1000  # in a sheet: a slip of the pen in a range asks for more

Value = str | int | float


@dataclass(frozen=True)
class AxisKind:
    """How an axis' values are read, and how much work it is to go from one to the next."""

    type: type[str] | type[int] | type[float]
    cost: int  # 0: draw; 1: set a strength, or change to a VAE that is kept; 2: read artifacts; 3: load a base


KINDS: Final[Mapping[str, AxisKind]] = {
    "base": AxisKind(str, 3),
    "vae": AxisKind(str, 1),
    "artifact": AxisKind(str, 2),
    "step": AxisKind(str, 2),
    "strength": AxisKind(float, 1),
    "prompt": AxisKind(str, 0),
    "negative": AxisKind(str, 0),
    "seed": AxisKind(int, 0),
    "cfg": AxisKind(float, 0),
    "steps": AxisKind(int, 0),
    "sampler": AxisKind(str, 0),
    "size": AxisKind(str, 0),
}

_NUMBER = r"([+-]?(?:\d+\.?\d*|\.\d+))"
_RANGE = re.compile(rf"{_NUMBER}\s*-\s*{_NUMBER}\s*(?:\(\s*{_NUMBER}\s*\)|\[\s*(\d+)\s*\])?")


# Of these a second one goes on from what the first has put.
ADDING: Final = ("prompt", "artifact")


@dataclass(frozen=True)
class Axis:
    name: str  # of KINDS
    values: tuple[Value, ...]
    of: str = ""  # the one artifact whose strength it is, by file stem; empty: all

    @property
    def cost(self) -> int:
        """Work between two values; a prompt that names artifacts costs as they do."""
        return 2 if self.name == "prompt" and any("<" in str(value) for value in self.values) else KINDS[self.name].cost

    @property
    def labels(self) -> tuple[str, ...]:
        """What stands beside the images."""
        texts = [f"{value:g}" if isinstance(value, float) else str(value) for value in self.values]
        if self.name in ("base", "vae", "artifact"):
            files = [split_strength(text) for text in texts]
            stems = [path.stem if strength == 1 else f"{path.stem}:{strength:g}" for path, strength in files]
            return tuple(stems if len(set(stems)) == len(stems) else texts)
        if self.name in ("prompt", "negative"):
            return tuple(texts)
        return tuple(f"{self.of} {self.name} {text}".strip() for text in texts)

    def put(self, number: int, drawing: Drawing) -> Drawing:
        """The drawing at this axis' value of that number. Raises RecipeError (RC002): a text or step that is nowhere."""
        value: Any = self.values[number]
        if self.name == "strength":
            return replace(drawing, strengths=(*drawing.strengths, (self.of, value)))
        if self.name == "artifact":
            return drawing if value == "none" else replace(drawing, artifact=(*drawing.artifact, value))
        if self.name == "step":
            return _at_step(drawing, value)
        if self.name == "prompt":
            return self._replaced(drawing, value)
        return replace(drawing, **{self.name: value})

    def _replaced(self, drawing: Drawing, value: str) -> Drawing:
        """A1111's "Prompt S/R": the first value is looked for, in both prompts, and each stands in its place."""
        searched = str(self.values[0])
        if searched not in drawing.prompt + "\n" + drawing.negative:
            why = _("The first value must be a part of the prompt: it is what gets replaced.")
            raise _wrong("prompt", searched, why)
        prompt, negative = (text.replace(searched, value) for text in (drawing.prompt, drawing.negative))
        return replace(drawing, prompt=prompt, negative=negative)


def parse_axis(text: str) -> Axis:
    """Read `NAME=V1,V2` or `strength:ARTIFACT=V1,V2`. Raises RecipeError (RC002): no such axis, no value, or no number."""
    name, equals, values = text.partition("=")
    name, _colon, of = name.strip().partition(":")
    name = name.strip().lower()
    if name not in KINDS:
        raise misspelt("axis", name, KINDS) if name else _wrong("axis", text, "seed=1,2,3; cfg=1-10 [5]")
    if of and name != "strength":
        why = _("Only strength can be of one artifact: strength:NAME=0,0.5,1")
        raise _wrong("axis", text, why)
    parts = [part.strip() for part in next(csv.reader([values], skipinitialspace=True), [])]
    if not equals or not any(parts):
        raise _wrong("axis", text, _("It has no values: {name}=V1,V2", name=name))
    kind = KINDS[name].type
    read = [value for part in parts for value in ([part] if kind is str else _numbers(name, part, kind))]
    return Axis(name, tuple(read), of.strip())


def _numbers(name: str, text: str, kind: type[str] | type[int] | type[float]) -> Iterator[Value]:
    """Of one number or a range, exact in decimals."""
    match = _RANGE.fullmatch(text)
    if not match:
        if not re.fullmatch(_NUMBER if kind is float else r"[+-]?\d+", text):
            raise _wrong(name, text, "0.5, 0-1 (+0.25), 1-10 [5]" if kind is float else "1, 1-5, 1-10 (+3), 1-10 [4]")
        yield kind(text)
        return
    first, last = Decimal(match[1]), Decimal(match[2])
    if match[4]:
        count = int(match[4])
        step = (last - first) / max(count - 1, 1)
    else:
        step = Decimal(match[3] or 1).copy_abs() * (1 if last >= first else -1)
        count = int((last - first) / step) + 1 if step else 0
    if not 0 < count <= MOST_CELLS:
        raise _wrong(name, text, f"1 … {MOST_CELLS}")
    for number in range(count):
        value = first + step * number
        yield round(value) if kind is int else float(value)


def spread(axis: Axis, drawing: Drawing) -> Axis:
    """An axis with `step=all` written out."""
    if axis.name != "step" or axis.values != ("all",):
        return axis
    path = _only_artifact(drawing)[1]
    return replace(axis, values=tuple(_steps(path)))


def _at_step(drawing: Drawing, value: str) -> Drawing:
    """The drawing with its one artifact as it was at a step: of the files beside it, the one of that number.

    What is said of its strength by name is then said of that file.
    """
    key, path, strength = _only_artifact(drawing)
    known = _steps(path)
    if value not in known:
        raise _wrong("step", value, f"{path.parent}: {', '.join(known)}")
    one: Any = (f"{known[value]}:{strength}",)
    strengths = tuple((known[value].stem if name == path.stem else name, set_to) for name, set_to in drawing.strengths)
    return replace(drawing, strengths=strengths, **{key: one})


def _only_artifact(drawing: Drawing) -> tuple[str, Path, float]:
    given = [(key, *split_strength(text)) for key in FLAGS for text in getattr(drawing, key)]
    if len(given) != 1:
        why = _("It needs exactly one artifact whose steps they are, for example --lora FILE.")
        raise _wrong("axis", "step", why)
    return given[0]


def _steps(path: Path) -> dict[str, Path]:
    return {"last" if step is None else str(step): file for step, file in saved_steps(path).items()}


def order(axes: Sequence[Axis]) -> list[tuple[int, ...]]:
    """The places of all cells, one number an axis: what is expensive changes least often. Raises RecipeError (RC002): too many."""
    ranked = sorted(range(len(axes)), key=lambda number: (-axes[number].cost, -number))
    counts = [len(axes[number].values) for number in ranked]
    if math.prod(counts) > MOST_CELLS:
        raise _wrong("axis", " x ".join(map(str, counts)), f"≤ {MOST_CELLS}")
    places = (dict(zip(ranked, cell)) for cell in product(*map(range, counts)))
    return [tuple(place[number] for number in range(len(axes))) for place in places]


def _wrong(key: str, found: object, why: str) -> RecipeError:
    return RecipeError("RC002", key=key, found=found, why=why)
