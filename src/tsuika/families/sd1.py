"""Stable Diffusion 1.x: one CLIP-L text encoder, 1x1-convolution projections around attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tsuika.core.types import Facts, Prediction
from tsuika.families.common import Config, Family, Geometry, Shapes, TextTower

_CLIP: Final = "cond_stage_model.transformer."
_UNET_IN: Final = "model.diffusion_model.input_blocks.0.0.weight"

_VAE: Final[Config] = {  # CompVis/stable-diffusion v1-inference.yaml, first_stage_config
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,  # scale_factor there
}
_UNET: Final[Config] = {  # the same file, unet_config: model_channels 320, channel_mult 1 2 4 4, 8 heads, context 768
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,  # diffusers' name notwithstanding: the number of heads
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
_TEXT: Final[Config] = {  # openai/clip-vit-large-patch14, its text tower
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


def _geometry(prediction: Prediction) -> Geometry:
    del prediction
    return Geometry(_UNET, _VAE, {"text_encoder": _TEXT}, native_size_px=512)


def _tiny(vocabulary: int, max_tokens: int) -> Geometry:
    text = {
        **_TEXT,
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": max_tokens,
        "projection_dim": 32,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
    unet = {
        **_UNET,
        "sample_size": 8,
        "block_out_channels": [32, 32, 64, 64],
        "cross_attention_dim": 32,
        "norm_num_groups": 16,
        "attention_head_dim": 4,
    }
    vae = {**_VAE, "block_out_channels": [8, 8, 16, 16], "norm_num_groups": 8, "sample_size": 64}
    return Geometry(unet, vae, {"text_encoder": text}, native_size_px=64)


def _is_single_file(shapes: Shapes) -> bool:
    return shapes.get(_UNET_IN, (0, 0))[1] == 4 and any(name.startswith(_CLIP) for name in shapes)


def _is_folder(unet: Config, parts: Sequence[str]) -> bool:
    one_tower = "text_encoder" in parts and "text_encoder_2" not in parts
    return one_tower and not unet.get("use_linear_projection") and unet.get("addition_embed_type") is None


SD1: Final = Family(
    facts=Facts(
        family="sd1",
        title="Stable Diffusion 1.x",
        latent_channels=4,
        latent_scale=0.18215,  # CompVis/stable-diffusion v1-inference.yaml, scale_factor
        prediction="epsilon",
        native_size_px=512,
        text_encoders=("text_encoder",),
        kohya_text_prefixes={"text_encoder": "lora_te"},
        kohya_base_version={"epsilon": "sd_v1", "v_prediction": "sd_v1_v"},
        modelspec={"epsilon": "stable-diffusion-v1", "v_prediction": "stable-diffusion-v1"},
    ),
    towers=(TextTower("text_encoder", projected=False, layout="clip", prefix=_CLIP, padding=""),),
    penultimate=False,
    geometry=_geometry,
    tiny_geometry=_tiny,
    is_single_file=_is_single_file,
    is_folder=_is_folder,
)
