"""The report of a run: one dataclass of results, as `report.json` and as one self-contained HTML page.

The page holds its pictures, styles and curve itself and forbids every request to anywhere else. Knows Pillow, NumPy
and Jinja; knows no model, no torch and no clock: everything it shows is handed in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

from tsuika.core.files import write_text
from tsuika.core.plain import jsonable
from tsuika.core.texts import in_language
from tsuika.evaluate import report_guard, report_lookalikes
from tsuika.evaluate.chart import curve, smoothed
from tsuika.evaluate.inline import PictureSource, data_uri
from tsuika.evaluate.pairs import Lookalikes
from tsuika.evaluate.report_texts import TEXTS
from tsuika.evaluate.wording import LANGUAGES, Language, both, duration, size, text, unbroken, words
from tsuika.methods import METHODS, title
from tsuika.methods.uses import Result, in_tsuika

THUMBNAIL_PX: Final = 160
SAMPLE_PX: Final = 512
THUMBNAILS_SHOWN: Final = 48


@dataclass(frozen=True)
class TrainingPicture:
    """A picture that was trained on."""

    name: str
    caption: str
    image: PictureSource


@dataclass(frozen=True)
class LeftOut:
    """A picture that was not used, and why."""

    name: str
    reason: str
    reason_ja: str = ""  # empty: it is of no language


@dataclass(frozen=True)
class BeforeAfter:
    """One prompt drawn with the base and with the result, at the same seeds; `control`: the trigger is not in it."""

    prompt: str
    seeds: tuple[int, ...]
    before: tuple[PictureSource, ...]
    after: tuple[PictureSource, ...]
    control: bool = False


@dataclass(frozen=True)
class Score:
    """A measure, 0..1, more is better, one value a seed.

    `key` is `likeness`, `adherence`, `controls` (prompts without the trigger), or a name of its own.
    `truth` is what real pictures score, where that is known.
    """

    key: str
    before: tuple[float, ...]
    after: tuple[float, ...]
    truth: float | None = None

    @property
    def verdict(self) -> str:
        """`up`, `down`, `same` (within twice the standard error of the difference) or `unknown` (under two seeds)."""
        count = min(len(self.before), len(self.after))
        if count < 2:
            return "unknown"
        change = _mean(self.after) - _mean(self.before)
        error = math.sqrt(_spread(self.before) ** 2 / len(self.before) + _spread(self.after) ** 2 / len(self.after))
        return "same" if abs(change) <= 2 * error or change == 0 else "up" if change > 0 else "down"


@dataclass(frozen=True)
class WrittenFile:
    """A result file. `path` is relative to the run folder; the error is None where it was not read back."""

    path: str
    format: str
    size_bytes: int
    sha256: str
    largest_relative_error: float | None = None  # of any layer against the model in memory


@dataclass(frozen=True)
class Notice:
    """Something was ignored or downgraded, and the user should know."""

    code: str
    message: str
    message_ja: str = ""  # empty: there is none


@dataclass(frozen=True)
class ReportData:
    """Everything the report says of a run."""

    title: str
    method: str
    family: str
    base: str  # as given with --base
    trigger: str
    example_prompt: str  # without any program's own syntax
    stopped_by: str  # "steps", "guard", "user", "diverged"
    steps_planned: int
    steps_done: int
    pictures: tuple[TrainingPicture, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    recipe_toml: str = ""
    losses: tuple[float, ...] = ()  # one a step, from step 1
    best_step: int | None = None
    range: Mapping[str, int | None] = field(default_factory=lambda: {"safe": None, "balanced": None, "likeness": None})
    guard: Mapping[str, Any] | None = None  # of `report_guard.told`
    look_losses: tuple[float, ...] = ()  # of the guard's trial run, where `losses` are of a second one
    seconds: Mapping[str, float] = field(default_factory=dict)  # by phase, in order
    images_per_second: float | None = None
    peak_memory_bytes: int | None = None
    device: str = ""
    before_after: tuple[BeforeAfter, ...] = ()
    yardstick: str = "embedded"  # what made the scores
    scores: tuple[Score, ...] = ()
    lookalikes: Lookalikes | None = None  # None: nothing was compared
    artifacts: tuple[WrittenFile, ...] = ()
    command: str = ""
    warnings: tuple[Notice, ...] = ()
    made_with: str = "tsuika"

    def as_dict(self) -> dict[str, Any]:
        """The content of `report.json`: plain values, no pictures, None for numbers that are not finite."""
        plain: dict[str, Any] = {
            "title": self.title,
            "method": self.method,
            "family": self.family,
            "base": self.base,
            "trigger": self.trigger,
            "example_prompt": self.example_prompt,
            "stopped_by": self.stopped_by,
            "steps_planned": self.steps_planned,
            "steps_done": self.steps_done,
            "best_step": self.best_step,
            "range": dict(self.range),
            "guard": self.guard,
            "seconds": dict(self.seconds),
            "images_per_second": self.images_per_second,
            "peak_memory_bytes": self.peak_memory_bytes,
            "device": self.device,
            "final_loss": smoothed(self.losses)[-1] if self.losses else None,
            "pictures": [{"name": picture.name, "caption": picture.caption} for picture in self.pictures],
            "left_out": [vars(picture) for picture in self.left_out],
            "before_after": [
                {"prompt": row.prompt, "seeds": row.seeds, "control": row.control} for row in self.before_after
            ],
            "yardstick": self.yardstick if self.scores else None,
            "scores": {
                score.key: {
                    "before": {"mean": _mean(score.before), "spread": _spread(score.before), "values": score.before},
                    "after": {"mean": _mean(score.after), "spread": _spread(score.after), "values": score.after},
                    "truth": score.truth,
                    "verdict": score.verdict,
                }
                for score in self.scores
            },
            "lookalikes": self.lookalikes and self.lookalikes.as_dict(),
            "self_check": {"largest_relative_error": largest_error(self.artifacts)},
            "artifacts": [vars(artifact) for artifact in self.artifacts],
            "command": self.command,
            "warnings": [vars(notice) for notice in self.warnings],
            "made_with": self.made_with,
        }
        told: dict[str, Any] = jsonable(plain)
        return told

    def to_json(self) -> str:
        """The text of `report.json`."""
        return json.dumps(self.as_dict(), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _spread(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def largest_error(artifacts: Sequence[WrittenFile]) -> float | None:
    """The largest relative error over all files; None unless every file was read back."""
    errors = [artifact.largest_relative_error for artifact in artifacts]
    known = [error for error in errors if error is not None]
    return max(known) if known and len(known) == len(errors) else None


def _share(error: float) -> str:
    """A relative error in percent: `0.024 %`, `2e-07 %`."""
    return f"{100 * error:.2g} %"


@cache
def _template() -> Template:
    folder = files(__package__)
    loader = FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8"))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader
    )
    return environment.get_template("report.html.j2")


def render(data: ReportData, language: Language | None = None) -> str:
    """The report as one HTML page that needs nothing else.

    It opens in `language`, or where that is None in the browser's; once its reader has switched, in what was chosen.

    Raises:
        OSError: a picture given as a path is not there or no picture.
    """
    likeness = next((score for score in data.scores if score.key == "likeness"), None)
    paths = [artifact.path for artifact in data.artifacts]
    roles = {path: report_guard.role(path, paths) for path in paths}
    main = tuple(path for path in paths if not roles[path])
    result = Result(data.method, data.family, data.base, data.trigger, data.example_prompt, main)
    alarms = {alarm["code"]: alarm for alarm in reversed(data.guard["alarms"])} if data.guard else {}
    return _template().render(
        data=data,
        language=language,
        t=both,
        words=words,
        method={language: in_language(title(data.method), language) for language in LANGUAGES},
        plain=partial(text, language=language or "en"),
        has_why=lambda key: f"{key}.why" in TEXTS["en"],
        duration=duration,
        size=size,
        share=_share,
        unbroken=unbroken,
        mean=_mean,
        spread=_spread,
        percent=lambda value: min(max(value, 0.0), 1.0) * 100,
        finite=math.isfinite,
        number=lambda value: f"{value:.2f}",
        likeness=likeness,
        thumbnail=partial(data_uri, side_px=THUMBNAIL_PX),
        sample=partial(data_uri, side_px=SAMPLE_PX),
        thumbnails_shown=THUMBNAILS_SHOWN,
        curve=curve(data.losses, data.best_step),
        total_seconds=sum(data.seconds.values()),
        largest_error=largest_error(data.artifacts),
        uses=list(METHODS[data.method].uses(result) if data.method in METHODS else in_tsuika(result)) if main else [],
        guard=data.guard,
        lookalikes=report_lookalikes.lookalikes_html(data.lookalikes, language or "en") if data.lookalikes else "",
        guard_view=report_guard.view(data.guard, data.look_losses or data.losses) if data.guard else None,
        earlier_alarms=[alarm for alarm in alarms.values() if alarm != data.guard["alarms"][-1]] if data.guard else [],
        roles=roles,
        steps_of={path: data.range.get(role) if role else data.steps_done for path, role in roles.items()},
        train_seconds=sum(data.seconds.get(phase, 0.0) for phase in ("look", "train")),
    )


def with_evaluation(page: str, section: str) -> str:
    """A report page with an evaluation in it, in place of an earlier one.

    Raises:
        ValueError: the page has no place for one.
    """
    begin, end = "<!-- evaluation -->", "<!-- /evaluation -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError("no place for an evaluation")
    return f"{before}{begin}\n{section}\n{end}{after}"


def write(data: ReportData, run: Path, language: Language | None = None) -> tuple[Path, Path]:
    """Write `report.json` and `report.html` into a run folder, each whole or not at all; gives their paths.

    Raises:
        OSError: a picture cannot be read, or a file cannot be written.
    """
    numbers, page = run / "report.json", run / "report.html"
    write_text(numbers, data.to_json())
    write_text(page, render(data, language))
    return numbers, page
