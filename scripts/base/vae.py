"""The base's VAE: what it is, what it learns from, how it is trained and measured."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from base.common import descend, generator, resume, save, say
from base.plan import Plan
from tsuika.embedded.things import KNOWN, strangers
from tsuika.embedded.world import SIZE_PX, Picture, World, draw


def new_vae() -> AutoencoderKL:
    """AutoencoderKL, 4x down, 4 latent channels, about 1.7 M parameters."""
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 64, 128), layers_per_block=1,
        norm_num_groups=16, sample_size=SIZE_PX,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip


def to_signal(pixels: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) bytes to (B, 3, H, W) in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def fresh_pictures(seed: int, count: int, world: World | None = None) -> tuple[list[Picture], Tensor]:
    """Pictures that no training step has drawn (another stream of the seed)."""
    rng = np.random.default_rng([seed, 99])
    pictures = [(world or World()).picture(rng) for _ in range(count)]
    return pictures, to_signal(np.stack([draw(picture) for picture in pictures]))


def psnr(output: Tensor, target: Tensor) -> float:
    """Mean over pictures of the PSNR in dB of signals in -1..1."""
    error = (output.clamp(-1, 1) - target).pow(2).flatten(1).mean(1)
    return float((10 * torch.log10(4 / error.clamp_min(1e-10))).mean())


def latent_scale(plan: Plan, vae: AutoencoderKL) -> float:
    """1 / std of the latents of fresh pictures: what makes them unit variance, as SD's 0.18215 does."""
    with torch.no_grad():
        _, fresh = fresh_pictures(plan.seed, 256)
        return round(1 / float(vae.encode(fresh).latent_dist.mean.std()), 4)


def train_vae(plan: Plan, work: Path) -> AutoencoderKL:
    """Train the VAE: mean + a little noise instead of KL sampling, crops first, whole pictures last."""
    torch.manual_seed(plan.seed)
    vae = new_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=plan.vae_lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    state = resume(work / "vae.pt", vae, optimizer)
    start = state["step"] if state is not None else 0
    began, seen = time.monotonic(), start
    for step in range(start, plan.vae_steps):
        warm = min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = plan.vae_lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / plan.vae_steps)))
        target = _pictures(plan, step, whole=step >= 0.88 * plan.vae_steps)
        with torch.autocast("cpu", torch.bfloat16):
            mean = vae.encode(target).latent_dist.mean
            noise = torch.randn(mean.shape, generator=generator(plan.seed, 2, step))
            output = vae.decode(mean + plan.latent_noise * noise).sample
        mean = mean.float()
        scale = (mean.std(dim=(0, 2, 3)) - 1).pow(2).mean() + mean.mean(dim=(0, 2, 3)).pow(2).mean()
        loss = _loss(output.float(), target) + 0.01 * scale
        descend(loss, vae, optimizer)
        if (step + 1) % 200 == 0 or step + 1 == plan.vae_steps:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                _, fresh = fresh_pictures(plan.seed, 64)
                latents = vae.encode(fresh).latent_dist.mean
                quality = psnr(vae.decode(latents).sample.float(), fresh)
            pace = (step + 1 - seen) / (time.monotonic() - began)
            began, seen = time.monotonic(), step + 1
            spread = [round(float(s), 2) for s in latents.float().std(dim=(0, 2, 3))]
            say(
                work, stage="vae", step=step + 1, loss=float(loss), psnr_db=quality, steps_per_s=pace, latent_std=spread
            )
            save(work / "vae.pt", vae, optimizer, step + 1)
    return vae.eval().requires_grad_(False)


def _loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 + 1.5 MSE + 0.5 L1 of the gradients + 0.5 L1 at a quarter of the size."""
    rows = F.l1_loss(output.diff(dim=-2), target.diff(dim=-2))
    columns = F.l1_loss(output.diff(dim=-1), target.diff(dim=-1))
    coarse = F.l1_loss(F.avg_pool2d(output, 4), F.avg_pool2d(target, 4))
    return F.l1_loss(output, target) + 1.5 * F.mse_loss(output, target) + 0.5 * (rows + columns) + 0.5 * coarse


def _pictures(plan: Plan, step: int, whole: bool) -> Tensor:
    """One VAE batch: world pictures of every glyph (freely tilted), or 32x32 crops around their things; some noise fields."""
    rng = np.random.default_rng([plan.seed, 1, step])
    wide = World(things=(*KNOWN, *strangers()), max_tilt_deg=25, jitter=0.2)
    narrow = World()
    pictures: list[NDArray[np.uint8]] = []
    for i in range(plan.vae_batch):
        if i % 12 == 11:  # colours and edges that the world does not draw: a user's own pictures should survive too
            field = rng.uniform(0, 255, (int(rng.integers(2, 9)),) * 2 + (3,))
            big = torch.from_numpy(field).permute(2, 0, 1)[None]
            mode = "nearest" if rng.random() < 0.3 else "bicubic"
            pixels = (
                F.interpolate(big, size=SIZE_PX, mode=mode)[0].permute(1, 2, 0).clamp(0, 255).numpy().astype(np.uint8)
            )
            x, y = rng.integers(0, SIZE_PX // 2, 2)
        else:
            world = narrow if i % 3 else wide
            picture = world.picture(rng)
            pixels = draw(picture)
            centre = np.array([picture.things[0].x, picture.things[0].y]) * SIZE_PX
            x, y = np.clip(centre - 16 + rng.uniform(-14, 14, 2), 0, SIZE_PX // 2).astype(int)
        pictures.append(pixels if whole else pixels[y : y + 32, x : x + 32])
    return to_signal(np.stack(pictures))
