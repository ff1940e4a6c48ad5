"""What a run folder tells of a run, and what can be asked of one that runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import tsuika
from tsuika import config
from tsuika.api.status import POINTS, Follower, thinned
from tsuika.core.errors import InterruptedRunError, RecipeError
from tsuika.core.events import Event, Judged, Phase, Previewed, Progress, Started, Stepped
from tsuika.core.files import locked
from tsuika.core.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    folder = RunDir(tmp_path / "run").create()
    folder.recipe.write_text(config.dump(config.build({"data": {"trigger": "sks"}, "train": {"steps": 100}})))
    return folder


def write(run: RunDir, events: Sequence[Event], tail: str = "") -> None:
    with run.events.open("a", encoding="utf-8") as log:
        log.write("".join(event.to_json() + "\n" for event in events) + tail)


def test_a_run_that_is_trained_tells_where_it_is(run: RunDir) -> None:
    steps = [Stepped(step, 1 / step, 1.0, 1e-4, 0.5) for step in range(1, 41)]
    write(run, [Started("lora", "sd1", 9, 100, 0, 5), Phase("train", 100), *steps])
    with locked(run.lock):
        now = tsuika.status(run.root).result
    assert (now.state, now.phase, now.done, now.total, now.step, now.steps) == ("running", "train", 40, 100, 40, 100)
    assert (now.family, now.trigger, now.method) == ("sd1", "sks", "lora")
    assert now.seconds_left == pytest.approx(60 * 0.5)
    assert now.losses[0] == (1, 1.0)


def test_where_no_process_holds_the_lock_it_is_stopped_and_with_a_report_finished(run: RunDir) -> None:
    assert tsuika.status(run.root).result.state == "stopped"
    with locked(run.lock):
        assert tsuika.status(run.root).result.state == "running"
    assert tsuika.status(run.root).result.state == "stopped"
    run.report_json.write_text("{}")
    assert tsuika.status(run.root).result.state == "finished"


def test_a_follower_reads_only_what_is_new_and_waits_for_whole_lines(run: RunDir) -> None:
    follower = Follower(run.root)
    write(run, [Phase("encode", 3), Progress("encode", 1, 3)], '{"event": "Progress", "phase": "enc')
    assert (follower.status().done, follower.status().total) == (1, 3)
    with run.events.open("a") as log:
        log.write('ode", "done": 2, "total": 3}\n\x00garbage\n{"event": "Unknown"}\n')
    assert follower.status().done == 2
    write(run, [Phase("train", 9)])
    assert (follower.status().phase, follower.status().done) == ("train", 0)


def test_a_preview_that_was_made_again_counts_once(run: RunDir) -> None:
    write(
        run, [Previewed(0, "a", 1, "samples/x"), Previewed(5, "a", 1, "samples/y"), Previewed(5, "a", 1, "samples/z")]
    )
    assert [one["path"] for one in tsuika.status(run.root).result.previews] == ["samples/x", "samples/z"]


def fold(number: int, step: int, mean: float, best_step: int, verdict: str = "go") -> Judged:
    held_out = {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "kind": "pictures", "se": 0.004}
    evidence = {"step": step, "held_out": held_out, "best_step": best_step}
    return Judged(step, verdict, "GD008", {}, {}, evidence, fold=number, folds=2)


def test_each_training_of_a_cross_validation_is_told(run: RunDir) -> None:
    write(run, [fold(1, 4, -0.1, 4), fold(1, 8, -0.3, 8), fold(2, 4, -0.2, 4), fold(2, 8, 0.1, 4, "stop")])
    # Done again after a kill.
    write(run, [fold(2, 8, 0.2, 4, "stop")])
    first, second = tsuika.status(run.root).result.folds
    assert (first["fold"], first["best_step"], first["best"]["mean"], first["stopped"]) == (1, 8, -0.3, False)
    assert [(one["step"], one["mean"]) for one in second["curve"]] == [(4, -0.2), (8, 0.2)]
    assert (second["best_step"], second["best"]["low"], second["stopped"]) == (4, pytest.approx(-0.21), True)


def test_stop_and_sample_are_asked_of_a_run_that_runs_alone(run: RunDir) -> None:
    with pytest.raises(InterruptedRunError) as error:
        _ = tsuika.stop(run.root).result
    assert (error.value.code, error.value.exit_status) == ("TR033", 8)
    with locked(run.lock):
        _ = tsuika.stop(run.root).result, tsuika.sample(run.root).result
    assert run.takes(run.stop_request)
    assert not run.takes(run.stop_request)
    assert run.takes(run.sample_request)


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        _ = tsuika.status(tmp_path).result
    assert error.value.code == "TR002"


def test_the_status_is_plain_json(run: RunDir) -> None:
    write(run, [Phase("train", 9)])
    json.dumps(tsuika.status(run.root).result.to_dict(), default=str)


@pytest.mark.parametrize("count", [0, 1, POINTS, POINTS + 1, 10 * POINTS + 3])
def test_thinned_losses_keep_their_mean_and_their_end(count: int) -> None:
    losses = [float(number) for number in range(1, count + 1)]
    found = thinned(losses)
    assert len(found) <= POINTS
    assert (found[-1][0] if found else 0) == count
    steps = [0, *(step for step, _loss in found)]
    assert sum(loss * (b - a) for (_step, loss), a, b in zip(found, steps, steps[1:])) == pytest.approx(sum(losses))
