"""Run folders: held by one process, standing on what they began with, and what is left of runs that end early."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import hashes, settings

import tsuika
from tiny_models import draw_pictures, shallow, write_folder
from tsuika import config
from tsuika.api.states import Files
from tsuika.config import Recipe
from tsuika.core import files
from tsuika.core.errors import RecipeError, TsuikaError
from tsuika.core.events import Stepped, Warned
from tsuika.core.rundir import RunDir
from tsuika.evaluation import run_record


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("folder")
    write_folder(shallow(), folder / "base", old_style=True)
    draw_pictures(folder / "pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder


def recipe(place: Path, **more: Any) -> Recipe:
    own = {"base.model": str(place / "base"), "data.images": str(place / "pictures"), "data.trigger": "zuzu"}
    steps = {"steps": 4, "checkpoint_every": 2}
    return config.build(config.override({}, settings(train=steps) | own | more))


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """A finished run."""
    _ = tsuika.train(recipe(place), place / "whole").result
    return place / "whole"


@pytest.fixture(scope="module")
def stopped(place: Path) -> Path:
    """The same, stopped after a step by its user."""
    run = tsuika.train(recipe(place), place / "stopped")
    for event in run:
        if isinstance(event, Stepped) and event.step == 3:
            run.stop()
    assert run.result.stopped_by == "user"
    return place / "stopped"


def refused(work: Callable[[], object]) -> TsuikaError:
    with pytest.raises(TsuikaError) as error:
        work()
    return error.value


def test_a_stopped_run_leaves_what_is_best_so_far(stopped: Path, place: Path) -> None:
    report = run_record.read_report(stopped / "report.json")
    (file,) = (stopped / "artifacts" / "unfinished").glob("*.safetensors")
    assert file.stem.endswith("-unfinished") and "unfinished" in report["artifacts"][0]["path"]
    assert (report["stopped_by"], report["steps_done"]) == ("user", 3)
    assert (stopped / "report.html").is_file() and not run_record.is_over(stopped / "report.json")
    assert tsuika.inspect(file).result.kind == "lora"
    state = stopped / "checkpoints" / "step-000003"
    tensors = Files().find(state).read(state).tensors
    assert tensors.keys() == Files().find(file).read(file).tensors.keys()


def test_it_goes_on_to_the_same_files_and_nothing_unfinished_is_left(
    stopped: Path, whole: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    assert tsuika.resume(run).result.stopped_by == "steps"
    assert hashes(run / "artifacts") == hashes(whole / "artifacts")


def test_a_run_in_which_another_process_works_is_left_alone(stopped: Path) -> None:
    before = hashes(stopped)
    with files.locked(RunDir(stopped).lock) as held:
        assert held
        error = refused(lambda: tsuika.resume(stopped).result)
    after = hashes(stopped)
    assert error.code == "RC027" and "process" in str(error)
    assert {**before, ".lock": ""} == {**after, ".lock": ""}


def changed(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        text = (run / file).read_text(encoding="utf-8")
        assert old in text
        (run / file).write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (changed("recipe.toml", "rank = 2", "rank = 3"), "recipe.toml"),
        (changed("recipe.toml", "seed = 0", "seed = 1"), "recipe.toml"),
        (changed("began.json", '"base": "', '"base": "0'), "began.json"),
        (changed("pictures.json", "0.png", "9.png"), "pictures.json"),
    ],
)
def test_what_a_run_stands_on_must_be_what_it_began_with(
    change: Callable[[Path], None], where: str, stopped: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    change(run)
    error = refused(lambda: tsuika.resume(run).result)
    assert (error.code, Path(error.where).name, error.exit_status) == ("TR011", where, 4)


def test_other_weights_under_the_same_name_are_no_base_to_go_on_with(
    stopped: Path, place: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    other = write_folder(shallow(seed=4), tmp_path / "base", old_style=True)
    changed("recipe.toml", str(place / "base"), str(other))(run)
    error = refused(lambda: tsuika.resume(run).result)
    assert (error.code, error.where) == ("TR011", str(other))


def test_a_moved_base_is_the_same_base(stopped: Path, whole: Path, place: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    moved = shutil.copytree(place / "base", tmp_path / "moved")
    changed("recipe.toml", str(place / "base"), str(moved))(run)
    _ = tsuika.resume(run).result
    assert list((run / "artifacts").glob("*.safetensors"))


def test_a_damaged_state_is_passed_over_and_said_and_copies_by_hand_are_none(
    stopped: Path, whole: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    newest = run / "checkpoints" / "step-000003"
    for name in ("step-000002.bak", "step-000004 (copy)", "step-3", "step-x"):
        shutil.copytree(newest, newest.with_name(name))
    data = bytearray((newest / "tensors.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "tensors.safetensors").write_bytes(data)
    told = [event for event in tsuika.resume(run) if isinstance(event, Warned)]
    assert [(one.code, one.params["names"], one.params["step"]) for one in told if one.code == "TR012"] == [
        ("TR012", "step-000003", 2)
    ]
    assert hashes(run / "artifacts") == hashes(whole / "artifacts")


def test_events_that_cannot_be_read_are_said(stopped: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    with (run / "events.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"event": "Stepped", "step": "x"}\nnull\n')
    _ = tsuika.resume(run).result
    assert "TR013" in {one["code"] for one in run_record.read_report(run / "report.json")["warnings"]}


def edited(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [row | {"method": 3}, row | {"artifacts": ["x"]}, row | {"range": 5}, row | {"steps_done": "4"}]


def test_a_report_of_other_types_is_refused(whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    content = json.loads((run / "report.json").read_text(encoding="utf-8"))
    for wrong in [*map(json.dumps, edited(content)), "[]", "{", "[" * 9999]:
        (run / "report.json").write_text(wrong, encoding="utf-8")
        assert refused(lambda: tsuika.inspect(run).result).code == "TR011"
        assert refused(lambda: tsuika.evaluate(run).result).code == "TR011"


@pytest.mark.parametrize("there", [False, True])
def test_what_cannot_begin_leaves_nothing(there: bool, place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    if there:
        run.mkdir()
    error = refused(lambda: tsuika.train(recipe(place, **{"base.model": "nosuch"}), run).result)
    assert error.code == "MD001" and run.exists() == there and not list(tmp_path.glob("run/*"))


def test_of_images_that_cannot_be_used_the_list_is_left_and_the_folder_is_free(place: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_text("no image")
    run = tmp_path / "run"
    error = refused(lambda: tsuika.train(recipe(place, **{"data.images": str(tmp_path / "images")}), run).result)
    assert error.code == "DS002" and [one.name for one in run.iterdir()] == ["pictures.json"]
    RunDir(run).check_free()
    (run / "pictures.json").write_text("{}")
    with pytest.raises(RecipeError):
        RunDir(run).check_free()


@pytest.mark.parametrize("name", ["../../x", "/x", "..", "CON", "a" * 200, "猫" * 70, "a:b"])
def test_a_name_of_a_result_is_a_name(name: str, place: Path) -> None:
    error = refused(lambda: recipe(place, **{"output.name": name}))
    assert (error.code, error.params["key"]) == ("RC002", "output.name")


def test_a_long_folder_gives_a_shorter_name(tmp_path: Path) -> None:
    run = RunDir(tmp_path / ("猫" * 80))
    assert run.result_name("asked") == "asked" and len(run.result_name().encode()) <= 180


def test_a_run_that_is_over_stays_as_it_is(whole: Path, tmp_path: Path) -> None:
    """It was written again for a minute."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    before, times = hashes(run), {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    again = tsuika.resume(run)
    (told,) = list(again)
    assert isinstance(told, Warned) and told.code == "TR038" and str(run / "report.html") in told.message
    assert again.result.artifacts == tsuika.Trained.read(run).artifacts
    assert hashes(run) == before and {path: path.stat().st_mtime_ns for path in run.rglob("*")} == times
    assert "over" in refused(lambda: tsuika.stop(run)).part("do")
    changed("recipe.toml", "steps = 4", "steps = 8")(run)
    assert refused(lambda: tsuika.resume(run).result).code == "TR011"


@pytest.mark.parametrize("lost", ["report.html", "artifacts/result.safetensors"])
def test_what_is_lost_of_a_run_that_is_over_is_written_again(
    lost: str, whole: Path, place: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "whole"))
    (run / lost).unlink()
    if lost == "report.html":
        (run / "report.json").write_text("{", encoding="utf-8")
    _ = tsuika.resume(run).result
    assert (run / lost).is_file() and hashes(run / "artifacts") == hashes(whole / "artifacts")


def test_a_run_whose_recipe_is_empty_is_no_fault_of_ours(whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "recipe.toml").write_text("")
    assert refused(lambda: tsuika.inspect(run).result).code == "TR011"
