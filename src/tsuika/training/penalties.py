"""Regularization of the weights: the recipe's `regularize`, applied after each step of the optimizer.

It knows no method, only an attachment's updates (`core.types.Update`). The penalties and their strengths:

- L2 shrinks an update to 1 / (1 + dose) of itself, dose = l2 * (this step's share of the learning rates of all steps). So
  `l2` is what the usual lr * lambda adds up to over a run, whatever rate, schedule and number of steps.
- L1 moves every weight towards the base by threshold = l1 * (this step's learning rate). Adam's steps are as long as the
  learning rate where all gradients agree and shorter where they do not, so a weight leaves the base only where the mean of its
  gradients is more than `l1` of their root mean square. Groups (a rank, a network) are held by their norms, with sqrt(size)
  times the threshold, as one step moves the norm of a group by that much (Yuan & Lin 2006).
- max-norm puts an update that is longer back on the ball.

L1 comes before L2, which makes both together the proximal point of their sum (elastic net); the ball comes last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tsuika.config import Recipe
from tsuika.core.errors import RecipeError
from tsuika.core.seeds import derive
from tsuika.core.types import Attachment, Update, UpdateKind
from tsuika.guard import proximal
from tsuika.training.optim import round_stochastically


class Penalties:
    """The penalties of a recipe on the updates of an attachment. With all strengths 0 they do nothing."""

    def __init__(self, recipe: Recipe, attachment: Attachment, total: float) -> None:
        """To be made before anything is trained or restored: the weights of that moment are the start of all updates.

        `total` is the sum of the shares of the learning rate over the whole training, over which L2 is spread.
        Raises RecipeError (RC008-RC013): a penalty that has no meaning for what is trained.
        """
        self._settings, self._train, self._total = recipe.regularize, recipe.train, total
        self._updates: list[tuple[int, Update]] = []  # with the number of its parameter group
        if not any((self._settings.l2, self._settings.l1, self._settings.max_norm)):
            return
        groups = {id(param): i for i, group in enumerate(attachment.param_groups()) for param in group.params}
        self._updates = [(groups[id(update.params[0])], update) for update in attachment.updates()]
        _check(recipe, {update.kind for _, update in self._updates})

    @torch.no_grad()
    def apply(self, step: int, share: float, groups: Sequence[Mapping[str, Any]]) -> None:
        """Apply the penalties after the optimizer's step number `step` (from 0). Every process computes the same.

        `step` seeds the stochastic rounding of bf16 weights; `share` (0..1) of the learning rate scales L2.
        """
        settings, train = self._settings, self._train
        for place, (group, update) in enumerate(self._updates):
            values = [param.float() for param in update.params]
            starts = [start.float() for start in update.start] or [torch.zeros_like(value) for value in values]
            if settings.l1:
                rate = groups[group]["lr"] * groups[group].get("d", 1.0)  # Prodigy's own factor
                values = _l1(update.kind, values, starts, settings.l1 * float(rate))
            if settings.l2:
                kept = proximal.kept_by_l2(settings.l2 * share / self._total)
                turn = update.kind == "vectors" and train.optimizer == "riemannian"
                pull = proximal.along_sphere if turn else proximal.towards
                values = [pull(value, start, kept) for value, start in zip(values, starts, strict=True)]
            if settings.max_norm:
                values = [_in_ball(update, values[0], starts[0], settings.max_norm)]
            for number, (param, value) in enumerate(zip(update.params, values, strict=True)):
                if param.dtype == torch.float32:
                    param.copy_(value)
                else:
                    seed = derive(train.seed, "regularize", step, place, number)
                    param.copy_(round_stochastically(value, torch.Generator(param.device).manual_seed(seed)))


def _l1(kind: UpdateKind, values: list[Tensor], starts: list[Tensor], threshold: float) -> list[Tensor]:
    """Single weights, ranks (columns of the factor) or a whole layer of a network, towards their start."""
    if kind == "weights":
        return [proximal.soft_threshold(v, start, threshold) for v, start in zip(values, starts, strict=True)]
    if kind == "factors":
        (up,) = values  # (out, rank, kernel...)
        norm = up.transpose(0, 1).flatten(1).norm(dim=1)
        kept = proximal.kept_by_group(norm, threshold * math.sqrt(up.numel() / len(norm)))
        return [up * kept.reshape(1, -1, *[1] * (up.ndim - 2))]
    norm = torch.cat([value.flatten() for value in values]).norm()
    kept = proximal.kept_by_group(norm, threshold * math.sqrt(sum(value.numel() for value in values)))
    return [value * kept for value in values]


def _in_ball(update: Update, value: Tensor, start: Tensor, largest: float) -> Tensor:
    if update.kind == "vectors":  # their own length, and not how far they came
        kept = proximal.kept_in_ball(value.norm(dim=-1, keepdim=True), largest)
        return value * kept
    if update.down is not None:
        return value * proximal.kept_in_ball(proximal.low_rank_norm(value, update.down, update.scale), largest)
    return proximal.towards(value, start, proximal.kept_in_ball((value - start).norm(), largest))


def _check(recipe: Recipe, kinds: set[UpdateKind]) -> None:
    settings, train = recipe.regularize, recipe.train
    if train.optimizer == "schedule-free":
        raise RecipeError("RC011")
    if settings.l1 and "vectors" in kinds:
        raise RecipeError("RC008")
    for key, without in (("l1", {"adapter"}), ("max_norm", {"adapter", "network"})):
        if getattr(settings, key) and kinds & without:
            raise RecipeError("RC009", key=f"regularize.{key}")
    if settings.l1 and train.ema:
        raise RecipeError("RC010")
    if settings.max_norm and train.optimizer == "riemannian":
        raise RecipeError("RC012")
