"""How long a run takes and how much memory, on this machine: from a quick measurement where the base is at hand.

Time: real training steps, measured by whoever calls (`Measure`), or floating-point operations by what this machine was seen
to do. Memory is counted from shapes: weights, what learns, what the backward pass needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tsuika.advice import sizes
from tsuika.advice.activations import TIMES, Step, count, known
from tsuika.advice.base import KnownBase
from tsuika.config import Recipe
from tsuika.core.sections import Guard
from tsuika.data.split import LEAST_TO_HOLD_OUT, LEAST_TO_LEAVE_OUT
from tsuika.diffusion import quantization
from tsuika.guard.judge import SEVERAL_BYTES, WHOLE
from tsuika.methods import METHODS

GIB: Final = 2**30


@dataclass(frozen=True)
class Machine:
    """Where it would run."""

    device: str  # "cpu", "cuda", "mps"
    name: str  # for people
    precision: str  # "fp32", "bf16", "fp16"
    memory_gib: float  # of the device; the whole, not what is free
    flop_per_s: float | None = None  # seen in layers of the base's size; None: nothing was measured


@dataclass(frozen=True)
class Measured:
    """Real training steps of a recipe."""

    step_s: float  # of the processor's time where that is less than the clock's: what else runs here does not count
    date: str  # ISO
    peak_bytes: int | None = None  # on the device; None where it cannot be told (CPU)


Measure = Callable[[Recipe], Measured | None]


@dataclass(frozen=True)
class Cost:
    """At most: the guard may stop a run earlier."""

    steps: int
    step_s: float | None
    seconds: float | None  # of all training, the guard's look and refit included; without loading and drawing
    trainings: float  # how often the steps are paid for at most: look, refit, folds, and `safe` and `likeness`
    time_basis: str  # "measured", "scaled", "unknown"
    measured_on: str  # ISO date; empty where nothing was measured
    memory_gib: float
    memory_basis: str  # "measured", "counted"
    trained: int  # numbers that learn


def trainings(images: int, guard: Guard, trained_bytes: int) -> float:
    """How many times the steps of the recipe a run takes at most, by the number of different images."""
    if guard.mode != "on" or images < LEAST_TO_LEAVE_OUT or not guard.refit:
        return 1
    # `safe` and `likeness` go on from steps of their own.
    others = 2 if guard.range and trained_bytes < SEVERAL_BYTES else 0
    if images >= LEAST_TO_HOLD_OUT and not guard.folds:
        return WHOLE + others
    folds = min(guard.folds, images) or images
    # The folds, then all images up to half of their step, and from there the result.
    return folds + 1.5 + others


MARGIN: Final = 1.2  # on what is counted: workspaces, fragments, norms that are computed in float32
OVERHEAD_BYTES: Final = {"cuda": 0.8 * GIB, "cpu": 0.9 * GIB, "mps": 0.9 * GIB}  # libraries and the process


def step_of(base: KnownBase) -> Step:
    """A training step on one image of the base's own size."""
    if base.is_embedded:
        return known()["embedded"]
    own, steps = base.family.geometry(base.prediction).unet, known()
    if base.family.name in steps and all(
        base.geometry.unet.get(key) == value for key, value in own.items() if key != "sample_size"
    ):
        return steps[base.family.name].at(base.size_px)
    return count(base.family.network, base.geometry.unet, base.size_px, base.latent_factor)


def memory_gib(base: KnownBase, recipe: Recipe, machine: Machine, step: Step) -> float:
    """What the device must have, in GiB.

    Args:
        step: of the base, from `step_of`.
    """
    width = 4 if machine.precision == "fp32" else 2
    whole = sum((4 if name == "vae" else width) * base.numbers(name) for name in base.outline.components)
    weights = whole - _saved_bytes(base, recipe.base.quantize, width)
    trained = sizes.count(sizes.shapes(base, recipe))
    method, train = recipe.method, recipe.train
    number = method.bytes_per_weight
    # Weight and gradient; moments; the average, and the live weights put by while that is looked at.
    each = 2 * number + (0 if train.optimizer == "adafactor" else 8) + (2 * number if train.ema else 0)
    at_once = train.batch_size
    if recipe.data.regularizes:
        at_once *= 2
    kind = METHODS[method.name].backward
    kept = (step.checkpointed_bytes if train.gradient_checkpointing else step.kept_bytes)[kind] * width / 2
    # On a CPU a file that is read through memory stands beside what is made of it.
    loading = 2 * whole if machine.device == "cpu" else 0
    training = max(loading, weights + trained * each + kept * at_once)
    return (MARGIN * training + OVERHEAD_BYTES[machine.device]) / GIB


def _saved_bytes(base: KnownBase, kind: quantization.Kind, width: int) -> float:
    """What quantising saves of the base's weights."""
    if kind == "none":
        return 0
    numbers = base.once("quantised", lambda: sum(one.weight.numel() for one in quantization.layers(base.outline)))
    return (width - quantization.BYTES[kind]) * numbers


def estimate(
    base: KnownBase, recipe: Recipe, machine: Machine, images: int, step: Step, measure: Measure | None = None
) -> Cost:
    """Steps, time and memory of a recipe.

    Args:
        measure: runs a few real steps of the recipe; None, or an answer of None: the time is scaled from operations.
    """
    train, method = recipe.train, recipe.method
    found = measure(recipe) if measure else None
    trained = sizes.count(sizes.shapes(base, recipe))
    times = trainings(images, recipe.guard, trained * method.bytes_per_weight)
    memory, memory_basis = memory_gib(base, recipe, machine, step), "counted"
    step_s, basis = None, "unknown"
    if found:
        step_s, basis = found.step_s * train.accumulate, "measured"
        if found.peak_bytes is not None:
            memory, memory_basis = max(memory, found.peak_bytes / GIB), "measured"
    elif machine.flop_per_s:
        operations = step.forward_flop * TIMES[METHODS[method.name].backward] * train.batch_size * train.accumulate
        if train.gradient_checkpointing:
            operations += step.forward_flop * train.batch_size * train.accumulate
        if recipe.data.regularizes:
            operations *= 2
        step_s, basis = operations / machine.flop_per_s, "scaled"
    seconds = None if step_s is None else step_s * train.steps * times
    date = found.date if found else ""
    return Cost(train.steps, step_s, seconds, times, basis, date, memory, memory_basis, trained)
