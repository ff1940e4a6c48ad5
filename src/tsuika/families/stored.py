"""A base on disk: its family, prediction and sizes from configs and headers, its parts and weights when asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tsuika.core import files
from tsuika.core.errors import ModelError, RecipeError
from tsuika.core.kinds import EMA_PREFIX, UNET_PREFIX
from tsuika.core.plain import parsed
from tsuika.core.texts import _
from tsuika.core.types import AS_STORED, Facts, FewSteps, Overrides, Prediction, Role, canonical
from tsuika.core.weights import Weights, open_folder, open_weights, read_json
from tsuika.diffusion import ldm
from tsuika.families import detection, few_steps, parts, sources, vaes
from tsuika.families.common import Family, Geometry, TextTower, scheduler_config
from tsuika.families.inpainting import channels_for
from tsuika.families.model import StableDiffusion, latent_factor
from tsuika.families.network import TEXT_ROLES, Config

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class StoredBase:
    """A diffusers folder or a single file; nothing of it is loaded."""

    path: Path
    family: Family
    prediction: Prediction
    why_prediction: str  # what says so: "scheduler_config.json", "model.yaml", ...
    zero_terminal_snr: bool = False
    file: Weights | None = None  # of a single file
    given: Geometry | None = None  # of a single file that does not say its sizes

    @property
    def kind(self) -> Literal["folder", "single-file"]:
        """Its layout."""
        return "single-file" if self.file else "folder"

    @property
    def facts(self) -> Facts:
        """Of its family."""
        return self.family.facts

    @cached_property
    def few_steps(self) -> FewSteps | None:
        """How it is drawn, if something says that it was distilled to need a few steps."""
        return few_steps.recognise(self.path, self.file, self.prediction)

    @cached_property
    def geometry(self) -> Geometry:
        """Its sizes: a folder's configs; what a single file written by tsuika says; else its family's own. Raises
        ModelError: they cannot be read (MD003)."""
        if self.file:
            found = self.given or _noted_geometry(self.file) or self._family_geometry(self.file)
            text = {tower.component: found.text[tower.component] for tower in self.towers}
            # A family's own sizes are those of a model that does not inpaint.
            channels = self.file.shapes[f"{UNET_PREFIX}{self.family.network.marks[0]}"][1]
            return replace(found, text=text, unet={**found.unet, "in_channels": channels})
        unet, vae = self._config("unet"), self._config("vae")
        text = {tower.component: self._config(tower.component) for tower in self.towers}
        try:
            side = unet.get("sample_size") or self.facts.native_size_px // latent_factor(vae)
            native = int(side if isinstance(side, int) else max(side)) * latent_factor(vae)
            float(vae.get("scaling_factor", 1))
        except (ValueError, TypeError, KeyError) as error:
            raise parts.unfit(self.path, error) from None
        return Geometry(unet, vae, text, native)

    def _family_geometry(self, file: Weights) -> Geometry:
        if self.family.sizes_of is None:
            return self.family.geometry(self.prediction)
        if (found := self.family.sizes_of(file.shapes)) is None:
            why = _("Its network is of another model size than those of {family}.", family=self.family.title)
            raise ModelError("MD003", where=file.path, why=why)
        return found

    @property
    def inpaints(self) -> bool:
        """Whether its network also takes a mask and a masked image."""
        return int(self.geometry.unet.get("in_channels", 0)) == channels_for(self.facts.latent_channels)

    @cached_property
    def towers(self) -> tuple[TextTower, ...]:
        """The text encoders that it has, in the family's order."""
        return tuple(tower for tower in self.family.towers if not tower.optional or self._has(tower))

    def _has(self, tower: TextTower) -> bool:
        return self.file.starts(tower.prefix) if self.file else (self.path / tower.component / "config.json").is_file()

    def _folder(self, component: str) -> Path:
        return self.path / (self.family.network.part if component == "unet" else component)

    @property
    def title(self) -> str:
        """Of its family, or of its size where the family has several and it is one of them."""
        size = self.family.size_title
        return (size(self.geometry.unet) if size else None) or self.facts.title

    def component(self, name: str) -> Weights:
        """The weights that a component is in. Raises ModelError: none there, or damaged (MD003)."""
        stem = "model" if name.startswith("text_encoder") else "diffusion_pytorch_model"
        return self.file or open_folder(self._folder(name), stem)

    def _config(self, component: str) -> Config:
        if self.file:
            return self.geometry.unet if component == "unet" else self.geometry.text[component]
        return read_json(self._folder(component) / "config.json")

    def unet(self) -> parts.Part:
        """The network that denoises."""
        config, network = self._config("unet"), self.family.network
        return parts.unet_part(self.component("unet"), config, network, is_file=self.file is not None)

    def text_encoders(self) -> list[parts.Part]:
        """The text encoders, in the family's order."""
        return [
            parts.text_part(self.component(t.component), self._config(t.component), t, is_file=self.file is not None)
            for t in self.towers
        ]

    def weights(self) -> StoredWeights:
        """Everything but the VAE by canonical name, read from disk one by one. Raises ModelError: a part is not whole
        (MD003), or a pickle with code in it (MD005)."""
        return StoredWeights([self.unet(), *self.text_encoders()], self.family.network.roles)

    def load_vae(self, vae: str, device: torch.device) -> nn.Module:
        """The base's own VAE or another, named as in `families.load`; nothing else of the base is loaded. Raises
        ModelError, NetworkError: as `families.load_vae`."""
        if vaes.is_own(vae):
            return vaes.own_vae(self.path, self.geometry.vae, vae, device)
        return vaes.other_vae(self.facts.title, self.geometry.vae, vae, device)

    def load(
        self,
        source: str,
        device: torch.device,
        dtype: torch.dtype,
        tokenizers: Mapping[str, Any],
        vae: str = vaes.BUILTIN,
        overrides: Overrides = AS_STORED,
        hashes: Path | None = None,
        unet_device: torch.device | None = None,
    ) -> StableDiffusion:
        """The model, frozen; see `families.load`. Raises RecipeError: an override that this model cannot have (RC002);
        ModelError: a part is missing, damaged or does not fit (MD003), or is a pickle with code (MD005); NetworkError:
        no VAE was given, cached or to be had."""
        prediction = overrides.prediction or self.prediction
        return StableDiffusion(
            family=self.family,
            prediction=prediction,
            unet=self.unet().load(unet_device or device, dtype),
            vae=self.load_vae(vae, device),
            text_encoders={part.component: part.load(device, dtype) for part in self.text_encoders()},
            tokenizers=dict(tokenizers),
            scheduler_config=self._scheduler(prediction, overrides.zero_terminal_snr),
            latent_scale=self.geometry.latent_scale,
            latent_shift=self.geometry.latent_shift,
            native_size_px=self.geometry.native_size_px,
            source=source,
            sha256=files.kept_sha256(self.path, hashes) if self.file else None,
            extra_tensors=self._extra_tensors(self.file) if self.file else {},
            clip_skip=self._clip_skip(overrides.clip_skip),
            few_steps=self.few_steps,
        )

    def _scheduler(self, prediction: Prediction, zero_terminal_snr: bool | None) -> dict[str, Any]:
        found = self._schedule(prediction, zero_terminal_snr)
        # Distilled from pure noise on: in a few steps another spacing would begin, and so end, elsewhere.
        return found | {"timestep_spacing": "trailing"} if self.few_steps and prediction != "flow" else found

    def _schedule(self, prediction: Prediction, zero_terminal_snr: bool | None) -> dict[str, Any]:
        says_so = self.zero_terminal_snr if self.file else None
        known = says_so if zero_terminal_snr is None else zero_terminal_snr
        if zero_terminal_snr and prediction != "v_prediction":
            why = _("Where all is noise, only a model that predicts v says something.")
            raise RecipeError("RC002", key="base.zero_terminal_snr", found="on", why=why)
        if self.family.prediction == "flow" != prediction:
            why = _("{family} is trained by flow, and by nothing else.", family=self.family.title)
            raise RecipeError("RC002", key="base.prediction", found=prediction, why=why)
        shift = self.family.flow_shift
        if self.file:
            return scheduler_config(prediction, zero_terminal_snr=bool(known), flow_shift=shift)
        config = dict(read_json(self.path / "scheduler" / "scheduler_config.json"))
        if prediction != self.prediction and "flow" in (prediction, self.prediction):
            config = scheduler_config(prediction, flow_shift=shift)
        if known is not None:
            config |= {"rescale_betas_zero_snr": known, "timestep_spacing": "trailing" if known else "leading"}
        return config

    def _clip_skip(self, layer: int) -> int:
        has_choice = not self.family.penultimate and self.family.towers[0].layout == "clip"
        layers = int(self.geometry.text[self.family.towers[0].component]["num_hidden_layers"])
        if layer > (layers if has_choice else 1):
            why = (
                _("Its text encoder has {layers} layers.", layers=layers)
                if has_choice
                else _("{family} always takes the same layer, in all programs.", family=self.family.title)
            )
            raise RecipeError("RC002", key="base.clip_skip", found=layer, why=why)
        return layer

    def tokenizers(self, folder: str = "") -> dict[str, Any]:
        """The tokenizers in a folder; with "" the base's own, or for a single file CLIP's. Raises ModelError: none
        there, or not readable (MD003); NetworkError: they are neither cached nor to be had."""
        is_own = not (self.file or folder)
        place = Path(folder) if folder else sources.clip_tokenizer(self.path) if self.file else self.path
        return {
            tower.tokenizer: sources.find_tokenizer(
                sources.t5_place(place, tower, self.path) if tower.is_t5 else place, tower, is_own=is_own
            )
            for tower in self.towers
        }

    def _extra_tensors(self, file: Weights) -> dict[str, Tensor]:
        """What open_clip's towers have and no part computes with."""
        return {
            name: file.tensor(name).to("cpu", copy=True)
            for tower in self.family.towers
            if tower.layout == "open_clip"
            for name in file.names(tower.prefix)
            if name == f"{tower.prefix}logit_scale"
            or not parts.is_read(name, tower, self.geometry.text[tower.component])
        }


def open_base(families: Sequence[Family], path: Path, given: Geometry | None = None) -> StoredBase:
    """What a diffusers folder or a single file is; no weights are read (but SD2's 320 numbers that show its
    prediction). `given` are sizes of a single file that are not its family's own, and that it does not say. Raises
    ModelError: not there (MD001), no Stable Diffusion (MD002), damaged (MD003), a pickle with code (MD005)."""
    if path.is_dir():
        family, prediction, why = detection.detect_folder(families, path)
        return StoredBase(path, family, prediction, why)
    file = open_weights(path)
    if not file.starts(UNET_PREFIX) and file.starts(EMA_PREFIX):  # the average alone
        file = file.renamed({name: ldm.averaged(name) or name for name in file.shapes})
    family, prediction, why = detection.detect_file(families, file)
    return StoredBase(path, family, prediction, why, "ztsnr" in file.shapes, file, given)


def _noted_geometry(file: Weights) -> Geometry | None:
    if (text := file.metadata.get(ldm.CONFIGS)) is None:
        return None
    try:
        noted = parsed(text)
        towers = {key.removesuffix("_config"): noted[key] for key in noted if key.startswith("text_encoder")}
        return Geometry(noted["unet_config"], noted["vae_config"], towers, int(noted["native_size_px"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = _("Its {field} cannot be read: {error}.", field=ldm.CONFIGS, error=repr(error))
        raise ModelError("MD003", where=file.path, why=why) from None


class StoredWeights(Mapping[str, "Tensor"]):
    """`<component>.<canonical parameter path>` -> weight, on the CPU, in the file's number type. Each is read from disk
    when asked for, so that two SDXL fit side by side."""

    def __init__(self, components: Sequence[parts.Part], roles: Mapping[Role, str]) -> None:
        self._roles = roles
        self._places = {
            f"{part.component}.{canonical(part.component, name)}": (part, place, shape)
            for part in components
            for name, (place, shape) in part.places(part.empty()).items()
        }

    def __getitem__(self, name: str) -> Tensor:
        part, place, shape = self._places[name]
        return part.read(place, shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def layers(self, roles: Sequence[Role]) -> list[str]:
        """`<component>.<module path>` of the modules that play one of the roles."""
        sides = {"unet": "unet", "text": r"text_encoder\w*"}
        known = {**self._roles, **TEXT_ROLES}
        patterns = [re.compile(rf"{sides[role.partition('.')[0]]}\.({known[role]})") for role in roles]
        names = [name.removesuffix(".weight") for name in self._places if name.endswith(".weight")]
        return [name for name in names if any(pattern.fullmatch(name) for pattern in patterns)]
