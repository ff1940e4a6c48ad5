"""The report of a run: one dataclass of results, as `report.json` and as one self-contained HTML page.

The page holds its images, styles and curves and forbids every request elsewhere. All it shows is handed in; no torch, no clock.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from tsuika import pages
from tsuika.core.files import write_text
from tsuika.core.plain import jsonable
from tsuika.core.texts import Text, _, _n, languages
from tsuika.evaluation import report_guard
from tsuika.evaluation.near_copies import ImageSource, MemorizationCheck, data_uri
from tsuika.families import FAMILIES
from tsuika.methods import METHODS, is_read_elsewhere, title
from tsuika.methods.uses import Result, in_tsuika
from tsuika.pages.chart import curve, smoothed

# What `report.json` begins with.
_PLAIN: Final = (
    *("title", "method", "family", "base", "trigger", "example_prompt", "stopped_by", "steps_planned", "steps_done"),
    *("best_step", "range", "guard", "seconds", "images_per_second", "peak_memory_bytes", "device"),
)
_STOPPED: Final = {
    "steps": _("all steps done"),
    "guard": _("the overfitting guard"),
    "user": _("you"),
    "diverged": _("divergence"),
}
_PHASES: Final = {
    "load": _("load base model"),
    "pictures": _("check images"),
    "encode": _("encode images"),
    "look": _("find the best step"),
    "train": _("train"),
    "preview": _("draw previews"),
    "write": _("write files"),
    "evaluate": _("measure"),
    "report": _("write report"),
}
# What a score is called, and what it means.
_SCORES: Final = {
    "likeness": (
        _("Likeness"),
        _("How near an image is to the mean of the training images, as the yardstick sees them (cosine)."),
    ),
    "adherence": (
        _("Prompt adherence"),
        _("How much of the rest of the prompt (place, companion) the yardstick finds in the image."),
    ),
    "controls": (_("Other prompts"), _("The same for prompts without the trigger word: it should stay where it was.")),
}


@dataclass(frozen=True)
class TrainingImage:
    name: str
    caption: str
    source: ImageSource
    set: str = ""  # of several folders the one that it is in


@dataclass(frozen=True)
class ImageSet:
    """One of several folders of images, and what it teaches."""

    name: str
    trigger: str
    class_word: str
    images: int  # that are trained on


@dataclass(frozen=True)
class LeftOutRow:
    name: str
    reason: Text | str

    def to_dict(self) -> dict[str, str]:
        return {"name": self.name, **_by_language("reason", pages.in_languages(pages.verbatim(self.reason)))}


@dataclass(frozen=True)
class BeforeAfter:
    """One prompt drawn with the base and with the result, at the same seeds; `control`: the trigger word is not in it."""

    prompt: str
    seeds: tuple[int, ...]
    before: tuple[ImageSource, ...]
    after: tuple[ImageSource, ...]
    control: bool = False


@dataclass(frozen=True)
class Score:
    """A measure, 0..1, more is better, one value a seed.

    `key` is `likeness`, `adherence`, `controls` (prompts without the trigger), or a name of its own.
    `truth` is what real images score, where that is known.
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

    def to_dict(self) -> dict[str, Any]:
        sides = {
            name: {"mean": _mean(values), "spread": _spread(values), "values": values}
            for name, values in (("before", self.before), ("after", self.after))
        }
        return {**sides, "truth": self.truth, "verdict": self.verdict}


@dataclass(frozen=True)
class WrittenFile:
    """A result file. `path` is relative to the run folder; the error is None where the file was not read back."""

    path: str
    format: str
    size_bytes: int
    sha256: str
    largest_relative_error: float | None = None  # of any layer against the model in memory


@dataclass(frozen=True)
class Notice:
    """Something was ignored or downgraded, and the user should know."""

    code: str
    words: Mapping[str, str]  # by language

    def to_dict(self) -> dict[str, str]:
        return {"code": self.code, **_by_language("message", self.words)}


def _by_language(key: str, words: Mapping[str, str]) -> dict[str, str]:
    """English under a key, other languages under the key and their name: `reason`, `reason_ja`."""
    return {key if lang == "en" else f"{key}_{lang}": words.get(lang, "") for lang in languages()}


@dataclass(frozen=True, kw_only=True)
class ReportParts:
    """What the front knows beside the events: images, comparison and scores; `lookalikes` None: nothing was compared."""

    base: str
    device: str = ""
    images: tuple[TrainingImage, ...] = ()
    sets: tuple[ImageSet, ...] = ()  # none where there is one folder
    left_out: tuple[LeftOutRow, ...] = ()
    before_after: tuple[BeforeAfter, ...] = ()
    scores: tuple[Score, ...] = ()
    example_prompt: str  # without any program's own syntax
    command: str = ""
    lookalikes: MemorizationCheck | None = None


@dataclass(frozen=True, kw_only=True)
class ReportData(ReportParts):
    """Everything the report says of a run.

    Attributes:
        stopped_by: "steps", "guard", "user" or "diverged".
        losses: one a step, from step 1.
        best_step: of the run that made the files.
        range: steps of the safe, balanced and likeness files.
        trigger: of several sets the first one's.
        guard: of `report_guard.to_dict`.
        look_losses: of the guard's trial run, where `losses` are of a second one.
        seconds: by phase, in order.
        yardstick: what made the scores.
    """

    title: str
    method: str
    family: str
    trigger: str
    stopped_by: str
    steps_planned: int
    steps_done: int
    recipe_toml: str = ""
    losses: tuple[float, ...] = ()
    best_step: int | None = None
    range: Mapping[str, int | None] = field(default_factory=lambda: dict.fromkeys(report_guard.RANGE))
    guard: Mapping[str, Any] | None = None
    look_losses: tuple[float, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    images_per_second: float | None = None
    peak_memory_bytes: int | None = None
    yardstick: str = "embedded"
    artifacts: tuple[WrittenFile, ...] = ()
    warnings: tuple[Notice, ...] = ()
    made_with: str = "tsuika"

    @property
    def triggers(self) -> str:
        """Every trigger word, for people."""
        return ", ".join(dict.fromkeys(one.trigger for one in self.sets if one.trigger)) or self.trigger

    def to_dict(self) -> dict[str, Any]:
        """The content of `report.json`: plain values, no images, None for numbers that are not finite."""
        plain: dict[str, Any] = {
            **{name: getattr(self, name) for name in _PLAIN},
            "final_loss": smoothed(self.losses)[-1] if self.losses else None,
            "pictures": [{"name": image.name, "caption": image.caption} for image in self.images],
            "sets": [vars(one) for one in self.sets],
            "left_out": [image.to_dict() for image in self.left_out],
            "before_after": [
                {"prompt": row.prompt, "seeds": row.seeds, "control": row.control} for row in self.before_after
            ],
            "yardstick": self.yardstick if self.scores else None,
            "scores": {score.key: score.to_dict() for score in self.scores},
            "lookalikes": self.lookalikes and self.lookalikes.to_dict(),
            "self_check": {"largest_relative_error": largest_error(self.artifacts)},
            "artifacts": [vars(artifact) for artifact in self.artifacts],
            "command": self.command,
            "warnings": [notice.to_dict() for notice in self.warnings],
            "made_with": self.made_with,
        }
        return cast(dict[str, Any], jsonable(plain))

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _spread(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def largest_error(artifacts: Sequence[WrittenFile]) -> float | None:
    """The largest relative error over all files; None unless every file was read back."""
    errors = [artifact.largest_relative_error for artifact in artifacts]
    known = [error for error in errors if error is not None]
    return max(known) if known and len(known) == len(errors) else None


def render(data: ReportData, language: str | None = None) -> str:
    """The report as one HTML page that needs nothing else. Raises OSError: an image is not there or is none.

    It opens in `language`, or where that is None in the browser's; once its reader has switched, in what was chosen.
    """
    guard = data.guard
    paths = [artifact.path for artifact in data.artifacts]
    roles = {path: report_guard.role(path, paths) for path in paths}
    main = tuple(path for path in paths if not roles[path])
    result = Result(data.method, data.family, data.base, data.trigger, data.example_prompt, main)
    family = next((one.facts.title for one in FAMILIES if one.facts.family == data.family), None)
    known = METHODS.get(data.method) if family else None
    uses = list(known.uses(result) if known else in_tsuika(result)) if main else []
    alarms = {alarm["code"]: alarm for alarm in reversed(guard["alarms"])} if guard else {}
    error = largest_error(data.artifacts)
    validated = guard["best_step"] if guard and guard["curve"] else None
    # Where the file went on after the best step, or comes from another run, that step is not one of these losses.
    is_same_run = data.best_step is not None and data.best_step == validated
    return pages.template(__package__, "report.html.j2").render(
        data=data,
        language=language,
        method=title(data.method),
        family=family or data.family,
        summary=_summary(data),
        stopped_by=_STOPPED.get(data.stopped_by, data.stopped_by),
        validated=validated,
        phases=_PHASES,
        score_texts=lambda key: _SCORES.get(key, (key, None)),
        score_verdict=_score_verdict,
        role_titles=report_guard.TITLES,
        duration=pages.duration,
        share=None if error is None else f"{100 * error:.2g}%",
        mean=_mean,
        spread=_spread,
        percent=lambda value: min(max(value, 0.0), 1.0) * 100,
        finite=math.isfinite,
        number=lambda value: f"{value:.2f}",
        uri=data_uri,
        curve=curve(data.losses, data.best_step if is_same_run else None),
        largest_error=error,
        uses=uses,
        is_read_elsewhere=family is not None and is_read_elsewhere(data.method, data.family),
        guard=guard,
        lookalikes=data.lookalikes,
        guard_view=report_guard.view(guard, data.look_losses or data.losses) if guard else None,
        earlier_alarms=[alarm for alarm in alarms.values() if alarm != guard["alarms"][-1]] if guard else [],
        roles=roles,
        steps_of={path: data.range.get(role) if role else data.steps_done for path, role in roles.items()},
        train_seconds=sum(data.seconds.get(phase, 0.0) for phase in ("look", "train")),
    )


def _summary(data: ReportData) -> Text:
    counted = {
        "images": _n("{count} image", "{count} images", len(data.images)),
        "steps": _n("{steps} step", "{steps} steps", data.steps_done, steps=f"{data.steps_done:,}"),
        "time": pages.duration(sum(data.seconds.values())),
    }
    likeness = next((score for score in data.scores if score.key == "likeness"), None)
    if likeness is None or not (likeness.before and likeness.after):
        return _("{images}, {steps}, {time}.", **counted)
    return _(
        "{images}, {steps}, {time}: likeness went from {before} to {after}.",
        before=f"{_mean(likeness.before):.2f}",
        after=f"{_mean(likeness.after):.2f}",
        **counted,
    )


def _score_verdict(score: Score) -> Text:
    change = f"{abs(_mean(score.after) - _mean(score.before)):.2f}"
    if score.verdict == "up":
        return _("Rose by {change}, more than the seeds alone explain.", change=change)
    if score.verdict == "down":
        return _("Fell by {change}, more than the seeds alone explain.", change=change)
    if score.verdict == "same":
        return _("No change beyond what the seeds alone explain.")
    return _("One seed only: no spread, so the change may be chance.")


def with_evaluation(page: str, section: str) -> str:
    """A report page with an evaluation in it, in place of an earlier one. Raises ValueError: there is no place for one."""
    begin, end = "<!-- evaluation -->", "<!-- /evaluation -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError("no place for an evaluation")
    return f"{before}{begin}\n{section}\n{end}{after}"


def write(data: ReportData, run: Path, language: str | None = None) -> None:
    """Write `report.json` and `report.html` into a run folder, each whole or not at all. Raises OSError."""
    write_text(run / "report.json", data.to_json())
    write_text(run / "report.html", render(data, language))
