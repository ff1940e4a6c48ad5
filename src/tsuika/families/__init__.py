"""The families of Stable Diffusion that tsuika knows: what a file is, and how it becomes a `core.types.Model`."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsuika.core.errors import ModelError
from tsuika.core.types import Facts, Model
from tsuika.core.weights import open_weights, read_json
from tsuika.core.words import Words
from tsuika.families import detection, loading, sources, stored
from tsuika.families.common import Config, Detected, Family, Geometry, StableDiffusion, latent_factor
from tsuika.families.sd1 import SD1
from tsuika.families.sd2 import SD2
from tsuika.families.sdxl import SDXL

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = [
    "FAMILIES",
    "Detected",
    "Family",
    "Geometry",
    "LatentSpace",
    "StableDiffusion",
    "detect",
    "family",
    "latent_space",
    "load",
    "load_vae",
    "place",
    "read_back",
    "written",
]

FAMILIES: Final[tuple[Family, ...]] = (SD1, SD2, SDXL)


def family(name: str) -> Family:
    """The family called `sd1`, `sd2` or `sdxl`.

    Raises:
        KeyError: there is none of this name.
    """
    return {row.facts.family: row for row in FAMILIES}[name]


def detect(path: Path) -> Detected:
    """What a diffusers folder or a single file is, from configs and header; no weights are read (but SD2's 320 numbers
    that alone tell what it predicts).

    Raises:
        ModelError: not there (MD001), no Stable Diffusion (MD002), damaged (MD003), a pickle with code (MD005).
    """
    if path.is_dir():
        return detection.detect_folder(FAMILIES, path)[1]
    return detection.detect_single(FAMILIES, open_weights(path))[1]


def load(
    spec: str,
    *,
    tokenizer: str = "",
    vae: str = "builtin",
    device: torch.device,
    dtype: torch.dtype,
    embedded_path: Path | None = None,
    geometry: Geometry | None = None,
) -> StableDiffusion:
    """A frozen model, ready to use.

    Args:
        spec: `embedded`, a diffusers folder, a single `.safetensors`/`.ckpt` file in the original layout, or a hub id.
        tokenizer: Folder with `vocab.json` and `merges.txt`, or with `tokenizer/` and `tokenizer_2/`; empty: the
            model's own, or for a single file CLIP's from the hub's cache or the hub.
        vae: `builtin`, `builtin:NAME` for another one that the base ships, a file, a folder or a hub id.
        device: Where all parts go.
        dtype: Of the UNet and the text encoders; the VAE is always float32.
        embedded_path: The folder that `embedded` stands for.
        geometry: Of a single file whose sizes are not its family's own, and that does not say so.

    Raises:
        ModelError: as `detect`, or the model does not fit its family (MD003, MD004).
        NetworkError: the hub is needed and does not answer.
    """
    wishes = loading.Wishes(tokenizer, vae, device, dtype)
    path = place(spec, embedded_path)
    if path.is_dir():
        kind, found = detection.detect_folder(FAMILIES, path)
        return loading.load_folder(kind, found, path, wishes, spec)
    weights = open_weights(path)
    kind, found = detection.detect_single(FAMILIES, weights)
    geometry = geometry or loading.noted_geometry(weights) or kind.geometry(found.prediction)
    return loading.load_single(kind, found, weights, geometry, wishes)


def read_back(path: Path, like: StableDiffusion, *, dtype: torch.dtype) -> StableDiffusion:
    """The model that was just written at `path`, on the CPU, of the sizes and (for a single file) tokenizers of `like`.

    Raises:
        ModelError: the file is not whole, or not of this family and these sizes (MD002, MD003).
    """
    import torch

    wishes = loading.Wishes("", "builtin", torch.device("cpu"), dtype, like.tokenizers)
    if path.is_dir():
        kind, found = detection.detect_folder(FAMILIES, path)
        return loading.load_folder(kind, found, path, wishes, str(path))
    weights = open_weights(path)
    kind, found = detection.detect_single(FAMILIES, weights)
    return loading.load_single(kind, found, weights, _geometry_of(like), wishes)


def _geometry_of(model: StableDiffusion) -> Geometry:
    return Geometry(
        unet=dict(model.unet.config),  # type: ignore[arg-type]
        vae={**model.vae.config, "scaling_factor": model.latent_scale},  # type: ignore[dict-item]
        text={component: encoder.config.to_dict() for component, encoder in model.text_encoders.items()},  # type: ignore[union-attr, operator]
        native_size_px=model.native_size_px,
    )


def written(path: Path, like: StableDiffusion) -> tuple[Detected, Mapping[str, Tensor]]:
    """What a model that was just written at `path` is, and its weights by canonical name, read when asked for.

    Args:
        path: A diffusers folder or a single file.
        like: A model of the same family and sizes.

    Raises:
        ModelError: it is not whole, or of another family (MD002, MD003).
    """
    weights = stored.open_stored(FAMILIES, path, geometry=_geometry_of(like))
    vae = {f"vae.{name}": value for name, value in load_vae(like, str(path)).state_dict().items()}
    return weights.found, ChainMap(vae, weights)  # type: ignore[arg-type]


def load_vae(model: Model, vae: str, *, embedded_path: Path | None = None) -> nn.Module:
    """Another VAE for a loaded base, named as in `load`; the base's latent scale stays in force.

    Raises:
        ModelError: no such file (MD009), none of this name in the base (MD010), no VAE (MD002), damaged (MD003), or
            one of other latents (MD004).
        NetworkError: the hub is needed and does not answer.
    """
    config = dict(model.vae.config)  # type: ignore[arg-type]
    if loading.is_own(vae):
        return loading.own_vae(place(model.source, embedded_path), config, vae, model.device)
    return loading.other_vae(family(model.facts.family), config, vae, model.device)


@dataclass(frozen=True)
class LatentSpace:
    """What a base's UNet works in, and so what a VAE must fit."""

    path: Path
    facts: Facts
    config: Config  # of its own VAE
    scale: float
    native_size_px: int

    def load_vae(self, vae: str, device: torch.device) -> nn.Module:
        """The base's own VAE or another, named as in `load`; nothing else of the base is loaded.

        Raises:
            ModelError, NetworkError: as `load_vae`.
        """
        if loading.is_own(vae):
            return loading.own_vae(self.path, self.config, vae, device)
        return loading.other_vae(family(self.facts.family), self.config, vae, device)


def latent_space(spec: str, *, embedded_path: Path | None = None) -> LatentSpace:
    """What a base, named as in `load`, works in; from configs and headers alone.

    Raises:
        ModelError: no base (MD001, MD002), damaged (MD003); NetworkError: the hub is needed and does not answer.
    """
    path = place(spec, embedded_path)
    found = detect(path)
    if path.is_dir():
        config, unet = read_json(path / "vae" / "config.json"), read_json(path / "unet" / "config.json")
        scale = float(config.get("scaling_factor", SD1.facts.latent_scale))  # diffusers' default
        side = unet.get("sample_size") or found.facts.native_size_px // latent_factor(config)
        native = (side if isinstance(side, int) else max(side)) * latent_factor(config)
        return LatentSpace(path, found.facts, config, scale, native)
    kind = family(found.facts.family)
    geometry = loading.noted_geometry(open_weights(path)) or kind.geometry(found.prediction)
    scale = float(geometry.vae["scaling_factor"])
    return LatentSpace(path, found.facts, geometry.vae, scale, geometry.native_size_px)


def place(spec: str, embedded_path: Path | None) -> Path:
    """The folder or file that a base's name stands for; see `load`.

    Raises:
        ModelError: there is none (MD001); NetworkError: the hub is needed and does not answer.
    """
    if spec == "embedded":
        if embedded_path is None:
            why = Words(
                "The embedded base is not part of this installation.",
                "インストールされているtsuikaには、同梱ベースモデルが含まれていません。",
            )
            raise ModelError("MD001", where=spec, why=why)
        return embedded_path
    if (path := Path(spec).expanduser()).exists():
        return path
    if not sources.is_hub_id(spec):
        why = Words(
            "There is no such file or folder, nor is it of the form owner/name.",
            "その名前のファイルもフォルダーもなく、owner/name の形でもありません。",
        )
        raise ModelError("MD001", where=spec, why=why)
    return sources.model_from_hub(spec)
