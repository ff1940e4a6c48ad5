"""Stable Diffusion 2.x: one OpenCLIP-H text encoder read at its penultimate layer, Linear projections; 768 px is v."""

from __future__ import annotations

from functools import partial
from typing import Final

from tsuika.core.types import Prediction
from tsuika.families import common, original_config
from tsuika.families.common import Family, Geometry, Names, TextTower

_SCALE: Final = 0.18215  # Stability-AI/stablediffusion v2-inference.yaml, scale_factor
# The same file, unet_config: num_head_channels 64, use_linear_in_transformer, context 1024
_UNET: Final = common.unet_config(
    [320, 640, 1280, 1280], 1024, [5, 10, 20, 20], (True, True, True, False), use_linear_projection=True
)
# laion/CLIP-ViT-H-14-laion2B-s32B-b79K, its text tower of 24 layers without the last
_TEXT: Final = common.clip_config(1024, 23, 16, act="gelu", projection=512, pad=0)


def _geometry(prediction: Prediction) -> Geometry:
    # SD 2.x: -base is 512 and epsilon, the other 768 and v
    native = 768 if prediction == "v_prediction" else 512
    unet = {**_UNET, "sample_size": native // 8}
    return Geometry(unet, common.vae_config(768, _SCALE), {"text_encoder": _TEXT}, native_size_px=native)


def _tiny(vocabulary: int, max_tokens: int) -> Geometry:
    text = {"text_encoder": common.tiny_clip(_TEXT, vocabulary, max_tokens)}
    sizes = {"block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 32, "attention_head_dim": [2, 2, 4, 4]}
    return common.tiny_geometry(_geometry("epsilon"), text, **sizes)


SD2: Final = Family(
    name="sd2",
    title="Stable Diffusion 2.x",
    short_title="SD 2.x",
    prediction="v_prediction",
    names=Names(
        kohya_version={"epsilon": "sd_v2", "v_prediction": "sd_v2_v"},
        modelspec={"epsilon": "stable-diffusion-v2-512", "v_prediction": "stable-diffusion-v2-768-v"},
        beginnings=("sd_v2", "stable-diffusion-v2"),
        implementation=common.COMPVIS,
        sd_scripts=("--v2",),
        model_index=original_config.STABLE_DIFFUSION_PIPELINE,
        inpainting_pipeline="StableDiffusionInpaintPipeline",
        hub_pattern=r"diffusion-2|sd-?2",
    ),
    towers=(
        TextTower(
            "text_encoder", "open_clip", "cond_stage_model.model.", kohya="lora_te", embedding="emb_params", padding="!"
        ),
    ),
    geometry=_geometry,
    tiny_geometry=_tiny,
    original_config=partial(
        original_config.latent_diffusion,
        text={
            "target": f"{original_config.LDM_ENCODERS}.FrozenOpenCLIPEmbedder",
            "params": {"freeze": True, "layer": "penultimate"},
        },
    ),
    # SD2 files name their prediction nowhere; ComfyUI recognises v models by this layer and number
    v_spread=("model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09),
)
