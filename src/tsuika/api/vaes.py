"""`compare_vae`, `bake_vae`, `tune_vae`: which VAE suits these images; a base with it inside; a decoder of one's own."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from statistics import median_low
from typing import Any, Final

import torch
from torch import Tensor, nn

from tsuika import families
from tsuika.api import writing
from tsuika.api.display import shown as shown_html
from tsuika.api.models import EMBEDDED, public
from tsuika.api.run import JsonResult, starts
from tsuika.core import files, safetensors
from tsuika.core.bootstrap import LEAST
from tsuika.core.errors import DivergedError, ImageError, RecipeError, no_such
from tsuika.core.events import Event, Phase, Warned, note
from tsuika.core.files import at_home, sha256, write_text
from tsuika.core.intervals import Interval
from tsuika.core.plain import jsonable
from tsuika.core.sections import Data
from tsuika.core.seeds import generator
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.core.weights import read_json
from tsuika.data import dedupe, scan
from tsuika.data.image import open_image
from tsuika.data.manifest import Manifest
from tsuika.families import StoredBase
from tsuika.formats import vae_file
from tsuika.training.device import DTYPES, pick_device
from tsuika.vae import bake, compare, faults, metrics, report, roundtrip, tune
from tsuika.vae.compare import ComparedImage, Comparison, LoadedVae

MAX_IMAGES: Final = 32
_LEAST_PX: Final = 16  # a little over SSIM's window
_TEST_PX: Final = 128  # of the test image by which `bake_vae` compares latents
_KEPT: Final = 32  # images in memory while a VAE is tuned


@dataclass(frozen=True)
class VaeComparison:
    """VAEs on the same images, the base's own first.

    Attributes:
        base: as it was named.
        family: such as `sd1`.
        size_px: of the images' shorter side.
        comparison: what was measured, and which VAE to take for what.
        page: that was written; None without `out`.
        notes: findings, and what was left out.
    """

    base: str
    family: str
    size_px: int
    comparison: Comparison
    page: Path | None
    notes: tuple[Warned, ...]

    def to_dict(self) -> dict[str, Any]:
        """As in the command's `--json`."""
        about = {"base": self.base, "family": self.family, "size_px": self.size_px}
        return {**about, **self.comparison.to_dict(), "page": self.page, "notes": self.notes}

    def _repr_html_(self) -> str:
        measures = {
            one.name: {name: metrics.mean(one.rows, name) for name in metrics.MEASURES}
            for one in self.comparison.results
        }
        advice = {one.purpose: one.vae for one in self.comparison.advice}
        return shown_html({"measures": measures, "advice": advice, "page": self.page, "notes": self.notes})


@dataclass(frozen=True, kw_only=True)
class BakedVae(JsonResult):
    """A base with another VAE in it.

    Attributes:
        base: as it was named.
        vae: as it was named.
        out: the file or folder that was written.
        format: `single-file` or `diffusers`.
        family: such as `sd1`.
        tensors: how many were put in.
        dtype: theirs: fp16, bf16 or fp32.
        sha256: of the file; of a folder, of its VAE's file.
        notes: where the VAE does not suit the base.
    """

    base: str
    vae: str
    out: Path
    format: str
    family: str
    tensors: int
    dtype: str
    sha256: str
    notes: tuple[Warned, ...]


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
def compare_vae(
    vaes: Sequence[str],
    images: Path,
    *,
    base: str = "embedded",
    size_px: int = 0,
    max_pictures: int = MAX_IMAGES,
    precision: str = "fp32",
    device: str = "auto",
    seed: int = 0,
    out: Path | None = None,
    lang: str = "en",
    overwrite: bool = False,
) -> Generator[Event, None, VaeComparison]:
    """Encode and decode images with several VAEs and the base's own, and say which to take for what.

    Args:
        vaes: `builtin:NAME`, files, folders or hub ids; the base's own is always compared.
        images: folder of images; only read.
        base: whose latents they must fit.
        size_px: of the shorter side; larger images are made smaller. 0: the base's own size.
        max_pictures: taken evenly where there are more.
        precision: fp32, bf16 or fp16; falls back to the next, and says so, where numbers are not finite.
        device: auto, cpu, cuda, ...
        seed: of the resampling.
        out: an HTML page with crops and difference maps; none is written without.
        lang: in which the page opens.
        overwrite: replace `out`.

    Raises:
        TsuikaError: no such folder or VAE, one of other latents, no usable images, a page that exists.
    """
    if precision not in DTYPES:
        raise no_such("precision", precision, DTYPES)
    if out is not None:
        files.check_out(out, images, overwrite=overwrite, suffix=".html")
    notes: list[Warned] = []
    yield Phase("load")
    place, space = pick_device(device), families.peek(base, embedded_path=EMBEDDED)
    asked = list(dict.fromkeys(("builtin", *vaes)))
    if len(asked) == 1:
        command = f"tsuika vae compare VAE --images {images}"
        raise RecipeError("RC005", found=_("A VAE to compare with the base model's own"), do=command)
    labels = _labels(asked)
    own, *others = (replace(_candidate(space, name, place), name=labels[name]) for name in asked)
    yield Phase("pictures")
    size = size_px or space.geometry.native_size_px
    manifest = scan.scan(images, Data(min_size_px=_LEAST_PX))
    if len(manifest) > max_pictures > 0:
        notes.append(note("VA012", shown=max_pictures, found=len(manifest)))
        rows = manifest.samples
        evenly = tuple(rows[number * len(rows) // max_pictures] for number in range(max_pictures))
        manifest = replace(manifest, samples=evenly)
    numbers = {name: number for number, group in enumerate(dedupe.groups(manifest)) for name in group}
    images_read = _Images(manifest, size, roundtrip.factor(own.vae))
    notes += images_read.notes
    loaded = [ComparedImage(name, one, numbers[name]) for name, one in zip(images_read.names, images_read)]
    loaded.sort(key=lambda one: one.pixels_13HW.shape)  # those of one size go through together
    different = len({one.group for one in loaded})
    if different < LEAST:
        notes.append(note("VA011", found=different, needed=LEAST))
    yield from notes
    yield Phase("compare-vaes", len(loaded) * (1 + len(others)))
    compared = yield from compare.compare(
        own, others, loaded, scale=space.geometry.latent_scale, precision=precision, seed=seed
    )
    notes += [warned for result in compared.results for warned in result.findings]
    if out is not None:
        write_text(out, report.render(compared, loaded, base=public(base), size_px=size, lang=lang))
    return VaeComparison(base, space.facts.family, size, compared, out, tuple(notes))


@starts
def bake_vae(base: str, vae: str, out: Path, *, overwrite: bool = False) -> Generator[Event, None, BakedVae]:
    """Write a copy of a base with another VAE in the place of its own; all other numbers stay, bit for bit.

    Args:
        base: a single file or a diffusers folder, or a name as in `load`; only read.
        vae: named as in `load`.
        out: a `.safetensors` file for a single file, a new folder for a folder.
        overwrite: replace `out`, if it is a file.

    Raises:
        FormatError: the base has no VAE of these layers (FM005), its number type cannot hold this (FM002), or what was
            written does not read back the same (FM003).
        ModelError: no such base or VAE, or one of other latents.
        RecipeError: `out` exists (RC007).
    """
    cpu, space = torch.device("cpu"), families.peek(base, embedded_path=EMBEDDED)
    suffix = ".safetensors" if space.path.is_file() else ""
    writing.free_model(out, space.path, overwrite=overwrite, suffix=suffix, copied=True)
    yield Phase("load")
    own, new = (replace(_candidate(space, name, cpu), name=_labels([name])[name]) for name in ("builtin", vae))
    tensors = new.vae.state_dict()
    facts = {"tsuika.vae": Path(vae).name, "tsuika.vae_hash": safetensors.data_hash(tensors)}
    yield Phase("write")
    count = bake.bake(space.path, tensors, space.geometry.vae, out, facts)
    back = space.load_vae(str(out), cpu).state_dict()
    dtype = tune.narrowest(back.values())
    writing.check_same(out, tensors, back, dtype)
    notes = tuple(_fit_notes(own, new, space))
    yield from notes
    return BakedVae(
        base=base,
        vae=vae,
        out=out,
        format="single-file" if out.is_file() else "diffusers",
        family=space.facts.family,
        tensors=count,
        dtype=writing.NAMES[dtype],
        sha256=writing.sha256_of(out if out.is_file() else out / "vae"),
        notes=notes,
    )


def _fit_notes(own: LoadedVae, new: LoadedVae, space: StoredBase) -> list[Warned]:
    """What `compare_vae` would find in the latents, told by a test image of coloured noise of all scales."""
    scales = (4, 16, 64, _TEST_PX)
    noise = [torch.rand(1, 3, n, n, generator=generator(0, "vae test", n)) * 2 - 1 for n in scales]
    big = [nn.functional.interpolate(one, size=_TEST_PX, mode="bilinear") for one in noise]
    image = (sum(big[1:], big[0]) / 2).clamp(-1, 1)
    latents = [roundtrip.encode(one.vae, image) for one in (own, new)]
    encoder = roundtrip.encoders(own.vae, new.vae)
    quality = [float(metrics.psnr(roundtrip.decode(new.vae, one).clamp(-1, 1), image)) for one in latents]
    found = faults.latents(latents[:1], latents[1:], space.geometry.latent_scale)
    notes = [
        faults.incompatibility(new.name, encoder, found, quality[1] - quality[0], 1.0),
        faults.scale_note(new.name, new.scale, space.geometry.latent_scale),
        note("VA010", vae=new.name) if encoder == "other" else None,
    ]
    return [one for one in notes if one]


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
    start = _candidate(space, vae, place).vae
    yield Phase("pictures")
    manifest = scan.scan(images, Data(min_size_px=_LEAST_PX))
    groups = dedupe.groups(manifest)
    parts = tune.parts(groups, seed)
    factor = roundtrip.factor(start)
    loaded = _Images(manifest, size_px or space.geometry.native_size_px, factor)
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


def _labels(names: Sequence[str]) -> dict[str, str]:
    """Files and folders without their folders, as long as these names differ; words and hub ids as they are."""
    short = {name: public(name) for name in names}
    return short if len(set(short.values())) == len(names) else {name: name for name in names}


def _candidate(space: StoredBase, name: str, device: torch.device) -> LoadedVae:
    path = at_home(name)
    scale = None
    if path.is_dir():  # a single file names no scale
        folder = path / "vae" if (path / "vae" / "config.json").is_file() else path
        scale = read_json(folder / "config.json").get("scaling_factor")
    vae = space.load_vae(name, device).requires_grad_(False).eval()
    return LoadedVae(name, vae, scale, sha256(path) if path.is_file() else None, source=name)


class _Images(Sequence[Tensor]):
    """Images as a VAE takes them (1, 3, H, W); read when they are asked for, the latest few kept."""

    def __init__(self, manifest: Manifest, size_px: int, factor: int) -> None:
        samples = {sample.name: sample for sample in manifest.samples}
        self.names, self.sizes, cut = tuple(samples), dict[str, tuple[int, int]](), 0
        for name, sample in samples.items():
            whole, self.sizes[name] = roundtrip.sizes((sample.width, sample.height), size_px, factor)
            cut += whole != self.sizes[name]
        self.notes = [note("VA013", count=cut, multiple=factor)] if cut else []

        @lru_cache(_KEPT)
        def read(name: str) -> Tensor:
            return roundtrip.to_signal(roundtrip.fitted(open_image(samples[name].path), size_px, factor))

        self._read = read

    def of(self, names: Sequence[str]) -> _Images:
        """Some of them."""
        some = copy(self)
        some.names = tuple(names)
        return some

    def __getitem__(self, place: Any) -> Any:
        return self._read(self.names[place])

    def __len__(self) -> int:
        return len(self.names)
