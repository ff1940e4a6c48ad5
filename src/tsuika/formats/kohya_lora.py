"""The kohya layout: the LoRA `.safetensors` that ComfyUI, Forge, A1111, kohya sd-scripts and diffusers all load. A key
is `<prefix>_<module path, '.' as '_'>.<part>`; the names and the header are in `kohya.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsuika.core import safetensors
from tsuika.core.errors import FormatError
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.diffusion.adapters import inner_factor
from tsuika.families import FAMILIES, family
from tsuika.formats import common, fused, layouts, lora, lora_reading
from tsuika.formats.kohya import header_metadata, layer_name

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Of each kind of layer with a rank, a factor that ΔW is proportional to.
_OUTER: Final = ("lora_up.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a")


@dataclass(frozen=True)
class KohyaLora(lora_reading.LoraFile):
    """The format. See `core.types.Format`."""

    layout: layouts.Layout = layouts.KOHYA
    suffix: str = ".safetensors"

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """Write whole or not at all; `alpha` is the effective one (rank-stabilised: alpha * sqrt(rank))."""
        common.refuse_unread(artifact, self.name)
        if artifact.family not in {row.name for row in FAMILIES}:
            why = _("There are no kohya names for the family `{family}`.", family=artifact.family)
            raise FormatError("FM002", format=self.name, why=why, do=common.ANOTHER_FORMAT)
        layers: Mapping[lora.Key, lora.Parts] = lora.layers(artifact, self.name)
        if family(artifact.family).network.joins_streams:
            layers = fused.join(layers, self.name)
        tensors: dict[str, Tensor] = {}
        for (component, module_path), parts in layers.items():
            key = layer_name(artifact.family, component, module_path)
            if key is None:
                layer = f"{component}.{module_path}"
                why = _("There is no kohya name for `{layer}` of {family}.", layer=layer, family=artifact.family)
                do = _("Choose another format or other layers.")
                raise FormatError("FM002", format=self.name, why=why, do=do)
            for part, tensor in _representable(parts, dtype).items():
                tensors[f"{key}.{part}"] = tensor
        ready = safetensors.cast(tensors, dtype, self.name)
        metadata = header_metadata(artifact, layers)
        training_only = {key: text for key, text in metadata.items() if key.startswith("ss_")}
        data_hash = safetensors.data_hash(ready)
        metadata |= {
            "modelspec.hash_sha256": f"0x{data_hash}",
            "sshs_model_hash": data_hash,
            "sshs_legacy_hash": safetensors.legacy_hash(ready, training_only),
        }
        safetensors.save_tensors(path, ready, metadata)


def _representable(parts: lora.Parts, dtype: torch.dtype) -> dict[str, Tensor]:
    """Parts in the shapes of the layout, and with an alpha that `dtype` holds exactly; ΔW stays the same."""
    result = dict(parts)
    scale, down = result.get("dora_scale"), result.get("lora_down.weight")
    if scale is not None and scale.ndim == 1 and down is not None:
        # Magnitudes of outputs as LyCORIS has them, (out, 1[, 1, 1]).
        result["dora_scale"] = scale.reshape(-1, *[1] * (down.ndim - 1))
    if "alpha" in result:
        alpha = result["alpha"].detach().float().reshape(())
        stored = alpha.to(dtype).float()
        result["alpha"] = alpha
        outer = next((n for n in _OUTER if n in result), None)
        if (
            outer is not None
            and inner_factor(parts) is not None
            and stored != alpha
            and stored.isfinite()
            and stored != 0
        ):
            result[outer] = result[outer].detach().float() * (alpha / stored)
    return result
