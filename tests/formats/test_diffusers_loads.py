"""diffusers itself loads what we write, and adds exactly the deltas that we meant."""

from __future__ import annotations

import lora_samples as samples
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft.tuners.lora import LoraLayer

from lora_deltas import delta
from tsuika.core.types import canonical
from tsuika.formats import for_method

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")


def pipeline(family: str):
    """A pipeline without VAE and tokenizer, which loading a LoRA does not touch."""
    texts = [samples.CLIP_TINY] * (2 if family == "sdxl" else 1)
    models = samples.build(samples.TINY[family], *texts, device="cpu")
    if family == "sdxl":
        return StableDiffusionXLPipeline(vae=None, tokenizer=None, tokenizer_2=None, scheduler=None, **models)
    return StableDiffusionPipeline(
        vae=None,
        tokenizer=None,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **models,
    )


def applied(pipe) -> dict[tuple[str, str], torch.Tensor]:
    """What diffusers added to each weight."""
    found = {}
    for component in COMPONENTS:
        root = getattr(pipe, component, None)
        for path, module in root.named_modules() if root is not None else ():
            if isinstance(module, LoraLayer) and module.active_adapters:
                (name,) = module.active_adapters
                if name in module.scaling:
                    found[component, canonical(component, path)] = module.get_delta_weight(name)
    return found


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("format_", for_method("lora"), ids=lambda f: f.name)
@pytest.mark.parametrize("conv", [False, True])
def test_diffusers_adds_the_deltas_we_meant(family: str, format_, conv: bool, tmp_path) -> None:
    pipe = pipeline(family)
    models = {name: getattr(pipe, name) for name in COMPONENTS if getattr(pipe, name, None) is not None}
    layers = samples.targets(models, conv)
    # Rank and alpha of 3x3 convolutions differ from the rest; alpha is never the rank.
    made = samples.artifact(
        family,
        layers,
        rank=lambda module: 2 if samples.is_3x3(module) else 4,
        alpha=lambda module: 3.0 if samples.is_3x3(module) else 2.5,
    )
    path = tmp_path / ("a.safetensors" if format_.name == "kohya" else "folder")
    format_.write(made, path, dtype=torch.float32)
    if path.is_dir():
        # diffusers 0.37 wants the name where it may not go online.
        pipe.load_lora_weights(str(path), weight_name="pytorch_lora_weights.safetensors")
    else:
        pipe.load_lora_weights(str(tmp_path), weight_name=path.name)
    got = applied(pipe)
    want = {(component, path): weight for component, path, weight in delta(made)}
    assert got.keys() == want.keys() == layers.keys()
    for key, weight in want.items():
        torch.testing.assert_close(got[key], weight, rtol=1e-5, atol=1e-5)
