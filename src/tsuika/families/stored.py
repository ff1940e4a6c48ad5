"""A base's weights by canonical name, each read from disk when asked for: two SDXL fit side by side. The VAE is left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tsuika.core.errors import ModelError
from tsuika.core.types import Role, canonical
from tsuika.core.weights import Weights, few, open_folder, open_weights, read_json
from tsuika.core.words import Words
from tsuika.diffusion import ldm
from tsuika.families import detection, loading
from tsuika.families.common import _ROLES, Detected, Family, Geometry, build_text, build_unet

if TYPE_CHECKING:
    from torch import Tensor, nn

Locate = Callable[[str], ldm.Place]


class Stored(Mapping[str, "Tensor"]):
    """`<component>.<canonical parameter path>` -> weight, on the CPU, in the file's number type."""

    def __init__(self, found: Detected) -> None:
        self.found = found
        self._places: dict[str, tuple[Weights, ldm.Place, tuple[int, ...]]] = {}

    def __getitem__(self, name: str) -> Tensor:
        weights, place, shape = self._places[name]
        try:
            return ldm.take(weights.tensor(place.name), place, shape)
        except ValueError as error:
            expected = "x".join(map(str, shape))
            why = Words(
                f"{place.name} is {error}, where {expected} is expected.",
                f"{place.name} の形状が{error}です(必要なのは{expected})。",
            )
            raise ModelError("MD003", where=weights.path, why=why) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def layers(self, roles: Sequence[Role]) -> list[str]:
        """`<component>.<module path>` of the modules that play one of the roles."""
        sides = {role: re.compile(_ROLES[role]) for role in roles}
        return [
            name.removesuffix(".weight")
            for name in self._places
            if name.endswith(".weight")
            and any(
                role.startswith("unet.") == name.startswith("unet.")
                and pattern.fullmatch(name.partition(".")[2].removesuffix(".weight"))
                for role, pattern in sides.items()
            )
        ]

    def add(self, component: str, module: nn.Module, weights: Weights, locate: Locate) -> None:
        """Take in a component whose (empty) module names the tensors.

        Raises:
            ModelError: the file lacks some (MD003).
        """
        places = {canonical(component, name): tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        for name, shape in places.items():
            self._places[f"{component}.{name}"] = weights, locate(name), shape
        if missing := {locate(name).name for name in places} - weights.shapes.keys():
            shown = few(missing)
            why = Words(
                f"{component}: {len(missing)} tensors are missing ({shown}).",
                f"{component}: {len(missing)}個のテンソルがありません({shown.ja})。",
            )
            raise ModelError("MD003", where=weights.path, why=why)


def open_stored(families: Sequence[Family], path: Path, *, geometry: Geometry | None = None) -> Stored:
    """The weights of a diffusers folder or a single file; only headers are read now.

    Args:
        families: those that it may be of.
        path: the folder or file.
        geometry: of a single file whose sizes are not its family's own.

    Raises:
        ModelError: no model (MD001, MD002), one that is not whole (MD003), or a pickle with code in it (MD005).
    """
    return _folder(families, path) if path.is_dir() else _single(families, path, geometry)


def _empty(build: Callable[[], nn.Module]) -> nn.Module:
    import torch

    with torch.device("meta"):
        return build()


def _folder(families: Sequence[Family], folder: Path) -> Stored:
    family, found = detection.detect_folder(families, folder)
    stored = Stored(found)
    unet = open_folder(folder / "unet", "diffusion_pytorch_model")
    config = read_json(folder / "unet" / "config.json")
    stored.add("unet", _empty(lambda: build_unet(config)), unet, ldm.Place)
    for tower in family.towers:
        weights = open_folder(folder / tower.component, "model")
        text_config = read_json(folder / tower.component / "config.json")
        module = _empty(partial(build_text, text_config, projected=tower.projected))
        names = {canonical(tower.component, name): name for name in weights.shapes}
        stored.add(tower.component, module, weights, partial(_renamed, names))
    return stored


def _single(families: Sequence[Family], path: Path, geometry: Geometry | None) -> Stored:
    weights = open_weights(path)
    family, found = detection.detect_single(families, weights)
    sizes = geometry or loading.noted_geometry(weights) or family.geometry(found.prediction)
    stored = Stored(found)
    prefix = "model.diffusion_model."
    unet = _empty(lambda: build_unet(sizes.unet))
    stored.add("unet", unet, weights, lambda name: ldm.unet_place(name, sizes.unet).under(prefix))
    for tower in family.towers:
        place = ldm.clip_place if tower.layout == "clip" else ldm.open_clip_place
        # SD1 files written from transformers 5 modules lost the `text_model.` level.
        lost = "text_model." if tower.layout == "clip" and not weights.starts(f"{tower.prefix}text_model.") else ""

        module = _empty(partial(build_text, sizes.text[tower.component], projected=tower.projected))
        stored.add(tower.component, module, weights, partial(_under, place, tower.prefix, lost))
    return stored


def _renamed(names: Mapping[str, str], name: str) -> ldm.Place:
    return ldm.Place(names.get(name, name))


def _under(place: Callable[..., ldm.Place], prefix: str, lost: str, name: str) -> ldm.Place:
    return place(name.removeprefix(lost), {}).under(prefix)
