"""A run under guard: a trial run finds the best step, then the result learns from all images up to it.

A trial run is a training without a few images (hold-out), or one for each fold, in turn, at a rate that is steady after the
warm-up, as its end is unknown. The result goes on from its weights, after folds from a training on all images at half of the step
that they chose, while the schedule takes the rate down. bench/guard/continued.py: better than starting again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Final

from torch import Tensor

from tsuika.core import files
from tsuika.core.events import Chosen, Event, Judged, Phase, Started, note
from tsuika.core.types import Attachment, count_params
from tsuika.formats.provenance import GuardRecord
from tsuika.guard.judge import APART, SEVERAL_BYTES, Judge, Range, replay
from tsuika.guard.reading import Check
from tsuika.methods import find
from tsuika.training import checkpoint
from tsuika.training.fit import Fit
from tsuika.training.guard_plan import Budget, GuardPlan, refits
from tsuika.training.monitor import Monitor, has_ended, joined, judged, read_checks
from tsuika.training.prepared import Prepared
from tsuika.training.provenance import guard_record
from tsuika.training.schedule import Schedule
from tsuika.training.trainer import Keeping, Snapshots, Trainer

DIVERGED: Final = ("GD001", "GD002", "GD003")
MUCH: Final = 1.5  # times `guard.overhead`: a little more is not reported

After = Callable[
    [Fit, int, str], Iterator[Event]
]  # previews and the like after a step of a fit, in a phase of this name


@dataclass(frozen=True)
class TrainedWeights:
    """A run's training, done. The weights to write are on the attachment, at strength 1."""

    attachment: Attachment
    step: int
    stopped_by: str = "steps"
    # Other steps that get files of their own: "safe", "balanced", "likeness" -> a step of `snapshots`.
    others: Mapping[str, int] = field(default_factory=dict)
    snapshots: Snapshots | None = None
    guard: GuardRecord | None = None


@dataclass(frozen=True)
class GuardedRun:
    """A run's training by a plan; on `resume` it goes on from what its folder holds."""

    prepared: Prepared
    plan: GuardPlan
    after: After
    resume: bool

    def train(self) -> Generator[Event, None, TrainedWeights]:
        """The whole training; afterwards the result's attachment is the only one on the model."""
        if self.plan.kind not in ("hold-out", "folds") or not refits(self.prepared.recipe):
            return (yield from self._one_training())
        attachment = self.prepared.attach()
        params = [param for group in attachment.param_groups() for param in group.params]
        trainable = count_params(params)
        several = self.prepared.recipe.guard.range and sum(param.nbytes for param in params) < SEVERAL_BYTES
        attachment.detach()
        del attachment, params
        yield self._started(trainable, 0)
        judge = yield from (self._folds() if self.plan.folds else self._fold(0, several=several))
        if self.prepared.is_main:
            # The checks, and the snapshots, are all that is needed of the trial runs.
            for fold in range(len(self.plan.split.parts)):
                files.remove(self._states(fold))
        return (yield from self._go_on(judge, several))

    def best_so_far(self) -> tuple[int, Mapping[str, Tensor]] | None:
        """Step and weights to take from a run that was stopped; None before its first state is saved.

        In the trial run, or in a training that holds images out, those of the step that the guard would choose now, as far as
        they are kept; else the newest ones.
        """

        def chosen(snapshots: Snapshots, checks: str) -> tuple[int, Mapping[str, Tensor]] | None:
            step = self._judge(read_checks(self._guard / checks)).chosen.balanced
            return (step, snapshots.load(step)) if step in snapshots else None

        def newest(folder: Path) -> tuple[int, Mapping[str, Tensor]] | None:
            state, _damaged = checkpoint.newest(folder)
            # What would be written is the average where there is one.
            return (state.step, state.weights | state.average) if state is not None else None

        best = chosen(self._kept, "checks.json") or newest(self.prepared.folder.checkpoints)
        if best is None and not self.plan.folds:
            best = chosen(self._look, "checks-0.json")
        if best is not None:
            return best
        trials = [newest(self._states(number)) for number in range(max(1, len(self.plan.split.parts)))]
        return max((one for one in trials if one is not None), key=lambda one: one[0], default=None)

    @property
    def _guard(self) -> Path:
        return self.prepared.folder.guard

    @property
    def _look(self) -> Snapshots:
        """Of the steps of the trial run that may be chosen; with folds, of the training that leads to where the result begins."""
        return Snapshots(self._guard / "look")

    @property
    def _kept(self) -> Snapshots:
        """Of the steps that get files of their own."""
        return Snapshots(self._guard / "kept")

    def _states(self, fold: int) -> Path:
        return self._guard / f"look-{fold}"

    def _one_training(self) -> Generator[Event, None, TrainedWeights]:
        """On all images or without those held out; monitored unless the guard is off."""
        prepared, split = self.prepared, self.plan.split
        holds_out, obeys = bool(split.parts), prepared.recipe.guard.mode == "on"
        run = prepared.fit(split.inside() if holds_out else None)
        monitor = self._monitor(run, self._guard / "checks.json") if self.plan.kind != "off" else None
        several = sum(param.nbytes for param in run.params) < SEVERAL_BYTES
        snapshots = self._kept if monitor is not None and holds_out and (several or obeys) else None
        trainer = Trainer(
            run,
            prepared.folder.checkpoints,
            monitor=monitor,
            stops_from=0 if obeys else None,
            keeping=_keeping(snapshots, several, monitor.judge) if monitor and snapshots else None,
            after=lambda step: self.after(run, step, "train"),
            resume=self.resume,
        )
        yield self._started(count_params(run.params), run.step)
        yield Phase("train", run.schedule.last)
        yield from trainer.train()
        if monitor is None:
            return TrainedWeights(run.finish(), run.step)
        judge = monitor.judge
        stopped_by = _stopped_by(judge) if obeys else "steps"
        if not holds_out:
            return TrainedWeights(run.finish(), run.step, stopped_by)
        yield from self._choose(judge, judge.chosen)
        best = judge.chosen.balanced if obeys else run.step
        trained = self._trained(run, judge.chosen, snapshots, best, stopped_by)
        return replace(trained, guard=guard_record(judge, self.plan, all_images=False))

    def _folds(self) -> Generator[Event, None, Judge]:
        """Every fold in turn to the stop of its own judge; then on until they can be judged together, by the steps all reached."""
        least = 0
        while True:
            folds = []
            for fold in range(self.plan.folds):
                folds.append((yield from self._fold(fold, least)))
                self.prepared.accelerator.wait_for_everyone()
            together = self._judge()
            events = []
            for checks in zip(*(judge.checks for judge in folds), strict=False):
                check = joined(checks)
                events.append(judged(together.update(check), check, self.plan.folds))
                if has_ended(together):
                    break
            following = together.next_step()
            if has_ended(together) or following is None:
                yield from events
                return together
            least = following

    def _fold(self, fold: int, least: int = 0, *, several: bool = False) -> Generator[Event, None, Judge]:
        """The trial run without one part of the images, to its judge's stop, but not before step `least`.

        Without folds, snapshots are taken of the steps that may be chosen: of the whole range with `several`, else the best alone.
        """
        prepared, plan, folder = self.prepared, self.plan, self._states(fold)
        file, done = self._guard / f"checks-{fold}.json", self._guard / f"look-{fold}.done"
        if done.exists():
            judge = self._judge(read_checks(file))
            if judge.checks[-1].step >= least and (has_ended(judge) or judge.next_step() is None):
                return judge
        schedule = Schedule.steady(prepared.recipe.train, plan.trial(prepared.recipe))
        run = prepared.fit(plan.split.inside(fold), schedule)
        monitor = self._monitor(run, file, fold)
        trainer = Trainer(
            run,
            folder,
            monitor=monitor,
            stops_from=least,
            keeping=None if plan.folds else _keeping(self._look, several, monitor.judge),
            # One fold's previews are enough.
            after=lambda step: self.after(run, step, "look") if fold == 0 else iter(()),
            resume=self.resume or least > 0,
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

    @property
    def _budget(self) -> Budget:
        return self.plan.budget(self.prepared.recipe)

    def _monitor(self, run: Fit, file: Path, fold: int = 0) -> Monitor:
        """The guard's checks of a fit that is trained without a fold, or on all images where there is no split."""
        allowed, split, began = self._budget, self.plan.split, time.monotonic()
        out = split.held_out_probe(fold)[: allowed.held_out] if split.parts else ()
        trained_on = split.train_probe(allowed.trained_on, fold)
        first = sum(len(split.held_out_probe(before)) for before in range(fold))
        probe = self.prepared.probe(run, out, trained_on, allowed.controls, allowed.draws, first)
        return Monitor(run, probe, self._judge(), file, time.monotonic() - began)

    def _judge(self, checks: Sequence[Check] = ()) -> Judge:
        recipe, from_file = self.prepared.recipe, self.prepared.start is not None
        train, patience, overlap = recipe.train, recipe.guard.patience, self.plan.split.overlap
        elsewhere = from_file or find(recipe.method.name).adds_words
        steps = (0, *self._budget.steps) if elsewhere else self._budget.steps
        trial = self.plan.trial(recipe)
        judge = Judge(trial, train.learning_rate, patience, overlap, steps, train.steps, keeps_start=from_file)
        replay(judge, checks)
        return judge

    def _go_on(self, judge: Judge, several: bool) -> Generator[Event, None, TrainedWeights]:
        """The result: on from weights of the trial run by all images, while the rate falls.

        Of the other steps of the range, those far enough away to differ go on in the same way, before it.
        """
        prepared, plan = self.prepared, self.plan
        # The first process writes the snapshots.
        prepared.accelerator.wait_for_everyone()
        most, best, stop = prepared.recipe.train.steps, judge.chosen.balanced, judge.checks[-1].step
        far = APART if several else math.inf  # of two steps whose weights differ by more than jitter
        range_ = Range(*(s if max(s, best) >= far * min(s, best) > 0 else best for s in astuple(judge.chosen)))
        ends = Range(*(plan.ends(step, stop, most) for step in astuple(range_)))
        yield from self._choose(judge, ends)
        if plan.folds:
            yield from self._lead(frozenset(plan.begins(step, most) for step in astuple(range_)))
        for step in sorted({range_.safe, range_.likeness} - {best}):
            yield from self._variant(step, stop)
        run = self._from_trial(best, stop)
        after = self.after
        trainer = Trainer(
            run, prepared.folder.checkpoints, after=lambda step: after(run, step, "train"), resume=self.resume
        )
        yield Phase("train", run.schedule.last)
        yield from trainer.train()
        trained = self._trained(run, ends, self._kept, run.step, _stopped_by(judge))
        return replace(trained, guard=guard_record(judge, plan, all_images=True))

    def _from_trial(self, step: int, stop: int) -> Fit:
        """A fit that goes on from a step of a trial run of `stop` steps; where none was sound, what the run began with, as it is."""
        train = self.prepared.recipe.train
        begin, end = self.plan.begins(step, train.steps), self.plan.ends(step, stop, train.steps)
        run = self.prepared.fit(schedule=Schedule.falling(train, begin, end))
        if step:
            run.start_from(self._look.load(begin))
        return run

    def _variant(self, step: int, stop: int) -> Iterator[Event]:
        """Go on from another step of the trial run, and keep a snapshot of the end, unless it is there."""
        end = self.plan.ends(step, stop, self.prepared.recipe.train.steps)
        states = self._guard / f"variant-{end}"
        if end not in self._kept:
            yield Phase("variant", end)
            run = self._from_trial(step, stop)
            yield from Trainer(run, states, resume=self.resume).train()
            if self.prepared.is_main:
                self._kept.save(end, run)
            run.discard()
        if self.prepared.is_main:
            files.remove(states)

    def _lead(self, steps: frozenset[int]) -> Iterator[Event]:
        """A steady training on all images that takes snapshots of some steps, unless they are there."""
        if all(step in self._look for step in steps - {0}):
            return
        prepared, states = self.prepared, self._guard / "lead"
        run = prepared.fit(schedule=Schedule.steady(prepared.recipe.train, max(steps)))
        trainer = Trainer(run, states, keeping=(self._look, lambda: steps), resume=self.resume)
        yield Phase("train", run.schedule.last)
        yield from trainer.train()
        if prepared.is_main:
            files.remove(states)
        run.discard()
        prepared.accelerator.wait_for_everyone()

    def _trained(
        self, run: Fit, steps: Range, snapshots: Snapshots | None, best: int, stopped_by: str
    ) -> TrainedWeights:
        """End the run with the weights of the best step on the attachment, where there is a snapshot of it."""
        attachment, step = run.finish(), run.step
        if snapshots is None:
            return TrainedWeights(attachment, step, stopped_by)
        self.prepared.accelerator.wait_for_everyone()  # the first process writes the snapshots
        if best != step and best in snapshots:
            attachment.load(snapshots.load(best))
            step = best
        named = {"balanced": steps.balanced, "safe": steps.safe, "likeness": steps.likeness}
        others = {other: name for name, other in reversed(named.items()) if other in snapshots and other != step}
        return TrainedWeights(attachment, step, stopped_by, {name: other for other, name in others.items()}, snapshots)

    def _started(self, trainable: int, step: int) -> Started:
        recipe, family = self.prepared.recipe, self.prepared.model.facts.family
        return Started(recipe.method.name, family, len(self.prepared.images), recipe.train.steps, step, trainable)

    def _choose(self, judge: Judge, steps: Range) -> Iterator[Event]:
        """The chosen steps with the last verdict's reason, and a note where nothing was gained or the checks took long."""
        last, plan = judge.verdicts[-1], self.plan
        out = tuple(name for part in plan.split.parts for name in part)
        named = {"safe": steps.safe, "balanced": steps.balanced, "likeness": steps.likeness}
        look, params = judge.chosen.balanced, dict(last.params)
        yield Chosen(plan.kind, look, steps.balanced, named, last.code, params, out, plan.folds)
        if look == 0 and self.prepared.start is not None:
            yield note("GD040", file=Path(self.prepared.settings.start_file).name)
        elif last.evidence.range.balanced == 0:
            yield note("GD017", step=steps.balanced)
        took, most = last.evidence.overhead or 0.0, self.prepared.recipe.guard.overhead
        if most and took > MUCH * most:
            yield note("GD031", took=f"{took:.0%}", most=f"{most:.0%}")


def _keeping(snapshots: Snapshots, several: bool, judge: Judge) -> Keeping:
    """Snapshots of the steps that a judge may still choose; where there is no room for `several`, of the best alone."""

    def steps() -> frozenset[int]:
        return judge.keep | judge.to_come if several else judge.keep & {judge.chosen.balanced}

    return snapshots, steps


def _stopped_by(judge: Judge) -> str:
    if judge.verdicts and judge.verdicts[-1].code in DIVERGED:
        return "diverged"
    return "guard" if has_ended(judge) else "steps"
