"""The families of Stable Diffusion that tsuika knows: what a file is, and how it becomes a `core.types.Model`."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsuika.core.errors import ModelError
from tsuika.core.files import at_home
from tsuika.core.texts import _
from tsuika.core.types import AS_STORED, Model, Overrides
from tsuika.families import sources, stored, vaes
from tsuika.families.common import Family, Geometry
from tsuika.families.model import StableDiffusion
from tsuika.families.sd1 import SD1
from tsuika.families.sd2 import SD2
from tsuika.families.sd3 import SD3
from tsuika.families.sdxl import SDXL
from tsuika.families.stored import StoredBase

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["Family", "Geometry", "StableDiffusion", "StoredBase"]  # what is defined elsewhere and looked for here

FAMILIES: Final[tuple[Family, ...]] = (SD1, SD2, SDXL, SD3)  # the first is assumed where a file gives no evidence


def family(name: str) -> Family:
    """The family called `sd1`, `sd2`, `sdxl` or `sd3`. Raises KeyError: there is none of this name."""
    return {row.name: row for row in FAMILIES}[name]


def title_of(name: str) -> str:
    """What people call the family of this name; the name itself where there is none."""
    return next((row.title for row in FAMILIES if row.name == name), name)


def guess(hub_id: str) -> Family:
    """The family that the name of a model on the hub suggests; the first where it suggests none."""
    found = (row for row in FAMILIES if row.names.hub_pattern and re.search(row.names.hub_pattern, hub_id.lower()))
    return next(found, FAMILIES[0])


def peek(spec: str | Path, *, embedded_path: Path | None = None, geometry: Geometry | None = None) -> StoredBase:
    """What a base, named as in `load`, is: family, prediction, sizes, parts; from configs and headers alone. Raises
    ModelError: no base (MD001, MD002), damaged (MD003), a pickle with code (MD005); NetworkError: the hub is needed and
    does not answer."""
    path = spec if isinstance(spec, Path) else place(spec, embedded_path)
    return stored.open_base(FAMILIES, path, geometry)


def check(spec: str, vae: str) -> None:
    """Raise what is wrong with a base and a VAE, named as in `load`, as far as headers show it; the hub is not asked.
    Raises ModelError: as `peek`, or there is no such VAE (MD009)."""
    path = at_home(spec)
    if spec not in ("", "embedded") and (path.exists() or not sources.is_hub_id(spec)):
        peek(spec)
    if vae and not (vaes.is_own(vae) or at_home(vae).exists() or sources.is_hub_id(vae)):
        raise ModelError("MD009", where=vae)


def load(
    spec: str,
    *,
    tokenizer: str = "",
    vae: str = vaes.BUILTIN,
    device: torch.device,
    dtype: torch.dtype,
    embedded_path: Path | None = None,
    geometry: Geometry | None = None,
    overrides: Overrides = AS_STORED,
    hashes: Path | None = None,
    unet_device: torch.device | None = None,
) -> StableDiffusion:
    """A frozen model, ready to use: the UNet and the text encoders in `dtype`, the VAE always in float32. `spec` is
    `embedded` (the folder `embedded_path`), a diffusers folder, a single `.safetensors`/`.ckpt` file in the original
    layout, or a hub id. `tokenizer` is a folder with `vocab.json` and `merges.txt`, or with `tokenizer/` and
    `tokenizer_2/`; empty: the model's own, or for a single file CLIP's from the hub's cache or the hub. `vae` is
    `builtin`, `builtin:NAME` for another one that the base ships, a file, a folder or a hub id. `geometry` is of a
    single file whose sizes are not its family's own, and that does not say so; `overrides` what is known better than
    the files say; `hashes` a folder in which the hash of a single file is kept; `unet_device` where the UNet waits
    until it is moved, if not on `device`. Raises RecipeError: an override that this model cannot have (RC002);
    ModelError: as `peek`, or the model does not fit its family (MD003, MD004); NetworkError: the hub is needed and does
    not answer."""
    base = peek(spec, embedded_path=embedded_path, geometry=geometry)
    source = str(base.path) if base.file else spec
    return base.load(source, device, dtype, base.tokenizers(tokenizer), vae, overrides, hashes, unet_device)


def read_back(path: Path, like: Model, *, dtype: torch.dtype) -> StableDiffusion:
    """The model that was just written at `path`, on the CPU, of the sizes and (for a single file) tokenizers of `like`.
    Raises ModelError: the file is not whole, or not of this family and these sizes (MD002, MD003)."""
    import torch

    base = _peek_like(path, like)
    tokenizers = like.tokenizers if base.file else base.tokenizers()
    return base.load(str(path), torch.device("cpu"), dtype, tokenizers)


def written(path: Path, like: Model) -> tuple[StoredBase, Mapping[str, Tensor]]:
    """What a model that was just written at `path` is, and its weights by canonical name, read when asked for. Raises
    ModelError: it is not whole, or of another family (MD002, MD003)."""
    base = _peek_like(path, like)
    vae = {f"vae.{name}": value for name, value in load_vae(like, str(path)).state_dict().items()}
    return base, ChainMap(vae, base.weights())  # type: ignore[arg-type]


def _peek_like(path: Path, like: Model) -> StoredBase:
    geometry = Geometry(
        unet=dict(like.unet.config),  # type: ignore[arg-type]
        vae={**like.vae.config, "scaling_factor": like.latent_scale, **_shift(like)},  # type: ignore[dict-item]
        text={component: encoder.config.to_dict() for component, encoder in like.text_encoders.items()},  # type: ignore[union-attr, operator]
        native_size_px=like.native_size_px,
    )
    return peek(path, geometry=geometry)


def _shift(model: Model) -> dict[str, float]:
    return {"shift_factor": model.latent_shift} if model.latent_shift else {}


def load_vae(model: Model, vae: str, *, embedded_path: Path | None = None) -> nn.Module:
    """Another VAE for a loaded base, named as in `load`; the base's latent scale stays in force. Raises ModelError: no
    such file (MD009), none of this name in the base (MD010), no VAE (MD002), damaged (MD003), or one of other latents
    (MD004); NetworkError: the hub is needed and does not answer."""
    config = dict(model.vae.config)  # type: ignore[arg-type]
    if vaes.is_own(vae):
        return vaes.own_vae(place(model.source, embedded_path), config, vae, model.device)
    return vaes.other_vae(model.facts.title, config, vae, model.device)


def place(spec: str, embedded_path: Path | None) -> Path:
    """The folder or file that a base's name stands for; see `load`. Raises ModelError: there is none (MD001);
    NetworkError: the hub is needed and does not answer."""
    if spec == "embedded":
        if embedded_path is None:
            raise ModelError("MD001", where=spec, why=_("The embedded base is not part of this installation."))
        return embedded_path
    if (path := at_home(spec)).exists():
        return path
    if not sources.is_hub_id(spec):
        why = _("There is no such file or folder, nor is it of the form owner/name.")
        raise ModelError("MD001", where=spec, why=why)
    return sources.from_hub(spec, sources.MODEL_FILES)
