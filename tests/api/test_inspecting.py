"""`inspect` and what uses its answer: other people's weights are named, broken ones refused, counts are the file's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tsuika
from tsuika.core.errors import FormatError, TsuikaError
from tsuika.formats import provenance
from tsuika.formats.provenance import Provenance

LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"


def lora(path: Path, dtype: torch.dtype = torch.float16, **changes: Any) -> Path:
    tensors = {
        f"{LAYER}.lora_down.weight": torch.ones(4, 768, dtype=dtype),
        f"{LAYER}.lora_up.weight": torch.ones(8, 4, dtype=dtype),
    }
    save_file({**tensors, **{f"{LAYER}.{part}": value for part, value in changes.items()}}, path)
    return path


def test_counts_and_number_types_are_the_file_s(tmp_path: Path) -> None:
    """Not those of what reading adds: a diffusers LoRA has no alphas, and is not float32 for them."""
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {f"{name}.lora_A.weight": torch.ones(4, 768), f"{name}.lora_B.weight": torch.ones(8, 4)}
    save_file({key: value.bfloat16() for key, value in tensors.items()}, tmp_path / "a.safetensors")
    told = tsuika.inspect(tmp_path / "a.safetensors").result
    assert (told.kind, told.tensors, told.dtype) == ("lora", 2, "bfloat16")  # type: ignore[attr-defined]
    told = tsuika.inspect(lora(tmp_path / "8.safetensors", torch.float8_e4m3fn)).result
    assert told.dtype == "float8_e4m3fn"  # type: ignore[attr-defined]


PROVED = Provenance(1, "lora", 20, 5, {"predicts": "epsilon"}, "steps", None, 0, {"tsuika": "1.0"})


@pytest.mark.parametrize(
    "text",
    [
        "", "[" * 100_000, "null", "{}", PROVED.to_text().replace('"version":1', '"version":2'),
        PROVED.to_text().replace('"steps":20', '"steps":NaN'), PROVED.to_text().replace('"images":5', '"images":"5"'),
    ],
    ids=["empty", "deep", "null", "nothing", "later", "nan", "text"],
)  # fmt: skip
def test_a_training_that_cannot_be_read_is_told_and_the_file_is_still_one(text: str, tmp_path: Path) -> None:
    tensors = load_file(lora(tmp_path / "a.safetensors"))
    save_file(tensors, tmp_path / "a.safetensors", {provenance.KEY: text})
    told: Any = tsuika.inspect(tmp_path / "a.safetensors").result
    assert (told.kind, told.provenance) == ("lora", None)
    assert told.provenance_error


def test_what_a_training_proved_goes_with_its_numbers(tmp_path: Path) -> None:
    """A file in another format is the same result; one of another rank, or of two, is none that was measured."""
    tensors = load_file(lora(tmp_path / "a.safetensors"))
    save_file(tensors, file := tmp_path / "a.safetensors", {provenance.KEY: PROVED.to_text()})
    others: tuple[Any, ...] = (
        tsuika.convert(file, "diffusers", tmp_path / "folder").result,
        tsuika.resize(file, tmp_path / "small.safetensors", rank=2).result,
        tsuika.merge([str(file), str(file)], tmp_path / "both.safetensors").result,
    )
    told: list[Any] = [tsuika.inspect(one.out).result for one in others]
    assert [one.provenance for one in told] == [PROVED, None, None]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_broken_value_is_refused_by_name(value: float, tmp_path: Path) -> None:
    bad = torch.ones(8, 4)
    bad[3, 2] = value
    (path := lora(tmp_path / "a.safetensors", torch.float32)).unlink()
    save_file({f"{LAYER}.lora_down.weight": torch.ones(4, 768), f"{LAYER}.lora_up.weight": bad}, path)
    for use in (
        lambda: tsuika.inspect(path),
        lambda: tsuika.convert(path, "diffusers", tmp_path / "out").result,
        lambda: tsuika.resize(path, tmp_path / "out.safetensors", rank=2).result,
        lambda: tsuika.merge([str(path)], tmp_path / "out.safetensors").result,
    ):
        with pytest.raises(TsuikaError) as caught:
            use()
        assert (caught.value.code, caught.value.exit_status, caught.value.where) == ("MD011", 4, str(path))
        assert f"`{LAYER}.lora_up.weight`" in str(caught.value)


def test_a_broken_base_is_refused_by_name(tmp_path: Path) -> None:
    tensors = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.ones(3, 4, 1, 1),
        "cond_stage_model.transformer.text_model.final_layer_norm.bias": torch.tensor([1.0, math.nan]),
        "sqrt_recip_alphas_cumprod": torch.tensor([1.0, math.inf]),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match=r"final_layer_norm\.bias") as caught:
        tsuika.inspect(tmp_path / "a.safetensors")
    assert caught.value.code == "MD011"
    tensors["cond_stage_model.transformer.text_model.final_layer_norm.bias"] = torch.ones(2)
    save_file(tensors, tmp_path / "a.safetensors")
    told = tsuika.inspect(tmp_path / "a.safetensors").result
    assert (told.kind, told.missing) == ("base model", ("vae",))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "kind", "title"),
    [
        ("control_model.input_blocks.0.0.weight", "controlnet", "a ControlNet"),
        ("double_blocks.0.img_attn.qkv.weight", "other model", "a Flux model"),
        ("down_blocks.0.resnets.0.conv1.weight", "unet", "a UNet alone, in diffusers layout"),
        ("text_model.embeddings.token_embedding.weight", "text encoder", "a text encoder alone"),
    ],
)
def test_other_weights_are_named_with_what_to_do(name: str, kind: str, title: str, tmp_path: Path) -> None:
    save_file({name: torch.ones(2, 3).half()}, tmp_path / "a.safetensors")
    told = tsuika.inspect(tmp_path / "a.safetensors").result.to_dict()
    assert (told["kind"], told["title"], told["tensors"], told["dtype"]) == (kind, title, 1, "float16")
    assert told["use"] and len(told["sha256"]) == 64


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"\x89PNG\r\n\x1a\n000000", "a PNG image"), (b"<html>404</html>", "a web page"), (b"7z\xbc\xaf00000", "7z")],
)
def test_what_is_no_weights_is_refused_by_what_it_is(content: bytes, found: str, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(TsuikaError, match=found) as caught:
        tsuika.inspect(tmp_path / "a.safetensors")
    assert caught.value.code == "MD002" and "Stable Diffusion model" not in str(caught.value)


def test_a_base_without_a_vae_has_one_remedy(tmp_path: Path) -> None:
    """Not "the file is damaged, download it again" and "name a VAE" at once."""
    from tsuika import families

    save_file(
        {
            "model.diffusion_model.input_blocks.0.0.weight": torch.ones(3, 4, 1, 1),
            "cond_stage_model.transformer.text_model.x": torch.ones(1),
        },
        tmp_path / "a.safetensors",
    )
    with pytest.raises(TsuikaError) as caught:
        families.peek(tmp_path / "a.safetensors").load_vae("builtin", torch.device("cpu"))
    assert caught.value.code == "MD012" and "ownload" not in str(caught.value)


def test_fp8_loras_merge_as_their_numbers_say(tmp_path: Path) -> None:
    """Torch adds no such numbers; the sum is that of the same numbers in float32."""
    out = tmp_path / "out.safetensors"
    source = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).to(torch.float8_e4m3fn)
    path = lora(tmp_path / "a.safetensors", torch.float8_e4m3fn, **{"lora_up.weight": source})
    made = tsuika.merge([f"{path}:0.5", f"{path}:1.5"], out, dtype="fp32").result
    read = load_file(out)
    delta = read[f"{LAYER}.lora_up.weight"] @ read[f"{LAYER}.lora_down.weight"]
    scale = float(read[f"{LAYER}.alpha"]) / len(read[f"{LAYER}.lora_down.weight"]) if f"{LAYER}.alpha" in read else 1
    torch.testing.assert_close(scale * delta, 2 * source.float() @ torch.ones(4, 768))
    assert made.dtype == "fp32"
    assert tsuika.merge([str(path), str(path)], tmp_path / "b.safetensors").result.dtype == "fp16"
