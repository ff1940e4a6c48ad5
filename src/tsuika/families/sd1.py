"""Stable Diffusion 1.x: one CLIP-L text encoder, 1x1-convolution projections around attention."""

from __future__ import annotations

from functools import partial
from typing import Final

from tsuika.core.types import Prediction
from tsuika.families import common, original_config
from tsuika.families.common import Family, Geometry, Names, TextTower

_SCALE: Final = 0.18215  # CompVis/stable-diffusion v1-inference.yaml, scale_factor
# The same file, unet_config: model_channels 320, channel_mult 1 2 4 4, 8 heads, context 768
_UNET: Final = common.unet_config([320, 640, 1280, 1280], 768, 8, (True, True, True, False), sample_size=64)
# openai/clip-vit-large-patch14, its text tower
_TEXT: Final = common.clip_config(768, 12, 12, act="quick_gelu", projection=768, pad=49407)


def _geometry(prediction: Prediction) -> Geometry:
    return Geometry(_UNET, common.vae_config(512, _SCALE), {"text_encoder": _TEXT}, native_size_px=512)


def _tiny(vocabulary: int, max_tokens: int) -> Geometry:
    text = {"text_encoder": common.tiny_clip(_TEXT, vocabulary, max_tokens, layers=2)}
    sizes = {"block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 32, "attention_head_dim": 4}
    return common.tiny_geometry(_geometry("epsilon"), text, **sizes)


SD1: Final = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    short_title="SD 1.x",
    prediction="epsilon",
    names=Names(
        kohya_version={"epsilon": "sd_v1", "v_prediction": "sd_v1_v"},
        modelspec={"epsilon": "stable-diffusion-v1", "v_prediction": "stable-diffusion-v1"},
        beginnings=("sd_v1", "stable-diffusion-v1"),
        implementation=common.COMPVIS,
        sd_scripts=(),
        model_index=original_config.STABLE_DIFFUSION_PIPELINE,
        inpainting_pipeline="StableDiffusionInpaintPipeline",
    ),
    towers=(
        TextTower("text_encoder", "clip", "cond_stage_model.transformer.", kohya="lora_te", embedding="emb_params"),
    ),
    geometry=_geometry,
    tiny_geometry=_tiny,
    original_config=partial(
        original_config.latent_diffusion, text={"target": f"{original_config.LDM_ENCODERS}.FrozenCLIPEmbedder"}
    ),
)
