"""Bases on disk as models, ready to use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsuika.core import files
from tsuika.core.weights import Weights, read_json
from tsuika.families import sources, vaes
from tsuika.families.common import scheduler_config
from tsuika.families.model import StableDiffusion
from tsuika.families.parts import is_read
from tsuika.families.stored import StoredBase

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def load(
    base: StoredBase,
    source: str,
    device: torch.device,
    dtype: torch.dtype,
    tokenizers: Mapping[str, Any],
    vae: str = vaes.BUILTIN,
) -> StableDiffusion:
    """The model, frozen; see `families.load`.

    Raises:
        ModelError: a part is missing, damaged or does not fit (MD003), or is a pickle with code (MD005).
        NetworkError: no VAE was given, cached or to be had.
    """
    if base.file:
        scheduler = scheduler_config(base.prediction, zero_terminal_snr=base.zero_terminal_snr)
    else:
        scheduler = read_json(base.path / "scheduler" / "scheduler_config.json")
    return StableDiffusion(
        family=base.family,
        prediction=base.prediction,
        unet=base.unet().load(device, dtype),
        vae=base.load_vae(vae, device),
        text_encoders={part.component: part.load(device, dtype) for part in base.text_encoders()},
        tokenizers=dict(tokenizers),
        scheduler_config=scheduler,
        latent_scale=base.geometry.latent_scale,
        native_size_px=base.geometry.native_size_px,
        source=source,
        sha256=files.sha256(base.path) if base.file else None,
        extra_tensors=_extra_tensors(base, base.file) if base.file else {},
    )


def find_tokenizers(base: StoredBase, folder: str) -> dict[str, Any]:
    """The tokenizers in a folder; with "" the base's own, or for a single file CLIP's.

    Raises:
        ModelError: none there, or not readable (MD003).
        NetworkError: they are neither cached nor to be had.
    """
    is_own = not (base.file or folder)
    place = Path(folder) if folder else sources.clip_tokenizer(base.path) if base.file else base.path
    return {
        tower.tokenizer: sources.find_tokenizer(place, tower.tokenizer, None if is_own else tower)
        for tower in base.family.towers
    }


def _extra_tensors(base: StoredBase, file: Weights) -> dict[str, Tensor]:
    """What open_clip's towers have and no part computes with."""
    return {
        name: file.tensor(name).to("cpu", copy=True)
        for tower in base.family.towers
        if tower.layout == "open_clip"
        for name in file.names(tower.prefix)
        if name == f"{tower.prefix}logit_scale" or not is_read(name, tower, base.geometry.text[tower.component])
    }
