"""The benchmark's analysis on made-up curves whose best step is known."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "bench" / "guard"


@pytest.fixture(scope="module")
def analyse() -> ModuleType:
    """All of the analysis under one name: a script's folder is on its own path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        parts = [importlib.import_module(name) for name in ("curves", "rules", "analyse", "whole")]
    whole = ModuleType("bench_guard")
    for part in parts:
        vars(whole).update(vars(part))
    return whole


def run_with(analyse: ModuleType, *, best: float, pictures: int = 5, noise: float = 0.0, offset: float = 0.0):
    """Parabolas in log steps: the truth is best at `best`, each fold where n - 1 pictures would be.

    Pictures that are trained on go on falling.
    """
    rng = np.random.default_rng(0)
    steps = np.unique(np.ceil(8 * 1.2 ** np.arange(20)))
    shrunk = best * ((pictures - 1) / pictures) ** analyse.growth("lora")

    def curve(at: float, count: int, columns: int = 6) -> np.ndarray:
        line = -0.2 + 0.1 * np.log(steps / at) ** 2
        apart = offset * rng.standard_normal((1, count, 1))
        return line[:, None, None] + apart + noise * rng.standard_normal((len(steps), count, columns))

    folds = tuple(
        analyse.Fold(
            pictures - 1,
            analyse.Curve(steps, curve(shrunk, 1)),
            curve(shrunk, 1, 2),
            analyse.Curve(steps, curve(1000, 2)),
            curve(1000, 2, 2),
            np.ones((1, 8)),
            analyse.Curve(steps, curve(shrunk, 40)),
        )
        for _ in range(pictures)
    )
    truth = analyse.Curve(steps, curve(best, 40))
    losses = np.linspace(1, 0.5, int(steps[-1]))
    ticks = np.stack([np.arange(1, 201), np.linspace(1, 0.5, 200)], axis=1)
    return analyse.Run(
        "lora", "mascot", pictures, 0, int(steps[-1]), 4, 1e-3, folds, truth, folds[0].twin, losses, ticks, "fold"
    )


@pytest.mark.parametrize("best", [25, 60])
def test_clean_curves_cost_no_more_than_a_rung(analyse: ModuleType, best: float) -> None:
    run = run_with(analyse, best=best)
    off_by_a_rung = 0.1 * math.log(1.2) ** 2
    for step in (analyse.kept(run), analyse.refitted(run, analyse.play(run, analyse.Rule()).best)):
        assert abs(math.log(step / best)) <= math.log(1.2)
        assert 0 <= run.regret(step) <= off_by_a_rung


def test_the_replay_is_the_judge_where_nothing_is_gained_any_more(analyse: ModuleType) -> None:
    run = run_with(analyse, best=30, noise=0.001)
    judged = analyse.judged(run, everything=True)  # the recorded checks are not those of the product's plan
    played = analyse.play(run, analyse.Rule())
    assert judged.code == "GD006"
    assert (judged.best, judged.stop) == (played.best, played.stop)


def test_truth_is_read_between_rungs_and_the_base_is_zero(analyse: ModuleType) -> None:
    run = run_with(analyse, best=40)
    means = run.truth.mean()
    assert run.truth.at(0) == 0
    for i, step in enumerate(run.truth.steps):
        assert run.truth.at(step) == pytest.approx(means[i])
    left, right = sorted(means[3:5])
    assert left <= run.truth.at(float(run.truth.steps[3:5].mean())) <= right


@pytest.mark.parametrize("pick", ["smooth", "parabola", "bagged"])
def test_other_ways_to_pick_agree_on_a_clean_curve(analyse: ModuleType, pick: str) -> None:
    run = run_with(analyse, best=40)
    plain = analyse.play(run, analyse.Rule(columns=analyse.MID)).best
    other = analyse.play(run, analyse.Rule(columns=analyse.MID, pick=pick)).best
    assert abs(math.log(other / plain)) <= math.log(1.2)
    if pick == "parabola":
        assert other == pytest.approx(40 * (4 / 5) ** analyse.growth("lora"), rel=1e-6)


def test_the_guard_beats_the_end_of_an_overfitted_run(analyse: ModuleType) -> None:
    run = run_with(analyse, best=25)
    assert run.regret(analyse.kept(run)) < run.regret(run.steps)
    assert analyse.judged(run).stop < run.steps


@pytest.mark.parametrize("window", [10, 20])
def test_dvar_on_a_falling_line_is_a_step_budget(analyse: ModuleType, window: int) -> None:
    """Its statistic is then (W/n)^2, so it stops at W / sqrt(threshold)."""
    run = run_with(analyse, best=25)
    kept, stop = analyse.dvar(run, window, 0.15)
    assert kept == stop
    assert stop == pytest.approx(window / math.sqrt(0.15), abs=2)


def test_intervals_over_pictures_hold_a_truth_of_the_same_kind(analyse: ModuleType) -> None:
    runs = [run_with(analyse, best=30, pictures=n, offset=0.02) for n in range(4, 10)]
    text = analyse.coverage_table(runs)
    assert "leave-one-out" in text
    assert analyse.worse_table(runs).startswith("0 of")


def test_a_result_is_known_where_a_look_was_gone_on_from(analyse: ModuleType, tmp_path: Path) -> None:
    folds = run_with(analyse, best=25)
    look = replace(run_with(analyse, best=25, pictures=10), kind="hold-out", memo={})
    assert not analyse.ends([folds, look], tmp_path)
    grids = {"linear again": [[-0.3], [-0.1]], "half linear 1.0": [[-0.4], [-0.2]]}
    for run in (folds, look):
        (tmp_path / f"{run.name.replace('/', '-')}.json").write_text(json.dumps(grids))
    found = analyse.ends([folds, look], tmp_path)
    assert found[folds] == pytest.approx(folds.gain - 0.3)
    assert found[look] == pytest.approx(look.gain - 0.2)


def test_more_planned_steps_save_more_where_the_run_was_stopped(analyse: ModuleType) -> None:
    """A stop depends on the plan only by what must not be stopped before; one that never came is not known."""
    early, late = run_with(analyse, best=25), replace(run_with(analyse, best=400), memo={})
    once, twice, _ = (
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in analyse.planned_table([early, late], {}).splitlines()
        if "| all |" in row
    )
    assert (once[2], twice[2]) == ("2 of 2", "1 of 2")
    stop = analyse.judged(replace(early, steps=2 * early.steps, memo={})).stop
    assert twice[5] == f"{100 * (1 - stop / (2 * early.steps)):.0f} %"
    longer = {late.name: replace(late, steps=2 * late.steps, memo={})}
    assert "| 2 | all | 2 of 2 |" in analyse.planned_table([late, late], longer)
