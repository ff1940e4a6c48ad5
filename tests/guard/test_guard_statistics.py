"""The guard's statistics against simulated runs whose truth is known; bounds are what theory says, within the simulation's error."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from tsuika.data.split import split
from tsuika.guard.judge import RISE, Judge
from tsuika.guard.probe import strata
from tsuika.guard.reading import Check, Grid, Ratios, Reading, cross_fitted, estimate, mean

TIMESTEPS = 6


def rows(values: np.ndarray) -> Grid:
    return tuple(tuple(map(float, row)) for row in values)


@pytest.mark.parametrize(("count", "folds"), [(5, 5), (9, 2), (30, 5)])
def test_the_interval_of_folds_covers_and_gets_narrower_with_more_images(count: int, folds: int) -> None:
    """A fold that learns a shrunken mean of normal images; the truth is what its models are worth to all others, on average.

    1 / (folds - 1) for an overlap is the same for leave-one-out alone: with 30 images in five folds the interval is 1.9 times
    as wide, and no number of images makes it narrow.
    """
    draws, shrunken, spread, hits, runs = np.random.default_rng(2), 0.8, 1.0, 0, 300
    parted = split([(f"{i}",) for i in range(count)], 0, folds=folds)
    parts = [np.array([int(name) for name in part]) for part in parted.parts]
    for _ in range(runs):
        images = 0.6 + spread * draws.normal(size=(count, 12))
        values, truth = np.empty(count), []
        for part in parts:
            model = shrunken * np.delete(images, part, axis=0).mean(0)
            # Loss relative to none at all: |x - m|^2 - |x|^2, per dimension; linear in x, so its mean is known.
            values[part] = ((model**2) - 2 * images[part] * model).mean(1)
            truth.append(((model**2) - 2 * 0.6 * model).mean())
        said = estimate(rows(values[:, None]), parted.overlap)
        hits += said.low <= np.mean(truth) <= said.high
    # 95 % within three standard errors of so many runs; above is allowed, for the folds' models share images.
    assert hits / runs >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)
    wide = estimate(rows(values[:, None]), parted.overlap).se / estimate(rows(values[:, None])).se
    assert wide == pytest.approx(math.sqrt(1 + count / (count - count / folds)))


def test_what_the_chosen_step_is_told_to_be_too_good_by_is_so() -> None:
    """Twelve equal checks of four images: the smallest mean is too small by the expectation of the smallest of twelve normals."""
    draws, checks, images, runs, noise = np.random.default_rng(3), 12, 4, 300, 0.02
    told = []
    for _ in range(runs):
        grids = [rows(column) for column in noise * draws.normal(size=(checks, images, 1)) - 0.1]
        fitted = cross_fitted(grids)
        assert fitted is not None
        told.append(fitted - min(map(mean, grids)))
    # By Blom's approximation of normal order statistics, right to a hundredth here.
    expected = noise / math.sqrt(images) * NormalDist().inv_cdf((checks - 0.375) / (checks + 0.25))
    error = np.std(told) / math.sqrt(runs)
    assert abs(np.mean(told) - expected) <= 3 * error + 0.02 * expected


def test_one_image_has_none_to_choose_by_and_a_clear_best_is_not_too_good() -> None:
    assert cross_fitted([((0.1,),), ((0.2,),)]) is None and cross_fitted([]) is None
    assert cross_fitted([((-0.1,), (-0.3,)), ((0.1,), (0.0,))]) == pytest.approx(-0.2)


def test_more_images_at_fewer_timesteps_choose_better_at_as_many_passes() -> None:
    """Images, timesteps and images by timesteps each have an own best step; 12 passes of a check either way.

    The best step's variance is that of the means: s_image / m + what is left of 12 passes, so m = 12 is better than m = 4.
    """
    draws, runs, steps = np.random.default_rng(4), 300, np.log(np.geomspace(0.2, 3, 14))
    regrets: dict[int, list[float]] = {4: [], 12: []}
    slopes = np.linspace(-0.2, 0.2, TIMESTEPS)
    for _ in range(runs):
        own = 0.5 * draws.normal(size=(12, 1)) + slopes + 0.1 * draws.normal(size=(12, TIMESTEPS))
        curves = (steps - own[..., None]) ** 2
        for images, regret in regrets.items():
            chosen = np.mean([curves[i, list(strata(i, 12 // images))].mean(0) for i in range(images)], axis=0)
            regret.append(float(steps[chosen.argmin()] ** 2))
    ratio = np.mean(regrets[4]) / np.mean(regrets[12])
    # 0.25 / m by images and 0.01 / 12 by passes: 0.0633 against 0.0217, and the distance of checks adds 0.003 to both.
    assert 2.0 < ratio < 4.0


@pytest.mark.parametrize("together", [False, True])
def test_a_plateau_with_jitter_is_seldom_taken_for_divergence(together: bool) -> None:
    """Ten checks of a run that rests, weights that jitter by 1.6 pp: by six images apart, or by all together.

    Four values in order are 1 of 24, in any of seven places: 20 % by that alone, and half where the held-out ones must rise too.
    """
    draws, runs, stops = np.random.default_rng(5), 60, 0
    for _ in range(runs):
        judge = Judge(2000, 1e-4, check_steps=range(50, 2000, 50))
        for step in range(50, 550, 50):
            held, train = 0.016 * draws.normal(size=(2, 1 if together else 6, 1))
            own = 0.016 * draws.normal(size=(2, 6, 1))
            sides = [-0.1 + own[i] * (0.2 if together else 1) + one for i, one in enumerate((held, train))]
            verdict = judge.update(Check(step, Reading(Ratios(rows(sides[0])), Ratios(rows(sides[1])))))
            stops += verdict.code == "GD003"
    assert stops / runs <= 0.10 + 3 * math.sqrt(0.1 * 0.9 / runs)


def test_training_images_that_all_get_worse_with_the_others_are_divergence() -> None:
    def verdict(spread: float, held: float) -> str:
        judge = Judge(2000, 1e-4, check_steps=range(50, 2000, 50))
        for i in range(4):
            # Four images of which the standard error of the rise is `spread`: deviations 2 * spread.
            signs = np.array([1, -1, 1, -1]) * 2 * spread * math.sqrt(3 / 4)
            train = (-0.1 + RISE / 3 * 1.5 * i + signs * i / 3)[:, None]
            code = judge.update(
                Check(50 + 50 * i, Reading(Ratios(((-0.1 + held * i,),) * 4), Ratios(rows(train))))
            ).code
        return code

    assert verdict(0.0149, 0.01) == "GD003" and verdict(0.0151, 0.01) != "GD003", "beyond two standard errors of 3 pp"
    assert verdict(0.0149, -0.01) != "GD003", "the held-out images get better"


def test_an_alarm_is_raised_beyond_its_standard_error() -> None:
    """Held-out and training images one standard error of 10 pp each, so 14.1 pp of the gap; gain and limit 20 pp."""
    signs = np.array([[1.0], [-1.0], [1.0], [-1.0]]) * 0.2 * math.sqrt(3 / 4)

    def last(gap: float) -> tuple[str, float | None]:
        judge = Judge(2000, 1e-4, check_steps=(100, 200, 300))
        for step in (100, 200):
            held, train = Ratios(((-0.2,),) * 4, rows(gap + signs)), Ratios(((-0.2,),) * 4, rows(signs))
            verdict = judge.update(Check(step, Reading(held, train)))
        return verdict.code, verdict.evidence.gap_high_se

    quiet, loud = last(0.34), last(0.343)
    assert quiet[0] != "GD007" and loud[0] == "GD007" and quiet[1] == pytest.approx(math.hypot(0.1, 0.1))


def test_three_images_have_no_safe_step_and_four_have() -> None:
    """What differs there is timesteps, and systematically: no error of the images to go by."""

    def safe(images: int) -> int:
        judge = Judge(2000, 1e-4, check_steps=(100, 200, 300))
        for step, level, sign in ((100, -0.0200, 0.01), (200, -0.0201, -0.01)):
            wobble = (1, -1, 0) if images == 3 else (1, -1, 1, -1)
            grid = tuple(tuple(level + sign * (w + k - 2.5) for k in range(6)) for w in wobble)
            judge.update(Check(step, Reading(Ratios(grid), Ratios())))
        return judge.chosen.safe

    assert safe(3) == 200 and safe(4) == 100
