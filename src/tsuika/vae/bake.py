"""A VAE put into a base in the place of its own: only the VAE's numbers and the header's text differ, byte for byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from tsuika.core import safetensors
from tsuika.core.errors import FormatError
from tsuika.core.files import whole
from tsuika.core.texts import _, few
from tsuika.core.weights import Weights, is_pickle, open_folder, open_weights
from tsuika.diffusion import ldm
from tsuika.formats.checkpoint import copy_yaml

WEIGHTS: Final = "diffusion_pytorch_model"
_PREFIXES: Final = ("first_stage_model.", "vae.")
_CHUNK: Final = 1 << 24


def bake(base: Path, vae: Mapping[str, Tensor], config: Mapping[str, Any], out: Path, facts: Mapping[str, str]) -> int:
    """Write a copy of a base with another VAE; gives the number of tensors that were put in.

    `base` is a single file (`.safetensors` or a torch file) or a diffusers folder, and only read; `vae` has diffusers' names,
    `config` is diffusers' of the base's own; `out` a `.safetensors` file or a new folder; `facts`, for the header, say what was
    put in. Raises FormatError: no VAE, or one of other layers (FM005), or its number type cannot hold this (FM002).
    """
    if base.is_file():
        return _file(open_weights(base), vae, config, out, facts)
    with whole(out) as temporary:
        shutil.copytree(base, temporary)
        return _folder(base / "vae", vae, temporary / "vae", facts)


def _folder(own: Path, vae: Mapping[str, Tensor], out: Path, facts: Mapping[str, str]) -> int:
    files = sorted(own.glob(f"{WEIGHTS}*.safetensors"))
    if any("-of-" in file.name for file in files):
        raise _cannot(own, _("Its weights are in several files."))
    for old in out.glob(f"{WEIGHTS}*"):
        old.unlink()
    if not files:  # a torch file
        weights = open_folder(own, WEIGHTS)
        _save_all(weights, _fitted(weights, dict(vae), own), out / f"{WEIGHTS}.safetensors", facts)
    for file in files:
        weights = open_weights(file)
        replace_tensors(file, out / file.name, _fitted(weights, dict(vae), own), facts)
    return len(vae)


def _save_all(weights: Weights, tensors: Mapping[str, Tensor], out: Path, facts: Mapping[str, str]) -> None:
    everything = {**{name: weights.raw(name) for name in weights.shapes}, **tensors}
    safetensors.save_tensors(out, everything, {"format": "pt", **facts})


def _file(
    weights: Weights, vae: Mapping[str, Tensor], config: Mapping[str, Any], out: Path, facts: Mapping[str, str]
) -> int:
    prefix = next((one for one in _PREFIXES if weights.starts(f"{one}decoder.")), None)
    if prefix is None:
        raise _cannot(weights.path, _("There is no VAE in it to be replaced."))
    is_diffusers = weights.starts(f"{prefix}decoder.up_blocks.")
    places = {
        prefix + (name if is_diffusers else ldm.vae_place(name, config).name): tensor for name, tensor in vae.items()
    }
    tensors = _fitted(weights, places, weights.path)
    if is_pickle(weights.path) or weights.is_renamed:
        _save_all(weights, tensors, out, facts)
    else:
        replace_tensors(weights.path, out, tensors, facts)
    copy_yaml(weights.path, out)  # there programs read what the model predicts
    return len(tensors)


def _fitted(weights: Weights, tensors: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Tensors in the shapes and number types of those in the file, under the names that they have there."""
    stored = {ldm.current_vae_name(name): name for name in weights.shapes}
    tensors = {stored.get(name, name): tensor for name, tensor in tensors.items()}
    if missing := tensors.keys() - weights.shapes.keys():
        raise _cannot(where, _("Its own VAE has no {names}.", names=few(missing)))
    fitted = {}
    for name, tensor in tensors.items():
        own = weights.raw(name)
        if own.numel() != tensor.numel():
            raise _cannot(where, _("`{tensor}` has another size in its own VAE.", tensor=name))
        shaped = {name: tensor.cpu().reshape(own.shape)}
        fitted[name] = safetensors.cast(shaped, own.dtype, "single-file")[name].contiguous()
    return fitted


def replace_tensors(source: Path, out: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Copy a safetensors file with other numbers in some tensors and `facts` added to its metadata.

    All other bytes of the data are kept; `out` is written whole or not at all; `tensors` have the source's shapes and types.
    """
    with source.open("rb") as given, whole(out) as temporary, temporary.open("wb") as made:
        header: dict[str, Any] = json.loads(given.read(int.from_bytes(given.read(8), "little")))
        header["__metadata__"] = {**header.get("__metadata__", {}), **facts}
        raw = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
        made.write(len(raw).to_bytes(8, "little") + raw)
        begin = made.tell()
        shutil.copyfileobj(given, made, _CHUNK)
        for name, tensor in tensors.items():
            first, last = header[name]["data_offsets"]
            content = tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
            assert len(content) == last - first
            made.seek(begin + first)
            made.write(content)


def _cannot(where: Path, why: str) -> FormatError:
    return FormatError("FM005", where=where, why=why, do=_("Use the VAE beside the base instead, with --vae."))
