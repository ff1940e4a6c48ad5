"""A training that is asked, through its folder, for previews and a stop; and what is done with its result."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import tsuika
from tiny_models import draw_pictures, shallow, write_folder
from tsuika import config
from tsuika.api.places import program_at, programs
from tsuika.core.errors import InterruptedRunError, RecipeError
from tsuika.core.events import Event, Previewed, Stepped
from tsuika.core.rundir import RunDir


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was asked for previews after its first step, stopped after its second, and resumed."""
    root = tmp_path_factory.mktemp("asked")
    write_folder(shallow(), root / "base", old_style=True)
    recipe = config.build(
        {
            "base": {"model": str(root / "base")},
            "data": {"images": str(draw_pictures(root / "pictures", 2)), "trigger": "zuzu", "variants": 1},
            "guard": {"mode": "off"},
            "output": {"name": "result"},
            "train": {"steps": 4, "batch_size": 1, "device": "cpu", "precision": "fp32", "warmup": 0},
            "preview": {"num": 1, "steps": 1, "cfg": 1, "prompts": ["a zuzu"]},
        }
    )
    place = root / "run"
    seen: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        with pytest.raises(InterruptedRunError) as stopped:
            for event in tsuika.train(recipe, place):
                seen.append(event)
                if isinstance(event, Stepped):
                    assert tsuika.status(place).result.state == "running"
                    _ = (tsuika.sample if event.step == 1 else tsuika.stop)(place).result
        assert (stopped.value.code, stopped.value.exit_status) == ("TR031", 8)
        steps = [event.step for event in seen if isinstance(event, Stepped)]
        assert steps == [1, 2]
        assert {event.step for event in seen if isinstance(event, Previewed)} == {0, 1}
        status = tsuika.status(place).result
        assert (status.state, status.step) == ("stopped", 2)
        # What a process was asked that was killed before it could answer is no order for the next one.
        RunDir(place).stop_request.parent.mkdir(exist_ok=True)
        RunDir(place).stop_request.touch()
        again = [event.step for event in tsuika.resume(place) if isinstance(event, Stepped)]
        assert again == [3, 4]
    return place


def test_the_status_of_a_finished_run(run: Path) -> None:
    status = tsuika.status(run).result
    assert (status.state, status.stopped_by, status.seconds_left) == ("finished", "steps", None)
    assert sorted({one["step"] for one in status.previews}) == [0, 1, 4]
    assert "artifacts/result.safetensors" in status.artifacts


def made(root: Path, name: str) -> Path:
    """What a program's folder looks like."""
    places = {
        "A1111": ["models/Stable-diffusion", "models/Lora"],
        "Forge": ["models/Stable-diffusion", "models/Lora", "modules_forge"],
        "ComfyUI": ["models/checkpoints", "models/loras"],
    }
    for place in places[name]:
        (root / place).mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ("name", "place"), [("A1111", "models/Lora"), ("Forge", "models/Lora"), ("ComfyUI", "models/loras")]
)
def test_a_result_goes_where_a_program_looks_for_it(run: Path, tmp_path: Path, name: str, place: str) -> None:
    root = made(tmp_path / "stable-diffusion-webui", name)
    assert [one.name for one in programs([tmp_path])] == [name]
    vae = root / ("models/vae" if name == "ComfyUI" else "models/VAE") / "sd15/clear.pt"
    vae.parent.mkdir(parents=True)
    for file in (vae, vae.with_suffix(".txt")):
        file.touch()
    assert [*programs([tmp_path])[0].vaes()] == [vae]
    found = tsuika.export(run, root).result
    assert (found.program, found.file) == (name, root / place / "result.safetensors")
    assert found.file.read_bytes() == (run / "artifacts/result.safetensors").read_bytes()
    assert Image.open(found.file.with_suffix(".png")).format == "PNG"
    card = json.loads(found.file.with_suffix(".json").read_text(encoding="utf-8"))
    assert (card["activation text"], card["sd version"]) == ("zuzu", "SD1")
    use = next(one for one in found.uses if name in one["program"])
    assert "result" in use["how"]["en"]
    (own,) = [one for one in found.uses if one["program"] == "tsuika"]
    assert str(found.file) in shlex.split(own["paste"])
    # Nothing is overwritten, and what is to be typed follows the new name.
    again = tsuika.export(run, root).result
    assert again.file.name == "result-2.safetensors"
    if name != "ComfyUI":
        assert "<lora:result-2:1>" in next(one["paste"] for one in again.uses if name in one["program"])


def test_nothing_but_the_name_changes_in_what_is_told(run: Path, tmp_path: Path) -> None:
    """A name of one letter stands in every word."""
    short, long = (tsuika.export(run, tmp_path, name=name).result for name in ("r", "unlike"))
    for one, other in zip(short.uses, long.uses, strict=True):
        for text, same in ((one["paste"], other["paste"]), (one["how"]["en"], other["how"]["en"])):
            assert re.sub(r"\br\b", "unlike", text) == same


def test_any_folder_will_do_and_a_name_of_ones_own(run: Path, tmp_path: Path) -> None:
    found = tsuika.export(run, tmp_path / "out", name="私の猫").result
    assert (found.program, found.file.name) == ("", "私の猫.safetensors")
    assert tsuika.inspect(found.file).result.kind == "lora"


def test_what_cannot_be_exported(run: Path, tmp_path: Path) -> None:
    for given in ({"which": "best"}, {"which": "safe"}, {"name": "../x"}):
        with pytest.raises(RecipeError) as error:
            _ = tsuika.export(run, tmp_path, **given).result
        assert error.value.code == "RC002"
    with pytest.raises(RecipeError) as none:
        _ = tsuika.export(tmp_path, tmp_path).result
    assert none.value.code == "TR002"
    assert not [*tmp_path.iterdir()]
    (tmp_path / "file").touch()
    for place in ("file", "file/deeper"):
        with pytest.raises(RecipeError) as error:
            _ = tsuika.export(run, tmp_path / place).result
        assert error.value.code == "RC028"


def test_a_folder_that_is_no_programs(tmp_path: Path) -> None:
    assert program_at(tmp_path) is None
    assert program_at(tmp_path / "none") is None
    assert programs([tmp_path / "none"]) == []
