"""Files of other programs, in all spellings; and files that are not what they say."""

from __future__ import annotations

import json
import pickle

import lora_samples as samples
import pytest
import torch
from safetensors.torch import save_file

from tsuika.core.errors import FormatError, ModelError
from tsuika.core.safetensors import read_header
from tsuika.formats import find, for_method
from tsuika.formats.kohya_lora import KohyaLora
from tsuika.formats.peft_lora import PeftLora

DOWN, UP = torch.ones(4, 768), torch.ones(8, 4)
TO_K = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
Q_PROJ = "text_model.encoder.layers.0.self_attn.q_proj"


def kohya(*names: str, width: int = 768) -> dict[str, torch.Tensor]:
    return {
        f"{n}.{p}": t
        for n in names
        for p, t in (("lora_down.weight", torch.ones(4, width)), ("lora_up.weight", UP.clone()))
    }


def parts(names: str) -> dict[str, torch.Tensor]:
    return {f"lora_unet_mid_block_resnets_0_conv1.{name}": torch.ones(4, 4) for name in names.split()}


@pytest.mark.parametrize(
    ("name", "width", "family", "layer"),
    [
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", 768, "sd1", f"unet.{TO_K}"),
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", 1024, "sd2", f"unet.{TO_K}"),
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", 2048, "sdxl", f"unet.{TO_K}"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048, "sdxl", f"unet.{TO_K}"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 768, "sd1", f"unet.{TO_K}"),
        ("lora_te_text_model_encoder_layers_0_self_attn_q_proj", 1024, "sd2", f"text_encoder.{Q_PROJ}"),
        ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", 768, "sd1", f"text_encoder.{Q_PROJ}"),
        ("lora_te_encoder_layers_0_self_attn_q_proj", 768, "sd1", f"text_encoder.{Q_PROJ}"),
        ("lora_te2_text_model_encoder_layers_0_self_attn_q_proj", 1280, "sdxl", f"text_encoder_2.{Q_PROJ}"),
    ],
)
def test_every_kohya_spelling_is_read(name: str, width: int, family: str, layer: str, tmp_path) -> None:
    save_file(kohya(name, width=width), tmp_path / "a.safetensors")
    found = find(tmp_path / "a.safetensors")
    assert found.name == "kohya"
    read = found.read(tmp_path / "a.safetensors")
    assert read.tensors.keys() == {f"{layer}.lora_down.weight", f"{layer}.lora_up.weight"}
    if "default" not in read.metadata["family_from"]:
        assert read.family == family


@pytest.mark.parametrize(
    ("header", "family"),
    [
        ({"ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False"}, "sdxl"),
        ({"ss_v2": "True"}, "sd2"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd1"),
    ],
)
def test_the_header_tells_the_family(header: dict[str, str], family: str, tmp_path) -> None:
    save_file(kohya("lora_unet_mid_block_resnets_0_time_emb_proj"), tmp_path / "a.safetensors", header)
    assert KohyaLora().read(tmp_path / "a.safetensors").family == family


@pytest.mark.parametrize(
    ("stem", "down", "up", "layer"),
    [
        (f"unet.{TO_K}", "lora_A.weight", "lora_B.weight", f"unet.{TO_K}"),
        (f"unet.{TO_K}", "lora.down.weight", "lora.up.weight", f"unet.{TO_K}"),
        (f"unet.{TO_K[:-4]}processor.to_k", "_lora.down.weight", "_lora.up.weight", f"unet.{TO_K}"),
        (f"{TO_K[:-4]}processor.to_out", "_lora.down.weight", "_lora.up.weight", f"unet.{TO_K[:-4]}to_out.0"),
        (
            f"text_encoder.{Q_PROJ}",
            "lora_linear_layer.down.weight",
            "lora_linear_layer.up.weight",
            f"text_encoder.{Q_PROJ}",
        ),
        (f"text_encoder.{Q_PROJ[:-6]}to_q", "_lora.down.weight", "_lora.up.weight", f"text_encoder.{Q_PROJ}"),
        (
            f"text_encoder.{Q_PROJ.removeprefix('text_model.')}",
            "lora_A.weight",
            "lora_B.weight",
            f"text_encoder.{Q_PROJ}",
        ),
        (f"text_encoder_2.{Q_PROJ}", "lora_A.weight", "lora_B.weight", f"text_encoder_2.{Q_PROJ}"),
    ],
)
def test_every_diffusers_spelling_is_read(stem: str, down: str, up: str, layer: str, tmp_path) -> None:
    def join(part: str) -> str:
        return f"{stem}{part}" if part.startswith("_") else f"{stem}.{part}"

    folder = tmp_path / "lora"
    folder.mkdir()
    save_file({join(down): DOWN, join(up): UP}, folder / "pytorch_lora_weights.safetensors")
    assert find(folder).name == "diffusers"
    read = PeftLora().read(folder)
    # No scale is told, so it is 1, and nothing is made up.
    assert read.tensors.keys() == {f"{layer}.{part}" for part in ("lora_down.weight", "lora_up.weight")}


def test_scales_of_the_peft_header(tmp_path) -> None:
    config = {"unet.r": 4, "unet.lora_alpha": 8, "unet.use_rslora": True, "unet.alpha_pattern": {"attn2.to_k": 3}}
    tensors = {
        f"unet.{path}.{part}": t.clone()
        for path in (TO_K, TO_K[:-1] + "q")
        for part, t in (("lora_A.weight", DOWN), ("lora_B.weight", UP))
    }
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, {"lora_adapter_metadata": json.dumps(config)})
    read = PeftLora().read(path).tensors
    assert (float(read[f"unet.{TO_K}.alpha"]), float(read[f"unet.{TO_K[:-1]}q.alpha"])) == (3 * 2, 8 * 2)
    config["unet.alpha_pattern"] = {"(a+)+$": 3}
    save_file(tensors, path, {"lora_adapter_metadata": json.dumps(config)})
    with pytest.raises(FormatError, match="FM001"):
        PeftLora().read(path)


def test_unknown_keys_are_told_and_block_rewriting(tmp_path) -> None:
    path = tmp_path / "a.safetensors"
    good = kohya("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k")
    save_file(
        good
        | {"lora_unet_mid_block_attentions_0_proj_in.oft_R.weight": UP.clone(), "bundle_emb.x.clip_l_out": UP.clone()},
        path,
    )
    read = KohyaLora().read(path)
    assert json.loads(read.metadata["unread_keys"]) == [
        "bundle_emb.x.clip_l_out",
        "lora_unet_mid_block_attentions_0_proj_in.oft_R.weight",
    ]
    with pytest.raises(FormatError, match=r"bundle_emb\.x\.clip_l_out"):
        KohyaLora().write(read, tmp_path / "b.safetensors", dtype=torch.float16)
    del read.metadata["unread_keys"]
    KohyaLora().write(read, tmp_path / "b.safetensors", dtype=torch.float16)


@pytest.mark.parametrize(
    "tensors",
    [
        kohya("lora_unet_mid_block_resnets_0_conv1", "lora_unet_middle_block_0_in_layers_2"),
        {"lora_unet_mid_block_resnets_0_conv1.lora_down.weight": torch.ones(4)},
        {"lora_unet_mid_block_resnets_0_conv1.lora_down.weight": torch.ones(4, 4)},
        kohya("lora_unet_mid_block_resnets_0_conv1") | {"lora_unet_mid_block_resnets_0_conv1.alpha": torch.ones(2)},
        {"lora_unet_mid_block_resnets_0_conv1.lora_up.weight": torch.ones(4, 4)},
        parts("hada_w1_a hada_w1_b hada_w2_a"),
        parts("hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1"),
        parts("lokr_w1 lokr_w2_a"),
        parts("lokr_w1_b lokr_w2"),
        parts("lokr_w2"),
        parts("lokr_w1 lokr_w1_a lokr_w1_b lokr_w2"),
        parts("lokr_w1 lokr_w2 lokr_t2"),
    ],
    ids=[
        "one layer twice",
        "vector",
        "down alone",
        "two alphas",
        "up alone",
        "half a loha",
        "one core",
        "half a factor",
        "the other half",
        "one factor",
        "a factor twice",
        "a core of nothing",
    ],
)
def test_contradictions_are_refused(tensors: dict[str, torch.Tensor], tmp_path) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match="MD003"):
        KohyaLora().read(tmp_path / "a.safetensors")


def test_a_lora_of_another_architecture(tmp_path) -> None:
    save_file(kohya("lora_unet_double_blocks_0_img_attn_proj"), tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match=r"FLUX.*double_blocks"):
        find(tmp_path / "a.safetensors")


class Trap:
    """Touches a file when unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def header_of(table: object) -> bytes:
    raw = json.dumps(table).encode()
    return len(raw).to_bytes(8, "little") + raw


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HOSTILE = {
    "empty": (b"", "MD003"),
    "short": (b"\x01\x02", "MD002"),
    "html": (b"<!DOCTYPE html><html>404</html>", "MD002"),
    "html after blanks": (b"\n\n  <html></html>", "MD002"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "MD002"),
    "text": (b"this is a note of mine", "MD002"),
    "absurd length": ((2**62).to_bytes(8, "little") + b'{"a":', "MD003"),
    "longer than the file": ((500).to_bytes(8, "little") + b'{"a":{}}', "MD003"),
    "not json": ((6).to_bytes(8, "little") + b'{"a":]', "MD003"),
    "not utf-8": ((8).to_bytes(8, "little") + b'{"\xff\xfe":1', "MD003"),
    "deep": ((60002).to_bytes(8, "little") + b'{"' + b"[" * 60000, "MD003"),
    "metadata of numbers": (header_of({"__metadata__": {"a": 1}}), "MD003"),
    "entry of nothing": (header_of({"a": {}}), "MD003"),
    "entry is a string": (header_of({"a": "dtype"}), "MD003"),
    "unknown type": (header_of({"a": ENTRY | {"dtype": "Q7"}}) + bytes(8), "MD003"),
    "type is a list": (header_of({"a": ENTRY | {"dtype": []}}) + bytes(8), "MD003"),
    "negative": (header_of({"a": ENTRY | {"shape": [-2]}}) + bytes(8), "MD003"),
    "shape lies": (header_of({"a": ENTRY | {"shape": [2**40]}}) + bytes(8), "MD003"),
    "gap": (header_of({"a": ENTRY | {"data_offsets": [8, 16]}}) + bytes(16), "MD003"),
    "overlap": (header_of({"a": ENTRY, "b": ENTRY}) + bytes(8), "MD003"),
    "cut off": (header_of({"a": ENTRY}) + bytes(5), "MD003"),
    "too long": (header_of({"a": ENTRY}) + bytes(9), "MD003"),
    "something else": (header_of({"a": ENTRY}) + bytes(8), "MD002"),
    "checkpoint": (header_of({"model.diffusion_model.out.2.bias": ENTRY}) + bytes(8), "MD002"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_damaged_and_disguised_files_say_what_they_are(kind: str, tmp_path) -> None:
    content, code = HOSTILE[kind]
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        find(path)
    assert caught.value.code == code
    assert caught.value.describe("ja")
    for format_ in for_method("lora"):
        assert not format_.sniff(path)
        with pytest.raises(ModelError):  # of which FormatError is one
            format_.read(path)


def test_pickles_are_refused_unopened(tmp_path) -> None:
    touched = tmp_path / "touched"
    path = tmp_path / "a.safetensors"
    for protocol in (2, 4, 5):
        path.write_bytes(pickle.dumps(Trap(str(touched)), protocol))
        with pytest.raises(ModelError, match="MD005"):
            find(path)
        with pytest.raises(ModelError, match="MD005"):
            KohyaLora().read(path)
    assert not touched.exists()


def test_every_truncation_is_noticed(tmp_path) -> None:
    """Cut anywhere, a file never reads as if it were whole."""
    layers = dict(list(samples.targets(samples.build(samples.TINY["sd1"])).items())[:1])
    path = tmp_path / "a.safetensors"
    KohyaLora().write(samples.artifact("sd1", layers), path, dtype=torch.float16)
    raw = path.read_bytes()
    for size in range(0, len(raw), 7):
        path.write_bytes(raw[:size])
        with pytest.raises(FormatError):
            read_header(path)


def test_missing_files_and_foreign_folders(tmp_path) -> None:
    with pytest.raises(FormatError, match="FM004"):
        find(tmp_path / "none.safetensors")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(FormatError, match="a diffusers folder"):
        find(tmp_path)
