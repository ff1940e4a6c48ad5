"""The parts of a base on disk: where each tensor of an empty module lies in a file, and modules filled from there.
Every tensor that a module has must be in the file, and the other way round: a text encoder left at random is the
classic silent failure of this field."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core.errors import ModelError
from tsuika.core.texts import _, few
from tsuika.core.types import canonical
from tsuika.core.weights import UNET_PREFIX, Weights
from tsuika.diffusion import ldm
from tsuika.families.common import TextTower, build_vae
from tsuika.families.network import Config, Network

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# Tensors that some programs write along and that no part needs.
T5_SAME: Final = {"encoder.embed_tokens.weight": "shared.weight"}
T5_SECOND: Final = {first: second for second, first in T5_SAME.items()}
# What transformers keeps in float32 where it loads T5 itself (`_keep_in_fp32_modules`).
_T5_WIDE: Final = re.compile(r".*\.wo\.weight")
_UNNEEDED: Final = re.compile(r"(.*\.)?(position_ids|logit_scale|attn_mask|(loss|model_ema)\..*)")


def unfit(where: Path, error: BaseException) -> ModelError:
    """The error for sizes that no network has."""
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return ModelError("MD003", where=where, why=_("Its config fits no such network: {error}.", error=reason))


@dataclass(frozen=True)
class Part:
    """One component of a base on disk."""

    component: str
    build: Callable[[], nn.Module]
    weights: Weights
    locate: Callable[[str], ldm.Place]  # a canonical tensor name -> its place in the file, by full name there
    stored: list[str]  # the names in the file that belong to this part
    unit: frozenset[str] = frozenset()  # tensors that a file may lack: the unit matrix stands for them
    same: Mapping[str, str] = field(default_factory=dict)  # second names of tensors
    in_float32: re.Pattern[str] | None = None  # tensors that overflow in float16

    def empty(self) -> nn.Module:
        """The module, without memory for its weights. Raises ModelError: there is none of these sizes (MD003)."""
        from accelerate import init_empty_weights

        try:
            with init_empty_weights(include_buffers=False):
                return self.build()
        except MemoryError:
            raise
        # diffusers, transformers and the hub's dataclasses have an error of their own each.
        except Exception as error:  # noqa: BLE001
            raise unfit(self.weights.path, error) from None

    def places(self, module: nn.Module) -> dict[str, tuple[ldm.Place, tuple[int, ...]]]:
        """Where each tensor of the module lies, and its shape, by the module's own names. Raises ModelError: the file
        lacks some (MD003)."""
        found = {
            name: (self.locate(canonical(self.component, name)), tuple(tensor.shape))
            for name, tensor in module.state_dict().items()
            if name not in self.same
        }
        used = {place.name for name, (place, _shape) in found.items() if name not in self.unit}
        if missing := used - self.weights.shapes.keys():
            why = _(
                "{part}: {count} of {total} tensors are missing ({names}).",
                part=self.component,
                count=len(missing),
                total=len(used),
                names=few(missing),
            )
            raise ModelError("MD003", where=self.weights.path, why=why)
        return found

    def read(self, place: ldm.Place, shape: tuple[int, ...]) -> Tensor:
        """A tensor in diffusers' shape, in the file's number type. Raises ModelError: it cannot have this shape
        (MD003)."""
        if place.name not in self.weights.shapes:
            import torch

            return torch.eye(*shape)
        try:
            return ldm.take(self.weights.tensor(place.name), place, shape)
        except ValueError as error:
            why = _(
                "{part}: {name} is {found}, where {expected} is expected: it is of another model size.",
                part=self.component,
                name=place.name,
                found=error,
                expected="x".join(map(str, shape)),
            )
            raise ModelError("MD003", where=self.weights.path, why=why) from None

    def tensors(
        self, module: nn.Module, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """Every tensor of the module by its own names, as in the file or as asked for; nothing in the file may be left over.
        Raises ModelError: something is missing, left over or of another shape (MD003)."""
        places = self.places(module)
        used = {place.name for place, _shape in places.values()} | {self.locate(name).name for name in self.same}
        if extra := {name for name in self.stored if not _UNNEEDED.fullmatch(name)} - used:
            why = _(
                "{part}: {count} tensors have no place in this family ({names}).",
                part=self.component,
                count=len(extra),
                names=few(extra),
            )
            raise ModelError("MD003", where=self.weights.path, why=why)
        return {
            name: self.read(place, shape).to(device, self._number_type(name, dtype))
            for name, (place, shape) in places.items()
        }

    def load(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """The module with its weights. Raises ModelError: as `tensors`."""
        module = self.empty()
        tensors = self.tensors(module, device, dtype)
        second = {name: tensors[first] for name, first in self.same.items()}
        module.load_state_dict(tensors | second, strict=True, assign=True)
        if second:
            tied: Any = module
            tied.tie_weights()
        return module.to(device)

    def _number_type(self, name: str, dtype: torch.dtype | None) -> torch.dtype | None:
        """The number type asked for, or float32 for what overflows in float16."""
        import torch

        is_wide = self.in_float32 is not None and dtype == torch.float16 and self.in_float32.fullmatch(name)
        return torch.float32 if is_wide else dtype


def unet_part(weights: Weights, config: Config, network: Network, *, is_file: bool) -> Part:
    """The network that denoises, of a single file or of a diffusers folder."""

    def locate(name: str) -> ldm.Place:
        return network.place(name, config).under(UNET_PREFIX) if is_file else ldm.Place(name)

    return Part("unet", partial(network.build, config), weights, locate, weights.names(UNET_PREFIX if is_file else ""))


def text_part(weights: Weights, config: Config, tower: TextTower, *, is_file: bool) -> Part:
    """A text encoder of a single file, or of a diffusers folder; written by transformers 4 or 5 or from its modules: with
    or without `text_model.`."""
    is_flat = tower.layout == "clip" and not weights.starts(f"{tower.prefix}text_model.")
    names = {canonical(tower.component, name): name for name in weights.shapes}

    def locate(name: str) -> ldm.Place:
        if not is_file:
            return ldm.Place(names.get(name, name))
        return tower.place(name.removeprefix("text_model.") if is_flat else name)

    def locate_either(name: str) -> ldm.Place:
        # Of T5's vocabulary a file may hold either name, or both.
        place = locate(name)
        other = T5_SAME.get(name, T5_SECOND.get(name))
        if other is None or place.name in weights.shapes or locate(other).name not in weights.shapes:
            return place
        return locate(other)

    return Part(
        tower.component,
        partial(tower.build, config),
        weights,
        locate_either if tower.is_t5 else locate,
        [name for name in weights.names(tower.prefix if is_file else "") if is_read(name, tower, config)],
        unit=frozenset({"text_projection.weight"}) if tower.unit_projection and is_file else frozenset(),
        same=T5_SAME if tower.is_t5 else {},
        in_float32=_T5_WIDE if tower.is_t5 else None,
    )


def is_read(name: str, tower: TextTower, config: Config) -> bool:
    """Whether the text encoder uses a tensor of a single file: SD2 leaves open_clip's last block and projection out."""
    name = name.removeprefix(tower.prefix)
    if name in ("text_projection", "text_projection.weight"):
        return tower.projected
    block = re.match(r"transformer\.resblocks\.(\d+)\.", name)
    return block is None or tower.projected or int(block[1]) != int(config["num_hidden_layers"])


def vae_part(weights: Weights, config: Mapping[str, Any]) -> Part:
    """The VAE in a file: part of a checkpoint or alone, in the original layout or in diffusers'. Raises ModelError:
    there is none in it (MD012)."""
    prefix = weights.vae_prefix
    if prefix is None:
        raise ModelError("MD012", where=weights.path)
    names = {ldm.current_vae_name(name.removeprefix(prefix)): name for name in weights.names(prefix)}
    is_diffusers = any(name.startswith("decoder.up_blocks.") for name in names)

    def locate(name: str) -> ldm.Place:
        return ldm.Place(names.get(name, name)) if is_diffusers else ldm.vae_place(name, config).under(prefix)

    return Part("vae", partial(build_vae, config), weights, locate, weights.names(prefix))
