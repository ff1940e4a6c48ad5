"""The base's text encoder and UNet: what they are, what they learn from, how they are trained together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from base.common import descend, generator, resume, save, say
from base.plan import BETAS, MAX_TOKENS, TRAIN_TIMESTEPS, Plan
from base.vae import latent_scale, to_signal
from tsuika.embedded.world import SIZE_PX, World, draw, thing_mask


def new_unet() -> UNet2DConditionModel:
    """SD1's UNet made small: 16x16x4 latents, (64, 128, 256), text width 192, 16.7 M parameters."""
    return UNet2DConditionModel(
        sample_size=SIZE_PX // 4, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(64, 128, 256),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=192, attention_head_dim=4, norm_num_groups=32,
    )  # fmt: skip


def new_text_encoder(vocabulary: int) -> CLIPTextModel:
    """CLIP's text tower made small: 4 layers of 192, 2.2 M parameters."""
    config = CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS, projection_dim=192, hidden_act="quick_gelu",
        bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1, pad_token_id=vocabulary - 1,
    )  # fmt: skip
    return CLIPTextModel(config)


class Generator(torch.nn.Module):
    """Text encoder and UNet as one module, so that both train, average and checkpoint together."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.text = new_text_encoder(vocabulary)
        self.unet = new_unet()

    def forward(self, noisy_BCHW: Tensor, t_B: Tensor, ids_BS: Tensor) -> Tensor:
        cond_BSD = self.text(ids_BS)[0]
        output: Tensor = self.unet(noisy_BCHW, t_B, cond_BSD, return_dict=False)[0]
        return output


def _alphas_cumprod() -> Tensor:
    """SD's scaled-linear schedule, ending at this base's own beta."""
    betas = torch.linspace(BETAS[0] ** 0.5, BETAS[1] ** 0.5, TRAIN_TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


def rate(plan: Plan, step: int) -> float:
    """Warm-up, constant, then linear decay to zero over the last `unet_decay` of the steps."""
    decay_from = plan.unet_steps * (1 - plan.unet_decay)
    falling = min(1.0, (plan.unet_steps - step) / max(1.0, plan.unet_steps - decay_from))
    return plan.unet_lr * min(1.0, (step + 1) / plan.unet_warmup) * falling


def train_unet(plan: Plan, work: Path, vae: AutoencoderKL, tokenizer: Any) -> dict[str, Tensor]:
    """Train text encoder and UNet together on v-prediction; returns the averaged weights."""
    torch.manual_seed(plan.seed + 1)
    model = Generator(len(tokenizer))
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.unet_lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    state, start = resume(work / "unet.pt", model, optimizer), 0
    if state is not None:
        average, start = state["average"], state["step"]
    scale, alphas = latent_scale(plan, vae), _alphas_cumprod()
    empty = tokenizer("", padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids[0]
    live = dict(model.named_parameters())
    began, seen, recent = time.monotonic(), start, []
    for step, latents, ids, weights in _batches(plan, start, vae, scale, tokenizer):
        for group in optimizer.param_groups:
            group["lr"] = rate(plan, step)
        source = generator(plan.seed, 5, step)
        size = len(latents)
        ids = torch.where(torch.rand(size, 1, generator=source) < plan.caption_dropout, empty, ids)
        strata = (torch.arange(size) + torch.rand(size, generator=source)) / size
        t = (strata * TRAIN_TIMESTEPS).long()[torch.randperm(size, generator=source)]
        noise = torch.randn(latents.shape, generator=source)
        a = alphas[t][:, None, None, None]
        noisy, target = a.sqrt() * latents + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * latents
        snr = a / (1 - a)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(noisy, t, ids)
        error = (output.float() - target).pow(2) * weights * (snr.clamp(max=plan.min_snr_gamma) / (snr + 1))
        loss = error.mean()
        descend(loss, model, optimizer)
        decay = min(plan.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_([average[name] for name in live], list(live.values()), 1 - decay)
        recent.append(float(loss))
        if (step + 1) % 100 == 0 or step + 1 == plan.unet_steps:
            pace = (step + 1 - seen) * plan.unet_batch / (time.monotonic() - began)
            say(
                work, stage="unet", step=step + 1, loss=float(np.mean(recent)), pictures_per_s=pace, lr=rate(plan, step)
            )
            began, seen, recent = time.monotonic(), step + 1, []
        if (step + 1) % plan.save_every == 0 or step + 1 == plan.unet_steps:
            save(work / "unet.pt", model, optimizer, step + 1, average=average)
    return average


def _batches(
    plan: Plan, start: int, vae: AutoencoderKL, scale: float, tokenizer: Any
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """(step, latents, ids, weights) from `start` on; a function of the plan and the step alone."""
    per_pool = plan.pool * plan.views // plan.unet_batch
    held, pool = -1, None
    for step in range(start, plan.unet_steps):
        number, place = divmod(step, per_pool)
        if number != held:
            pool, held = _pool(plan, number, vae, scale, tokenizer), number
        assert pool is not None
        view, offset = divmod(place * plan.unet_batch, plan.pool)
        order = torch.randperm(plan.pool, generator=generator(plan.seed, 4, number, view))
        rows = order[offset : offset + plan.unet_batch]
        yield step, pool[0][rows], pool[1][rows], pool[2][rows]


def _pool(plan: Plan, number: int, vae: AutoencoderKL, scale: float, tokenizer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (N, 4, h, w), token ids (N, S) and loss weights (N, 1, h, w) of freshly drawn pictures."""
    rng, world = np.random.default_rng([plan.seed, 3, number]), World()
    pictures = [world.picture(rng) for _ in range(plan.pool)]
    ids = tokenizer(
        [world.caption(picture, rng) for picture in pictures],
        padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt",
    ).input_ids  # fmt: skip
    latents: list[Tensor] = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for i in range(0, plan.pool, 64):
            signal = to_signal(np.stack([draw(picture) for picture in pictures[i : i + 64]]))
            latents.append(vae.encode(signal).latent_dist.mean.float() * scale)
    masks = torch.from_numpy(np.stack([thing_mask(picture) for picture in pictures]))[:, None]
    weights = 1 + (plan.thing_weight - 1) * F.avg_pool2d(masks, 4)
    return torch.cat(latents), ids, weights / weights.mean()
