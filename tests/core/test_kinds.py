"""What a file is, by its names and first bytes; and that what an error says of it is short and only text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tsuika.core import kinds
from tsuika.core.errors import FormatError, ModelError
from tsuika.core.safetensors import read_header
from tsuika.core.texts import Text, limited
from tsuika.core.weights import open_weights

IN = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("shapes", "name"),
    [
        ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 320)}, "lora"),
        ({"unet.down_blocks.0.attentions.0.proj_in.lora_A.weight": (4, 320)}, "lora"),
        ({"down_blocks.0.attn1.processor.to_q_lora.down.weight": (4, 320)}, "lora"),
        ({"unet:0:up": (320, 4), "unet:0:down": (4, 320)}, "lora"),
        ({"lycoris_down_blocks_0.lokr_w1": (4, 4)}, "lora"),
        ({"base_model.model.down_blocks.0.attn1.to_q.lora_A.default.weight": (4, 320)}, "lora"),
        ({"emb_params": (2, 768)}, "textual-inversion"),
        ({"string_to_param.*": (2, 768)}, "textual-inversion"),
        ({"<cat>": (768,)}, "textual-inversion"),
        ({"768.0.linear.0.weight": (1536, 768)}, "hypernetwork"),
        ({"768.k.linear.0.weight": (1536, 768)}, "hypernetwork"),
        ({"decoder.up.0.block.0.conv1.weight": (4, 4, 3, 3)}, "vae"),
        (
            {
                IN: (320, 4, 3, 3),
                "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.k_proj.bias": (9,),
            },
            "base model",
        ),
        ({"model_ema.diffusion_modelinput_blocks00weight": (320, 4, 3, 3), "cond_stage_model.x": (9,)}, "base model"),
        ({IN: (320, 9, 3, 3), "cond_stage_model.x": (9,)}, "base model"),
        ({IN: (320, 8, 3, 3), "cond_stage_model.x": (9,)}, "other model"),
        ({IN: (320,), "cond_stage_model.x": (9,)}, "base model"),
        ({IN: (320, 4, 3, 3)}, "unet"),
        ({"input_blocks.0.0.weight": (320, 4, 3, 3)}, "unet"),
        ({"double_blocks.0.img_attn.qkv.weight": (3, 3)}, "other model"),
        ({"model.layers.0.self_attn.q_proj.weight": (3, 3)}, "language model"),
        ({"text_model.encoder.layers.0.self_attn.q_proj.weight": (3, 3)}, "text encoder"),
        ({"a": (3,), "b": (3,)}, "unknown"),
    ],
)
def test_a_file_is_known_by_its_tensors(shapes: dict[str, tuple[int, ...]], name: str) -> None:
    assert kinds.of_tensors(shapes).name == name


def test_an_error_says_what_takes_the_file(tmp_path: Path) -> None:
    """Not "use an SD model" for a LoRA where a base is wanted, nor for a base where a LoRA is."""
    lora = kinds.unlike(tmp_path, kinds.LORA)
    assert lora.part("what") == "This is not a base model (SD 1.x, SD 2.x, SDXL or SD 3.x)"
    assert (lora.part("why"), "--lora" in lora.part("do")) == ("Found: a LoRA.", True)
    base = kinds.unlike(tmp_path, kinds.CHECKPOINT, kinds.LORA.title)
    assert (base.part("what"), "--base" in base.part("do")) == ("This is not a LoRA", True)
    flux = kinds.unlike(tmp_path, kinds.of_tensors({"double_blocks.0.x": (1,)}), kinds.LORA.title)
    assert flux.part("do") == "Give a LoRA."


def test_a_name_of_100_kb_makes_a_short_error(tmp_path: Path) -> None:
    name = "x" * 100_000
    save_file({name: torch.ones(2), f"{name}y": torch.ones(2)}, tmp_path / "a.safetensors")
    opened = open_weights(tmp_path / "a.safetensors")
    error = kinds.unlike(opened.path, opened.kind)
    assert len(str(error)) < 2000 and len(error.describe("ja")) < 2000
    nested = Text("a {b}", {"b": Text("c {d}", {"d": name})})
    assert len(str(limited(nested))) < 400


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' + b"[" * 100_000,
        b'{"a":' + b'{"a":' * 100_000,
        json.dumps({"a": ENTRY | {"data_offsets": ["0", "8"]}}).encode(),
        json.dumps({"a": ENTRY | {"data_offsets": "08"}}).encode(),
        json.dumps({"a": ENTRY | {"data_offsets": [0.0, 8.0]}}).encode(),
        json.dumps({"a": ENTRY | {"shape": ["2"]}}).encode(),
        json.dumps({"a": ENTRY | {"shape": "2"}}).encode(),
        json.dumps({"a": ENTRY | {"shape": [True, 2]}}).encode(),
        json.dumps({"a": ENTRY | {"shape": [1] * 5000}}).encode(),
        json.dumps({"a": ENTRY | {"shape": [10**4000] * 1500}}).encode(),
        json.dumps({"a": ENTRY | {"shape": [2**61, 2**61]}}).encode(),
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,' + b"9" * 4000 + b"]}}",
    ],
)
def test_headers_that_are_made_to_fail(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(FormatError) as caught:
        read_header(path)
    assert caught.value.code == "MD003" and len(str(caught.value)) < 2000


def test_a_damaged_header_is_told_with_what_is_wrong_in_it(tmp_path: Path) -> None:
    wrong = {
        "`a` has the unknown number type 'F7'": {"a": ENTRY | {"dtype": "F7"}},
        "`a` has 8 bytes, which does not fit F16 [2]": {"a": ENTRY | {"dtype": "F16"}},
        "`b` begins at byte 4 of the data instead of 8": {"a": ENTRY, "b": ENTRY | {"data_offsets": [4, 12]}},
    }
    for why, table in wrong.items():
        header = json.dumps(table).encode()
        (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        with pytest.raises(FormatError) as caught:
            read_header(tmp_path / "a")
        assert f"tensor {why}" in caught.value.part("why")


def test_what_the_library_refuses_is_damaged(tmp_path: Path) -> None:
    """A number type of four bits: the header is right, and torch has no such numbers."""
    raw = json.dumps({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(1))
    opened = open_weights(path)
    assert opened.dtypes == {"a": "F4"}
    with pytest.raises(ModelError) as caught:
        opened.tensor("a")
    assert caught.value.code == "MD003"
