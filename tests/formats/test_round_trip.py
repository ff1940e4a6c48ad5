"""Every format: what is read is what was written; metadata, hashes, refusals."""

from __future__ import annotations

import hashlib
import json
import math

import lora_samples as samples
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from lora_deltas import delta, largest_relative_error
from tsuika.core.errors import FormatError
from tsuika.core.sections import Train
from tsuika.core.types import Artifact
from tsuika.formats import count_tags, find, for_method, run_facts
from tsuika.formats.kohya_lora import KohyaLora
from tsuika.formats.lora_reading import DIFFUSERS_FILE as WEIGHTS
from tsuika.formats.peft_lora import PeftLora

GEOMETRY = {
    "sd1": samples.TINY["sd1"],
    "sd2": samples.TINY["sd2"],
    "sdxl": samples.TINY["sdxl"],
    "embedded": samples.EMBEDDED,
}
EPS = {torch.float32: 0.0, torch.float16: 2**-10, torch.bfloat16: 2**-7}


@pytest.fixture(scope="module")
def layers() -> dict[str, dict]:
    texts = {name: [samples.CLIP_TINY] * (2 if name == "sdxl" else 1) for name in GEOMETRY}
    return {name: samples.targets(samples.build(unet, *texts[name]), conv=True) for name, unet in GEOMETRY.items()}


def one(family: str = "sd1", **parts: torch.Tensor) -> Artifact:
    """One layer with these parts."""
    key = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    return Artifact("lora", family, {f"{key}.{part.replace('__', '.')}": tensor for part, tensor in parts.items()})


def full_layer(key: str) -> Artifact:
    """One square layer of SD1 under this name."""
    return Artifact("lora", "sd1", {f"{key}.{part}.weight": torch.ones(4, 4) for part in ("lora_down", "lora_up")})


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("name", GEOMETRY)
@pytest.mark.parametrize("format_", for_method("lora"), ids=lambda f: f.name)
def test_what_is_read_is_what_was_written(format_, name, dtype, layers, tmp_path) -> None:
    family = "sd1" if name == "embedded" else name
    for seed in range(2):
        picked = samples.subset(layers[name], seed)
        made = samples.artifact(
            family,
            picked,
            seed=seed,
            rank=lambda module: 3 if samples.is_3x3(module) else 4,
            alpha=lambda module: 1.7 if samples.is_3x3(module) else 2.0,  # 1.7 is exact in neither half precision
        )
        path = tmp_path / f"{seed}.safetensors" if format_.name == "kohya" else tmp_path / str(seed)
        format_.write(made, path, dtype=dtype)
        assert find(path) is format_
        back = format_.read(path)
        assert (back.method, back.family) == (made.method, made.family)
        assert back.tensors.keys() == made.tensors.keys()
        for key, tensor in made.tensors.items():
            assert back.tensors[key].shape == tensor.shape
            # Twice: an alpha that the type cannot hold is balanced in lora_up.
            torch.testing.assert_close(
                back.tensors[key].float(), tensor, rtol=2 * EPS[dtype], atol=1e-6 if EPS[dtype] else 0
            )
        assert largest_relative_error(made, back) <= 2 * EPS[dtype]


def test_the_same_artifact_gives_the_same_bytes(layers, tmp_path) -> None:
    facts = run_facts(Train(), name="x", steps=3, tag_frequency={"a": {"cat": 2}})
    for format_ in for_method("lora"):
        written = []
        for i in range(2):
            made = samples.artifact("sd1", layers["sd1"])
            made.metadata.update(facts if i else dict(reversed(facts.items())))
            format_.write(made, tmp_path / f"{format_.name}{i}.safetensors", dtype=torch.float16)
            written.append((tmp_path / f"{format_.name}{i}.safetensors").read_bytes())
        assert written[0] == written[1]


def test_inexact_alpha_does_not_change_the_strength(tmp_path) -> None:
    """Rank-stabilised scales are irrational; in bf16 alpha alone would be 0.2 % off."""
    alpha = torch.tensor(8 * math.sqrt(32))
    made = one(lora_down__weight=torch.eye(32), lora_up__weight=torch.eye(32), alpha=alpha)
    KohyaLora().write(made, tmp_path / "a.safetensors", dtype=torch.bfloat16)
    back = KohyaLora().read(tmp_path / "a.safetensors")
    assert back.tensors[min(back.tensors)].ndim == 0
    stored = next(float(t) for n, t in back.tensors.items() if n.endswith("alpha"))
    up = next(t for n, t in back.tensors.items() if n.endswith("lora_up.weight"))
    assert stored != float(alpha)
    assert up[0, 0].float() == (alpha / stored).to(torch.bfloat16).float()


def test_facts_and_hashes_are_in_the_header(layers, tmp_path) -> None:
    made = samples.artifact("sdxl", layers["sdxl"], rank=lambda m: 3 if samples.is_3x3(m) else 8)
    facts = run_facts(
        Train(),
        name="くま",
        trigger="kuma",
        base_name="base.safetensors",
        base_sha256="ab" * 32,
        resolution="1024x768",
        steps=12,
        prediction="v_prediction",
        tag_frequency={"10_kuma": count_tags(["Kuma, beach", "kuma,,  sea "])},
        dataset_dirs={"10_kuma": {"n_repeats": 10, "img_count": 2}},
    )
    made.metadata.update(facts, started_at="1.5", date="2024-01-02T03:04:05", comment="{not JSON")
    path = tmp_path / "a.safetensors"
    KohyaLora().write(made, path, dtype=torch.float16)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    assert raw[8:10] == b'{"'
    assert header["sshs_model_hash"] == hashlib.sha256(raw[start:]).hexdigest()
    assert header["modelspec.hash_sha256"] == f"0x{header['sshs_model_hash']}"
    wanted = {
        "ss_output_name": "くま",
        "modelspec.title": "くま",
        "modelspec.trigger_phrase": "kuma",
        "ss_v2": "False",
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "8",
        "ss_network_alpha": "2",
        "ss_resolution": "(1024, 768)",
        "modelspec.resolution": "1024x768",
        "ss_steps": "12",
        "ss_learning_rate": "0.0001",
        "ss_training_started_at": "1.5",
        "modelspec.prediction_type": "v",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.date": "2024-01-02T03:04:05",
        "ss_new_sd_model_hash": "ab" * 32,
        "ss_sd_model_name": "base.safetensors",
        "modelspec.sai_model_spec": "1.0.1",
    }
    assert {key: header[key] for key in wanted} == wanted
    assert json.loads(header["ss_tag_frequency"]) == {"10_kuma": {"kuma": 2, "beach": 1, "sea": 1}}
    assert json.loads(header["ss_network_args"]) == {"conv_dim": "3", "conv_alpha": "2"}
    assert not {"ss_sd_model_hash", "ss_num_epochs"} & header.keys()  # not told: not there
    for text in header.values():
        if text.startswith("{"):
            assert isinstance(json.loads(text), dict)  # A1111 parses these

    back = KohyaLora().read(path)
    expected = facts | {"comment": " {not JSON"}
    assert {key: back.metadata[key] for key in expected} == expected
    assert back.metadata["family_from"] == "metadata"
    PeftLora().write(back, tmp_path / "folder", dtype=torch.float32)
    again = PeftLora().read(tmp_path / "folder")
    assert {key: again.metadata[key] for key in expected} == expected
    KohyaLora().write(again, tmp_path / "b.safetensors", dtype=torch.float16)
    assert (tmp_path / "b.safetensors").read_bytes() == raw


def test_legacy_hash_is_of_a_file_with_training_metadata_only(tmp_path) -> None:
    """Reference: such a file, made by the safetensors library, its bytes 0x100000 to 0x110000."""
    made = one(lora_down__weight=torch.randn(64, 9000), lora_up__weight=torch.randn(32, 64), alpha=torch.tensor(4.0))
    KohyaLora().write(made, tmp_path / "a.safetensors", dtype=torch.float16)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        header = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    training = {key: text for key, text in header.items() if key.startswith("ss_")}
    virtual = safetensors.torch.save(tensors, training)
    assert header["sshs_legacy_hash"] == hashlib.sha256(virtual[0x100000:0x110000]).hexdigest()[:8]


def random_parts(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} | {
        "alpha": torch.tensor(2.0)
    }


KINDS = {
    "dora": {"lora_down__weight": (4, 6), "lora_up__weight": (8, 4), "dora_scale": (8, 1)},
    "loha": {"hada_w1_a": (8, 4), "hada_w1_b": (4, 6), "hada_w2_a": (8, 4), "hada_w2_b": (4, 6)},
    "lokr": {"lokr_w1": (2, 3), "lokr_w2_a": (4, 5), "lokr_w2_b": (5, 2)},
    "lora": {"lora_down__weight": (4, 6, 1, 1), "lora_mid__weight": (4, 4, 3, 3), "lora_up__weight": (8, 4, 1, 1)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_relatives_of_lora_keep_their_parts(kind: str, tmp_path) -> None:
    made = one(**random_parts(KINDS[kind]))
    KohyaLora().write(made, tmp_path / "a.safetensors", dtype=torch.float32)
    back = KohyaLora().read(tmp_path / "a.safetensors")
    assert back.metadata["adapter"] == kind
    assert back.tensors.keys() == made.tensors.keys()
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in made.tensors.items())
    assert largest_relative_error(made, back) == 0
    if kind != "dora":
        with pytest.raises(FormatError, match="FM002"):
            PeftLora().write(made, tmp_path / "folder", dtype=torch.float32)
        assert not (tmp_path / "folder").exists()


def test_dora_magnitudes_have_each_layouts_shape(tmp_path) -> None:
    """Also of a square convolution, where (1, out, 1, 1) would be read as the inputs' elsewhere."""
    conv = {"lora_down__weight": (4, 8, 3, 3), "lora_up__weight": (8, 4, 1, 1), "dora_scale": (8, 1, 1, 1)}
    for shapes, peft in ((KINDS["dora"], (8,)), (conv, (1, 8, 1, 1))):
        made, folder = one(**random_parts(shapes)), tmp_path / str(len(peft))
        PeftLora().write(made, folder, dtype=torch.float32)
        (stored,) = (
            v for k, v in safetensors.torch.load_file(folder / WEIGHTS).items() if k.endswith("lora_magnitude_vector")
        )
        assert stored.shape == peft
        back = PeftLora().read(folder)
        name = next(name for name in back.tensors if name.endswith("dora_scale"))
        KohyaLora().write(back, folder / "a.safetensors", dtype=torch.float32)
        assert torch.equal(KohyaLora().read(folder / "a.safetensors").tensors[name], made.tensors[name])
        with pytest.raises(ValueError, match="DoRA"):
            next(delta(made))


def test_delta_is_what_the_layers_compute() -> None:
    """Reference: running the small convolutions one after the other on an impulse-free random input."""
    parts = random_parts(KINDS["lora"])
    ((_, _, weight),) = delta(one(**parts))
    x = torch.randn(1, 6, 7, 7)
    conv = torch.nn.functional.conv2d
    inner = conv(conv(x, parts["lora_down__weight"]), parts["lora_mid__weight"], padding=1)
    torch.testing.assert_close(
        conv(x, weight, padding=1), conv(inner, parts["lora_up__weight"]) * 2 / 4, rtol=1e-4, atol=1e-4
    )

    parts = random_parts({"lora_down__weight": (4, 6, 3, 3), "lora_up__weight": (8, 4, 1, 1)})
    ((_, _, weight),) = delta(one(**parts))
    inner = conv(x, parts["lora_down__weight"], padding=1)
    torch.testing.assert_close(
        conv(x, weight, padding=1), conv(inner, parts["lora_up__weight"]) * 2 / 4, rtol=1e-4, atol=1e-4
    )

    parts = random_parts(KINDS["lokr"])
    ((_, _, weight),) = delta(one(**parts))
    second = parts["lokr_w2_a"] @ parts["lokr_w2_b"] * 2 / 5
    blocks = [torch.cat([a * second for a in row], dim=1) for row in parts["lokr_w1"]]
    torch.testing.assert_close(weight, torch.cat(blocks), rtol=1e-4, atol=1e-5)


def test_relative_error_sees_scale_missing_layers_and_nan() -> None:
    parts = random_parts({"lora_down__weight": (4, 6), "lora_up__weight": (8, 4)})
    made = one(**parts)
    assert largest_relative_error(made, one(**parts | {"alpha": torch.tensor(3.0)})) == pytest.approx(0.5)
    assert largest_relative_error(made, Artifact("lora", "sd1", {})) == math.inf
    assert largest_relative_error(made, one(**parts | {"lora_up__weight": torch.full((8, 4), math.nan)})) == math.inf


@pytest.mark.parametrize(
    "made",
    [
        one(oft_R=torch.zeros(3)),
        one(lora_down__weight=torch.zeros(4, 6)),
        one(lora_down__weight=torch.zeros(4, 6), lora_up__weight=torch.full((8, 4), 70000.0)),
        one(lora_down__weight=torch.zeros(4, 6), lora_up__weight=torch.full((8, 4), math.nan)),
        one("sd9", lora_down__weight=torch.zeros(4, 6), lora_up__weight=torch.zeros(8, 4)),
        full_layer("unet.nowhere"),
        full_layer("text_encoder_2.text_projection"),
        Artifact("hypernetwork", "sd1", {}),
    ],
    ids=["oft", "half a layer", "overflow", "nan", "family", "path", "component", "method"],
)
def test_what_the_layout_cannot_hold_is_refused_and_nothing_is_left(made: Artifact, tmp_path) -> None:
    with pytest.raises(FormatError, match="FM002"):
        KohyaLora().write(made, tmp_path / "a.safetensors", dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []
