"""A VAE by itself: one file in the original (LDM) layout without a prefix, as every program takes it, or a diffusers folder.
Both are read in all spellings. An artifact has method `vae`, diffusers' names, and diffusers' config as JSON in the
metadata (`vae_config`). Not in `FORMATS`: a VAE is part of a base and is applied to nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import safetensors
from tsuika.core.errors import FormatError
from tsuika.core.files import write_text
from tsuika.core.texts import _, _n
from tsuika.core.types import Artifact
from tsuika.core.weights import UNET_PREFIX, Weights, open_folder, open_weights, read_json
from tsuika.diffusion import ldm
from tsuika.families.parts import vae_part
from tsuika.formats import common

if TYPE_CHECKING:
    import torch

METHOD: Final = "vae"
CONFIG: Final = "vae_config"
WEIGHTS: Final = "diffusion_pytorch_model"
_LEVEL: Final = re.compile(r"encoder\.down(?:_blocks)?\.(\d+)\.(?:block|resnets)\.(\d+)\.conv1\.weight")
_GROUPS: Final = 32  # of every norm, CompVis `model.py`


class VaeFile:
    """One `.safetensors`. See `core.types.Format`."""

    name = "single-file"
    method = METHOD
    suffix = ".safetensors"

    def sniff(self, path: Path) -> bool:
        return path.is_file() and _prefix(open_weights(path)) is not None

    def read(self, path: Path) -> Artifact:
        """The VAE; its config follows from the shapes, but for the latent scale, which no such file holds."""
        weights = open_weights(path)
        if (prefix := _prefix(weights)) is None:
            found = _n("{count} tensor", "{count} tensors", len(weights.shapes))
            expected = _("a VAE (encoder and decoder)")
            raise FormatError("FM001", where=path, found=found, expected=expected)
        shapes = {name.removeprefix(prefix): shape for name, shape in weights.shapes.items() if name.startswith(prefix)}
        return _artifact(weights, _config(path, shapes), weights.metadata)

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """Write whole or not at all; attention as 1x1 convolutions, which A1111 and kohya demand."""
        config = _own_config(artifact, self.name)
        tensors = {}
        for name, tensor in artifact.tensors.items():
            place = ldm.vae_place(name, config).name
            tensors[place] = tensor[:, :, None, None] if ".attn_1." in place and tensor.ndim == 2 else tensor
        safetensors.save_tensors(path, safetensors.cast(tensors, dtype, self.name), {"format": "pt"})


class VaeFolder:
    """`config.json` and `diffusion_pytorch_model.safetensors`. See `core.types.Format`."""

    name = "diffusers"
    method = METHOD
    suffix = ""

    def sniff(self, path: Path) -> bool:
        file = path / "config.json"
        return file.is_file() and read_json(file).get("_class_name") == "AutoencoderKL"

    def read(self, path: Path) -> Artifact:
        return _artifact(open_folder(path, WEIGHTS), read_json(path / "config.json"), {})

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """Write the weights, then the config without which the folder is none."""
        config = _own_config(artifact, self.name)
        ready = safetensors.cast(artifact.tensors, dtype, self.name)
        safetensors.save_tensors(path / f"{WEIGHTS}.safetensors", ready, {"format": "pt"})
        write_text(path / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")


VAE_FORMATS: Final = (VaeFile(), VaeFolder())


def _prefix(weights: Weights) -> str | None:
    """What stands before a lone VAE's names; None where it is something else, or part of a whole model."""
    prefix = weights.vae_prefix
    if prefix is None or weights.starts(UNET_PREFIX):
        return None
    needed = ("decoder.conv_in.weight", "encoder.conv_in.weight")
    return prefix if all(f"{prefix}{name}" in weights.shapes for name in needed) else None


def _own_config(artifact: Artifact, format_name: str) -> dict[str, Any]:
    if artifact.method != METHOD:
        raise common.of_another_method(artifact.method, format_name, _("VAEs"))
    config: dict[str, Any] = json.loads(artifact.metadata[CONFIG])
    return config


def _config(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """diffusers' config of a VAE with these shapes, without its latent scale."""
    found = {(int(m[1]), int(m[2])): shape[0] for name, shape in shapes.items() if (m := _LEVEL.fullmatch(name))}
    levels = sorted({level for level, _ in found})
    if not levels or levels != [*range(len(levels))] or any((level, 0) not in found for level in levels):
        raise safetensors.damaged(path, _("an encoder of which levels are missing"))
    widths = [found[level, 0] for level in levels]
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0] if "decoder.conv_out.weight" in shapes else 3,
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        **{f"use_{name}": False for name in ("quant_conv", "post_quant_conv") if f"{name}.weight" not in shapes},
        "block_out_channels": widths,
        "layers_per_block": sum(level == 0 for level, _ in found),
        "down_block_types": ["DownEncoderBlock2D"] * len(levels),
        "up_block_types": ["UpDecoderBlock2D"] * len(levels),
        "act_fn": "silu",
        "norm_num_groups": _GROUPS if all(width % _GROUPS == 0 for width in widths) else min(widths),
    }


def _artifact(weights: Weights, config: dict[str, Any], metadata: Mapping[str, str]) -> Artifact:
    """All of the VAE's tensors by diffusers' names; nothing may be missing or left over."""
    part = vae_part(weights, config)
    return Artifact(METHOD, "", part.tensors(part.empty()), {**metadata, CONFIG: json.dumps(config)})
