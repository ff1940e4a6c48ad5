"""Riemannian SGD on spheres: rows of a matrix (n vectors of D numbers) turn, and keep their length.

For new words (Directional Textual Inversion, Kim et al. 2026, section 4): vectors that grow far beyond the vocabulary's
norm drown what the prompt says besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from tsuika.core.errors import RecipeError
from tsuika.core.sections import Train
from tsuika.core.texts import _
from tsuika.core.types import ParamGroup


class Riemannian(Optimizer):
    """Each row x = |x| u moves along the great circle down its gradient; |x| is what it was at the first step.

    The learning rate is an angle in radians: the gradient with respect to u, less the prior's pull, is projected onto
    the tangent space and divided by the running root mean square of its own size, so a typical step turns u by `lr`
    whatever the scale of the loss, and none by more than `lr / sqrt(1 - memory)`. The prior is a von Mises-Fisher
    distribution around the first direction, whose gradient is the constant `-prior * u0` (by default with the paper's
    concentration for SDXL). A row whose gradient is zero
    (its word was in no caption) stays as it is.
    """

    def __init__(self, params: Any, lr: float = 1e-2, *, prior: float = 1e-4, memory: float = 0.99) -> None:
        super().__init__(params, {"lr": lr, "prior": prior, "memory": memory})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step. All state is tensors, one row for each vector."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._turn(param, group["lr"], group["prior"], group["memory"])
        return loss

    def _turn(self, param: torch.Tensor, lr: float, prior: float, memory: float) -> None:
        state = self.state[param]
        if not state:
            length_n1 = param.norm(dim=-1, keepdim=True)
            state["length"], state["first"] = length_n1, param / length_n1
            state["square"], state["seen"] = torch.zeros_like(length_n1), torch.zeros_like(length_n1)
        at_nD = param / param.norm(dim=-1, keepdim=True)
        gradient_nD = state["length"] * param.grad - prior * state["first"]
        gradient_nD -= (gradient_nD * at_nD).sum(-1, keepdim=True) * at_nD
        size_n1 = gradient_nD.norm(dim=-1, keepdim=True)
        moves_n1 = (param.grad != 0).any(-1, keepdim=True) & (size_n1 > 0)  # type: ignore[union-attr]
        state["seen"] += moves_n1
        state["square"] = torch.where(moves_n1, torch.lerp(size_n1.square(), state["square"], memory), state["square"])
        usual_n1 = (state["square"] / (1 - memory ** state["seen"])).sqrt()
        angle_n1 = lr * size_n1 / usual_n1
        turned_nD = angle_n1.cos() * at_nD - angle_n1.sin() * gradient_nD / size_n1
        turned_nD *= state["length"] / turned_nD.norm(dim=-1, keepdim=True)  # rounding must not add up
        param.copy_(torch.where(moves_n1, turned_nD, param))


def check(train: Train, groups: Sequence[ParamGroup]) -> None:
    """Raises RecipeError (RC002): the method trains more than directions, or a setting would change their length."""
    if not all(group.directions for group in groups):
        why = _("It turns the vectors of new words (textual-inversion); other weights have no length to keep.")
        raise RecipeError("RC002", key="train.optimizer", found=train.optimizer, why=why)
    if train.weight_decay:
        why = _("The riemannian optimizer keeps the length of vectors, and weight decay shortens them.")
        raise RecipeError("RC002", key="train.weight_decay", found=train.weight_decay, why=why)
    if train.ema:
        why = _("The riemannian optimizer keeps the length of vectors, and their average is shorter than they are.")
        raise RecipeError("RC002", key="train.ema", found=train.ema, why=why)
