"""Models by geometry alone, and random LoRA artifacts on them, for the format tests."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tsuika.core.types import Artifact, canonical

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
UP = {CROSS: "CrossAttnUpBlock2D", PLAIN: "UpBlock2D"}


def unet_config(widths: tuple[int, ...], downs: tuple[str, ...], text: int, **more: Any) -> dict[str, Any]:
    """A diffusers UNet config with mirrored up blocks."""
    return {
        "sample_size": 8,
        "block_out_channels": widths,
        "down_block_types": downs,
        "up_block_types": tuple(UP[kind] for kind in reversed(downs)),
        "cross_attention_dim": text,
        **more,
    }


SD1 = unet_config((320, 640, 1280, 1280), (CROSS, CROSS, CROSS, PLAIN), 768, attention_head_dim=8)
SD2 = unet_config(
    (320, 640, 1280, 1280),
    (CROSS, CROSS, CROSS, PLAIN),
    1024,
    attention_head_dim=(5, 10, 20, 20),
    use_linear_projection=True,
)
_TIME_TEXT = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
SDXL = unet_config(
    (320, 640, 1280),
    (PLAIN, CROSS, CROSS),
    2048,
    attention_head_dim=(5, 10, 20),
    use_linear_projection=True,
    transformer_layers_per_block=(1, 2, 10),
    projection_class_embeddings_input_dim=2816,
    **_TIME_TEXT,
)
EMBEDDED = unet_config((64, 128, 256), (PLAIN, CROSS, CROSS), 256, attention_head_dim=8, layers_per_block=1)
_SMALL = {"norm_num_groups": 4, "attention_head_dim": 4}
TINY = {
    "sd1": unet_config((8, 16), (CROSS, PLAIN), 16, **_SMALL),
    "sd2": unet_config((8, 16), (CROSS, PLAIN), 16, use_linear_projection=True, **_SMALL),
    "sdxl": unet_config(
        (8, 16),
        (PLAIN, CROSS),
        32,
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * 8 + 16,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        **_SMALL,
    ),
}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
CLIP_TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def build(unet: dict[str, Any], *texts: dict[str, Any], device: str = "meta") -> dict[str, nn.Module]:
    """Component name -> module; the second text encoder has a projection, as SDXL's."""
    with torch.device(device):
        made: dict[str, nn.Module] = {"unet": UNet2DConditionModel(**unet)}
        for name, kind, text in zip(
            ("text_encoder", "text_encoder_2"), (CLIPTextModel, CLIPTextModelWithProjection), texts, strict=False
        ):
            config = CLIPTextConfig(vocab_size=100, projection_dim=text["hidden_size"], **text)
            made[name] = kind(config)
    return made


def targets(models: dict[str, nn.Module], conv: bool = False) -> dict[tuple[str, str], nn.Module]:
    """kohya's default targets, by its rule: every Linear and 1x1 convolution inside these classes; with conv, all."""
    holders = {"Transformer2DModel", "CLIPAttention", "CLIPMLP"}
    if conv:
        holders |= {"ResnetBlock2D", "Downsample2D", "Upsample2D"}
    found = {}
    for component, root in models.items():
        for outer, holder in root.named_modules():
            if type(holder).__name__ not in holders:
                continue
            for inner, module in holder.named_modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    found[component, canonical(component, f"{outer}.{inner}")] = module
    return found


def artifact(
    family: str,
    layers: dict[tuple[str, str], nn.Module],
    *,
    rank: Callable[[nn.Module], int] = lambda module: 4,
    alpha: Callable[[nn.Module], float] = lambda module: 2.0,
    seed: int = 0,
    zeros: bool = False,
) -> Artifact:
    """A plain LoRA on these layers, random or zero."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for (component, path), module in layers.items():
        shape = tuple(module.weight.shape)
        r = rank(module)
        down, up = (r, *shape[1:]), (shape[0], r, *[1] * (len(shape) - 2))
        for part, size in (("lora_down.weight", down), ("lora_up.weight", up)):
            value = torch.zeros(size) if zeros else torch.randn(size, generator=generator)
            tensors[f"{component}.{path}.{part}"] = value
        tensors[f"{component}.{path}.alpha"] = torch.tensor(float(alpha(module)))
    return Artifact("lora", family, tensors)


def is_3x3(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and tuple(module.kernel_size) != (1, 1)


def subset(layers: dict[Any, nn.Module], seed: int) -> dict[Any, nn.Module]:
    """A random half (at least one) of the layers."""
    chance = random.Random(seed)
    kept = {key: module for key, module in layers.items() if chance.random() < 0.5}
    return kept or dict(itertools.islice(layers.items(), 1))


def names_of(keys: Iterable[str]) -> set[str]:
    """Layer names of kohya keys."""
    return {key.partition(".")[0] for key in keys}
