"""The contributing page does what it says: its method and its format are taken from it, trained with, and used."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import contributing_page
import tsuika
from tsuika import config, formats
from tsuika.cli import screen
from tsuika.cli.main import app
from tsuika.core.errors import FormatError, RecipeError
from tsuika.core.events import Previewed, Stepped
from tsuika.embedded import gadget, mascot
from tsuika.methods import METHODS, find

ADDRESS = "bitfit:METHOD"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page's files, importable, and images to train on."""
    root = tmp_path_factory.mktemp("contributing")
    blocks = contributing_page.files()
    assert blocks.keys() == {"bitfit.py", "ia3.py", "ia3_layers.py", "recipe.toml", "bitfit_npz.py"}
    for name, text in blocks.items():
        (root / name).write_text(text, encoding="utf-8")
    (root / "images").mkdir()
    mascot.write(root / "images", gadget.pictures(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.chdir(root)
        yield root
    for name in ("bitfit", "bitfit_npz", "ia3", "ia3_layers"):
        sys.modules.pop(name, None)


def recipe(place: Path, method: dict[str, Any] | None = None) -> config.Recipe:
    """The page's own, with what keeps a run short; the precision is the default, bf16 on many machines."""
    tables = config.read_tables(place / "recipe.toml")
    tables["method"] = method or tables["method"]
    short = {
        "data.images": str(place / "images"),
        "data.trigger": "daruma",
        "train.steps": 4,
        "train.batch_size": 1,
        "train.device": "cpu",
        "train.checkpoint_every": 2,
        "train.learning_rate": 0.01,
        "guard.mode": "off",
        "preview.steps": 1,
        "preview.num": 1,
        "preview.prompts": ["a daruma in the snow"],
    }
    return config.build(config.override(tables, short))


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """A run that was stopped after two steps and went on."""
    folder, events = place / "run", []
    training = tsuika.train(recipe(place), folder)
    for event in training:
        events.append(event)
        if isinstance(event, Stepped) and event.step == 2:
            training.close()  # type: ignore[attr-defined]
            break
    events += tsuika.resume(folder)
    assert [event.step for event in events if isinstance(event, Stepped)] == [1, 2, 3, 4]
    assert {event.step for event in events if isinstance(event, Previewed)} == {0, 4}
    return folder


def program(*words: str) -> int:
    """The program's exit status."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        screen.run(app, ["--lang", "en", *words])
    except SystemExit as leave:
        return int(leave.code or 0)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


def test_importing_the_descriptions_imports_no_torch(place: Path) -> None:
    import subprocess

    code = "import sys, bitfit, ia3; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=place)


def test_the_address_is_kept(run: Path) -> None:
    assert f'name = "{ADDRESS}"' in (run / "recipe.toml").read_text(encoding="utf-8")
    assert config.load(run / "recipe.toml").method.name == ADDRESS
    assert json.loads((run / "report.json").read_text(encoding="utf-8"))["method"] == ADDRESS
    found = formats.find(run / "artifacts" / "run.safetensors").read(run / "artifacts" / "run.safetensors")
    assert (found.method, found.family) == (ADDRESS, "sd1")


def test_both_files_hold_what_was_trained(run: Path) -> None:
    native, npz = formats.for_method(ADDRESS, find(ADDRESS).formats)
    one, other = native.read(run / "artifacts" / "run.safetensors"), npz.read(run / "artifacts" / "run.npz")
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())
    assert all(".norm" in name or name.endswith(".bias") for name in one.tensors)


def test_inspect_only_says_what_it_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sys.modules.pop("bitfit", None)
    assert program("inspect", str(run / "artifacts" / "run.safetensors"), "--json") == 0
    assert program("inspect", str(run), "--json") == 0
    said = capsys.readouterr().out
    assert said.count(f'"{ADDRESS}"') >= 2
    assert "bitfit" not in sys.modules


@pytest.mark.parametrize(("file", "code"), [("run.safetensors", "FM001"), ("run.npz", "MD003")])
def test_generate(run: Path, tmp_path: Path, file: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    drawn: dict[str, list[int]] = {}
    for strength in ("0", "1"):
        artifact, out = f"{run / 'artifacts' / file}:{strength}", tmp_path / f"{strength}.png"
        words = ["generate", "--prompt", "a daruma", "--steps", "2", "--device", "cpu", "--out", str(out)]
        assert program(*words, "--artifact", artifact, "--method", ADDRESS) == 0
        drawn[strength] = list(Image.open(out).tobytes())
    assert program(*words[:-1], str(tmp_path / "base.png")) == 0
    assert drawn["0"] == list(Image.open(tmp_path / "base.png").tobytes()) != drawn["1"]
    capsys.readouterr()
    assert program(*words[:-1], str(tmp_path / "refused.png"), "--artifact", artifact) == 4
    assert code in capsys.readouterr().err


def test_grid(run: Path, tmp_path: Path) -> None:
    words = ["grid", "--prompt", "a daruma", "--steps", "1", "--device", "cpu", "--out", str(tmp_path / "grid.png")]
    artifact = ["--artifact", str(run / "artifacts" / "run.safetensors"), "--method", ADDRESS]
    assert program(*words, "--x", "step=2,last", "--y", "strength=0,1", *artifact) == 0
    assert (tmp_path / "grid.png").is_file()


def test_evaluate(run: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a {trigger} in the snow\na cat on the beach\n", encoding="utf-8")
    done = tsuika.evaluate(run, own_prompts=prompts, seeds=1, strengths=(0, 1), steps=(2, 4), device="cpu").result
    points: list[dict[str, Any]] = done.to_dict()["points"]
    assert [(one["step"], one["strength"]) for one in points] == [(2, 0), (2, 1), (4, 0), (4, 1)]
    assert all((one["drift"]["mean"] > 0) == (one["strength"] > 0) for one in points)


def test_its_result_can_lie_under_a_run_of_its_own_method_alone(place: Path, run: Path, tmp_path: Path) -> None:
    under = {"base.artifacts": [str(run / "artifacts" / "run.safetensors")], "train.steps": 1, "preview.num": 0}
    plain = {**config.read_tables(run / "recipe.toml"), "method": {"name": "lora", "rank": 1}}
    with pytest.raises(FormatError, match="FM001"):
        list(tsuika.train(config.build(config.override(plain, under)), tmp_path / "lora"))
    same = config.override(config.read_tables(run / "recipe.toml"), under)
    assert list(tsuika.train(config.build(same), tmp_path / "same"))


@pytest.mark.parametrize(
    ("name", "old", "new", "why"),
    [
        ("lacks_attach", "def attach(", "def _attach(", "`lacks_attach` has no function `attach`"),
        ("takes_two", "config: BitFit, generator: torch.Generator", "config: BitFit", "must take 3 arguments"),
        ("text_formats", 'formats=("native", "bitfit_npz:FORMAT")', 'formats="native"', "must be a tuple"),
        ("no_section", "settings=BitFit,", "settings=dict,", "must be a subclass of `MethodSection`"),
        ("no_module", "module=__name__", 'module="bitfit_tensors"', "No module named 'bitfit_tensors'"),
    ],
)
def test_what_a_method_lacks_is_said_when_it_is_found(place: Path, name: str, old: str, new: str, why: str) -> None:
    variant(place, name, old, new)
    with pytest.raises(RecipeError, match="RC002") as caught:
        find(f"{name}:METHOD")
    assert why in caught.value.describe()


def variant(place: Path, name: str, old: str, new: str) -> None:
    """The page's method under another name, with a change."""
    text = (place / "bitfit.py").read_text(encoding="utf-8").replace("bitfit:METHOD", f"{name}:METHOD")
    assert text.count(old) == 1
    (place / f"{name}.py").write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("half", "def artifact(", "def _artifact(", ("RC002", "has no `artifact`")),
        (
            "broken_rates",
            "return [ParamGroup(",
            "return {}['rate'] or [ParamGroup(",
            ("RC043", "`broken_rates` failed: KeyError('rate')", "Tell whoever made it"),
        ),
    ],
)
def test_what_a_method_from_outside_does_wrong_is_no_bug_of_ours(
    place: Path,
    tmp_path: Path,
    name: str,
    old: str,
    new: str,
    said: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    variant(place, name, old, new)
    words = ["train", f"{name}:METHOD", "--images", str(place / "images"), "--trigger", "zuzu", "--out", "run"]
    assert program(*words, "--set", "guard.mode=off", "--set", "preview.num=0", "--device", "cpu") == 2
    told = capsys.readouterr().err
    assert all(part in told for part in said) and "bug of tsuika" not in told
    assert Path("tsuika-error.log").exists() == ("RC043" in told)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere.at.all:METHOD", "cannot be imported"),
        ("broken:METHOD", "SyntaxError"),
        ("bitfit:NOTHING", "has no `NOTHING`"),
        ("bitfit:BitFit", "not Method"),
        ("other:METHOD", "must be its address"),
        ("bitfit", "lora, textual-inversion"),
    ],
)
def test_what_is_no_method_is_refused(place: Path, name: str, why: str) -> None:
    (place / "broken.py").write_text("def", encoding="utf-8")
    (place / "other.py").write_text("from bitfit import METHOD", encoding="utf-8")
    with pytest.raises(RecipeError, match="RC002") as caught:
        config.build({"method": {"name": name}})
    assert why in caught.value.describe()


def test_a_method_without_a_format_is_refused_before_it_starts(place: Path, tmp_path: Path) -> None:
    text = (place / "bitfit.py").read_text(encoding="utf-8").replace("bitfit:METHOD", "formless:METHOD")
    formless, count = re.subn(r"formats=\([^)]*\)", "formats=()", text)
    assert count == 1
    (place / "formless.py").write_text(formless, encoding="utf-8")
    recipe = config.build({"method": {"name": "formless:METHOD"}, "data": {"images": str(place / "images")}})
    with pytest.raises(RecipeError, match="RC002") as caught:
        list(tsuika.train(recipe, tmp_path / "run"))
    assert "No file format" in caught.value.describe()
    assert not (tmp_path / "run").exists()


def test_a_method_that_adds_layers_trains_and_draws(place: Path, tmp_path: Path) -> None:
    run = tsuika.train(recipe(place, {"name": "ia3:METHOD"}), tmp_path / "run")
    list(run)
    (file,) = run.result.artifacts
    words = ["generate", "--prompt", "a daruma", "--steps", "1", "--device", "cpu", "--method", "ia3:METHOD"]
    for strength in ("0", "1"):
        out = ["--artifact", f"{file}:{strength}", "--out", str(tmp_path / f"{strength}.png")]
        assert program(*words, *out) == 0
    assert Image.open(tmp_path / "0.png").tobytes() != Image.open(tmp_path / "1.png").tobytes()


def test_settings_from_outside_are_checked_and_explained(place: Path) -> None:
    with pytest.raises(RecipeError, match=r"method\.norms"):
        config.build({"method": {"name": ADDRESS, "norm": True}})
    assert "Train norms as well as biases" in config.dump(config.build({"method": {"name": ADDRESS}}))
    assert ADDRESS not in METHODS
