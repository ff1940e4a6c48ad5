"""Make the embedded base again from nothing: tokenizer, VAE, then text encoder and UNet together.

    python -m tsuika.embedded.pretrain --work DIR            every stage, going on from what DIR holds
    python -m tsuika.embedded.pretrain --work DIR --export FOLDER   write what is there as a diffusers folder

Deterministic on one machine: every picture, noise and timestep is a function of (seed, step), so a killed run goes on
from its last checkpoint to the same weights. Every picture is drawn fresh from the world (`world.py`); a drawn picture
serves a few noisy views and is forgotten.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel

from tsuika.embedded.things import KNOWN, strangers
from tsuika.embedded.world import BACKGROUNDS, SIZE_PX, Picture, World, draw, thing_mask

Tensor = torch.Tensor

# Shapes: B pictures, C channels, H x W pixels or latents, S tokens, D text width.
MAX_TOKENS: Final = 32
START, END = "<|startoftext|>", "<|endoftext|>"
BETAS: Final = (0.00085, 0.02)  # SD's scaled-linear, ended noisier: 16x16 latents leak their mean at SD's own 0.012
TRAIN_TIMESTEPS: Final = 1000
SAMPLING: Final = {"cfg": 3.0, "steps": 25, "sampler": "DDIM"}  # the base's own defaults


@dataclass(frozen=True)
class Plan:
    """Every number of the making of the base."""

    seed: int = 20261121
    vae_steps: int = 2600
    vae_batch: int = 24
    vae_lr: float = 2e-3
    latent_noise: float = 0.03
    unet_steps: int = 5200
    unet_batch: int = 32
    unet_lr: float = 1e-3
    unet_warmup: int = 300
    unet_decay: float = 0.3  # the last share of the steps, in which the rate falls to zero
    ema: float = 0.9995
    pool: int = 4096  # pictures drawn and encoded at a time ...
    views: int = 6  # ... and how often each is seen, under fresh noise
    caption_dropout: float = 0.1
    min_snr_gamma: float = 5.0
    save_every: int = 250
    thing_weight: float = 2.0  # loss weight of a latent under a thing, against 1 on the background


# ---------------------------------------------------------------------------------------------- files and checkpoints


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a training state whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """The training state in `path`, or None."""
    return torch.load(path, weights_only=True) if path.exists() else None


def say(work: Path, **row: Any) -> None:
    """Append a row to the log and print it."""
    line = json.dumps({key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()})
    with (work / "log.jsonl").open("a") as stream:
        stream.write(line + "\n")
    print(line, flush=True)


def generator(*seed: int) -> torch.Generator:
    """A torch generator that is a function of several integers."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1))


def to_signal(pixels: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) bytes to (B, 3, H, W) in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


# ------------------------------------------------------------------------------------------------------------ tokenizer


def train_tokenizer(folder: Path, seed: int, captions: int = 40_000, size: int = 1500) -> None:
    """A byte-level BPE in CLIP's own format (`</w>` word ends), learnt on the world's captions."""
    rng = np.random.default_rng([seed, 0])
    world, everything = World(), World(things=(*KNOWN, *strangers()))
    texts = [world.caption(world.picture(rng), rng) for _ in range(captions // 2)]
    texts += [everything.caption(everything.picture(rng), rng) for _ in range(captions // 2)]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_clip_words(), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = [
        pair if isinstance(pair, str) else " ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]
    ]
    symbols = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *("".join(merge.split(" ")) for merge in merges)]
    vocabulary = {symbol: i for i, symbol in enumerate(dict.fromkeys([*symbols, START, END]))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, "bos_token": START, "eos_token": END,
        "unk_token": END, "pad_token": END, "do_lower_case": True, "errors": "replace", "add_prefix_space": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _clip_words() -> Any:
    from tokenizers import Regex

    return Regex(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")


# ----------------------------------------------------------------------------------------------------------------- VAE


def new_vae() -> AutoencoderKL:
    """AutoencoderKL, 4x down, 4 latent channels, about 1.7 M parameters."""
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 64, 128), layers_per_block=1,
        norm_num_groups=16, sample_size=SIZE_PX,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip


def _vae_pictures(plan: Plan, step: int, whole: bool) -> Tensor:
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


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 + 1.5 MSE + 0.5 L1 of the gradients + 0.5 L1 at a quarter of the size."""
    rows = F.l1_loss(output.diff(dim=-2), target.diff(dim=-2))
    columns = F.l1_loss(output.diff(dim=-1), target.diff(dim=-1))
    coarse = F.l1_loss(F.avg_pool2d(output, 4), F.avg_pool2d(target, 4))
    return F.l1_loss(output, target) + 1.5 * F.mse_loss(output, target) + 0.5 * (rows + columns) + 0.5 * coarse


def psnr(output: Tensor, target: Tensor) -> float:
    """Mean over pictures of the PSNR in dB of signals in -1..1."""
    error = (output.clamp(-1, 1) - target).pow(2).flatten(1).mean(1)
    return float((10 * torch.log10(4 / error.clamp_min(1e-10))).mean())


def fresh_pictures(seed: int, count: int, world: World | None = None) -> tuple[list[Picture], Tensor]:
    """Pictures that no training step has drawn (another stream of the seed)."""
    rng = np.random.default_rng([seed, 99])
    pictures = [(world or World()).picture(rng) for _ in range(count)]
    return pictures, to_signal(np.stack([draw(picture) for picture in pictures]))


def train_vae(plan: Plan, work: Path) -> AutoencoderKL:
    """Train the VAE: mean + a little noise instead of KL sampling, crops first, whole pictures last."""
    torch.manual_seed(plan.seed)
    vae = new_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=plan.vae_lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    state, start = load(work / "vae.pt"), 0
    if state is not None:
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    began, seen = time.monotonic(), start
    for step in range(start, plan.vae_steps):
        warm = min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = plan.vae_lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / plan.vae_steps)))
        target = _vae_pictures(plan, step, whole=step >= 0.88 * plan.vae_steps)
        with torch.autocast("cpu", torch.bfloat16):
            mean = vae.encode(target).latent_dist.mean
            noise = torch.randn(mean.shape, generator=generator(plan.seed, 2, step))
            output = vae.decode(mean + plan.latent_noise * noise).sample
        mean = mean.float()
        scale = (mean.std(dim=(0, 2, 3)) - 1).pow(2).mean() + mean.mean(dim=(0, 2, 3)).pow(2).mean()
        loss = reconstruction_loss(output.float(), target) + 0.01 * scale
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
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
            save(work / "vae.pt", {"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1})
    return vae.eval().requires_grad_(False)


# ------------------------------------------------------------------------------------------------ text encoder and UNet


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


def alphas_cumprod() -> Tensor:
    """SD's scaled-linear schedule, ending at this base's own beta."""
    betas = torch.linspace(BETAS[0] ** 0.5, BETAS[1] ** 0.5, TRAIN_TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


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


def latent_scale(plan: Plan, vae: AutoencoderKL) -> float:
    """1 / std of the latents of fresh pictures: what makes them unit variance, as SD's 0.18215 does."""
    with torch.no_grad():
        _, fresh = fresh_pictures(plan.seed, 256)
        return round(1 / float(vae.encode(fresh).latent_dist.mean.std()), 4)


def rate(plan: Plan, step: int) -> float:
    """Warm-up, constant, then linear decay to zero over the last `unet_decay` of the steps."""
    decay_from = plan.unet_steps * (1 - plan.unet_decay)
    falling = min(1.0, (plan.unet_steps - step) / max(1.0, plan.unet_steps - decay_from))
    return plan.unet_lr * min(1.0, (step + 1) / plan.unet_warmup) * falling


def batches(
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


def train_unet(plan: Plan, work: Path, vae: AutoencoderKL, tokenizer: Any) -> dict[str, Tensor]:
    """Train text encoder and UNet together on v-prediction; returns the averaged weights."""
    torch.manual_seed(plan.seed + 1)
    model = Generator(len(tokenizer))
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.unet_lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    state, start = load(work / "unet.pt"), 0
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, start = state["average"], state["step"]
    scale, alphas = latent_scale(plan, vae), alphas_cumprod()
    empty = tokenizer("", padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids[0]
    live = dict(model.named_parameters())
    began, seen, recent = time.monotonic(), start, []
    for step, latents, ids, weights in batches(plan, start, vae, scale, tokenizer):
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
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
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
            row = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
                "step": step + 1,
            }
            save(work / "unet.pt", row)
    return average


# --------------------------------------------------------------------------------------------------------------- export


def export(plan: Plan, work: Path, folder: Path) -> None:
    """Write what `work` holds as a diffusers folder in half precision, with the averaged weights."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(work / "tokenizer", folder / "tokenizer")
    vae_state, unet_state = load(work / "vae.pt"), load(work / "unet.pt")
    if vae_state is None or unet_state is None:
        raise FileNotFoundError(f"{work}: train the VAE and the UNet first")
    vae = new_vae()
    vae.load_state_dict(vae_state["model"])
    vae.register_to_config(scaling_factor=latent_scale(plan, vae.eval()))
    vae.half().save_pretrained(folder / "vae")
    model = Generator(len(json.loads((folder / "tokenizer/vocab.json").read_text(encoding="utf-8"))))
    model.load_state_dict(unet_state["average"])
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
        num_train_timesteps=TRAIN_TIMESTEPS, beta_start=BETAS[0], beta_end=BETAS[1], beta_schedule="scaled_linear",
        prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1, timestep_spacing="trailing",
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    index = {
        "_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None], "feature_extractor": [None, None], "image_encoder": [None, None],
        "requires_safety_checker": False,
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    made = {"unet_steps": unet_state["step"], "plan": asdict(plan)}
    (folder / "tsuika.json").write_text(json.dumps({**SAMPLING, "made": made}, indent=2) + "\n")


def main() -> None:
    """Run the stages that are not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--vae-steps", type=int, default=Plan.vae_steps)
    parser.add_argument("--unet-steps", type=int, default=Plan.unet_steps)
    parser.add_argument("--until", choices=("vae", "unet"), default="unet")
    parser.add_argument("--export", type=Path, help="Write the diffusers folder here instead of training.")
    options = parser.parse_args()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    plan = Plan(vae_steps=options.vae_steps, unet_steps=options.unet_steps)
    if options.export:
        export(plan, work, options.export)
        return
    say(work, plan=asdict(plan), threads=torch.get_num_threads(), torch=torch.__version__, backgrounds=len(BACKGROUNDS))
    if not (work / "tokenizer/vocab.json").exists():
        train_tokenizer(work / "tokenizer", plan.seed)
    vae = train_vae(plan, work)
    if options.until == "unet":
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
        train_unet(plan, work, vae, tokenizer)


if __name__ == "__main__":
    main()
