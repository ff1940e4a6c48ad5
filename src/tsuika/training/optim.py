"""Optimizers by name."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from tsuika.core.errors import RecipeError
from tsuika.core.events import Warned, note
from tsuika.core.sections import Train
from tsuika.core.texts import _
from tsuika.core.types import ParamGroup
from tsuika.training import riemannian
from tsuika.training.rounding import StochasticRounding
from tsuika.training.schedule import SCHEDULE_FREE, Schedule

# Of the main rate, where the recipe gives text encoders none of their own (`core.methods.Lora`).
TEXT_SHARE: Final = 0.1
PLACEBO: Final = 0.01  # weight decay that takes less of the weights in a whole run is reported as without effect


def weight_decay_over_run(train: Train) -> float | None:
    """The sum over the run of learning rate * weight decay: decay alone leaves exp(-sum). None for Prodigy, unknown before."""
    return None if train.optimizer == "prodigy" else train.weight_decay * train.learning_rate * Schedule.of(train).total


def notes(train: Train) -> Iterator[Warned]:
    """TR004 where weight decay is set and has next to no effect: below `PLACEBO` over the run."""
    strength = weight_decay_over_run(train)
    if train.weight_decay and strength is not None and strength < PLACEBO:
        yield note("TR004", strength=f"{strength:.2g}")


def build(train: Train, groups: Iterable[ParamGroup]) -> Optimizer:
    """The optimizer over parameter groups, each remembering its own `base_lr`.

    Raises RecipeError (RC002): the optimizer's package is not installed, or it cannot have two rates, or as `riemannian.check`.
    """
    groups = list(groups)
    if train.optimizer == "riemannian":
        riemannian.check(train, groups)
    rows: list[dict[str, Any]] = []
    for group in groups:
        main = train.learning_rate * (TEXT_SHARE if group.name == "text" and train.optimizer != "prodigy" else 1)
        lr = group.learning_rate or main
        rows.append({"params": group.params, "lr": lr, "base_lr": lr, "name": group.name})
    if train.optimizer == "riemannian":
        return riemannian.Riemannian(rows)
    if train.optimizer == "prodigy" and len({row["lr"] for row in rows}) > 1:
        why = _("Prodigy finds one rate for all weights, so the text encoders cannot have another.")
        raise RecipeError("RC002", key="method.text_learning_rate", found=rows[-1]["lr"], why=why)
    if all(param.dtype == torch.float32 for row in rows for param in row["params"]):
        return _choose(train, rows)
    if train.optimizer in SCHEDULE_FREE:
        why = _(
            "It works on all weights together, and bf16 weights are stepped one by one; adafactor takes least memory."
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
        why = _("It needs a package: pip install {name} ({error})", name=name, error=error)
        raise RecipeError("RC002", key="train.optimizer", found=train.optimizer, why=why) from None


def trainable(groups: Iterable[ParamGroup]) -> list[nn.Parameter]:
    return [param for group in groups for param in group.params]
