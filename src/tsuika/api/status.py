"""What a run is doing, read from its folder, and what can be asked of it while it runs.

Everything is told from files, so that it does not matter which process trains, or whether one does any more. No torch.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Literal

from tsuika import config
from tsuika.api.run import JsonResult, at_once
from tsuika.core import kept
from tsuika.core.errors import InterruptedRunError, RecipeError
from tsuika.core.events import KINDS, Event, Phase, Progress, Stepped
from tsuika.core.files import is_locked, write_text
from tsuika.core.rundir import RunDir
from tsuika.core.texts import _, languages
from tsuika.evaluation import report_guard
from tsuika.evaluation.run_record import RunRecord

State = Literal["running", "stopped", "finished"]

RECENT: Final = 50  # steps whose time tells how long the rest takes
POINTS: Final = 240  # points of the curve of the training loss that are told


@dataclass(frozen=True)
class RunStatus(JsonResult):
    """What a run is doing.

    Attributes:
        run: its folder.
        state: `running`, `stopped` (it can be resumed) or `finished` (its report is written).
        method: its name.
        family: such as `sd1`; empty while that is not known.
        base: as in the recipe.
        trigger: the trigger word.
        phase: what it does or did last, as in `Phase`.
        done: units of the phase.
        total: units of the phase; 0 where that is not known.
        step: of the training that is under way.
        steps: that the recipe allows.
        seconds_left: at most; None where it cannot be told.
        best_step: by the held-out images; None where nothing is known.
        stopped_by: `steps`, `guard`, `user` or `diverged`; empty if it is not finished.
        sentence: what the guard says, by language.
        guard: the part `guard` of `report.json` so far; None without a guard.
        folds: of each training of a cross-validation its number, the `curve` of the images that it left out (step, mean, low,
            high, as in `guard`), its best step with these numbers, and whether it has ended by itself.
        losses: step and training loss, thinned out; of the training that the guard checks.
        previews: step, prompt, seed and path (in the run folder).
        warnings: code, and message by language.
        artifacts: files and folders in `artifacts/`, relative to the run folder; of a run that was stopped also what is best
            so far.
        has_result: whether there is a report of files that can be used.
    """

    run: Path
    state: State
    method: str
    family: str
    base: str
    trigger: str
    phase: str
    done: int
    total: int
    step: int
    steps: int
    seconds_left: float | None
    best_step: int | None
    stopped_by: str
    sentence: Mapping[str, str]
    guard: Mapping[str, Any] | None
    folds: Sequence[Mapping[str, Any]]
    losses: Sequence[tuple[int, float]]
    previews: Sequence[Mapping[str, Any]]
    warnings: Sequence[Mapping[str, Any]]
    artifacts: Sequence[str]
    has_result: bool


def triggers(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Every trigger word of the sets, once, from tables."""
    shared = str(data.get("trigger", ""))
    sets = data.get("sets")
    found = (str(one.get("trigger", shared)) for one in sets if isinstance(one, dict)) if isinstance(sets, list) else ()
    return tuple(word for word in dict.fromkeys([*found] or [shared]) if word)


# Of the recipe, what is shown of it.
_SHOWN: Final = (
    ("method", "name", str),
    ("base", "model", str),
    ("train", "steps", int),
    ("guard", "refit", bool),
    ("data", "images", str),
)


def read_recipe(folder: RunDir) -> dict[str, Any]:
    """The tables of a run's recipe, to be shown. They are not built: that would import a method from outside.

    Raises:
        RecipeError: RC003, it cannot be read; FormatError: TR011, it is not a whole one.
    """
    found = config.read_tables(folder.recipe)
    for table, key, kind in _SHOWN:
        section = found.get(table)
        if not isinstance(section, dict) or not isinstance(section.get(key), kind):
            changed = _("Settings are others than at the beginning: {changes}", changes=f"{table}.{key}")
            raise kept.damaged(folder.recipe, changed)
    return found


class Follower:
    """A run folder that is read again and again: only what is new in `events.jsonl` is read each time."""

    def __init__(self, run: Path | str) -> None:
        """Begin to follow.

        Raises:
            RecipeError: TR002, this is no run folder.
            RecipeError: RC003, its recipe cannot be read; FormatError: TR011, it is not a whole one.
        """
        self.folder = RunDir(Path(run))
        if not self.folder.recipe.is_file():
            raise RecipeError("TR002", where=run)
        self._recipe = read_recipe(self.folder)
        self._record, self._read, self._phase, self._progress = RunRecord(), 0, Phase("load"), (0, 0)
        self._step, self._times = 0, deque[float](maxlen=RECENT)

    def status(self) -> RunStatus:
        """What the run is doing now."""
        for event in self._news():
            self._record.add(event)
            match event:
                case Phase():
                    self._phase, self._progress = event, (0, event.total)
                case Progress(done=done, total=total):
                    self._progress = done, total
                case Stepped(step=step, seconds=seconds):
                    self._step, self._progress = step, (step, self._phase.total or self._progress[1])
                    self._times.append(seconds)
        record, recipe, folder = self._record, self._recipe, self.folder
        guard = report_guard.to_dict(record.judged, record.chosen, recipe["guard"])
        state = state_of(folder)
        results = sorted({*folder.artifacts.glob("*"), *folder.unfinished.glob("*")} - {folder.unfinished})
        # Each once, the latest of its step, prompt and seed.
        previews = {(one.step, one.prompt, one.seed): vars(one) for one in record.previews}
        done, total = self._progress
        warned = [(one.code, tuple((lang, one.words(lang)) for lang in languages())) for one in record.warned]
        return RunStatus(
            run=folder.root,
            state=state,
            method=recipe["method"]["name"],
            family=record.started.family if record.started else "",
            base=recipe["base"]["model"],
            trigger=", ".join(triggers(recipe["data"])),
            phase="" if state == "finished" else self._phase.name,
            done=done,
            total=total,
            step=self._step,
            steps=recipe["train"]["steps"],
            seconds_left=self._seconds_left() if state == "running" else None,
            best_step=report_guard.best(guard)[0],
            stopped_by=record.finished.stopped_by if record.finished and state == "finished" else "",
            sentence=guard["sentence"] if guard else {},
            guard=guard,
            folds=report_guard.by_fold(record.folds),
            losses=thinned(record.look_losses or record.losses),
            previews=list(previews.values()),
            warnings=list({one: {"code": one[0], "message": dict(one[1])} for one in warned}.values()),
            artifacts=[path.relative_to(folder.root).as_posix() for path in results],
            has_result=folder.report_json.is_file(),
        )

    def _news(self) -> Iterator[Event]:
        """Events that were written since the last time; a line that is being written waits."""
        try:
            with self.folder.events.open("rb") as stream:
                stream.seek(self._read)
                whole, newline, _rest = stream.read().rpartition(b"\n")
        except OSError:
            return
        self._read += len(whole) + len(newline)
        for line in whole.decode("utf-8", "replace").splitlines():
            try:
                row = json.loads(line)
                event = KINDS[row.pop("event")](**row)
            # Cut off by a kill, or of another version.
            except (ValueError, KeyError, TypeError):
                continue
            yield event

    def _seconds_left(self) -> float | None:
        """At most: the trial run to its last step and the training on all images, or what is left of the latter."""
        if not self._times:
            return None
        chosen, steps = self._record.chosen, int(self._recipe["train"]["steps"])
        if self._phase.name == "look":
            left = steps - self._step + (steps if self._recipe["guard"]["refit"] else 0)
        else:
            left = max(0, (chosen.step if chosen and chosen.kind != "none" else steps) - self._step)
        return left * fmean(self._times)


def is_running(folder: RunDir) -> bool:
    """Whether a process works on a run: it holds the run's lock, which is free again however it ends."""
    return is_locked(folder.lock)


def state_of(folder: RunDir) -> State:
    """Whether a run is running, is over, or can go on: one that was stopped has a report, but of what is not finished."""
    if is_running(folder):
        return "running"
    return "finished" if folder.report_json.is_file() and not folder.unfinished.exists() else "stopped"


def can_resume(folder: RunDir) -> bool:
    """Whether a run was begun and is not over."""
    return folder.events.is_file() and state_of(folder) == "stopped"


def thinned(losses: Sequence[float]) -> list[tuple[int, float]]:
    """Step and loss, from 1; of many steps the means of `POINTS` spans of them."""
    width = max(1, -(-len(losses) // POINTS))
    return [
        (min(first + width, len(losses)), fmean(losses[first : first + width]))
        for first in range(0, len(losses), width)
    ]


@at_once
def status(run: Path | str) -> RunStatus:
    """What a run is doing, from its folder.

    Raises:
        RecipeError: TR002, this is no run folder.
    """
    return Follower(run).status()


@at_once
def stop(run: Path | str) -> RunStatus:
    """Ask a running run to save everything and stop, between two steps; `resume` goes on from there. Returns the status now.

    Raises:
        RecipeError: TR002, this is no run folder; InterruptedRunError: TR033, no process works on it.
    """
    return _ask(run, "stop")


@at_once
def sample(run: Path | str) -> RunStatus:
    """Ask a running training to generate its previews after the next step. Returns the status now.

    Raises:
        RecipeError: TR002, this is no run folder; InterruptedRunError: TR033, no process works on it.
    """
    return _ask(run, "sample")


def _ask(run: Path | str, want: Literal["stop", "sample"]) -> RunStatus:
    follower = Follower(run)
    folder = follower.folder
    if not is_running(folder):
        is_over = state_of(folder) == "finished"
        go_on = _("Go on with: tsuika resume {run}", run=run)
        do = _("It is over: its files are in {place}", place=folder.artifacts) if is_over else go_on
        raise InterruptedRunError("TR033", where=run, do=do)
    write_text(folder.stop_request if want == "stop" else folder.sample_request, "")
    return follower.status()
