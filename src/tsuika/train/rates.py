"""A learning-rate range test: a few dozen steps at rates a factor apart, judged by held-out pictures, not by training loss.

Smith (2017, "Cyclical Learning Rates") raises the rate within one run and watches the training loss, of which the
timestep alone explains 95 % and more in diffusion training; here every rate has a short run of its own from the same
start, and all are measured on the same draws (`guard.probe`), so that they differ by what was learnt and nothing else.
Who cannot win any more leaves early.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from tsuika.core.config import Recipe
from tsuika.core.errors import RecipeError
from tsuika.core.events import Event, Warned, note
from tsuika.core.messages import percent
from tsuika.core.plain import jsonable
from tsuika.data import dedupe, split
from tsuika.guard.reading import ENOUGH_PICTURES, Check, Estimate, Grid, estimate, halves, mean, minus
from tsuika.train import compare, gather, optim

STEPS: Final = 48  # of each rate
FACTOR: Final = 10**0.5  # between neighbours
AROUND: Final = (-2, 3)  # from a tenth of the recipe's rate to thirty times it
RATIO: Final = 1.5  # of a check's step to the one before
FIRST_CHECK: Final = 4
MEASURED: Final = 8  # pictures at most; from 4 on at half of the timesteps, as there is more to be had from pictures
MATTERS: Final = 0.05  # of what is gained: a smaller difference is none, however sure
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
        """The place of the best check, by the half of the draws that chooses."""
        return min(range(len(self.grids)), key=lambda i: mean(halves(self.grids[i])[0]), default=None)

    @property
    def safe(self) -> bool:
        """Whether it ends better than it began."""
        return bool(self.grids) and not self.diverged and mean(self.grids[-1]) < 0

    @property
    def turned(self) -> bool:
        """Whether it has had a minimum: better than the start, and then worse than that by more than a trifle."""
        if self.best is None or self.best == len(self.grids) - 1 or _told(self.grids[self.best]).high >= 0:
            return False
        after = estimate(minus(self.grids[-1], self.grids[self.best]))
        return after.mean > _trifle(after, self.grids[self.best])


@dataclass(frozen=True)
class Suggestion:
    """What the curves say; every number but `rate` is an estimate."""

    rate: float | None = None  # None: they cannot be told from the untrained model, or every one of them diverges
    gain: Estimate | None = None  # at its best check, by draws that had no part in choosing it
    after: int = 0  # the step of that check
    budget: float | None = None  # rate x steps at which pictures that are not trained on are served best
    steps: int | None = None  # budget / rate: where a run at this rate, held constant, has its best step


@dataclass(frozen=True)
class RateFound(Event):
    """The test is over."""

    rate: float | None
    steps: int | None  # estimate: the best step at this rate, held constant
    budget: float | None  # estimate: rate x steps of the best step
    rate_for_steps: float | None  # estimate: the rate at which the recipe's own steps and schedule spend the budget;
    # above `rate` where they are too few
    measured: str  # "held-out", or "training" where there are too few pictures to hold one out
    pictures: int  # that were measured
    code: str  # of the message that says what was found
    params: dict[str, object] = field(default_factory=dict)
    rates: list[dict[str, Any]] = field(
        default_factory=list
    )  # rate, diverged, left, curve: step, mean, low, high, kind

    def words(self, lang: str) -> str:
        """What was found, and what to do."""
        return note(self.code, **self.params).words(lang)


def suggest(curves: Sequence[Curve]) -> Suggestion:
    """The rate with the best value at any check; where several cannot be told from it, the smallest of them.

    Nothing is suggested that ends worse than it began, nor anything whose gain may be none. The budget is that of the
    slowest rate that turned: its checks lie closest to its minimum, and its weights jitter least.
    """
    usable = [(curve, curve.grids[place]) for curve in curves if curve.safe and (place := curve.best) is not None]
    best = min(usable, key=lambda one: mean(halves(one[1])[0]), default=None)
    if best is None or _told(best[1]).high >= 0:
        return Suggestion()
    found, grid = next(
        one for one in sorted(usable, key=lambda one: one[0].rate) if one is best or _equal(one[1], best[1])
    )
    place = found.best or 0
    turned = min((curve for curve in curves if curve.turned), key=lambda curve: curve.rate, default=None)
    budget = turned.spent[turned.best] if turned and turned.best is not None else None
    steps = max(1, round(budget / found.rate)) if budget is not None else None
    return Suggestion(found.rate, _told(grid), found.steps[place], budget, steps)


def _told(grid: Grid) -> Estimate:
    """Of the draws that had no part in choosing."""
    return estimate(halves(grid)[1])


def _trifle(difference: Estimate, gain: Grid) -> float:
    """The largest difference that counts for nothing: its standard error, or a small share of what is gained."""
    return max(difference.se, MATTERS * abs(mean(gain)))


def _equal(one: Grid, best: Grid) -> bool:
    worse = estimate(halves(minus(one, best))[1])
    return worse.mean <= _trifle(worse, best) and _told(one).high < 0


def around(rate: float) -> tuple[float, ...]:
    """Rates to try, rising, the given one among them."""
    return tuple(float(f"{rate * FACTOR**power:.3g}") for power in range(AROUND[0], AROUND[1] + 1))


def checks(steps: int) -> tuple[int, ...]:
    """When to measure: before the first step, then at steps that grow by RATIO, up to the last."""
    rungs = [steps]
    while (before := round(rungs[0] / RATIO)) >= FIRST_CHECK:
        rungs.insert(0, before)
    return (0, *rungs)


def too_high(curve: Curve) -> bool:
    """Whether it is worse than the start and not on its way back; not told before its second check."""
    last = [mean(grid) for grid in curve.grids[-2:]]
    return len(last) == 2 and last[1] > WORSE and last[1] >= last[0]


def behind(curve: Curve, others: Sequence[Curve], end: float) -> bool:
    """Whether some other has been where this one will end, and has by now come further than that.

    At rates that are not too high a run's state hangs on the sum of its rates, so a faster one shows what lies ahead.

    Args:
        curve: with a check at its end.
        others: all of them; of each counts what it was up to the same step.
        end: the sum of this one's rates over all of its steps.
    """
    for other in others:
        seen = [i for i, step in enumerate(other.steps) if step <= curve.steps[-1]]
        there = next((i for i in seen if other.spent[i] >= end), None)
        if there is not None and there < (last := seen[-1]):
            further = estimate(minus(other.grids[last], other.grids[there]))
            if further.mean < -_trifle(further, other.grids[last]) and mean(other.grids[last]) < mean(curve.grids[-1]):
                return True
    return False


def find(run: gather.Run, rates: Sequence[float] = (), steps: int = STEPS) -> Iterator[Event]:
    """Try learning rates on a recipe's pictures; the last event is `RateFound`. Writes nothing.

    Args:
        run: the recipe, and where encoded pictures are kept.
        rates: to try; none: from a tenth of the recipe's to thirty times it.
        steps: of each.

    Raises:
        RecipeError: RC020, the optimizer finds its rate by itself; TsuikaError: what a run would raise.
    """
    recipe = run.recipe
    if recipe.train.optimizer == "prodigy":
        raise RecipeError("RC020", key="train.optimizer", found="prodigy")
    rates = sorted(set(rates)) or around(recipe.train.learning_rate)
    with gather.clear_errors(recipe, recipe.data.images):
        accelerator = gather.accelerate_for(recipe)
        ground = yield from gather.prepare(run, accelerator)
        assert run.manifest is not None
        groups = dedupe.groups(run.manifest)
        sides = _sides(groups, recipe.train.seed)
        yield _announced(rates, steps, sides, len(groups))
        # From the highest down, so that at each check a rate is heard after those that are ahead of it.
        tried = [_at(recipe, rate, steps) for rate in reversed(rates)]
        curves = [Curve(one.train.learning_rate) for one in tried]
        start: list[Grid] = []

        def hear(which: int, check: Check | None) -> bool:
            if check is None or not (check.reading.held_out.finite and check.reading.train.finite):
                curves[which] = replace(curves[which], diverged=True)
                return False
            grid = check.reading.held_out.mid or check.reading.train.mid
            if not check.step:
                start[:] = [grid]
                return True
            curves[which] = _longer(curves[which], tried[which], check.step, minus(grid, start[0]))
            if check.step < steps and (
                too_high(curves[which]) or behind(curves[which], curves, _spent(tried[which], steps))
            ):
                curves[which] = replace(curves[which], left=True)
                return False
            return True

        yield from compare.compare(ground, tried, checks(steps), sides, hear)
    curves.reverse()
    yield _told_of(recipe, curves, sides, steps)


def _sides(groups: Sequence[split.Group], seed: int) -> compare.Sides:
    """A third of the different pictures to measure by; below four of them those that are trained on."""
    everyone = [name for group in groups for name in group]
    if len(groups) < split.LEAST_TO_TRUST:
        return compare.Sides(everyone, (), [group[0] for group in groups])
    parts = split.split(groups, seed, folds=len(groups)).parts[: min(MEASURED, len(groups) // 3)]
    out = {name for part in parts for name in part}
    few = len(parts) >= ENOUGH_PICTURES  # below, intervals speak of timesteps, and need them all
    return compare.Sides([name for name in everyone if name not in out], [part[0] for part in parts], few=few)


def _short(rate: float | None) -> str:
    return "?" if rate is None else f"{rate:.2g}"


def _announced(rates: Sequence[float], steps: int, sides: compare.Sides, pictures: int) -> Warned:
    tried = ", ".join(map(_short, rates))
    if sides.held_out:
        return note("GD023", rates=tried, steps=steps, measured=len(sides.held_out), found=pictures)
    return note("GD024", rates=tried, steps=steps, found=pictures)


def _at(recipe: Recipe, rate: float, steps: int) -> Recipe:
    """A recipe for a short run at one rate: warmed up, then constant, without averaging, which lags behind."""
    changed = {"learning_rate": rate, "steps": steps, "schedule": "constant", "warmup": 0.1, "ema": 0.0}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=changed)})


def _longer(curve: Curve, recipe: Recipe, step: int, grid: Grid) -> Curve:
    """A curve with one check more."""
    spent = (*curve.spent, _spent(recipe, step))
    return replace(curve, steps=(*curve.steps, step), spent=spent, grids=(*curve.grids, grid))


def _spent(recipe: Recipe, step: int) -> float:
    """The sum of the learning rates of all steps up to one."""
    return recipe.train.learning_rate * sum(optim.rate(recipe.train, i) for i in range(step))


def _told_of(recipe: Recipe, curves: Sequence[Curve], sides: compare.Sides, steps: int) -> RateFound:
    found = suggest(curves)
    spread = found.budget / optim.total_rate(recipe.train) if found.budget else None
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
        rows.append(
            jsonable(
                {
                    "rate": curve.rate,
                    "diverged": curve.diverged,
                    "left": curve.left,
                    "safe": curve.safe,
                    "curve": points,
                }
            )
        )
    measured = sides.held_out or sides.twins
    return RateFound(
        found.rate,
        found.steps,
        found.budget,
        spread,
        "held-out" if sides.held_out else "training",
        len(measured),
        code,
        params,
        rows,
    )
