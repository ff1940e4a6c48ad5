"""Models out of folders and single files: empty modules filled strictly, part by part.

Every tensor a module has must be in the file and the other way round: a text encoder left at random is the classic
silent failure of this field. The families are an argument: this file knows how to load, not what exists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsuika.core import files
from tsuika.core.errors import ModelError
from tsuika.core.types import canonical
from tsuika.core.weights import Weights, describe, few, open_folder, open_weights, read_json
from tsuika.core.words import Words
from tsuika.diffusion import ldm
from tsuika.families import sources
from tsuika.families.common import (
    Config,
    Detected,
    Family,
    Geometry,
    StableDiffusion,
    TextTower,
    build_text,
    build_unet,
    build_vae,
    latent_factor,
    scheduler_config,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

Locate = Callable[[str], ldm.Place]  # a module's own tensor name -> its place in the file, by full name there

BUILTIN = "builtin"  # as a VAE: the base's own
_UNET = "model.diffusion_model."
_VAE_PREFIXES = ("first_stage_model.", "vae.", "")
# Tensors that some programs write along and that no part needs.
_NEEDLESS = re.compile(r"(.*\.)?(position_ids|logit_scale|attn_mask|(loss|model_ema)\..*)")


@dataclass(frozen=True)
class Wishes:
    """What `load` was asked for beside the model itself."""

    tokenizer: str
    vae: str
    device: torch.device
    dtype: torch.dtype
    tokenizers: Mapping[str, Any] = field(default_factory=dict)  # of a single file, where they are at hand


def _fill(
    build: Callable[[], nn.Module],
    weights: Weights,
    locate: Locate,
    *,
    theirs: list[str],
    part: str,
    device: torch.device,
    dtype: torch.dtype,
) -> nn.Module:
    """An empty module filled from a file, or an error that names what does not fit.

    Args:
        build: Makes the module; called without allocating weights.
        locate: Where each of its tensors lies.
        theirs: The names in the file that belong to this part: all of them must be used.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        module = build()
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    places = {name: locate(name) for name in shapes}
    used = {place.name for place in places.values()}
    if missing := used - weights.shapes.keys():
        shown = few(missing)
        why = Words(
            f"{part}: {len(missing)} of {len(used)} tensors are missing ({shown}).",
            f"{part}: {len(used)}個のうち{len(missing)}個のテンソルがありません({shown.ja})。",
        )
        raise ModelError("MD003", where=weights.path, why=why)
    if extra := {name for name in theirs if not _NEEDLESS.fullmatch(name)} - used:
        shown = few(extra)
        why = Words(
            f"{part}: {len(extra)} tensors have no place in this family ({shown}).",
            f"{part}: この種類のモデルに対応しないテンソルが{len(extra)}個あります({shown.ja})。",
        )
        raise ModelError("MD003", where=weights.path, why=why)
    tensors = {}
    for name, place in places.items():
        try:
            taken = ldm.take(weights.tensor(place.name), place, shapes[name])
        except ValueError as error:
            expected = "x".join(map(str, shapes[name]))
            why = Words(
                f"{part}: {place.name} is {error}, where {expected} is expected: it is of another model size.",
                f"{part}: {place.name} の形状が{error}です(必要なのは{expected})。大きさの違うモデルのものです。",
            )
            raise ModelError("MD003", where=weights.path, why=why) from None
        # A copy, not a view of the mapped file: the file may change, and unaligned memory takes other CPU kernels.
        tensors[name] = taken.to(device, dtype, copy=True)
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.to(device)


def _unchanged(weights: Weights, rename: Callable[[str], str]) -> Locate:
    """Places in a file of diffusers' own layout; `rename` brings the file's names to canonical ones."""
    stored = {rename(name): name for name in weights.shapes}
    return lambda name: ldm.Place(stored.get(name, name))


def _under(prefix: str, place: Callable[[str, Config], ldm.Place], config: Config) -> Locate:
    """Places in a file of the original layout."""
    return lambda name: place(name, config).under(prefix)


# ------------------------------------------------------------------------------------------------------------- folders


def load_folder(family: Family, found: Detected, folder: Path, wishes: Wishes, source: str) -> StableDiffusion:
    """A model from a diffusers folder.

    Raises:
        ModelError: a part is missing, damaged or does not fit (MD003), or is a pickle with code (MD005).
    """
    unet_config = read_json(folder / "unet" / "config.json")
    vae_config = read_json(folder / "vae" / "config.json")
    weights = open_folder(folder / "unet", "diffusion_pytorch_model")
    unet = _fill(
        lambda: build_unet(unet_config),
        weights,
        _unchanged(weights, str),
        theirs=list(weights.shapes),
        part="unet",
        device=wishes.device,
        dtype=wishes.dtype,
    )
    text = {tower.component: _text_of_folder(folder / tower.component, tower, wishes) for tower in family.towers}
    words = Path(wishes.tokenizer) if wishes.tokenizer else folder
    tokenizers = {
        tower.tokenizer: sources.find_tokenizer(words, tower.tokenizer, tower if wishes.tokenizer else None)
        for tower in family.towers
    }
    vae = (
        own_vae(folder, vae_config, wishes.vae, wishes.device)
        if is_own(wishes.vae)
        else other_vae(family, vae_config, wishes.vae, wishes.device)
    )
    side = unet_config.get("sample_size") or family.facts.native_size_px // latent_factor(vae_config)
    return StableDiffusion(
        family=family,
        prediction=found.prediction,
        unet=unet,
        vae=vae,
        text_encoders=text,
        tokenizers=tokenizers,
        scheduler_config=read_json(folder / "scheduler" / "scheduler_config.json"),
        latent_scale=float(vae_config.get("scaling_factor", 0.18215)),  # diffusers' default, SD1's
        native_size_px=(side if isinstance(side, int) else max(side)) * latent_factor(vae_config),
        source=source,
    )


def _text_of_folder(folder: Path, tower: TextTower, wishes: Wishes) -> nn.Module:
    config = read_json(folder / "config.json")
    weights = open_folder(folder, "model")
    # Written by transformers 4 or 5: with or without `text_model.`
    locate = _unchanged(weights, lambda name: canonical(tower.component, name))
    return _fill(
        lambda: build_text(config, projected=tower.projected),
        weights,
        lambda name: locate(canonical(tower.component, name)),
        theirs=[name for name in weights.shapes if tower.projected or name != "text_projection.weight"],
        part=tower.component,
        device=wishes.device,
        dtype=wishes.dtype,
    )


# -------------------------------------------------------------------------------------------------------- single files


def noted_geometry(weights: Weights) -> Geometry | None:
    """The sizes that a single file written by tsuika gives; None: it gives none.

    Raises:
        ModelError: they cannot be read (MD003).
    """
    text = weights.metadata.get(ldm.CONFIGS)
    if text is None:
        return None
    try:
        noted = json.loads(text)
        towers = {key.removesuffix("_config"): noted[key] for key in noted if key.startswith("text_encoder")}
        return Geometry(noted["unet_config"], noted["vae_config"], towers, int(noted["native_size_px"]))
    except (ValueError, KeyError, TypeError) as error:
        why = Words(f"Its {ldm.CONFIGS} cannot be read: {error!r}.", f"{ldm.CONFIGS} が読めません: {error!r}。")
        raise ModelError("MD003", where=weights.path, why=why) from None


def load_single(
    family: Family, found: Detected, weights: Weights, geometry: Geometry, wishes: Wishes
) -> StableDiffusion:
    """A model from one file in the original layout, of the given geometry.

    Raises:
        ModelError: a part is missing or does not fit (MD003).
        NetworkError: no tokenizer was given, cached or to be had.
    """
    tokenizers = dict(wishes.tokenizers)
    if not tokenizers:
        words = Path(wishes.tokenizer) if wishes.tokenizer else sources.clip_tokenizer(weights.path)
        tokenizers = {t.tokenizer: sources.find_tokenizer(words, t.tokenizer, t) for t in family.towers}
    unet = _fill(
        lambda: build_unet(geometry.unet),
        weights,
        _under(_UNET, ldm.unet_place, geometry.unet),
        theirs=weights.names(_UNET),
        part="unet",
        device=wishes.device,
        dtype=wishes.dtype,
    )
    text = {t.component: _text_of_single(t, weights, geometry.text[t.component], wishes) for t in family.towers}
    vae = (
        own_vae(weights.path, geometry.vae, wishes.vae, wishes.device)
        if is_own(wishes.vae)
        else other_vae(family, geometry.vae, wishes.vae, wishes.device)
    )
    spare = {
        name: weights.tensor(name).to("cpu", copy=True)
        for t in family.towers
        if t.layout == "open_clip"
        for name in weights.names(t.prefix)
        if name == f"{t.prefix}logit_scale" or not _is_read(name[len(t.prefix) :], t, geometry.text[t.component])
    }
    return StableDiffusion(
        family=family,
        prediction=found.prediction,
        unet=unet,
        vae=vae,
        text_encoders=text,
        tokenizers=tokenizers,
        scheduler_config=scheduler_config(found.prediction, zero_terminal_snr=found.zero_terminal_snr),
        latent_scale=float(geometry.vae["scaling_factor"]),
        native_size_px=geometry.native_size_px,
        source=str(weights.path),
        sha256=files.sha256(weights.path),
        spare=spare,
    )


def _text_of_single(tower: TextTower, weights: Weights, config: Config, wishes: Wishes) -> nn.Module:
    locate = _under(tower.prefix, ldm.clip_place if tower.layout == "clip" else ldm.open_clip_place, config)
    # SD1 files written from transformers 5 modules lost the `text_model.` level.
    flat = tower.layout == "clip" and not weights.starts(f"{tower.prefix}text_model.")

    def place(name: str) -> ldm.Place:
        found = locate(canonical(tower.component, name))
        return ldm.Place(tower.prefix + found.name.removeprefix(f"{tower.prefix}text_model.")) if flat else found

    return _fill(
        lambda: build_text(config, projected=tower.projected),
        weights,
        place,
        theirs=[name for name in weights.names(tower.prefix) if _is_read(name[len(tower.prefix) :], tower, config)],
        part=tower.component,
        device=wishes.device,
        dtype=wishes.dtype,
    )


def _is_read(name: str, tower: TextTower, config: Config) -> bool:
    """Whether the text encoder uses such a tensor at all: SD2 leaves open_clip's last block and projection out."""
    if name in ("text_projection", "text_projection.weight"):
        return tower.projected
    block = re.match(r"transformer\.resblocks\.(\d+)\.", name)
    return block is None or tower.projected or int(block[1]) != int(config["num_hidden_layers"])


# ----------------------------------------------------------------------------------------------------------------- VAE


def is_own(vae: str) -> bool:
    """Whether it is a VAE that comes with the base: `builtin`, or `builtin:NAME` for another that it ships."""
    return vae == BUILTIN or vae.startswith(f"{BUILTIN}:")


def variants(base: Path) -> list[str]:
    """The names of the other VAEs that a base ships: folders `vae-NAME` in it."""
    return sorted(path.name.removeprefix("vae-") for path in base.glob("vae-*") if path.is_dir())


def own_vae(base: Path, config: Config, vae: str, device: torch.device) -> nn.Module:
    """The VAE in a base's folder or single file, or another that the folder ships.

    That one's folder holds what differs; the rest, as a rule the encoder, is the base's own.

    Raises:
        ModelError: none of this name (MD010), damaged or without a VAE (MD003).
    """
    if base.is_file():
        if vae != BUILTIN:
            raise ModelError("MD010", where=base, found=vae, known=BUILTIN)
        return _vae_of_file(open_weights(base), config, device)
    weights = open_folder(base / "vae", "diffusion_pytorch_model")
    if vae != BUILTIN:
        if (name := vae.removeprefix(f"{BUILTIN}:")) not in variants(base):
            known = ", ".join([BUILTIN, *(f"{BUILTIN}:{one}" for one in variants(base))])
            raise ModelError("MD010", where=base, found=vae, known=known)
        own, other = weights, open_folder(base / f"vae-{name}", "diffusion_pytorch_model")
        shapes = {**own.shapes, **other.shapes}
        weights = replace(other, shapes=shapes, tensor=lambda key: (other if key in other.shapes else own).tensor(key))
    return _filled_vae(config, weights, device)


def _vae_of_folder(folder: Path, device: torch.device) -> nn.Module:
    return _filled_vae(read_json(folder / "config.json"), open_folder(folder, "diffusion_pytorch_model"), device)


def _filled_vae(config: Config, weights: Weights, device: torch.device) -> nn.Module:
    import torch

    return _fill(
        lambda: build_vae(config),
        weights,
        _unchanged(weights, ldm.current_vae_name),
        theirs=list(weights.shapes),
        part="vae",
        device=device,
        dtype=torch.float32,
    )


def _vae_of_file(weights: Weights, config: Config, device: torch.device) -> nn.Module:
    import torch

    prefix = next((p for p in _VAE_PREFIXES if weights.starts(f"{p}decoder.")), None)
    if prefix is None:
        why = Words(
            "There is no VAE in it. Name one with --set base.vae=FILE.",
            "VAEが含まれていません。--set base.vae=FILE で指定してください。",
        )
        raise ModelError("MD003", where=weights.path, why=why)
    is_diffusers = weights.starts(f"{prefix}decoder.up_blocks.")
    return _fill(
        lambda: build_vae(config),
        weights,
        _unchanged(weights, lambda name: ldm.current_vae_name(name.removeprefix(prefix)))
        if is_diffusers
        else _under(prefix, ldm.vae_place, config),
        theirs=weights.names(prefix),
        part="vae",
        device=device,
        dtype=torch.float32,
    )


def other_vae(family: Family, config: Config, vae: str, device: torch.device) -> nn.Module:
    """A VAE from elsewhere for a base whose own has `config`; the base's latent scale stays in force.

    Raises:
        ModelError: no such file (MD009), no VAE (MD002), or one of other latents (MD004).
        NetworkError: the hub is needed and does not answer.
    """
    path = Path(vae).expanduser()
    if not path.exists():
        if not sources.is_hub_id(vae):
            raise ModelError("MD009", where=vae)
        path = sources.vae_from_hub(vae)
    if path.is_dir():
        folder = path / "vae" if (path / "vae" / "config.json").is_file() else path
        own = read_json(folder / "config.json")
        if own.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
            kind = own["_class_name"]
            found = Words(f"a {kind}, where an AutoencoderKL is expected", f"{kind}(必要なのはAutoencoderKL)")
            raise ModelError("MD002", where=folder, found=found)
        _check_latents(path, own, config, family)
        return _vae_of_folder(folder, device)
    weights = open_weights(path)
    key = next((name for name in weights.shapes if re.fullmatch(r"(.+\.)?post_quant_conv\.weight", name)), None)
    if key is None:
        raise ModelError("MD002", where=path, found=describe(weights))
    _check_latents(path, {**config, "latent_channels": weights.shapes[key][1]}, config, family)
    return _vae_of_file(weights, config, device)


def _check_latents(path: Path, given: Config, base: Config, family: Family) -> None:
    def words(config: Config) -> Words:
        channels, factor = config.get("latent_channels", 4), latent_factor(config)
        return Words(
            f"{channels} latent channels at 1/{factor} size", f"潜在表現{channels}チャンネル・1/{factor}サイズ"
        )

    if words(given) != words(base):
        expected = Words(f"{family.facts.title} with {words(base)}", f"{family.facts.title}({words(base).ja})")
        raise ModelError("MD004", where=path, artifact=path.name, found=words(given), expected=expected)
