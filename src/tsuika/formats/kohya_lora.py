"""The kohya layout: the LoRA `.safetensors` that ComfyUI, Forge, A1111, kohya sd-scripts and diffusers all load.

A key is `<prefix>_<module path, '.' as '_'>.<part>`; the names are in `kohya_names.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsuika import families
from tsuika.core import safetensors
from tsuika.core.errors import FormatError
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.core.weights import open_safetensors
from tsuika.diffusion.lora_parts import adapter, inner_factor
from tsuika.families import FAMILIES, Family
from tsuika.formats import common, lora
from tsuika.formats.kohya_names import layer_name, split_key
from tsuika.formats.lora import most_common

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# fact -> header key, where the text is the same; facts of a run: `common.run_facts`
_FACTS: Final = {
    "name": "ss_output_name",
    "trigger": "modelspec.trigger_phrase",
    "description": "modelspec.description",
    "author": "modelspec.author",
    "license": "modelspec.license",
    "tags": "modelspec.tags",
    "date": "modelspec.date",
    "started_at": "ss_training_started_at",
    "finished_at": "ss_training_finished_at",
    "base_name": "ss_sd_model_name",
    "base_sha256": "ss_new_sd_model_hash",
    "base_legacy_hash": "ss_sd_model_hash",
    "vae_name": "ss_vae_name",
    "vae_sha256": "ss_new_vae_hash",
    "dropout": "ss_network_dropout",
    "pictures": "ss_num_train_images",
    "steps": "ss_steps",
    "max_steps": "ss_max_train_steps",
    "epochs": "ss_num_epochs",
    "batch_size": "ss_total_batch_size",
    "accumulate": "ss_gradient_accumulation_steps",
    "learning_rate": "ss_learning_rate",
    "unet_learning_rate": "ss_unet_lr",
    "text_learning_rate": "ss_text_encoder_lr",
    "optimizer": "ss_optimizer",
    "schedule": "ss_lr_scheduler",
    "warmup_steps": "ss_lr_warmup_steps",
    "min_snr_gamma": "ss_min_snr_gamma",
    "noise_offset": "ss_noise_offset",
    "clip_norm": "ss_max_grad_norm",
    "max_norm": "ss_scale_weight_norms",
    "caption_dropout": "ss_caption_dropout_rate",
    "precision": "ss_mixed_precision",
    "gradient_checkpointing": "ss_gradient_checkpointing",
    "cache_latents": "ss_cache_latents",
    "clip_skip": "ss_clip_skip",
    "zero_terminal_snr": "ss_zero_terminal_snr",
    "max_token_length": "ss_max_token_length",
    "seed": "ss_seed",
    "comment": "ss_training_comment",
    "tag_frequency": "ss_tag_frequency",
    "bucket_info": "ss_bucket_info",
    "dataset_dirs": "ss_dataset_dirs",
}
_TABLES: Final = ("tag_frequency", "bucket_info", "dataset_dirs")
# the same, but written in another way than read
_READ_ONLY: Final = {
    "rank": "ss_network_dim",
    "alpha": "ss_network_alpha",
    "title": "modelspec.title",
    "resolution": "modelspec.resolution",
}


def header_metadata(artifact: Artifact, layers: Mapping[lora.Key, lora.Parts]) -> dict[str, str]:
    """The `ss_*` and `modelspec.*` fields, without hashes: strings only, nothing looked up, sorted.

    What the artifact brought from another file under such names stays, unless it is known better here.
    """
    facts, family = artifact.metadata, families.family(artifact.family)
    prediction = common.prediction_of(facts)
    ranks: dict[bool, list[float]] = {True: [], False: []}
    alphas: dict[bool, list[float]] = {True: [], False: []}
    for parts in layers.values():
        inner = inner_factor(parts)
        is_3x3 = inner is not None and inner.ndim == 4 and inner.shape[2:].numel() > 1
        if inner is not None:
            ranks[is_3x3].append(inner.shape[0])
        if "alpha" in parts:
            alphas[is_3x3].append(float(parts["alpha"]))
    kind = adapter(artifact.tensors)
    args: dict[str, str] = {} if kind == "lora" else {"algo": "lora" if kind == "dora" else kind}
    if kind == "dora":
        args["dora_wd"] = "True"
    if ranks[True]:
        args |= {"conv_dim": str(most_common(ranks[True])), "conv_alpha": str(most_common(alphas[True]))}
    kept = {key: text for key, text in facts.items() if key.startswith(("ss_", "ssmd_", "modelspec."))}
    made = {key: _text(fact, facts[fact]) for fact, key in _FACTS.items() if facts.get(fact)}
    pixels = family.geometry(prediction).native_size_px
    width, _x, height = facts.get("resolution", f"{pixels}x{pixels}").partition("x")
    made |= {
        "ss_v2": str("--v2" in family.names.sd_scripts),
        "ss_base_model_version": family.names.kohya_version.get(prediction, family.names.kohya_version["epsilon"]),
        "ss_network_module": "networks.lora" if kind == "lora" else "lycoris.kohya",
        "ss_network_dim": facts.get("rank") or str(most_common(ranks[False] or ranks[True])),
        "ss_network_alpha": facts.get("alpha") or str(most_common(alphas[False] or alphas[True])),
        "ss_network_args": json.dumps(args),
        "ss_resolution": f"({width}, {height or width})",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{family.names.modelspec.get(prediction, family.names.modelspec['epsilon'])}/lora",
        "modelspec.implementation": family.names.implementation if family.names.has_ldm_lora else "diffusers",
        "modelspec.title": _text("title", facts.get("title") or facts.get("name") or "LoRA"),
        "modelspec.resolution": f"{width}x{height or width}",
        "modelspec.prediction_type": common.PREDICTION_TYPES[prediction],
    }
    if clip_skip := facts.get("clip_skip"):
        made["modelspec.encoder_layer"] = clip_skip
    return dict(sorted((kept | made).items()))


def _text(fact: str, text: str) -> str:
    # A1111 parses every value that begins with a brace as JSON.
    return f" {text}" if text.startswith("{") and fact not in _TABLES else text


def _facts_from(metadata: Mapping[str, str]) -> dict[str, str]:
    known = {**_FACTS, **_READ_ONLY}
    found = {fact: metadata[key] for fact, key in known.items() if metadata.get(key, "None") != "None"}
    if "resolution" not in found and (size := re.fullmatch(r"\((\d+), ?(\d+)\)", metadata.get("ss_resolution", ""))):
        found["resolution"] = f"{size[1]}x{size[2]}"
    if kind := metadata.get("modelspec.prediction_type"):
        found["prediction"] = {"v": "v_prediction", "f": "flow"}.get(kind[:1].lower(), "epsilon")
    elif metadata.get("ss_base_model_version", "").endswith("_v"):
        found["prediction"] = "v_prediction"
    return found


def _named_family(metadata: Mapping[str, str]) -> Family | None:
    """The family that the header names; the newest that fits, as old trainers left `ss_v2` and the like behind."""
    names = metadata.get("ss_base_model_version", ""), metadata.get("modelspec.architecture", "")
    is_v2 = metadata.get("ss_v2") == "True"
    for family in reversed(FAMILIES):
        if any(name.startswith(family.names.beginnings) for name in names):
            return family
        if is_v2 and "--v2" in family.names.sd_scripts:
            return family
    return None


class KohyaLora:
    """The format. See `core.types.Format`."""

    name = "kohya"
    method = lora.METHOD
    suffix = ".safetensors"

    def sniff(self, path: Path) -> bool:
        """Whether a key has one of kohya's prefixes."""
        header = safetensors.header_or_none(path)
        return header is not None and any(re.match(r"lora_(unet|te[12]?)_\w+\.", key) for key in header.shapes)

    def read(self, path: Path) -> Artifact:
        """The artifact, tensors in the file's dtype; keys not understood are listed in metadata `unread_keys`.

        Metadata: everything in the header as it is, and the facts (`common.run_facts`) under their own names.

        Raises:
            FormatError: damaged (MD003, MD005), nothing in it is understood (FM001).
        """
        weights = open_safetensors(path)
        tensors, unread = lora.renamed(weights, split_key, self.name)
        lora.check_shapes(path, tensors)
        tensors |= {name: tensor.reshape(()) for name, tensor in tensors.items() if name.endswith(".alpha")}
        metadata = {**weights.metadata, **_facts_from(weights.metadata)}
        return lora.artifact_of(tensors, _named_family(weights.metadata), metadata, unread)

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """Write whole or not at all; `alpha` is the effective one (rank-stabilised: alpha * sqrt(rank)).

        Raises:
            FormatError: the format cannot hold this artifact, or `dtype` its numbers (FM002).
        """
        common.refuse_unread(artifact, self.name)
        if artifact.family not in {family.name for family in FAMILIES}:
            why = _("There are no kohya names for the family `{family}`.", family=artifact.family)
            raise FormatError("FM002", format=self.name, why=why, do=common.ANOTHER_FORMAT)
        layers = lora.layers(artifact, self.name)
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
        outer = next((n for n in ("lora_up.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a") if n in result), None)
        if outer is not None and stored != alpha and stored.isfinite() and stored != 0:
            result[outer] = result[outer].detach().float() * (alpha / stored)
    return result
