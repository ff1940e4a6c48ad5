"""The base as a diffusers folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from diffusers import DDIMScheduler
from safetensors.torch import save_file

from base.common import load
from base.hands import Atlases
from base.plan import SAMPLING, SCHEDULE, Plan
from base.unet import Generator
from base.vae import latent_scale, trained_vae


def export(plan: Plan, work: Path, folder: Path, horizon: str) -> None:
    """Write what `work` holds as a diffusers folder in half precision, with the weights averaged over a horizon."""
    vae, unet_state = trained_vae(work), load(work / "unet.pt")
    if unet_state is None:
        raise FileNotFoundError(f"{work / 'unet.pt'}: train the UNet first")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(work / "tokenizer", folder / "tokenizer")
    vae.register_to_config(scaling_factor=latent_scale(plan, vae, Atlases(work / "hands")))
    vae.half().save_pretrained(folder / "vae")
    model = Generator(len(json.loads((folder / "tokenizer/vocab.json").read_text(encoding="utf-8"))))
    model.load_state_dict(unet_state["averages"][horizon])
    model.half()
    model.unet.save_pretrained(folder / "unet")
    text = model.text
    text.config.save_pretrained(folder / "text_encoder")
    config = json.loads((folder / "text_encoder/config.json").read_text())
    config |= {"architectures": ["CLIPTextModel"], "dtype": "float32"}  # what it is loaded as, whatever the file holds
    (folder / "text_encoder/config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    # transformers 5 dropped a level of these names; every other program expects it
    names = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in text.state_dict().items()}
    save_file(
        {name: value.contiguous() for name, value in names.items()},
        folder / "text_encoder/model.safetensors",
        {"format": "pt"},
    )
    DDIMScheduler(
        **SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, timestep_spacing="trailing"
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    index = {
        "_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None], "feature_extractor": [None, None], "image_encoder": [None, None],
        "requires_safety_checker": False,
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    made = {"unet_steps": unet_state["step"], "horizon": horizon, "plan": asdict(plan)}
    (folder / "tsuika.json").write_text(json.dumps({**SAMPLING, "made": made}, indent=2) + "\n")
