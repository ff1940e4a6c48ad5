"""Results of the calls: a run each, events on the way, a typed result, and its JSON as the command line prints it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import tsuika
from tsuika.api.files import ArtifactInfo, BaseModelInfo, RunInfo, VaeInfo
from tsuika.api.machine import LIBRARIES, MachineInfo
from tsuika.api.run import JsonResult, starts
from tsuika.cli import progress
from tsuika.cli.main import app
from tsuika.core.errors import ModelError
from tsuika.core.events import Phase, Progress, Warned, drained, note
from tsuika.data.check_report import Report

# What scripts may rely on in each command's `--json`.
WRITTEN = {"out", "format", "dtype", "sha256", "layers", "largest_relative_error"}


@dataclass(frozen=True, kw_only=True)
class Base(JsonResult):
    size: int
    notes: tuple[Warned, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Made(Base):
    source: str = field(metadata={"json": "from"})
    rank: int | None = None
    details: dict[str, int] = field(metadata={"flat": True})


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """A LoRA for one layer of the embedded base, in kohya's names."""
    path = tmp_path / "a.safetensors"
    layer = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    weights = {
        "lora_down.weight": torch.randn(2, 64),
        "lora_up.weight": torch.randn(256, 2),
        "alpha": torch.tensor(2.0),
    }
    save_file({f"{layer}.{name}": tensor for name, tensor in weights.items()}, path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        Image.linear_gradient("L").rotate(90 * number).convert("RGB").save(folder / f"{number}.png")
    return folder


def test_own_fields_come_first_and_none_is_left_out() -> None:
    made = Made(size=3, source="kohya", details={"layers": 4})
    assert list(made.to_dict().items()) == [("from", "kohya"), ("layers", 4), ("size", 3), ("notes", ())]


def test_the_result_of_a_generator_of_events() -> None:
    def work():
        yield Phase("count")
        return 3

    assert drained(work()) == 3


def test_file_tools_tell_their_phases(lora: Path, tmp_path: Path) -> None:
    calls: dict[str, Callable[[], Any]] = {
        "convert": lambda: tsuika.convert(lora, "diffusers", tmp_path / "folder"),
        "merge": lambda: tsuika.merge([f"{lora}:0.5"], tmp_path / "merged.safetensors"),
        "resize": lambda: tsuika.resize(lora, tmp_path / "small.safetensors", rank=1),
    }
    keys = {
        "convert": {"kind", "family", "from", "notes"},
        "merge": {"merged", "rank", "error_of_rank"},
        "resize": {"from", "ranks", "error_of_rank", "errors"},
    }
    for name, call in calls.items():
        run = call()
        assert not run.done
        assert [event.name for event in run] == ["write"]
        assert run.result.out.exists() and run.result.layers == 1
        assert run.result.to_dict().keys() == WRITTEN | keys[name]
        assert "largest_relative_error" in run._repr_html_()
    with pytest.raises(ModelError):
        _ = tsuika.extract("embedded", str(tmp_path / "nowhere"), tmp_path / "x.safetensors").result


def test_notes_are_events_and_stand_in_the_result(tmp_path: Path) -> None:
    vae = tmp_path / "vae.safetensors"
    _ = tsuika.convert(tsuika.EMBEDDED / "vae", "single-file", vae).result
    run = tsuika.convert(vae, "diffusers", tmp_path / "folder")
    notes = [event for event in run if isinstance(event, Warned)]
    assert [one.code for one in notes] == ["FM009"] and run.result.notes == tuple(notes)


def test_inspect_and_doctor_are_done_at_once(lora: Path, tmp_path: Path) -> None:
    told = tsuika.inspect(lora)
    assert told.done and list(told) == [] and isinstance(told.result, ArtifactInfo)
    assert told.result.to_dict()["rank"] == {"2": 1} and told.result.kind == "lora"
    assert isinstance(tsuika.inspect(tsuika.EMBEDDED).result, BaseModelInfo)
    assert isinstance(tsuika.inspect(tsuika.EMBEDDED / "vae").result, VaeInfo)
    with pytest.raises(ModelError):
        tsuika.inspect(tmp_path / "nowhere")
    machine = tsuika.doctor()
    assert isinstance(machine.result, MachineInfo) and machine.result.embedded_base
    assert tuple(machine.result.to_dict()["libraries"]) == LIBRARIES


def test_a_run_folder_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(
        '[method]\nname = "lora"\n[base]\nmodel = "embedded"\n[data]\nimages = "i"\ntrigger = "x"\n'
        "[train]\nsteps = 9\n[guard]\nrefit = true\n"
    )
    told = tsuika.inspect(tmp_path).result
    assert told == RunInfo(
        kind="run",
        method="lora",
        base="embedded",
        trigger="x",
        finished=False,
        stopped_by="",
        steps_done=0,
        artifacts=(),
    )


def test_checking_has_progress_and_its_parts_are_runs(images: Path, tmp_path: Path) -> None:
    run = tsuika.check(images)
    events = list(run)
    assert [event.name for event in events if isinstance(event, Phase)] == ["pictures", "compare-pictures"]
    counts = [event.done for event in events if isinstance(event, Progress) and event.phase == "pictures"]
    assert counts == [1, 2, 3]
    assert isinstance(run.result, Report)
    assert tsuika.clean(run.result, tmp_path / "list.tsv").result.out.is_file()
    assert tsuika.contact_sheet(run.result, tmp_path / "page.html").result == tmp_path / "page.html"


def test_a_check_that_is_closed_stops(images: Path) -> None:
    run = tsuika.check(images)
    next(run)
    next(run)
    run.close()
    assert list(run) == [] and not run.done


def test_notes_are_said_once_and_stand_in_the_json(tmp_path: Path) -> None:
    vae = tmp_path / "vae.safetensors"
    _ = tsuika.convert(tsuika.EMBEDDED / "vae", "single-file", vae).result
    words = ["convert", str(vae), "--to", "diffusers", "--out"]
    people = CliRunner().invoke(app, [*words, str(tmp_path / "one")])
    assert people.exit_code == 0 and people.stderr.count("FM009") == 1 and "FM009" not in people.stdout
    machine = CliRunner().invoke(app, [*words, str(tmp_path / "two"), "--json"])
    assert [one["code"] for one in json.loads(machine.stdout)["notes"]] == ["FM009"]


def test_phases_and_progress_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    @starts
    def work():
        yield Phase("merge")
        for done in range(20):
            yield Progress("merge", done + 1, 20)
        yield note("FM009")
        return 7

    assert progress.watch(work()) == 7
    told = capsys.readouterr().err
    assert "Merging the weights" in told and "FM009" in told
    assert "/20" not in told
