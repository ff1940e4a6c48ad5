"""A run under guard: a trial run finds the best step, then the result learns from all images up to it.

It goes on from weights of the trial run, after folds from a training on all images at half of the step that they chose, while
the schedule takes the rate down. bench/guard/continued.py: better than starting again.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from typing import Final

from tsuika.core import files
from tsuika.core.events import Chosen, Event, Phase, Started, note
from tsuika.core.types import Attachment, count_params
from tsuika.guard.judge import APART, SEVERAL_BYTES, Judge, Range
from tsuika.training import optim
from tsuika.training.fit import Fit
from tsuika.training.guard_plan import GuardPlan, refits
from tsuika.training.monitor import has_ended
from tsuika.training.prepared import Prepared
from tsuika.training.schedule import Schedule
from tsuika.training.trainer import Snapshots, Trainer
from tsuika.training.trial_run import After, keeping_of, monitor_of, trial_run

DIVERGED: Final = ("GD001", "GD002", "GD003")
MUCH: Final = 1.5  # times `guard.overhead`: a little more is not reported


@dataclass(frozen=True)
class Trained:
    """A run's training, done. The weights to write are on the attachment, at strength 1."""

    attachment: Attachment
    step: int
    stopped_by: str = "steps"
    # Other steps that get files of their own: "safe", "balanced", "likeness" -> a step of `snapshots`.
    others: Mapping[str, int] = field(default_factory=dict)
    snapshots: Snapshots | None = None


def train(prepared: Prepared, plan: GuardPlan, after: After, *, resume: bool) -> Generator[Event, None, Trained]:
    """The whole training; afterwards the result's attachment is the only one on the model."""
    if plan.kind not in ("hold-out", "folds") or not refits(prepared.recipe):
        return (yield from _one_training(prepared, plan, after, resume=resume))
    trainable, nbytes = _sizes(prepared)
    yield _started(prepared, trainable, 0)
    several = nbytes < SEVERAL_BYTES
    snapshots = Snapshots(prepared.folder.guard / "look")
    judge = yield from trial_run(prepared, plan, snapshots, after, several=several, resume=resume)
    return (yield from _go_on(prepared, plan, judge, snapshots, after, several=several, resume=resume))


def _sizes(prepared: Prepared) -> tuple[int, int]:
    """How many numbers are trained, and their bytes."""
    attachment = prepared.attach()
    params = optim.trainable(attachment.param_groups())
    sizes = count_params(params), sum(param.nbytes for param in params)
    attachment.detach()
    return sizes


def _one_training(
    prepared: Prepared, plan: GuardPlan, after: After, *, resume: bool
) -> Generator[Event, None, Trained]:
    recipe, guard = prepared.recipe, prepared.folder.guard
    holds_out, obeys = bool(plan.split.parts), recipe.guard.mode == "on"
    run = prepared.fit(plan.split.inside() if holds_out else None)
    monitor = monitor_of(prepared, plan, run, guard / "checks.json") if plan.kind != "off" else None
    several = sum(param.nbytes for param in run.params) < SEVERAL_BYTES
    keeps = monitor is not None and holds_out and (several or obeys)
    snapshots = Snapshots(guard / "kept")
    trainer = Trainer(
        run,
        prepared.folder.checkpoints,
        monitor=monitor,
        stops_from=0 if obeys else None,
        keeping=keeping_of(snapshots, several, monitor.judge) if monitor is not None and keeps else None,
        after=lambda step: after(run, step, "train"),
        resume=resume,
    )
    yield _started(prepared, count_params(run.params), run.step)
    yield Phase("train", run.schedule.last)
    yield from trainer.train()
    if monitor is None:
        return Trained(run.finish(), run.step)
    judge = monitor.judge
    stopped_by = _stopped_by(judge) if obeys else "steps"
    if not holds_out:
        return Trained(run.finish(), run.step, stopped_by)
    yield from _choose(prepared, plan, judge, judge.chosen)
    best = judge.chosen.balanced if obeys else run.step
    return _trained(prepared, run, judge.chosen, snapshots if keeps else None, best, stopped_by)


def _go_on(
    prepared: Prepared,
    plan: GuardPlan,
    judge: Judge,
    snapshots: Snapshots,
    after: After,
    *,
    several: bool,
    resume: bool,
) -> Generator[Event, None, Trained]:
    """The result: on from weights of the trial run by all images, while the rate falls.

    Of the other steps of the range, those far enough away to differ go on in the same way, before it.
    """
    prepared.accelerator.wait_for_everyone()  # the first process writes the snapshots
    recipe, guard = prepared.recipe, prepared.folder.guard
    most, best = recipe.train.steps, judge.chosen.balanced
    far = APART if several else math.inf  # of two steps whose weights differ by more than jitter
    range_ = Range(*(s if max(s, best) >= far * min(s, best) > 0 else best for s in astuple(judge.chosen)))
    ends = Range(*(plan.ends(step, most) for step in astuple(range_)))
    yield from _choose(prepared, plan, judge, ends)
    if plan.folds:
        begins = frozenset(plan.begins(step, most) for step in astuple(range_))
        yield from _lead(prepared, begins, snapshots, resume=resume)

    kept = Snapshots(guard / "kept")
    for step in sorted({range_.safe, range_.likeness} - {best}):
        yield from _variant(prepared, plan, step, snapshots, kept, resume=resume)
    run = _from_trial(prepared, plan, best, snapshots)
    folder = prepared.folder.checkpoints
    trainer = Trainer(run, folder, after=lambda step: after(run, step, "train"), resume=resume)
    yield Phase("train", run.schedule.last)
    yield from trainer.train()
    return _trained(prepared, run, ends, kept, run.step, _stopped_by(judge))


def _from_trial(prepared: Prepared, plan: GuardPlan, step: int, snapshots: Snapshots) -> Fit:
    """A fit that goes on from a step of the trial run; where none was sound, the base as it is."""
    train = prepared.recipe.train
    begin, end = plan.begins(step, train.steps), plan.ends(step, train.steps)
    run = prepared.fit(schedule=Schedule.falling(train, begin, end))
    if step:
        run.start_from(snapshots.load(begin))
    return run


def _variant(
    prepared: Prepared, plan: GuardPlan, step: int, snapshots: Snapshots, kept: Snapshots, *, resume: bool
) -> Iterator[Event]:
    """Go on from another step of the trial run, and keep a snapshot of the end, unless it is there."""
    end = plan.ends(step, prepared.recipe.train.steps)
    states = prepared.folder.guard / f"variant-{end}"
    if end not in kept:
        yield Phase("variant", end)
        run = _from_trial(prepared, plan, step, snapshots)
        yield from Trainer(run, states, resume=resume).train()
        if prepared.is_main:
            kept.save(end, run)
        run.discard()
    if prepared.is_main:
        files.remove(states)


def _lead(prepared: Prepared, steps: frozenset[int], snapshots: Snapshots, *, resume: bool) -> Iterator[Event]:
    """A steady training on all images that takes snapshots of some steps, unless they are there."""
    if all(step in snapshots for step in steps - {0}):
        return
    states = prepared.folder.guard / "lead"
    run = prepared.fit(schedule=Schedule.steady(prepared.recipe.train, max(steps)))
    trainer = Trainer(run, states, keeping=(snapshots, lambda: steps), resume=resume)
    yield Phase("train", run.schedule.last)
    yield from trainer.train()
    if prepared.is_main:
        files.remove(states)
    run.discard()
    prepared.accelerator.wait_for_everyone()


def _trained(
    prepared: Prepared, run: Fit, steps: Range, snapshots: Snapshots | None, best: int, stopped_by: str
) -> Trained:
    """End the run with the weights of the best step on the attachment, where there is a snapshot of it."""
    attachment, step = run.finish(), run.step
    if snapshots is None:
        return Trained(attachment, step, stopped_by)
    prepared.accelerator.wait_for_everyone()  # the first process writes the snapshots
    if best != step and best in snapshots:
        attachment.load(snapshots.load(best))
        step = best
    named = {"balanced": steps.balanced, "safe": steps.safe, "likeness": steps.likeness}
    others = {other: name for name, other in reversed(named.items()) if other in snapshots and other != step}
    return Trained(attachment, step, stopped_by, {name: other for other, name in others.items()}, snapshots)


def _stopped_by(judge: Judge) -> str:
    if not judge.verdicts:
        return "steps"
    if judge.verdicts[-1].code in DIVERGED:
        return "diverged"
    return "guard" if has_ended(judge) else "steps"


def _started(prepared: Prepared, trainable: int, step: int) -> Started:
    recipe, family = prepared.recipe, prepared.model.facts.family
    return Started(recipe.method.name, family, len(prepared.images), recipe.train.steps, step, trainable)


def _choose(prepared: Prepared, plan: GuardPlan, judge: Judge, steps: Range) -> Iterator[Event]:
    """The chosen steps with the last verdict's reason, and a note where nothing was gained or the checks took long."""
    last = judge.verdicts[-1]
    out = tuple(name for part in plan.split.parts for name in part)
    named = {"safe": steps.safe, "balanced": steps.balanced, "likeness": steps.likeness}
    yield Chosen(plan.kind, judge.chosen.balanced, steps.balanced, named, last.code, dict(last.params), out, plan.folds)
    if last.evidence.range.balanced == 0:
        yield note("GD017", step=steps.balanced)
    took, most = last.evidence.overhead or 0.0, prepared.recipe.guard.overhead
    if most and took > MUCH * most:
        yield note("GD031", took=f"{took:.0%}", most=f"{most:.0%}")
