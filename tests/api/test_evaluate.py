"""`evaluate` on a run of one step: strength 0 is the base, what was drawn is not drawn again, and refusals are clear."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import tsuika
from tsuika import config
from tsuika.api import evaluating, snapshots
from tsuika.core.errors import ImageError, InterruptedRunError, ModelError, NetworkError, RecipeError, TsuikaError
from tsuika.core.events import Progress, Warned
from tsuika.core.rundir import RunDir
from tsuika.core.types import Artifact
from tsuika.embedded import gadget, mascot
from tsuika.formats.native import Native
from tsuika.generation import pipeline


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two kept steps, its prompts and its pictures; nothing of it is evaluated yet."""
    root = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        (root / "pictures").mkdir()
        mascot.write(root / "pictures", gadget.pictures(3))
        recipe = config.build(
            {
                "data": {"images": str(root / "pictures"), "trigger": "daruma"},
                "guard": {"mode": "off"},
                "method": {"name": "lora", "rank": 1},
                "train": {
                    "steps": 2,
                    "batch_size": 1,
                    "device": "cpu",
                    "precision": "fp32",
                    "checkpoint_every": 1,
                    "learning_rate": 0.01,
                },
                "preview": {"num": 0, "steps": 1},
            }
        )
        for _ in tsuika.train(recipe, root / "run"):
            pass
    (root / "prompts.txt").write_text(
        "a {trigger} in the snow\na {trigger} at night\na cat on the beach\n", encoding="utf-8"
    )
    return root


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it: what is evaluated is written there."""
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path / "run"


def evaluate(run: Path, trained: Path, **options: Any) -> tuple[dict[str, Any], list[Warned]]:
    wanted = {"own_prompts": trained / "prompts.txt", "seeds": 2, "device": "cpu", "precision": "fp32"} | options
    evaluation = tsuika.evaluate(run, **wanted)
    warned = [event for event in evaluation if isinstance(event, Warned)]
    done = evaluation.result
    assert list(done.notes) == warned and "<img" in evaluation._repr_html_()
    return done.to_dict(), warned


def test_strength_nought_is_the_base_and_a_second_time_nothing_is_drawn(
    run: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, warned = evaluate(run, trained, strengths=(0, 1), steps=(1, 2))
    assert not warned and [(one["step"], one["strength"]) for one in found["points"]] == [
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 1),
    ]
    for point in found["points"]:
        moved = point["drift"]["mean"] > 0
        assert moved == (point["strength"] > 0)
        for name in ("fidelity", "adherence", "others", "diversity"):
            change = point[name]["difference"]
            if not moved:
                # Two prompts: no interval.
                assert (change["mean"], change["low"], change["high"]) == (0, None, None)
    text = (run / "evaluation.json").read_text(encoding="utf-8")
    assert json.loads(text) == found and found["verdict"]["sentence"]["ja"]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count('id="evaluation"') == 1 and found["verdict"]["sentence"]["en"].split(".")[0] in page
    assert {path.name for path in (run / "evaluation").glob("*.png")} == {"run.png", "step-000001.png"}

    cells = sorted((run / "evaluation").glob("*/*.png"))
    prompts = sum(map(len, found["prompts"].values()))
    assert len(cells) == prompts * 5 and prompts == 6  # base and four points
    lost = cells[7]
    lost.unlink()  # as if it had been killed there
    drawn: list[str] = []
    sample = pipeline.sample

    def counted(model: Any, text: str, **options: Any) -> Any:
        drawn.append(text)
        return sample(model, text, **options)

    monkeypatch.setattr(pipeline, "sample", counted)
    evaluate(run, trained, strengths=(0, 1), steps=(1, 2))
    assert len(drawn) == 1 and lost.is_file()
    assert (run / "evaluation.json").read_text(encoding="utf-8") == text
    assert (run / "report.html").read_text(encoding="utf-8") == page


def test_closing_it_keeps_what_is_drawn(run: Path, trained: Path) -> None:
    events = tsuika.evaluate(
        run, own_prompts=trained / "prompts.txt", seeds=1, strengths=(1,), device="cpu", precision="fp32"
    )
    for event in events:
        if isinstance(event, Progress) and event.done == 2:
            break
    events.close()
    assert len(list((run / "evaluation").glob("*/*.png"))) == 2 and not (run / "evaluation.json").exists()


def test_a_base_that_nothing_knows_gets_no_invented_numbers(run: Path, trained: Path) -> None:
    """The embedded base by its path is a base like any other."""
    recipe = config.load(run / "recipe.toml")
    base = recipe.base.model_copy(update={"model": str(tsuika.EMBEDDED)})
    (run / "recipe.toml").write_text(config.dump(recipe.model_copy(update={"base": base})), encoding="utf-8")
    found, warned = evaluate(run, trained, strengths=(1,), seeds=1, images=trained / "pictures")
    assert [one.code for one in warned] == ["EV002"] and found["encoder"] is None
    assert "--encoder" in warned[0].words("en") and "--encoder" in warned[0].words("ja")
    for point in (found["base"], *found["points"]):
        assert point["fidelity"] is point["adherence"] is point["others"] is point["drift"] is None
    assert found["verdict"]["grade"] == "unmeasured" and found["notes"][0]["code"] == "EV002"
    with pytest.raises(ModelError) as refused:
        evaluate(run, trained, encoder="embedded")
    assert refused.value.code == "EV001"
    with pytest.raises(NetworkError) as network:
        evaluate(run, trained, encoder="nobody/no-such-encoder")
    assert (network.value.code, network.value.exit_status) == ("NW001", 7)


def test_a_file_is_measured_as_the_run_that_made_it(
    run: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "defaults_of", lambda _model: pipeline.Defaults(2.0, 1, "DDIM"))
    recipe = config.load(run / "recipe.toml")
    plain = recipe.model_copy(update={"preview": recipe.preview.model_copy(update={"steps": 0})})
    (run / "recipe.toml").write_text(config.dump(plain), encoding="utf-8")
    of_run, _warned = evaluate(run, trained, strengths=(1,), steps=(2,), seeds=1)
    file = Path(shutil.copy(run / "artifacts" / "run.safetensors", tmp_path / "got.safetensors"))
    images = trained / "pictures"
    of_file, _warned = evaluate(file, trained, strengths=(1,), seeds=1, base="embedded", images=images)
    (one,), (other,) = of_file["points"], of_run["points"]
    assert {**one, "state": other["state"], "file": other["file"]} == other and one["drift"]["mean"] > 0
    out = tmp_path / "got-evaluation"
    assert json.loads((out / "evaluation.json").read_text(encoding="utf-8")) == of_file
    assert {path.name for path in out.rglob("*.png") if path.parent.name == "evaluation"} == {"got.png"}


def test_a_file_needs_what_it_does_not_say(run: Path, trained: Path, tmp_path: Path) -> None:
    file, images = run / "artifacts" / "run.safetensors", trained / "pictures"
    for given in ({"images": images}, {"base": "embedded"}):
        with pytest.raises(RecipeError) as needed:
            evaluate(file, trained, **given)
        assert needed.value.code == "RC005"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    with pytest.raises(RecipeError) as full:
        evaluate(file, trained, base="embedded", images=images, out=tmp_path / "full")
    assert full.value.code == "RC007"
    for wrong in ({"base": "embedded"}, {"trigger": "x"}, {"out": tmp_path / "out"}):
        with pytest.raises(RecipeError) as own:
            evaluate(run, trained, **wrong)
        assert own.value.code == "RC002"


def test_a_file_does_not_get_the_module_imported_that_it_names(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "stray.py").write_text("raise SystemExit('imported')")
    file, artifact = tmp_path / "a.safetensors", Artifact("stray:METHOD", "sd1", {"unet.x": torch.ones(2)}, {})
    Native("stray:METHOD").write(artifact, file, dtype=torch.float32)
    with pytest.raises(TsuikaError) as refused:
        evaluate(file, trained, base="embedded", images=trained / "pictures", trigger="x")
    assert (refused.value.code, refused.value.exit_status) == ("RC002", 2)


def test_refusals(run: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as step:
        evaluate(run, trained, steps=(7,))
    assert step.value.code == "EV006" and "1, 2" in str(step.value)
    for wrong in ({"seeds": 0}, {"strengths": ()}):
        with pytest.raises(RecipeError):
            evaluate(run, trained, **wrong)
    with pytest.raises(ImageError) as gone:
        evaluate(run, trained, images=tmp_path / "nowhere")
    assert gone.value.code == "DS001"
    with pytest.raises(RecipeError) as other:
        evaluate(tmp_path, trained)
    assert other.value.code == "TR002" and other.value.exit_status == 2
    (run / "report.json").unlink()
    with pytest.raises(InterruptedRunError) as unfinished:
        evaluate(run, trained)
    assert unfinished.value.code == "EV004" and unfinished.value.exit_status == 8


def test_changed_pictures_and_a_missing_page_are_told(run: Path, trained: Path, tmp_path: Path) -> None:
    mascot.write(tmp_path / "others", gadget.pictures(2))
    (run / "report.html").unlink()
    _, warned = evaluate(run, trained, images=tmp_path / "others", strengths=(1,), seeds=1)
    assert [one.code for one in warned] == ["EV007", "EV005"]


@pytest.mark.parametrize(
    ("alarms", "warnings", "doubted"),
    [
        ([], [], False),
        ([("GD004", 40)], [], True),
        # By a guard that warns only; the run went on and got better.
        ([("GD004", 30)], [], False),
        ([("GD006", 40)], ["GD031"], False),
        ([("GD002", 40)], ["GD017"], True),
    ],
)
def test_a_run_whose_guard_saw_no_gain_is_doubted(
    tmp_path: Path, alarms: list[tuple[str, int]], warnings: list[str], doubted: bool
) -> None:
    guard = {
        "curve": [{"step": 20}, {"step": 30}, {"step": 40}],
        "alarms": [{"code": code, "step": step} for code, step in alarms],
    }
    content = {"guard": guard, "warnings": [{"code": code} for code in warnings]}
    (tmp_path / "report.json").write_text(json.dumps(content), encoding="utf-8")
    assert evaluating._doubted(RunDir(tmp_path)) == doubted
    (tmp_path / "report.json").write_text(json.dumps({"guard": None, "warnings": []}), encoding="utf-8")
    assert not evaluating._doubted(RunDir(tmp_path))


def test_a_run_with_several_sets_is_drawn_and_measured_with_every_subject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, drawn in (("pot", gadget.pictures(2)), ("mascots", mascot.pictures(2))):
        (tmp_path / name).mkdir()
        mascot.write(tmp_path / name, drawn)
    sets = [
        {"images": str(tmp_path / "pot"), "trigger": "daruma"},
        {"images": str(tmp_path / "mascots"), "trigger": "tsuipi"},
    ]
    recipe = config.build(
        {
            "data": {"sets": sets, "cache": False},
            "guard": {"mode": "off"},
            "method": {"name": "lora", "rank": 1},
            "train": {"steps": 1, "batch_size": 1, "device": "cpu", "precision": "fp32"},
            "preview": {"num": 1, "steps": 1},
        }
    )
    for _ in tsuika.train(recipe, tmp_path / "run"):
        pass
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert [(one["name"], one["trigger"], one["images"]) for one in report["sets"]] == [
        ("pot", "daruma", 2),
        ("mascots", "tsuipi", 2),
    ]
    shown = {row["prompt"]: row["control"] for row in report["before_after"]}
    assert shown == dict.fromkeys(["a daruma", "a daruma on the beach", "a tsuipi", "a tsuipi on the beach"], False)
    assert tsuika.inspect(tmp_path / "run").result.trigger == "daruma, tsuipi"

    own = tmp_path / "prompts.txt"
    own.write_text("a {trigger} at night\na cat on the beach\n", encoding="utf-8")
    found, _warned = evaluate(tmp_path / "run", tmp_path, own_prompts=own, seeds=1, strengths=(1.0,))
    assert (
        found["prompts"]["subject"] == ["a daruma at night", "a tsuipi at night"]
        and found["trigger"] == "daruma, tsuipi"
    )
    assert [one["name"] for one in found["subjects"]] == ["daruma", "tsuipi"]
    assert all(one["points"][0]["fidelity"]["mean"] for one in found["subjects"])
    # Together they are what was measured of all.
    means = [one["points"][0]["fidelity"]["mean"] for one in found["subjects"]]
    assert sum(means) / 2 == pytest.approx(found["points"][0]["fidelity"]["mean"])
    assert "`tsuipi`" in found["verdict"]["sentence"]["en"]
