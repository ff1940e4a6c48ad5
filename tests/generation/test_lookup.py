"""Artifacts by the names that prompts call them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tsuika import formats
from tsuika.core.errors import FormatError, ModelError
from tsuika.core.events import Warned
from tsuika.core.types import Artifact
from tsuika.generation.lookup import DEEPEST, Library, saved_steps
from tsuika.generation.prompt import parse


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


class Kinds:
    """Formats that go by a file's suffix and note which files they opened."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.method = ""

    def find(self, path: Path) -> Kinds:
        self.opened.append(path.name)
        if path.suffix == ".bin":
            raise FormatError("FM001", where=path, found="nothing", expected="anything")
        if path.suffix == ".ckpt":
            raise ModelError("MD005", where=path, why="it would run a program")
        self.method = "textual-inversion" if path.suffix == ".pt" else "lora"
        return self

    def read(self, path: Path) -> Artifact:
        raise AssertionError(f"{path} was read whole")


def test_locate(tmp_path: Path) -> None:
    deep = tmp_path / "runs" / "r1" / "artifacts"
    deep.mkdir(parents=True)
    tensors = {"x": torch.zeros(1)}
    save_file(tensors, deep / "ついか犬 v1.0.safetensors")
    save_file(tensors, deep / "0001.safetensors", {"ss_output_name": "mascot"})
    save_file(tensors, tmp_path / "runs" / "same.safetensors")
    save_file(tensors, deep / "same.safetensors")
    (deep / "damaged.safetensors").write_bytes(b"no header")
    (deep / "style.pt").write_bytes(b"")
    library = Library([tmp_path])
    assert library.locate("ついか犬 v1.0").name == "ついか犬 v1.0.safetensors"
    assert library.locate("mascot").name == "0001.safetensors"
    assert library.locate("same").parent.name == "runs", "copies of one file are one file"
    with pytest.raises(ModelError) as error:
        library.locate("mascott")
    assert error.value.code == "MD006"

    tags = parse("<lora:mascot:0.8> <lora:same:0.2:0.4> <hypernet:style:0.6>").tags
    one, two, three = library.tagged(tags, formats)
    assert (one.path.name, one.strength, one.text_strength, one.method) == ("0001.safetensors", 0.8, None, "lora")
    assert (two.strength, two.text_strength) == (0.4, 0.2)
    assert (three.path.name, three.strength, three.text_strength) == ("style.pt", 0.6, None)
    assert three.method == "hypernetwork"


def test_a_file_of_another_method_that_has_the_name_is_passed_over(tmp_path: Path) -> None:
    lora = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"
    for folder, key in (("a", "emb_params"), ("b", lora)):
        (tmp_path / folder).mkdir()
        save_file({key: torch.zeros(1, 768)}, tmp_path / folder / "hero.safetensors")
    (wanted,) = Library([tmp_path]).tagged(parse("<lora:hero:1>").tags, formats)
    assert wanted.path.parent.name == "b"
    (wanted,) = Library([tmp_path]).tagged(parse("<hypernet:hero:1>").tags, formats)
    assert wanted.path.parent.name == "a"  # none is one: the first is named when it is refused
    (tmp_path / "c").mkdir()
    save_file({lora: torch.ones(1, 768)}, tmp_path / "c" / "hero.safetensors")
    with pytest.raises(ModelError) as error:
        Library([tmp_path]).tagged(parse("<lora:hero:1>").tags, formats)
    text = error.value.describe("en")
    assert error.value.code == "MD021" and str(Path("b", "hero.")) in text and str(Path("c", "hero.")) in text


def test_locate_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        Library([tmp_path, tmp_path / "runs"]).locate("x")
    assert "x" in error.value.describe("ja") and error.value.part("do").startswith("Check the name")


def test_safetensors_come_before_pickles_and_hidden_or_very_deep_files_never(tmp_path: Path) -> None:
    touch(tmp_path / "a.pt")
    touch(tmp_path / "a.safetensors")
    touch(tmp_path / ".trash" / "b.pt")
    touch(tmp_path.joinpath(*"1" * (DEEPEST + 1), "c.pt"))
    kept = touch(tmp_path.joinpath(*"1" * DEEPEST, "d.pt"))
    assert [path.name for path in Library([tmp_path]).files] == ["a.safetensors", "a.pt", kept.name]


def test_only_the_current_folder_and_results_of_runs_are_searched_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here, result = touch(Path("here.pt")), touch(Path("runs/mine/artifacts/result.pt"))
    for other in ("old/word.pt", "runs/loose.pt", "runs/mine/guard/kept/step-000040.safetensors", "runs/a/b/c.pt"):
        touch(Path(other))
    touch(Path("runs/mine/artifacts/folder/part.safetensors"))
    assert Library.of(None).files == [here, result]
    touch(Path("runs/mine/recipe.toml"))
    assert "step-000040.safetensors" not in {path.name for path in Library.of(Path("runs")).files}
    assert {"loose.pt", "result.pt", "c.pt"} <= {path.name for path in Library.of(Path("runs")).files}


@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_a_word_that_two_different_files_have_is_an_error_that_lists_both(
    tmp_path: Path, case: Callable[[str], str]
) -> None:
    for folder, content in (("a", b"1"), ("b", b"2")):
        touch(tmp_path / folder / "teapot.pt").write_bytes(content)
        touch(tmp_path / folder / "teapot.bin").write_bytes(content)
    with pytest.raises(ModelError) as error:
        Library([tmp_path]).embeddings([case("a teapot")], Kinds())
    assert error.value.code == "MD021"
    assert all(str(Path(folder, "teapot")) in error.value.describe("en") for folder in "ab")
    (tmp_path / "b" / "teapot.pt").write_bytes(b"1")
    (found,) = Library([tmp_path]).embeddings([case("a teapot")], Kinds())
    assert found.path == tmp_path / "a" / "teapot.pt"


def test_a_bare_word_finds_an_embedding_and_opens_nothing_else(tmp_path: Path) -> None:
    for name in ("Tsuipi.pt", "cat.safetensors", "ca.pt", "blue.pt", "ついか犬.pt", "dog.bin", "in.pt"):
        touch(tmp_path / name)
    kinds, told = Kinds(), []
    found = Library([tmp_path]).embeddings(
        ["a cat and TSUIPI, ついか犬がいる with a dog", "IN-between"], kinds, given=["in"], warn=told.append
    )
    assert {(one.called, one.path.name, one.method) for one in found} == {
        ("Tsuipi", "Tsuipi.pt", "textual-inversion"),
        ("ついか犬", "ついか犬.pt", "textual-inversion"),
    }
    assert set(kinds.opened) == {"Tsuipi.pt", "ついか犬.pt", "cat.safetensors", "dog.bin"}
    assert told == []


def test_a_refused_file_of_that_name_is_told(tmp_path: Path) -> None:
    touch(tmp_path / "evil.ckpt")
    told: list[Warned] = []
    assert Library([tmp_path]).embeddings(["evil eye"], Kinds(), warn=told.append) == []
    assert [warned.code for warned in told] == ["GN006"]
    assert "evil.ckpt" in told[0].message
    assert "evil.ckpt は使いません" in told[0].words("ja")


def test_saved_steps(tmp_path: Path) -> None:
    for name in (
        "m.safetensors",
        "m-000500.safetensors",
        "m-step00000900.safetensors",
        "m2-000500.safetensors",
        "m-000100.pt",
    ):
        touch(tmp_path / name)
    expected = {500: "m-000500.safetensors", 900: "m-step00000900.safetensors", None: "m.safetensors"}
    for name in expected.values():
        found = saved_steps(tmp_path / name)
        assert {step: path.name for step, path in found.items()} == expected
        assert list(found) == [500, 900, None]
    result = touch(tmp_path / "run" / "artifacts" / "m.safetensors")
    (tmp_path / "run" / "checkpoints" / "step-000120").mkdir(parents=True)
    assert [(step, path.name) for step, path in saved_steps(result).items()] == [
        (120, "step-000120"),
        (None, result.name),
    ]


def test_links_to_nothing_and_pipes_of_the_name_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "kuma.safetensors").symlink_to(tmp_path / "nowhere.safetensors")
    os.mkfifo(tmp_path / "bear.safetensors")
    assert Library([tmp_path]).files == []
    assert Library([tmp_path]).embeddings(["a kuma and a bear"], Kinds()) == []


def test_a_word_that_is_asked_for_by_name_must_be_there(tmp_path: Path) -> None:
    touch(tmp_path / "cat.safetensors")  # a LoRA of the same name
    touch(tmp_path / "sub" / "cat.pt")
    library = Library([tmp_path])
    request = library.embedding("cat", Kinds())
    assert (request.path, request.method) == (tmp_path / "sub" / "cat.pt", "textual-inversion")
    with pytest.raises(ModelError, match="MD006"):
        library.embedding("dog", Kinds())
