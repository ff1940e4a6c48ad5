"""A run under guard: who learns beside whom, when it ends, and which weights are kept.

A *look* trains without some pictures and finds the best step by them: once without a few (hold-out), or by folds, each
without its own, in lockstep beside a run on all pictures or, where that cannot be, one after another. The result learns
from *all* pictures: it goes on from weights of the look, after folds from those of the run on all pictures at half of the
step that they chose.

The rate of a look that is gone on from is steady after the warm-up, as nobody knows yet where it ends; the schedule then
takes it down to nothing. bench/guard/continued.py: better than starting again, and than the run on all pictures as it is.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Final

from tsuika.core.events import Chosen, Event, Phase, note
from tsuika.core.types import Lanes
from tsuika.guard.judge import Judge, Range, Rule, replay
from tsuika.guard.reading import Check
from tsuika.methods import find
from tsuika.train import checkpoint
from tsuika.train.course import Course, refits
from tsuika.train.ground import Ground
from tsuika.train.loop import Fit, conditioner
from tsuika.train.stage import Kept, Stage
from tsuika.train.watch import Eye, Watch, joined, judged, read_checks

DIVERGED: Final = ("GD001", "GD002", "GD003")
# Bytes: what a step's weights may take for several steps to be kept and written. A whole model's are more: of it the best
# step alone is, where it may turn out to lie behind.
SMALL: Final = 2**29
MUCH: Final = 1.5  # times `guard.overhead`: what is a little over it is no news
# By this factor: checks lie 1.2 apart, and one beside the best is no worse than jitter (bench/guard)
APART: Final = 1.3

Events = Generator[Event, None, "Result"]
# What it has come to, and whether weights are small enough for those of several steps to be kept.
Look = Generator[Event, None, tuple[Judge, bool]]


@dataclass
class Result:
    """What a run has come to. The weights to write are on the fit's attachment, at strength 1."""

    run: Fit
    step: int
    stopped_by: str = "steps"
    others: dict[str, int] = field(default_factory=dict)  # "safe", "likeness", ... -> another step worth a file
    kept: Kept | None = None  # where their weights are


def train(ground: Ground, course: Course, *, resume: bool) -> Events:
    """The whole training; afterwards no other attachment than the result's is on the model."""
    look = _LOOKS.get(course.way)
    if look is not None and refits(ground.recipe):
        looked = Kept(ground.folder.guard / "look")
        judge, several = yield from look(ground, course, resume, looked)
        return (yield from _go_on(ground, course, judge, looked, resume, several=several))
    return (yield from (_beside_folds if course.way == "lanes" else _once)(ground, course, resume))


def _once(ground: Ground, course: Course, resume: bool) -> Events:
    """One training, on all pictures or without those held out; watched unless the guard is off."""
    holds_out = bool(course.split.parts)
    run = ground.fit(ground.attach(), course.split.inside() if holds_out else None)
    stage = ground.stage([run], [ground.folder.checkpoints], after=lambda step: ground.after(step, run))
    if course.way != "off":
        stage.watch, stage.obeys = _watch(ground, course, [(run, 0)], "checks.json"), ground.recipe.guard.mode == "on"
        if holds_out and (_small(run) or stage.obeys):
            stage.kept, stage.only_best = _kept(ground), not _small(run)
    if resume:
        stage.resume()
    yield ground.started(run)
    yield Phase("train", run.last_step)
    yield from stage.go()
    if stage.watch is None:
        return Result(run, run.step)
    judge = stage.watch.judge
    if not holds_out:
        return Result(run, run.step, _stopped_by(judge, stage.obeys))
    yield from _choose(ground, course, judge, judge.chosen)
    return _result(run, judge.chosen, stage.kept, _stopped_by(judge, stage.obeys), takes_last=not stage.obeys)


def _beside_folds(ground: Ground, course: Course, resume: bool) -> Events:
    """Without a refit: what has learnt from all pictures beside the folds is the result as it is."""
    run, judge = yield from _in_lanes(ground, course, resume)
    wanted = Range(*(course.longer(step, run.step) for step in astuple(judge.chosen)))
    yield from _choose(ground, course, judge, wanted)
    obeys = ground.recipe.guard.mode == "on"
    return _result(run, wanted, _kept(ground), _stopped_by(judge, obeys), takes_last=not obeys)


def _without_some(ground: Ground, course: Course, resume: bool, looked: Kept | None, fold: int = 0) -> Look:
    """A look without one part of the pictures; weights that the judge may choose are put into `looked`."""
    states, done = _state_of(ground, fold), ground.folder.guard / f"look-{fold}.done"
    run = ground.fit(ground.attach(), course.split.inside(fold), steady=True)
    watch = _watch(ground, course, [(run, fold)], f"checks-{fold}.json")
    stage = ground.stage([run], [states], watch=watch, kept=looked, only_best=not _small(run))
    if done.exists():
        watch.go_on_from(run.last_step)
    elif resume:
        stage.resume()
    if not fold:
        yield ground.started(run)
    if not done.exists():
        yield Phase("look", run.last_step)
        yield from stage.go()
        if run.accelerator.is_main_process:
            done.touch()
            shutil.rmtree(states, ignore_errors=True)  # the checks are all that is needed of it
    run.over()
    return watch.judge, _small(run)


def _in_turn(ground: Ground, course: Course, resume: bool, _: Kept) -> Look:
    """A look by folds, one after another; judged together by the steps that all of them have reached."""
    parts: list[list[Check]] = []
    for fold in range(course.folds):
        judge, several = yield from _without_some(ground, course, resume, None, fold)
        parts.append(judge.checks)
    together = _judge(ground, course, [check.step for check in min(parts, key=len)])
    for checks in zip(*parts, strict=False):
        seconds = sum(check.guard_s for check in checks), sum(check.train_s for check in checks)
        check = Check(checks[0].step, joined([check.reading for check in checks]), *seconds)
        yield judged(together.hear(check), check)
    return together, several


def _side_by_side(ground: Ground, course: Course, resume: bool, looked: Kept) -> Look:
    """A look by folds in lockstep beside a run on all pictures, whose weights where the result may begin are put into `looked`."""
    run, judge = yield from _in_lanes(ground, course, resume, looked)
    run.over()
    return judge, _small(run)


_LOOKS: Final[dict[str, Callable[[Ground, Course, bool, Kept], Look]]] = {
    "hold-out": _without_some,
    "turns": _in_turn,
    "lanes": _side_by_side,
}


def _go_on(ground: Ground, course: Course, judge: Judge, looked: Kept, resume: bool, *, several: bool) -> Events:
    """The result: on from weights of the look by all pictures, while the rate falls.

    Of the other steps of the range, those far enough away to differ go on in the same way, before it.
    """
    ground.accelerator.wait_for_everyone()  # the first process keeps the look's weights
    most, best = ground.recipe.train.steps, judge.chosen.balanced
    range_ = Range(*(step if several and _apart(step, best) else best for step in astuple(judge.chosen)))
    wanted = Range(*(course.ends(step, most) for step in astuple(range_)))
    kept = _kept(ground)
    yield from _choose(ground, course, judge, wanted)
    if course.way == "turns":
        yield from _lead(ground, frozenset(course.begins(step, most) for step in astuple(range_)), looked, resume)

    def begun(step: int, states: Path) -> tuple[Fit, Stage]:
        run, start = ground.fit(ground.attach(), steady=True), course.begins(step, most)
        if step:
            run.begin_at(start, looked.load(start), course.ends(step, most))
        else:  # none was sound: the base as it was
            run.last_step = 0
        return run, ground.stage([run], [states])

    for step in sorted({range_.safe, range_.likeness} - {best}):
        end = course.ends(step, most)
        states = ground.folder.guard / f"variant-{end}"
        if end in kept:
            shutil.rmtree(states, ignore_errors=True)
            continue
        run, stage = begun(step, states)
        if resume:
            stage.resume()
        yield Phase("variant", end)
        yield from stage.go()
        if run.accelerator.is_main_process:
            kept.save(end, run)
            shutil.rmtree(states, ignore_errors=True)
        run.over()
    run, stage = begun(best, ground.folder.checkpoints)
    stage.after = lambda step: ground.after(step, run)
    if resume:
        stage.resume()
    yield Phase("train", run.last_step)
    yield from stage.go()
    last = judge.verdicts[-1]
    ended = "diverged" if last.code in DIVERGED else "guard" if last.kind == "stop" else "steps"
    return _result(run, wanted, kept, ended)


def _lead(ground: Ground, steps: frozenset[int], looked: Kept, resume: bool) -> Iterator[Event]:
    """A run on all pictures that puts its weights at some steps into `looked`, where no lane has done so."""
    if all(step in looked for step in steps - {0}):
        return
    run, states = ground.fit(ground.attach(), steady=True), ground.folder.guard / "lead"
    run.last_step = max(steps)
    stage = ground.stage([run], [states], kept=looked, keep=steps)
    if resume:
        stage.resume()
    yield Phase("train", run.last_step)
    yield from stage.go()
    if run.accelerator.is_main_process:
        shutil.rmtree(states, ignore_errors=True)
    run.over()
    ground.accelerator.wait_for_everyone()


def _in_lanes(
    ground: Ground, course: Course, resume: bool, looked: Kept | None = None
) -> Generator[Event, None, tuple[Fit, Judge]]:
    """Folds in lockstep beside a run on all pictures; gives this one as it stands then, the folds gone.

    Args:
        looked: takes the weights where the result may begin; None: the run is the result, and falls by its schedule.
    """
    recipe, folder, count = ground.recipe, ground.folder, course.folds
    most, done = recipe.train.steps, folder.guard / "look-lanes.done"
    states = [_state_of(ground, lane) for lane in range(count + 1)]
    if done.exists():
        everything = ground.fit(ground.attach())
        if looked is None:
            ground.stage([everything], [folder.checkpoints]).resume()
        yield ground.started(everything)
        return everything, _heard_again(ground, course)
    lanes, runs = _lanes(ground, course, steady=looked is not None)
    everything = runs[-1]

    def after(step: int) -> Iterator[Event]:
        with lanes.alone(count):
            yield from ground.after(step, everything)

    watch = _watch(ground, course, [(run, lane) for lane, run in enumerate(runs)], "checks.json", lanes)
    stage = ground.stage(
        runs, states, lanes=lanes, at_once=recipe.guard.lanes, watch=watch, obeys=recipe.guard.mode == "on"
    )
    if looked is None:
        stage.kept, stage.kept_at, stage.after = _kept(ground), lambda step: course.longer(step, most), after
    else:
        stage.kept, stage.kept_at = looked, lambda step: course.begins(step, most)
    if resume:
        stage.resume()
    yield ground.started(everything)
    yield Phase("look", everything.last_step)
    yield from stage.go()
    for run in runs[:-1]:
        run.attachment.detach()
    everything.attachment.set_strength(1)
    everything.condition = conditioner(ground.model, everything.attachment, ground.pictures.size_px_of)
    if looked is None:
        checkpoint.save(folder.checkpoints, everything.state())
    done.touch()
    for state in states:  # the checks, and what goes on, are all that is needed of them
        shutil.rmtree(state, ignore_errors=True)
    return everything, watch.judge


def _lanes(ground: Ground, course: Course, *, steady: bool) -> tuple[Lanes, list[Fit]]:
    """A fit for each fold, and one on all pictures, on one model."""
    attachments = []
    for _ in range(course.folds + 1):
        attachments.append(ground.attach())
        attachments[-1].set_strength(0)  # the next one may have the same words
    method: Any = find(ground.recipe.method.name).code
    lanes: Lanes = method.side_by_side(attachments)
    inside = [*(course.split.inside(fold) for fold in range(course.folds)), None]
    return lanes, [
        ground.fit(one, names, ground.reader(lanes, lane, one), steady=steady)
        for lane, (one, names) in enumerate(zip(attachments, inside, strict=True))
    ]


def _heard_again(ground: Ground, course: Course) -> Judge:
    """The judge of a look in lanes that is over."""
    checks = read_checks(ground.folder.guard / "checks.json")
    judge = _judge(ground, course, [check.step for check in checks])
    replay(judge, checks)
    return judge


def _state_of(ground: Ground, lane: int) -> Path:
    return ground.folder.guard / f"look-{lane}"


def _watch(
    ground: Ground, course: Course, runs: Sequence[tuple[Fit, int]], file: str, lanes: Lanes | None = None
) -> Watch:
    """Probes on fits and the folds they are without, and their judge. Drift is the last one's.

    A fit beyond the folds is on all pictures.
    """
    split = course.split
    parts = [split.witnesses(fold) if fold < len(split.parts) else () for _, fold in runs]
    allowed = course.budget(ground.recipe)
    eyes, began = [], time.monotonic()
    for lane, ((run, fold), part) in enumerate(zip(runs, parts, strict=True)):
        out = part[: allowed.pictures]
        twins = split.twins(min(fold, max(0, len(split.parts) - 1)))[: allowed.twins if out else 2]
        with lanes.alone(lane) if lanes is not None else nullcontext():
            probe = ground.probe(run, out, twins, allowed.controls if lane == len(runs) - 1 else 0, few=allowed.few)
        eyes.append(Eye(run, probe, lane, twins=bool(out) or len(runs) == 1))
    judge, spent_s = _judge(ground, course, allowed.rungs), time.monotonic() - began
    return Watch(eyes, judge, ground.folder.guard / file, lanes, spent_s)


def _judge(ground: Ground, course: Course, rungs: Sequence[int]) -> Judge:
    train, rule = ground.recipe.train, Rule(patience=ground.recipe.guard.patience)
    return Judge(train.steps, train.learning_rate, rule, course.overlap, rungs)


def _kept(ground: Ground) -> Kept:
    """Weights that may become files."""
    return Kept(ground.folder.guard / "kept")


def _apart(step: int, best: int) -> bool:
    """Whether the weights of two steps are worth telling apart."""
    return max(step, best) >= APART * min(step, best) > 0


def _small(run: Fit) -> bool:
    return sum(param.nbytes for param in run.params) < SMALL


def _stopped_by(judge: Judge, obeys: bool) -> str:
    last = judge.verdicts[-1] if judge.verdicts else None
    if last is None or last.kind != "stop" or not obeys:
        return "steps"
    return "diverged" if last.code in DIVERGED else "guard"


def _choose(ground: Ground, course: Course, judge: Judge, steps: Range) -> Iterator[Event]:
    """What the look has come to, with its last verdict's words, and a warning where nothing was gained."""
    last = judge.verdicts[-1]
    out = tuple(name for part in course.split.parts for name in part)
    named = {"safe": steps.safe, "balanced": steps.balanced, "likeness": steps.likeness}
    kind = "folds" if course.folds else course.split.kind
    yield Chosen(kind, judge.chosen.balanced, steps.balanced, named, last.code, dict(last.params), out, course.folds)
    if last.evidence.range.balanced == 0:
        yield note("GD017", step=steps.balanced)
    took, most = last.evidence.overhead or 0.0, ground.recipe.guard.overhead
    if most and took > MUCH * most:
        yield note("GD031", took=f"{took:.0%}", most=f"{most:.0%}")


def _result(run: Fit, steps: Range, kept: Kept | None, stopped_by: str, *, takes_last: bool = False) -> Result:
    """The best step's weights onto the attachment, and the other steps that are worth a file."""
    result = Result(run, run.step, stopped_by, kept=kept)
    if kept is None:
        return result
    run.accelerator.wait_for_everyone()  # the first process keeps them
    if not takes_last and steps.balanced in kept and steps.balanced != run.step:
        run.attachment.load(kept.load(steps.balanced))
        run.settled, result.step = True, steps.balanced
    named = {"balanced": steps.balanced, "safe": steps.safe, "likeness": steps.likeness}
    others = {step: name for name, step in reversed(named.items()) if step in kept and step != result.step}
    result.others = {name: step for step, name in others.items()}
    return result
