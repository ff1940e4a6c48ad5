"""What a folder or a single file is: its family and what it predicts, from configs, names and shapes. The families are
an argument: this module knows how files are recognised, not which families there are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tsuika.core import kinds
from tsuika.core.texts import _, few
from tsuika.core.types import Prediction
from tsuika.core.weights import Weights, read_json
from tsuika.families.common import Family


def detect_folder(families: Sequence[Family], folder: Path) -> tuple[Family, Prediction, str]:
    """What a diffusers folder is, from its JSON files: family, what it predicts, and what says so."""
    there = [family for family in families if (folder / family.network.part / "config.json").is_file()]
    if not there:
        raise kinds.unlike(folder, of_folder(folder))
    unet = read_json(folder / there[0].network.part / "config.json")
    # Of a UNet the config need not say which it is.
    kind = str(unet.get("_class_name", there[0].network.class_name))
    there = [family for family in there if family.network.class_name == kind]
    expected = {channels for family in there for channels in family.input_channels}
    if there and (channels := unet.get("in_channels", min(expected))) not in expected:
        raise kinds.unlike(folder, kinds.of_channels(channels, min(expected)))
    parts = [entry.name for entry in sorted(folder.iterdir()) if entry.is_dir()]
    for family in there:
        if family.is_folder(unet, parts):
            scheduler = folder / "scheduler" / "scheduler_config.json"
            noise = read_json(scheduler)
            vae = folder / "vae" / "config.json"
            normalised = vae.is_file() and read_json(vae).get("latents_mean") is not None
            # Made for EDM's preconditioning or its normalised latents, which nothing here computes.
            if normalised or str(noise.get("_class_name", "")).startswith("EDM"):
                raise kinds.unlike(folder, kinds.EDM)
            if str(noise.get("_class_name", "")).startswith("FlowMatch") or noise.get("use_flow_sigmas"):
                return family, "flow", scheduler.name
            if family.prediction == "flow":
                found = _(
                    "a {family} with the schedule of a {scheduler}",
                    family=family.title,
                    scheduler=noise.get("_class_name"),
                )
                raise kinds.unlike(folder, kinds.other(found))
            raw = noise.get("prediction_type", "epsilon")  # epsilon is diffusers' default
            return family, _prediction(raw, scheduler), scheduler.name
    found = _(
        "a diffusers folder with {parts} and a {network} of no known family",
        parts=", ".join(parts),
        network=unet.get("_class_name", "network"),
    )
    raise kinds.unlike(folder, kinds.other(found))


def of_folder(folder: Path) -> kinds.Kind:
    """What a folder without a UNet is, from the names in it and its configs."""
    names = sorted(entry.name for entry in folder.iterdir())
    if "model_index.json" in names:
        pipeline = read_json(folder / "model_index.json").get("_class_name", "pipeline")
        return kinds.other(_("a diffusers folder of a {pipeline} without unet/", pipeline=pipeline))
    if "adapter_config.json" in names:
        return replace(kinds.LORA, title=_("a folder with a LoRA (PEFT layout)"))
    if "config.json" in names:
        config = read_json(folder / "config.json")
        kind = config.get("_class_name") or ", ".join(map(str, config.get("architectures") or ["unknown"]))
        of = kinds.VAE if kind == "AutoencoderKL" else kinds.A_UNET
        return replace(of, title=_("a folder with one part of a model ({kind})", kind=kind))
    if "recipe.toml" in names and "artifacts" in names:
        use = _("Its results are in artifacts/: give one of them, with the flag of its kind.")
        return kinds.Kind("run", _("the folder of a training run"), use)
    if not names:
        return kinds.other(_("an empty folder"))
    return kinds.other(_("a folder with {names}", names=few(names)))


def _prediction(raw: object, where: Path) -> Prediction:
    """What a model predicts, in the words of diffusers, ModelSpec and LDM."""
    word = str(raw).lower().replace("-", "_")
    if word in ("epsilon", "eps"):
        return "epsilon"
    if word in ("v_prediction", "v", "v_pred", "velocity"):
        return "v_prediction"
    if "flow" in word or word in ("rf", "const"):
        return "flow"
    found = _("a model that predicts {prediction}, where epsilon, v or flow is expected", prediction=repr(raw))
    raise kinds.unlike(where, kinds.other(found))


def detect_file(families: Sequence[Family], weights: Weights) -> tuple[Family, Prediction, str]:
    """The same of a single file, from its tensors' names and shapes, its metadata, and a YAML beside it."""
    for family in families:
        if family.is_single_file(weights.shapes):
            return family, *_prediction_of_file(family, weights)
    raise kinds.unlike(weights.path, weights.kind)


def _prediction_of_file(family: Family, weights: Weights) -> tuple[Prediction, str]:
    """The markers of v-prediction, the user's own statement first: YAML, metadata, an empty tensor, a tensor's spread."""
    if family.prediction == "flow":
        return "flow", "its architecture"
    yaml = weights.path.with_suffix(".yaml")
    if yaml.is_file():
        text = yaml.read_text(encoding="utf-8", errors="replace")
        # LDM's default is "eps"; SDXL's YAML names the class that scales the denoiser instead.
        found = re.search(r"^\s*parameterization:\s*[\"']?(\w+)", text, re.MULTILINE)
        found = found or re.search(r"denoiser_scaling\.(\w+)", text)
        return _prediction(found[1].removesuffix("Scaling") if found else "eps", yaml), yaml.name
    for key in ("modelspec.prediction_type", "modelspec.predict_key"):
        if value := weights.metadata.get(key):
            return _prediction(value, weights.path), key
    if "v_pred" in weights.shapes:
        return "v_prediction", "its v_pred tensor"
    if family.v_spread and family.v_spread[0] in weights.shapes:
        name, least = family.v_spread
        spread = float(weights.tensor(name).float().std())
        return ("v_prediction" if spread > least else "epsilon"), f"a spread of {spread:.3f} in {name}"
    return "epsilon", "no marker of v-prediction"
