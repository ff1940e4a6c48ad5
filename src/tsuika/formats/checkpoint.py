"""Whole models as one `.safetensors` file in the original (LDM) layout, as every program loads them.

A checkpoint is a base: it is written here and read by `families`. Key sets, shapes and markers of v-prediction are
those of CompVis, Stability AI and open_clip; see `diffusion.ldm`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core.errors import FormatError
from tsuika.core.files import whole, write_text
from tsuika.core.types import Artifact
from tsuika.core.words import Words
from tsuika.diffusion import ldm
from tsuika.formats import common, container

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_UNET: Final = "model.diffusion_model."
_VAE: Final = "first_stage_model."
_TOWERS: Final = {  # family -> component -> (prefix, whether in open_clip's layout)
    "sd1": {"text_encoder": ("cond_stage_model.transformer.", False)},
    "sd2": {"text_encoder": ("cond_stage_model.model.", True)},
    "sdxl": {
        "text_encoder": ("conditioner.embedders.0.transformer.", False),
        "text_encoder_2": ("conditioner.embedders.1.model.", True),
    },
}
_SIZES: Final = ("unet_config", "vae_config", "text_encoder_config", "text_encoder_2_config", "native_size_px")
_LOGIT_SCALE: Final = math.log(100)  # CLIP's upper limit, which trained models reach (Radford et al. 2021, 2.5)


@dataclass
class Row:
    """A tensor of the file: its shape, and the canonical tensors that it is made of (three if fused)."""

    shape: tuple[int, ...]
    parts: list[Tensor] = field(default_factory=list)
    transposed: bool = False

    def numbers(self) -> Tensor:
        """The tensor itself."""
        import torch

        whole = torch.cat(self.parts) if len(self.parts) > 1 else self.parts[0]
        return (whole.T if self.transposed else whole).reshape(self.shape)


def rows(artifact: Artifact) -> dict[str, Row]:
    """Every tensor of the file by its full name there, nothing computed yet (meta tensors will do).

    Raises:
        FormatError: the layout has no place for a tensor (FM002).
    """
    configs = {key: json.loads(text) for key, text in artifact.metadata.items() if key.endswith("_config")}
    towers = _TOWERS.get(artifact.family)
    if artifact.method != "dreambooth" or towers is None:
        why = Words(
            f"It is a {artifact.method} for {artifact.family}, and this format is for whole models.",
            f"これは{artifact.family}用の{artifact.method}で、この形式はモデル全体用です。",
        )
        raise _cannot(why)
    found: dict[str, Row] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for name, tensor in artifact.tensors.items():
        component, _, path = name.partition(".")
        try:
            if component == "unet":
                place = ldm.unet_place(path, configs["unet_config"]).under(_UNET)
            elif component == "vae":
                place = ldm.vae_place(path, configs["vae_config"]).under(_VAE)
            elif component in towers:
                prefix, is_open_clip = towers[component]
                place = (ldm.open_clip_place if is_open_clip else ldm.clip_place)(path, {}).under(prefix)
            else:
                continue  # the base's spare tensors, below
        except (KeyError, TypeError):
            raise _cannot(Words(f"There is no place for `{name}`.", f"`{name}` を入れる場所がありません。")) from None
        if place.third is not None:
            thirds.setdefault(place.name, {})[place.third] = tensor
        elif component == "vae" and ".attn_1." in place.name and tensor.ndim == 2:
            found[place.name] = Row((*tensor.shape, 1, 1), [tensor])  # 1x1 convolutions there
        else:
            shape = tuple(reversed(tensor.shape)) if place.transposed else tuple(tensor.shape)
            found[place.name] = Row(shape, [tensor], place.transposed)
    for name, three in thirds.items():
        parts = [three[number] for number in range(3)]
        found[name] = Row((3 * parts[0].shape[0], *parts[0].shape[1:]), parts)
    return found | _unused(artifact, found)


def _unused(artifact: Artifact, found: Mapping[str, Row]) -> dict[str, Row]:
    """What open_clip's towers have and nothing computes with, but clients report as missing: the base's own, or made.

    SD2 reads before the last block, so a copy of the block before stands in for it, and the unit matrix for the
    projection.
    """
    import torch

    made: dict[str, Row] = {}
    for prefix, is_open_clip in _TOWERS[artifact.family].values():
        if not is_open_clip:
            continue
        made[f"{prefix}logit_scale"] = Row((), [torch.tensor(_LOGIT_SCALE)])
        if f"{prefix}text_projection" in found:
            continue
        block = re.compile(rf"{re.escape(prefix)}transformer\.resblocks\.(\d+)\.(.+)")
        blocks = [(int(match[1]), match[2], row) for name, row in found.items() if (match := block.fullmatch(name))]
        last = max(number for number, _, _ in blocks)
        made |= {f"{prefix}transformer.resblocks.{last + 1}.{rest}": row for n, rest, row in blocks if n == last}
        width = found[f"{prefix}ln_final.weight"].shape[0]
        made[f"{prefix}text_projection"] = Row((width, width), [torch.eye(width)])
    for name, tensor in artifact.tensors.items():
        component, _, key = name.partition(".")
        if component == "spare" and key in made:
            made[key] = Row(tuple(tensor.shape), [tensor])
    return made


def _cannot(why: Words) -> FormatError:
    do = Words("Use the diffusers folder.", "diffusers形式のフォルダーを使ってください。")
    return FormatError("FM002", format=SingleFile.name, why=why, do=do)


def markers(artifact: Artifact) -> tuple[str, ...]:
    """Names of the empty tensors by which ComfyUI and Forge know an SDXL that predicts v."""
    if artifact.family != "sdxl" or artifact.metadata.get("prediction") != "v_prediction":
        return ()
    scheduler = json.loads(artifact.metadata.get("scheduler_config", "{}"))
    return ("v_pred", "ztsnr") if scheduler.get("rescale_betas_zero_snr") else ("v_pred",)


def header_metadata(artifact: Artifact) -> dict[str, str]:
    """`modelspec.*` fields. Source: Stability AI's ModelSpec 1.0.1."""
    facts, v = artifact.metadata, artifact.metadata.get("prediction") == "v_prediction"
    architecture = {
        "sd1": "stable-diffusion-v1",
        "sd2": "stable-diffusion-v2-768-v" if v else "stable-diffusion-v2-512",
        "sdxl": "stable-diffusion-xl-v1-base",
    }[artifact.family]
    sgm = "https://github.com/Stability-AI/generative-models"
    native = facts.get("native_size_px", "")
    optional = {
        "trigger_phrase": "trigger",
        "description": "description",
        "author": "author",
        "license": "license",
        "tags": "tags",
        "date": "date",
    }
    made = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture,
        "modelspec.implementation": sgm if artifact.family == "sdxl" else "https://github.com/CompVis/stable-diffusion",
        "modelspec.title": facts.get("title") or facts.get("name") or "DreamBooth",
        "modelspec.resolution": facts.get("resolution") or f"{native}x{native}",
        "modelspec.prediction_type": "v" if v else "epsilon",
        ldm.CONFIGS: json.dumps({name: json.loads(facts[name]) for name in sorted(facts) if name in _SIZES}),
        **{f"modelspec.{key}": facts[fact] for key, fact in optional.items() if facts.get(fact)},
    }
    return dict(sorted(made.items()))


class SingleFile(common.WriteOnly):
    """The format. See `core.types.Format`."""

    name = "single-file"
    method = "dreambooth"
    suffix = ".safetensors"

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """Write whole or not at all, tensor by tensor; with `<stem>.yaml` beside it where the model predicts v, else
        without one: that of another model would be read as this one's.

        Raises:
            FormatError: the layout has no place for a tensor, or `dtype` cannot hold its numbers (FM002).
        """
        import torch

        planned = rows(artifact)
        empty = {name: torch.empty(row.shape, dtype=dtype, device="meta") for name, row in planned.items()}
        empty |= {name: torch.empty(0, dtype=dtype, device="meta") for name in markers(artifact)}

        def make(name: str) -> Tensor:
            if name not in planned:
                return torch.empty(0, dtype=dtype)
            return container.cast({name: planned[name].numbers()}, dtype, self.name)[name]

        container.save_tensors(path, empty, header_metadata(artifact), make)
        if artifact.metadata.get("prediction") == "v_prediction":
            write_text(path.with_suffix(".yaml"), yaml_text(artifact))
        else:
            path.with_suffix(".yaml").unlink(missing_ok=True)

    def notes(self, artifact: Artifact) -> Iterator[str]:
        """Codes of what people should know about a file of this artifact; their messages name the `file`."""
        kept = any(name.startswith("spare.") for name in artifact.tensors)
        if artifact.family == "sd2" and not kept:
            yield "FM006"


# ---------------------------------------------------------------------------------------------------------- the .yaml


def copy_yaml(source: Path, out: Path) -> bool:
    """Give a copy of a single file the `.yaml` that stands beside the original, or none where there is none.

    Returns:
        Whether there was one to copy.
    """
    theirs, ours = source.with_suffix(".yaml"), out.with_suffix(".yaml")
    if theirs.is_file() and ours.exists() and ours.samefile(theirs):  # the copy stands beside the original
        return False
    if not theirs.is_file():
        ours.unlink(missing_ok=True)
        return False
    with whole(ours) as temporary:
        temporary.write_bytes(theirs.read_bytes())
    return True


def yaml_text(artifact: Artifact) -> str:
    """The model's configuration as the original programs read it, with v-prediction set.

    Sources: `v1-inference.yaml` (CompVis), `v2-inference-v.yaml` and `sd_xl_base.yaml` (Stability AI).
    """
    return "\n".join(_yaml({"model": (_sdxl if artifact.family == "sdxl" else _latent_diffusion)(artifact)})) + "\n"


def _yaml(value: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for key, one in value.items():
        if isinstance(one, Mapping) and one:
            yield f"{indent}{key}:"
            yield from _yaml(one, f"{indent}  ")
        elif isinstance(one, list) and one and isinstance(one[0], Mapping):
            yield f"{indent}{key}:"
            for item in one:
                first, *rest = _yaml(item, f"{indent}    ")
                yield from (f"{indent}  - {first.lstrip()}", *rest)
        else:
            yield f"{indent}{key}: {json.dumps(one)}"  # plain values of JSON are values of YAML


def _config(artifact: Artifact, name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(artifact.metadata[f"{name}_config"])
    return config


def _network(artifact: Artifact) -> dict[str, Any]:
    unet = _config(artifact, "unet")
    widths = unet["block_out_channels"]
    attended = [2**i for i, kind in enumerate(unet["down_block_types"]) if "CrossAttn" in kind]
    heads = unet["attention_head_dim"]  # diffusers' name for the number of heads
    size = {"num_heads": heads} if isinstance(heads, int) else {"num_head_channels": widths[0] // heads[0]}
    depth = unet["transformer_layers_per_block"]
    return {
        "use_checkpoint": True,
        "in_channels": unet["in_channels"],
        "out_channels": unet["out_channels"],
        "model_channels": widths[0],
        "attention_resolutions": attended[::-1],
        "num_res_blocks": unet["layers_per_block"],
        "channel_mult": [width // widths[0] for width in widths],
        **size,
        "use_linear_in_transformer": bool(unet["use_linear_projection"]),
        "transformer_depth": depth,
        "context_dim": unet["cross_attention_dim"],
        "legacy": False,
    }


def _first_stage(artifact: Artifact, target: str, loss: str) -> dict[str, Any]:
    vae = _config(artifact, "vae")
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
    params = {"embed_dim": vae["latent_channels"], "ddconfig": sizes, "lossconfig": {"target": loss}}
    return {"target": target, "params": params}


def _latent_diffusion(artifact: Artifact) -> dict[str, Any]:
    scheduler, is_sd2 = _config(artifact, "scheduler"), artifact.family == "sd2"
    encoders = "ldm.modules.encoders.modules"
    text = (
        {"target": f"{encoders}.FrozenOpenCLIPEmbedder", "params": {"freeze": True, "layer": "penultimate"}}
        if is_sd2
        else {"target": f"{encoders}.FrozenCLIPEmbedder"}
    )
    unet = {"image_size": 32, "use_spatial_transformer": True, **_network(artifact)}
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
        "channels": _config(artifact, "unet")["in_channels"],
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
        "monitor": "val/loss_simple_ema",
        "scale_factor": float(artifact.metadata["latent_scale"]),
        "use_ema": False,
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
        "first_stage_config": _first_stage(artifact, "ldm.models.autoencoder.AutoencoderKL", "torch.nn.Identity"),
        "cond_stage_config": text,
    }
    return {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}


def _sdxl(artifact: Artifact) -> dict[str, Any]:
    unet, diffusion, encoders = (
        _config(artifact, "unet"),
        "sgm.modules.diffusionmodules",
        "sgm.modules.encoders.modules",
    )
    sizes = unet["addition_time_embed_dim"]
    clip_l = {"layer": "hidden", "layer_idx": _config(artifact, "text_encoder")["num_hidden_layers"] - 1}
    clip_g = {
        "arch": "ViT-bigG-14",
        "version": "laion2b_s39b_b160k",
        "freeze": True,
        "layer": "penultimate",
        "always_return_pooled": True,
        "legacy": False,
    }
    embedders = [
        {"is_trainable": False, "input_key": "txt", "target": f"{encoders}.FrozenCLIPEmbedder", "params": clip_l},
        {"is_trainable": False, "input_key": "txt", "target": f"{encoders}.FrozenOpenCLIPEmbedder2", "params": clip_g},
        *(
            {
                "is_trainable": False,
                "input_key": key,
                "target": f"{encoders}.ConcatTimestepEmbedderND",
                "params": {"outdim": sizes},
            }
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
        **_network(artifact),
        "spatial_transformer_attn_type": "softmax-xformers",
    }
    params = {
        "scale_factor": float(artifact.metadata["latent_scale"]),
        "disable_first_stage_autocast": True,
        "denoiser_config": {"target": f"{diffusion}.denoiser.DiscreteDenoiser", "params": denoiser},
        "network_config": {"target": f"{diffusion}.openaimodel.UNetModel", "params": network},
        "conditioner_config": {"target": "sgm.modules.GeneralConditioner", "params": {"emb_models": embedders}},
        "first_stage_config": _first_stage(
            artifact, "sgm.models.autoencoder.AutoencoderKLInferenceWrapper", "torch.nn.Identity"
        ),
    }
    return {"target": "sgm.models.diffusion.DiffusionEngine", "params": params}
