"""The PEFT/diffusers layout: a folder with `pytorch_lora_weights.safetensors`; only diffusers reads it. Keys are
`<component>.<HF path>.lora_A.weight` (down) and `.lora_B.weight` (up). There are no alpha tensors: the scale is in the
header, `lora_adapter_metadata`, as arguments of PEFT's LoraConfig per component (diffusers 0.34 and later)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import safetensors
from tsuika.core.errors import FormatError
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.diffusion import adapters
from tsuika.families import FAMILIES
from tsuika.formats import common, layouts, lora, lora_reading

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_USE_KOHYA: Final = _("Use the kohya format.")


def _names_both(component: str, path: str) -> str:
    """A path that matches, exactly or as a suffix, in transformers 4 (`text_model.encoder...`) and 5 (`encoder...`)."""
    return path.removeprefix("text_model.") if component.startswith("text_encoder") else path


def adapter_config(layers: Mapping[str, Mapping[str, Tensor]], component: str) -> dict[str, Any]:
    """Arguments for PEFT's LoraConfig that give each layer (path -> parts) its own rank and alpha."""
    ranks = {_names_both(component, path): int(parts["lora_down.weight"].shape[0]) for path, parts in layers.items()}
    alphas = {}
    for path, parts in layers.items():
        name = _names_both(component, path)
        alpha = float(parts["alpha"]) if "alpha" in parts else float(ranks[name])
        alphas[name] = int(alpha) if alpha.is_integer() else alpha
    rank, alpha = lora.most_common(ranks.values()), lora.most_common(alphas.values())
    config: dict[str, Any] = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "target_modules": sorted(ranks),
    }
    if any("dora_scale" in parts for parts in layers.values()):
        config["use_dora"] = True
    return config


@dataclass(frozen=True)
class PeftLora(lora_reading.LoraFile):
    """The format. `path` is the folder; a `.safetensors` path is the file itself. See `core.types.Format`."""

    layout: layouts.Layout = layouts.DIFFUSERS

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        common.refuse_unread(artifact, self.name)
        row = next((one for one in FAMILIES if one.name == artifact.family), None)
        components: dict[str, dict[str, dict[str, Tensor]]] = {}
        for (component, module_path), parts in lora.layers(artifact, self.name).items():
            components.setdefault(component, {})[module_path] = parts
        tensors: dict[str, Tensor] = {}
        configs: dict[str, Any] = {}
        for component, layers in components.items():
            _refuse_foreign(layers, self.name)
            there = component
            if row is not None and component == "unet":
                there = row.network.part
            # ComfyUI reads SD3's files, too, and not the header: the scale must be in the factors. PEFT takes no alpha below 1.
            joins = row is not None and row.network.joins_streams
            layers = {
                path: _unscaled(parts) if joins or adapters.scale_of(parts) <= 0 else parts
                for path, parts in layers.items()
            }
            if row is not None and component in row.facts.text_encoders and row.tower(component).is_t5:
                why = _("diffusers loads no LoRA of T5.")
                raise FormatError("FM002", format=self.name, why=why, do=_USE_KOHYA)
            for module_path, parts in layers.items():
                key = f"{there}.{module_path}"
                tensors[f"{key}.lora_A.weight"] = parts["lora_down.weight"]
                tensors[f"{key}.lora_B.weight"] = parts["lora_up.weight"]
                if "dora_scale" in parts:
                    tensors[f"{key}.lora_magnitude_vector"] = _magnitudes(parts)
            configs |= {f"{there}.{key}": value for key, value in adapter_config(layers, component).items()}
        stale = (*lora_reading.OF_THE_FILE, *common.NOTES_OF_READING, "adapter", "modelspec.hash_sha256")
        kept = {k: text for k, text in artifact.metadata.items() if k not in stale and not k.startswith("sshs_")}
        kept |= {"format": "pt", "family": artifact.family, "method": artifact.method}
        kept[lora_reading.SETTINGS] = json.dumps(configs, sort_keys=True)
        file = path if path.suffix == ".safetensors" and not path.is_dir() else path / lora_reading.DIFFUSERS_FILE
        ready = safetensors.cast(tensors, dtype, self.name)
        safetensors.save_tensors(file, ready, dict(sorted(kept.items())))


def _unscaled(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A layer whose scale is 1, with what it was multiplied by in its factor."""
    scale = adapters.scale_of(parts)
    kept = {part: tensor for part, tensor in parts.items() if part != "alpha"}
    return kept | ({} if scale == 1 else {"lora_up.weight": parts["lora_up.weight"].detach().float() * scale})


def _refuse_foreign(layers: Mapping[str, Mapping[str, Tensor]], format_name: str) -> None:
    for path, parts in layers.items():
        if not set(parts) <= {"lora_down.weight", "lora_up.weight", "alpha", "dora_scale"}:
            why = _("diffusers loads plain LoRA only; `{path}` has {parts}.", path=path, parts=", ".join(parts))
            raise FormatError("FM002", format=format_name, why=why, do=_USE_KOHYA)
    if len({"dora_scale" in parts for parts in layers.values()}) > 1:
        why = _("Only some layers are DoRA; PEFT wants all or none.")
        raise FormatError("FM002", format=format_name, why=why, do=_USE_KOHYA)


def _magnitudes(parts: Mapping[str, Tensor]) -> Tensor:
    """LyCORIS' (out, 1[, 1, 1]) as PEFT has it: (out) or, for a convolution, (1, out, 1, 1)."""
    scale, down, out = parts["dora_scale"], parts["lora_down.weight"], parts["lora_up.weight"].shape[0]
    if not len(scale) == scale.numel() == out:
        why = _("Its DoRA magnitudes are on the input axis, as old LyCORIS wrote them; PEFT's are on the output axis.")
        raise FormatError("FM002", format=layouts.DIFFUSERS.name, why=why, do=_USE_KOHYA)
    return scale.reshape(out) if down.ndim == 2 else scale.reshape(1, out, *[1] * (down.ndim - 2))
