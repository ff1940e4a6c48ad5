"""The search over settings, by runs whose losses are known functions of the settings; and once by a real tiny run."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from search_runs import BEST_RATE, PICTURES, RUNGS, Runs, last, recipe

import tsuika
from tiny_models import shallow, write_folder
from tsuika import config
from tsuika.api import search_space, searching, training
from tsuika.core.errors import RecipeError, TsuikaError
from tsuika.core.events import Event, Judged, note
from tsuika.core.files import locked
from tsuika.evaluation.trials import Trial, choose, near_the_best


def test_every_point_of_a_grid_is_tried_once_and_the_best_is_a_recipe(runs: Runs, tmp_path: Path) -> None:
    over = ("train.learning_rate=1e-4,1e-3", "method.rank=8,16")
    found = last(tsuika.search(recipe(), tmp_path / "s", over))
    points = {(row["params"]["train.learning_rate"], row["params"]["method.rank"]) for row in found.trials}
    assert points == {(rate, rank) for rate in (1e-4, 1e-3) for rank in (8, 16)}
    assert len(runs.begun) == 4 == len(set(runs.begun))
    best = config.load(tmp_path / "s" / "best.toml")
    assert best == search_space.apply(recipe(), {"train.learning_rate": 1e-3, "method.rank": 8})  # refit as it was
    assert json.loads((tmp_path / "s" / "search.json").read_text(encoding="utf-8"))["best"] == found.best
    again = last(tsuika.search(recipe(), tmp_path / "s", over))
    assert again == found
    assert len(runs.begun) == 4 and not runs.resumed


def test_a_range_is_searched_near_its_best_and_the_same_call_tries_the_same(runs: Runs, tmp_path: Path) -> None:
    over = ("train.learning_rate=1e-5..1e-1",)
    whole = last(tsuika.search(recipe(), tmp_path / "a", over, trials=9))
    assert whole.best is not None
    rate = next(row for row in whole.trials if row["number"] == whole.best)["params"]["train.learning_rate"]
    assert abs(math.log10(rate / BEST_RATE)) < 0.5
    parts = [last(tsuika.search(recipe(), tmp_path / "b", over, trials=trials)) for trials in (4, 9)]
    assert [(row["number"], row["params"]) for row in parts[-1].trials] == [
        (row["number"], row["params"]) for row in whole.trials
    ]
    assert len(runs.begun) == 18


def test_a_trial_that_was_stopped_goes_on_in_its_folder(runs: Runs, tmp_path: Path) -> None:
    over = ("train.learning_rate=1e-4,1e-3,1e-2",)
    events = tsuika.search(recipe(), tmp_path / "s", over)
    for event in events:
        if isinstance(event, Judged) and len(runs.begun) == 2:
            break
    events.close()  # type: ignore[attr-defined]
    found = last(tsuika.search(recipe(), tmp_path / "s", over))
    assert len(runs.begun) == 3 and runs.resumed == [runs.begun[1]]
    undisturbed = last(tsuika.search(recipe(), tmp_path / "t", over))

    def told(one: tsuika.Searched) -> list[tuple[Any, ...]]:
        return [(row["params"], row["state"], row["value"], row["se"], row["step"]) for row in one.trials]

    assert told(found) == told(undisturbed)


def test_two_at_once_share_the_trials(runs: Runs, tmp_path: Path) -> None:
    over = ("train.learning_rate=1e-4,3e-4,1e-3,3e-3",)
    hands = [tsuika.search(recipe(), tmp_path / "s", over) for _ in range(2)]
    going, ended = list(hands), []
    while going:
        for hand in tuple(going):
            event = next(hand, None)
            ended += [event] if isinstance(event, tsuika.Searched) else []
            going = [one for one in going if one is not hand] if event is None else going
    assert len(runs.begun) == 4 == len(set(runs.begun)) and not runs.resumed
    assert ended[-1].best is not None and len(ended[-1].trials) == 4


def test_what_falls_behind_is_given_up(runs: Runs, tmp_path: Path) -> None:
    over = ("train.learning_rate=1e-3,9e-4,1.1e-3,8e-4,3e-5",)
    found = last(tsuika.search(recipe(), tmp_path / "s", over))
    states = {row["params"]["train.learning_rate"]: row["state"] for row in found.trials}
    assert states.pop(3e-5) == "pruned"
    assert states.pop(1e-3) == "done"
    checks = [
        line for line in (tmp_path / "s/trials/004/events.jsonl").read_text(encoding="utf-8").splitlines() if line
    ]
    assert 0 < len(checks) < len(RUNGS)


def test_a_trial_that_diverges_is_told_and_never_taken(runs: Runs, tmp_path: Path) -> None:
    runs.diverges_above = 5e-4
    found = last(tsuika.search(recipe(), tmp_path / "s", ("train.learning_rate=1e-4,3e-4,1e-3,1e-2",)))
    states = {row["params"]["train.learning_rate"]: row["state"] for row in found.trials}
    assert states == {1e-4: "done", 3e-4: "done", 1e-3: "diverged", 1e-2: "diverged"}
    assert config.load(tmp_path / "s" / "best.toml").train.learning_rate == 3e-4


def test_settings_that_do_not_go_together_are_a_failed_trial(runs: Runs, tmp_path: Path) -> None:
    runs.untrainable = 16
    over = ("method.rank=16,8",)
    found = last(tsuika.search(recipe(), tmp_path / "s", over))
    assert {row["params"]["method.rank"]: row["state"] for row in found.trials} == {8: "done", 16: "failed"}
    assert config.load(tmp_path / "s" / "best.toml") == search_space.apply(recipe(), {"method.rank": 8})
    assert last(tsuika.search(recipe(), tmp_path / "s", over)) == found and len(runs.begun) == 2


def test_trials_that_were_measured_more_or_less_finely_are_compared(runs: Runs, tmp_path: Path) -> None:
    found = last(tsuika.search(recipe(), tmp_path / "s", ("train.batch_size=1,4",)))
    assert {row["state"] for row in found.trials} == {"done"} and sorted(found.near) == [0, 1]


@pytest.mark.parametrize("moment", ["asked", "over"])
def test_a_kill_at_any_moment_costs_no_trial(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Before its settings are written down, and after its end has been, but before Optuna has heard of it."""
    over = ("train.learning_rate=1e-4,1e-3",)

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(
            *((searching, "_suggest", killed) if moment == "asked" else (searching._Search, "_tell", killed))
        )
        with pytest.raises(KeyboardInterrupt):
            last(tsuika.search(recipe(), tmp_path / "s", over))
    found = last(tsuika.search(recipe(), tmp_path / "s", over))
    assert sorted(row["params"]["train.learning_rate"] for row in found.trials) == [1e-4, 1e-3]
    assert {row["state"] for row in found.trials} == {"done"}
    assert len(runs.begun) == 2 == len({row["folder"] for row in found.trials}) and not runs.resumed


def test_where_nothing_is_gained_there_is_no_best(runs: Runs, tmp_path: Path) -> None:
    found = last(tsuika.search(recipe(), tmp_path / "s", ("train.learning_rate=1e-6,1.0",)))
    assert found.best is None and found.recipe == "" and found.near == []
    assert not (tmp_path / "s" / "best.toml").exists()


def test_no_trial_begins_after_the_time_is_up(runs: Runs, tmp_path: Path) -> None:
    found = last(tsuika.search(recipe(), tmp_path / "s", ("train.learning_rate=1e-4,1e-3",), timeout_s=0))
    assert found.trials == [] and not runs.begun


def test_another_search_is_not_mixed_in(runs: Runs, tmp_path: Path) -> None:
    over = ("train.learning_rate=1e-3,1e-2",)
    last(tsuika.search(recipe(), tmp_path / "s", over))
    for other, values in ((recipe(**{"train.ema": 0.5}), over), (recipe(), ("train.learning_rate=1e-3,1e-4",))):
        with pytest.raises(RecipeError) as caught:
            last(tsuika.search(other, tmp_path / "s", values))
        assert caught.value.code == "RC023"
    last(tsuika.search(recipe(**{"train.device": "cpu"}), tmp_path / "s", over))  # the device is each process's own


def test_without_optuna_it_says_what_to_install(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RecipeError) as caught:
        last(tsuika.search(recipe(), tmp_path / "s", ("method.rank=8,16",)))
    assert caught.value.code == "RC022" and "pip install" in caught.value.part("do")
    assert not (tmp_path / "s").exists()


def test_pictures_that_no_validation_can_be_trusted_by_are_refused(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = runs.train

    def warning(*args: Any) -> Iterator[Event]:
        yield note("GD012", found=3, then="They are left out in turn all the same.")
        yield from train(*args)

    monkeypatch.setattr(training, "train", warning)
    with pytest.raises(RecipeError) as caught:
        last(tsuika.search(recipe(), tmp_path / "s", ("method.rank=8,16",)))
    assert caught.value.code == "RC024"


def test_without_a_guard_there_is_nothing_to_compare_by(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        last(tsuika.search(recipe(**{"guard.mode": "off"}), tmp_path / "s", ("method.rank=8,16",)))
    assert caught.value.code == "RC024"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("train.learning_rate", "RC021"),
        ("train.learning_rate=", "RC021"),
        ("train.learning_rat=1,2", "RC001"),
        ("trian.steps=1,2", "RC001"),
        ("train.learning_rate=1e-3..1e-4", "RC021"),
        ("train.learning_rate=1..x", "RC021"),
        ("train.learning_rate=0..1(log)", "RC021"),
        ("train.learning_rate=0..1", "RC002"),
        ("train.learning_rate=1e-3..20", "RC002"),
        ("method.rank=0,8", "RC002"),
        ("method.rank=8,8", "RC021"),
        ("method.rank=4.5,8", "RC002"),
        ("train.optimizer=adamw,best", "RC002"),
        ("method.vectors=1,2", "RC042"),
        ("guard.patience=0.5,1", "RC021"),
        ("train.seed=1,2", "RC021"),
        ("method.name=lora,dreambooth", "RC021"),
        ("base.artifacts=[],[]", "RC021"),
    ],
)
def test_what_cannot_be_searched_is_refused(text: str, code: str) -> None:
    with pytest.raises(RecipeError) as caught:
        search_space.read(text, recipe())
    assert caught.value.code == code
    assert all(caught.value.describe(lang) for lang in ("en", "ja"))


def test_ranges_and_lists_are_read_as_meant() -> None:
    def read(text: str) -> search_space.Over:
        return search_space.read(text, recipe())

    assert read("train.learning_rate=1e-4..3e-3") == search_space.Over(
        "train.learning_rate", (), 1e-4, 3e-3, log=True, whole=False
    )
    assert not read("train.learning_rate=1e-4..5e-4").log
    assert not read("train.learning_rate=1e-4..3e-3(linear)").log
    assert read("method.rank=4..64") == search_space.Over("method.rank", (), 4, 64, log=True, whole=True)
    assert read("train.weight-decay=.0...5").high == 0.5
    assert read("method.rank=8, 16").choices == (8, 16)
    assert read("method.conv=true,false").choices == (True, False)
    assert read("train.optimizer=adamw,adafactor").choices == ("adamw", "adafactor")


def test_a_lock_is_one_holders_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path / "a.lock") as mine:
        assert mine
        with locked(tmp_path / "a.lock") as other:
            assert not other
    with locked(tmp_path / "a.lock") as free:
        assert free


def trial(number: int, level: float, spread: float = 0.0, **more: Any) -> Trial:
    """Pictures `spread` further apart from one another than those of trial 0 on the same draws."""
    rows = tuple(tuple(level + spread * (i - 2) for _ in range(6)) for i in range(PICTURES))
    return Trial(
        number, {}, "done", level, 0.01, grid=rows, probes="same", **{"step": 100, "learning_rate": 1e-3, **more}
    )


def test_by_one_standard_error_of_paired_differences() -> None:
    """Spread s over five pictures, two to each side, has standard deviation s * sqrt(2.5), standard error s * sqrt(0.5)."""
    best = trial(0, -0.20)
    spread = 0.01
    edge = spread * math.sqrt(0.5)
    inside, outside = trial(1, -0.20 + 0.99 * edge, spread), trial(2, -0.20 + 1.01 * edge, spread)
    assert near_the_best([best, inside, outside]) == [best, inside]
    # Of leave-one-out of five, sqrt(1/5 + 1/4) in place of sqrt(1/5).
    shared, within, beyond = (
        replace(one, overlap=0.25)
        for one in (best, trial(3, -0.20 + 1.49 * edge, spread), trial(4, -0.20 + 1.51 * edge, spread))
    )
    assert near_the_best([shared, within, beyond]) == [shared, within]


def test_trials_of_other_pictures_are_compared_by_both_errors() -> None:
    best = trial(0, -0.20)
    errors = math.hypot(0.01, 0.01)
    near = replace(trial(1, -0.20 + 0.99 * errors), probes="other")
    far = replace(trial(2, -0.20 + 1.01 * errors), probes="other")
    assert near_the_best([best, near, far]) == [best, near]


def test_of_equals_the_least_training_is_taken() -> None:
    same = [
        trial(0, -0.2, step=200, learning_rate=1e-4, rank=4),
        trial(1, -0.2, step=100, learning_rate=1e-3, rank=4),
        trial(2, -0.2, step=100, learning_rate=5e-4, rank=16),
        trial(3, -0.2, step=100, learning_rate=5e-4, rank=8),
    ]
    for number in (3, 2, 1, 0):  # without the winner the next rule decides
        found = choose(same[: number + 1] if number != 2 else same[:3])
        assert found is not None and found.number == (number if number else 0)
    assert choose([]) is None
    assert (
        choose([trial(0, 0.01), replace(trial(1, -0.5), state="pruned"), replace(trial(2, -0.5), state="diverged")])
        is None
    )


def test_a_real_search_of_one_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna", reason="the search needs optuna")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_folder(shallow(), tmp_path / "base", old_style=True)
    (tmp_path / "pictures").mkdir()
    source = random.Random(0)
    for i in range(10):
        Image.frombytes("RGB", (8, 8), source.randbytes(192)).resize((64, 64)).save(tmp_path / f"pictures/{i}.png")
    keys = {
        "method.name": "hypernetwork",
        "base.model": str(tmp_path / "base"),
        "data.images": str(tmp_path / "pictures"),
        "data.trigger": "zuzu",
        "data.variants": 1,
        "train.steps": 4,
        "train.batch_size": 2,
        "train.precision": "fp32",
        "train.device": "cpu",
    }
    built = config.build(config.override({}, keys))
    found = last(tsuika.search(built, tmp_path / "s", ("train.learning_rate=3e-2,1e-2",), trials=1))
    assert found.best == 0 and found.trials[0]["value"] < 0 < found.trials[0]["se"]
    assert (tmp_path / "s/trials/000/report.html").exists()
    rate = found.trials[0]["params"]["train.learning_rate"]
    assert config.load(Path(found.recipe)) == search_space.apply(built, {"train.learning_rate": rate})


def test_a_folder_that_holds_something_else_is_left_alone(runs: Runs, tmp_path: Path) -> None:
    """A search wrote itself among the images, and into another run's folder; one without images left a folder."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    for place, images, code in (("images", "pictures", "RC006"), ("new", "", "RC005"), ("new", "nowhere", "DS001")):
        asked = recipe().model_copy(update={"data": recipe().data.model_copy(update={"images": str(images)})})
        with pytest.raises(TsuikaError) as error:
            _ = tsuika.search(asked, tmp_path / place, ["method.rank=8,16"]).result
        assert error.value.code == code
    assert [path.name for path in tmp_path.rglob("*")] == ["images", "a.png"]
