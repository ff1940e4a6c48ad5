"""What the package holds of the making: the base, the yardstick, and the hands' atlases; and the way back from there."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from base.common import load, save
from base.export import export
from base.hands import UNSEEN_THINGS, Atlases
from base.plan import Plan
from base.scenes import NAMES, icon
from base.sources import HANDS, UNSEEN_HAND
from base.unet import HORIZONS, Generator, new_optimizer
from base.vae import new_vae
from tsuika.core.files import whole, write_text
from tsuika.embedded.hands import ATLAS_COLUMNS, FOLDER, GLYPH_PX


def ship(plan: Plan, work: Path, package: Path, horizon: str) -> None:
    """Write base, yardstick and atlases over those of `package`; other decoders for the old latents go."""
    export(plan, work, package / "base", horizon)
    if (state := load(work / "yardstick.pt")) is None:
        raise FileNotFoundError(f"{work / 'yardstick.pt'}: no yardstick yet")
    with whole(package / "yardstick.safetensors") as path:
        save_file({name: value.half() for name, value in state["model"].items()}, path)
    _ship_atlases(Atlases(work / "hands"), package / FOLDER)


def take_up(plan: Plan, work: Path, package: Path) -> Plan:
    """Make the work's states of what `package` ships, for going on from there; gives the plan with the step it was at.

    VAE and yardstick are done. The optimizer begins with nothing, the questions to the text encoder with random answers.
    """
    folder = package / "base"
    work.mkdir(parents=True, exist_ok=True)
    at: int = json.loads((folder / "tsuika.json").read_text(encoding="utf-8"))["made"]["unet_steps"]
    shutil.copytree(folder / "tokenizer", work / "tokenizer", dirs_exist_ok=True)
    vae = new_vae()
    vae.load_state_dict(load_file(folder / "vae/diffusion_pytorch_model.safetensors"))
    save(work / "vae.pt", vae, torch.optim.AdamW(vae.parameters()), plan.vae_steps, average=vae.state_dict())
    yardstick = {name: value.float() for name, value in load_file(package / "yardstick.safetensors").items()}
    torch.save({"model": yardstick, "step": plan.yardstick_steps}, work / "yardstick.pt")
    torch.manual_seed(plan.seed + 1)
    model = Generator(len(json.loads((folder / "tokenizer/vocab.json").read_text(encoding="utf-8"))))
    model.unet.load_state_dict(load_file(folder / "unet/diffusion_pytorch_model.safetensors"))
    text = load_file(folder / "text_encoder/model.safetensors")
    model.text.load_state_dict({name.removeprefix("text_model."): value for name, value in text.items()})
    averages = {horizon: {name: value.clone() for name, value in model.state_dict().items()} for horizon in HORIZONS}
    save(work / "unet.pt", model, new_optimizer(plan, model), at, averages=averages)
    return replace(plan, unet_began=at)


def _ship_atlases(atlases: Atlases, folder: Path) -> None:
    """One lossless WebP a hand, and the names in their order: those of the vocabulary and the new things."""
    icons = [*(icon(name) for name in NAMES), *UNSEEN_THINGS]
    rows = -(-len(icons) // ATLAS_COLUMNS)
    for hand in (*HANDS, UNSEEN_HAND):
        page = Image.new("RGBA", (ATLAS_COLUMNS * GLYPH_PX, rows * GLYPH_PX))
        for i, name in enumerate(icons):
            row, column = divmod(i, ATLAS_COLUMNS)
            page.paste(atlases.glyph(f"{hand.name}/{name}"), (column * GLYPH_PX, row * GLYPH_PX))
        with whole(folder / f"{hand.name}.webp") as path:
            page.save(path, "WEBP", lossless=True, quality=100, method=6)
    names = {"known": NAMES, "new": [name.replace("-", " ").removesuffix(" face") for name in UNSEEN_THINGS]}
    write_text(folder / "names.json", json.dumps(names, indent=0) + "\n")
