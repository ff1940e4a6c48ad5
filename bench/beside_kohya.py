"""Our formulas beside kohya's own functions, on the same tensors and the same random draws.

    python bench/beside_kohya.py SD_SCRIPTS

SD_SCRIPTS is a folder with the source of kohya's sd-scripts, of which nothing is kept here. Its modules are imported; what they
import and never compute with (images, files, pipelines for drawing) is stubbed. Needs `einops`. Models are tiny, in float32.
Prints a table in Markdown with the largest absolute difference of each item, and the largest number beside it.
"""

from __future__ import annotations

import logging
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

sys.path += [str(Path(__file__).parents[1] / "tests" / "families")]
from family_files import write_tokenizer

from tsuika.core.sections import Train
from tsuika.core.seeds import generator
from tsuika.data.augment import Transform, render_mask
from tsuika.diffusion import losses
from tsuika.diffusion.objective import Objective, alphas_cumprod_T, objective, stratified
from tsuika.families import SD1, SD2, SD3, SDXL, StableDiffusion
from tsuika.families.common import Family, Geometry
from tsuika.formats.kohya import layer_name
from tsuika.methods import METHODS
from tsuika.methods.lora import Lora
from tsuika.training.loop import draw, perturbed

# Imported by sd-scripts and not asked for anything that is compared here.
UNUSED = (
    *("toml", "torchvision", "torchvision.transforms", "imagesize", "cv2"),
    *("library.lpw_stable_diffusion", "library.sdxl_lpw_stable_diffusion"),
)
# transformers and diffusers look for torchvision themselves, before it is replaced.
_LOADED = CLIPTextModel, CLIPTokenizer, StableDiffusionPipeline
LIMIT = 75
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
# 25 words of three tokens each are a chunk.
WORDS = [f"{a}{b}{c}" for a, b, c in zip("efghijklmn" * 5, "opqrstuvwx" * 5, "yzefghijkl" * 5, strict=True)]

Row = tuple[str, Tensor, Tensor]


def scheduler(*, zero_snr: bool = False) -> Any:
    """diffusers' schedule as kohya's scripts prepare it."""
    from library import custom_train_functions as theirs

    made = DDPMScheduler(**SCHEDULE, clip_sample=False)
    if zero_snr:
        theirs.fix_noise_scheduler_betas_for_zero_terminal_snr(made)
    theirs.prepare_scheduler_for_custom_training(made, "cpu")
    return made


def noise() -> Iterator[Row]:
    """What a batch gets of each kind of noise: ours as a training step draws it, theirs from the same state of the generator."""
    from library import train_util

    latents, seed, number = torch.randn(4, 4, 24, 16, generator=torch.Generator().manual_seed(1)), 3, 5
    ours = objective("epsilon", {}, "cpu")
    kinds = {
        "plain noise": {},
        "noise offset": {"noise_offset": 0.1},
        "multi-resolution noise": {"multires_noise": 6, "multires_noise_discount": 0.3},
        "IP noise": {"ip_noise_gamma": 0.1},
        "all three": {"noise_offset": 0.1, "multires_noise": 6, "ip_noise_gamma": 0.1},
    }
    for name, settings in kinds.items():
        train = Train(seed=seed, **settings)
        t_B, noise_BCHW = draw(train, number, latents, ours)
        noisy_BCHW = ours.add_noise(latents, perturbed(train, number, noise_BCHW), t_B)
        args = SimpleNamespace(
            noise_offset=train.noise_offset,
            noise_offset_random_strength=False,
            adaptive_noise_scale=None,
            multires_noise_iterations=train.multires_noise,
            multires_noise_discount=train.multires_noise_discount,
            ip_noise_gamma=train.ip_noise_gamma,
            ip_noise_gamma_random_strength=False,
            min_timestep=None,
            max_timestep=None,
        )

        def timesteps(*_args: Any, t_B: Tensor = t_B) -> Tensor:
            torch.set_rng_state(generator(seed, "input perturbation", number).get_state())
            return t_B

        source = generator(seed, "noise", number)
        stratified(len(latents), source)
        torch.set_rng_state(source.get_state())
        with (
            patch.object(train_util, "get_timesteps", timesteps),
            patch.object(random, "random", lambda: float(torch.rand(()))),
        ):
            their_noise, their_noisy, _t = train_util.get_noise_noisy_latents_and_timesteps(args, scheduler(), latents)
        yield f"{name}: the noise", noise_BCHW, their_noise
        yield f"{name}: noisy latents", noisy_BCHW, their_noisy


def loss() -> Iterator[Row]:
    """The loss of each image with its mask and min-SNR, as both loops put them together."""
    from library import custom_train_functions as theirs
    from library import train_util

    source = torch.Generator().manual_seed(2)
    output, target = torch.randn(8, 4, 12, 16, generator=source), torch.randn(8, 4, 12, 16, generator=source)
    t_B = torch.tensor([0, 1, 37, 250, 500, 750, 998, 999])
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128), dtype=np.uint8)
    mask_1HW = render_mask(Image.fromarray(pixels), Transform(), (128, 96), (16, 12))
    mask = torch.from_numpy(pixels.astype(np.float32) / 255)[None].repeat(8, 1, 1)
    area = theirs.apply_masked_loss(torch.ones(8, 1, 12, 16), {"alpha_masks": mask})
    yield "mask on latents", mask_1HW[None].expand(8, -1, -1, -1), area
    for prediction in ("epsilon", "v_prediction"):
        ours: Objective = objective(prediction, {}, "cpu")
        for kind in ("l2", "huber", "smooth-l1"):
            for schedule in ("snr", "exponential", "constant") if kind != "l2" else ("constant",):
                args = SimpleNamespace(loss_type=kind.replace("-", "_"), huber_schedule=schedule, huber_c=0.1)
                args.huber_scale = 1.0
                c = train_util.get_huber_threshold_if_needed(args, t_B, scheduler())
                error = train_util.conditional_loss(output, target, args.loss_type, "none", c)
                their_B = theirs.apply_masked_loss(error, {"alpha_masks": mask}).mean([1, 2, 3])
                their_B = theirs.apply_snr_weight(their_B, t_B, scheduler(), 5.0, prediction == "v_prediction")
                threshold_B = None if kind == "l2" else losses.thresholds(ours, schedule, 0.1, t_B)
                our_B = losses.errors(kind, output, target, threshold_B, mask_1HW[None])
                told = kind if kind == "l2" else f"{kind}, {schedule}"
                yield f"masked loss with min-SNR ({prediction}, {told})", our_B * ours.weight(t_B, 5.0), their_B


def schedules() -> Iterator[Row]:
    """Min-SNR at all timesteps; the schedule of zero terminal SNR, and min-SNR on it."""
    from library import custom_train_functions as theirs

    t_B = torch.arange(1000)
    for zero_snr in (False, True):
        config = {"rescale_betas_zero_snr": zero_snr}
        for prediction in ("epsilon", "v_prediction"):
            mine = objective(prediction, config, "cpu").weight(t_B, 5.0)
            their_B = theirs.apply_snr_weight(
                torch.ones(1000), t_B, scheduler(zero_snr=zero_snr), 5.0, prediction == "v_prediction"
            )
            yield f"min-SNR {prediction}, 1000 timesteps{', zero SNR' if zero_snr else ''}", mine, their_B
    yield (
        "zero-terminal SNR: alphas",
        alphas_cumprod_T({"rescale_betas_zero_snr": True}),
        scheduler(zero_snr=True).alphas_cumprod,
    )


def with_long_texts(kind: Family) -> Family:
    """A tiny family whose first text encoder has CLIP-L's twelve layers, which sd-scripts counts on."""

    def geometry(vocabulary: int, max_tokens: int) -> Geometry:
        small = kind.tiny_geometry(vocabulary, max_tokens)
        first = {**small.text["text_encoder"], "num_hidden_layers": 12}
        return replace(small, text={**small.text, "text_encoder": first})

    return replace(kind, tiny_geometry=geometry)


class AsBefore:
    """A text encoder of transformers 5 by the names of transformers 4."""

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder, self.device = encoder, torch.device("cpu")
        self.text_model = getattr(encoder, "text_model", encoder)
        self.text_projection = getattr(encoder, "text_projection", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.encoder(*args, **kwargs)


def tokenize(kind: Any, model: StableDiffusion, max_length: int | None, **tokenizers: str) -> Any:
    """sd-scripts' way of tokenizing, with our tokenizers in place of those that it would download."""
    made = object.__new__(kind)
    made.max_length = LIMIT + 2 if max_length is None else max_length + 2
    for attribute, name in tokenizers.items():
        setattr(made, attribute, model.tokenizers[name])
    return made


def texts(folder: Path) -> Iterator[Row]:
    """Captions of one and of two chunks, CLIP skip, SDXL's pooled output, SD3's three encoders."""
    from library import strategy_sd, strategy_sd3, strategy_sdxl

    short, long = " ".join(WORDS[:12]), " ".join(WORDS[:40])
    captions = {
        "one chunk": (short, None),
        "one chunk, max_token_length 225": (short, 225),
        "two chunks, max_token_length 150": (long, 150),
    }
    for kind in (SD1, SD2, SDXL):
        model = with_long_texts(kind).tiny(3, folder)
        encoders = [AsBefore(one) for one in model.text_encoders.values()]
        for name, (caption, length) in captions.items():
            ours = model.encode_text([caption])
            if kind is SDXL:
                both = {"tokenizer1": "tokenizer", "tokenizer2": "tokenizer_2"}
                way = tokenize(strategy_sdxl.SdxlTokenizeStrategy, model, length, **both)
                first, second, pooled = strategy_sdxl.SdxlTextEncodingStrategy().encode_tokens(
                    way, encoders, list(way.tokenize(caption))
                )
                states = torch.cat([first, second], dim=-1)
                assert ours.pooled_BP is not None
                yield f"{kind.name}, {name}: pooled", ours.pooled_BP, pooled
            else:
                way = tokenize(strategy_sd.SdTokenizeStrategy, model, length, tokenizer="tokenizer")
                (states,) = strategy_sd.SdTextEncodingStrategy().encode_tokens(way, encoders, way.tokenize(caption))
            chunks = ours.tokens_BSD.split(LIMIT + 2, dim=1)
            told = f"{kind.name}, {name}: states of {len(chunks) * LIMIT} tokens (of {ours.tokens_BSD.shape[1]}"
            # Theirs stand between one beginning and one end.
            words = torch.cat([chunk[:, 1:-1] for chunk in chunks], dim=1)
            yield f"{told}, there of {states.shape[1]})", words, states[:, 1 : 1 + len(chunks) * LIMIT]
        if kind is SD1:
            model.clip_skip = 2
            way = tokenize(strategy_sd.SdTokenizeStrategy, model, None, tokenizer="tokenizer")
            (states,) = strategy_sd.SdTextEncodingStrategy(2).encode_tokens(way, encoders, way.tokenize(short))
            yield "sd1, CLIP skip 2", model.encode_text([short]).tokens_BSD, states
    model = SD3.tiny(3, folder)
    three = {"clip_l": "tokenizer", "clip_g": "tokenizer_2", "t5xxl": "tokenizer_3"}
    way = tokenize(strategy_sd3.Sd3TokenizeStrategy, model, None, **three)
    way.t5xxl_max_length = model.tokenizers["tokenizer_3"].model_max_length
    encoders = [AsBefore(one) for one in model.text_encoders.values()]
    clips, t5, pooled, *_masks = strategy_sd3.Sd3TextEncodingStrategy().encode_tokens(
        way, encoders, way.tokenize(["a cat, dog"])
    )
    ours = model.encode_text(["a cat, dog"])
    width = ours.tokens_BSD.shape[-1]
    # It fills up to the width of the true T5, and this one is narrower.
    states = torch.cat([nn.functional.pad(clips, (0, width - clips.shape[-1])), t5], dim=1)
    assert ours.pooled_BP is not None
    yield "sd3: all tokens", ours.tokens_BSD, states
    yield "sd3: pooled", ours.pooled_BP, pooled


def flow() -> Iterator[Row]:
    """SD3's times, noisy latents and loss. Theirs is of the clean latents that the output means, which is s squared times ours."""
    from library import sd3_train_utils as theirs

    source = torch.Generator().manual_seed(4)
    latents, noise_BCHW, output = (torch.randn(64, 16, 8, 8, generator=source) for _ in range(3))
    args = SimpleNamespace(weighting_scheme="uniform", logit_mean=0.0, logit_std=1.0, mode_scale=1.29)
    args.min_timestep, args.max_timestep, args.training_shift = None, None, 3.0
    ours = objective("flow", {"shift": 3.0}, "cpu")
    u_B = (torch.arange(64) + 0.5) / 64
    with patch.object(theirs, "compute_density_for_timestep_sampling", lambda **_: u_B):
        noisy, t_B, sigmas = theirs.get_noisy_model_input_and_timesteps(args, latents, noise_BCHW, "cpu", torch.float32)
    yield "sd3: times of uniform draws, shift 3 (theirs are whole)", ours.times(u_B, "uniform"), t_B
    yield "sd3: noisy latents", ours.add_noise(latents, noise_BCHW, t_B), noisy
    their_B = (output * -sigmas + noisy - latents).pow(2).mean([1, 2, 3])
    our_B = losses.errors("l2", output, ours.target(latents, noise_BCHW, t_B))
    yield "sd3: loss times s squared", our_B * (t_B / 1000) ** 2, their_B


def lora_plus(folder: Path) -> Iterator[Row]:
    """The learning rate of every tensor, with rates of its own for the text encoders."""
    from networks import lora as theirs

    model = SD1.tiny(3, folder)
    network = theirs.LoRANetwork(model.text_encoders["text_encoder"], model.unet, lora_dim=4)
    network.set_loraplus_lr_ratio(16.0, None, None)
    groups, _names = network.prepare_optimizer_params(3e-5, 1e-4, 1e-4)
    rates = {id(param): group["lr"] for group in groups for param in group["params"]}
    there = {
        f"{lora.lora_name}.{name}": rates[id(param)]
        for lora in (*network.text_encoder_loras, *network.unet_loras)
        for name, param in lora.named_parameters()
        if name.startswith("lora_")
    }
    settings = Lora(rank=4, text_encoder=True, text_learning_rate=3e-5, lora_plus_ratio=16.0)
    attached: Any = METHODS["lora"].attach(model, settings, torch.Generator().manual_seed(0))
    own = {
        id(p): (group.learning_rate or 1e-4) * group.factor for group in attached.param_groups() for p in group.params
    }
    # transformers 5 has no `text_model.` in its names, by which sd-scripts calls its layers.
    named = {
        f"{layer_name('sd1', slot.component, slot.path)}.{part}".replace("_text_model_", "_"): own[id(param)]
        for slot in attached.slots
        for part, param in attached._parameters(slot)
    }
    assert named.keys() == there.keys()
    yield (
        f"LoRA+: rates of {len(named)} tensors",
        torch.tensor([*named.values()]),
        torch.tensor([there[key] for key in named]),
    )


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    logging.disable(logging.INFO)
    sys.modules |= {name: MagicMock(name=name) for name in UNUSED}
    sys.path.insert(0, str(folder))
    items: list[Callable[[], Iterator[Row]]] = [noise, loss, schedules, flow]
    print("| item | largest difference | largest number |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as made, torch.no_grad():
        words = write_tokenizer(Path(made), max_tokens=LIMIT + 2)
        for item in (*items, lambda: texts(words), lambda: lora_plus(words)):
            for name, ours, theirs in item():
                apart = float((ours.double() - theirs.double()).abs().max())
                print(f"| {name} | {apart:.1e} | {float(theirs.abs().max()):.3g} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
