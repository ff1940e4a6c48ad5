"""A learning-rate range test: a few dozen steps at rates a factor apart, judged by held-out pictures, not by training loss.

Smith (2017, "Cyclical Learning Rates") raises the rate within one run and watches the training loss, of which the
timestep alone explains 95 % and more in diffusion training; here every rate has a short run of its own from the same
start, and all are measured on the same draws (`guard.probe`), so that they differ by what was learnt and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from tsuika.core.config import Recipe
from tsuika.core.errors import RecipeError
from tsuika.core.events import Event, Warned, note
from tsuika.core.messages import percent
from tsuika.data import dedupe, split
from tsuika.guard.reading import Check, Estimate, Grid, estimate, halves, jsonable, mean, minus
from tsuika.train import assemble, compare, optim

STEPS: Final = 48  # of each rate
FACTOR: Final = 10**0.5  # between neighbours
AROUND: Final = (-2, 3)  # from a tenth of the recipe's rate to thirty times it
RATIO: Final = 1.5  # of a check's step to the one before
FIRST_CHECK: Final = 4
MEASURED: Final = 6  # pictures at most


@dataclass(frozen=True)
class Curve:
    """What one rate has done: log ratios of losses to those before the first step, at each check."""

    rate: float
    steps: tuple[int, ...] = ()
    spent: tuple[float, ...] = ()  # sum of the learning rates of all steps up to each check
    grids: tuple[Grid, ...] = ()
    diverged: bool = False

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
        """Whether it has had a minimum: better than the start, and then worse than that by more than the error."""
        if self.best is None or self.best == len(self.grids) - 1 or _told(self.grids[self.best]).high >= 0:
            return False
        after = estimate(minus(self.grids[-1], self.grids[self.best]))
        return after.mean > after.se


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
    rates: list[dict[str, Any]] = field(default_factory=list)  # rate, diverged, curve: step, mean, low, high, kind

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


def _equal(one: Grid, best: Grid) -> bool:
    worse = estimate(halves(minus(one, best))[1])
    return worse.mean <= worse.se and _told(one).high < 0


def around(rate: float) -> tuple[float, ...]:
    """Rates to try, rising, the given one among them."""
    return tuple(float(f"{rate * FACTOR**power:.3g}") for power in range(AROUND[0], AROUND[1] + 1))


def checks(steps: int) -> tuple[int, ...]:
    """When to measure: before the first step, then at steps that grow by RATIO, up to the last."""
    rungs = [steps]
    while (before := round(rungs[0] / RATIO)) >= FIRST_CHECK:
        rungs.insert(0, before)
    return (0, *rungs)


def find(run: assemble.Run, rates: Sequence[float] = (), steps: int = STEPS) -> Iterator[Event]:
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
    with assemble.clear_errors(recipe, recipe.data.images):
        accelerator = assemble.accelerate_for(recipe)
        ground = yield from compare.prepare(run, accelerator)
        assert run.manifest is not None
        groups = dedupe.groups(run.manifest)
        sides = _sides(groups, recipe.train.seed)
        yield _announced(rates, steps, sides, len(groups))
        tried = [_at(recipe, rate, steps) for rate in rates]
        found: list[list[Check]] = [[] for _ in rates]
        diverged: set[int] = set()

        def hear(which: int, check: Check | None) -> bool:
            if check is None or not (check.reading.held_out.finite and check.reading.train.finite):
                diverged.add(which)
                return False
            found[which].append(check)
            return True

        yield from compare.compare(ground, tried, checks(steps), sides, hear)
    curves = [_curve(one, heard, i in diverged) for i, (one, heard) in enumerate(zip(tried, found, strict=True))]
    yield _told_of(recipe, curves, sides, steps)


def _sides(groups: Sequence[split.Group], seed: int) -> compare.Sides:
    """A third of the different pictures to measure by; below four of them those that are trained on."""
    everyone = [name for group in groups for name in group]
    if len(groups) < split.LEAST_TO_LEAVE_OUT:
        return compare.Sides(everyone, (), [group[0] for group in groups])
    parts = split.split(groups, seed, folds=len(groups)).parts[: min(MEASURED, len(groups) // 3)]
    out = {name for part in parts for name in part}
    return compare.Sides([name for name in everyone if name not in out], [part[0] for part in parts])


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


def _curve(recipe: Recipe, heard: Sequence[Check], diverged: bool) -> Curve:
    train = recipe.train
    if not heard:
        return Curve(train.learning_rate, diverged=diverged)
    grids = [one.reading.held_out.mid or one.reading.train.mid for one in heard]
    steps = tuple(one.step for one in heard[1:])
    spent = tuple(train.learning_rate * sum(optim.rate(train, i) for i in range(step)) for step in steps)
    return Curve(train.learning_rate, steps, spent, tuple(minus(grid, grids[0]) for grid in grids[1:]), diverged)


def _told_of(recipe: Recipe, curves: Sequence[Curve], sides: compare.Sides, steps: int) -> RateFound:
    found = suggest(curves)
    spread = found.budget / optim.total_rate(recipe.train) if found.budget else None
    params: dict[str, object] = {"steps": steps, "lowest": _short(curves[0].rate), "highest": _short(curves[-1].rate)}
    code = "GD022"
    if found.rate is not None and found.gain is not None:
        enough = spread is not None and spread <= found.rate
        code = "GD021" if spread is None else "GD020" if enough else "GD028"
        params |= {
            "rate": _short(found.rate), "gain": percent(found.gain.mean), "after": found.after, "best": found.steps or "?",
            "slower": _short(spread), "run": recipe.train.steps,
        }  # fmt: skip
    rows = []
    for curve in curves:
        points = [{"step": step, **asdict(estimate(grid))} for step, grid in zip(curve.steps, curve.grids, strict=True)]
        rows.append(jsonable({"rate": curve.rate, "diverged": curve.diverged, "safe": curve.safe, "curve": points}))
    measured = sides.held_out or sides.twins
    return RateFound(
        found.rate, found.steps, found.budget, spread, "held-out" if sides.held_out else "training", len(measured),
        code, params, rows,
    )  # fmt: skip
