"""Trial runs: trainings without some of the images, by which the best step is found.

Either one without a few images (hold-out), or one for each fold. The rate is steady after the warm-up, as the end is unknown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from tsuika.core import files
from tsuika.core.events import Event, Judged, Phase
from tsuika.guard.judge import Judge, replay
from tsuika.training import checkpoint
from tsuika.training.fit import Fit
from tsuika.training.guard_plan import GuardPlan
from tsuika.training.monitor import Monitor, has_ended, joined, judged, read_checks
from tsuika.training.prepared import Prepared
from tsuika.training.schedule import Schedule
from tsuika.training.trainer import Keeping, Snapshots, Trainer

Trial = Generator[Event, None, Judge]
After = Callable[
    [Fit, int, str], Iterator[Event]
]  # previews and the like after a step of a fit, in a phase of this name


def trial_run(
    prepared: Prepared, plan: GuardPlan, snapshots: Snapshots, after: After, *, several: bool, resume: bool
) -> Trial:
    """The trial runs of a plan; returns the judge, who has chosen the best step.

    `snapshots` takes the steps that may be chosen (with folds none): the whole range with `several`, else the best alone.
    """
    if plan.folds:
        judge = yield from _folds(prepared, plan, after, resume=resume)
    else:
        judge = yield from _fold(prepared, plan, 0, after, keeping=(snapshots, several), resume=resume)
    if prepared.is_main:
        # The checks, and the snapshots, are all that is needed of them.
        for fold in range(len(plan.split.parts)):
            files.remove(_states(prepared, fold))
    return judge


def _folds(prepared: Prepared, plan: GuardPlan, after: After, *, resume: bool) -> Trial:
    """Every fold in turn to the stop of its own judge; then on until they can be judged together, by the steps all have reached."""
    least = 0
    while True:
        folds = []
        for fold in range(plan.folds):
            folds.append((yield from _fold(prepared, plan, fold, after, least=least, resume=resume or least > 0)))
            prepared.accelerator.wait_for_everyone()
        together = judge_of(prepared, plan, plan.budget(prepared.recipe).steps)
        events = []
        for checks in zip(*(judge.checks for judge in folds), strict=False):
            check = joined(checks)
            events.append(judged(together.update(check), check, plan.folds))
            if has_ended(together):
                break
        following = together.next_step()
        if has_ended(together) or following is None:
            yield from events
            return together
        least = following


def _fold(
    prepared: Prepared,
    plan: GuardPlan,
    fold: int,
    after: After,
    *,
    keeping: tuple[Snapshots, bool] | None = None,
    least: int = 0,
    resume: bool,
) -> Trial:
    """The trial run without one part of the images, to its judge's stop, but not before step `least`."""
    steps, folder = plan.budget(prepared.recipe).steps, _states(prepared, fold)
    file, done = prepared.folder.guard / f"checks-{fold}.json", prepared.folder.guard / f"look-{fold}.done"
    if done.exists():
        judge = judge_of(prepared, plan, steps)
        replay(judge, read_checks(file))
        if judge.checks[-1].step >= least and (has_ended(judge) or judge.next_step() is None):
            return judge
    run = prepared.fit(plan.split.inside(fold), Schedule.steady(prepared.recipe.train))
    monitor = monitor_of(prepared, plan, run, file, fold=fold)
    kept = keeping_of(*keeping, judge=monitor.judge) if keeping is not None else None
    trainer = Trainer(
        run,
        folder,
        monitor=monitor,
        stops_from=least,
        keeping=kept,
        # One fold's previews are enough.
        after=lambda step: after(run, step, "look") if fold == 0 else iter(()),
        resume=resume,
    )
    yield Phase("look", run.schedule.last)
    for event in trainer.train():
        if isinstance(event, Judged) and plan.folds:
            event = replace(event, fold=fold + 1, folds=plan.folds)
        yield event
    if prepared.is_main:
        files.write_text(done, "")
        checkpoint.prune(folder, 1)
    run.discard()
    return monitor.judge


def keeping_of(snapshots: Snapshots, several: bool, judge: Judge) -> Keeping:
    """Snapshots of the steps that a judge may still choose; where there is no room for `several`, of the best alone."""

    def steps() -> frozenset[int]:
        return judge.keep | judge.to_come if several else frozenset({judge.chosen.balanced} - {0})

    return snapshots, steps


def monitor_of(prepared: Prepared, plan: GuardPlan, run: Fit, file: Path, *, fold: int = 0) -> Monitor:
    """The guard's checks of a fit that is trained without a fold, or on all images where there is no split."""
    allowed, split, began = plan.budget(prepared.recipe), plan.split, time.monotonic()
    out = split.held_out_probe(fold)[: allowed.held_out] if split.parts else ()
    trained_on = split.train_probe(fold if split.parts else 0)[: allowed.trained_on if out else 2]
    probe = prepared.probe(run, out, trained_on, allowed.controls, few=allowed.few)
    return Monitor(run, probe, judge_of(prepared, plan, allowed.steps), file, time.monotonic() - began)


def judge_of(prepared: Prepared, plan: GuardPlan, steps: Sequence[int]) -> Judge:
    train, guard = prepared.recipe.train, prepared.recipe.guard
    return Judge(train.steps, train.learning_rate, guard.patience, plan.overlap, steps)


def _states(prepared: Prepared, fold: int) -> Path:
    return prepared.folder.guard / f"look-{fold}"


def best_so_far(prepared: Prepared, plan: GuardPlan) -> tuple[int, Mapping[str, Tensor]] | None:
    """Step and weights to take from a run that was stopped; None before its first state is saved.

    In the trial run, or in a training that holds images out, those of the step that the guard would choose now, as far as
    they are kept; else the newest ones.
    """
    guard = prepared.folder.guard

    def chosen(kept: str, checks: str) -> tuple[int, Mapping[str, Tensor]] | None:
        found, snapshots = read_checks(guard / checks), Snapshots(guard / kept)
        judge = judge_of(prepared, plan, plan.budget(prepared.recipe).steps)
        replay(judge, found)
        step = judge.chosen.balanced
        return (step, snapshots.load(step)) if step and step in snapshots else None

    def newest(folder: Path) -> tuple[int, Mapping[str, Tensor]] | None:
        state, _damaged = checkpoint.newest(folder)
        # What would be written is the average where there is one.
        return (state.step, state.weights | state.average) if state is not None else None

    best = chosen("kept", "checks.json") or newest(prepared.folder.checkpoints)
    if best is None and not plan.folds:
        best = chosen("look", "checks-0.json")
    if best is not None:
        return best
    trials = [newest(_states(prepared, number)) for number in range(max(1, len(plan.split.parts)))]
    return max((one for one in trials if one is not None), key=lambda one: one[0], default=None)
