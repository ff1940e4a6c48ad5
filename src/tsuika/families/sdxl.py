"""Stable Diffusion XL (base): CLIP-L and OpenCLIP-bigG read at the penultimate layer, pooled text, sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tsuika.core.types import Prediction
from tsuika.families import common, original_config
from tsuika.families.common import Family, Geometry, Names, TextTower

_SCALE: Final = 0.13025  # Stability-AI/generative-models sd_xl_base.yaml, scale_factor
# The same file, network_config: channel_mult 1 2 4, transformer_depth 1 2 10, context 2048
_UNET: Final = common.unet_config(
    [320, 640, 1280],
    2048,
    [5, 10, 20],
    (False, True, True),
    sample_size=128,
    use_linear_projection=True,
    transformer_layers_per_block=[1, 2, 10],
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,  # adm_in_channels there: 1280 pooled + 6 x 256 sizes
)
# openai/clip-vit-large-patch14 and laion/CLIP-ViT-bigG-14-laion2B-39B-b160k, their text towers
_TEXT_L: Final = common.clip_config(768, 12, 12, act="quick_gelu", projection=768, pad=49407)
_TEXT_G: Final = common.clip_config(1280, 32, 20, act="gelu", projection=1280, pad=0)


def _geometry(prediction: Prediction) -> Geometry:
    text = {"text_encoder": _TEXT_L, "text_encoder_2": _TEXT_G}
    return Geometry(_UNET, common.vae_config(1024, _SCALE, force_upcast=True), text, native_size_px=1024)


def _tiny(vocabulary: int, max_tokens: int) -> Geometry:
    text = {
        "text_encoder": common.tiny_clip(_TEXT_L, vocabulary, max_tokens),
        "text_encoder_2": common.tiny_clip(_TEXT_G, vocabulary, max_tokens, width=48),
    }
    sizes = {
        "block_out_channels": [32, 32, 64],
        "cross_attention_dim": 80,
        "attention_head_dim": [2, 2, 4],
        "transformer_layers_per_block": [1, 2, 3],
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 48 + 6 * 8,
    }
    return common.tiny_geometry(_geometry("epsilon"), text, **sizes)


def _original_config(configs: Mapping[str, Any], latent_scale: float) -> dict[str, Any]:
    """`sd_xl_base.yaml` (Stability AI) for these sizes, with v-prediction set."""
    unet, diffusion, encoders = configs["unet"], "sgm.modules.diffusionmodules", "sgm.modules.encoders.modules"

    def embedder(key: str, kind: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"is_trainable": False, "input_key": key, "target": f"{encoders}.{kind}", "params": params}

    clip_l = {"layer": "hidden", "layer_idx": configs["text_encoder"]["num_hidden_layers"] - 1}
    clip_g = {
        "arch": "ViT-bigG-14",
        "version": "laion2b_s39b_b160k",
        "freeze": True,
        "layer": "penultimate",
        "always_return_pooled": True,
        "legacy": False,
    }
    sizes = {"outdim": unet["addition_time_embed_dim"]}
    embedders = [
        embedder("txt", "FrozenCLIPEmbedder", clip_l),
        embedder("txt", "FrozenOpenCLIPEmbedder2", clip_g),
        *(
            embedder(key, "ConcatTimestepEmbedderND", sizes)
            for key in ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
        ),
    ]
    denoiser = {
        "num_idx": 1000,
        "weighting_config": {"target": f"{diffusion}.denoiser_weighting.EpsWeighting"},
        "scaling_config": {"target": f"{diffusion}.denoiser_scaling.VScaling"},
        "discretization_config": {"target": f"{diffusion}.discretizer.LegacyDDPMDiscretization"},
    }
    network = {
        "adm_in_channels": unet["projection_class_embeddings_input_dim"],
        "num_classes": "sequential",
        **original_config.network(unet),
        "spatial_transformer_attn_type": "softmax-xformers",
    }
    params = {
        "scale_factor": latent_scale,
        "disable_first_stage_autocast": True,
        "denoiser_config": {"target": f"{diffusion}.denoiser.DiscreteDenoiser", "params": denoiser},
        "network_config": {"target": f"{diffusion}.openaimodel.UNetModel", "params": network},
        "conditioner_config": {"target": "sgm.modules.GeneralConditioner", "params": {"emb_models": embedders}},
        "first_stage_config": original_config.first_stage(
            configs["vae"], "sgm.models.autoencoder.AutoencoderKLInferenceWrapper"
        ),
    }
    return {"target": "sgm.models.diffusion.DiffusionEngine", "params": params}


SDXL: Final = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    short_title="SDXL",
    prediction="epsilon",
    names=Names(
        kohya_version={"epsilon": "sdxl_base_v1-0", "v_prediction": "sdxl_base_v1-0"},
        modelspec={"epsilon": "stable-diffusion-xl-v1-base", "v_prediction": "stable-diffusion-xl-v1-base"},
        beginnings=("sdxl_", "stable-diffusion-xl"),
        implementation=common.SGM,
        sd_scripts=("--sdxl",),
        # an empty negative prompt is encoded, here as in training
        model_index={"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": False},
        inpainting_pipeline="StableDiffusionXLInpaintPipeline",
        hub_pattern="xl",
        has_ldm_lora=True,
        v_markers=("v_pred", "ztsnr"),
    ),
    towers=(
        TextTower("text_encoder", "clip", "conditioner.embedders.0.transformer.", kohya="lora_te1", embedding="clip_l"),
        TextTower(
            "text_encoder_2",
            "open_clip",
            "conditioner.embedders.1.model.",
            kohya="lora_te2",
            embedding="clip_g",
            projected=True,
            padding="!",
        ),
    ),
    penultimate=True,
    geometry=_geometry,
    tiny_geometry=_tiny,
    original_config=_original_config,
)
