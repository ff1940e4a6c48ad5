"""Bases on disk as models, ready to use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsuika.core import files
from tsuika.core.weights import Weights, read_json
from tsuika.families import sources
from tsuika.families.common import scheduler_config
from tsuika.families.model import StableDiffusion
from tsuika.families.parts import is_read
from tsuika.families.stored import StoredBase

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class LoadOptions:
    """How a base is loaded; see `families.load`."""

    tokenizer: str
    vae: str
    device: torch.device
    dtype: torch.dtype
    tokenizers: Mapping[str, Any] = field(default_factory=dict)  # of a single file, where they are at hand


def load(base: StoredBase, options: LoadOptions, source: str) -> StableDiffusion:
    """The model, frozen.

    Raises:
        ModelError: a part is missing, damaged or does not fit (MD003), or is a pickle with code (MD005).
        NetworkError: no tokenizer or VAE was given, cached or to be had.
    """
    tokenizers = _tokenizers(base, options)
    if base.file:
        scheduler = scheduler_config(base.prediction, zero_terminal_snr=base.zero_terminal_snr)
    else:
        scheduler = read_json(base.path / "scheduler" / "scheduler_config.json")
    return StableDiffusion(
        family=base.family,
        prediction=base.prediction,
        unet=base.unet().load(options.device, options.dtype),
        vae=base.load_vae(options.vae, options.device),
        text_encoders={part.component: part.load(options.device, options.dtype) for part in base.text_encoders()},
        tokenizers=tokenizers,
        scheduler_config=scheduler,
        latent_scale=base.geometry.latent_scale,
        native_size_px=base.geometry.native_size_px,
        source=source,
        sha256=files.sha256(base.path) if base.file else None,
        extra_tensors=_extra_tensors(base, base.file) if base.file else {},
    )


def _tokenizers(base: StoredBase, options: LoadOptions) -> dict[str, Any]:
    if options.tokenizers:
        return dict(options.tokenizers)
    folder = Path(options.tokenizer) if options.tokenizer else base.path
    if base.file and not options.tokenizer:
        folder = sources.clip_tokenizer(base.path)
    is_own = not (base.file or options.tokenizer)
    return {
        tower.tokenizer: sources.find_tokenizer(folder, tower.tokenizer, None if is_own else tower)
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
