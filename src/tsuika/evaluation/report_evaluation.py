"""An evaluation as a section of the report page; all it shows is handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from PIL import Image

from tsuika import pages
from tsuika.core.bootstrap import Table, of_table
from tsuika.core.intervals import Interval
from tsuika.core.texts import Text, _
from tsuika.evaluation.evaluation import MEASURES, OF_SUBJECTS, Evaluation, said, signed
from tsuika.evaluation.near_copies import data_uri
from tsuika.evaluation.verdict import difference, moved
from tsuika.pages.chart import nice_ticks

ROWS: Final = 4  # prompts of a sheet
TONES: Final = 4

GRADES: Final = {
    "good": _("Better than the base"),
    "trade": _("Better, at a price"),
    "slight": _("Hardly learned yet"),
    "doubtful": _("Doubtful: the guard saw no gain"),
    "dear": _("The price is too high"),
    "copies": _("It copies its training images"),
    "unclear": _("Too few drawings to tell"),
    "nothing": _("Nothing gained"),
    "stiff": _("Every drawing nearly the same"),
    "unmeasured": _("Likeness not measured"),
}
# What a measure is called, and what it means.
WORDS: Final = {
    "fidelity": (
        _("likeness"),
        _(
            "How near a drawing is to the mean of your training images, by the encoder (cosine). More is better up to what"
            " your own images score against each other."
        ),
    ),
    "adherence": (
        _("adherence"),
        _("How well a drawing fits the rest of its prompt (place, companion). Compare with the base, not with 1."),
    ),
    "others": (
        _("other prompts"),
        _("Adherence of prompts without the trigger word. It should stay where the base is."),
    ),
    "drift": (
        _("drift"),
        _(
            "How far drawings of prompts without the trigger word have moved from the base's at the same seeds: 0% is the"
            " same, 100% is the difference between the base's drawings of two prompts."
        ),
    ),
    "diversity": (
        _("diversity"),
        _(
            "How much drawings of one prompt differ from seed to seed (difference of small thumbnails, 0 to 1). A learned"
            " subject lowers it; half of the base's is a bad sign."
        ),
    ),
    "copies": (
        _("copies"),
        _(
            "Drawings that are a training image again, layout and all, with training captions among the prompts. Of images"
            " that copy nothing, about 1 in 250 is taken for a copy."
        ),
    ),
}

First = Mapping[str, Image.Image]  # prompt -> its image at the first seed


def section(evaluation: Evaluation, shown: Sequence[First]) -> str:
    """The section as HTML; `shown` are the images of the base, then of every point."""
    states = list(dict.fromkeys((point.state, point.step) for point in evaluation.points))
    tones = {state: number % TONES for number, (state, _step) in enumerate(states)}
    columns = [name for name in MEASURES if getattr(evaluation.points[0].tables, name) is not None]
    real = evaluation.scale.real
    return pages.template(__package__, "report_evaluation.html.j2").render(
        words=WORDS,
        grade=evaluation.verdict.grade,
        title=GRADES[evaluation.verdict.grade],
        verdict=said(evaluation),
        notes=evaluation.notes,
        plot=_plot(evaluation, tones),
        tones=[(tones[state], state, f"{step:,}") for state, step in states],
        columns=columns,
        rows=_rows(evaluation, columns),
        subjects=_subjects(evaluation),
        of_subjects=OF_SUBJECTS,
        prompts=len([one for one in evaluation.asked if one.group == "subject"]),
        seeds=len(evaluation.seeds),
        real=f"{real:.2f}" if real is not None else "",
        sheets=_sheets(evaluation, shown, states),
        doubles=evaluation.worst,
        uri=data_uri,
        encoder=evaluation.encoder,
        language=None,
    )


def _rows(evaluation: Evaluation, columns: Sequence[str]) -> list[dict[str, Any]]:
    verdict, base, rows = evaluation.verdict, evaluation.base, []
    pairs = zip((None, *evaluation.points), (None, *verdict.judgements), strict=True)
    for number, (point, judgement) in enumerate(pairs, start=-1):
        tables = point.tables if point else base
        cells: list[tuple[str, Text | str, bool]] = []
        for name in columns:
            table: Table | None = getattr(tables, name)
            value = None if table is None else of_table(table)
            if value is None or (name == "drift" and point is None):
                cells.append(("–", "", False))
                continue
            change = difference(table, getattr(base, name)) if point is not None and name != "drift" else None
            ends = pages.span_of(signed(change.low), signed(change.high)) if change and change.is_bounded else ""
            share = moved(tables, evaluation.scale) if name == "drift" else None
            shown = f"{value.mean:.2f}" if share is None else f"{100 * share:.0f}%"
            costs = judgement.lost if judgement and name == "drift" else judgement.dear if judgement else ()
            cells.append((shown, ends, name in costs))
        row = {
            "state": point.state if point else "",
            "step": f"{point.step:,}" if point else "",
            "strength": f"{point.strength:g}" if point else "–",
            "cells": cells,
            "main": number == verdict.main,
            "best": number == verdict.best,
            "copies": f"{int(tables.copies.sum())} / {tables.copies.size}",
            "copying": judgement is not None and judgement.copying,
        }
        rows.append(row)
    return rows


def _subjects(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Of several subjects, the measures of each with the base and with the result."""
    tables, rows = evaluation.points[evaluation.verdict.main].tables, []
    for place, name in enumerate(evaluation.subjects):
        cells: list[tuple[str, str, str]] = []
        for measure in OF_SUBJECTS:
            before, after = (evaluation.of_subject(getattr(one, measure), place) for one in (evaluation.base, tables))
            change = difference(after, before)
            if before is None or after is None or change is None:
                cells.append(("–", "–", ""))
                continue
            ends = pages.span_of(signed(change.low), signed(change.high)) if change.is_bounded else ""
            cells.append((f"{np.nanmean(before):.2f}", f"{np.nanmean(after):.2f}", ends))
        rows.append({"name": name or "–", "cells": cells})
    return rows


def _plot(evaluation: Evaluation, tones: Mapping[str, int]) -> dict[str, Any] | None:
    """Likeness against adherence (diversity, where no encoder reads), in percent of the frame; lines in a 1000 x 1000 box."""
    base = evaluation.base
    y_name = "adherence" if base.adherence is not None else "diversity"
    spots: list[tuple[str, str, bool, Interval, Interval]] = []
    for number, point in enumerate((None, *evaluation.points)):
        tables = point.tables if point else base
        x, y = (_placed(getattr(tables, name), getattr(base, name)) for name in ("fidelity", y_name))
        if x is None or y is None:
            return None
        state, label = (str(tones[point.state]), f"{point.strength:g}") if point else ("base", "")
        spots.append((state, label, evaluation.verdict.best == number - 1 and point is not None, x, y))
    across, up = (_frame([ends for spot in spots for ends in _span(spot[axis])]) for axis in (3, 4))  # type: ignore[arg-type]

    def at(value: float, frame: tuple[float, float]) -> float:
        return round(min(max((value - frame[0]) / (frame[1] - frame[0]), 0.0), 1.0) * 100, 2)

    dots: list[dict[str, Any]] = []
    for tone, label, best, x, y in spots:
        (left, right), (low, high) = _span(x), _span(y)
        bar_x = (at(left, across), round(at(right, across) - at(left, across), 2)) if x.is_bounded else None
        bar_y = (100 - at(high, up), round(at(high, up) - at(low, up), 2)) if y.is_bounded else None
        place = {"x": at(x.mean, across), "y": round(100 - at(y.mean, up), 2), "bar_x": bar_x, "bar_y": bar_y}
        dots.append({"tone": tone, "label": label, "best": best, **place})
    lines = []
    for tone in dict.fromkeys(dot["tone"] for dot in dots[1:]):
        path = [dots[0], *(dot for dot in dots[1:] if dot["tone"] == tone)]
        lines.append((tone, "M" + "L".join(f"{10 * dot['x']:.0f} {10 * dot['y']:.0f}" for dot in path)))
    real = evaluation.scale.real
    return {
        "y_name": y_name,
        "dots": dots,
        "lines": lines,
        "x_ticks": [(at(tick, across), f"{tick:.3g}") for tick in nice_ticks(*across, 5)],
        "y_ticks": [(round(100 - at(tick, up), 2), f"{tick:.3g}") for tick in nice_ticks(*up, 5)],
        "real": at(real, across) if real is not None and across[0] < real < across[1] else None,
    }


def _placed(table: Table | None, base: Table | None) -> Interval | None:
    """A mean, with the interval of its difference from the base's around it: prompts differ more than that says."""
    value, change = None if table is None else of_table(table), difference(table, base)
    if value is None or change is None or not change.is_bounded or table is base:
        return value and Interval(value.mean)
    shift = value.mean - change.mean
    return Interval(value.mean, change.low + shift, change.high + shift)


def _span(value: Interval) -> tuple[float, float]:
    return (value.low, value.high) if value.is_bounded else (value.mean, value.mean)


def _frame(values: Sequence[float]) -> tuple[float, float]:
    low, high = float(np.min(values)), float(np.max(values))
    pad = 0.08 * (high - low) or 0.05
    return low - pad, high + pad


def _sheets(evaluation: Evaluation, shown: Sequence[First], states: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    """A few prompts of each kept step through every strength, first of the best trade (or the main result): subject, unrelated."""
    verdict = evaluation.verdict
    first = evaluation.points[verdict.main if verdict.best is None else verdict.best].state
    about, others = ([one.text for one in evaluation.asked if one.group == group] for group in ("subject", "unrelated"))
    sheets = []
    for state, step in sorted(states, key=lambda one: one[0] != first):
        drawn = zip(evaluation.points, shown[1:], strict=True)
        mine = [(f"{point.strength:g}", images) for point, images in drawn if point.state == state]
        columns = [shown[0], *(images for _strength, images in mine)]
        rows = [(text, [images[text] for images in columns]) for text in about[: ROWS - 1] + others[:1]]
        strengths = [strength for strength, _images in mine]
        sheets.append(
            {"state": state, "step": f"{step:,}", "open": state == first, "strengths": strengths, "rows": rows}
        )
    return sheets
