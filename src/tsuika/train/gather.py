"""What a run gathers before it trains: device, base, pictures, settings. Yields events; trains nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from tsuika import families, formats
from tsuika.core.config import Recipe
from tsuika.core.errors import FormatError, InterruptedRunError, ModelError, RecipeError, exhausted
from tsuika.core.events import Event, Phase, Previewed, Warned, note
from tsuika.core.files import split_strength
from tsuika.core.rundir import RunDir
from tsuika.core.texts import _
from tsuika.core.types import Artifact, Model
from tsuika.core.words import Words
from tsuika.data import bank as banks
from tsuika.data import bucket, scan
from tsuika.data.bank import Bank
from tsuika.data.caption import has_word
from tsuika.data.manifest import Manifest
from tsuika.data.prior import Preserving
from tsuika.formats.common import as_told, unread_keys
from tsuika.guard.memorise import Leaks
from tsuika.methods import Method, MethodSection, find, with_outside
from tsuika.train import class_pictures
from tsuika.train.device import DTYPES, pick_device, pick_precision
from tsuika.train.ground import Ground

Preview = Callable[[Model, Recipe, RunDir, int], Iterator[Previewed]]

MIN_PICTURES = 1


@dataclass
class Run:
    """What a run has in hand; filled as it goes on, for the report at its end."""

    recipe: Recipe
    folder: RunDir
    embedded: Path  # the folder of the base that ships with the package
    preview: Preview | None = None
    draw: class_pictures.Draw | None = None
    drawn_with: Callable[[Model], object] | None = None  # of `draw`: its settings for a base, as JSON can hold them
    cache: Path | None = None
    model: Model | None = None
    manifest: Manifest | None = None
    buckets: tuple[bucket.Bucket, ...] = ()
    artifact: Artifact | None = None
    stopped_by: str = "steps"
    steps_done: int = 0
    leaks: Leaks | None = None


def accelerate_for(recipe: Recipe) -> Accelerator:
    """Devices, processes and precision through Accelerate (one process, or as many as `accelerate launch` started)."""
    device = pick_device(recipe.train.device)
    # A process of a launch has a device of its own.
    if device.type == "cuda" and device.index is not None and "LOCAL_RANK" not in os.environ:
        torch.cuda.set_device(device)  # what Accelerate takes
    precision = pick_precision(recipe.train.precision, device)
    mixed = "no" if precision == "fp32" else precision
    before: dict[str, Any] = AcceleratorState._shared_state  # of a run in this process that is over
    if before:
        elsewhere = before["device"].type != device.type
        if elsewhere or before["_mixed_precision"] != mixed:
            AcceleratorState._reset_state(reset_partial_state=elsewhere)
    accelerator = Accelerator(
        mixed_precision=mixed,
        cpu=device.type == "cpu",
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=recipe.method.some_unused)
        ],
    )
    if recipe.train.batch_size % accelerator.num_processes:
        why = Words(
            f"{accelerator.num_processes} processes share each batch, so it must be a multiple of that.",
            f"1つのバッチを{accelerator.num_processes}個のプロセスで分けるため、その倍数にしてください。",
        )
        raise RecipeError("RC002", key="train.batch_size", found=recipe.train.batch_size, why=why)
    return accelerator


@contextmanager
def clear_errors(recipe: Recipe, where: object) -> Iterator[None]:
    """Out of memory and out of disk as tsuika's own errors."""
    try:
        yield
    except Exception as error:
        smaller = max(1, recipe.train.batch_size // 2)
        less = f"--set train.batch_size={smaller}", "--set train.gradient_checkpointing=true"
        do = Words(f"Try {', or '.join(less)}", f"{' または '.join(less)} を試してください。")
        if (ours := exhausted(error, where=where, do=do)) is None:
            raise
        raise ours from None


def pictures(run: Run, model: Model, *, report: Path | None = None) -> Iterator[Event]:
    """Read and sort the pictures into `run.manifest` and `run.buckets`; what was found is written to `report`."""
    data = run.recipe.data
    size_px = data.size_px or model.native_size_px
    unet: Any = model.unet
    step_px = model.latent_factor * 2 ** (len(unet.config.block_out_channels) - 1)
    yield Phase("pictures")
    if not data.images:
        raise RecipeError("RC005", found="--images", do=f"tsuika train {run.recipe.method.name} --images DIR --out RUN")
    run.manifest = scan.scan(Path(data.images), data, size_px=size_px, needed=MIN_PICTURES, report=report)
    run.buckets = bucket.assign(run.manifest, size_px=size_px, step_px=step_px, buckets=data.buckets)
    yield from run.manifest.remarks()
    if enlarged := bucket.enlarged(run.buckets, data.crop):
        names = ", ".join(item.sample.name for item in enlarged[:3]) + (" …" if len(enlarged) > 3 else "")
        yield note("DS008", count=len(enlarged), names=names)


def vae_identity(model: Model) -> str:
    """What the cache knows the encoder by: a hash of its weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.vae.state_dict().items()):
        if name.startswith(("encoder.", "quant_conv.")):
            digest.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def prepare(
    run: Run, accelerator: Accelerator, *, report: Path | None = None, began_with: Manifest | None = None
) -> Generator[Event, None, Ground]:
    """Base and pictures, loaded and encoded; what was found in the pictures' folder is written to `report`.

    Raises:
        InterruptedRunError: TR008, the pictures are others than the run `began_with`.
        TsuikaError: whatever is wrong with recipe, pictures, model.
    """
    recipe = run.recipe
    settings = yield from base_and_pictures(run, accelerator, report=report, began_with=began_with)
    model = run.model
    assert model is not None and run.manifest is not None
    yield Phase("encode", len(run.manifest))
    fill = partial(
        banks.fill,
        encode=lambda pixels: model.encode_images(pixels.to(accelerator.device)).cpu(),
        vae=vae_identity(model),
        scale=model.latent_scale,
        folder=run.cache,
        device=accelerator.device,
    )
    subject: Bank = yield from fill(run.buckets, recipe.data)
    preserving = class_pictures.wanted(recipe.data)
    bank = (yield from preserve(run, subject, fill, accelerator)) if preserving else subject
    return Ground(recipe, settings, model, accelerator, run.manifest, bank, run.folder)


def settled(recipe: Recipe) -> MethodSection:
    """The method's settings, complete.

    Raises:
        RecipeError: what it needs is missing (RC005) or cannot be used (RC002); what is learnt could not be kept (RC002).
    """
    method = find(recipe.method.name)
    if not formats.for_method(method.name, method.formats):
        why = _("No file format can hold its results, so nothing would be left of the training.")
        raise RecipeError("RC002", key="method.name", found=method.name, why=why)
    return recipe.method.completed(recipe.data)


def base_and_pictures(
    run: Run, accelerator: Accelerator, *, report: Path | None = None, began_with: Manifest | None = None
) -> Generator[Event, None, MethodSection]:
    """What is quick: the base with `base.artifacts` on it, and the pictures, into the run; gives the method's settings.

    Raises:
        InterruptedRunError, TsuikaError: as `prepare`.
    """
    recipe = run.recipe
    precision = "fp32" if accelerator.mixed_precision == "no" else str(accelerator.mixed_precision)
    settings = settled(recipe)
    class_pictures.wanted(recipe.data)
    yield Phase("load")
    model = run.model = families.load(
        recipe.base.model,
        tokenizer=recipe.base.tokenizer,
        vae=recipe.base.vae,
        device=accelerator.device,
        dtype=DTYPES[precision],
        embedded_path=run.embedded,
    )
    for text in recipe.base.artifacts:
        yield from lay(text, model, find(recipe.method.name))
    yield from pictures(run, model, report=report)
    assert run.manifest is not None
    if began_with is not None:
        yield from _unchanged(began_with, run.manifest, recipe)
    captions = [sample.caption for sample in run.manifest.samples]
    yield from (note("TR003", word=w) for w in settings.new_words if not any(has_word(text, w) for text in captions))
    return settings


def _unchanged(before: Manifest, now: Manifest, recipe: Recipe) -> Iterator[Warned]:
    """A run cannot go on with other pictures: what is held out, and which batch comes when, hang on them."""
    then, there = ({sample.name: sample for sample in one.samples} for one in (before, now))
    gone, new = sorted(then.keys() - there.keys()), sorted(there.keys() - then.keys())
    both = [(then[name], there[name]) for name in then if name in there]
    other = [was.name for was, is_ in both if (was.sha256, was.repeats) != (is_.sha256, is_.repeats)]
    if gone or new or other:
        found = [(gone, "Missing", "なくなった画像"), (new, "New", "増えた画像"), (other, "Changed", "変わった画像")]
        why = Words(
            "; ".join(f"{word}: {_some(names)}" for names, word, _ in found if names),
            "、".join(f"{word}: {_some(names)}" for names, _, word in found if names),
        )
        raise InterruptedRunError("TR008", where=recipe.data.images, why=why)
    if spoken := [was.name for was, is_ in both if was.caption != is_.caption]:
        yield note("TR009", names=_some(spoken))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" … ({len(names)})" if len(names) > 5 else "")


def preserve(
    run: Run, bank: Bank, encode: class_pictures.Encoded, accelerator: Accelerator
) -> Generator[Event, None, Preserving]:
    """The bank with class pictures behind it: the recipe's folder, or what the first of several processes draws."""
    assert run.model is not None
    data, folder = run.recipe.data, Path(run.recipe.data.reg_images)
    if not data.reg_images:
        assert run.draw is not None
        how = run.drawn_with(run.model) if run.drawn_with is not None else None
        keep = run.cache.parent if run.cache is not None and data.cache else run.folder.root
        with accelerator.main_process_first():
            folder = yield from class_pictures.drawn(
                run.model,
                data,
                keep / "class_pictures",
                run.draw,
                size_px=data.size_px or run.model.native_size_px,
                seed=run.recipe.train.seed,
                also=(how, class_pictures.on_base(run.recipe.base.artifacts)),
            )
    joined = yield from class_pictures.fill(folder, run.buckets, bank, data, encode)
    return joined


def lay(text: str, model: Model, method: Method) -> Iterator[Warned]:
    """Put a finished result, `FILE` or `FILE:STRENGTH`, on the base, frozen, for the whole run.

    Args:
        text: the file, and its strength.
        model: the base.
        method: the run's own, whose results are allowed also where it lives outside.

    Yields:
        A warning where keys of the file were not understood, so that only a part of it has an effect.

    Raises:
        FormatError, ModelError: it cannot be read, or does not fit this base.
    """
    path, strength = split_strength(text)
    artifact = as_told(formats.find(path, formats.for_method(method.name, method.formats)).read(path))
    methods = with_outside([method.name])
    if artifact.method not in methods:
        raise FormatError("FM001", where=path, found=artifact.method, expected=", ".join(methods))
    if artifact.family not in (model.facts.family, ""):
        raise ModelError("MD004", where=path, artifact=path.name, found=artifact.family, expected=model.facts.family)
    methods[artifact.method].restore(model, artifact).set_strength(strength)
    if lost := unread_keys(artifact):
        total = len(artifact.tensors) + len(lost)
        yield note("GN005", artifact=path.name, first=lost[0], unmatched=len(lost), total=total)
