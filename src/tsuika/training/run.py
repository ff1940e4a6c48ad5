"""A run: a recipe is prepared, trained under guard, and written into files that are read back. Yields events."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tsuika import formats
from tsuika.config import Recipe
from tsuika.core import files
from tsuika.core.errors import StopRequested
from tsuika.core.events import Event, Finished, Phase, note
from tsuika.core.rundir import RunDir
from tsuika.core.texts import _
from tsuika.core.types import Artifact, Attachment
from tsuika.data.manifest import Manifest
from tsuika.formats.provenance import KEY, Provenance
from tsuika.guard.judge import MOVED_ALONG
from tsuika.guard.memorization import Memorization
from tsuika.guard.probe import MID
from tsuika.pages import sentences
from tsuika.training import guard_plan, optim, surroundings, writing
from tsuika.training.fit import Fit
from tsuika.training.guard_plan import GuardPlan
from tsuika.training.guarded_run import GuardedRun, TrainedWeights
from tsuika.training.preparation import Services, accelerate_for, clear_errors, prepare
from tsuika.training.prepared import Prepared
from tsuika.training.provenance import provenance


@dataclass(frozen=True)
class RunResult:
    """A run that is over. The model in `prepared` is its base again."""

    prepared: Prepared
    step: int
    stopped_by: str  # "steps", "guard", "diverged"
    artifact: Artifact | None = None  # as written; None in processes that write nothing
    memorization: Memorization | None = None  # None where it was not measured


def train(
    recipe: Recipe, folder: RunDir, services: Services, *, resume: bool = False
) -> Generator[Event, None, RunResult]:
    """The whole run up to the written files. Closing the generator saves a state first."""
    with clear_errors(recipe, folder.root):
        accelerator = accelerate_for(recipe)
        begun = resume and folder.has_states
        prepared = yield from prepare(recipe, folder, services, accelerator, resume=begun)
        yield from _notes(recipe)
        if begun:
            yield from surroundings.check(prepared)
        elif prepared.is_main:
            surroundings.write(prepared)
        if not begun:
            yield from _preview_of_start(prepared, services)
        prepared.checkpoint_gradients()
        if recipe.train.compile:
            prepared.model.unet.compile()
        plan = _plan(prepared, begun=begun)
        yield from plan.notes

        def after(run: Fit, step: int, phase: str) -> Iterator[Event]:
            """Previews in the course of the training, where the recipe or anybody asks for them."""
            due = recipe.preview.every and step % recipe.preview.every == 0
            if due or (prepared.is_main and folder.takes(folder.sample_request)):
                with run.written_weights():
                    yield from _preview(prepared, services, step)
                yield Phase(phase, run.schedule.last)

        guarded, trained = GuardedRun(prepared, plan, after, resume), None
        with suppress(StopRequested):
            trained = yield from guarded.train()
        if trained is None:
            return (yield from _unfinished(guarded))
        yield from _preview(prepared, services, trained.step)
        result = yield from _written(prepared, trained)
        trained.attachment.detach()
        yield Finished(trained.stopped_by, trained.step)
        return result


def _unfinished(guarded: GuardedRun) -> Generator[Event, None, RunResult]:
    """Write what is best so far of a run that was stopped. Raises StopRequested: nothing is there yet."""
    prepared = guarded.prepared
    prepared.clear_model()
    best = guarded.best_so_far()
    if best is None or not prepared.is_main:
        raise StopRequested
    step, weights = best
    yield Phase("write")
    attachment = prepared.attach()
    attachment.load(weights)
    name, place = prepared.folder.result_name(prepared.recipe.output.name), prepared.folder.unfinished
    files.remove(place)
    proof = provenance(prepared, step, "user", None, None)
    artifact = yield from _write(prepared, attachment.artifact(), f"{name}-unfinished", place, proof)
    attachment.detach()
    yield Finished("user", step)
    return RunResult(prepared, step, "user", artifact)


def _notes(recipe: Recipe) -> Iterator[Event]:
    train = recipe.train
    yield from optim.notes(train)
    if train.optimizer == "schedule-free" and (train.ema or train.schedule != "constant"):
        yield note("TR006")
    elif train.optimizer == "prodigy" and train.schedule != "constant":
        yield note("TR007")
    if recipe.guard.mode != "off" and not train.min_timestep <= MID[0] <= MID[-1] < train.max_timestep:
        yield note("TR022", first=MID[0], last=MID[-1], least=train.min_timestep, most=train.max_timestep)


def _plan(prepared: Prepared, *, begun: bool) -> GuardPlan:
    guard = prepared.folder.guard
    if prepared.is_main:
        files.make_folder(guard)
        if not begun:
            files.remove(guard / guard_plan.SPLIT)
    with prepared.accelerator.main_process_first():
        return guard_plan.plan(prepared.recipe, prepared.manifest, guard)


def _preview(prepared: Prepared, services: Services, step: int) -> Iterator[Event]:
    if prepared.is_main and prepared.recipe.preview.num > 0:
        yield Phase("preview")
        yield from services.preview(prepared, step)


def _preview_of_start(prepared: Prepared, services: Services) -> Iterator[Event]:
    """Of the base, or of the file that the training goes on from."""
    attachment = prepared.attach() if prepared.start is not None else None
    yield from _preview(prepared, services, 0)
    if attachment is not None:
        attachment.detach()


def _written(prepared: Prepared, trained: TrainedWeights) -> Generator[Event, None, RunResult]:
    """Look for memorized images in the result, and write it and the other steps of the range; the main process does."""
    if not prepared.is_main:
        return RunResult(prepared, trained.step, trained.stopped_by)
    attachment = trained.attachment
    name = prepared.folder.result_name(prepared.recipe.output.name)
    found = None
    if prepared.recipe.guard.mode != "off":
        found = prepared.memorization(attachment)
        yield from _drifted(prepared, attachment, "safe" in trained.others)
    yield Phase("write")
    if prepared.recipe.output.caption_tags and any(s.caption_source != "built" for s in prepared.manifest.samples):
        yield note("TR020", tags=len(formats.count_tags(_texts(prepared.manifest))))
    place, proved = prepared.folder.artifacts, (trained.stopped_by, trained.guard)
    artifact = yield from _write(
        prepared, attachment.artifact(), name, place, provenance(prepared, trained.step, *proved, found)
    )
    if trained.snapshots is not None:
        for other, step in trained.others.items():
            attachment.load(trained.snapshots.load(step))
            # Repeated images were looked for in the main result alone.
            proof = provenance(prepared, step, *proved, None)
            yield from _write(prepared, attachment.artifact(), f"{name}-{other}", place, proof)
    files.remove(prepared.folder.unfinished)
    return RunResult(prepared, trained.step, trained.stopped_by, artifact, found)


def _drifted(prepared: Prepared, attachment: Attachment, safe: bool) -> Iterator[Event]:
    """Class words that have moved along with their trigger words; where none has, whether unrelated prompts have."""
    moved = prepared.moved(attachment)
    data = prepared.recipe.data
    do = _("Use the `safe` file, or a lower strength.") if safe else _("Use a lower strength.")
    if not any(own.reg_images or own.reg_generate for own in data.each().values()):
        later = _("For the next training: regularization images (--reg-images DIR, or --set data.reg_generate=100).")
        do = sentences(do, later)
    along = [one for one in moved if one.of_class >= MOVED_ALONG and not one.subject.is_style]
    for one in along:
        share, words = f"{one.of_class:.0%}", {"word": one.subject.class_word, "trigger": one.subject.trigger}
        yield note("GD036", share=share, do=do, **words)
    # Beside the subject that has moved most.
    most = max(moved, key=lambda one: one.own, default=None)
    if not along and most is not None and most.of_others >= MOVED_ALONG:
        yield note("GD035", trigger=most.subject.trigger, share=f"{most.of_others:.0%}", do=do)


def _write(
    prepared: Prepared, artifact: Artifact, name: str, place: Path, proof: Provenance
) -> Generator[Event, None, Artifact]:
    facts = _facts(prepared, name, proof.steps) | {KEY: proof.to_text()}
    artifact = replace(artifact, metadata={**artifact.metadata, **facts})
    dtype, run = prepared.recipe.output.dtype, prepared.folder.root
    yield from writing.write(artifact, place, run, name=name, precision=dtype, model=prepared.model)
    return artifact


def _facts(prepared: Prepared, name: str, steps: int) -> dict[str, str]:
    recipe, model, images, buckets = prepared.recipe, prepared.model, len(prepared.images), prepared.buckets
    each, names = recipe.data.each(), Path(recipe.data.first.images).resolve().name
    sets = {name or names: (own, prepared.manifest.of(name)) for name, own in each.items()}
    sizes = [{"resolution": [one.width, one.height], "count": len(one.samples)} for one in buckets]
    return formats.run_facts(
        recipe.train,
        **prepared.settings.network,
        name=name,
        trigger=", ".join(recipe.data.triggers),
        prediction=model.prediction,
        **model.file_facts,
        clip_skip=recipe.base.clip_skip,
        zero_terminal_snr=str(bool(model.scheduler_config.get("rescale_betas_zero_snr"))),
        base_name=Path(model.source).name,
        base_sha256=model.sha256,
        resolution=f"{buckets[0].width}x{buckets[0].height}",
        pictures=images,
        batch_size_per_device=recipe.train.batch_size // prepared.accelerator.num_processes,
        steps=steps,
        max_norm=recipe.regularize.max_norm or None,
        caption_dropout=recipe.data.caption_dropout,
        tag_frequency={name: formats.count_tags(_texts(one)) for name, (_own, one) in sets.items()}
        if recipe.output.caption_tags
        else None,
        bucket_info={"buckets": {str(number): size for number, size in enumerate(sizes)}},
        dataset_dirs={name: {"n_repeats": own.repeats, "img_count": len(one)} for name, (own, one) in sets.items()},
    )


def _texts(manifest: Manifest) -> list[str]:
    return [text for sample in manifest.samples for text in sample.captions]
