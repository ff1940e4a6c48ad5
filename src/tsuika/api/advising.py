"""`advise`: which method for these pictures, on this base, on this machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tsuika import families
from tsuika.advice import estimate, evidence, programs, rules
from tsuika.advice.base import Base, describe_base
from tsuika.advice.estimate import Machine, Measured
from tsuika.advice.evidence import GOALS, Goal, Statement
from tsuika.advice.recipes import Subject
from tsuika.advice.rules import Advice, Option
from tsuika.api.checking import detail_lost
from tsuika.api.models import EMBEDDED
from tsuika.api.run import starts
from tsuika.api.training import cache_folder
from tsuika.config import Recipe
from tsuika.core.english import article
from tsuika.core.errors import ImageError, no_such
from tsuika.core.events import Event, Phase
from tsuika.core.files import write_text
from tsuika.core.sections import Data
from tsuika.core.seeds import generator
from tsuika.core.texts import Text, _, _n
from tsuika.core.types import Batch, Model
from tsuika.data import check as checks
from tsuika.data.check_report import Report
from tsuika.methods import METHODS
from tsuika.training.device import DTYPES, pick_device, pick_precision
from tsuika.training.fit import Fit
from tsuika.training.loop import conditioner, fit
from tsuika.training.preparation import accelerate_for

# After one to warm up.
TIMED_STEPS = 3
# A measurement is used again for a day.
KEPT_S = 86_400.0
# Of the speed of two such layers, by a whole UNet: SD1.5 at 256 px on one CPU core 0.54 and 0.69.
REACHED = 0.6
# Share of images with one background, and from how many images on that says something.
HALF, MANY = 0.5, 4
# Weights: what a CPU is asked to try for real.
SMALL = 100_000_000
GIB = 2**30


@dataclass(frozen=True)
class Advised:
    """One recommendation, up to two alternatives, and the machine that they were estimated for.

    Attributes:
        advice: everything that was found, with the evidence.
        machine: where times and memory were estimated.
        recipe_files: the recipes that were written, the recommendation's first; empty without `out`.
    """

    advice: Advice
    machine: Machine
    recipe_files: tuple[Path, ...] = ()

    @property
    def recommendation(self) -> Option:
        """The method to take, with its recipe."""
        return self.advice.options[0]

    @property
    def alternatives(self) -> tuple[Option, ...]:
        """Others, the better one first."""
        return self.advice.options[1:]

    @property
    def notes(self) -> tuple[Statement, ...]:
        """What should be known of the request."""
        return self.advice.notes

    def to_dict(self) -> dict[str, Any]:
        """As in the command's `--json`."""
        found = self.advice.to_dict(self.machine)
        for option, path in zip([found["recommendation"], *found["alternatives"]], self.recipe_files, strict=False):
            option["recipe_file"] = str(path)
        return found


@starts
def advise(
    images: Path,
    goal: str,
    *,
    base: str = "embedded",
    vram_gb: float | None = None,
    max_file_mb: float | None = None,
    program: str = "",
    trigger: str = "",
    class_word: str = "",
    device: str = "auto",
    measure: bool = True,
    out: Path | None = None,
) -> Generator[Event, None, Advised]:
    """One recommendation and two alternatives, each with a recipe, what it takes here, and the evidence.

    Args:
        images: the folder of images; only read.
        goal: character, style, object or concept.
        base: as for `train`; also `sdxl` and the like, for one that is not here.
        vram_gb: memory of a GPU that it must fit into, in 10^9 bytes; None: of this machine.
        max_file_mb: largest file, in 10^6 bytes.
        program: where the result must work.
        measure: run a few training steps for the time, some seconds; False: only what was measured within a day.
        out: a folder for the recipes, `1-METHOD.toml` and so on; the result then names them (`recipe_files`).

    Returns:
        A run with `Phase` and `Progress` events; its result is the recommendation and its alternatives.

    Raises:
        RecipeError: RC002, no such goal or program; RC026, nothing keeps within the limits.
        TsuikaError: images or base cannot be used.
    """
    if goal not in GOALS:
        raise no_such("--goal", goal, GOALS)
    known = describe_base(base, EMBEDDED)
    data = Data(images=str(images), trigger=trigger.strip(), class_word=class_word.strip())
    report = yield from checks.check(images, data, size_px=known.size_px, base=base)
    if not report.usable:
        why = f"→ tsuika check {images}"
        raise ImageError("DS002", where=images, usable=0, total=report.total, needed=1, why=why, report=images)
    subject = Subject(
        goal,
        str(images),
        report.different,
        base,
        trigger.strip(),
        class_word.strip(),
        _captioned(report),
        known.is_embedded,
    )
    yield Phase("estimate")
    machine = machine_for(known, device, measure)
    limit = machine.memory_gib * GIB / 1e9 if vram_gb is None else vram_gb
    request = rules.Request(subject, _goal(goal), limit, max_file_mb, programs.program(program))
    counted = machine if vram_gb is None else replace(machine, device="cuda", precision="bf16")
    step = estimate.step_of(known)
    with _Timer(known, machine, measure) as timer:
        found = rules.advise(
            request,
            known,
            evidence.measured(),
            lambda recipe: estimate.estimate(known, recipe, counted, subject.pictures, step, timer.measured),
            lambda recipe: estimate.memory_gib(known, recipe, counted, step),
        )
    texts = [*_notes(known, subject, machine, vram_gb, report)]
    if measure and known.at_hand:
        lost = yield from detail_lost(report, base, known.size_px)
        texts += [
            _("{count} images: {what}. {why}", count=len(one.pictures), what=one.what, why=one.why) for one in lost
        ]
    notes = tuple(Statement(text, "known") for text in texts)
    files = []
    for number, option in enumerate(found.options, start=1):
        if out is not None:
            files.append(out / f"{number}-{option.method}.toml")
            write_text(files[-1], option.toml)
    return Advised(replace(found, notes=notes), machine, tuple(files))


def _goal(text: str) -> Goal:
    return next(goal for goal in GOALS if goal == text)


def _captioned(report: Report) -> bool:
    return all(picture.caption_source != "built" for picture in report.usable)


def machine_for(base: Base, device: str, measure: bool) -> Machine:
    """The machine, with the speed it has in layers of the base's size where real steps cannot be tried."""
    place = pick_device(device)
    precision = pick_precision("auto", place)
    if place.type == "cuda":
        memory: float = torch.cuda.get_device_properties(place).total_memory
        name = torch.cuda.get_device_name(place)
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 * GIB
        name = f"{place.type}, {torch.get_num_threads()} threads"
    machine = Machine(place.type, name, precision, memory / GIB)
    if _tried(base, machine) or not measure:
        return machine
    return replace(machine, flop_per_s=_flop_per_s(base, place, precision))


def _tried(base: Base, machine: Machine) -> bool:
    """Whether real steps are quick enough to try."""
    return base.at_hand and (machine.device != "cpu" or base.numbers("unet") < SMALL)


def _flop_per_s(base: Base, device: torch.device, precision: str) -> float:
    """Operations a second, forward and backward, in a convolution and a projection as the middle of the UNet has them."""
    channels = int(base.geometry.unet["block_out_channels"][1])
    side = base.size_px // base.latent_factor // 2
    dtype = DTYPES[precision]
    convolution = torch.nn.Conv2d(channels, channels, 3, padding=1, device=device, dtype=dtype)
    projection = torch.nn.Linear(channels, 4 * channels, device=device, dtype=dtype)
    x_BCHW = torch.randn(1, channels, side, side, device=device, dtype=dtype, requires_grad=True)
    operations = 3 * 2 * side**2 * channels**2 * (9 + 4)
    times = []
    for _round in range(3):
        began = time.perf_counter()
        projection(convolution(x_BCHW).flatten(2).mT).float().pow(2).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return REACHED * operations / min(times[1:])


def _notes(base: Base, subject: Subject, machine: Machine, vram_gb: float | None, report: Report) -> Iterator[Text]:
    family = base.family.facts.title
    if not base.at_hand and base.guessed:
        yield _(
            "The base model is not on this machine; by its name it is taken for a {family}. Times can only be rough.",
            family=family,
        )
    elif not base.at_hand:
        yield _(
            "The base model is not on this machine; as you say it is a {family}. Times can only be rough.",
            family=family,
        )
    if vram_gb is not None and machine.device == "cpu":
        yield _(
            "Memory is for a GPU of that size; times are for this machine, which has none, and a GPU is much quicker."
        )
    usable = len(report.usable)
    if usable > subject.pictures:
        yield _n(
            "{count} image, {different} of them different; near-duplicates count once.",
            "{count} images, {different} of them different; near-duplicates count once.",
            usable,
            different=subject.pictures,
        )
    if report.to_look_at or report.total > usable:
        yield _(
            "{doubtful} of {total} images should be looked at first: {command}",
            doubtful=len(report.to_look_at) + report.total - usable,
            total=report.total,
            command=f"tsuika check {report.folder}",
        )
    if subject.goal != "style" and subject.pictures >= MANY and report.variety.same_background >= HALF:
        yield _(
            "{share} of the images share one background, which will be learned along: add others, or name it in the captions.",
            share=f"{100 * report.variety.same_background:.0f}%",
        )
    if not subject.trigger:
        yield _("No --trigger was given: change the word in the recipe to one of your own.")


class _Timer:
    """A base for a few real steps of each recipe; loaded only if something must be measured."""

    def __init__(self, base: Base, machine: Machine, allowed: bool) -> None:
        self.base, self.machine, self.allowed = base, machine, allowed and _tried(base, machine)
        self._model: Model | None = None
        self._file = cache_folder().parent / "speed.json"

    def __enter__(self) -> _Timer:
        return self

    def __exit__(self, *_: object) -> None:
        self._model = None

    def measured(self, recipe: Recipe) -> Measured | None:
        """Seconds a step, measured now or within a day."""
        key = json.dumps(
            [
                self.machine.name,
                self.machine.precision,
                importlib.metadata.version("torch"),
                self.base.name,
                recipe.method.model_dump(mode="json"),
                recipe.train.batch_size,
                recipe.train.optimizer,
                recipe.train.gradient_checkpointing,
                recipe.data.regularizes,
            ]
        )
        known = self._known()
        if key in known and time.time() - known[key]["at"] < KEPT_S:
            return Measured(known[key]["step_s"], known[key]["peak_bytes"])
        if not self.allowed:
            return None
        found = self._run(recipe)
        row = {"at": time.time(), "step_s": found.step_s, "peak_bytes": found.peak_bytes}
        write_text(self._file, json.dumps({**known, key: row}))
        return found

    def _known(self) -> dict[str, dict[str, Any]]:
        try:
            found: dict[str, dict[str, Any]] = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none yet, or cut off: it is measured again
            return {}
        return found

    def _run(self, recipe: Recipe) -> Measured:
        accelerator = accelerate_for(recipe)
        if self._model is None:
            base = recipe.base
            self._model = families.load(
                base.model,
                tokenizer=base.tokenizer,
                vae=base.vae,
                device=accelerator.device,
                dtype=DTYPES[self.machine.precision],
                embedded_path=EMBEDDED,
            )
        model, train = self._model, recipe.train
        side = self.base.size_px // self.base.latent_factor
        rows = train.batch_size * (2 if recipe.data.regularizes else 1)
        latents_BCHW = torch.randn(rows, model.facts.latent_channels, side, side, generator=generator(0, "advise"))
        batch = Batch(
            latents_BCHW.to(model.device),
            (article(recipe.data.trigger),) * rows,
            ("",) * rows,
            torch.ones(rows, device=model.device),
        )
        settings = recipe.method.completed(recipe.data)
        attachment = METHODS[recipe.method.name].attach(model, settings, generator(0, "init"))
        unet: Any = model.unet
        try:
            if train.gradient_checkpointing:
                unet.enable_gradient_checkpointing()
                unet.train()
            size = (self.base.size_px, self.base.size_px)
            run = Fit(
                model,
                attachment,
                recipe,
                accelerator,
                batch=lambda _: batch,
                condition=conditioner(model, attachment, lambda _: size),
            )
            on_gpu = accelerator.device.type == "cuda"
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(accelerator.device)
            steps = [event.seconds / train.accumulate for event in fit(run, TIMED_STEPS + 1)]
            peak = torch.cuda.max_memory_reserved(accelerator.device) if on_gpu else None
        finally:
            attachment.detach()
            unet.disable_gradient_checkpointing()
            unet.eval()
        return Measured(median(steps[1:]), peak)
