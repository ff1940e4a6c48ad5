"""`generate` and `grid` on the embedded base, at two steps a picture."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tsuika
from tsuika import CellDrawn, Drawing, SheetWritten, formats
from tsuika.api import drawing as drawing_module
from tsuika.core.errors import FormatError, ModelError, RecipeError, TsuikaError
from tsuika.core.rundir import RunDir
from tsuika.generation.png_info import read as read_png
from tsuika.methods import METHODS
from tsuika.methods.lora import Lora
from tsuika.methods.textual_inversion import TextualInversion
from tsuika.training import checkpoint
from tsuika.training.checkpoint import State

A_CAT = Drawing("a red cat", steps=2, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA and an embedding of the embedded base, with random weights."""
    model, folder = tsuika.load(device="cpu"), tmp_path_factory.mktemp("artifacts")
    words = TextualInversion(words=("tsuipi",), vectors=2, init="noise")
    for name, method, config in (("style", "lora", Lora(rank=2)), ("ついぴ", "textual-inversion", words)):
        attachment = METHODS[method].attach(model, config, torch.Generator().manual_seed(0))
        for tensor in attachment.tensors().values():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
        kind = formats.for_method(method)[0]
        kind.write(attachment.artifact(), folder / f"{name}{kind.suffix}", dtype=torch.float32)
        attachment.detach()
    return folder


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The bases that are loaded."""
    seen: list[str] = []
    real = drawing_module.load

    def load(base: str, **options: Any) -> Any:
        seen.append(base)
        return real(base, **options)

    monkeypatch.setattr(drawing_module, "load", load)
    return seen


def pixels(path: str | Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as picture:
        return np.asarray(picture)


def drawn(*arguments: Any, **options: Any) -> dict[str, Any]:
    return tsuika.generate(*arguments, **options).result.to_dict()


def test_generate_tells_what_it_stacked(folder: Path, tmp_path: Path) -> None:
    asked = Drawing("a ついぴ cat <lora:style:0.5>", artifacts=folder, steps=2, device="cpu")
    done = drawn(asked, tmp_path / "cat.png")
    json.dumps(done, default=str)
    assert [(Path(row["file"]).stem, row["method"], row["strength"]) for row in done["artifacts"]] == [
        ("style", "lora", 0.5),
        ("ついぴ", "textual-inversion", 1.0),
    ]
    assert all(row["matched"] and not row["unmatched"] for row in done["artifacts"])
    assert done["refused"] == done["conflicts"] == ()
    info, own = read_png(tmp_path / "cat.png")
    assert info is not None
    assert info.prompt == asked.prompt
    assert info.ti_hashes == {"ついぴ": done["artifacts"][1]["sha256"][:10]}
    assert info.lora_hashes.keys() == {"style"}
    assert [row["file"] for row in own["artifacts"]] == ["style.safetensors", "ついぴ.safetensors"]
    assert str(folder) not in (tmp_path / "cat.png").read_bytes().decode("latin-1")

    base = drawn(Drawing("a ついぴ cat", artifacts=tmp_path, steps=2, device="cpu"), tmp_path / "base.png")
    off = drawn(
        Drawing(
            "a ついぴ cat",
            lora=(f"{folder / 'style.safetensors'}:0",),
            embedding=(f"{folder / 'ついぴ.safetensors'}:0",),
            artifacts=tmp_path,
            steps=2,
            device="cpu",
        ),
        tmp_path / "off.png",
    )
    assert (pixels(base["pictures"][0]) == pixels(off["pictures"][0])).all()
    assert (pixels(base["pictures"][0]) != pixels(done["pictures"][0])).any()


def test_every_cell_is_the_picture_that_generate_draws(folder: Path, tmp_path: Path, loads: list[str]) -> None:
    style = folder / "style.safetensors"
    events = list(
        tsuika.grid(A_CAT, tmp_path / "sheet", x="strength=0,1", y=f"artifact={style},{style}:0.5", z="prompt=red,blue")
    )
    assert loads == ["embedded"]
    cells = {event.place: event for event in events if isinstance(event, CellDrawn)}
    assert len(cells) == 8
    assert [cells[place].done for place in sorted(cells, key=lambda place: cells[place].done)] == list(range(1, 9))
    assert cells[1, 0, 1].labels == ("strength 1", "style", "blue")
    assert (pixels(cells[0, 0, 0].path) == pixels(cells[0, 1, 0].path)).all()  # the base, twice
    alone = drawn(
        Drawing("a blue cat", lora=(str(style),), steps=2, device="cpu", artifacts=tmp_path), tmp_path / "alone.png"
    )
    assert (pixels(cells[1, 1, 1].path) == pixels(alone["pictures"][0])).all()
    info, own = read_png(Path(cells[1, 1, 1].path))
    assert info is not None
    assert info.prompt == "a blue cat <lora:style:1>"  # the strength that was drawn
    assert own["artifacts"][0]["strength"] == 1.0

    assert isinstance(events[-1], SheetWritten)
    assert (events[-1].done, events[-1].total) == (8, 8)
    info, own = read_png(tmp_path / "sheet" / "grid.png")
    assert info is not None
    assert info.extra["X Type"] == "strength"
    assert info.extra["Y Values"] == f"{style}, {style}:0.5"
    assert [cell["place"] for cell in own["cells"]] == [list(place) for place in sorted(cells)]


def test_none_stands_beside_an_artifact_at_its_strengths(folder: Path, tmp_path: Path) -> None:
    style = folder / "style.safetensors"
    events = tsuika.grid(A_CAT, tmp_path / "sheet", x="strength:style=0,1", y=f"artifact=none,{style}")
    cells = {event.place: pixels(event.path) for event in events if isinstance(event, CellDrawn)}
    assert (cells[0, 0] == cells[1, 0]).all()
    assert (cells[0, 0] == cells[0, 1]).all()
    assert (cells[0, 0] != cells[1, 1]).any()


def test_what_is_done_when_it_is_stopped_is_on_the_sheet(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    events = tsuika.grid(A_CAT, sheet, x="seed=1-3", y="cfg=1,2")
    first = next(event for event in events if isinstance(event, CellDrawn))
    assert not sheet.exists()
    events.close()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == [sheet]
    assert first.path == ""
    _, own = read_png(sheet)
    assert [cell["place"] for cell in own["cells"]] == [[0, 0]]
    white = (pixels(sheet) == 255).all(axis=-1).mean()
    assert 5 / 6 * 0.7 < white < 1  # five of six places are empty


def test_a_run_step_by_step(tmp_path: Path) -> None:
    run, model = RunDir(tmp_path / "run").create(), tsuika.load(device="cpu")
    attachment = METHODS["lora"].attach(model, Lora(rank=2), torch.Generator().manual_seed(0))
    kohya = formats.for_method("lora")[0]
    for step, file in ((5, tmp_path / "five.safetensors"), (9, run.artifacts / "run.safetensors")):
        for tensor in attachment.tensors().values():
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(step)))
        kohya.write(attachment.artifact(), file, dtype=torch.float32)
        checkpoint.save(run.checkpoints, State(step, attachment.tensors(), {"param_groups": [], "state": {}}))
    drawing = replace(A_CAT, lora=(f"{run.artifacts / 'run.safetensors'}:0.5",))
    cells = [event for event in tsuika.grid(drawing, tmp_path / "sheet", x="step=all") if isinstance(event, CellDrawn)]
    assert [cell.labels for cell in cells] == [("step 5",), ("step 9",), ("step last",)]
    five = drawn(replace(A_CAT, lora=(f"{tmp_path / 'five.safetensors'}:0.5",)), tmp_path / "five.png")
    assert (pixels(cells[0].path) == pixels(five["pictures"][0])).all()
    assert (pixels(cells[1].path) == pixels(cells[2].path)).all()
    assert (pixels(cells[0].path) != pixels(cells[1].path)).any()

    for steps, x, y in (("5", "step", "strength:run"), ("5,last", "strength:run", "step")):
        values = {"step": steps, "strength:run": "0.5"}
        whole = replace(A_CAT, lora=(str(run.artifacts / "run.safetensors"),))
        events = list(tsuika.grid(whole, tmp_path / steps, x=f"{x}={values[x]}", y=f"{y}={values[y]}"))
        first = next(event for event in events if isinstance(event, CellDrawn) and event.place == (0, 0))
        assert (pixels(first.path) == pixels(five["pictures"][0])).all()

    (run.checkpoints / "step-000005" / "tensors.safetensors").write_bytes(b"")
    with pytest.raises(FormatError) as error:
        list(tsuika.grid(drawing, tmp_path / "again", x="step=5"))
    assert error.value.code == "TR011"


def test_vaes_are_kept_and_change_the_pixels_only(tmp_path: Path, loads: list[str]) -> None:
    model = tsuika.load(device="cpu")
    with torch.no_grad():
        model.vae.get_parameter("decoder.conv_out.bias").add_(0.2)
    model.vae.save_pretrained(tmp_path / "bright")  # type: ignore[operator]
    events = tsuika.grid(A_CAT, tmp_path / "sheet", x=f"vae=builtin,{tmp_path / 'bright'}", y="seed=1,2")
    cells = {event.place: pixels(event.path).mean() for event in events if isinstance(event, CellDrawn)}
    assert loads == ["embedded"]
    for row in (0, 1):
        assert cells[1, row] > cells[0, row]


def test_what_cannot_be_is_said_before_anything_is_drawn(tmp_path: Path, loads: list[str]) -> None:
    for x in ("seed=x", "prompt=green,blue", "step=1", "nothing=1", "sampler=Euler,Eulr", "strength=0,1"):
        with pytest.raises(RecipeError):
            list(tsuika.grid(A_CAT, tmp_path / "sheet", x=x))
    with pytest.raises(ModelError):
        list(tsuika.grid(A_CAT, tmp_path / "sheet", x="prompt=red,<lora:nowhere:1>"))
    assert loads == []
    with pytest.raises(ModelError):
        drawn(Drawing("x <lora:nowhere:1>", artifacts=tmp_path), tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_a_folders_pictures_are_written_as_they_are_drawn_and_none_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seeds = drawing_module.pipeline.sample, list[int]()

    def sample(*arguments: Any, **options: Any) -> Any:
        if options["seed"] > 4:
            raise KeyboardInterrupt
        seeds.append(options["seed"])
        return real(*arguments, **options)

    monkeypatch.setattr(drawing_module.pipeline, "sample", sample)
    one_step = replace(A_CAT, steps=1)
    for num in (1, 6):
        with contextlib.suppress(KeyboardInterrupt):
            drawn(replace(one_step, seed=1), tmp_path / "many", num=num)
    assert seeds == [1, 1]
    names = ["00001-2.png", "00001.png", *(f"{seed:05d}.png" for seed in (2, 3, 4))]
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == names
    alone, among = (pixels(tmp_path / "many" / name).astype(int) for name in names[1::-1])
    assert abs(alone - among).max() <= 2  # batched kernels round otherwise

    file = tmp_path / "many/00002.png"
    assert drawn(one_step, file, overwrite=True)["pictures"] == [str(file)]
    with pytest.raises(RecipeError, match="RC007"):
        drawn(one_step, file)


def test_a_file_of_prompts_is_drawn_line_by_line(tmp_path: Path, loads: list[str]) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a red cat --d 3\n# no\na dog --n a cat --w 64 --h 128 --s 1 --l 1\n", encoding="utf-8")
    out = tmp_path / "out"
    done = drawn(replace(A_CAT, prompt=""), out, prompts=file)
    assert [Path(one).name for one in done["pictures"]] == ["00-00003.png", "01-00000.png"] and len(loads) == 1
    alone = drawn(replace(A_CAT, seed=3), tmp_path / "alone.png")
    assert (pixels(done["pictures"][0]) == pixels(alone["pictures"][0])).all()
    assert pixels(done["pictures"][1]).shape == (128, 64, 3)
    info, _own = read_png(Path(done["pictures"][1]))
    assert info is not None and (info.prompt, info.negative, info.steps, info.cfg) == ("a dog", "a cat", 1, 1.0)
    file.write_text("a cat --ar 3", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"--ar 3.*--n"):
        drawn(A_CAT, tmp_path / "other", prompts=file)


def test_numbers_and_places_that_cannot_be_load_nothing(tmp_path: Path, loads: list[str]) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("mine")
    for change in ({"seed": -1}, {"seed": 2**64}, {"steps": 0}, {"steps": 1001}, {"cfg": math.nan}):
        with pytest.raises(RecipeError, match=r"RC002|RC015"):
            replace(A_CAT, **change)  # type: ignore[arg-type]
    for drawing, out, num in (
        (A_CAT, text, 1),
        (A_CAT, text / "x.png", 1),
        (A_CAT, tmp_path, 0),
        (replace(A_CAT, seed=2**64 - 1), tmp_path, 2),
        (replace(A_CAT, lora=("style.safetensors:nan",)), tmp_path, 1),
    ):
        with pytest.raises(RecipeError, match=r"RC002|RC028"):
            drawn(drawing, out, num=num)
    for out, x in ((text, "seed=1,2"), (tmp_path, "seed=-1,2"), (tmp_path, "steps=1,1001")):
        with pytest.raises(RecipeError, match=r"RC002|RC028"):
            list(tsuika.grid(A_CAT, out, x=x))
    assert loads == []
    assert list(tmp_path.iterdir()) == [text]


def test_an_axis_that_another_would_undo_is_refused(tmp_path: Path) -> None:
    """The sheet was labelled with seeds that were not drawn."""
    with pytest.raises(RecipeError, match="RC002"):
        _ = tsuika.grid(A_CAT, tmp_path / "a.png", x="seed=1,2", y="seed=3,4").result
    with pytest.raises(RecipeError, match="RC002"):
        _ = tsuika.grid(A_CAT, tmp_path / "a.png", x="").result
    two = tsuika.grid(A_CAT, tmp_path / "a.png", x="prompt=red,blue", y="prompt=cat,dog").result
    assert len(two.cells) == 4


def test_a_tag_that_does_nothing_is_said(folder: Path, tmp_path: Path) -> None:
    for number, (prompt, negative) in enumerate([("a cat", "<lora:style:1>"), ("a cat <lora:style:1", "")]):
        drawing = replace(A_CAT, prompt=prompt, negative=negative, artifacts=folder)
        drawn = tsuika.generate(drawing, tmp_path / f"{number}.png").result
        assert not drawn.combination.artifacts and [one.code for one in drawn.notes] == ["GN003"]
    with pytest.raises(FormatError, match="FM004"):
        _ = tsuika.generate(A_CAT, tmp_path / "a.png", artifacts=tmp_path / "nosuch").result


@pytest.mark.parametrize(
    ("axis", "code"), [("artifact=none,{}", "FM004"), ("base=embedded,{}", "MD001"), ("vae=builtin,{}", "MD009")]
)
def test_every_file_of_an_axis_is_looked_for_before_the_first_image(
    axis: str, code: str, tmp_path: Path, loads: list[str]
) -> None:
    gone = tmp_path / "gone.safetensors"
    with pytest.raises(TsuikaError) as missing:
        _ = tsuika.grid(A_CAT, tmp_path / "out.png", x=axis.format(gone)).result
    assert (missing.value.code, missing.value.where) == (code, str(gone))
    assert not loads and not (tmp_path / "out.png").exists()
