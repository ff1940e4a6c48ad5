"""A learning-rate range test: a few dozen steps at rates a factor apart, measured on held-out images.

Smith (2017, "Cyclical Learning Rates") raises the rate within one run and watches the training loss, of which timesteps
alone explain 95 %. Here every rate has a run from the same start, all are measured on the same draws, and losers leave.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from tsuika.config import Recipe
from tsuika.core.errors import DivergedError, RecipeError
from tsuika.core.events import Event, Phase, Progress, Warned, note
from tsuika.core.messages import percent
from tsuika.core.plain import jsonable
from tsuika.core.rundir import RunDir
from tsuika.core.types import Model
from tsuika.data import dedupe, split
from tsuika.guard.probe import MID, Probe
from tsuika.guard.reading import ENOUGH_IMAGES, Estimate, Grid, estimate, mean, minus
from tsuika.training.fit import Fit
from tsuika.training.guard_plan import hold_out_parts
from tsuika.training.loop import fit
from tsuika.training.preparation import Services, accelerate_for, clear_errors, prepare
from tsuika.training.schedule import Schedule

PHASE: Final = "compare-settings"  # the name of the phase in `Progress` events
STEPS: Final = 48  # of each rate
FACTOR: Final = 10**0.5  # between neighbours
AROUND: Final = (-2, 3)  # powers of FACTOR: from a tenth of the recipe's rate to thirty times it
RATIO: Final = 1.5  # of a check's step to the one before
FIRST_CHECK: Final = 4
MEASURED: Final = 8  # images at most; from 4 on at half of the timesteps, as images differ more than timesteps do
MATTERS: Final = 0.05  # of what is gained: a smaller difference is none
WORSE: Final = 0.05  # log ratio to the start; above it, and not falling, a rate is too high


@dataclass(frozen=True)
class Curve:
    """What one rate has done: log ratios of losses to those before the first step, at each check."""

    rate: float
    steps: tuple[int, ...] = ()
    spent: tuple[float, ...] = ()  # sum of the learning rates of all steps up to each check
    grids: tuple[Grid, ...] = ()
    diverged: bool = False
    left: bool = False  # before the last check, though it had not diverged

    @property
    def best(self) -> int | None:
        """The place of the best check."""
        return min(range(len(self.grids)), key=lambda i: mean(self.grids[i]), default=None)

    @property
    def safe(self) -> bool:
        return bool(self.grids) and not self.diverged and mean(self.grids[-1]) < 0

    @property
    def turned(self) -> bool:
        """Whether it has had a minimum: better than the start, and then worse than that by more than a trifle."""
        if self.best is None or self.best == len(self.grids) - 1 or estimate(self.grids[self.best]).high >= 0:
            return False
        after = estimate(minus(self.grids[-1], self.grids[self.best]))
        return after.mean > _trifle(after, self.grids[self.best])


@dataclass(frozen=True)
class Suggestion:
    """What the curves say; every number but `rate` is an estimate."""

    rate: float | None = None  # None: indistinguishable from the untrained model, or every one of them diverges
    gain: Estimate | None = None  # at its best check
    after: int = 0  # the step of that check
    budget: float | None = None  # rate x steps that is best for images that are not trained on
    steps: int | None = None  # budget / rate: where a run at this rate, held constant, has its best step


@dataclass(frozen=True)
class RateFound(Event):
    rate: float | None
    steps: int | None  # estimate: the best step at this rate, held constant
    budget: float | None  # estimate: rate x steps of the best step
    # Estimate: the rate at which the recipe's own steps and schedule spend the budget; above `rate` where they are too few.
    rate_for_steps: float | None
    measured: str  # "held-out", or "training" where there are too few images to hold one out
    pictures: int  # that were measured
    code: str  # of the message that says what was found
    params: dict[str, object] = field(default_factory=dict)
    # For each: rate, diverged, left, curve (step, mean, low, high, kind).
    rates: list[dict[str, Any]] = field(default_factory=list)

    def words(self, lang: str) -> str:
        return note(self.code, **self.params).words(lang)


def suggest(curves: Sequence[Curve]) -> Suggestion:
    """The rate with the best value at any check; where several cannot be distinguished from it, the smallest of them.

    Nothing is suggested that ends worse than it began, nor anything whose gain may be none. The budget is that of the
    slowest rate that turned: its checks lie closest to its minimum, and its weights jitter least.
    """
    usable = [(curve, curve.grids[place]) for curve in curves if curve.safe and (place := curve.best) is not None]
    best = min(usable, key=lambda one: mean(one[1]), default=None)
    if best is None or estimate(best[1]).high >= 0:
        return Suggestion()
    found, grid = next(
        one for one in sorted(usable, key=lambda one: one[0].rate) if one is best or _equal(one[1], best[1])
    )
    place = found.best or 0
    turned = min((curve for curve in curves if curve.turned), key=lambda curve: curve.rate, default=None)
    budget = turned.spent[turned.best] if turned and turned.best is not None else None
    steps = max(1, round(budget / found.rate)) if budget is not None else None
    return Suggestion(found.rate, estimate(grid), found.steps[place], budget, steps)


def _trifle(difference: Estimate, gain: Grid) -> float:
    """The largest difference that counts for nothing: its standard error, or a small share of what is gained."""
    return max(difference.se, MATTERS * abs(mean(gain)))


def _equal(one: Grid, best: Grid) -> bool:
    worse = estimate(minus(one, best))
    return worse.mean <= _trifle(worse, best) and estimate(one).high < 0


def around(rate: float) -> tuple[float, ...]:
    return tuple(float(f"{rate * FACTOR**power:.3g}") for power in range(AROUND[0], AROUND[1] + 1))


def checks(steps: int) -> tuple[int, ...]:
    """When to measure: at steps that grow by RATIO, up to the last."""
    found = [steps]
    while (before := round(found[0] / RATIO)) >= FIRST_CHECK:
        found.insert(0, before)
    return tuple(found)


def too_high(curve: Curve) -> bool:
    """Whether it is worse than the start and not on its way back; unknown before its second check."""
    last = [mean(grid) for grid in curve.grids[-2:]]
    return len(last) == 2 and last[1] > WORSE and last[1] >= last[0]


def behind(curve: Curve, others: Sequence[Curve], end: float) -> bool:
    """Whether another rate has been where this one will end, and has improved beyond that.

    At rates that are not too high a run's state depends on the sum of its rates, so a faster one shows what lies ahead.
    `curve` has a check at its end, each of `others` counts up to the same step; `end` is the sum of this one's rates over all
    of its steps.
    """
    for other in others:
        seen = [i for i, step in enumerate(other.steps) if step <= curve.steps[-1]]
        there = next((i for i in seen if other.spent[i] >= end), None)
        if there is not None and there < (last := seen[-1]):
            further = estimate(minus(other.grids[last], other.grids[there]))
            if further.mean < -_trifle(further, other.grids[last]) and mean(other.grids[last]) < mean(curve.grids[-1]):
                return True
    return False


def find(
    recipe: Recipe, folder: RunDir, services: Services, rates: Sequence[float] = (), steps: int = STEPS
) -> Iterator[Event]:
    """Try learning rates on a recipe's images, one after another; the last event is `RateFound`.

    Each rate has `steps` steps; without `rates`, from a tenth of the recipe's to thirty times it. `folder` is a run's.
    Raises RecipeError (RC020): the optimizer finds its rate by itself; and what a run would raise.
    """
    if recipe.train.optimizer == "prodigy":
        raise RecipeError("RC020", key="train.optimizer", found="prodigy")
    rates = sorted(set(rates)) or around(recipe.train.learning_rate)
    with clear_errors(recipe, ", ".join(recipe.data.folders)):
        prepared = yield from prepare(recipe, folder, services, accelerate_for(recipe))
        prepared.checkpoint_gradients()
        groups = dedupe.groups(prepared.manifest)
        sets = {sample.name: sample.set for sample in prepared.manifest.samples}
        images = _divide(groups, recipe.train.seed, sets)
        tried = ", ".join(map(_short, rates))
        if images.held_out:
            yield note("GD023", rates=tried, steps=steps, measured=len(images.held_out), found=len(groups))
        else:
            yield note("GD024", rates=tried, steps=steps, found=len(groups))
        yield Phase(PHASE, len(rates) * steps)
        curves: list[Curve] = []
        probe: Probe | None = None
        start: Grid = ()
        # From the highest down: a rate can be seen to be behind those that were further ahead at the same step.
        for number, rate in enumerate(reversed(rates)):
            run = replace(prepared, recipe=_at(recipe, rate, steps)).fit(images.inside)
            try:
                if probe is None:
                    probe = prepared.probe(run, images.held_out, images.trained_on, 0, (images.draws, len(MID)))
                    start = _measured(run, probe, images)
                curve = yield from _try(run, probe, images, start, curves, number * steps, len(rates) * steps)
            finally:
                run.discard()
            curves.append(curve)
    curves.reverse()
    found = _found(recipe, curves, images, steps)
    if found.rate is None:
        yield from _torn(prepared.model, " ".join(own.class_word for own in recipe.data.each().values()))
    yield found


def _try(
    run: Fit, probe: Probe, images: Divided, start: Grid, others: Sequence[Curve], done: int, total: int
) -> Generator[Event, None, Curve]:
    """Train at one rate, measured at each check, until it diverges or cannot win any more."""
    train, steps = run.recipe.train, run.schedule.last
    curve = Curve(train.learning_rate)
    for step in checks(steps):
        try:
            for event in fit(run, until=step):
                yield Progress(PHASE, done + event.step, total)
        except DivergedError:
            return replace(curve, diverged=True)
        grid = _measured(run, probe, images)
        if not grid:
            return replace(curve, diverged=True)
        spent = (*curve.spent, _spent(run.schedule, curve.rate, step))
        curve = replace(curve, steps=(*curve.steps, step), spent=spent, grids=(*curve.grids, minus(grid, start)))
        if step < steps and (too_high(curve) or behind(curve, others, _spent(run.schedule, curve.rate, steps))):
            return replace(curve, left=True)
    return curve


def _measured(run: Fit, probe: Probe, images: Divided) -> Grid:
    """Log ratios of the images that are measured, for the weights that would be written; empty where one is not finite."""
    with run.written_weights():
        reading = probe.measure(train=bool(images.trained_on), drift=False)
    measured = reading.held_out or reading.train
    return measured.mid if measured.finite else ()


@dataclass(frozen=True)
class Divided:
    inside: Sequence[str]  # to train on
    held_out: Sequence[str] = ()  # to measure by
    trained_on: Sequence[str] = ()  # of those inside, to measure by instead
    draws: int = len(MID)  # timesteps of each held-out image


def _divide(groups: Sequence[split.Group], seed: int, sets: Mapping[str, str]) -> Divided:
    """A third of the different images to measure by, of every set its share; below four of them those that are trained on.

    Args:
        sets: which set each name is of.
    """
    everyone = [name for group in groups for name in group]
    if len(groups) < split.LEAST_TO_HOLD_OUT:
        return Divided(everyone, (), [group[0] for group in groups])
    parted = hold_out_parts(groups, seed, len(groups), min(MEASURED, len(groups) // 3), sets)
    measured = parted.held_out_probe()
    # Below, intervals speak of timesteps, and need them all.
    return Divided(parted.inside(), measured, draws=len(MID) // 2 if len(measured) >= ENOUGH_IMAGES else len(MID))


def _torn(model: Model, class_word: str) -> Iterator[Warned]:
    for word in dict.fromkeys(class_word.split()):
        if (pieces := max(model.count_tokens(word))) > 1:
            yield note("GD037", word=word, pieces=pieces)


def _short(rate: float | None) -> str:
    return "?" if rate is None else f"{rate:.2g}"


def _at(recipe: Recipe, rate: float, steps: int) -> Recipe:
    """For a short run: warmed up, then constant, without averaging, which lags behind."""
    changed = {"learning_rate": rate, "steps": steps, "schedule": "constant", "warmup": 0.1, "ema": 0.0}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=changed)})


def _spent(schedule: Schedule, rate: float, step: int) -> float:
    return rate * sum(schedule.share(i) for i in range(step))


def _found(recipe: Recipe, curves: Sequence[Curve], images: Divided, steps: int) -> RateFound:
    found = suggest(curves)
    spread = found.budget / Schedule.of(recipe.train).total if found.budget else None
    params: dict[str, object] = {"steps": steps, "lowest": _short(curves[0].rate), "highest": _short(curves[-1].rate)}
    code = "GD022"
    if found.rate is not None and found.gain is not None:
        enough = spread is not None and spread <= found.rate
        highest = found.rate == curves[-1].rate
        code = "GD020" if enough else "GD028" if spread is not None else "GD030" if highest else "GD021"
        params |= {
            "rate": _short(found.rate),
            "gain": percent(found.gain.mean),
            "after": found.after,
            "best": found.steps or "?",
            "slower": _short(spread),
            "run": recipe.train.steps,
            "higher": ",".join(_short(found.rate * FACTOR**power) for power in range(3)),
        }
    rows = []
    for curve in curves:
        points = [{"step": step, **asdict(estimate(grid))} for step, grid in zip(curve.steps, curve.grids, strict=True)]
        about = {name: getattr(curve, name) for name in ("rate", "diverged", "left", "safe")}
        rows.append(jsonable(about | {"curve": points}))
    kind, measured = ("held-out", images.held_out) if images.held_out else ("training", images.trained_on)
    return RateFound(found.rate, found.steps, found.budget, spread, kind, len(measured), code, params, rows)
