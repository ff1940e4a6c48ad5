"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from tsuika.core.errors import RecipeError
from tsuika.core.events import Warned, note
from tsuika.core.sections import Train
from tsuika.core.types import ParamGroup
from tsuika.core.words import Words
from tsuika.train import riemannian
from tsuika.train.rounding import StochasticRounding

TEXT_SHARE = 0.1  # of the main rate, where the recipe gives text encoders none of their own (config.Lora)
PLACEBO = 0.01  # weight decay that takes less than a hundredth of the weights in a whole run is told to be nothing
FREE = ("prodigy", "schedule-free")  # these keep no schedule


def rate(train: Train, step: int) -> float:
    """The share (0..1) of the learning rate at a step (0-based): linear warm-up, then the schedule.

    A pure function of the step, so a resumed run needs no scheduler state.
    """
    if train.optimizer == "schedule-free":  # warms up by itself
        return 1.0
    warmup = train.warmup * train.steps
    if step + 1 < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1.0, train.steps - warmup)
    progress = min(1.0, max(0.0, progress))
    if train.schedule == "constant" or train.optimizer in FREE:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * progress)) if train.schedule == "cosine" else 1 - progress


def steady(train: Train, step: int) -> float:
    """The share at a step of a run whose end is not known: warm-up, then the whole rate."""
    return rate(train.model_copy(update={"schedule": "constant"}), step)


def falling(train: Train, step: int, steps: int) -> float:
    """The share at a step of the last `steps`, which take the schedule to its end; warmed up again."""
    return rate(train.model_copy(update={"steps": steps}), step)


def total_rate(train: Train) -> float:
    """The sum of `rate` over the run: how many steps at the full learning rate it is worth."""
    return sum(rate(train, step) for step in range(train.steps))


def current_rate(group: Mapping[str, Any]) -> float:
    """The learning rate that a parameter group of an optimizer is at now; Prodigy's own factor included."""
    return float(group["lr"] * group.get("d", 1.0))


def weight_decay_over_run(train: Train) -> float | None:
    """Weight decay without a unit: the sum over the run of learning rate * decay, so that it alone leaves exp(-this).

    None: Prodigy, whose rates show only while it runs.
    """
    return None if train.optimizer == "prodigy" else train.weight_decay * train.learning_rate * total_rate(train)


def notes(train: Train) -> Iterator[Warned]:
    """What is set and does next to nothing: weight decay below `PLACEBO` over the run (TR004)."""
    strength = weight_decay_over_run(train)
    if train.weight_decay and strength is not None and strength < PLACEBO:
        yield note("TR004", strength=f"{strength:.2g}")


def build(train: Train, groups: Iterable[ParamGroup]) -> Optimizer:
    """The optimizer over parameter groups, each remembering its own `base_lr`.

    Raises:
        RecipeError: RC002, the optimizer's package is not installed, or it cannot have two rates.
    """
    groups = list(groups)
    if train.optimizer == "riemannian":
        return riemannian.build(train, groups)
    rows: list[dict[str, Any]] = []
    for group in groups:
        main = train.learning_rate * (TEXT_SHARE if group.name == "text" and train.optimizer != "prodigy" else 1)
        lr = group.learning_rate or main
        rows.append({"params": group.params, "lr": lr, "base_lr": lr, "name": group.name})
    if train.optimizer == "prodigy" and len({row["lr"] for row in rows}) > 1:
        why = Words(
            "Prodigy finds one rate for all weights, so the text encoders cannot have another.",
            "Prodigyはすべての重みに共通の学習率を1つ決めるため、テキストエンコーダーだけ変えることはできません。",
        )
        raise RecipeError("RC002", key="method.text_learning_rate", found=rows[-1]["lr"], why=why)
    if all(param.dtype == torch.float32 for row in rows for param in row["params"]):
        return _choose(train, rows)
    if train.optimizer in FREE:
        why = Words(
            "It works on all weights together, and bf16 weights are stepped one by one; adafactor takes least memory.",
            "すべての重みをまとめて扱いますが、bf16の重みは1つずつ更新します。メモリが最も少なく済むのは adafactor です。",
        )
        raise RecipeError("RC002", key="train.optimizer", found=train.optimizer, why=why)
    return StochasticRounding(rows, lambda one: _choose(train, one), train.seed)


def _choose(train: Train, rows: list[dict[str, Any]]) -> Optimizer:
    decay, betas = train.weight_decay, (0.9, 0.99)
    if train.optimizer == "adamw":
        return AdamW(rows, betas=betas, weight_decay=decay, foreach=True)
    if train.optimizer == "adamw8bit":
        optimizer: Optimizer = _package("bitsandbytes", train).optim.AdamW8bit(rows, betas=betas, weight_decay=decay)
    elif train.optimizer == "adafactor":  # Shazeer & Stern 2018, at the recipe's rate instead of its own
        optimizer = _package("transformers.optimization", train).Adafactor(
            rows, weight_decay=decay, scale_parameter=False, relative_step=False, warmup_init=False
        )
    elif train.optimizer == "prodigy":
        optimizer = _package("prodigyopt", train).Prodigy(
            rows, betas=betas, weight_decay=decay, safeguard_warmup=True, use_bias_correction=True
        )
    else:
        optimizer = _package("schedulefree", train).AdamWScheduleFree(
            rows, betas=betas, weight_decay=decay, warmup_steps=round(train.warmup * train.steps)
        )
    return optimizer


def _package(name: str, train: Train) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        why = Words(
            f"It needs a package: pip install {name} ({error})", f"パッケージが必要です: pip install {name}({error})"
        )
        raise RecipeError("RC002", key="train.optimizer", found=train.optimizer, why=why) from None


def trainable(groups: Iterable[ParamGroup]) -> list[nn.Parameter]:
    """All parameters of the groups, in order."""
    return [param for group in groups for param in group.params]
