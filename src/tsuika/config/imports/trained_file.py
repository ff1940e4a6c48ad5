"""The settings that made a LoRA file, out of its header: `ss_*` as sd-scripts and tsuika write them, and OneTrainer's own.

What only the machine knew that trained it (folders, where the base lay) is not taken over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tsuika.config.imports import onetrainer, sd_scripts
from tsuika.config.imports.taking import Imported, Read, number, tables
from tsuika.core.plain import parsed
from tsuika.core.texts import _

SUFFIXES: Final = (".safetensors",)
_ONETRAINER: Final = "ot_config"
# What a header says besides: of the machine and the images, of what is counted in steps as well, and hashes.
_FACTS: Final = re.compile(
    r"session_id|training_(started|finished)_at|.*_hash|num_.*|epoch|steps|bucket_info|tag_frequency|base_model_version"
    r"|(total_batch_size|batch_size_per_device)|datasets|dataset_dirs|reg_dataset_dirs|validat.*|max_validation_steps|resize_interpolation"
    r"|v2|optimizer|debiased_estimation|network_args|t5xxl_max_token_length"
)
# Of its datasets and their folders.
_PREPARED: Final = frozenset(
    (
        "resolution",
        "enable_bucket",
        "num_repeats",
        "color_aug",
        "flip_aug",
        "random_crop",
        "shuffle_caption",
        "keep_tokens",
    )
) | {"enable_wildcard", "caption_prefix", "caption_suffix", "class_tokens", "batch_size_per_device"}
_SAME: Final = {"batch_size_per_device": "train_batch_size"}
_VARIES: Final = "…, …"
_PLAIN: Final = {"None": None, "True": True, "False": False}


@dataclass(frozen=True)
class TrainedFile:
    """The header of a file of tensors: its metadata, and the tensors' names."""

    metadata: Mapping[str, str]
    names: frozenset[str]


def is_known(content: Any) -> bool:
    """Whether the header says how it was trained."""
    return isinstance(content, TrainedFile) and (
        "ss_network_module" in content.metadata or _of_onetrainer(content) is not None
    )


def _of_onetrainer(content: TrainedFile) -> dict[str, Any] | None:
    table = _json(content.metadata.get(_ONETRAINER, ""))
    # Neither concepts nor prompts lie beside it.
    return {**table, "concept_file_name": ""} if onetrainer.is_configuration(table) else None


def settings(content: TrainedFile, read: Read) -> Imported:
    """What a header says."""
    if (table := _of_onetrainer(content)) is not None:
        return onetrainer.configuration(table, read)
    facts = {name.removeprefix("ss_"): text for name, text in content.metadata.items() if name.startswith("ss_")}
    values: dict[str, Any] = {
        name: _PLAIN.get(text, text) for name, text in facts.items() if not _FACTS.fullmatch(name)
    }
    is_ours = any(name.startswith("tsuika.") for name in content.metadata)
    values |= _optimizer(facts.get("optimizer", "")) | _images(facts)
    if facts.get("text_encoder_lr", "").startswith("["):
        values["text_encoder_lr"] = _json(facts["text_encoder_lr"])
    arguments = _json(facts.get("network_args", ""))
    values["network_args"] = [f"{key}={one}" for key, one in arguments.items()] if isinstance(arguments, dict) else []
    values["network_train_unet_only"] = not any(name.startswith(("lora_te", "text_encoder")) for name in content.names)
    version, prediction = facts.get("base_model_version", ""), content.metadata.get("modelspec.prediction_type", "")
    values |= {
        "sdxl": version.startswith("sdxl"),
        "sd3_checkbox": version.startswith("sd3"),
        "v2": facts.get("v2") == "True",
    }
    values["v_parameterization"] = version.endswith("_v") or prediction.startswith("v")
    values["debiased_estimation_loss"] = facts.get("debiased_estimation") == "True"
    return sd_scripts.training(
        {name: value for name, value in values.items() if value is not None},
        read,
        _("a LoRA file with the settings that it was trained with"),
        silent={} if is_ours else sd_scripts.USUAL,
    )


def _json(text: str) -> Any:
    try:
        return parsed(text)
    except ValueError:
        return None


def _optimizer(text: str) -> dict[str, Any]:
    """`bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1,betas=(0.9, 0.99))`."""
    name, _bracket, arguments = text.partition("(")
    pairs = re.findall(r"(\w+)=(\([^)]*\)|\[[^\]]*\]|[^,]+)", arguments.removesuffix(")"))
    listed = [f"{key}={value.replace(' ', '')}" for key, value in pairs]
    return {"optimizer_type": name.rpartition(".")[2], "optimizer_args": listed} if name else {}


def _images(facts: Mapping[str, str]) -> dict[str, Any]:
    """What a step saw, and how images and captions were prepared, where that was the same for all folders."""
    datasets = tables(_json(facts.get("datasets", "")))
    subsets = [one for dataset in datasets for one in tables(dataset.get("subsets")) if not one.get("is_reg")]
    found: dict[str, Any] = {}
    for rows in (datasets, subsets):
        for key in _PREPARED & {key for row in rows for key in row}:
            same = all(row.get(key) == rows[0].get(key) for row in rows)
            found[key] = rows[0].get(key) if same else _VARIES
    found = {_SAME.get(key, key): value for key, value in found.items()}
    if total := number(facts.get("total_batch_size")):
        # The images of a whole step; those of a forward pass are meant.
        found["train_batch_size"] = total / (number(facts.get("gradient_accumulation_steps")) or 1)
    folders = _json(facts.get("dataset_dirs", ""))
    return {**found, "dataset_dirs": ", ".join(folders) if isinstance(folders, dict) else ""}
