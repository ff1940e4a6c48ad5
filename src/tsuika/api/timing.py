"""How long training steps take on this machine: real ones, or from the speed of two layers."""

from __future__ import annotations

import importlib.metadata
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import date
from statistics import median
from typing import Any

import torch

from tsuika import families
from tsuika.advice.base import KnownBase
from tsuika.advice.estimate import Machine, Measured
from tsuika.api.models import EMBEDDED, cache_folder
from tsuika.config import Recipe
from tsuika.core import kept
from tsuika.core.errors import FormatError, ResourceError
from tsuika.core.events import Stepped
from tsuika.core.seeds import generator
from tsuika.core.texts import article
from tsuika.core.types import Batch, Model
from tsuika.methods import METHODS
from tsuika.training.device import DTYPES, pick_device, pick_precision
from tsuika.training.fit import Fit
from tsuika.training.loop import conditioner, fit
from tsuika.training.preparation import accelerate_for

TIMED_STEPS = 3  # after one to warm up
KEPT_S = 86_400.0  # a measurement is used again for a day
REACHED = 0.6  # of the speed of two such layers, by a whole UNet: SD1.5 at 256 px on one CPU core 0.54 and 0.69
SMALL = 100_000_000  # weights: what a CPU is asked to try for real
GIB = 2**30


def machine_for(base: KnownBase, device: str, measure: bool) -> Machine:
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
    if is_tried(base, machine) or not measure:
        return machine
    return replace(machine, flop_per_s=_flop_per_s(base, place, precision))


def is_tried(base: KnownBase, machine: Machine) -> bool:
    """Whether real steps are quick enough to try."""
    return base.at_hand and (machine.device != "cpu" or base.numbers("unet") < SMALL)


def _flop_per_s(base: KnownBase, device: torch.device, precision: str) -> float:
    """Operations a second, forward and backward, in a convolution and a projection as the middle of the network has them."""
    channels = base.family.network.middle(base.geometry.unet)
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


class Timer:
    """A base for a few real steps of each recipe; loaded only if something must be measured, let go at the end."""

    def __init__(self, base: KnownBase, machine: Machine) -> None:
        self.base, self.machine, self.allowed = base, machine, is_tried(base, machine)
        self._model: Model | None = None
        self._file = cache_folder() / "speed.json"

    def __enter__(self) -> Timer:
        return self

    def __exit__(self, *_: object) -> None:
        self._model = None

    @property
    def model(self) -> Model:
        """The base, loaded when it is first asked for."""
        if self._model is None:
            device, dtype = torch.device(self.machine.device), DTYPES[self.machine.precision]
            self._model = families.load(self.base.name, device=device, dtype=dtype, embedded_path=EMBEDDED)
        return self._model

    def measured(self, recipe: Recipe) -> Measured | None:
        """Seconds a step, measured now or within a day."""
        train, method = recipe.train, recipe.method.model_dump(mode="json")
        here = [self.machine.name, self.machine.precision, importlib.metadata.version("torch"), self.base.name]
        how = [method, train.batch_size, train.optimizer, train.gradient_checkpointing, recipe.data.regularizes]
        key = json.dumps(here + how)
        known: dict[str, dict[str, Any]] = {}
        with suppress(FormatError):  # none yet, or damaged: it is measured again
            known = kept.read(self._file, dict)
        # The clock may have been set back since.
        if key in known and abs(time.time() - known[key]["at"]) < KEPT_S:
            return Measured(
                known[key]["step_s"], date.fromtimestamp(known[key]["at"]).isoformat(), known[key]["peak_bytes"]
            )
        if not self.allowed:
            return None
        found = self._run(recipe)
        row = {"at": time.time(), "step_s": found.step_s, "peak_bytes": found.peak_bytes}
        # Where it cannot be kept, it is measured again.
        with suppress(ResourceError):
            kept.write(self._file, {**known, key: row})
        return found

    def _run(self, recipe: Recipe) -> Measured:
        accelerator, model, train = accelerate_for(recipe), self.model, recipe.train
        side = self.base.size_px // self.base.latent_factor
        rows = train.batch_size * (2 if recipe.data.regularizes else 1)
        latents_BCHW = torch.randn(rows, model.facts.latent_channels, side, side, generator=generator(0, "advise"))
        captions, weights = (article(recipe.data.first.trigger),) * rows, torch.ones(rows, device=model.device)
        batch = Batch(latents_BCHW.to(model.device), captions, ("",) * rows, weights)
        settings = recipe.method.completed(recipe.data)
        attachment = METHODS[recipe.method.name].attach(model, settings, generator(0, "init"))
        unet: Any = model.unet
        try:
            if train.gradient_checkpointing:
                unet.enable_gradient_checkpointing()
                unet.train()
            size = (self.base.size_px, self.base.size_px)
            condition = conditioner(model, attachment, lambda _: size)
            run = Fit(model, attachment, recipe, accelerator, batch=lambda _: batch, condition=condition)
            on_gpu = accelerator.device.type == "cuda"
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(accelerator.device)
            steps = [seconds / train.accumulate for seconds in _spent(fit(run, TIMED_STEPS + 1), on_gpu)]
            peak = torch.cuda.max_memory_reserved(accelerator.device) if on_gpu else None
        finally:
            attachment.detach()
            unet.disable_gradient_checkpointing()
            unet.eval()
        return Measured(median(steps[1:]), date.today().isoformat(), peak)


def _spent(steps: Iterator[Stepped], on_gpu: bool) -> Iterator[float]:
    """Seconds of each step by the clock, or by the processor where those are fewer: then others were busy as well."""
    processor = time.process_time()
    for event in steps:
        now = time.process_time()
        yield event.seconds if on_gpu else min(event.seconds, now - processor)
        processor = now
