"""`tune_vae`: a decoder of one's own, written where it is proven to be better."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Any

from tsuika import families
from tsuika.api import writing
from tsuika.api.models import EMBEDDED
from tsuika.api.run import JsonResult, starts
from tsuika.core import files
from tsuika.core.errors import DivergedError, ImageError, no_such
from tsuika.core.events import Event, Phase, Warned, note
from tsuika.core.intervals import Interval
from tsuika.core.plain import jsonable
from tsuika.core.sections import Data
from tsuika.core.types import Artifact
from tsuika.data import dedupe, scan
from tsuika.formats import vae_file
from tsuika.training.device import pick_device
from tsuika.vae import loading, roundtrip, tune


@dataclass(frozen=True)
class ImageCounts:
    """How many images had which part in a tuning."""

    train: int
    choose: int
    prove: int


@dataclass(frozen=True)
class MeasureChange:
    """A measure before and after, as means over images, and the mean change with its 95% interval."""

    before: float
    after: float
    change: Interval


@dataclass(frozen=True, kw_only=True)
class TunedVae(JsonResult):
    """A VAE whose decoder was tuned.

    Attributes:
        out: the file or folder that was written.
        format: its name in `formats`.
        dtype: fp16, bf16 or fp32.
        purpose: what the loss preferred.
        proven: whether it is better on images that had no part in it.
        best_step: 0 is the decoder as it was.
        steps_done: in all.
        learning_rate: that was used.
        images: how many images had which part.
        measures: by name.
        sha256: of the file.
        notes: what became worse, and what was left out.
    """

    out: Path
    format: str
    dtype: str
    purpose: str
    proven: bool
    best_step: int
    steps_done: int
    learning_rate: float
    images: ImageCounts = field(metadata={"json": "pictures"})
    measures: Mapping[str, MeasureChange]
    sha256: str
    notes: tuple[Warned, ...]

    def to_dict(self) -> dict[str, Any]:
        """As in the command's `--json`."""
        return super().to_dict() | {"measures": jsonable(self.measures), "pictures": vars(self.images)}


@starts
def tune_vae(
    images: Path,
    out: Path,
    *,
    base: str = "embedded",
    vae: str = "builtin",
    purpose: str = "balanced",
    steps: int = 600,
    batch: int = 4,
    crop_px: int = 256,
    size_px: int = 0,
    learning_rate: float = 0.0,
    precision: str = "auto",
    device: str = "auto",
    seed: int = 0,
    keep_anyway: bool = False,
    overwrite: bool = False,
) -> Generator[Event, None, TunedVae]:
    """Fine-tune a VAE's decoder on images, and write it if it is better on images that had no part in it.

    The encoder stays bit for bit, and so do all latents: bases, LoRA and caches go on working. Deterministic by seed on
    one machine.

    Args:
        images: folder of images, twelve different ones or more; only read.
        out: a `.safetensors` file (the layout that every program takes), or a new folder for diffusers.
        base: whose latents they are.
        vae: to begin with, named as in `load`.
        purpose: balanced, texture or colour: what the loss prefers, and what must become better (`tune.PROOF`).
        steps: at most; it ends earlier where the images kept for choosing gain nothing.
        batch: crops a step.
        crop_px: side of the crops.
        size_px: of the images' shorter side; 0: the base's own size.
        learning_rate: 0: by the decoder's width.
        precision: of the decoder's computing while it learns: auto, bf16 or fp32.
        device: auto, cpu, cuda, ...
        seed: of split and draws.
        keep_anyway: write it, better or not.
        overwrite: replace `out`, if it is a file.

    Raises:
        ImageError: too few images (VA021), or it is not better, and nothing was written (VA020).
        DivergedError: the loss is not finite (VA022).
        TsuikaError: no such folder, base or VAE; `out` exists.
    """
    if purpose not in tune.PURPOSES:
        raise no_such("purpose", purpose, tune.PURPOSES)
    format_ = next(one for one in vae_file.VAE_FORMATS if one.suffix == out.suffix.lower() or not one.suffix)
    files.check_out(out, images, overwrite=overwrite, suffix=format_.suffix)
    yield Phase("load")
    place, space = pick_device(device), families.peek(base, embedded_path=EMBEDDED)
    start = loading.load(space, vae, place).vae
    yield Phase("pictures")
    manifest = scan.scan(images, Data(min_size_px=loading.LEAST_PX))
    groups = dedupe.groups(manifest)
    parts = tune.parts(groups, seed)
    factor = roundtrip.factor(start)
    loaded = loading.VaeImages(manifest, size_px or space.geometry.native_size_px, factor)
    sides = {name: min(loaded.sizes[name]) for name in parts.train}
    crop_px = min(crop_px // factor * factor, median_low(sides.values()))
    large = [name for name, side in sides.items() if side >= crop_px]
    notes = loaded.notes
    if small := len(sides) - len(large):
        notes.append(note("VA024", small=small, found=len(sides), side=crop_px))
    yield from notes
    measured = loaded.of(parts.prove)
    before = tune.measured(start, measured)
    settings = tune.Settings(
        purpose,
        steps,
        batch,
        learning_rate or tune.rate(start),
        check_every=max(1, min(50, steps // 4)),
        seed=seed,
        half=precision == "bf16" or (precision == "auto" and place.type == "cuda"),
    )
    yield Phase("tune-vae", steps)
    choose = loaded.of(parts.choose)
    try:
        crops = tune.crops(loaded.of(large), settings, crop_px)
        fitted = yield from tune.fit(start, crops, lambda one: tune.loss_on(one, choose, purpose), settings)
    except FloatingPointError as error:
        raise DivergedError("VA022", step=error.args[0], rate=f"{settings.learning_rate / 3:.1g}") from None
    yield Phase("prove", len(measured))
    dtype = tune.narrowest(roundtrip.encoder_tensors(start).values())
    tune.rounded(start, dtype)
    numbers = {name: number for number, group in enumerate(groups) for name in group}
    shown = tune.prove(before, tune.measured(start, measured), [numbers[name] for name in parts.prove], purpose, seed)
    costs = [note("VA023", measure=name, **tune.words(shown.changes[name])) for name in shown.costs]
    yield from costs
    if not (shown.is_better or keep_anyway):
        name = shown.measure
        raise ImageError(
            "VA020",
            proof=len(measured),
            measure=name,
            before=f"{shown.before[name]:.4g}",
            after=f"{shown.after[name]:.4g}",
            **tune.words(shown.changes[name]),
        )
    yield Phase("write")
    scale = {"scaling_factor": space.geometry.latent_scale, "_class_name": "AutoencoderKL"}
    config = {**space.geometry.vae, **roundtrip.config(start), **scale}
    tensors = {name: value.cpu() for name, value in start.state_dict().items()}
    artifact = Artifact("vae", space.facts.family, tensors, {vae_file.CONFIG: json.dumps(config)})
    done = writing.write(artifact, format_, out, writing.NAMES[dtype])
    return TunedVae(
        out=done.out,
        format=done.format,
        dtype=done.dtype,
        purpose=purpose,
        proven=shown.is_better,
        best_step=fitted.best_step,
        steps_done=fitted.steps_done,
        learning_rate=settings.learning_rate,
        images=ImageCounts(len(large), len(parts.choose), len(parts.prove)),
        measures={
            name: MeasureChange(shown.before[name], shown.after[name], change) for name, change in shown.changes.items()
        },
        sha256=done.sha256,
        notes=(*notes, *costs),
    )
