"""What the guard saw: from its events to plain values for `report.json`, and from these to curves for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Literal

from tsuika.core.events import Chosen, Judged
from tsuika.core.messages import percent
from tsuika.pages.chart import Plot, plot
from tsuika.evaluate.wording import LANGUAGES, text

RANGE: Final = ("safe", "balanced", "likeness")
NAMES_SHOWN: Final = 6
_SUFFIXES: Final = (".safetensors", ".pt", ".yaml", ".json", ".png")


def told(judged: Sequence[Judged], chosen: Chosen | None, rule: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part `guard` of `report.json`; None if no guard was there.

    Losses are natural logarithms of their ratio to the base's loss on the same draws (-0.01: 1 % better), gaps are
    differences of these, drift is a share. Steps are those of the run that was checked.

    Args:
        rule: the recipe's section `guard`.
    """
    if not judged and chosen is None:
        return None
    rows = [event.evidence for event in judged]
    held = [row for row in rows if row["held_out"] is not None]
    last = judged[-1] if judged else None
    stopped = last is not None and last.verdict == "stop" and rule["mode"] == "on"
    return {
        "split": {
            "kind": chosen.kind if chosen else "hold-out" if held else "none",
            "held_out": list(chosen.held_out) if chosen else [],
            "folds": chosen.folds or None if chosen else None,
        },
        "curve": [{"step": row["step"], **row["held_out"]} for row in held],
        "interval": held[-1]["held_out"]["kind"] if held else None,
        "train": [{"step": row["step"], "mean": row["train"]} for row in rows if row["train"] is not None],
        "gaps": [
            {
                "step": row["step"],
                "mid": row["gap_mid"],
                "high": row["gap_high"],
                "drift": row["drift"],
                "selectivity": row["selectivity"],
            }
            for row in rows
        ],
        "alarms": [
            {
                "step": event.step,
                "verdict": event.verdict,
                "code": event.code,
                "sentence": {language: event.words(language) for language in LANGUAGES},
            }
            for event in judged
            if event.verdict != "go"
        ],
        "best_step": held[-1]["best_step"] if held else None,
        "best": held[-1]["best"] if held else None,
        "range": dict(held[-1]["range"]) if held else dict.fromkeys(RANGE),
        "stopped_at": last.step if last and stopped else None,
        "file": {
            "all_pictures": chosen.kind == "folds" or (rule["mode"] == "on" and rule["refit"]),
            "look_step": chosen.look_step,
            "best_step": chosen.step,
            "range": dict(chosen.range),
        }
        if chosen and held
        else None,
        "overhead": rows[-1]["overhead"] if rows else None,
        "sentence": {language: _sentence(last, chosen, rule, language) for language in LANGUAGES},
        "rule": dict(rule),
    }


def _sentence(
    last: Judged | None, chosen: Chosen | None, rule: Mapping[str, Any], language: Literal["en", "ja"]
) -> str:
    parts = [last.words(language)] if last else []
    if last and last.verdict == "stop" and rule["mode"] == "warn":
        parts.append(text("guard.warned", language))
    if chosen and chosen.code and not (last and chosen.code == last.code):
        parts.append(chosen.words(language))
    return ("" if language == "ja" else " ").join(parts)


def best(guard: Mapping[str, Any] | None) -> tuple[int | None, dict[str, int | None]]:
    """The best step and the range of the run that made the files; None for what nothing was held out to measure."""
    if guard is None or not guard["curve"]:
        return None, dict.fromkeys(RANGE)
    if (file := guard["file"]) is not None:
        return file["best_step"], {name: file["range"].get(name) for name in RANGE}
    return guard["best_step"], {name: guard["range"].get(name) for name in RANGE}


def role(path: str, paths: Sequence[str]) -> str:
    """`safe`, `balanced` or `likeness` for a file NAME-safe and so on beside a NAME, else empty: the NAME itself."""
    names = {_name(other) for other in paths}
    for wish in RANGE:
        if _name(path).removesuffix(f"-{wish}") in names - {_name(path)}:
            return wish
    return ""


def _name(path: str) -> str:
    file = PurePosixPath(path)
    return file.stem if file.suffix in _SUFFIXES else file.name


@dataclass(frozen=True)
class Row:
    """One check, for people; a dash for what was not measured."""

    step: str
    held_out: str
    train: str
    gap_mid: str
    gap_high: str
    drift: str


@dataclass(frozen=True)
class View:
    """What the page shows of the guard."""

    cards: tuple[tuple[int, tuple[str, ...]], ...]  # steps of the range, and what they are called
    curves: Plot | None
    gaps: Plot | None
    rows: tuple[Row, ...]
    names: Mapping[str, str]  # of the first few pictures that were held out, by language
    highest: str  # where a line has left the frame
    best: str  # value at the best step, empty if there is none
    low: str  # its interval, empty if there is none
    high: str
    overhead: str


def view(guard: Mapping[str, Any], losses: Sequence[float]) -> View:
    """Curves and words of the part `guard` of `report.json`; `losses` are those of the run that was checked."""
    curve, names = guard["curve"], guard["split"]["held_out"]
    steps, value = guard["range"], guard["best"] or {}
    shaded = (steps["safe"], steps["likeness"]) if steps["safe"] != steps["likeness"] else None
    of_file = best(guard)[1]
    known = [(name, step) for name, step in of_file.items() if step is not None]
    curves = plot(
        {
            "train": [(row["step"], _percent(row["mean"])) for row in guard["train"]],
            "held": [(row["step"], _percent(row["mean"])) for row in curve],
        },
        band=[(row["step"], _percent(row["low"]), _percent(row["high"])) for row in curve],
        losses=losses,
        marks={"best": guard["best_step"] or None, "stop": guard["stopped_at"]},
        span=shaded,
        cap=any(_is_number(row["mean"]) and row["mean"] < 0 for row in curve),
    )
    gaps = plot(
        {
            "drift": [(row["step"], 100 * row["drift"]) for row in guard["gaps"] if row["drift"] is not None],
            "mid": [(row["step"], _percent(row["mid"])) for row in guard["gaps"]],
            "high": [(row["step"], _percent(row["high"])) for row in guard["gaps"]],
        }
    )
    at = {row["step"]: row for row in curve}
    trained = {row["step"]: row["mean"] for row in guard["train"]}
    return View(
        cards=tuple(
            (step, tuple(name for name, other in known if other == step)) for step in dict.fromkeys(s for _, s in known)
        ),
        curves=curves,
        gaps=gaps,
        rows=tuple(
            Row(
                f"{row['step']:,}",
                _interval(at.get(row["step"])),
                percent(trained.get(row["step"])),
                percent(row["mid"]),
                percent(row["high"]),
                f"{100 * row['drift']:.1f} %" if _is_number(row["drift"]) else "–",
            )
            for row in guard["gaps"]
        ),
        names={language: _list(names, language) for language in LANGUAGES},
        highest=f"{curves.highest:+.0f} %" if curves and curves.highest is not None else "",
        best=percent(value["mean"]) if _is_number(value.get("mean")) else "",
        low=percent(value["low"]) if _is_number(value.get("low")) else "",
        high=percent(value["high"]) if _is_number(value.get("high")) else "",
        overhead=f"{100 * guard['overhead']:.1f} %" if _is_number(guard["overhead"]) else "",
    )


def _list(names: Sequence[str], language: Literal["en", "ja"]) -> str:
    first = ("、" if language == "ja" else ", ").join(names[:NAMES_SHOWN])
    more = len(names) - NAMES_SHOWN
    return first + text("guard.more", language, count=more) if more > 0 else first


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _percent(value: float | None) -> float | None:
    return 100 * math.expm1(min(value, 50.0)) if value is not None and math.isfinite(value) else None


def _interval(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    if not (_is_number(row["low"]) and _is_number(row["high"])):
        return percent(row["mean"])
    return f"{percent(row['mean'])} ({percent(row['low'])} … {percent(row['high'])})"
