"""Several VAEs on the same images: how well each gives them back, at what cost, what is wrong with it, which to take.

Differences are from the base's own VAE, image by image: images differ among themselves by more than VAEs do.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tsuika.core.bootstrap import of_differences, of_values
from tsuika.core.events import Event, Progress, Warned, note
from tsuika.core.intervals import Interval
from tsuika.core.plain import jsonable
from tsuika.vae import faults, metrics, roundtrip

# What people want of a VAE -> the measure that says so; less is better.
PURPOSES: Final[Mapping[str, str]] = {"texture": "texture_error", "colour": "colour", "lines": "colour_p95"}
_DTYPES: Final = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_FALLBACKS: Final = {"fp16": "bf16", "bf16": "fp32"}
_BATCH_PIXELS: Final = 512 * 512


@dataclass(frozen=True)
class LoadedVae:
    """A VAE to compare: in float32, frozen."""

    name: str  # for people
    vae: nn.Module
    scale: float | None = None  # the latent scale that its own config names
    sha256: str | None = None  # of its file
    source: str = ""  # as the user named it, where that is longer


@dataclass(frozen=True)
class ComparedImage:
    """An image to compare by; `group` is the same for copies of one image."""

    name: str
    pixels_13HW: Tensor
    group: int


@dataclass
class VaeResult:
    name: str
    encoder: roundtrip.Encoders
    precision: str  # in which the images were measured
    groups: list[int]  # which images are the same one, by number
    rows: list[dict[str, float]]  # `metrics.measure`, one an image
    with_base: list[float]  # PSNR of the base's latents decoded by it, dB
    latents: faults.Latents
    encode_s_per_megapixel: float
    decode_s_per_megapixel: float
    memory_bytes: int
    largest_activation: float
    seams: float | None
    sha256: str | None
    source: str
    findings: list[Warned] = field(default_factory=list)
    against: dict[str, Interval] = field(default_factory=dict)  # differences from the base's own; empty for that one
    images: list[NDArray[Any]] = field(default_factory=list)  # (H, W, 3) bytes, what it made of each image

    @property
    def is_sound(self) -> bool:
        return not any(one.code in faults.SERIOUS for one in self.findings)

    def means(self) -> dict[str, Interval]:
        """Every measure with its interval over images; none can be told where it is not finite for some image."""
        return {name: of_values(_column(self, name), self.groups) for name in metrics.MEASURES}

    def to_dict(self) -> dict[str, Any]:
        return {
            "vae": self.name,
            "source": self.source,
            "encoder": self.encoder,
            "sound": self.is_sound,
            "precision": self.precision,
            "sha256": self.sha256,
            "findings": self.findings,
            "measures": self.means(),
            "against_builtin": self.against,
            "psnr_on_the_base_s_latents": of_values(self.with_base, self.groups),
            "latents": self.latents,
            "encode_s_per_megapixel": self.encode_s_per_megapixel,
            "decode_s_per_megapixel": self.decode_s_per_megapixel,
            "memory_bytes": self.memory_bytes,
            "largest_activation": self.largest_activation,
            "seams": self.seams,
        }


@dataclass(frozen=True)
class VaeAdvice:
    """Which VAE to take for a purpose; `vae` is the base's own where none is better."""

    purpose: str
    measure: str
    vae: str
    better_by: Interval | None  # positive: by how much less the error is than with the base's own
    as_good: tuple[str, ...] = ()  # others that the images cannot tell from it


@dataclass(frozen=True)
class Comparison:
    """All results, the base's own VAE first."""

    results: tuple[VaeResult, ...]
    advice: tuple[VaeAdvice, ...]
    pareto: tuple[str, ...]  # names of sound VAEs that none beats at both colour and texture
    names: tuple[str, ...]  # of the images
    different: int  # images, copies counted once
    level: float  # of the intervals of differences

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without images; None for what is not finite."""
        about = ("vae", "measure", "as_good", "better_by")
        plain = {
            "pictures": len(self.names),
            "different_pictures": self.different,
            "vaes": [one.to_dict() for one in self.results],
            "advice": {one.purpose: {name: getattr(one, name) for name in about} for one in self.advice},
            "pareto": list(self.pareto),
            "interval_level": self.level,
        }
        return cast(dict[str, Any], jsonable(plain))


def compare(
    own: LoadedVae,
    others: Sequence[LoadedVae],
    images: Sequence[ComparedImage],
    *,
    scale: float,
    precision: str = "fp32",
    seed: int = 0,
) -> Generator[Event, None, Comparison]:
    """Measure every VAE on every image, with a `Progress` for each batch and a `Warned` for each finding.

    Images have sides that all VAEs take, in order of size for speed; `scale` is the base's latent scale; `precision` fp32, bf16
    or fp16 (where it gives numbers that are not finite the next one is taken, and told); `seed` of the resampling.
    """
    total = len(images) * (1 + len(others))
    results: list[VaeResult] = []
    base_latents: list[Tensor] = []
    own_db = math.inf
    for candidate in (own, *others):
        before = len(results) * len(images)
        result, found = yield from _run(
            candidate, own, images, base_latents, own_db, scale, precision, before=before, total=total
        )
        if not results:
            base_latents, own_db = found, _mean_db(result.with_base)
        results.append(result)
    groups = [image.group for image in images]
    level = 1 - 0.05 / max(1, len(others))  # all intervals of a measure hold together (Bonferroni)
    first = results[0]
    for result in results[1:]:
        result.against = {
            name: of_differences(_column(result, name), _column(first, name), groups, level=level, seed=seed)
            for name in metrics.MEASURES
        }
    for result in results:
        result.findings += faults.looks(result.name, result.rows, result.against or None)
        yield from result.findings
    advice = tuple(_advise(purpose, results, groups, level, seed) for purpose in PURPOSES)
    names = tuple(image.name for image in images)
    return Comparison(tuple(results), advice, _pareto(results), names, len(set(groups)), level)


def _run(
    candidate: LoadedVae,
    own: LoadedVae,
    images: Sequence[ComparedImage],
    base_latents: list[Tensor],
    own_db: float,
    scale: float,
    precision: str,
    *,
    before: int,
    total: int,
) -> Generator[Event, None, tuple[VaeResult, list[Tensor]]]:
    findings: list[Warned] = []
    most = max(1, min(8, _BATCH_PIXELS // max(one.pixels_13HW[0, 0].numel() for one in images)))
    stacks = list(roundtrip.batches([one.pixels_13HW for one in images], most))
    loads = [faults.load(candidate.vae, stack[:1]) for stack in stacks[:2]]
    largest = max(load.largest for load in loads)
    if math.isfinite(largest) and any(load.overflows_fp16 for load in loads):
        findings.append(note("VA001", vae=candidate.name, precision="fp16", fallback="bf16", largest=f"{largest:.2g}"))
    while True:
        vae = candidate.vae if precision == "fp32" else copy.deepcopy(candidate.vae).to(_DTYPES[precision])
        passed = yield from _pass(vae, stacks, before, total)
        if passed.is_finite or precision == "fp32":
            break
        findings.append(note("VA009", vae=candidate.name, precision=precision, fallback=_FALLBACKS[precision]))
        precision = _FALLBACKS[precision]
    encoder = "same" if candidate is own else roundtrip.encoders(own.vae, candidate.vae)
    base_latents = base_latents or passed.latents
    compared = faults.latents(base_latents, passed.latents, scale)
    if encoder == "other":
        crossed = [roundtrip.decode(candidate.vae, stack).cpu() for stack in base_latents]
        with_base = [v for out, stack in zip(crossed, stacks) for v in metrics.psnr(out.clamp(-1, 1), stack).tolist()]
    else:
        with_base = [row["psnr"] for row in passed.rows]
    if candidate is not own and passed.is_finite:
        reached = _mean_db([row["psnr"] for row in passed.rows])
        lost, gain = reached - _mean_db(with_base), 1.0
        if encoder != "other" and reached < own_db - faults.MUCH_DB:
            some = slice(4)
            gain = faults.decoder_gain(candidate.vae, base_latents[0][some], stacks[0][some], own_db)
            lost = own_db - reached if gain != 1 else 0.0
        if found := faults.incompatibility(candidate.name, encoder, compared, lost, gain):
            findings.append(found)
        if encoder == "other":
            findings.append(note("VA010", vae=candidate.name))
        if warned := faults.scale_note(candidate.name, candidate.scale, scale):
            findings.append(warned)
    seam = None
    tile = faults.tile_px(candidate.vae)
    pixels = sum(stack[:, 0].numel() for stack in stacks)
    # No program cuts smaller tiles.
    if tile >= 256 and passed.is_finite and pixels >= 4 * (1.5 * tile) ** 2:
        seam = faults.seams(candidate.vae, stacks[-1][-1:])
        if seam is not None and seam > faults.SEAM:
            findings.append(note("VA008", vae=candidate.name, difference=f"{seam:.1f}", tile=tile))
    megapixels = pixels / 1e6
    result = VaeResult(
        candidate.name,
        encoder,
        precision,
        [one.group for one in images],
        passed.rows,
        with_base,
        compared,
        passed.encode_s / megapixels,
        passed.decode_s / megapixels,
        passed.peak_bytes or max(load.memory_bytes for load in loads),
        largest,
        seam,
        candidate.sha256,
        candidate.source or candidate.name,
        findings,
        images=passed.images,
    )
    return result, passed.latents


@dataclass
class _Passed:
    rows: list[dict[str, float]]
    latents: list[Tensor]
    images: list[NDArray[Any]]
    encode_s: float
    decode_s: float
    peak_bytes: int | None

    @property
    def is_finite(self) -> bool:
        return all(math.isfinite(row["colour"]) for row in self.rows)


def _pass(vae: nn.Module, stacks: Sequence[Tensor], before: int, total: int) -> Generator[Event, None, _Passed]:
    device = next(vae.parameters()).device
    is_cuda = device.type == "cuda"
    done = _Passed([], [], [], 0.0, 0.0, None)
    others = 0  # bytes of what else lies on the device, as do the other VAEs
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(device)
        others = torch.cuda.memory_allocated(device) - sum(param.nbytes for param in vae.parameters())
    for stack in stacks:
        began = _now(device)
        latents = roundtrip.encode(vae, stack)
        middle = _now(device)
        output = roundtrip.decode(vae, latents)
        ended = _now(device)
        done.encode_s, done.decode_s = done.encode_s + middle - began, done.decode_s + ended - middle
        done.rows += metrics.measure(output, stack.to(output.device))
        done.latents.append(latents.cpu())
        done.images += [roundtrip.to_bytes(one) for one in output]
        yield Progress("compare-vaes", before + len(done.rows), total)
    if is_cuda:
        done.peak_bytes = torch.cuda.max_memory_allocated(device) - others
    return done


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _column(result: VaeResult, name: str) -> list[float]:
    return [row[name] for row in result.rows]


def _mean_db(values: Sequence[float]) -> float:
    """Over the images that came out at all; above 60 dB two images are equal."""
    known = [min(value, 60.0) for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else 0.0


def _advise(purpose: str, results: Sequence[VaeResult], groups: Sequence[int], level: float, seed: int) -> VaeAdvice:
    """The best of those whose error is below the base's own by more than chance."""
    measure, own = PURPOSES[purpose], results[0]
    better = [one for one in results[1:] if one.is_sound and one.against[measure].sign < 0]
    if not better:
        return VaeAdvice(purpose, measure, own.name, None)
    best = min(better, key=lambda one: metrics.mean(one.rows, measure))
    taken = _column(best, measure)
    apart = {
        one.name: of_differences(_column(one, measure), taken, groups, level=level, seed=seed)
        for one in better
        if one is not best
    }
    rivals = tuple(name for name, difference in apart.items() if not difference.sign)
    return VaeAdvice(purpose, measure, best.name, -best.against[measure], rivals)


def _pareto(results: Sequence[VaeResult]) -> tuple[str, ...]:
    points = {
        one.name: tuple(metrics.mean(one.rows, name) for name in ("colour", "texture_error"))
        for one in results
        if one.is_sound
    }
    # A hundredth less is no reason to call another one beaten.
    return tuple(
        name
        for name, here in points.items()
        if not any(
            all(a <= b for a, b in zip(there, here)) and any(a < 0.99 * b for a, b in zip(there, here))
            for there in points.values()
        )
    )
