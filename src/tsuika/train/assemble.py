"""A run from a recipe: where methods and families meet. Yields events; touches no screen.

The order is the architecture page's: load the base, read the pictures, attach the method, encode, fit, write, read back.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from tsuika import formats
from tsuika.core import config
from tsuika.core.config import Recipe
from tsuika.core.errors import InterruptedRunError, PictureError
from tsuika.core.events import Event, Finished, Phase, note
from tsuika.core.files import write_text
from tsuika.core.rundir import RunDir
from tsuika.core.types import Artifact, Model
from tsuika.data.manifest import Manifest
from tsuika.train import course, guarded, optim, writing
from tsuika.train.gather import Run, accelerate_for, clear_errors, prepare, settled
from tsuika.train.loop import Fit


def train(run: Run, *, resume: bool = False) -> Iterator[Event]:
    """The whole run up to the written files. Closing the generator saves a state first.

    Raises:
        TsuikaError: whatever is wrong with recipe, pictures, model, machine.
    """
    with clear_errors(run.recipe, run.folder.root):
        accelerator = accelerate_for(run.recipe)
        yield from _train(run, accelerator, resume)


def _train(run: Run, accelerator: Accelerator, resume: bool) -> Iterator[Event]:
    recipe, main = run.recipe, accelerator.is_main_process
    begun = resume and run.folder.has_states  # else it starts anew, with whatever pictures there are now
    began_with = Manifest.read(run.folder.left_out) if begun else None
    report = run.folder.left_out if main and began_with is None else None
    ground = yield from prepare(run, accelerator, report=report, began_with=began_with)
    yield from optim.notes(recipe.train)
    if recipe.train.optimizer == "schedule-free" and (recipe.train.ema or recipe.train.schedule != "constant"):
        yield note("TR006")
    elif recipe.train.optimizer == "prodigy" and recipe.train.schedule != "constant":
        yield note("TR007")
    if not begun:
        yield from _preview(run, main, 0)
    ground.checkpoint_gradients()
    if recipe.train.compile:
        ground.model.unet.compile()
    if main:
        run.folder.guard.mkdir(exist_ok=True)
        if not begun:
            (run.folder.guard / course.SPLIT).unlink(missing_ok=True)
    ground.after = partial(_previews, run, main)
    with accelerator.main_process_first():
        way = course.plan(recipe, ground.manifest, run.folder.guard, course.why_alone(recipe, accelerator))
    yield from way.notes
    result = yield from guarded.train(ground, way, resume=resume)
    fitting = result.run
    run.steps_done, run.stopped_by = result.step, result.stopped_by
    fitting.optimizer.zero_grad(set_to_none=True)  # reading a whole model back needs the room
    with fitting.written_weights():
        yield from _preview(run, main, result.step)
        if main and recipe.guard.mode != "off":
            run.leaks = ground.leaks(fitting)
    if main:
        with fitting.written_weights():  # a whole model is written from the live weights
            yield Phase("write")
            run.artifact = yield from _write(run, fitting, len(ground.pictures), name_of(run))
        for name, step in result.others.items():
            assert result.kept is not None
            fitting.attachment.load(result.kept.load(step))
            run.steps_done = step
            yield from _write(run, fitting, len(ground.pictures), f"{name_of(run)}-{name}")
    fitting.attachment.detach()
    yield Finished(run.stopped_by, result.step)


def _write(run: Run, fitting: Fit, pictures: int, name: str) -> Generator[Event, None, Artifact]:
    """The weights on a fit's attachment into files."""
    artifact = fitting.attachment.artifact()
    assert run.model is not None
    artifact.metadata |= facts(run, run.model, pictures, name).metadata()
    yield from writing.write(artifact, run.folder, name=name, precision=run.recipe.output.dtype, model=run.model)
    return artifact


def _preview(run: Run, main: bool, step: int) -> Iterator[Event]:
    """Previews of the model as it stands."""
    if main and run.preview is not None and run.recipe.preview.num > 0:
        assert run.model is not None
        yield Phase("preview")
        yield from run.preview(run.model, run.recipe, run.folder, step)


def _previews(run: Run, main: bool, step: int, fitting: Fit) -> Iterator[Event]:
    """Previews in the course of a training, where the recipe wants them after this step."""
    every = run.recipe.preview.every
    if every and step % every == 0 and main and run.preview is not None and run.recipe.preview.num > 0:
        with fitting.written_weights():
            yield from _preview(run, main, step)
        yield Phase("train", fitting.last_step)


def facts(run: Run, model: Model, pictures: int, name: str) -> formats.RunFacts:
    """What a written file should say about the run. No date: the same recipe gives the same bytes, whenever it runs."""
    recipe, manifest, first = run.recipe, run.manifest, run.buckets[0]
    assert manifest is not None
    train, method = recipe.train, recipe.method
    folder = Path(recipe.data.images).resolve().name
    return formats.RunFacts(
        name=name,
        trigger=recipe.data.trigger,
        prediction=model.prediction,
        base_name=Path(model.source).name,
        base_sha256=model.sha256 or "",
        resolution=f"{first.width}x{first.height}",
        **method.network,
        pictures=pictures,
        steps=run.steps_done,
        max_steps=train.steps,
        batch_size=train.batch_size,
        accumulate=train.accumulate,
        learning_rate=train.learning_rate,
        optimizer=train.optimizer,
        schedule=train.schedule,
        warmup_steps=round(train.warmup * train.steps),
        min_snr_gamma=train.min_snr_gamma,
        noise_offset=train.noise_offset,
        clip_norm=train.clip_norm,
        max_norm=recipe.regularize.max_norm or None,
        caption_dropout=recipe.data.caption_dropout,
        precision=train.precision,
        gradient_checkpointing=train.gradient_checkpointing,
        cache_latents=True,
        clip_skip=1,
        seed=train.seed,
        tag_frequency={folder: formats.count_tags(sample.caption for sample in manifest.samples)},
        bucket_info={
            "buckets": {
                str(i): {"resolution": [b.width, b.height], "count": len(b.samples)} for i, b in enumerate(run.buckets)
            }
        },
        dataset_dirs={folder: {"n_repeats": recipe.data.repeats, "img_count": pictures}},
    )


def name_of(run: Run) -> str:
    """The result's name: the recipe's, else the run folder's."""
    return run.recipe.output.name or run.folder.root.resolve().name


def may_start(recipe: Recipe, folder: Path) -> None:
    """Whether a run can begin there.

    Raises:
        RecipeError: RC006, the folder is in use; or as `settled`. PictureError: DS001, there is no picture folder.
    """
    settled(recipe)
    if recipe.data.images and not Path(recipe.data.images).is_dir():
        raise PictureError("DS001", where=recipe.data.images)
    RunDir(folder).check_free()


def start(recipe: Recipe, folder: Path) -> RunDir:
    """A new run folder with the complete recipe in it.

    Raises:
        RecipeError, PictureError: as `may_start`.
    """
    may_start(recipe, folder)
    run = RunDir(folder).create()
    write_text(run.recipe, config.dump(recipe))
    return run


def reopen(folder: Path) -> tuple[Recipe, RunDir]:
    """The recipe and folder of a run that goes on.

    Raises:
        InterruptedRunError: TR002, this is no run folder.
    """
    run = RunDir(folder)
    if not run.recipe.is_file():
        raise InterruptedRunError("TR002", where=folder)
    for temporary in (*run.checkpoints.glob(".*.tmp"), *run.guard.glob("**/.*.tmp")):  # of a process that was killed
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
    return config.load(run.recipe), run


def summary(run: Run) -> dict[str, Any]:
    """What `--dry-run` shows."""
    assert run.manifest is not None
    return {
        "pictures": len(run.manifest),
        "left_out": len(run.manifest.quarantined),
        "buckets": [f"{b.width}x{b.height}: {len(b.samples)}" for b in run.buckets],
        "captions": [f"{s.name}: {s.caption}" for s in run.manifest.samples],
        "weight_decay_over_run": optim.weight_decay_over_run(run.recipe.train),
    }
