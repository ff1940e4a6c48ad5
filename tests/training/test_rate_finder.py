"""The learning-rate test: on a quadratic whose answers are known, and on a tiny model through the whole of it."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from runs import settings

import tsuika
from tiny_models import shallow, write_folder
from tsuika import config
from tsuika.config import Recipe
from tsuika.core.errors import RecipeError
from tsuika.core.events import Event
from tsuika.training import rate_finder
from tsuika.training.rate_finder import Curve, RateFound, suggest

CURVATURE, DRAWS, PICTURES = 1.0, 6, 5


def descent(rate: float, steps: int = 48, target: float = 1.0, seed: int = 0) -> Curve:
    """Gradient descent on the mean of (w - target)^2 / 2; each draw's loss has a floor and a target of its own."""
    source = random.Random(seed)
    own = [[source.gauss(target, 0.1) for _ in range(DRAWS)] for _ in range(PICTURES)]

    def losses(w: float) -> list[list[float]]:
        return [[CURVATURE * (w - one) ** 2 / 2 + 1.0 for one in row] for row in own]

    w, grids, rungs, spent = 0.0, [], rate_finder.checks(steps), []
    start = losses(w)
    for step in range(1, steps + 1):
        w -= rate * CURVATURE * (w - target)
        if step in rungs:
            pairs = [zip(now, before, strict=True) for now, before in zip(losses(w), start, strict=True)]
            grids.append(tuple(tuple(math.log(a / b) for a, b in row) for row in pairs))
            spent.append(rate * step)
    return Curve(rate, rungs, tuple(spent), tuple(grids))


def straight(rate: float, optimum: float, steps: int = 48) -> Curve:
    """A loss that hangs on rate x steps alone and is smallest at `optimum`, as it is with Adam; a little noise."""
    source = random.Random(1)
    noise = [[source.gauss(0, 0.001) for _ in range(DRAWS)] for _ in range(PICTURES)]
    rungs = rate_finder.checks(steps)
    spent = tuple(rate * step for step in rungs)
    levels = [0.1 * ((done / optimum - 1) ** 2 - 1) for done in spent]
    grids = tuple(tuple(tuple(level + one * level for one in row) for row in noise) for level in levels)
    return Curve(rate, rungs, spent, grids)


def test_a_rate_that_learns_is_taken_and_not_one_a_thousand_times_smaller() -> None:
    found = suggest([descent(0.2 / 1000), descent(0.2)])
    assert found.rate == 0.2
    assert found.gain is not None and found.gain.high < 0


@pytest.mark.parametrize("factor", [1.05, 1.5, 4])
def test_a_rate_beyond_stability_is_never_suggested(factor: float) -> None:
    """Gradient descent on a quadratic diverges above 2 / curvature."""
    assert suggest([descent(0.02), descent(2 / CURVATURE * factor)]).rate == 0.02
    assert suggest([descent(2 / CURVATURE * factor)]).rate is None


def test_a_rate_that_diverged_is_never_suggested() -> None:
    best = descent(0.2)
    assert suggest([descent(0.02), replace(best, diverged=True)]).rate == 0.02


def test_nothing_is_suggested_where_nothing_can_be_told_from_chance() -> None:
    source = random.Random(5)
    for _ in range(20):
        rows = [tuple(tuple(source.gauss(0.0, 0.01) for _ in range(DRAWS)) for _ in range(PICTURES)) for _ in range(3)]
        # the same draws at every check: the only difference between checks is none
        still = Curve(1e-3, (4, 8, 16), (0.004, 0.008, 0.016), (rows[0],) * 3)
        shifted = tuple(tuple(value + 0.02 for value in row) for row in rows[0])
        assert suggest([replace(still, grids=(shifted,) * 3)]).rate is None
    assert suggest([]).rate is None
    assert suggest([Curve(1e-3, diverged=True)]).rate is None


def test_of_rates_that_cannot_be_told_apart_the_smallest_is_taken() -> None:
    fast = descent(0.9)
    assert suggest([replace(fast, rate=0.3), fast, replace(fast, rate=0.6)]).rate == 0.3


@pytest.mark.parametrize("optimum", [0.02, 0.05, 0.3])
def test_the_budget_is_where_rate_times_steps_is_best(optimum: float) -> None:
    """Within the distance of two checks: RATIO."""
    found = suggest([straight(rate, optimum) for rate in rate_finder.around(1e-3)])
    assert found.rate is not None and found.budget is not None and found.steps is not None
    assert optimum / rate_finder.RATIO <= found.budget <= optimum * rate_finder.RATIO
    assert found.steps == pytest.approx(found.budget / found.rate, abs=0.5)


def test_without_a_minimum_there_is_no_budget() -> None:
    found = suggest([straight(1e-4, 1.0), straight(3e-4, 1.0)])
    assert found.rate == 3e-4
    assert found.budget is None and found.steps is None


def until(curve: Curve, count: int) -> Curve:
    return replace(curve, steps=curve.steps[:count], spent=curve.spent[:count], grids=curve.grids[:count])


def raced(full: list[Curve]) -> list[Curve]:
    """What is left of curves, given from the lowest rate up, where those leave that cannot win any more."""
    racing = [until(curve, 0) for curve in full]
    for count in range(1, len(full[0].steps)):
        for i in reversed(range(len(full))):
            if not racing[i].left:
                racing[i] = until(full[i], count)
                leaves = rate_finder.too_high(racing[i]) or rate_finder.behind(racing[i], racing, full[i].spent[-1])
                racing[i] = replace(racing[i], left=leaves)
    return [one if one.left else whole for one, whole in zip(racing, full, strict=True)]


@pytest.mark.parametrize("scale", [0.03, 0.1, 0.3, 1, 3])
@pytest.mark.parametrize("kind", ["straight", "descent"])
def test_who_leaves_early_changes_no_suggestion_and_saves_work(kind: str, scale: float) -> None:
    """From a tenth of the rate that is right to 30 times it, and from where the right one is the last or the first."""
    tried = rate_finder.around(scale * 0.01 if kind == "straight" else scale * 0.3)
    full = [straight(rate, 0.2) if kind == "straight" else descent(rate) for rate in tried]
    some = raced(full)
    assert suggest(some).rate == suggest(full).rate
    steps = [sum(one.steps[-1] for one in curves) for curves in (some, full)]
    assert steps[0] <= 0.8 * steps[1]


def test_what_comes_back_from_a_bad_start_stays() -> None:
    """A new word begins as noise: worse than the start for a while, and better with each check."""
    falling = Curve(1e-3, (4, 6, 9), (0.0, 0.0, 0.0), tuple(((value,) * DRAWS,) for value in (0.3, 0.2, 0.1)))
    assert not any(rate_finder.too_high(until(falling, count)) for count in (1, 2, 3))
    assert rate_finder.too_high(replace(falling, grids=falling.grids[::-1]))


def test_checks_rise_to_the_last_step() -> None:
    for steps in (8, 20, 48, 100):
        found = rate_finder.checks(steps)
        assert found[0] >= rate_finder.FIRST_CHECK and found[-1] == steps
        assert list(found) == sorted(set(found))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SD1 and six pictures that differ."""
    folder = tmp_path_factory.mktemp("rates")
    write_folder(shallow(), folder / "base", old_style=True)
    (folder / "pictures").mkdir()
    source = random.Random(0)
    for i in range(6):
        Image.frombytes("RGB", (8, 8), source.randbytes(192)).resize((64, 64)).save(folder / "pictures" / f"{i}.png")
    return folder


@pytest.fixture(autouse=True)
def apart(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))


def recipe(place: Path, **more: object) -> Recipe:
    keys = {
        **settings("hypernetwork"),
        "method.name": "hypernetwork",
        "base.model": str(place / "base"),
        "data.images": str(place / "pictures"),
        **more,
    }
    return config.build(config.override({}, {"data.trigger": "zuzu", **keys}))


def last(events: Iterator[Event]) -> RateFound:
    found = list(events)[-1]
    assert isinstance(found, RateFound)
    return found


def test_on_a_tiny_model_the_rate_that_learns_is_found_and_nothing_is_left(place: Path) -> None:
    before = sorted(place.rglob("*"))
    found = last(tsuika.find_rate(recipe(place), rates=(1e30, 1e-2, 1e-5), steps=24))
    assert found.rate == 1e-2
    assert (found.measured, found.pictures) == ("held-out", 2)
    assert [row["diverged"] for row in found.rates] == [False, False, True]
    new = {path for path in sorted(place.rglob("*")) if path not in before}
    assert all(path.is_relative_to(place / "cache") for path in new)
    assert all(found.words(lang) for lang in ("en", "ja"))


@pytest.mark.parametrize(("steps", "code"), [(1000, "GD020"), (20, "GD028")])
def test_the_budget_is_spread_over_the_recipes_own_steps(steps: int, code: str) -> None:
    """Constant after no warm-up, rate x steps is the budget; too few steps cannot spend it at a rate that is safe."""
    built = config.build({"train": {"steps": steps, "schedule": "constant", "warmup": 0.0}})
    curves = [straight(rate, 0.05) for rate in rate_finder.around(1e-3)]
    told = rate_finder._found(built, curves, rate_finder.Divided(("a",), ("b",)), 48)
    assert told.rate_for_steps is not None and told.budget is not None and told.rate is not None
    assert told.rate_for_steps * steps == pytest.approx(told.budget)
    assert told.code == code
    assert (told.rate_for_steps <= told.rate) == (code == "GD020")
    assert all(told.words(lang) for lang in ("en", "ja"))


def test_the_highest_rate_is_told_to_be_that() -> None:
    """Where it may not be the best there is: it has not turned, so somebody should look above it."""
    built = config.build({"train": {"steps": 100}})
    for tried, code in (((1e-4, 1e-3), "GD030"), ((1e-3, 1e30), "GD021")):
        curves = [replace(straight(min(rate, 1e-3), 1.0), rate=rate, diverged=rate > 1) for rate in tried]
        told = rate_finder._found(built, curves, rate_finder.Divided(("a",), ("b",)), 48)
        assert told.rate == 1e-3 and told.code == code
        assert ("0.0032" in told.words("en")) == (code == "GD030")


def test_prodigy_is_refused(place: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        list(tsuika.find_rate(recipe(place, **{"train.optimizer": "prodigy"})))
    assert caught.value.code == "RC020"


def test_a_class_word_that_the_tokenizer_tears_is_named_as_the_cause() -> None:
    model = SimpleNamespace(count_tokens=lambda word: (3, 2) if word == "teapot" else (1, 1))
    notes = list(rate_finder._torn(model, "mint teapot"))  # type: ignore[arg-type]
    assert [one.code for one in notes] == ["GD037"]
    assert "`teapot`" in notes[0].message and "3" in notes[0].message and "teapot" in notes[0].words("ja")
    assert not list(rate_finder._torn(model, ""))  # type: ignore[arg-type]


def test_every_set_is_measured_in_proportion() -> None:
    groups = [(f"a/{i}",) for i in range(16)] + [(f"b/{i}",) for i in range(8)]
    sets = {name: name[0] for group in groups for name in group}
    for seed in range(8):
        images = rate_finder._divide(groups, seed, sets)
        counted = Counter(sets[name] for name in images.held_out)
        assert abs(counted["a"] - 2 * counted["b"]) <= 2 and counted["b"] >= 2 and sum(counted.values()) == 8
        assert not set(images.held_out) & set(images.inside) and len(images.inside) == 16


def test_of_sets_in_a_run_both_are_held_out(place: Path) -> None:
    for name in "ab":
        (place / name).mkdir()
    source = random.Random(1)
    for i in range(12):
        image = Image.frombytes("RGB", (8, 8), source.randbytes(192)).resize((64, 64))
        image.save(place / "ab"[i % 2] / f"{i}.png")
    sets = [{"images": str(place / name), "trigger": name * 4} for name in "ab"]
    found = last(tsuika.find_rate(recipe(place, **{"data.images": "", "data.sets": sets}), rates=(1e-2, 1e-5), steps=8))
    assert (found.measured, found.pictures) == ("held-out", 4)
