"""From a run's events to its report: what happened, how long it took, what it used; and the report read again."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tsuika import config
from tsuika.config import Recipe
from tsuika.core import kept
from tsuika.core.events import (
    Chosen,
    Event,
    Finished,
    Judged,
    Phase,
    Previewed,
    Started,
    Stepped,
    Warned,
    Written,
    note,
)
from tsuika.core.events import read as read_events
from tsuika.core.rundir import RunDir
from tsuika.core.texts import languages
from tsuika.evaluation import report, report_guard


@dataclass
class RunRecord:
    """Collects a run's events. Phases are timed from their first event to the next phase's."""

    losses: list[float] = field(default_factory=list)  # of the run that is kept
    look_losses: list[float] = field(default_factory=list)  # of the guard's run without some images
    judged: list[Judged] = field(default_factory=list)
    folds: dict[int, list[Judged]] = field(default_factory=dict)  # of each training of a cross-validation, from 1
    chosen: Chosen | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    warned: list[Warned] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    previews: list[Previewed] = field(default_factory=list)
    started: Started | None = None
    finished: Finished | None = None
    steps_timed: int = 0
    step_seconds: float = 0.0  # with what lies between the steps of a phase: checks, saved states
    _stepped: float | None = None  # when this phase's last step was done
    _phase: str = ""
    _since: float = 0.0

    def add(self, event: Event) -> None:
        match event:
            case Phase(name=name):
                self.close()
                self._phase, self._since, self._stepped = name, time.monotonic(), None
            case Started():
                self.started = event
            case Stepped(step=step, loss=loss, seconds=seconds):
                self.steps_timed += 1
                # What a run did before it was stopped is read in no time.
                now = time.monotonic()
                self.step_seconds += max(seconds, now - self._stepped if self._stepped is not None else 0.0)
                self._stepped = now
                if self._phase == "variant":  # neither the look nor the run that is kept
                    return
                if self.chosen is not None and not self.look_losses:
                    self.look_losses = list(self.losses)
                del self.losses[step - 1 :]  # steps done again after a kill, or by all images, count once
                self.losses.append(loss)
            case Judged(step=step, fold=0):
                self.judged = [one for one in self.judged if one.step < step] + [event]
            case Judged(step=step, fold=fold):
                self.folds[fold] = [one for one in self.folds.get(fold, ()) if one.step < step] + [event]
            case Chosen():
                self.chosen = event
            case Warned():
                self.warned.append(event)
            case Written():
                self.written.append(event)
            case Previewed():
                self.previews.append(event)
            case Finished():
                self.finished = event
                self.close()

    def close(self) -> None:
        if self._phase:
            self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + time.monotonic() - self._since
            self._phase = ""


def peak_memory_bytes() -> int | None:
    """The most memory this process has held: on the GPU where one is used, else resident in main memory."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def before_after(
    previews: Sequence[Previewed], root: Path, controls: frozenset[str] = frozenset()
) -> tuple[report.BeforeAfter, ...]:
    """Previews of step 0 beside the last ones, not of the highest step (runs go past the chosen one), at the same seeds."""
    if not previews:
        return ()
    last = previews[-1].step
    by: Mapping[tuple[str, int, int], Path] = {(e.prompt, e.seed, e.step): root / e.path for e in previews}
    rows: list[report.BeforeAfter] = []
    for prompt in dict.fromkeys(event.prompt for event in previews):
        seeds = sorted({s for p, s, step in by if p == prompt and step == last and (p, s, 0) in by})
        if seeds:
            first = tuple(by[prompt, seed, 0] for seed in seeds)
            then = tuple(by[prompt, seed, last] for seed in seeds)
            rows.append(report.BeforeAfter(prompt, tuple(seeds), first, then, prompt in controls))
    return tuple(rows)


def write_report(
    folder: RunDir, recipe: Recipe, notes: RunRecord, evidence: report.ReportParts, language: str | None = None
) -> report.ReportData:
    """Write `report.json` and `report.html`, which opens in `language` or in the browser's; returns what they say."""
    assert notes.started is not None and notes.finished is not None
    per_step = recipe.train.batch_size * recipe.train.accumulate
    guard = report_guard.to_dict(notes.judged, notes.chosen, recipe.guard.model_dump())
    best_step, steps = report_guard.best(guard)
    files = tuple(
        report.WrittenFile(w.path, w.format, _size(folder.root / w.path), w.sha256, w.largest_relative_error)
        for w in notes.written
    )
    data = report.ReportData(
        **vars(evidence),
        title=folder.result_name(recipe.output.name),
        method=notes.started.method,
        family=notes.started.family,
        trigger=recipe.data.first.trigger,
        stopped_by=notes.finished.stopped_by,
        steps_planned=recipe.train.steps,
        steps_done=notes.finished.steps_done,
        # Addresses of messages may hold passwords, and a report is shown to others.
        recipe_toml=config.dump(recipe.model_copy(update={"train": recipe.train.model_copy(update={"notify": ()})})),
        losses=tuple(notes.losses),
        look_losses=tuple(notes.look_losses),
        best_step=best_step,
        range=steps,
        guard=guard,
        seconds=notes.seconds,
        images_per_second=notes.steps_timed * per_step / notes.step_seconds if notes.step_seconds else None,
        peak_memory_bytes=peak_memory_bytes(),
        artifacts=files,
        warnings=tuple(report.Notice(w.code, {lang: w.words(lang) for lang in languages()}) for w in notes.warned),
    )
    report.write(data, folder.root, language)
    return data


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def past(events: Path) -> list[Event]:
    """What a run did before it was stopped, as far as its saved state stands; and a note where that cannot be read."""
    found, lost = read_events(events)
    known: list[Event] = [one for one in found if isinstance(one, Phase | Stepped | Previewed | Judged | Chosen)]
    # A kill cuts one line short.
    return known if lost < 2 else [*known, note("TR013", count=lost)]


class _Artifact(BaseModel, strict=True):
    path: str
    format: str


class _Shown(BaseModel, strict=True):
    prompt: str


class _Guard(BaseModel, strict=True):
    sentence: dict[str, str]


class _Report(BaseModel, strict=True):
    """What tsuika itself reads of a `report.json`."""

    method: str
    family: str
    trigger: str
    pictures: list[Any]
    before_after: list[_Shown]
    guard: _Guard | None
    stopped_by: str
    steps_done: int
    best_step: int | None
    range: dict[str, int | None]
    artifacts: list[_Artifact]


def read_report(path: Path) -> dict[str, Any]:
    """The content of a `report.json`, read strictly: others may have changed it. Raises FormatError (TR011)."""
    content: dict[str, Any] = kept.parsed(path)
    try:
        _Report.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise kept.damaged(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return content


def is_over(path: Path) -> bool:
    """Whether there is a `report.json` of a run that has ended, and not only of one that was stopped; raises as above."""
    return path.is_file() and read_report(path)["stopped_by"] != "user"
