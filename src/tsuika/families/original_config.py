"""The configuration of a model as its original programs read it: the `.yaml` beside a single file, always for
v-prediction. Sources: `v1-inference.yaml` (CompVis), `v2-inference-v.yaml` and `sd_xl_base.yaml` (Stability AI)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

LDM_ENCODERS: Final = "ldm.modules.encoders.modules"
STABLE_DIFFUSION_PIPELINE: Final[Mapping[str, Any]] = {
    "_class_name": "StableDiffusionPipeline",
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
}


def network(unet: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `UNetModel`."""
    widths = unet["block_out_channels"]
    # diffusers' name for the number of heads
    heads = unet["attention_head_dim"]
    return {
        "use_checkpoint": True,
        "in_channels": unet["in_channels"],
        "out_channels": unet["out_channels"],
        "model_channels": widths[0],
        "attention_resolutions": [2**i for i, kind in enumerate(unet["down_block_types"]) if "CrossAttn" in kind][::-1],
        "num_res_blocks": unet["layers_per_block"],
        "channel_mult": [width // widths[0] for width in widths],
        **({"num_heads": heads} if isinstance(heads, int) else {"num_head_channels": widths[0] // heads[0]}),
        # Asserted where there is a context by the sgm of A1111 1.10.1 (generative-models 45c443b), whose default is False.
        "use_spatial_transformer": True,
        "use_linear_in_transformer": bool(unet["use_linear_projection"]),
        "transformer_depth": unet["transformer_layers_per_block"],
        "context_dim": unet["cross_attention_dim"],
        "legacy": False,
    }


def first_stage(vae: Mapping[str, Any], target: str) -> dict[str, Any]:
    """The VAE as an object of the class `target`."""
    widths = vae["block_out_channels"]
    sizes = {
        "double_z": True,
        "z_channels": vae["latent_channels"],
        "resolution": 256,
        "in_channels": vae["in_channels"],
        "out_ch": vae["out_channels"],
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": vae["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    loss = {"target": "torch.nn.Identity"}
    return {"target": target, "params": {"embed_dim": vae["latent_channels"], "ddconfig": sizes, "lossconfig": loss}}


def latent_diffusion(configs: Mapping[str, Any], latent_scale: float, *, text: Mapping[str, Any]) -> dict[str, Any]:
    """A model of CompVis' `ldm`, of configs by part (`unet`, `vae`, `scheduler`, as diffusers writes them), with the
    text encoder `text` (`cond_stage_config`)."""
    scheduler = configs["scheduler"]
    unet = {"image_size": 32, **network(configs["unet"])}
    params = {
        "parameterization": "v",
        "linear_start": scheduler.get("beta_start", 0.00085),
        "linear_end": scheduler.get("beta_end", 0.012),
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "timesteps": scheduler.get("num_train_timesteps", 1000),
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": 64,
        "channels": configs["unet"]["in_channels"],
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
        "monitor": "val/loss_simple_ema",
        "scale_factor": latent_scale,
        "use_ema": False,
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
        "first_stage_config": first_stage(configs["vae"], "ldm.models.autoencoder.AutoencoderKL"),
        "cond_stage_config": text,
    }
    return {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}
