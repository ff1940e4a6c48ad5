"""Stable Diffusion 2.x: one OpenCLIP-H text encoder read at its penultimate layer, Linear projections; 768 px is v."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tsuika.core.types import Facts, Prediction
from tsuika.families.common import Config, Family, Geometry, Shapes, TextTower

_OPEN_CLIP: Final = "cond_stage_model.model."
_UNET_IN: Final = "model.diffusion_model.input_blocks.0.0.weight"

_VAE: Final[Config] = {  # Stability-AI/stablediffusion v2-inference.yaml, first_stage_config; the same as SD1's
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}
_UNET: Final[Config] = {  # the same file, unet_config: num_head_channels 64, use_linear_in_transformer, context 1024
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "attention_head_dim": [5, 10, 20, 20],  # numbers of heads, each 64 wide
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
_TEXT: Final[Config] = {  # laion/CLIP-ViT-H-14-laion2B-s32B-b79K, its text tower of 24 layers without the last
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
    "projection_dim": 512,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 0,
}


def _geometry(prediction: Prediction) -> Geometry:
    native = 768 if prediction == "v_prediction" else 512  # SD 2.x: -base is 512 and epsilon, the other 768 and v
    return Geometry({**_UNET, "sample_size": native // 8}, _VAE, {"text_encoder": _TEXT}, native_size_px=native)


def _tiny(vocabulary: int, max_tokens: int) -> Geometry:
    text = {
        **_TEXT,
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": max_tokens,
        "projection_dim": 32,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }
    unet = {
        **_UNET,
        "sample_size": 8,
        "block_out_channels": [32, 32, 64, 64],
        "cross_attention_dim": 32,
        "norm_num_groups": 16,
        "attention_head_dim": [2, 2, 4, 4],
    }
    vae = {**_VAE, "block_out_channels": [8, 8, 16, 16], "norm_num_groups": 8, "sample_size": 64}
    return Geometry(unet, vae, {"text_encoder": text}, native_size_px=64)


def _is_single_file(shapes: Shapes) -> bool:
    return shapes.get(_UNET_IN, (0, 0))[1] == 4 and any(name.startswith(_OPEN_CLIP) for name in shapes)


def _is_folder(unet: Config, parts: Sequence[str]) -> bool:
    one_tower = "text_encoder" in parts and "text_encoder_2" not in parts
    return one_tower and bool(unet.get("use_linear_projection")) and unet.get("addition_embed_type") is None


SD2: Final = Family(
    facts=Facts(
        family="sd2",
        title="Stable Diffusion 2.x",
        latent_channels=4,
        latent_scale=0.18215,  # Stability-AI/stablediffusion v2-inference.yaml, scale_factor
        prediction="v_prediction",
        native_size_px=768,
        text_encoders=("text_encoder",),
        kohya_text_prefixes={"text_encoder": "lora_te"},
        kohya_base_version={"epsilon": "sd_v2", "v_prediction": "sd_v2_v"},
        modelspec={"epsilon": "stable-diffusion-v2-512", "v_prediction": "stable-diffusion-v2-768-v"},
    ),
    towers=(TextTower("text_encoder", projected=False, layout="open_clip", prefix=_OPEN_CLIP, padding="!"),),
    penultimate=False,  # the missing 24th layer makes the last state the penultimate one
    geometry=_geometry,
    tiny_geometry=_tiny,
    is_single_file=_is_single_file,
    is_folder=_is_folder,
)
