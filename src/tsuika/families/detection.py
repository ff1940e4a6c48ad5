"""What a folder or a single file is: its family and what it predicts, from configs, names and shapes.

The families are an argument: this file knows how to look, not what exists.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tsuika.core.errors import ModelError
from tsuika.core.types import Prediction
from tsuika.core.weights import EDM, Weights, describe, few, of_channels, read_json
from tsuika.core.words import Words
from tsuika.families.common import Config, Detected, Family

_V_BIAS_STD = 0.09  # SD2 v models lie above; ComfyUI tells them apart by this layer and number
_V_BIAS = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


def detect_folder(families: Sequence[Family], folder: Path) -> tuple[Family, Detected]:
    """What a diffusers folder is, from its JSON files."""
    unet_config = folder / "unet" / "config.json"
    if not unet_config.is_file():
        raise ModelError("MD002", where=folder, found=_name_folder(folder))
    unet = read_json(unet_config)
    if (channels := unet.get("in_channels", 4)) != 4:
        raise ModelError("MD002", where=folder, found=of_channels(channels))
    parts = [entry.name for entry in sorted(folder.iterdir()) if entry.is_dir()]
    for family in families:
        if family.is_folder(unet, parts):
            scheduler = folder / "scheduler" / "scheduler_config.json"
            noise = read_json(scheduler)
            if _is_edm(folder, noise):
                raise ModelError("MD002", where=folder, found=EDM)
            raw = noise.get("prediction_type", "epsilon")  # epsilon is diffusers' default
            return family, Detected(family.facts, _prediction(raw, scheduler), "folder", scheduler.name)
    listed, network = ", ".join(parts), unet.get("_class_name", "network")
    found = Words(
        f"a diffusers folder with {listed} and a {network} of no known family",
        f"{listed} と未知の種類の{network}を含むdiffusers形式のフォルダー",
    )
    raise ModelError("MD002", where=folder, found=found)


def _is_edm(folder: Path, noise: Config) -> bool:
    """Whether it is made for EDM's preconditioning or its normalised latents, which nothing here computes."""
    vae = folder / "vae" / "config.json"
    normalised = vae.is_file() and read_json(vae).get("latents_mean") is not None
    return normalised or str(noise.get("_class_name", "")).startswith("EDM")


def _name_folder(folder: Path) -> Words:
    names = sorted(entry.name for entry in folder.iterdir())
    if "model_index.json" in names:
        pipeline = read_json(folder / "model_index.json").get("_class_name", "pipeline")
        return Words(
            f"a diffusers folder of a {pipeline} without unet/", f"unet/ のない{pipeline}のdiffusers形式のフォルダー"
        )
    if "adapter_config.json" in names:
        return Words("a folder with a LoRA (PEFT layout)", "LoRAのフォルダー(PEFT形式)")
    if "config.json" in names:
        config = read_json(folder / "config.json")
        kind = config.get("_class_name") or ", ".join(map(str, config.get("architectures") or ["unknown"]))
        return Words(f"a folder with one part of a model ({kind})", f"モデルの一部だけのフォルダー({kind})")
    holding = Words(f"a folder with {few(names)}", f"{few(names).ja} のあるフォルダー")
    return holding if names else Words("an empty folder", "空のフォルダー")


def _prediction(raw: object, where: Path) -> Prediction:
    if raw == "epsilon":
        return "epsilon"
    if raw in ("v_prediction", "v"):
        return "v_prediction"
    found = Words(
        f"a model that predicts {raw!r}, where epsilon or v is expected",
        f"{raw!r} を予測するモデル(必要なのはepsilonかv)",
    )
    raise ModelError("MD002", where=where, found=found)


def detect_single(families: Sequence[Family], weights: Weights) -> tuple[Family, Detected]:
    """What a single file is, from its tensors' names and shapes, its metadata, and a YAML beside it."""
    for family in families:
        if family.is_single_file(weights.shapes):
            prediction, why = _single_file_prediction(family, weights)
            return family, Detected(family.facts, prediction, "single-file", why, "ztsnr" in weights.shapes)
    raise ModelError("MD002", where=weights.path, found=describe(weights))


def _single_file_prediction(family: Family, weights: Weights) -> tuple[Prediction, str]:
    """The markers of v-prediction, the user's own statement first: YAML, metadata, an empty tensor, SD2's tell-tale."""
    yaml = weights.path.with_suffix(".yaml")
    if yaml.is_file():
        text = yaml.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"^\s*parameterization:\s*[\"']?(\w+)", text, re.MULTILINE)
        # LDM's default is "eps"; SDXL's YAML names the denoiser's scaling class instead
        is_v = found[1] == "v" if found else "denoiser_scaling.VScaling" in text
        return ("v_prediction" if is_v else "epsilon"), yaml.name
    for key in ("modelspec.prediction_type", "modelspec.predict_key"):
        if value := weights.metadata.get(key):
            return ("v_prediction" if value.lower() in ("v", "v_prediction", "v-prediction") else "epsilon"), key
    if "v_pred" in weights.shapes:
        return "v_prediction", "its v_pred tensor"
    if family.facts.family == "sd2" and _V_BIAS in weights.shapes:
        # The one weight that detection reads: 320 numbers. SD2 files name their prediction nowhere.
        std = float(weights.tensor(_V_BIAS).float().std())
        return ("v_prediction" if std > _V_BIAS_STD else "epsilon"), f"a spread of {std:.3f} in {_V_BIAS}"
    return "epsilon", "no marker of v-prediction"
