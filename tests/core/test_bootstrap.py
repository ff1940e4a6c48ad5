"""Intervals: exact where nothing varies, as wide as theory says where it is known, paired between points."""

from __future__ import annotations

import numpy as np
import pytest

from tsuika.core.bootstrap import of_table, resampled

RNG = np.random.default_rng(5)


def test_no_difference_has_no_width() -> None:
    table = RNG.normal(size=(6, 4))
    same = of_table(table - table)
    assert same is not None and (same.mean, same.low, same.high) == (0, 0, 0)
    assert same.sign == 0


def test_one_picture_has_no_interval_and_none_has_nothing() -> None:
    one = of_table(np.array([[0.3]]))
    assert one is not None and one.mean == 0.3 and not one.is_bounded and one.sign == 0
    assert of_table(np.full((2, 3), np.nan)) is None


def test_the_width_is_that_of_the_mean_of_clusters() -> None:
    """Prompts that differ, seeds that do not: the standard error is the prompts' spread over the root of their number."""
    for count in (8, 30):
        prompts = RNG.normal(size=(count, 1))
        draws = resampled(np.repeat(prompts, 4, axis=1))
        assert draws.std() == pytest.approx(prompts.std() / np.sqrt(count), rel=0.06)


def test_seeds_that_all_prompts_share_count_as_few() -> None:
    """What varies by seed alone has as many independent values as there are seeds, however many prompts are drawn."""
    seeds = RNG.normal(size=(1, 5))
    draws = resampled(np.repeat(seeds, 40, axis=0))
    assert draws.std() == pytest.approx(seeds.std() / np.sqrt(5), rel=0.06)


def test_it_holds_the_truth_about_as_often_as_it_says() -> None:
    hits = 0
    for _ in range(150):
        table = RNG.normal(0.2, 0.1, (10, 1)) + RNG.normal(0, 0.1, (1, 5)) + RNG.normal(0, 0.2, (10, 5))
        found = of_table(table)
        assert found is not None and found.low is not None and found.high is not None
        hits += found.low <= 0.2 <= found.high
    assert hits >= 0.85 * 150


def test_prompts_that_say_nothing_are_passed_over() -> None:
    table = RNG.normal(size=(5, 4))
    with_gap = np.vstack([table, np.full((1, 4), np.nan)])
    found = of_table(with_gap)
    assert found is not None and found.mean == pytest.approx(table.mean())
    assert np.isfinite(resampled(with_gap)).mean() > 0.99


def test_equal_shapes_are_resampled_alike() -> None:
    first, second = RNG.normal(size=(6, 4)), RNG.normal(size=(6, 4))
    assert np.allclose(resampled(first) - resampled(second), resampled(first - second))
