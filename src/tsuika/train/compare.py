"""Several settings tried from the same start on the same pictures, measured by the same draws.

Side by side in one forward pass where the method has lanes, else one after another. Who leaves early is the caller's word.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final

from tsuika.core.config import Recipe
from tsuika.core.errors import DivergedError
from tsuika.core.events import Event, Phase, Progress
from tsuika.core.types import Attachment, Lanes
from tsuika.guard.probe import Probe
from tsuika.guard.reading import Check
from tsuika.methods import find
from tsuika.train.course import why_alone
from tsuika.train.ground import Ground
from tsuika.train.loop import Fit, fit, fit_together

PHASE: Final = "compare-settings"  # the name of the phase in `Progress` events

Hear = Callable[[int, Check | None], bool]  # the place of a recipe, a check (None: it diverged) -> whether it goes on


@dataclass(frozen=True)
class Sides:
    """Names of pictures."""

    inside: Sequence[str]  # to train on
    held_out: Sequence[str] = ()  # to measure by
    twins: Sequence[str] = ()  # of those inside, to measure as well
    few: bool = False  # whether at half of the timesteps


def compare(
    ground: Ground, recipes: Sequence[Recipe], steps: Sequence[int], sides: Sides, hear: Hear
) -> Iterator[Event]:
    """Train by each recipe and measure after each of `steps`; nothing is left on the model.

    Args:
        ground: model and pictures. The recipes may differ from its own in `train` and `method`, but for what pictures
            a batch holds and, where they learn side by side, which layers are trained.
        recipes: what to try.
        steps: when to measure, rising; 0 is before the first step, where recipes that differ in `train` alone are one:
            measured once for all of them.
        sides: who is trained on and who is measured.
        hear: told of each check, or once of a divergence; whoever gets False for an answer is out.
    """
    grounds = [replace(ground, recipe=one, settings=one.method.completed(one.data)) for one in recipes]
    ground.checkpoint_gradients()
    alone = any(why_alone(one, ground.accelerator) for one in recipes)
    yield from (_in_turn if alone else _side_by_side)(grounds, steps, sides, hear)


def _side_by_side(grounds: Sequence[Ground], steps: Sequence[int], sides: Sides, hear: Hear) -> Iterator[Event]:
    yield Phase(PHASE, steps[-1])
    attachments: list[Attachment] = []
    for ground in grounds:
        attachments.append(ground.attach())
        attachments[-1].set_strength(0)  # the next one may have the same words
    method: Any = find(grounds[0].recipe.method.name).code
    lanes: Lanes = method.side_by_side(attachments)
    runs = [
        ground.fit(attachment, sides.inside, ground.reader(lanes, lane, attachment))
        for lane, (ground, attachment) in enumerate(zip(grounds, attachments, strict=True))
    ]
    with lanes.alone(0):
        probe = grounds[0].probe(runs[0], sides.held_out, sides.twins, 0, few=sides.few)
    measure = _Measure(probe, bool(sides.twins))
    still_in = list(range(len(runs)))
    try:
        for step in steps:
            for lane in (yield from _advance(runs, lanes, still_in, grounds[0].recipe.guard.lanes, step)):
                still_in.remove(lane)
                hear(lane, None)
            for lane in tuple(still_in):
                with lanes.alone(lane):
                    check = measure(runs[lane])
                if not hear(lane, check):
                    still_in.remove(lane)
            if not still_in:
                return
    finally:
        for attachment in attachments:
            attachment.detach()


def _advance(
    runs: Sequence[Fit], lanes: Lanes, still_in: Sequence[int], at_once: int, step: int
) -> Generator[Event, None, list[int]]:
    """Train those that are in up to a step; returns those that diverge on the way, who stay where they are."""
    gone: list[int] = []
    while going := [lane for lane in still_in if lane not in gone and runs[lane].step < step]:
        for lane in going:
            runs[lane].last_step = step
        try:
            for event in fit_together([runs[lane] for lane in going], _Some(lanes, going), at_once):
                yield Progress(PHASE, event.step, step)
        except DivergedError:  # nobody has moved; one step of each by itself tells who it is
            gone += [lane for lane in going if not _takes_a_step(runs[lane], _Some(lanes, [lane]))]
    return gone


def _takes_a_step(run: Fit, lane: Lanes) -> bool:
    run.last_step = run.step + 1
    try:
        next(fit_together([run], lane))
    except DivergedError:
        return False
    return True


def _in_turn(grounds: Sequence[Ground], steps: Sequence[int], sides: Sides, hear: Hear) -> Iterator[Event]:
    yield Phase(PHASE, len(grounds) * steps[-1])
    measure = None
    for number, ground in enumerate(grounds):
        run = ground.fit(ground.attach(), sides.inside)
        measure = measure or _Measure(
            ground.probe(run, sides.held_out, sides.twins, 0, few=sides.few), bool(sides.twins)
        )
        try:
            for step in steps:
                run.last_step = step
                for event in fit(run) if run.step < step else ():
                    yield Progress(PHASE, number * steps[-1] + event.step, len(grounds) * steps[-1])
                if not hear(number, measure(run)):
                    break
        except DivergedError:
            hear(number, None)
        finally:
            run.over()


@dataclass
class _Measure:
    """A probe on whichever fit it is given, all of them of one kind."""

    probe: Probe
    twins: bool
    start: Check | None = None

    def __call__(self, run: Fit) -> Check:
        """What the weights that would be written make of it; before the first step what the first fit's did."""
        if run.step == 0 and self.start is not None:
            return self.start
        with run.written_weights():
            check = Check(run.step, self.probe.measure(train=self.twins, drift=False))
        if run.step == 0:
            self.start = check
        return check


@dataclass(frozen=True)
class _Some:
    """The lanes of those that are still in, by their place among them."""

    lanes: Lanes
    which: Sequence[int]

    def route(self, lanes: Sequence[int]) -> AbstractContextManager[None]:
        """See `core.types.Lanes`."""
        return self.lanes.route([self.which[lane] for lane in lanes])

    def alone(self, lane: int | None) -> AbstractContextManager[None]:
        """See `core.types.Lanes`."""
        return self.lanes.alone(None if lane is None else self.which[lane])
