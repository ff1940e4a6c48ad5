"""Stable Diffusion XL (base): CLIP-L and OpenCLIP-bigG read at the penultimate layer, pooled text, sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tsuika.core.types import Facts, Prediction
from tsuika.families.common import Config, Family, Geometry, Shapes, TextTower

_CLIP_L: Final = "conditioner.embedders.0.transformer."
_CLIP_G: Final = "conditioner.embedders.1.model."
_UNET_IN: Final = "model.diffusion_model.input_blocks.0.0.weight"

_VAE: Final[Config] = {  # Stability-AI/generative-models sd_xl_base.yaml, first_stage_config
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "sample_size": 1024,
    "force_upcast": True,
    "scaling_factor": 0.13025,  # scale_factor there
}
_UNET: Final[Config] = {  # the same file, network_config: channel_mult 1 2 4, transformer_depth 1 2 10, context 2048
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "attention_head_dim": [5, 10, 20],  # numbers of heads, each 64 wide
    "transformer_layers_per_block": [1, 2, 10],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,  # adm_in_channels there: 1280 pooled + 6 x 256 sizes
}
_TEXT_L: Final[Config] = {  # openai/clip-vit-large-patch14, its text tower
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
_TEXT_G: Final[Config] = {  # laion/CLIP-ViT-bigG-14-laion2B-39B-b160k, its text tower
    "vocab_size": 49408,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
    "projection_dim": 1280,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 0,
}


def _geometry(prediction: Prediction) -> Geometry:
    del prediction
    return Geometry(_UNET, _VAE, {"text_encoder": _TEXT_L, "text_encoder_2": _TEXT_G}, native_size_px=1024)


def _tiny(vocabulary: int, max_tokens: int) -> Geometry:
    small = {
        "vocab_size": vocabulary,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": max_tokens,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }
    text_l = {**_TEXT_L, **small, "hidden_size": 32, "projection_dim": 32, "pad_token_id": vocabulary - 1}
    text_g = {**_TEXT_G, **small, "hidden_size": 48, "projection_dim": 48}
    unet = {
        **_UNET,
        "sample_size": 8,
        "block_out_channels": [32, 32, 64],
        "cross_attention_dim": 80,
        "norm_num_groups": 16,
        "attention_head_dim": [2, 2, 4],
        "transformer_layers_per_block": [1, 2, 3],
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 48 + 6 * 8,
    }
    vae = {**_VAE, "block_out_channels": [8, 8, 16, 16], "norm_num_groups": 8, "sample_size": 64}
    return Geometry(unet, vae, {"text_encoder": text_l, "text_encoder_2": text_g}, native_size_px=64)


def _is_single_file(shapes: Shapes) -> bool:
    both = all(any(name.startswith(prefix) for name in shapes) for prefix in (_CLIP_L, _CLIP_G))
    # edm_*: the same network made for EDM's preconditioning (Playground 2.5, CosXL), which this sampler is not
    return both and shapes.get(_UNET_IN, (0, 0))[1] == 4 and not any(name.startswith("edm_") for name in shapes)


def _is_folder(unet: Config, parts: Sequence[str]) -> bool:
    return {"text_encoder", "text_encoder_2"} <= set(parts) and unet.get("addition_embed_type") == "text_time"


SDXL: Final = Family(
    facts=Facts(
        family="sdxl",
        title="Stable Diffusion XL",
        latent_channels=4,
        latent_scale=0.13025,  # Stability-AI/generative-models sd_xl_base.yaml, scale_factor
        prediction="epsilon",
        native_size_px=1024,
        text_encoders=("text_encoder", "text_encoder_2"),
        kohya_text_prefixes={"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"},
        kohya_base_version={"epsilon": "sdxl_base_v1-0", "v_prediction": "sdxl_base_v1-0"},
        modelspec={"epsilon": "stable-diffusion-xl-v1-base", "v_prediction": "stable-diffusion-xl-v1-base"},
    ),
    towers=(
        TextTower("text_encoder", projected=False, layout="clip", prefix=_CLIP_L, padding=""),
        TextTower("text_encoder_2", projected=True, layout="open_clip", prefix=_CLIP_G, padding="!"),
    ),
    penultimate=True,
    geometry=_geometry,
    tiny_geometry=_tiny,
    is_single_file=_is_single_file,
    is_folder=_is_folder,
)
