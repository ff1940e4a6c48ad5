"""The VAE of a base: its own, another that it ships, or one from elsewhere that has the same latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsuika.core import kinds
from tsuika.core.errors import ModelError
from tsuika.core.files import at_home
from tsuika.core.texts import Text, _
from tsuika.core.weights import open_folder, open_weights, read_json
from tsuika.families import sources
from tsuika.families.model import latent_factor
from tsuika.families.network import Config
from tsuika.families.parts import vae_part

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tsuika.core.weights import Weights

BUILTIN: Final = "builtin"  # the base's own
_STEM: Final = "diffusion_pytorch_model"


def is_own(vae: str) -> bool:
    """Whether it is a VAE that comes with the base: `builtin`, or `builtin:NAME` for another that it ships."""
    return vae == BUILTIN or vae.startswith(f"{BUILTIN}:")


def shipped(base: Path) -> tuple[str, ...]:
    """The VAEs that a base's folder ships: `builtin`, then every other as `builtin:NAME`."""
    others = sorted(path.name.removeprefix("vae-") for path in base.glob("vae-*") if path.is_dir())
    return (BUILTIN, *(f"{BUILTIN}:{one}" for one in others))


def own_vae(base: Path, config: Config, vae: str, device: torch.device) -> nn.Module:
    """The VAE in a base's folder or single file, in float32, or another that the folder ships as `vae-NAME`. That one's
    folder holds what differs; the rest, as a rule the encoder, is the base's own. Raises ModelError: none of this name
    (MD010), damaged or without a VAE (MD003)."""
    weights = open_weights(base) if base.is_file() else open_folder(base / "vae", _STEM)
    if vae != BUILTIN:
        if vae not in (known := shipped(base)):
            raise ModelError("MD010", where=base, found=vae, known=", ".join(known))
        own, other = weights, open_folder(base / f"vae-{vae.removeprefix(f'{BUILTIN}:')}", _STEM)
        shapes = {**own.shapes, **other.shapes}
        weights = replace(other, shapes=shapes, raw=lambda key: (other if key in other.shapes else own).raw(key))
    return _load(weights, config, device)


def other_vae(title: str, config: Config, vae: str, device: torch.device) -> nn.Module:
    """A VAE from elsewhere, in float32, for a base whose own has `config`; the base's latent scale stays in force.
    `vae` is a file, a folder or a hub id; `title` the family's, for errors. Raises ModelError: no such file (MD009), no
    VAE (MD002), or one of other latents (MD004); NetworkError: the hub is needed and does not answer."""
    path = at_home(vae)
    if not path.exists():
        if not sources.is_hub_id(vae):
            raise ModelError("MD009", where=vae)
        path = sources.from_hub(vae, sources.VAE_FILES)
    if path.is_dir():
        folder = path / "vae" if (path / "vae" / "config.json").is_file() else path
        own = read_json(folder / "config.json")
        if (kind := own.get("_class_name", "AutoencoderKL")) != "AutoencoderKL":
            found = _("a {kind}, where an AutoencoderKL is expected", kind=kind)
            raise kinds.unlike(folder, kinds.other(found), kinds.A_VAE)
        weights = open_folder(folder, _STEM)
    else:
        weights = open_weights(path)
        prefix = weights.vae_prefix or ""
        # (out, latent channels, 3, 3)
        takes = weights.shapes.get(f"{prefix}decoder.conv_in.weight", ())
        if len(takes) < 2:
            raise kinds.unlike(path, weights.kind, kinds.A_VAE)
        own = {
            **config,
            "latent_channels": takes[1],
            **{f"use_{name}": f"{prefix}{name}.weight" in weights.shapes for name in ("quant_conv", "post_quant_conv")},
        }
    # Of a VAE that shifts its latents the numbers are its own: FLUX's has the same shapes as SD3's.
    if own.get("shift_factor") and config.get("shift_factor"):
        said, expected = (f"scale {one.get('scaling_factor')}, shift {one['shift_factor']}" for one in (own, config))
        if said != expected:
            raise ModelError("MD004", where=path, artifact=path.name, found=said, expected=f"{title}: {expected}")
    if _latents(own) != _latents(config):
        expected = _("{family} with {latents}", family=title, latents=_latents(config))
        raise ModelError("MD004", where=path, artifact=path.name, found=_latents(own), expected=expected)
    return _load(weights, own, device)


def _latents(config: Config) -> Text:
    channels, factor = config.get("latent_channels", 4), latent_factor(config)
    return _("{channels} latent channels at 1/{factor} size", channels=channels, factor=factor)


def _load(weights: Weights, config: Config, device: torch.device) -> nn.Module:
    import torch

    return vae_part(weights, config).load(device, torch.float32)
