"""Images from prompts: the guided denoising loop over `Model.denoise`, with diffusers' schedulers.

Shapes: B images, C latent channels, H x W. Knows no family and no file. Guidance: Ho and Salimans 2022, eq. 6 in the
form that Stable Diffusion uses, `uncond + cfg * (cond - uncond)`.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsuika.core.errors import ModelError, RecipeError, misspelt
from tsuika.core.events import Warn, note
from tsuika.core.finite import is_finite
from tsuika.core.texts import _
from tsuika.core.types import Conditioning, Model
from tsuika.generation.encode import encode
from tsuika.generation.prompt import Prompt, parse, plan

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

OnStep = Callable[[int, int], None]  # steps done, steps in all
Planned = tuple[tuple[int, Conditioning], ...]  # (last step, conditioning) of every stretch of steps
MOST_PIXELS = 178_956_970  # that Pillow opens: twice its MAX_IMAGE_PIXELS
BATCH = 4  # images that are drawn at once


@dataclass(frozen=True)
class Sampler:
    scheduler: str
    spacing: str  # timestep spacing where the base does not ask for its own
    options: Mapping[str, Any] = field(default_factory=dict)
    # The scheduler of bases that were trained by flow, and its name for the shift; None: there is no such form.
    flow: tuple[str, str] | None = None


# Spacings: k-diffusion's samplers go over all noise levels ("linspace"); DDIM as in CompVis' ddim.py ("leading").
SAMPLERS: Mapping[str, Sampler] = {
    "DPM++ 2M Karras": Sampler("DPMSolverMultistepScheduler", "linspace", {"use_karras_sigmas": True}),
    "DPM++ 2M": Sampler("DPMSolverMultistepScheduler", "linspace", flow=("DPMSolverMultistepScheduler", "flow_shift")),
    "Euler a": Sampler("EulerAncestralDiscreteScheduler", "linspace"),
    "Euler": Sampler("EulerDiscreteScheduler", "linspace", flow=("FlowMatchEulerDiscreteScheduler", "shift")),
    "Heun": Sampler("HeunDiscreteScheduler", "linspace", flow=("FlowMatchHeunDiscreteScheduler", "shift")),
    "DDIM": Sampler("DDIMScheduler", "leading", {"clip_sample": False}),
    # Of few-step models.
    "LCM": Sampler("LCMScheduler", "leading"),
    "TCD": Sampler("TCDScheduler", "leading"),
    "UniPC": Sampler("UniPCMultistepScheduler", "linspace", flow=("UniPCMultistepScheduler", "flow_shift")),
}

# What is taken from a base's scheduler_config; everything else in it belongs to the scheduler that it was written by.
_KEYS = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
    *("steps_offset", "set_alpha_to_one"),
)


@dataclass(frozen=True)
class Defaults:
    cfg: float = 7.0
    steps: int = 25
    sampler: str = "DPM++ 2M Karras"


def defaults_for(model: Model, folder: Path | None = None) -> Defaults:
    """The base's own `tsuika.json` (`cfg`, `steps`, `sampler`; any may be missing) in `folder`, else in `model.source`; what it
    does not say as is usual for such a base.

    Raises RecipeError (RC002): the file is not such a table, or names a sampler that is not there.
    """
    folder = folder or Path(model.source)
    path = folder / "tsuika.json"
    usual = Defaults(sampler="Euler") if model.prediction == "flow" else Defaults()
    if (few := model.few_steps) is not None:
        usual = Defaults(few.cfg, few.steps, few.sampler)
    if not path.is_file():
        return usual
    try:
        said = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(said, dict):
            raise TypeError(type(said).__name__)
        known = {key: said[key] for key in ("cfg", "steps", "sampler") if key in said}
        defaults = replace(usual, **known)
        defaults = Defaults(float(defaults.cfg), int(defaults.steps), str(defaults.sampler))
    except (ValueError, TypeError) as error:
        raise RecipeError("RC002", where=path, key="tsuika.json", found=path.name, why=str(error)) from error
    # That of a base which somebody has taught to predict flow, or calls one, is for what it predicted before.
    if SAMPLERS[known_sampler(defaults.sampler)].flow is None and model.prediction == "flow":
        return replace(defaults, sampler=usual.sampler)
    return defaults


def check_size(model: Model, size_px: tuple[int, int]) -> None:
    """Raises RecipeError (RC002) where sides in px are no multiples of what the model can draw, with the nearest size
    that works, or longer than it can, or than an image file can be."""
    step, longest = model.size_step_px, model.size_limit_px
    if math.prod(size_px) > MOST_PIXELS:
        why = _("It has more than {most} pixels, and few programs would open it.", most=f"{MOST_PIXELS:,}")
        raise RecipeError("RC002", key="size", found="x".join(map(str, size_px)), why=why)
    if longest is not None and max(size_px) > longest:
        why = _("The longest side that this base model can draw is {longest} px.", longest=longest)
        raise RecipeError("RC002", key="size", found="x".join(map(str, size_px)), why=why)
    if all(side > 0 and side % step == 0 for side in size_px):
        return
    nearest = "x".join(str(max(1, math.floor(side / step + 0.5)) * step) for side in size_px)
    found = "x".join(map(str, size_px))
    raise RecipeError("RC002", key="size", found=found, why=f"{found} ≠ {step}·n x {step}·m px → {nearest}")


def make_scheduler(model: Model, sampler: str, warn: Warn | None = None) -> Any:
    """A diffusers scheduler for this base's noise schedule and prediction type.

    Raises RecipeError (RC002): no sampler of this name, or none for a base that was trained by flow.
    """
    import diffusers

    chosen = SAMPLERS[known_sampler(sampler)]
    if model.prediction == "flow":
        return _flow_scheduler(model, sampler)
    cls = getattr(diffusers, chosen.scheduler)
    config = model.scheduler_config
    takes = inspect.signature(cls.__init__).parameters
    zero_snr = bool(config.get("rescale_betas_zero_snr"))
    options: dict[str, Any] = {key: config[key] for key in _KEYS if key in config and key in takes}
    if zero_snr and "rescale_betas_zero_snr" not in takes and warn:
        warn(note("GN002", sampler=sampler))
    # A base trained down to zero SNR must be sampled from its last timestep (Lin et al. 2023, section 3.3).
    asked = "trailing" if zero_snr or config.get("timestep_spacing") == "trailing" else chosen.spacing
    options |= {"prediction_type": model.prediction, "timestep_spacing": asked}
    return cls(**options, **chosen.options)


def _flow_scheduler(model: Model, sampler: str) -> Any:
    import diffusers

    from tsuika.diffusion.objective import flow_shift

    if (flow := SAMPLERS[sampler].flow) is None:
        names = ", ".join(name for name, one in SAMPLERS.items() if one.flow)
        why = _("The base model was trained by flow; with it work: {names}.", names=names)
        raise RecipeError("RC002", key="sampler", found=sampler, why=why)
    name, shift = flow
    options: dict[str, Any] = {shift: flow_shift(model.scheduler_config)}
    if shift == "flow_shift":
        options |= {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    return getattr(diffusers, name)(**options)


def known_sampler(name: str) -> str:
    """The name, if it is a sampler's. Raises RecipeError (RC002): no sampler of this name; names the nearest."""
    if name not in SAMPLERS:
        raise misspelt("sampler", name, SAMPLERS)
    return name


def sample(
    model: Model,
    prompts: str | Prompt | Sequence[str | Prompt],
    *,
    negative: str = "",
    seed: int = 0,
    num: int = 1,
    steps: int | None = None,
    cfg: float | None = None,
    sampler: str | None = None,
    size_px: tuple[int, int] | None = None,
    defaults: Defaults | None = None,
    batch_size: int = BATCH,
    on_step: OnStep | None = None,
    warn: Warn | None = None,
) -> Tensor:
    """Pixels (N, 3, H, W) in -1..1, float32 on the CPU: `num` images of each prompt, prompt by prompt.

    Image i of every prompt has seed + i; its noise is drawn on the CPU by its own generator, so a seed means the same
    image whatever else is drawn with it (up to the rounding of batched kernels). `size_px` is (width, height), the
    base's native size by default. `defaults` fill what is None (`defaults_for(model)` if not given). At cfg 1 the
    negative prompt has no part. `on_step` is called after every step with steps done and in all; what it raises ends
    the drawing. Tags are not applied here: see `compose`. Raises RecipeError (RC002): size, steps, num or sampler cannot be.
    """
    import torch

    defaults = defaults or defaults_for(model)
    steps = defaults.steps if steps is None else steps
    cfg = defaults.cfg if cfg is None else cfg
    sampler = sampler or defaults.sampler
    size_px = size_px or (model.native_size_px, model.native_size_px)
    check_size(model, size_px)
    for key, value in (("steps", steps), ("num", num), ("batch_size", batch_size)):
        if value < 1:
            raise RecipeError("RC002", key=key, found=value, why="≥ 1")
    if not math.isfinite(cfg):
        raise RecipeError("RC002", key="cfg", found=cfg, why="7, 1.5, …")

    with torch.no_grad():
        texts = [prompts] if isinstance(prompts, (str, Prompt)) else list(prompts)
        plans = [_planned(model, text, steps, size_px, warn) for text in texts]
        uncond = None if cfg == 1 else _planned(model, negative, steps, size_px, warn)
        jobs = [(cond, seed + i) for cond in plans for i in range(num)]
        batches = list(_batches(jobs, batch_size))
        pixels = []
        for number, batch in enumerate(batches):
            stretches = zip(*(cond for cond, _ in batch), strict=True)  # they change at the same steps
            cond = tuple((rows[0][0], Conditioning.join([one for _last, one in rows])) for rows in stretches)
            generators = [torch.Generator().manual_seed(seed) for _, seed in batch]
            scheduler = make_scheduler(model, sampler, warn if number == 0 else None)

            def report(done: int, total: int, before: int = number) -> None:
                if on_step:
                    on_step(before * total + done, len(batches) * total)

            latents_BCHW = sample_latents(
                model, scheduler, cond, uncond, generators, steps=steps, cfg=cfg, size_px=size_px, on_step=report
            )
            pixels.append(model.decode_latents(latents_BCHW).float().cpu())
        return torch.cat(pixels)


def _planned(model: Model, prompt: str | Prompt, steps: int, size_px: tuple[int, int], warn: Warn | None) -> Planned:
    """A prompt encoded for every stretch of steps in which it says the same; what it says twice is encoded once."""
    stretches = plan(prompt if isinstance(prompt, str) else prompt.source, steps)
    encoded = {text: encode(model, parse(text), size_px=size_px, warn=warn) for _last, text in stretches}
    return tuple((last, encoded[text]) for last, text in stretches)


def _batches(jobs: Sequence[tuple[Planned, int]], size: int) -> Iterator[list[tuple[Planned, int]]]:
    """Neighbours together, at most `size`, of the same token lengths at the same steps."""

    def shape(planned: Planned) -> list[Any]:
        return [(last, cond.tokens_BSD.shape) for last, cond in planned]

    batch: list[tuple[Planned, int]] = []
    for job in jobs:
        if batch and (len(batch) == size or shape(batch[0][0]) != shape(job[0])):
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


def sample_latents(
    model: Model,
    scheduler: Any,
    cond: Planned,
    uncond: Planned | None,
    generators: Sequence[torch.Generator],
    *,
    steps: int,
    cfg: float,
    size_px: tuple[int, int],
    on_step: OnStep | None = None,
) -> Tensor:
    """Scaled latents (B, C, H, W), float32 on the model's device, from noise of one CPU generator an image.

    Conditionings come with the last step of each stretch. `uncond` is one row; None draws without guidance. The state is
    kept in float32 whatever the UNet's precision.
    """
    import torch

    width, height = (side // model.latent_factor for side in size_px)
    shape = (1, model.facts.latent_channels, height, width)
    noise_BCHW = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
    scheduler.set_timesteps(steps, device=model.device)
    latents_BCHW: Tensor = noise_BCHW.to(model.device) * getattr(scheduler, "init_noise_sigma", 1.0)
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": list(generators)} if takes_generator else {}
    for done, t in enumerate(scheduler.timesteps, start=1):
        # Flow's schedulers neither scale the noise nor what the model is given.
        scaled = getattr(scheduler, "scale_model_input", None)
        noisy_BCHW = latents_BCHW if scaled is None else scaled(latents_BCHW, t)
        step = math.ceil(done * steps / len(scheduler.timesteps))  # some samplers ask the UNet more than once a step
        guide = None if uncond is None else _at(uncond, step)[[0] * len(generators)]
        output_BCHW = _guided(model, noisy_BCHW, t, cond=_at(cond, step), uncond=guide, cfg=cfg)
        latents_BCHW = scheduler.step(output_BCHW, t, latents_BCHW, return_dict=False, **extra)[0]
        if on_step:
            on_step(done, len(scheduler.timesteps))
    return latents_BCHW


def _at(planned: Planned, step: int) -> Conditioning:
    return next((cond for last, cond in planned if step <= last), planned[-1][1])


def _guided(
    model: Model, noisy_BCHW: Tensor, t: Tensor, *, cond: Conditioning, uncond: Conditioning | None, cfg: float
) -> Tensor:
    import torch

    rows = noisy_BCHW.shape[0]
    if uncond is None:
        return model.denoise(noisy_BCHW, t.expand(rows), cond)
    if uncond.tokens_BSD.shape == cond.tokens_BSD.shape:
        both = Conditioning.join([uncond, cond])
        without, with_ = model.denoise(torch.cat([noisy_BCHW] * 2), t.expand(2 * rows), both).chunk(2)
    else:  # prompts of different chunk counts: padding either would change what it says
        without = model.denoise(noisy_BCHW, t.expand(rows), uncond)
        with_ = model.denoise(noisy_BCHW, t.expand(rows), cond)
    return without + cfg * (with_ - without)


def to_images(pixels_B3HW: Tensor) -> list[Image]:
    """Pixels in -1..1 as 8-bit RGB images. Raises ModelError (GN010): a value is not finite, and would be black."""
    from PIL import Image

    if not is_finite(pixels_B3HW):
        raise ModelError("GN010")

    bytes_BHW3 = ((pixels_B3HW.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in bytes_BHW3]
