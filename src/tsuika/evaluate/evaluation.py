"""The outcome of an evaluation as plain values: what `evaluation.json` holds, and what the terminal and the page show of it.

Holds no date and no duration: the same drawings give the same text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tsuika.evaluate.bootstrap import Table, interval
from tsuika.evaluate.measures import Scale, Tables
from tsuika.evaluate.pairs import Pair
from tsuika.evaluate.prompts import Asked
from tsuika.evaluate.verdict import Judgement, Point, Verdict, difference
from tsuika.evaluate.verdict_words import sentences
from tsuika.evaluate.wording import LANGUAGES

MEASURES: Final = ("fidelity", "adherence", "others", "drift", "diversity")
WORST: Final = 4  # look-alikes that are told


@dataclass(frozen=True)
class Evaluation:
    """Everything that was found."""

    name: str  # of the result
    trigger: str
    encoder: str  # empty: none
    asked: tuple[Asked, ...]
    seeds: tuple[int, ...]
    base: Tables
    points: tuple[Point, ...]
    scale: Scale
    verdict: Verdict
    worst: tuple[Pair, ...]  # of the main point
    notes: tuple[dict[str, str], ...] = ()  # code, and the words in each language

    def as_dict(self) -> dict[str, Any]:
        """Plain values, no pictures."""
        verdict = self.verdict
        return {
            "name": self.name,
            "trigger": self.trigger,
            "encoder": self.encoder or None,
            "prompts": {
                group: [one.text for one in self.asked if one.group == group]
                for group in ("subject", "unrelated", "captions")
            },
            "seeds": list(self.seeds),
            "scale": {"real": self.scale.real, "chance": self.scale.chance, "other_prompt": self.scale.other_prompt},
            "base": _measures(self.base),
            "points": [
                {
                    "state": point.state,
                    "file": point.file,
                    "step": point.step,
                    "strength": point.strength,
                    "main": row == verdict.main,
                    "best": row == verdict.best,
                    **_measures(point.tables, self.base),
                    **_told(judgement),
                }
                for row, (point, judgement) in enumerate(zip(self.points, verdict.judgements, strict=True))
            ],
            "matched": verdict.matched and verdict.matched.as_dict(),
            "verdict": {
                "grade": verdict.grade,
                "sentence": {language: sentences(self, language) for language in LANGUAGES},
            },
            "lookalikes": [pair.as_dict() for pair in self.worst],
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """The text of `evaluation.json`."""
        return json.dumps(self.as_dict(), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _measures(tables: Tables, base: Tables | None = None) -> dict[str, Any]:
    """Each measure's mean with its interval, beside its difference from the base's; None for what was not measured."""
    found: dict[str, Any] = {}
    for name in MEASURES:
        table: Table | None = getattr(tables, name)
        value = None if table is None else interval(table)
        found[name] = None if value is None else value.as_dict()
        if value is not None and base is not None and name != "drift":
            change = difference(table, getattr(base, name))
            found[name]["difference"] = None if change is None else change.as_dict()
    return found | {"copies": int(tables.copies.sum()), "drawings": tables.copies.size}


def _told(judgement: Judgement) -> dict[str, Any]:
    return {
        "grade": judgement.grade,
        "lost": list(judgement.lost),
        "too_dear": list(judgement.dear),
        "score": judgement.score,
    }


def states_of(points: Sequence[Point]) -> list[tuple[str, int]]:
    """The kept steps, in order."""
    return list(dict.fromkeys((point.state, point.step) for point in points))
