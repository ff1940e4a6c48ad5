"""`advise` from pictures to recipes: as a function, and as a command."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import tsuika
from tsuika import config
from tsuika.api import timing
from tsuika.cli.main import app
from tsuika.core.errors import ImageError, RecipeError
from tsuika.core.events import Phase, Stepped
from tsuika.embedded import gadget, mascot


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough for every base."""
    folder = tmp_path_factory.mktemp("pictures")
    for path in mascot.write(folder, gadget.pictures(5)):
        Image.open(path).resize((512, 512), Image.Resampling.LANCZOS).save(path)
    return folder


def test_advice_starts(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = tsuika.advise(pictures, "object", trigger="zoka", out=tmp_path / "advice", measure=False)
    assert [event.name for event in run if isinstance(event, Phase)] == ["pictures", "compare-pictures", "estimate"]
    assert (
        len(run.result.recipe_files) == 3 and run.result.recommendation.toml == run.result.recipe_files[0].read_text()
    )
    assert len(run.result.alternatives) == 2 and run.result.recommendation.method in run._repr_html_()
    found = run.result.to_dict()
    options = [found["recommendation"], *found["alternatives"]]
    assert len({option["method"] for option in options}) == 3 and found["pictures"] == 5
    json.dumps(found)
    for option in options:
        recipe = config.load(Path(option["recipe_file"]))
        assert recipe.method.name == option["method"]
        seen = tsuika.dry_run(recipe, tmp_path / "run").result
        assert seen.pictures == 5 and all("zoka" in caption for caption in seen.captions)


def test_the_time_is_measured_once_a_day(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(timing, "TIMED_STEPS", 1)
    limits = {"trigger": "zoka", "max_file_mb": 0.02}  # a new word is all that fits
    first = tsuika.advise(pictures, "object", **limits).result.to_dict()
    again = tsuika.advise(pictures, "object", **limits).result.to_dict()
    unmeasured = tsuika.advise(pictures, "object", **limits, measure=False).result.to_dict()
    kept = first["recommendation"]
    assert kept["method"] == "textual-inversion" and kept["time_basis"] == "measured" and kept["seconds"] > 0
    assert again["recommendation"]["step_seconds"] == kept["step_seconds"]
    assert date.fromisoformat(kept["measured_on"]) <= date.today() and again["recommendation"]["measured_on"]
    told = unmeasured["recommendation"]
    assert (told["time_basis"], told["seconds"], told["measured_on"]) == ("unknown", None, None)


def test_a_busy_machine_counts_the_processors_time_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 3 s by the clock, of which others had two; the processor's clock is read around every step."""
    clock = iter([10.0, 11.0, 12.0, 13.5])
    monkeypatch.setattr("tsuika.api.timing.time.process_time", lambda: next(clock))
    steps = [Stepped(n, 0.1, 1.0, 1e-4, seconds) for n, seconds in ((1, 3.0), (2, 0.8), (3, 3.0))]
    assert list(timing._spent(iter(steps), on_gpu=False)) == [1.0, 0.8, 1.5]
    monkeypatch.undo()
    assert list(timing._spent(iter(steps), on_gpu=True)) == [3.0, 0.8, 3.0]


def test_what_cannot_be(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="character, style, object, concept"):
        _ = tsuika.advise(pictures, "landscape").result
    with pytest.raises(RecipeError, match="A1111"):
        _ = tsuika.advise(pictures, "style", program="Paint", measure=False).result
    with pytest.raises(RecipeError) as nothing:
        _ = tsuika.advise(pictures, "style", max_file_mb=1e-6, measure=False).result
    assert nothing.value.code == "RC026" and nothing.value.describe("ja")
    with pytest.raises(ImageError):
        _ = tsuika.advise(tmp_path, "style", measure=False).result


def test_on_the_terminal(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arguments = [
        "advise",
        "--images",
        str(pictures),
        "--goal",
        "object",
        "--base",
        "sd1",
        "--vram-gb",
        "8",
        "--no-measure",
    ]
    shown = CliRunner().invoke(app, ["--lang", "ja", *arguments])
    assert shown.exit_code == 0, shown.output
    assert "おすすめ" in shown.stdout
    plain = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(plain.stdout)["limits"]["vram_gb"] == 8
