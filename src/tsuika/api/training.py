"""Training runs: their events, and the report at their end."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from html import escape
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from PIL import Image

from tsuika import config
from tsuika.api import previews
from tsuika.api.display import framed, gallery, table
from tsuika.api.models import EMBEDDED, cache_folder
from tsuika.api.run import Events, Run, starts
from tsuika.api.status import state_of
from tsuika.config import Recipe
from tsuika.core import files
from tsuika.core.errors import FormatError, InterruptedRunError, RecipeError, StopRequested, outer_cause
from tsuika.core.events import Event, Finished, Phase, Stepped, Warned, note
from tsuika.core.rundir import RunDir
from tsuika.core.sections import Train
from tsuika.data.subjects import named_in, subjects_of
from tsuika.embedded import mascot, yardstick
from tsuika.evaluation import memorization, report, run_record, scores
from tsuika.generation import grid, png_info
from tsuika.methods import find
from tsuika.training import folder as run_folder
from tsuika.training import loggers, notify, optim, preparation, run, surroundings

DEMO_PICTURES = Path(str(resources.files("tsuika.embedded"))) / "pictures"
DEMO_RECIPE = Path(str(resources.files("tsuika.embedded"))) / "demo.toml"
Returned = TypeVar("Returned")


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"  # set by `accelerate launch` for each process


@dataclass(frozen=True)
class Trained:
    """A training run that is over, as its folder tells of it.

    Attributes:
        folder: the run folder.
        report: `report.json`; empty in all but the first of several processes.
    """

    folder: Path
    report: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path | str) -> Trained:
        """The finished run in a folder.

        Raises:
            RecipeError: TR002, there is none.
            FormatError: TR011, its report cannot be read.
        """
        file = RunDir(Path(folder)).report_json
        if not file.is_file():
            raise RecipeError("TR002", where=folder)
        return cls(Path(folder), run_record.read_report(file))

    @property
    def artifacts(self) -> tuple[Path, ...]:
        """What was written: files, and folders of diffusers."""
        return tuple(self.folder / one["path"] for one in self.report["artifacts"])

    @property
    def best_step(self) -> int | None:
        """The step of the result; None where nothing was chosen."""
        return cast("int | None", self.report["best_step"])

    @property
    def stopped_by(self) -> str:
        """`steps`, `guard`, `user` or `diverged`."""
        return str(self.report["stopped_by"])

    def _repr_html_(self) -> str:
        before_after = self.folder / "before-after.png"
        return framed(
            table({"artifacts": list(map(str, self.artifacts)), "step": self.best_step, "ended by": self.stopped_by})
            + (gallery([before_after], 1024) if before_after.is_file() else "")
            + f"<div>report: {escape(str(self.folder / 'report.html'))}</div>"
        )


def train(recipe: Recipe | str, out: Path | str, *, language: str | None = None, **flags: object) -> Run[Trained]:
    """Train into a new run folder.

    Args:
        recipe: all settings; or the name of a method, and the settings that people give most as `flags`.
        out: the folder to make.
        language: in which the report opens; None: the browser's.
        flags: as for `Recipe.of`: `images="photos", trigger="sks", class_word="dog", settings={"method.rank": 8}`.

    Raises:
        TsuikaError: what is wrong with recipe, images, base or machine. Nothing is ever overwritten.
        TypeError: there is no such flag.
    """
    chosen = Recipe.of(recipe, **flags) if isinstance(recipe, str) else recipe  # type: ignore[arg-type]
    return _train(chosen, Path(out), language)


@starts
def _train(recipe: Recipe, out: Path, language: str | None) -> Events[Trained]:
    recipe = previews.with_file(recipe)
    with _open_run(recipe, out) as folder:
        again = f"tsuika train --recipe {folder.recipe} --out {out}-again"
        return (yield from _run(recipe, folder, again, scores.likeness, language))


@starts
def resume(out: Path | str, *, language: str | None = None) -> Events[Trained]:
    """Go on exactly where a run stopped: the result has the same bits as if it had not. One that is over stays as it is.

    Args:
        out: the run folder.
        language: in which the report opens; None: the browser's.

    Raises:
        RecipeError: TR002, this is no run folder.
        FormatError: TR011, something in it is damaged, or its settings are others.
    """
    recipe, folder = run_folder.read(Path(out))
    if (over := _over(folder)) is not None:
        surroundings.check_settings(recipe, folder)
        yield note("TR038", report=folder.root / "report.html", recipe=folder.recipe)
        return over
    held = run_folder.reopened(folder.root) if _is_main() else nullcontext((recipe, folder))
    with held as (recipe, folder):
        again = f"tsuika train --recipe {folder.recipe} --out {out}-again"
        is_demo = recipe.data.folders == (str(DEMO_PICTURES),)
        scorer = scores.mascot_scores if is_demo else scores.likeness
        return (yield from _run(recipe, folder, again, scorer, language, resume=True))


def _over(folder: RunDir) -> Trained | None:
    """The run in a folder, where it is over and all that it has written is there; None: there is something to do."""
    if state_of(folder) != "finished" or not (folder.root / "report.html").is_file():
        return None
    try:
        found = Trained.read(folder.root)
    # It is written again.
    except FormatError:
        return None
    return found if all(path.exists() for path in found.artifacts) else None


@starts
def demo(out: Path | str, *, steps: int | None = None, language: str | None = None) -> Events[Trained]:
    """Teach the embedded base a character it has never seen, from the bundled images, and compare before and after.

    Args:
        out: the run folder to make.
        steps: None: as many as the demo's recipe says.
        language: in which the report opens; None: the browser's.

    Raises:
        TsuikaError: `out` is there already, or it cannot be written.
    """
    tables = config.override(config.read_tables(DEMO_RECIPE), {"data.images": str(DEMO_PICTURES)})
    prompts = [prompt.text for prompt in mascot.TEST_PROMPTS]
    tables = config.override(tables, {"preview.prompts": prompts} | ({} if steps is None else {"train.steps": steps}))
    recipe = config.build(tables, where=str(DEMO_RECIPE))
    with _open_run(recipe, Path(out)) as folder:
        return (yield from _run(recipe, folder, f"tsuika demo --out {out}-again", scores.mascot_scores, language))


@dataclass(frozen=True)
class DryRun:
    """What a run would see.

    Attributes:
        base: the family, for people.
        prediction: what the base predicts.
        pictures: usable images.
        left_out: images that cannot be used.
        buckets: sizes with their number of images.
        captions: of each image.
        weight_decay_over_run: the sum of learning rate times weight decay; None where it is not known before.
        notes: findings.
        recipe: as TOML.
    """

    base: str
    prediction: str
    pictures: int
    left_out: int
    buckets: tuple[str, ...]
    captions: tuple[str, ...]
    weight_decay_over_run: float | None
    notes: tuple[Warned, ...]
    recipe: str


@starts
def dry_run(recipe: Recipe, out: Path | str) -> Events[DryRun]:
    """Load the base and read the images; what a run would see. Trains nothing, writes nothing.

    Args:
        recipe: all settings.
        out: the folder that the run would make.

    Raises:
        TsuikaError: what the run would raise.
    """
    recipe = previews.with_file(recipe)
    run_folder.check_start(recipe, Path(out))
    notes: list[Warned] = []
    with preparation.clear_errors(recipe, out):
        reading = _Stream(preparation.read_inputs(recipe, EMBEDDED, preparation.accelerate_for(recipe)))
        for event in chain(reading, optim.notes(recipe.train), _usual(recipe)):
            notes += [event] if isinstance(event, Warned) else []
            yield event
        inputs = reading.result
    return DryRun(
        inputs.model.facts.title,
        inputs.model.prediction,
        len(inputs.manifest),
        len(inputs.manifest.quarantined),
        tuple(f"{b.width}x{b.height}: {len(b.samples)}" for b in inputs.buckets),
        tuple(f"{sample.name}: {' | '.join(sample.captions)}" for sample in inputs.manifest.samples),
        optim.weight_decay_over_run(recipe.train),
        tuple(notes),
        config.dump(recipe, comments=False),
    )


def services() -> preparation.Services:
    """What a run gets from here: previews, regularization images, and the cache of encoded images."""
    return preparation.Services(EMBEDDED, cache_folder() / "latents", previews.ClassImages(), previews.draw)


def _open_run(recipe: Recipe, out: Path) -> AbstractContextManager[RunDir]:
    """A new run folder, made by the first of several processes."""
    return run_folder.started(recipe, out) if _is_main() else nullcontext(RunDir(out))


def _run(
    recipe: Recipe, folder: RunDir, again: str, scorer: scores.Scorer, language: str | None, *, resume: bool = False
) -> Events[Trained]:
    """A run's events, also written into its `events.jsonl`, and the report at its end; `again`: the command to repeat it."""
    notes = run_record.RunRecord()
    if resume and folder.events.exists():
        for event in run_record.past(folder.events):
            notes.add(event)
    # Of a process that was killed before it could answer.
    folder.takes(folder.stop_request)
    events = _with_note(run.train(recipe, folder, services(), resume=resume), () if resume else _usual(recipe))
    name, places, lang = folder.result_name(recipe.output.name), recipe.train.notify, language or "en"
    try:
        result = yield from _recorded(events, recipe, folder, notes)
        if not _is_main():
            return Trained(folder.root, {})
        yield Phase("report")
        _report(result, notes, again, scorer, language)
    except Exception as error:
        lost = isinstance(error, InterruptedRunError) and error.code == "TR036"
        # Who stops it knows; what is wrong with a recipe is said at once.
        if _is_main() and (lost or not isinstance(error, InterruptedRunError | RecipeError)):
            yield from notify.send(places, notify.of_failure(name, outer_cause(error) or error, lang), failed=True)
        raise
    if folder.stop_request.exists() and result.stopped_by == "user":
        raise _stopped(folder, result.step)
    done = Trained.read(folder.root)
    yield from notify.send(places, notify.of_end(name, done.report, lang))
    return done


def _usual(recipe: Recipe) -> Iterator[Warned]:
    """A note where neither the user nor the base has chosen a learning rate."""
    usual = config.defaults_of(find(recipe.method.name), recipe.base.model).get(
        "train.learning_rate", Train().learning_rate
    )
    if recipe.base.model != config.EMBEDDED and recipe.train.learning_rate == usual:
        yield note("TR015", images=recipe.data.first.images)


def _with_note(
    events: Generator[Event, None, run.RunResult], notes: Iterable[Warned]
) -> Generator[Event, None, run.RunResult]:
    with closing(events):
        yield next(events)
        yield from notes
        return (yield from events)


class _Stream(Generic[Returned]):
    """The events of a generator; once they are over, `result` is what it has returned."""

    result: Returned

    def __init__(self, events: Generator[Event, None, Returned]) -> None:
        self._events = events

    def __iter__(self) -> Iterator[Event]:
        self.result = yield from self._events


def _recorded(
    events: Generator[Event, None, run.RunResult], recipe: Recipe, folder: RunDir, notes: run_record.RunRecord
) -> Generator[Event, None, run.RunResult]:
    """The same events, each noted, written into `events.jsonl` and sent to loggers by the first of several processes.

    Where somebody has asked for a stop through the run's folder, the request stays there until the run is over.

    Raises:
        InterruptedRunError: TR031, for that reason, and there is no result to write yet.
    """
    step, asked = 0, False
    with closing(events), loggers.opened(recipe, folder.root, notes.steps_timed) as logged:
        onwards: Callable[[], Event] = events.__next__
        while True:
            try:
                event = onwards()
            except StopIteration as end:
                return cast(run.RunResult, end.value)
            except StopRequested:
                if not asked:
                    raise
                raise _stopped(folder, step) from None
            onwards = events.__next__
            step = event.step if isinstance(event, Stepped) else step
            for one in (event, *(logged.send(event) if _is_main() else ())):
                notes.add(one)
                if _is_main():
                    files.append(folder.events, one.to_json())
                try:
                    yield one
                except StopRequested as request:
                    onwards = partial(events.throw, request)
            if _is_main() and not asked and not isinstance(event, Finished) and folder.stop_request.exists():
                asked, onwards = True, partial(events.throw, StopRequested())


def _stopped(folder: RunDir, step: int) -> InterruptedRunError:
    folder.takes(folder.stop_request)
    return InterruptedRunError("TR031", where=folder.root, step=step, run=folder.root)


def _report(
    result: run.RunResult, notes: run_record.RunRecord, again: str, scorer: scores.Scorer, language: str | None
) -> None:
    prepared = result.prepared
    recipe, manifest, folder = prepared.recipe, prepared.manifest, prepared.folder
    prompts, subjects = previews.prompts(recipe), subjects_of(recipe.data)
    controls = frozenset(prompt.text for prompt in mascot.TEST_PROMPTS if not prompt.mascot)
    # Previews without a trigger word: what should stay as it was.
    controls |= {text for text in prompts if recipe.data.triggers and not named_in(text, subjects)}
    drawn, captions = (
        run_record.before_after(notes.previews, folder.root, controls),
        previews.captions(recipe, manifest),
    )
    rows = tuple(row for row in drawn if row.prompt not in captions)
    images = tuple(report.TrainingImage(s.name, s.caption, s.path, s.set) for s in manifest.samples)
    encode = yardstick.directions if recipe.base.model == "embedded" else None
    evidence = report.ReportParts(
        base=recipe.base.model,
        device=str(prepared.model.device),
        images=images,
        sets=tuple(
            report.ImageSet(name, own.trigger, own.class_word, len(manifest.of(name)))
            for name, own in recipe.data.each().items()
            if name
        ),
        left_out=tuple(report.LeftOutRow(item.name, item.words) for item in manifest.quarantined),
        before_after=rows,
        scores=scorer(recipe, images, rows) if rows else (),
        example_prompt=prompts[0] if prompts else manifest.samples[0].caption,
        command=again,
        lookalikes=memorization.find(
            drawn,
            images,
            encode,
            encoder=recipe.base.model,
            groups=memorization.groups_of(folder, manifest),
            captions={image.caption for image in images},
            memorization=result.memorization,
        ),
    )
    for warning in _write_grid(folder.root / "before-after.png", rows) if rows else ():
        notes.add(warning)
    run_record.write_report(folder, recipe, notes, evidence, language)


def _write_grid(path: Path, rows: Sequence[report.BeforeAfter]) -> list[Warned]:
    seeds = rows[0].seeds
    columns = [*(f"before, seed {seed}" for seed in seeds), *(f"after, seed {seed}" for seed in seeds)]
    cells = [Image.fromarray(scores.pixels(cell)) for row in rows for cell in (*row.before, *row.after)]
    sheet, warnings = grid.grid(cells, [row.prompt for row in rows], columns)
    png_info.write_png(path, sheet, None, {"prompts": [row.prompt for row in rows], "seeds": list(seeds)})
    return warnings
