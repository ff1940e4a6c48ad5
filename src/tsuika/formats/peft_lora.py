"""The PEFT/diffusers layout: a folder with `pytorch_lora_weights.safetensors`; only diffusers reads it.

Keys are `<component>.<HF path>.lora_A.weight` (down) and `.lora_B.weight` (up). There are no alpha tensors: the scale
is in the header, `lora_adapter_metadata`, as arguments of PEFT's LoraConfig per component (diffusers 0.34 and later).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import safetensors
from tsuika.core.errors import FormatError
from tsuika.core.safetensors import damaged
from tsuika.core.texts import _
from tsuika.core.types import Artifact, canonical
from tsuika.core.weights import open_safetensors
from tsuika.families import FAMILIES
from tsuika.formats import common, lora

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WEIGHTS: Final = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for
_USE_KOHYA: Final = _("Use the kohya format.")
_CONFIG: Final = "lora_adapter_metadata"
_OWN: Final = ("format", _CONFIG, "family", "method")
_ENDS: Final = (  # spelling -> canonical part; `way` is down or up
    re.compile(r"(?P<path>.+)\.lora_(?P<way>[AB])\.weight"),  # PEFT
    re.compile(r"(?P<path>.+)\.lora(_linear_layer)?\.(?P<way>down|up)\.weight"),  # diffusers 0.20-0.26
    re.compile(r"(?P<path>.+)\.to_(?P<to>q|k|v|out)_lora\.(?P<way>down|up)\.weight"),  # the oldest
    re.compile(r"(?P<path>.+)\.(?P<way>lora_magnitude_vector)(\.weight)?"),  # PEFT's DoRA
)
_WAYS: Final = {
    "A": "lora_down.weight",
    "B": "lora_up.weight",
    "down": "lora_down.weight",
    "up": "lora_up.weight",
    "lora_magnitude_vector": "dora_scale",
}


def _split_key(key: str) -> tuple[str, str, str] | None:
    component, _dot, rest = key.partition(".")
    if component in ("down_blocks", "mid_block", "up_blocks"):  # the oldest files hold the UNet alone, without prefix
        component, rest = "unet", key
    if component not in lora.COMPONENTS:
        return None
    rest = rest.replace(".processor.", ".")
    for pattern in _ENDS:
        if match := pattern.fullmatch(rest):
            path = match["path"]
            if to := match.groupdict().get("to"):
                path += f".to_{to}" if component == "unet" else f".{to}_proj"
            if component == "unet" and path.endswith(".to_out"):
                path += ".0"
            return component, canonical(component, path), _WAYS[match["way"]]
    return None


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


class PeftLora:
    """The format. `path` is the folder; a `.safetensors` path is the file itself. See `core.types.Format`."""

    name = "diffusers"
    method = lora.METHOD
    suffix = ""

    def sniff(self, path: Path) -> bool:
        """Whether a key is one of diffusers' LoRA names."""
        header = safetensors.header_or_none(_weights(path))
        return header is not None and any(_split_key(key) for key in header.shapes)

    def read(self, path: Path) -> Artifact:
        """The artifact in this and all earlier spellings; keys not understood are listed in metadata `unread_keys`.

        Every layer gets an `alpha`: from the header, or its rank where the header has none (scale 1).

        Raises:
            FormatError: damaged (MD003, MD005), nothing in it is understood (FM001).
        """
        weights = open_safetensors(_weights(path))
        tensors, unread = lora.renamed(weights, _split_key, self.name)
        for name in [name for name in tensors if name.endswith(".dora_scale")]:  # PEFT: (out) or (1, out, 1, 1)
            down = tensors.get(f"{name.removesuffix('dora_scale')}lora_down.weight")
            if down is not None:
                tensors[name] = tensors[name].reshape(-1, *[1] * (down.ndim - 1))
        lora.check_shapes(weights.path, tensors)
        _add_alphas(weights.path, weights.metadata, tensors)
        metadata = {key: text for key, text in weights.metadata.items() if key not in _OWN}
        named = {family.name: family for family in FAMILIES}.get(weights.metadata.get("family", ""))
        return lora.artifact_of(tensors, named, metadata, unread)

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        common.refuse_unread(artifact, self.name)
        components: dict[str, dict[str, dict[str, Tensor]]] = {}
        for (component, module_path), parts in lora.layers(artifact, self.name).items():
            components.setdefault(component, {})[module_path] = parts
        tensors: dict[str, Tensor] = {}
        configs: dict[str, Any] = {}
        for component, layers in components.items():
            _refuse_foreign(layers, self.name)
            for module_path, parts in layers.items():
                key = f"{component}.{module_path}"
                tensors[f"{key}.lora_A.weight"] = parts["lora_down.weight"]
                tensors[f"{key}.lora_B.weight"] = parts["lora_up.weight"]
                if "dora_scale" in parts:
                    tensors[f"{key}.lora_magnitude_vector"] = _magnitudes(parts)
            configs |= {f"{component}.{key}": value for key, value in adapter_config(layers, component).items()}
        stale = (*_OWN, *common.NOTES_OF_READING, "adapter", "modelspec.hash_sha256")
        kept = {k: text for k, text in artifact.metadata.items() if k not in stale and not k.startswith("sshs_")}
        kept |= {"format": "pt", "family": artifact.family, "method": artifact.method}
        kept[_CONFIG] = json.dumps(configs, sort_keys=True)
        ready = safetensors.cast(tensors, dtype, self.name)
        safetensors.save_tensors(_weights(path), ready, dict(sorted(kept.items())))


def _weights(path: Path) -> Path:
    return path if path.suffix == ".safetensors" and not path.is_dir() else path / WEIGHTS


def _refuse_foreign(layers: Mapping[str, Mapping[str, Tensor]], format_name: str) -> None:
    for path, parts in layers.items():
        if "lora_down.weight" not in parts or "lora_mid.weight" in parts:
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
        raise FormatError("FM002", format=PeftLora.name, why=why, do=_USE_KOHYA)
    return scale.reshape(out) if down.ndim == 2 else scale.reshape(1, out, *[1] * (down.ndim - 2))


def _add_alphas(path: Path, metadata: Mapping[str, str], tensors: dict[str, Tensor]) -> None:
    import torch

    configs = _configs(path, metadata)
    for name in [name for name in tensors if name.endswith(".lora_down.weight")]:
        component, module_path, _part = lora.split_name(name) or ("", "", "")
        rank = tensors[name].shape[0]
        alpha = _alpha(path, configs.get(component, {}), module_path, rank)
        tensors[f"{component}.{module_path}.alpha"] = torch.tensor(alpha, dtype=torch.float32)


def _configs(path: Path, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    try:
        flat = json.loads(metadata.get(_CONFIG, "{}"))
    except (json.JSONDecodeError, RecursionError):
        flat = None
    if not isinstance(flat, dict):
        raise damaged(path, _("`{field}` in the header is not a table", field=_CONFIG))
    result: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        component, _dot, field = key.partition(".")
        result.setdefault(component, {})[field] = value
    return result


def _alpha(path: Path, config: Mapping[str, Any], module_path: str, rank: int) -> float:
    alpha: Any = config.get("lora_alpha", rank)
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise damaged(path, _("`{field}` in the header is not a table", field="alpha_pattern"))
    for pattern, value in patterns.items():
        # PEFT takes regular expressions; running a foreign one is a risk, and writers only put paths there.
        plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
        if not re.fullmatch(r"[\w.]+", plain):
            found = _("the regular expression `{pattern}`", pattern=pattern)
            expected = _("layer paths in `alpha_pattern`")
            raise FormatError("FM001", where=path, found=found, expected=expected)
        if module_path == plain or module_path.endswith(f".{plain}"):
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise damaged(path, _("{value} as an alpha in the header", value=repr(alpha)))
    return float(alpha) * rank**0.5 if config.get("use_rslora") is True else float(alpha)
