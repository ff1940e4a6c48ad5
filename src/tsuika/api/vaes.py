"""`compare_vae`, `bake_vae`, `tune_vae`: which VAE suits these pictures; a base with it inside; a decoder of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import median_low
from typing import Any, Final, overload

import torch
from torch import Tensor, nn

from tsuika import families
from tsuika.api import writing
from tsuika.api.models import EMBEDDED
from tsuika.core import safetensors
from tsuika.core.bootstrap import LEAST
from tsuika.core.errors import DivergedError, ImageError, no_such
from tsuika.core.events import Event, Phase, Progress, Warned, note
from tsuika.core.files import sha256, write_text
from tsuika.core.plain import jsonable
from tsuika.core.sections import Data
from tsuika.core.seeds import generator
from tsuika.core.types import Artifact
from tsuika.core.weights import read_json
from tsuika.data import dedupe, scan
from tsuika.data.image import open_image
from tsuika.data.manifest import Manifest
from tsuika.families import StoredBase
from tsuika.formats import vae_file
from tsuika.training.device import DTYPES, pick_device
from tsuika.vae import bake, compare, faults, metrics, proof, report, roundtrip, tune
from tsuika.vae.compare import ComparedImage, LoadedVae

MAX_PICTURES: Final = 32
_LEAST_PX: Final = 16  # a little over SSIM's window
_TEST_PX: Final = 128  # of the test picture by which `bake_vae` compares latents
_KEPT: Final = 32  # pictures in memory while a VAE is tuned
Say = Callable[[Event], None]


def compare_vae(
    vaes: Sequence[str],
    images: Path,
    *,
    base: str = "embedded",
    size_px: int = 0,
    max_pictures: int = MAX_PICTURES,
    precision: str = "fp32",
    device: str = "auto",
    seed: int = 0,
    out: Path | None = None,
    lang: str = "en",
    overwrite: bool = False,
    say: Say | None = None,
) -> dict[str, Any]:
    """Encode and decode pictures with several VAEs and the base's own, and say which to take for what.

    Args:
        vaes: `builtin:NAME`, files, folders or hub ids; the base's own is always compared.
        images: folder of pictures; only read.
        base: whose latents they must fit.
        size_px: of the shorter side; larger pictures are made smaller. 0: the base's own size.
        max_pictures: taken evenly where there are more.
        precision: fp32, bf16 or fp16; falls back to the next, and says so, where numbers are not finite.
        device: auto, cpu, cuda, ...
        seed: of the resampling.
        out: an HTML page with crops and difference maps; none is written without.
        lang: in which the page opens.
        overwrite: replace `out`.
        say: called with events: `Phase`, `Progress`, `Warned`.

    Returns:
        `compare.Comparison.to_dict`, and base, family, size_px, page, notes.

    Raises:
        TsuikaError: no such folder or VAE, one of other latents, no usable pictures, a page that exists.
    """
    if precision not in DTYPES:
        raise no_such("precision", precision, DTYPES)
    if out is not None:
        writing.free(out, images, overwrite=overwrite, suffix=".html")
    tell = _Notes(say)
    tell(Phase("load"))
    place, space = pick_device(device), families.peek(base, embedded_path=EMBEDDED)
    asked = list(dict.fromkeys(("builtin", *vaes)))
    labels = _labels(asked)
    own, *others = (replace(_candidate(space, name, place), name=labels[name]) for name in asked)
    tell(Phase("pictures"))
    size = size_px or space.geometry.native_size_px
    manifest = scan.scan(images, Data(min_size_px=_LEAST_PX))
    if len(manifest) > max_pictures > 0:
        tell(note("VA012", shown=max_pictures, found=len(manifest)))
        rows = manifest.samples
        evenly = tuple(rows[number * len(rows) // max_pictures] for number in range(max_pictures))
        manifest = replace(manifest, samples=evenly)
    numbers = {name: number for number, group in enumerate(dedupe.groups(manifest)) for name in group}
    prepared = _Prepared(manifest, size, roundtrip.factor(own.vae), tell)
    pictures = [ComparedImage(name, prepared[name], numbers[name]) for name in prepared]
    pictures.sort(key=lambda one: one.pixels_13HW.shape)  # those of one size go through together
    different = len({picture.group for picture in pictures})
    if different < LEAST:
        tell(note("VA011", found=different, needed=LEAST))
    total = len(pictures) * (1 + len(others))
    tell(Phase("compare-vaes", total))
    compared = compare.compare(
        own,
        others,
        pictures,
        scale=space.geometry.latent_scale,
        precision=precision,
        seed=seed,
        tell=tell,
        progress=lambda done, of: tell(Progress("compare-vaes", done, of)),
    )
    content: dict[str, Any] = {
        "base": base,
        "family": space.facts.family,
        "size_px": size,
        **compared.to_dict(),
        "page": None,
    }
    if out is not None:
        shown = Path(base).name if Path(base).expanduser().exists() else base
        page = report.render(compared, pictures, base=shown, size_px=size, lang=lang)
        write_text(out, page)
        content["page"] = str(out)
    return {**content, "notes": tell.notes}


def bake_vae(base: str, vae: str, out: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write a copy of a base with another VAE in the place of its own; all other numbers stay, bit for bit.

    Args:
        base: a single file or a diffusers folder, or a name as in `load`; only read.
        vae: named as in `load`.
        out: a `.safetensors` file for a single file, a new folder for a folder.
        overwrite: replace `out`, if it is a file.

    Returns:
        base, vae, out, format, family, tensors (put in), dtype, sha256, notes.

    Raises:
        FormatError: the base has no VAE of these layers (FM005), its number type cannot hold this (FM002), or what was
            written does not read back the same (FM003); ModelError: no such base or VAE, or one of other latents.
        RecipeError: `out` exists (RC007).
    """
    cpu, space = torch.device("cpu"), families.peek(base, embedded_path=EMBEDDED)
    suffix = ".safetensors" if space.path.is_file() else ""
    writing.free_model(out, space.path, overwrite=overwrite, suffix=suffix, copied=True)
    own, new = (replace(_candidate(space, name, cpu), name=_labels([name])[name]) for name in ("builtin", vae))
    tensors = new.vae.state_dict()
    facts = {"tsuika.vae": Path(vae).name, "tsuika.vae_hash": safetensors.data_hash(tensors)}
    count = bake.bake(space.path, tensors, space.geometry.vae, out, facts)
    back = space.load_vae(str(out), cpu).state_dict()
    dtype = proof.narrowest(back.values())
    wrong = [name for name, value in tensors.items() if not torch.equal(value.to(dtype), back[name].to(dtype))]
    if wrong:
        raise writing.differing(out, wrong)
    tell = _Notes(None)
    for warned in _fit_notes(own, new, space):
        tell(warned)
    file = out if out.is_file() else min((out / "vae").glob("*.safetensors"))
    return {
        "base": base,
        "vae": vae,
        "out": str(out),
        "format": "single-file" if out.is_file() else "diffusers",
        "family": space.facts.family,
        "tensors": count,
        "dtype": writing.NAMES[dtype],
        "sha256": sha256(file),
        "notes": tell.notes,
    }


def _fit_notes(own: LoadedVae, new: LoadedVae, space: StoredBase) -> list[Warned]:
    """What `compare_vae` would find in the latents, told by a test picture of coloured noise of all scales."""
    scales = (4, 16, 64, _TEST_PX)
    noise = [torch.rand(1, 3, n, n, generator=generator(0, "vae test", n)) * 2 - 1 for n in scales]
    big = [nn.functional.interpolate(one, size=_TEST_PX, mode="bilinear") for one in noise]
    picture = (sum(big[1:], big[0]) / 2).clamp(-1, 1)
    latents = [roundtrip.encode(one.vae, picture) for one in (own, new)]
    encoder = roundtrip.encoders(own.vae, new.vae)
    quality = [float(metrics.psnr(roundtrip.decode(new.vae, one).clamp(-1, 1), picture)) for one in latents]
    found = faults.latents(latents[:1], latents[1:], space.geometry.latent_scale)
    incompatibility = faults.incompatibility(new.name, encoder, found, quality[1] - quality[0], 1.0)
    scale = faults.scale_note(new.name, new.scale, space.geometry.latent_scale)
    return [one for one in (incompatibility, scale, note("VA010", vae=new.name) if encoder == "other" else None) if one]


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
    say: Say | None = None,
) -> dict[str, Any]:
    """Fine-tune a VAE's decoder on pictures, and write it if it is better on pictures that had no part in it.

    The encoder stays bit for bit, and so do all latents: bases, LoRA and caches go on working. Deterministic by seed on
    one machine.

    Args:
        images: folder of pictures, twelve different ones or more; only read.
        out: a `.safetensors` file (the layout that every program takes), or a new folder for diffusers.
        base: whose latents they are.
        vae: to begin with, named as in `load`.
        purpose: balanced, texture or colour: what the loss prefers, and what must become better (`tune.PROOF`).
        steps: at most; it ends earlier where the pictures kept for choosing gain nothing.
        batch: crops a step.
        crop_px: side of the crops.
        size_px: of the pictures' shorter side; 0: the base's own size.
        learning_rate: 0: by the decoder's width.
        precision: of the decoder's computing while it learns: auto, bf16 or fp32.
        device: auto, cpu, cuda, ...
        seed: of split and draws.
        keep_anyway: write it, better or not.
        overwrite: replace `out`, if it is a file.
        say: called with events: `Phase`, `Progress`, `Warned`.

    Returns:
        out, dtype, purpose, proven, best_step, steps_done, pictures (train, choose, prove), measures (before, after,
        change with its interval), sha256, notes.

    Raises:
        ImageError: too few pictures (VA021), or it is not better, and nothing was written (VA020).
        DivergedError: the loss is not finite (VA022).
        TsuikaError: no such folder, base or VAE; `out` exists.
    """
    if purpose not in tune.PURPOSES:
        raise no_such("purpose", purpose, tune.PURPOSES)
    format_ = next(one for one in vae_file.VAE_FORMATS if one.suffix == out.suffix.lower() or not one.suffix)
    writing.free(out, images, overwrite=overwrite, suffix=format_.suffix)
    tell = _Notes(say)
    tell(Phase("load"))
    place, space = pick_device(device), families.peek(base, embedded_path=EMBEDDED)
    start = _candidate(space, vae, place).vae
    tell(Phase("pictures"))
    manifest = scan.scan(images, Data(min_size_px=_LEAST_PX))
    groups = dedupe.groups(manifest)
    parts = proof.parts(groups, seed)
    factor = roundtrip.factor(start)
    pictures = _Prepared(manifest, size_px or space.geometry.native_size_px, factor, tell)
    crop_px, large = _crops(pictures, parts.train, crop_px // factor * factor, tell)
    measured = pictures.of(parts.prove)
    before = proof.measured(start, measured)
    settings = tune.Settings(
        purpose,
        steps,
        batch,
        learning_rate or tune.rate(start),
        check_every=max(1, min(50, steps // 4)),
        seed=seed,
        half=precision == "bf16" or (precision == "auto" and place.type == "cuda"),
    )
    tell(Phase("tune-vae", steps))
    choose = pictures.of(parts.choose)
    try:
        fitted = tune.fit(
            start,
            tune.crops(pictures.of(large), settings, crop_px),
            lambda one: tune.loss_on(one, choose, purpose),
            settings,
            lambda step, _: tell(Progress("tune-vae", step, steps)),
        )
    except FloatingPointError as error:
        raise DivergedError("VA022", step=error.args[0], rate=f"{settings.learning_rate / 3:.1g}") from None
    tell(Phase("prove", len(measured)))
    dtype = proof.narrowest(roundtrip.encoder_tensors(start).values())
    proof.rounded(start, dtype)
    numbers = {name: number for number, group in enumerate(groups) for name in group}
    shown = proof.prove(before, proof.measured(start, measured), [numbers[name] for name in parts.prove], purpose, seed)
    for name in shown.costs:
        tell(note("VA023", measure=name, **proof.words(shown.changes[name])))
    if not (shown.is_better or keep_anyway):
        name = shown.measure
        raise ImageError(
            "VA020",
            proof=len(measured),
            measure=name,
            before=f"{shown.before[name]:.4g}",
            after=f"{shown.after[name]:.4g}",
            **proof.words(shown.changes[name]),
        )
    tell(Phase("write"))
    config = {
        **dict(space.geometry.vae),
        **dict(roundtrip.config(start)),
        "scaling_factor": space.geometry.latent_scale,
    }
    config["_class_name"] = "AutoencoderKL"
    tensors = {name: value.cpu() for name, value in start.state_dict().items()}
    artifact = Artifact("vae", space.facts.family, tensors, {vae_file.CONFIG: json.dumps(config)})
    done = writing.write(artifact, format_, out, writing.NAMES[dtype])
    return {
        "out": done["out"],
        "format": done["format"],
        "dtype": done["dtype"],
        "purpose": purpose,
        "proven": shown.is_better,
        "best_step": fitted.best_step,
        "steps_done": fitted.steps_done,
        "learning_rate": settings.learning_rate,
        "pictures": {"train": len(large), "choose": len(parts.choose), "prove": len(parts.prove)},
        "measures": {
            name: jsonable({"before": shown.before[name], "after": shown.after[name], "change": change})
            for name, change in shown.changes.items()
        },
        "sha256": done["sha256"],
        "notes": tell.notes,
    }


class _Notes:
    """Passes events on and keeps the warnings."""

    def __init__(self, say: Say | None) -> None:
        self.notes: list[Warned] = []
        self._say = say

    def __call__(self, event: Event) -> None:
        if isinstance(event, Warned):
            self.notes.append(event)
        if self._say:
            self._say(event)


def _labels(names: Sequence[str]) -> dict[str, str]:
    """Files and folders without their folders, as long as these names differ; words and hub ids as they are."""
    short = {name: Path(name).name if Path(name).expanduser().exists() else name for name in names}
    return short if len(set(short.values())) == len(names) else {name: name for name in names}


def _candidate(space: StoredBase, name: str, device: torch.device) -> LoadedVae:
    path = Path(name).expanduser()
    scale = None
    if path.is_dir():  # a single file names no scale
        folder = path / "vae" if (path / "vae" / "config.json").is_file() else path
        scale = read_json(folder / "config.json").get("scaling_factor")
    vae = space.load_vae(name, device).requires_grad_(False).eval()
    return LoadedVae(name, vae, scale, sha256(path) if path.is_file() else None, source=name)


class _Prepared(Mapping[str, Tensor]):
    """Pictures as a VAE takes them (1, 3, H, W), by name; read when they are asked for, the latest few kept."""

    def __init__(self, manifest: Manifest, size_px: int, factor: int, tell: Say) -> None:
        self._samples = {sample.name: sample for sample in manifest.samples}
        self._size_px, self._factor = size_px, factor
        self._read = lru_cache(_KEPT)(self._opened)
        self.sizes: dict[str, tuple[int, int]] = {}
        cut = 0
        for name, sample in self._samples.items():
            whole, self.sizes[name] = roundtrip.sizes((sample.width, sample.height), size_px, factor)
            cut += whole != self.sizes[name]
        if cut:
            tell(note("VA013", count=cut, multiple=factor))

    def __getitem__(self, name: str) -> Tensor:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._samples)

    def __len__(self) -> int:
        return len(self._samples)

    def of(self, names: Sequence[str]) -> Sequence[Tensor]:
        """Some of them, as a sequence that reads them when they are asked for."""
        return _Some(self, names)

    def _opened(self, name: str) -> Tensor:
        return roundtrip.to_signal(roundtrip.fitted(open_image(self._samples[name].path), self._size_px, self._factor))


class _Some(Sequence[Tensor]):
    def __init__(self, pictures: _Prepared, names: Sequence[str]) -> None:
        self._pictures, self._names = pictures, tuple(names)

    @overload
    def __getitem__(self, place: int) -> Tensor: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, place: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(place, slice):
            return _Some(self._pictures, self._names[place])
        return self._pictures[self._names[place]]

    def __len__(self) -> int:
        return len(self._names)


def _crops(pictures: _Prepared, names: Sequence[str], side_px: int, tell: Say) -> tuple[int, list[str]]:
    """The side of the crops, and the pictures that they fit into: half of them at least."""
    sides = {name: min(pictures.sizes[name]) for name in names}
    side_px = min(side_px, median_low(sides.values()))
    large = [name for name in names if sides[name] >= side_px]
    if len(large) < len(names):
        tell(note("VA024", small=len(names) - len(large), found=len(names), side=side_px))
    return side_px, large
