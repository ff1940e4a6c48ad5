"""`compare_vae`, `bake_vae`: which VAE suits these images; a base with it inside."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from tsuika import families
from tsuika.api import writing
from tsuika.api.display import shown as shown_html
from tsuika.api.models import EMBEDDED, public
from tsuika.api.run import JsonResult, starts
from tsuika.core import files, safetensors
from tsuika.core.bootstrap import LEAST
from tsuika.core.errors import RecipeError, no_such
from tsuika.core.events import Event, Phase, Warned, note
from tsuika.core.files import write_text
from tsuika.core.sections import Data
from tsuika.core.seeds import generator
from tsuika.core.texts import _
from tsuika.data import dedupe, scan
from tsuika.families import StoredBase
from tsuika.training.device import DTYPES, pick_device
from tsuika.vae import bake, compare, faults, loading, metrics, report, roundtrip, tune
from tsuika.vae.compare import ComparedImage, Comparison, LoadedVae

MAX_IMAGES: Final = 32
_TEST_PX: Final = 128  # of the test image by which `bake_vae` compares latents


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
    own, *others = (replace(loading.load(space, name, place), name=labels[name]) for name in asked)
    yield Phase("pictures")
    size = size_px or space.geometry.native_size_px
    manifest = scan.scan(images, Data(min_size_px=loading.LEAST_PX))
    if len(manifest) > max_pictures > 0:
        notes.append(note("VA012", shown=max_pictures, found=len(manifest)))
        rows = manifest.samples
        evenly = tuple(rows[number * len(rows) // max_pictures] for number in range(max_pictures))
        manifest = replace(manifest, samples=evenly)
    numbers = {name: number for number, group in enumerate(dedupe.groups(manifest)) for name in group}
    images_read = loading.VaeImages(manifest, size, roundtrip.factor(own.vae))
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
    own, new = (replace(loading.load(space, name, cpu), name=_labels([name])[name]) for name in ("builtin", vae))
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


def _labels(names: Sequence[str]) -> dict[str, str]:
    """Files and folders without their folders, as long as these names differ; words and hub ids as they are."""
    short = {name: public(name) for name in names}
    return short if len(set(short.values())) == len(names) else {name: name for name in names}
