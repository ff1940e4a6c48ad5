"""peft and transformers themselves load what we write: every tensor has a place, and the effect is the one in memory."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import lora_samples as samples
import pytest
import torch
from diffusers import AutoencoderKL
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

from lora_deltas import delta
from tsuika.core.types import Artifact, canonical, model_tensors
from tsuika.formats.checkpoint import DiffusersFolder
from tsuika.formats.peft_lora import PeftLora
from tsuika.formats.vae_file import VaeFile
from tsuika.methods.whole_model import metadata_of

sys.path.append(str(Path(__file__).parents[1]))
from tiny_models import FAMILY_NAMES, tiny

by_family = pytest.mark.parametrize("family", FAMILY_NAMES)


@pytest.mark.parametrize("family", samples.TINY)
def test_peft_adds_the_deltas_we_meant(family: str, tmp_path: Path) -> None:
    """With nothing but the written configuration: ranks and alphas that differ from layer to layer, too."""
    texts = [samples.CLIP_TINY] * (2 if family == "sdxl" else 1)
    models = samples.build(samples.TINY[family], *texts, device="cpu")
    made = samples.artifact(
        family,
        samples.targets(models, conv=True),
        rank=lambda module: 2 if samples.is_3x3(module) else 4,
        alpha=lambda module: 3.0 if samples.is_3x3(module) else 2.5,
    )
    PeftLora().write(made, tmp_path / "made", dtype=torch.float32)
    (file,) = (tmp_path / "made").glob("*.safetensors")
    with safe_open(file, "pt") as opened:
        metadata: dict[str, Any] = json.loads(opened.metadata()["lora_adapter_metadata"])
    got: dict[tuple[str, str], torch.Tensor] = {}
    for component, model in models.items():
        fields = {
            key.removeprefix(f"{component}."): value
            for key, value in metadata.items()
            if re.match(rf"{component}\.", key)
        }
        inject_adapter_in_model(LoraConfig(**fields), model)
        own = {
            key.removeprefix(f"{component}."): value
            for key, value in load_file(file).items()
            if key.startswith(f"{component}.")
        }
        if component == "text_encoder" and not hasattr(model, "text_model"):  # transformers 5 has dropped the level
            own = {key.replace("text_model.", "", 1): value for key, value in own.items()}
        assert not set_peft_model_state_dict(model, own).unexpected_keys
        for path, module in model.named_modules():
            if isinstance(module, LoraLayer):
                got[component, canonical(component, path)] = module.get_delta_weight("default")
    want = {(component, path): weight for component, path, weight in delta(made)}
    assert got.keys() == want.keys()
    for place, weight in want.items():
        torch.testing.assert_close(got[place], weight, rtol=1e-5, atol=1e-5)


def whole(family: str) -> tuple[Any, Artifact]:
    model = tiny(family)
    return model, Artifact("dreambooth", family, model_tensors(model), metadata_of(model))


@by_family
def test_transformers_finds_every_tensor_of_the_text_encoders(family: str, tmp_path: Path) -> None:
    model, artifact = whole(family)
    DiffusersFolder().write(artifact, tmp_path / "made", dtype=torch.float32)
    ids_BS = torch.arange(5, 11)[None]
    for component, encoder in model.text_encoders.items():
        kind: Any = CLIPTextModelWithProjection if hasattr(encoder, "text_projection") else CLIPTextModel
        kind = T5EncoderModel if encoder.config.model_type == "t5" else kind
        loaded, told = kind.from_pretrained(tmp_path / "made" / component, output_loading_info=True)
        assert not told["missing_keys"]
        assert not told["unexpected_keys"]
        assert not told["mismatched_keys"]
        with torch.no_grad():
            torch.testing.assert_close(loaded(ids_BS)[0], encoder(ids_BS)[0], rtol=1e-5, atol=1e-5)


@by_family
def test_diffusers_opens_a_lone_vae_to_the_same_latents_and_pictures(family: str, tmp_path: Path) -> None:
    model, artifact = whole(family)
    DiffusersFolder().write(artifact, tmp_path / "made", dtype=torch.float32)
    tensors = {name.removeprefix("vae."): t for name, t in artifact.tensors.items() if name.startswith("vae.")}
    alone = Artifact("vae", "", tensors, {"vae_config": artifact.metadata["vae_config"]})
    VaeFile().write(alone, tmp_path / "vae.safetensors", dtype=torch.float32)
    loaded = AutoencoderKL.from_single_file(
        str(tmp_path / "vae.safetensors"), config=str(tmp_path / "made"), subfolder="vae", local_files_only=True
    )
    pixels_B3HW = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        scale, shift = loaded.config.scaling_factor, loaded.config.shift_factor or 0.0
        latents_BCHW = (loaded.encode(pixels_B3HW).latent_dist.mean - shift) * scale
        torch.testing.assert_close(latents_BCHW, model.encode_images(pixels_B3HW), rtol=1e-5, atol=1e-5)
        pixels = loaded.decode(latents_BCHW / scale + shift).sample.clamp(-1, 1)
        torch.testing.assert_close(pixels, model.decode_latents(latents_BCHW), rtol=1e-5, atol=1e-5)
