"""What the campaign has found, each as small as it can be."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import tomlkit
import torch

sys.path.append(str(Path(__file__).parents[1] / "families"))
from family_files import write_tokenizer

import tsuika
from tsuika import config, formats
from tsuika.core.errors import FormatError, ModelError, RecipeError
from tsuika.core.types import Artifact
from tsuika.core.weights import open_weights
from tsuika.data import image
from tsuika.families import SD1, sources
from tsuika.formats import hypernetwork


@pytest.mark.parametrize("header", [b"{}      ", b'{"__metadata__":{"format":"pt"}}'])
def test_a_safetensors_file_without_tensors_is_said_to_be_one(header: bytes, tmp_path: Path) -> None:
    """It was looked for a prefix that all names have, for ever."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert not open_weights(path).shapes
    with pytest.raises(FormatError) as error:
        formats.find(path)
    assert error.value.code == "MD002"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("merges.txt", b"#version: 0.2\nc\n"),
        ("merges.txt", b"\xff\xfe\x00"),
        ("vocab.json", b"[1, 2]"),
        ("vocab.json", b'{"a": '),
        ("vocab.json", b'{"a": "b"}'),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b"nothing"),
        ("tokenizer_config.json", b'{"model_max_length": "many"}'),
        ("tokenizer_config.json", json.dumps({"pad_token": [1], "unk_token": 3}).encode()),
    ],
)
def test_every_fault_of_a_tokenizer_is_told(file: str, content: bytes, tmp_path: Path) -> None:
    """The library that reads these raises `Exception` itself."""
    folder = write_tokenizer(tmp_path / "tokenizer")
    (folder / file).write_bytes(content)
    with pytest.raises(ModelError) as error:
        sources.find_tokenizer(tmp_path, SD1.towers[0], is_own=True)
    assert error.value.code == "MD003" and str(folder) in error.value.where


@pytest.mark.parametrize("key", ["is_layer_norm", "activate_output", "activation_func", "layer_structure"])
@pytest.mark.parametrize("value", [torch.ones(3), {"a": [1]}, "", [[1]]])
def test_a_hypernetwork_s_settings_of_other_types_are_refused(key: str, value: Any, tmp_path: Path) -> None:
    """`bool` of a tensor is an error of torch's."""
    net = {"linear.0.weight": torch.ones(320, 320), "linear.0.bias": torch.ones(320)}
    torch.save({320: (net, net), "layer_structure": [1, 1], key: value}, tmp_path / "a.pt")
    with pytest.raises(FormatError) as error:
        formats.find(tmp_path / "a.pt").read(tmp_path / "a.pt")
    assert error.value.code == "FM001"


def test_a_hypernetwork_s_header_nested_too_deep_is_refused() -> None:
    names = (
        "layer_structure",
        "activation_func",
        "weight_init",
        "is_layer_norm",
        "dropout_structure",
        "activate_output",
    )
    artifact = Artifact("hypernetwork", "sd1", {}, dict.fromkeys(names, "[" * 100_000))
    with pytest.raises(FormatError) as error:
        hypernetwork._checked(artifact, "a1111")
    assert error.value.code == "FM001"


@pytest.mark.parametrize("value", [torch.ones(3), {"a": [1]}, [[1]], None])
def test_facts_that_are_no_words_are_left_out(value: Any, tmp_path: Path) -> None:
    table = {"string_to_param": {"*": torch.ones(1, 768)}, "step": value, "sd_checkpoint_name": value, "name": value}
    torch.save(table, tmp_path / "a.pt")
    assert not {"steps", "base_name"} & formats.find(tmp_path / "a.pt").read(tmp_path / "a.pt").metadata.keys()


@pytest.mark.parametrize("key", ["network_dim", "learning_rate", "max_train_steps", "max_resolution", "lr_warmup"])
def test_numbers_of_hundreds_of_digits_in_other_programs_settings(key: str, tmp_path: Path) -> None:
    """They are larger than any float."""
    tables = {"LoRA_type": "Standard", "network_dim": 4, "train_data_dir": "images", key: 10**400}
    (tmp_path / "gui.json").write_text(json.dumps(tables), encoding="utf-8")
    recipe = config.load(tmp_path / "gui.json")
    assert any(remark.code == "RC041" for remark in recipe.remarks)


def test_a_result_without_tensors_is_damaged(tmp_path: Path) -> None:
    header = {"__metadata__": {"method": "hypernetwork", "family": "sd1"}}
    raw = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)
    with pytest.raises(FormatError) as error:
        formats.find(path).read(path)
    assert error.value.code == "MD003"


@pytest.mark.parametrize("key", ["method.name", "base.model", "train.steps", "guard.refit", "data.images"])
@pytest.mark.parametrize("how", ["no section", "no setting", "another type"])
def test_the_status_of_a_run_whose_recipe_is_not_whole_is_refused(key: str, how: str, tmp_path: Path) -> None:
    table, _, name = key.partition(".")
    tables = config.read_tables(write_recipe(tmp_path / "recipe.toml"))
    assert tsuika.status(tmp_path).result.steps == tables["train"]["steps"]
    if how == "no section":
        del tables[table]
    elif how == "no setting":
        del tables[table][name]
    else:
        tables[table][name] = [{"a": 1}]
    (tmp_path / "recipe.toml").write_text(tomlkit.dumps(tables), encoding="utf-8")
    with pytest.raises(FormatError) as error:
        _ = tsuika.status(tmp_path).result
    assert error.value.code == "TR011" and key in str(error.value)


def write_recipe(path: Path) -> Path:
    own = {"method.name": "lora", "base.model": "x", "data.images": "x", "data.trigger": "zuzu"}
    path.write_text(config.dump(config.build(config.override({}, own))), encoding="utf-8")
    return path


def test_a_palette_that_is_not_there_is_damage(tmp_path: Path) -> None:
    """Pillow opens and decodes such an image, and stumbles when it is converted."""
    size = struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0)
    chunks = [(b"IHDR", size), (b"IDAT", zlib.compress((b"\x00" + bytes(8)) * 8)), (b"IEND", b"")]
    made = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + made)
    with pytest.raises(image.UnusableError) as error:
        image.read_image(tmp_path / "a.png")
    assert error.value.reason == "damaged"


@pytest.mark.parametrize("text", ["[train]\nsteps = 0x{}", 'network_module = "networks.lora"\nlearning_rate = 0x{}'])
def test_numbers_too_long_to_be_shown(text: str, tmp_path: Path) -> None:
    """Python makes them of hexadecimal digits, and refuses to print them."""
    (tmp_path / "a.toml").write_text(text.format("f" * 5000), encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        config.load(tmp_path / "a.toml")
    assert error.value.code == "RC003"
    assert isinstance(config.parse_assignment(f"train.steps=0x{'f' * 5000}")[1], str)
