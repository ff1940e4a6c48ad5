"""The base's text encoder and UNet: what they are, what they learn from, how they are trained together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

import tsuika
from base.common import average, descend, generator, resume, save, say
from base.hands import Atlases
from base.plan import MAX_TOKENS, SCHEDULE, TRAIN_TIMESTEPS, Plan
from base.scenes import HAND_WORDS, NAMES, RELATION_NAMES, SHAPES, Scene, caption, scene, source
from base.vae import latent_scale, to_signal
from tsuika.core.files import whole
from tsuika.diffusion.objective import add_noise, alphas_cumprod_T, min_snr_weight, stratified_timesteps, target
from tsuika.embedded.world import BACKGROUNDS, SIZE_PX, draw, thing_mask

# Averages of the weights whose horizon grows with the step, (1 - 1/step)^(exponent + 1), so that no length has to be known:
# they look back over about a third, a tenth and a thirtieth of the steps (Karras et al. 2024, section 3.1).
HORIZONS: Final = {"long": 6.94, "middle": 16.97, "short": 50.0}


# What a caption may say, and in how many ways: asked of the text encoder beside the denoising, which for 200,000 views left the
# hand out of what it told the UNet (the loss was the same with another hand's word to four digits).
WHAT: Final = (*NAMES, *SHAPES)
SAID: Final = {
    "hand": len(HAND_WORDS), "first": len(WHAT), "second": len(WHAT), "background": len(BACKGROUNDS),
    "relation": len(RELATION_NAMES),
}  # fmt: skip
UNSAID: Final = -100


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
    """Text encoder, UNet and the questions to the text as one module, so that all train, average and checkpoint together."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.text = new_text_encoder(vocabulary)
        self.unet = new_unet()
        self.questions = torch.nn.Linear(self.text.config.hidden_size, sum(SAID.values()))

    def forward(self, noisy_BCHW: Tensor, t_B: Tensor, ids_BS: Tensor) -> tuple[Tensor, Tensor]:
        """The UNet's output, and the answers to SAID (B, their classes in a row), read from the end of the text."""
        cond_BSD = self.text(ids_BS)[0]
        output: Tensor = self.unet(noisy_BCHW, t_B, cond_BSD, return_dict=False)[0]
        end_BS1 = (ids_BS == self.text.config.eos_token_id)[..., None].float()
        return output, self.questions((cond_BSD * end_BS1).sum(1) / end_BS1.sum(1))


class Pool(NamedTuple):
    """Pictures drawn, encoded and described: latents (N, 4, h, w), token ids (N, S), loss weights (N, 1, h, w), and what the
    captions say (N, SAID), UNSAID where nothing."""

    latents: Tensor
    ids: Tensor
    weights: Tensor
    said: Tensor


class Painter:
    """Draws pools of scenes; keeps the last one in the work folder, for after a restart."""

    def __init__(self, plan: Plan, work: Path, vae: AutoencoderKL, tokenizer: Any, atlases: Atlases) -> None:
        self.plan, self.work, self.vae, self.tokenizer = plan, work, vae, tokenizer
        self.source = source(atlases)
        self.scale = latent_scale(plan, vae, atlases)

    def pool(self, number: int) -> Pool:
        """The pool of a number; the same after a restart, too."""
        kept = self.work / "pool.safetensors"
        if kept.exists() and (tensors := load_file(kept))["number"].item() == number:
            return Pool(*(tensors[name] for name in Pool._fields))
        made = self.draw(self.plan.pool, 3, number)
        with whole(kept) as path:
            save_file({"number": torch.tensor(number), **made._asdict()}, path)
        return made

    def draw(self, count: int, *stream: int) -> Pool:
        """Fresh scenes, a function of the plan's seed and the stream."""
        rng = np.random.default_rng([self.plan.seed, *stream])
        scenes = [scene(rng) for _ in range(count)]
        captions = [caption(shown, rng) for shown in scenes]
        ids = self.tokenizer(
            captions,
            padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt",
        ).input_ids  # fmt: skip
        latents: list[Tensor] = []
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            for i in range(0, count, 32):
                signal = to_signal(np.stack([draw(shown.picture, source=self.source) for shown in scenes[i : i + 32]]))
                latents.append(self.vae.encode(signal).latent_dist.mean.float() * self.scale)
        masks = torch.from_numpy(np.stack([thing_mask(shown.picture, source=self.source) for shown in scenes]))[:, None]
        weights = 1 + (self.plan.thing_weight - 1) * F.avg_pool2d(masks, 4)
        said = torch.tensor([_said(shown, words) for shown, words in zip(scenes, captions, strict=True)])
        return Pool(torch.cat(latents).contiguous(), ids, weights / weights.mean(), said)


def _said(shown: Scene, words: str) -> list[int]:
    """A class for each question of SAID; vague captions are not told from others."""
    hand, second = HAND_WORDS[shown.hand], shown.what[1] if len(set(shown.what)) > 1 else ""
    return [
        list(HAND_WORDS).index(shown.hand) if f"{hand} style" in words else UNSAID, WHAT.index(shown.what[0]),
        WHAT.index(second) if second else UNSAID, BACKGROUNDS.index(shown.picture.background),
        RELATION_NAMES.index(shown.relation),
    ]  # fmt: skip


def new_optimizer(plan: Plan, model: Generator) -> torch.optim.AdamW:
    """What text encoder and UNet are trained with."""
    return torch.optim.AdamW(model.parameters(), lr=plan.unet_lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)


def rate(plan: Plan, step: int) -> float:
    """Warm-up, constant, then linear to zero over the last `unet_decay` steps: the end may be moved until those begin."""
    begun = (step - plan.unet_began + 1) / plan.unet_warmup
    return plan.unet_lr * min(1.0, begun, (plan.unet_steps - step) / plan.unet_decay)


def starting_unet(work: Path) -> dict[str, Tensor]:
    """The first edition's UNet, from the package as it was when the work began."""
    kept = work / "unet-start.safetensors"
    if not kept.exists():
        with whole(kept) as path:
            save_file(load_file(tsuika.EMBEDDED / "unet/diffusion_pytorch_model.safetensors"), path)
    return {name: value.float() for name, value in load_file(kept).items()}


def train_unet(
    plan: Plan, work: Path, vae: AutoencoderKL, tokenizer: Any, atlases: Atlases
) -> dict[str, dict[str, Tensor]]:
    """Train text encoder and UNet together on v-prediction; gives the averaged weights by horizon."""
    torch.manual_seed(plan.seed + 1)
    model = Generator(len(tokenizer))
    model.unet.load_state_dict(starting_unet(work))
    averages = {name: {key: v.detach().clone() for key, v in model.state_dict().items()} for name in HORIZONS}
    optimizer = new_optimizer(plan, model)
    state, start = resume(work / "unet.pt", model, optimizer), 0
    if state is not None:
        averages, start = state["averages"], state["step"]
    painter = Painter(plan, work, vae, tokenizer, atlases)
    alphas_T = alphas_cumprod_T(SCHEDULE)
    empty = tokenizer("", padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids[0]
    judged, kept = Generator(len(tokenizer)).eval(), painter.draw(plan.judged, 97)
    began, seen, saved, recent = time.monotonic(), start, time.monotonic(), []
    for step, batch in _batches(plan, start, painter):
        for group in optimizer.param_groups:
            group["lr"] = rate(plan, step)
        random = generator(plan.seed, 5, step)
        dropped = torch.rand(len(batch.ids), 1, generator=random) < plan.caption_dropout
        batch = batch._replace(
            ids=torch.where(dropped, empty, batch.ids), said=torch.where(dropped, UNSAID, batch.said)
        )
        loss, unheard = losses(model, batch, alphas_T, random, plan.min_snr_gamma, plan.least_weight)
        descend(loss + plan.said_weight * unheard, model, optimizer)
        done = step + 1
        for name, exponent in HORIZONS.items():
            average(averages[name], model, (1 - 1 / done) ** (exponent + 1))
        recent.append((float(loss.detach()), float(unheard.detach())))
        if done % plan.judge_every == 0 or done == plan.unet_steps:
            held_out = {}
            for name, weights in averages.items():
                judged.load_state_dict(weights)
                with torch.no_grad():
                    parts = [
                        float(losses(judged, Pool(*part), alphas_T, generator(plan.seed, 6, i), 0)[0])
                        for i, part in enumerate(zip(*(tensor.split(32) for tensor in kept), strict=True))
                    ]
                held_out[name] = round(float(np.mean(parts)), 5)
            pace = (done - seen) * plan.unet_batch / (time.monotonic() - began)
            denoising, unheard_mean = np.mean(recent, 0).tolist()
            say(
                work, stage="unet", step=done, views=done * plan.unet_batch, loss=denoising, unheard=unheard_mean,
                held_out=held_out,
                views_per_s=round(pace, 1), lr=rate(plan, step),
            )  # fmt: skip
            began, seen, recent = time.monotonic(), done, []
        if done == plan.unet_steps - plan.unet_decay:
            save(work / "unet-before-decay.pt", model, optimizer, done, averages=averages)
        if time.monotonic() - saved > 2 * plan.save_every_s or done == plan.unet_steps:
            save(work / "unet.pt", model, optimizer, done, averages=averages)
            saved = time.monotonic()
    return averages


def losses(
    model: Generator,
    batch: Pool,
    alphas_T: Tensor,
    random: torch.Generator,
    min_snr_gamma: float,
    least_weight: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Mean weighted squared error of v at stratified timesteps (gamma 0 weighs all alike); what of the captions the text
    encoder does not pass on, the mean cross entropy over SAID."""
    t = stratified_timesteps(len(batch.ids), TRAIN_TIMESTEPS, random)
    noise = torch.randn(batch.latents.shape, generator=random)
    alphas = alphas_T[t]
    noisy = add_noise(batch.latents, noise, alphas)
    with torch.autocast("cpu", torch.bfloat16):
        output, answers = model(noisy, t, batch.ids)
    error = (output.float() - target("v_prediction", batch.latents, noise, alphas)).pow(2) * batch.weights
    weights = min_snr_weight("v_prediction", alphas, min_snr_gamma).clamp_min(least_weight)
    denoising = (error.mean((1, 2, 3)) * weights).mean()
    unheard = [
        F.cross_entropy(logits, labels, ignore_index=UNSAID, reduction="sum")
        for logits, labels in zip(answers.float().split(list(SAID.values()), 1), batch.said.T, strict=True)
    ]
    return denoising, torch.stack(unheard).sum() / (batch.said != UNSAID).sum().clamp_min(1)


@torch.no_grad()
def loss_by_timestep(painter: Painter, weights: dict[str, Tensor], timesteps: tuple[int, ...]) -> dict[int, float]:
    """The v loss over fresh scenes with the same noise at each timestep."""
    model, kept, alphas_T = Generator(len(painter.tokenizer)).eval(), painter.draw(128, 97), alphas_cumprod_T(SCHEDULE)
    model.load_state_dict(weights)
    noise = torch.randn(kept.latents.shape, generator=generator(painter.plan.seed, 7))
    found: dict[int, float] = {}
    for t in timesteps:
        parts = []
        for x, ids, e in zip(kept.latents.split(32), kept.ids.split(32), noise.split(32), strict=True):
            t_B = torch.full((len(x),), t)
            with torch.autocast("cpu", torch.bfloat16):
                output, _answers = model(add_noise(x, e, alphas_T[t_B]), t_B, ids)
            parts.append(float((output.float() - target("v_prediction", x, e, alphas_T[t_B])).pow(2).mean()))
        found[t] = float(np.mean(parts))
    return found


def _batches(plan: Plan, start: int, painter: Painter) -> Iterator[tuple[int, Pool]]:
    """(step, batch) from `start` on; a function of the plan and the step alone."""
    per_pool = plan.pool * plan.views // plan.unet_batch
    held, pool = -1, None
    for step in range(start, plan.unet_steps):
        number, place = divmod(step, per_pool)
        if number != held:
            pool, held = painter.pool(number), number
        assert pool is not None
        view, offset = divmod(place * plan.unet_batch, plan.pool)
        rows = torch.randperm(plan.pool, generator=generator(plan.seed, 4, number, view))[
            offset : offset + plan.unet_batch
        ]
        yield step, Pool(*(tensor[rows] for tensor in pool))
