"""The outcome of an evaluation as in `evaluation.json`, and its verdict in sentences. It holds no date and no duration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from tsuika.core.bootstrap import Table, of_table
from tsuika.core.intervals import Interval
from tsuika.core.texts import Text, _, listed
from tsuika.evaluation.measures import Scale, Tables
from tsuika.evaluation.near_copies import NearestImage
from tsuika.evaluation.prompts import Asked
from tsuika.evaluation.verdict import EvaluationVerdict, Grade, Point, difference, moved
from tsuika.pages import in_languages, sentences, span_of

MEASURES: Final = ("fidelity", "adherence", "others", "drift", "diversity")
OF_SUBJECTS: Final = ("fidelity", "adherence", "diversity")  # those of prompts that are about a subject
WORST: Final = 4  # how many of the drawings nearest to a training image are kept


@dataclass(frozen=True)
class Evaluation:
    """Everything that was found.

    `encoder` is empty for none; `worst` are the drawings of the main point that are nearest to a training image; `notes` codes,
    and the words by language.
    """

    name: str
    trigger: str
    encoder: str
    asked: tuple[Asked, ...]
    seeds: tuple[int, ...]
    base: Tables
    points: tuple[Point, ...]
    scale: Scale
    verdict: EvaluationVerdict
    worst: tuple[NearestImage, ...]
    notes: tuple[dict[str, str], ...] = ()
    subjects: tuple[str, ...] = ()  # trigger and class word of each, where there are several

    def of_subject(self, table: Table | None, place: int) -> Table | None:
        """The rows of a table of subject prompts that are about one of the subjects."""
        about = [one.about for one in self.asked if one.group == "subject"]
        rows = [row for row, places in enumerate(about) if place in places]
        return table[rows] if table is not None and rows else None

    def to_dict(self) -> dict[str, Any]:
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
            "scale": asdict(self.scale),
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
                    "drift_share": moved(point.tables, self.scale),
                    "grade": judgement.grade,
                    "lost": list(judgement.lost),
                    "too_dear": list(judgement.dear),
                    "score": judgement.score,
                }
                for row, (point, judgement) in enumerate(zip(self.points, verdict.judgements, strict=True))
            ],
            "subjects": [self._subject(place) for place in range(len(self.subjects))],
            "matched": verdict.matched and verdict.matched.to_dict(),
            "verdict": {"grade": verdict.grade, "sentence": in_languages(said(self))},
            "lookalikes": [pair.to_dict() for pair in self.worst],
            "notes": list(self.notes),
        }

    def _subject(self, place: int) -> dict[str, Any]:
        """What was measured on the prompts of one of several subjects."""

        def own(tables: Tables, name: str) -> Table | None:
            return self.of_subject(getattr(tables, name), place)

        def rows(tables: Tables, base: Tables | None = None) -> dict[str, Any]:
            return {
                name: _measure(own(tables, name), own(base, name) if base else None, base is not None)
                for name in OF_SUBJECTS
            }

        points = [
            {"state": point.state, "step": point.step, "strength": point.strength, **rows(point.tables, self.base)}
            for point in self.points
        ]
        return {"name": self.subjects[place], "base": rows(self.base), "points": points}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _measures(tables: Tables, base: Tables | None = None) -> dict[str, Any]:
    """Each measure's mean with its interval, beside its difference from the base's; None for what was not measured."""
    found: dict[str, Any] = {}
    for name in MEASURES:
        is_compared = base is not None and name != "drift"
        found[name] = _measure(getattr(tables, name), getattr(base, name, None), is_compared)
    return found | {"copies": int(tables.copies.sum()), "drawings": tables.copies.size}


def _measure(table: Table | None, base: Table | None, is_compared: bool) -> dict[str, Any] | None:
    value = None if table is None else of_table(table)
    if value is None:
        return None
    change = difference(table, base)
    return value.to_dict() | ({"difference": change and change.to_dict()} if is_compared else {})


def said(evaluation: Evaluation) -> Text:
    """The verdict: what was gained, what it costs, copies, the best trade, kept steps at equal likeness."""
    verdict = evaluation.verdict
    main, row = evaluation.points[verdict.main], verdict.judgements[verdict.main]
    first, *more = _gained(evaluation)
    more += _by_subject(evaluation)
    if row.grade != "copies":
        more.append(
            _(
                "{copies} of {drawings} drawings resemble a training image; that many may be chance.",
                copies=row.copies,
                drawings=row.drawings,
            )
            if row.copies
            else _("None of {drawings} drawings copies a training image.", drawings=row.drawings)
        )
    if (share := moved(main.tables, evaluation.scale)) is not None and "drift" not in row.lost:
        more.append(
            _(
                "Images of prompts without the trigger word have changed by {share}, where 100% is the difference between"
                " two prompts.",
                share=f"{100 * share:.0f}%",
            )
        )
    if row.gain is None and row.doubted:
        more.append(_("The guard saw no gain on held-out images, so do not expect much."))
    if row.gain is not None:
        more.append(_best(evaluation))
    if (equal := verdict.matched) is not None:
        level, (one, other_one, *_rest) = f"{equal.fidelity:.2f}", equal.states
        more.append(
            _(
                "At equal likeness ({level}) step {first} follows prompts better than step {second}: {interval}.",
                level=level,
                first=f"{one[1]:,}",
                second=f"{other_one[1]:,}",
                interval=_interval(equal.lead),
            )
            if equal.lead.sign > 0
            else _(
                "At equal likeness ({level}) no kept step follows prompts measurably better than another.", level=level
            )
        )
    return sentences(first, *more)


def _gained(evaluation: Evaluation) -> list[Text]:
    row = evaluation.verdict.judgements[evaluation.verdict.main]
    like, costs, dear = _like(evaluation), _costs(evaluation, row.lost), _costs(evaluation, row.dear)
    better = _("Better than the base at what you trained: {like}.", like=like)
    counted = {"copies": row.copies, "drawings": row.drawings}
    by_grade: dict[Grade, list[Text]] = {
        "good": [better, _("Nothing else has measurably suffered.")],
        "trade": [better, _("It costs something: {costs}.", costs=costs)],
        "slight": [
            _("Hardly like what you trained yet: {like}.", like=like),
            _("In the drawings little of it will be seen."),
        ],
        "doubtful": [
            _("The drawings are nearer to what you trained than the base's: {like}.", like=like),
            _("But the guard saw no gain on held-out images, so do not expect much in other scenes."),
        ],
        "dear": [
            _("It draws what you trained: {like}.", like=like),
            _("But the price is too high: {costs}.", costs=dear),
        ],
        "copies": [_("It copies: {copies} of {drawings} drawings are a training image again.", **counted)],
        "unclear": [
            _("Perhaps better than the base at what you trained; the drawings are too few to tell: {like}.", like=like),
            _("Draw more of each prompt: --seeds {count}", count=2 * len(evaluation.seeds)),
        ],
        "nothing": [
            _("No better than the base at what you trained: {like}.", like=like),
            _("That is within chance, or too little to see."),
        ],
        "stiff": [
            _("Drawings of one prompt have become nearly the same: {costs}.", costs=dear),
            _("Whether they are like your images was not measured."),
        ],
        "unmeasured": [
            _("Whether the result is like your images was not measured, for want of an encoder: judge by the drawings.")
        ],
    }
    said = by_grade[row.grade]
    if row.grade == "copies" and like:
        said.append(_("Measured: {like}.", like=like))
    if row.grade == "copies" and row.lost:
        said.append(_("It also costs: {costs}.", costs=costs))
    if row.grade == "nothing" and row.gain is not None and row.gain.sign < 0:
        said = [_("Less like what you trained than the base: {like}.", like=like)]
    if row.grade in ("unclear", "nothing") and row.lost:
        said.append(_("It costs all the same: {costs}.", costs=costs))
    return said


def _by_subject(evaluation: Evaluation) -> Iterator[Text]:
    """Of several subjects the likeness of each, and which have not gained any."""
    base, tables = evaluation.base, evaluation.points[evaluation.verdict.main].tables
    each: list[Text] = []
    without: list[str] = []
    for place, name in enumerate(evaluation.subjects):
        before, after = (evaluation.of_subject(one.fidelity, place) for one in (base, tables))
        change = difference(after, before)
        if before is None or after is None or change is None:
            continue
        shown = {"before": f"{before.mean():.2f}", "after": f"{after.mean():.2f}", "interval": _interval(change)}
        each.append(_("`{name}` {before} → {after} ({interval})", name=name or "–", **shown))
        if change.sign <= 0:
            without.append(f"`{name or '–'}`")
    if each:
        yield _("Likeness of each to its own images: {each}.", each=listed(each))
    if without:
        yield _("No nearer to its images than the base's drawings: {names}.", names=listed(without))


def _best(evaluation: Evaluation) -> Text:
    verdict = evaluation.verdict
    if verdict.best is None:
        return _("No kept step and strength can be recommended.")
    best = evaluation.points[verdict.best]
    strength = f"{best.strength:g}"
    if verdict.best == verdict.main:
        return _("As it is, at strength {strength}, it is the best trade of those tried.", strength=strength)
    return _(
        "The best trade of those tried is step {step} at strength {strength} ({state}).",
        step=f"{best.step:,}",
        strength=strength,
        state=best.state,
    )


def _like(evaluation: Evaluation) -> Text | str:
    row = evaluation.verdict.judgements[evaluation.verdict.main]
    before, after = evaluation.base.fidelity, evaluation.points[evaluation.verdict.main].tables.fidelity
    if row.gain is None or before is None or after is None:
        return ""
    real, start, end = evaluation.scale.real, float(before.mean()), float(after.mean())
    # Two digits, unless their difference would then contradict the one that is shown beside them.
    digits = 2 if round(round(end, 2) - round(start, 2), 2) == round(row.gain.mean, 2) else 3
    shown: dict[str, object] = {
        "before": f"{start:.{digits}f}",
        "after": f"{end:.{digits}f}",
        "interval": _interval(row.gain, digits),
    }
    if real is None or real <= start or not row.gained:
        return _("likeness {before} → {after} ({interval})", **shown)
    share = f"{100 * row.gain.mean / (real - start):.0f}%"
    return _("likeness {before} → {after} ({interval}; {share} of the way to your own images)", share=share, **shown)


def _costs(evaluation: Evaluation, names: Sequence[str]) -> Text:
    return listed([_cost(evaluation, name) for name in names])


def _cost(evaluation: Evaluation, name: str) -> Text:
    if name == "drift":
        return _(
            "images of prompts without the trigger word have changed by {share}, where 100% is the difference between two"
            " prompts",
            share=f"{100 * (moved(evaluation.points[evaluation.verdict.main].tables, evaluation.scale) or 0.0):.0f}%",
        )
    before, after = (getattr(one, name) for one in (evaluation.base, evaluation.points[evaluation.verdict.main].tables))
    means = {"before": f"{np.nanmean(before):.2f}", "after": f"{np.nanmean(after):.2f}"}
    if name == "adherence":
        return _("prompts are followed less ({before} → {after})", **means)
    if name == "others":
        return _("prompts without the trigger word are followed less ({before} → {after})", **means)
    return _("drawings of one prompt vary less ({before} → {after})", **means)


def _interval(value: Interval, digits: int = 2) -> Text | str:
    """`+0.38, 95%: +0.33 … +0.41`."""
    if not value.is_bounded:
        return signed(value.mean, digits)
    ends = span_of(signed(value.low, digits), signed(value.high, digits))
    return _("{value}, 95%: {interval}", value=signed(value.mean, digits), interval=ends)


def signed(value: float, digits: int = 2) -> str:
    """`+0.38`; never `-0.00`."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"
