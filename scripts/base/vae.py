"""The base's VAE: what it is, how it is trained and measured."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import tsuika
from base.characters import CHARACTERS, held_out
from base.common import average, descend, generator, load, resume, save, say
from base.hands import UNSEEN_THINGS, Atlases
from base.mixture import Mixture
from base.plan import Plan
from base.scenes import scene, source
from base.sources import HANDS, UNSEEN_HAND
from tsuika.core.files import whole
from tsuika.embedded.mascot import PICTURE_PX
from tsuika.embedded.things import Thing
from tsuika.embedded.world import SIZE_PX, Picture, World, draw

CROP_PX: Final = 32


def new_vae() -> AutoencoderKL:
    """AutoencoderKL, 4x down, 4 latent channels, 2.7 M parameters."""
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 64, 128), layers_per_block=1,
        norm_num_groups=16, sample_size=SIZE_PX,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip


def trained_vae(work: Path) -> AutoencoderKL:
    """The averaged weights of the training that is in `work`.

    Raises:
        FileNotFoundError: it has not begun.
    """
    if (state := load(work / "vae.pt")) is None:
        raise FileNotFoundError(f"{work / 'vae.pt'}: train the VAE first")
    vae = new_vae()
    vae.load_state_dict(state["average"])
    return vae.eval()


def to_signal(pixels: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) bytes to (B, 3, H, W) in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def to_pixels(signal_B3HW: Tensor) -> NDArray[np.uint8]:
    """(B, 3, H, W) in -1..1 to (B, H, W, 3) bytes."""
    pixels: NDArray[np.uint8] = ((signal_B3HW.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return pixels


def fresh_pictures(seed: int, count: int) -> tuple[list[Picture], Tensor]:
    """Pictures of the world of the base that ships, which no training step has drawn (another stream of the seed)."""
    rng = np.random.default_rng([seed, 99])
    pictures = [World().picture(rng) for _ in range(count)]
    return pictures, to_signal(np.stack([draw(picture) for picture in pictures]))


def psnr(output: Tensor, target: Tensor) -> float:
    """Mean over pictures of the PSNR in dB of signals in -1..1."""
    error = (output.clamp(-1, 1) - target).pow(2).flatten(1).mean(1)
    return float((10 * torch.log10(4 / error.clamp_min(1e-10))).mean())


def latent_scale(plan: Plan, vae: AutoencoderKL, atlases: Atlases, count: int = 256) -> float:
    """1 / std of the latents of fresh scenes: what makes them unit variance, as SD's 0.18215 does."""
    rng = np.random.default_rng([plan.seed, 96])
    pictures = [draw(scene(rng).picture, source=source(atlases)) for _ in range(count)]
    return round(1 / float(round_trip(vae, to_signal(np.stack(pictures)))[1].std()), 4)


def measured_sets(plan: Plan, atlases: Atlases, photographs: Path, count: int) -> dict[str, Tensor]:
    """What the VAE is measured on, none of it in training: `count` pictures each, (B, 3, 64, 64).

    Scenes that the base shall draw; every thing in the hands that the VAE is shown (`fresh`); the unseen hand; unseen things;
    the mascot's 30 pictures; two harder characters; the folder `photographs`, if there is one.
    """
    hands = [hand.name for hand in HANDS]
    worlds = {
        "fresh": [f"{hand}/{name}" for hand in hands for name in atlases.shown],
        "hand": [f"{UNSEEN_HAND.name}/{name}" for name in atlases.shown],
        "things": [f"{hand}/{name}" for hand in hands for name in UNSEEN_THINGS if name in atlases.names],
    }
    rng = np.random.default_rng([plan.seed, 95])
    sets = {"scenes": [scene(rng).picture for _ in range(count)]}
    for number, (label, names) in enumerate(worlds.items()):
        rng, world = (
            np.random.default_rng([plan.seed, 98, number]),
            World(things=tuple(Thing((name,), "") for name in names)),
        )
        sets[label] = [world.picture(rng) for _ in range(count)]
    signals = {
        label: to_signal(np.stack([draw(picture, source=source(atlases)) for picture in pictures]))
        for label, pictures in sets.items()
    }
    signals["mascot"] = folder_pictures(tsuika.EMBEDDED.parent / "pictures")
    harder = [one.pixels for trigger in CHARACTERS for one in held_out(trigger, 22)]
    signals["characters"] = F.avg_pool2d(to_signal(np.stack(harder)), PICTURE_PX // SIZE_PX)
    if photographs.exists():
        signals["photographs"] = folder_pictures(photographs)
    return signals


def folder_pictures(folder: Path) -> Tensor:
    """Every PNG and JPEG below a folder, the middle square at 64 px: (B, 3, 64, 64)."""
    rows = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg")):
        with Image.open(path) as image:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            part = image.convert("RGB").crop((left, top, left + side, top + side))
            rows.append(np.asarray(part.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX)))
    return to_signal(np.stack(rows))


@torch.no_grad()
def round_trip(vae: AutoencoderKL, signal: Tensor) -> tuple[Tensor, Tensor]:
    """What comes back, and the latents it went through."""
    parts = [vae.encode(part).latent_dist.mean for part in signal.split(16)]
    return torch.cat([vae.decode(part).sample.float() for part in parts]), torch.cat(parts).float()


def measure(vae: AutoencoderKL, sets: dict[str, Tensor]) -> dict[str, float]:
    """PSNR in dB after a round trip, by set."""
    return {label: round(psnr(round_trip(vae, signal)[0], signal), 2) for label, signal in sets.items()}


def rate(plan: Plan, step: int) -> float:
    """Warm-up, constant, then linear to zero over the last `vae_decay` steps: the end may be moved until those begin."""
    return plan.vae_lr * min(1.0, (step + 1) / plan.vae_warmup, (plan.vae_steps - step) / plan.vae_decay)


def starting_weights(work: Path) -> dict[str, Tensor]:
    """The first edition's VAE, from the package as it was when the work began."""
    kept = work / "vae-start.safetensors"
    if not kept.exists():
        tensors = load_file(tsuika.EMBEDDED / "vae/diffusion_pytorch_model.safetensors")
        with whole(kept) as path:
            save_file(tensors, path)
    return {name: value.float() for name, value in load_file(kept).items()}


def train_vae(plan: Plan, work: Path, mixture: Mixture) -> AutoencoderKL:
    """Train the VAE and give it with its averaged weights: mean + a little noise instead of KL sampling; crops, and whole
    pictures among them and at the end, since normalisation and attention see another context there."""
    vae = new_vae()
    vae.load_state_dict(starting_weights(work))
    optimizer = torch.optim.AdamW(vae.parameters(), lr=plan.vae_lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    mean_weights = {name: value.detach().clone() for name, value in vae.state_dict().items()}
    state, start = resume(work / "vae.pt", vae, optimizer), 0
    if state is not None:
        mean_weights, start = state["average"], state["step"]
    sets = measured_sets(plan, mixture.atlases, work / "photos", 48)
    judged = new_vae().eval()
    began, seen, saved, recent = time.monotonic(), start, time.monotonic(), []
    for step in range(start, plan.vae_steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(plan, step)
        target = batch(plan, mixture, step)
        with torch.autocast("cpu", torch.bfloat16):
            mean = vae.encode(target).latent_dist.mean
            noise = torch.randn(mean.shape, generator=generator(plan.seed, 2, step))
            output = vae.decode(mean + plan.latent_noise * noise).sample
        mean = mean.float()
        scale = (mean.std(dim=(0, 2, 3)) - 1).pow(2).mean() + mean.mean(dim=(0, 2, 3)).pow(2).mean()
        loss = reconstruction_loss(output.float(), target)
        descend(loss + 0.01 * scale, vae, optimizer)
        average(mean_weights, vae, min(plan.vae_ema, (step + 1) / (step + 10)))
        recent.append(float(loss.detach()))
        done = step + 1
        if done % 500 == 0 or done == plan.vae_steps:
            judged.load_state_dict(mean_weights)
            with torch.autocast("cpu", torch.bfloat16):
                figures = measure(judged, sets)
                spread = round_trip(judged, sets["fresh"])[1].std(dim=(0, 2, 3))
            pace = (done - seen) / (time.monotonic() - began) * 3600
            say(
                work, stage="vae", step=done, loss=float(np.mean(recent)), lr=rate(plan, step), steps_per_h=round(pace),
                psnr_db=figures, latent_std=[round(float(value), 2) for value in spread],
            )  # fmt: skip
            began, seen, recent = time.monotonic(), done, []
        if done == plan.vae_steps - plan.vae_decay:
            save(work / "vae-before-decay.pt", vae, optimizer, done, average=mean_weights)
        if time.monotonic() - saved > plan.save_every_s or done == plan.vae_steps:
            save(work / "vae.pt", vae, optimizer, done, average=mean_weights)
            saved = time.monotonic()
    vae.load_state_dict(mean_weights)
    return vae.eval().requires_grad_(False)


def batch(plan: Plan, mixture: Mixture, step: int) -> Tensor:
    """What a step trains on: crops of `vae_batch` pictures, or a quarter as many whole ones (as many pixels)."""
    rng = np.random.default_rng([plan.seed, 1, step])
    complete = step % 4 == 3 or step >= plan.vae_steps - plan.vae_decay // 2
    parts = []
    for example in (mixture.example(rng) for _ in range(plan.vae_batch // 4 if complete else plan.vae_batch)):
        if complete:
            parts.append(example.pixels)
            continue
        corner = np.array([example.x, example.y]) - CROP_PX / 2 + rng.uniform(-14, 14, 2)
        x, y = np.clip(corner, 0, SIZE_PX - CROP_PX).astype(int)
        parts.append(example.pixels[y : y + CROP_PX, x : x + CROP_PX])
    return to_signal(np.stack(parts))


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 + 1.5 MSE + 0.5 L1 of the gradients + 0.5 L1 at a quarter of the size."""
    rows = F.l1_loss(output.diff(dim=-2), target.diff(dim=-2))
    columns = F.l1_loss(output.diff(dim=-1), target.diff(dim=-1))
    coarse = F.l1_loss(F.avg_pool2d(output, 4), F.avg_pool2d(target, 4))
    return F.l1_loss(output, target) + 1.5 * F.mse_loss(output, target) + 0.5 * (rows + columns) + 0.5 * coarse
