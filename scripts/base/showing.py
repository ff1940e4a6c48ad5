"""What the VAE keeps: figures and a picture, beside the one it began as."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from base.common import load
from base.hands import Atlases
from base.plan import Plan
from base.vae import measure, measured_sets, new_vae, round_trip, starting_weights, to_pixels

ZOOM = 2


def _vaes(work: Path) -> dict[str, AutoencoderKL]:
    """The VAE that the work began with, and the one it has come to, by its averaged weights."""
    found = {"before": new_vae(), "now": new_vae()}
    found["before"].load_state_dict(starting_weights(work))
    if (state := load(work / "vae.pt")) is None:
        raise FileNotFoundError(f"{work / 'vae.pt'}: no VAE yet")
    found["now"].load_state_dict(state["average"])
    return {label: vae.eval().requires_grad_(False) for label, vae in found.items()}


def compare_vaes(plan: Plan, work: Path, count: int = 200) -> dict[str, dict[str, float]]:
    """PSNR in dB by VAE and set, in float32."""
    sets = measured_sets(plan, Atlases(work / "hands"), work / "photos", count)
    return {label: measure(vae, sets) for label, vae in _vaes(work).items()}


def vae_sheet(plan: Plan, work: Path, file: Path, columns: int = 12) -> None:
    """For each set three rows: the pictures, the round trip before, the round trip now."""
    rows: list[np.ndarray] = []
    vaes = _vaes(work)
    for signal in measured_sets(plan, Atlases(work / "hands"), work / "photos", columns).values():
        some = signal[torch.linspace(0, len(signal) - 1, columns).long()]
        rows += [
            np.concatenate(list(to_pixels(one)), 1) for one in (some, *(round_trip(v, some)[0] for v in vaes.values()))
        ]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((sheet.width * ZOOM, sheet.height * ZOOM), Image.Resampling.NEAREST).save(file)
