"""From a recipe to what a run trains with: device, base, images, settings. Yields events; trains nothing."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env

from tsuika import families, formats
from tsuika.config import Recipe
from tsuika.core.errors import FormatError, InterruptedRunError, ModelError, RecipeError, outer_cause
from tsuika.core.events import Event, Phase, Previewed, Warned, note
from tsuika.core.files import split_strength
from tsuika.core.rundir import RunDir
from tsuika.core.sections import Data
from tsuika.core.texts import _, listed
from tsuika.core.types import Artifact, Model
from tsuika.data import bank as banks
from tsuika.data import bucket, scan
from tsuika.data.bank import Bank
from tsuika.data.caption import has_word
from tsuika.data.manifest import Manifest, some
from tsuika.data.reg_images import RegularizedBank
from tsuika.diffusion import quantization
from tsuika.families import inpainting
from tsuika.families.chunks import limit_of, texts
from tsuika.formats.common import bundled_words, unread_keys, without_assumed_family
from tsuika.methods import Method, MethodSection, find, with_outside
from tsuika.training import loggers, notify, optim, preservation, regularization_images, surroundings
from tsuika.training.device import DTYPES, pick_device, pick_precision
from tsuika.training.prepared import Images, Inputs, Prepared
from tsuika.training.regularization_images import Draw, Encode

# Images of the model as it stands after a step, written into the run folder.
Preview = Callable[[Prepared, int], Iterator[Previewed | Warned]]


@dataclass(frozen=True)
class Services:
    """What a run needs from above `train`, which must not import `generate`."""

    embedded: Path  # the folder of the base that ships with the package
    cache: Path | None = None  # of encoded images
    draw: Draw | None = None  # regularization images
    preview: Preview = lambda prepared, step: iter(())


_ACCELERATES: Final = "ACCELERATE_TORCH_DEVICE"  # the environment variable that names its device
# What its launcher, or its settings file, may ask for beside processes that share each batch, by the variable that says so.
_SHARDING: Final = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


def accelerate_for(recipe: Recipe) -> Accelerator:
    """Devices, processes and precision through Accelerate (one process, or as many as `accelerate launch` started).

    Raises RecipeError: the processes are to shard the weights (RC030); device or batch do not fit them (RC002);
    the environment of their launch is not whole (RC045).
    """
    if sharding := [name for variable, name in _SHARDING.items() if parse_flag_from_env(variable)]:
        raise RecipeError("RC030", found=listed(sharding))
    device = pick_device(recipe.train.device)
    # A process of a launch has a device of its own; Accelerate takes torch's current one.
    if device.type == "cuda" and device.index is not None and "LOCAL_RANK" not in os.environ:
        torch.cuda.set_device(device)
    precision = pick_precision(recipe.train.precision, device)
    mixed = "no" if precision == "fp32" else precision
    before: dict[str, Any] = AcceleratorState._shared_state  # of a run in this process that is over
    if before:
        elsewhere = before["device"].type != device.type
        if elsewhere or before["_mixed_precision"] != mixed:
            AcceleratorState._reset_state(reset_partial_state=elsewhere)
    parallel = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=recipe.method.some_unused)
    with _of_accelerate(device):
        try:
            accelerator = Accelerator(mixed_precision=mixed, cpu=device.type == "cpu", kwargs_handlers=[parallel])
        # RANK and the like, perhaps of another launcher, are no numbers, or some of them are missing.
        except ValueError as error:
            raise RecipeError("RC045", why=str(error)) from None
    if accelerator.device.type != device.type:
        why = _("The processes that were launched are for `{device}`.", device=accelerator.device.type)
        raise RecipeError("RC002", key="train.device", found=recipe.train.device, why=why)
    if recipe.train.batch_size % accelerator.num_processes:
        why = _(
            "{processes} processes share each batch, so it must be a multiple of that.",
            processes=accelerator.num_processes,
        )
        raise RecipeError("RC002", key="train.batch_size", found=recipe.train.batch_size, why=why)
    return accelerator


@contextmanager
def _of_accelerate(device: torch.device) -> Iterator[None]:
    """Within, the device that Accelerate takes for a single process; by itself it takes the first kind that it knows."""
    if "LOCAL_RANK" in os.environ:
        yield
        return
    before = os.environ.get(_ACCELERATES)
    os.environ[_ACCELERATES] = str(device)
    try:
        yield
    finally:
        os.environ.pop(_ACCELERATES)
        if before is not None:
            os.environ[_ACCELERATES] = before


@contextmanager
def clear_errors(recipe: Recipe, where: object) -> Iterator[None]:
    """Out of memory, out of disk, and another process of the launch that is gone, as tsuika's own errors."""
    try:
        yield
    except Exception as error:
        smaller = max(1, recipe.train.batch_size // 2)
        do = _(
            "Try {batch}, or {checkpointing}",
            batch=f"--set train.batch_size={smaller}",
            checkpointing="--set train.gradient_checkpointing=true",
        )
        if _has_lost_another(error):
            # Without where in the library it was raised, and its advice.
            why = re.sub(r"^\[\S+\] ", "", str(error)).partition("\n")[0].partition(". ")[0]
            raise InterruptedRunError("TR036", where=where, why=why, run=where) from None
        if (ours := outer_cause(error, where=where, do=do)) is None:
            raise
        raise ours from None


def _has_lost_another(error: Exception) -> bool:
    """Whether a process of the launch could not be heard any more: NCCL's errors have a class, gloo's say where they come from."""
    return type(error).__name__ in ("DistBackendError", "DistNetworkError") or "gloo/transport" in str(error)


def prepare(
    recipe: Recipe, folder: RunDir, services: Services, accelerator: Accelerator, *, resume: bool = False
) -> Generator[Event, None, Prepared]:
    """Base and images, loaded and encoded. What was found in the image folder is written into the run folder.

    Raises InterruptedRunError (TR008): on `resume`, the images are not those that the run began with; and what is wrong with
    recipe, images or base.
    """
    before = Manifest.read(folder.left_out) if resume else None
    report = folder.left_out if accelerator.is_main_process and before is None else None
    hashes = services.cache.with_name("hashes") if services.cache is not None else None
    inputs = yield from read_inputs(recipe, services.embedded, accelerator, report=report, hashes=hashes)
    if before is not None:
        yield from _unchanged(before, inputs.manifest, recipe)
    yield Phase("encode", len(inputs.manifest))
    as_trained = partial(
        inpainting.training_latents if inputs.model.inpaints else type(inputs.model).encode_images, inputs.model
    )
    encode = partial(
        banks.fill,
        encode=lambda pixels: as_trained(pixels.to(accelerator.device)).cpu(),
        vae=vae_identity(inputs.model) if services.cache is not None and recipe.data.cache else "",
        scale=inputs.model.latent_scale,
        folder=services.cache,
        device=accelerator.device,
    )
    bank: Bank = yield from encode(inputs.buckets, recipe.data)
    images: Images = bank
    if regularization_images.requested(inputs.recipe.data):
        images = yield from add_regularization(bank, inputs, encode, services, accelerator, folder)
    return Prepared(**vars(inputs), accelerator=accelerator, images=images, folder=folder)


def read_inputs(
    recipe: Recipe, embedded: Path, accelerator: Accelerator, *, report: Path | None = None, hashes: Path | None = None
) -> Generator[Event, None, Inputs]:
    """The quick part: the base with `base.artifacts` applied, and the images, sorted into buckets.

    `embedded` is the folder of the base that ships with the package; `report` takes what was found in the images, the
    folder `hashes` the hash of a base in a single file.
    """
    precision = "fp32" if accelerator.mixed_precision == "no" else str(accelerator.mixed_precision)
    loggers.check(recipe.train.log_with)
    notify.check(recipe.train.notify)
    optim.check(recipe.train, accelerator.device)
    yield from recipe.remarks
    settings = completed(recipe)
    quantization.check(recipe.base.quantize)
    if recipe.base.quantize != "none" and not settings.fits_quantized(recipe.base.quantize):
        why = _("This method computes with the base's own weights, or trains them.")
        raise RecipeError("RC002", key="base.quantize", found=recipe.base.quantize, why=why)
    regularization_images.requested(recipe.data)
    preservation.check(recipe.data, settings, recipe.regularize.output_preservation)
    yield Phase("load")
    settings.check(families.peek(recipe.base.model, embedded_path=embedded).facts)
    model = families.load(
        recipe.base.model,
        tokenizer=recipe.base.tokenizer,
        vae=recipe.base.vae,
        device=accelerator.device,
        dtype=DTYPES[precision],
        embedded_path=embedded,
        overrides=recipe.base.overrides,
        hashes=hashes,
        unet_device=accelerator.device if recipe.base.quantize == "none" else torch.device("cpu"),
    )
    if model.prediction == "flow" and recipe.train.loss != "l2" and recipe.train.huber_schedule == "snr":
        why = _("A flow has no such schedule (sd-scripts refuse it, too): exponential or constant.")
        raise RecipeError("RC002", key="train.huber_schedule", found="snr", why=why)
    if precision == "fp16" and model.overflows_in_fp16:
        yield note("TR037")
    if model.inpaints:
        yield note("TR035")
    if (few := model.few_steps) is not None:
        yield note("TR034", kind=few.kind, why=few.why)
    method = find(recipe.method.name)
    for text in recipe.base.artifacts:
        yield from apply_artifact(text, model, method)
    start = None
    if settings.start_file:
        start = yield from read_start(settings.start_file, model, method)
        settings = settings.started(start)
        method.attach(model, settings, torch.Generator(), start).detach()
    quantization.quantize(model, recipe.base.quantize)
    # What cannot be on this base is told before the images are encoded.
    if start is None and method.outline is not None:
        method.outline(settings, recipe.data, model)
    yield Phase("pictures")
    data = recipe.data
    size_px, step_px = data.size_px or model.native_size_px, model.size_step_px
    manifest, data = scan.scan_sets(data, size_px=size_px, report=report)
    buckets = bucket.assign_sets(manifest, data, size_px=size_px, step_px=step_px)
    recipe = recipe.model_copy(update={"data": data})
    yield from manifest.remarks()
    each = data.each()
    _check_weighs(manifest, each)
    if len(each) > 1:
        yield note("DS014", sets=listed(f"{name} ({len(manifest.of(name))})" for name in each), count=len(each))
    if data.masks_images or any(own.masks_images for own in each.values()):
        count = sum(bool(sample.mask_kind) for sample in manifest.samples)
        outside = listed(dict.fromkeys(f"{own.mask_outside:g}" for own in each.values() if own.masks_images))
        yield note("DS013", count=count, total=len(manifest), outside=outside)
    if enlarged := bucket.enlarged(buckets, recipe.data.crop):
        names = ", ".join(list(enlarged)[:3]) + (" …" if len(enlarged) > 3 else "")
        yield note("DS008", count=len(enlarged), names=names)
    captions = [text for sample in manifest.samples for text in sample.captions]
    yield from _long_captions(captions, model)
    yield from (note("TR003", word=w) for w in settings.new_words if not any(has_word(text, w) for text in captions))
    return Inputs(recipe, settings, model, manifest, buckets, start)


def _check_weighs(manifest: Manifest, each: Mapping[str, Data]) -> None:
    """Whether anything of any image counts in the loss. Raises RecipeError (RC002): nothing does."""
    if not any(sample.weight for sample in manifest.samples):
        why = _("It is 0 for every image, so nothing would be learned.")
        raise RecipeError("RC002", key="data.weight", found=0, why=why)
    empty = {one.name for one in manifest.notes if one.code == "mask-empty"}
    outside = {name: own.mask_outside for name, own in each.items()}
    if all(sample.name in empty and not outside[sample.set] for sample in manifest.samples):
        why = _("The masks of all images are empty, and nothing outside of them counts, so nothing would be learned.")
        raise RecipeError("RC002", key="data.mask_outside", found=0, why=why)


def _long_captions(captions: Sequence[str], model: Model) -> Iterator[Warned]:
    limit = limit_of(model)
    counts = {text: max(model.count_tokens(text)) for text in dict.fromkeys(captions)}
    if long := [text for text in captions if counts[text] > limit]:
        longest = max(long, key=lambda text: counts[text])
        chunks = len(texts(longest, model.count_tokens, limit))
        yield note("DS012", count=len(long), room=limit, tokens=counts[longest], chunks=chunks)


def completed(recipe: Recipe) -> MethodSection:
    """The method's settings, complete.

    Raises RecipeError: what it needs is missing (RC005) or cannot be used, or what is learnt could not be kept (RC002).
    """
    method = find(recipe.method.name)
    if not formats.for_method(method.name, method.formats):
        why = _("No file format can hold its results, so nothing would be left of the training.")
        raise RecipeError("RC002", key="method.name", found=method.name, why=why)
    if not recipe.data.folders:
        raise RecipeError("RC005", found="--images", do=f"tsuika train {method.name} --images DIR --out RUN")
    return recipe.method.completed(recipe.data)


def _unchanged(before: Manifest, now: Manifest, recipe: Recipe) -> Iterator[Warned]:
    """A run cannot go on with other images: what is held out, and which batch comes when, depend on them."""
    then, there = ({sample.name: sample for sample in one.samples} for one in (before, now))
    gone, new = sorted(then.keys() - there.keys()), sorted(there.keys() - then.keys())
    both = [(then[name], there[name]) for name in then if name in there]
    facts = attrgetter("sha256", "repeats", "mask_sha256")
    other = [was.name for was, is_ in both if facts(was) != facts(is_)]
    if gone or new or other:
        why = _(
            "Missing: {missing}; new: {new}; changed: {changed}", missing=some(gone), new=some(new), changed=some(other)
        )
        raise InterruptedRunError("TR008", where=", ".join(recipe.data.folders), why=why)
    if recaptioned := [was.name for was, is_ in both if was.captions != is_.captions]:
        yield note("TR009", names=some(recaptioned))


def add_regularization(
    images: Bank, inputs: Inputs, encode: Encode, services: Services, accelerator: Accelerator, folder: RunDir
) -> Generator[Event, None, RegularizedBank]:
    """The bank with regularization images: from the recipe's folder, or drawn by the first of several processes.

    Raises RecipeError (RC005): an image has neither a caption file nor a class word; TypeError: nothing can draw.
    """
    data, model = inputs.recipe.data, inputs.model
    sources: dict[Path, Data] = {}
    for own in data.each().values():
        if own.reg_folder:
            sources.setdefault(Path(own.reg_folder), own)
        elif own.reg_generate:
            if services.draw is None:
                raise TypeError("regularization images are to be drawn, and no service draws them")
            keep = services.cache.parent if services.cache is not None and data.cache else folder.root
            with accelerator.main_process_first():
                place = yield from regularization_images.drawn(
                    model,
                    own,
                    keep / "class_pictures",
                    services.draw,
                    size_px=own.size_px or model.native_size_px,
                    seed=inputs.recipe.train.seed,
                    also=surroundings.of_artifacts(inputs.recipe.base.artifacts),
                )
            sources.setdefault(place, own)
    joined = yield from regularization_images.fill(sources, inputs.buckets, images, data, encode)
    return joined


def apply_artifact(text: str, model: Model, method: Method) -> Iterator[Warned]:
    """Apply a finished result, `FILE` or `FILE:STRENGTH`, to the base, frozen, for the whole run.

    `method` is the run's own, whose results are allowed also where it lives outside. Yields GN007 where keys of the file were not
    understood, so that only a part has an effect. Raises FormatError, ModelError: it cannot be read, or does not fit this base.
    """
    path, strength = split_strength(text)
    methods = with_outside([method.name])
    artifact = yield from _read(path, model, method, methods)
    methods[artifact.method].restore(model, artifact).set_strength(strength)


def read_start(text: str, model: Model, method: Method) -> Generator[Event, None, Artifact]:
    """The result of this method that a training goes on from. Yields TR021, and GN007 as `apply_artifact`. Raises
    FormatError, ModelError: it cannot be read, is another method's, or is not for this base."""
    path = Path(text)
    artifact = yield from _read(path, model, method, [method.name])
    yield note("TR021", file=path.name)
    return artifact


def _read(path: Path, model: Model, method: Method, expected: Collection[str]) -> Generator[Warned, None, Artifact]:
    artifact = without_assumed_family(formats.find(path, formats.for_method(method.name, method.formats)).read(path))
    if artifact.method not in expected:
        raise FormatError("FM001", where=path, found=artifact.method, expected=", ".join(expected))
    if artifact.family not in (model.facts.family, ""):
        found = families.title_of(artifact.family)
        raise ModelError("MD004", where=path, artifact=path.name, found=found, expected=model.facts.title)
    # Words inside a LoRA are for prompts; captions are read without them.
    if lost := [*unread_keys(artifact), *bundled_words(artifact)]:
        total = len(artifact.tensors) + len(lost)
        yield note("GN007", artifact=path.name, first=lost[0], unread=len(lost), total=total)
    return artifact


def vae_identity(model: Model) -> str:
    """What the cache knows the encoder by: a hash of its weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.vae.state_dict().items()):
        if name.startswith(("encoder.", "quant_conv.")):
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().data)
    if model.latent_shift:
        digest.update(f"shift {model.latent_shift!r}".encode())
    if model.inpaints:
        digest.update(inpainting.IDENTITY.encode())
    return digest.hexdigest()
