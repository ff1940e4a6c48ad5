"""Training weights that are kept in bfloat16: every update is rounded up or down at random, right on average.

Rounding to the nearest loses an update smaller than half the gap between two bfloat16 numbers (2^-9 of the weight), and
so nearly all of them at small learning rates. Source: Zamirai et al. 2020, "Revisiting BFloat16 Training".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tsuika.core.seeds import derive

_DROPPED = 0xFFFF  # the lower half of a float32, which bfloat16 has not


def round_stochastically(value: Tensor, generator: torch.Generator) -> Tensor:
    """float32 to bfloat16: one of the two neighbours, the nearer the likelier, so that E[result] = value.

    Numbers that bfloat16 holds stay as they are, as do infinity and NaN. The generator, on the value's device, draws 16 bits
    for each number.
    """
    bits = value.contiguous().view(torch.int32)
    noise = torch.randint(_DROPPED + 1, bits.shape, generator=generator, dtype=torch.int32, device=bits.device)
    rounded = ((bits + noise) & ~_DROPPED).view(torch.float32)
    return torch.where(value.isfinite(), rounded, value).to(torch.bfloat16)


class StochasticRounding(Optimizer):
    """Any element-wise optimizer over bfloat16 weights: each is stepped as a float32 copy, one at a time.

    The state of the inner optimizer is kept here under the weight's own name, in float32; the random bits are a function
    of seed, step, and place in the list.
    """

    def __init__(
        self, rows: list[dict[str, Any]], inner: Callable[[list[dict[str, Any]]], Optimizer], seed: int
    ) -> None:
        super().__init__([{**row, "steps_done": 0} for row in rows], {})
        self._inner, self._seed = inner, seed

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        loss = closure() if closure is not None else None
        for number, group in enumerate(self.param_groups):
            settings = {name: value for name, value in group.items() if name != "params"}
            for place, param in enumerate(group["params"]):
                if param.grad is None:
                    continue
                copy = nn.Parameter(param.float(), requires_grad=True)
                copy.grad = param.grad.float()
                inner = self._inner([{"params": [copy], **settings}])
                inner.state[copy] = self.state[param]
                inner.step()
                if param.dtype == torch.bfloat16:
                    seed = derive(self._seed, "rounding", group["steps_done"], number, place)
                    param.copy_(round_stochastically(copy, torch.Generator(param.device).manual_seed(seed)))
                else:
                    param.copy_(copy)
            group["steps_done"] += 1
        return loss

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a `state_dict()`; unlike torch's own, moments stay in float32 under bfloat16 weights."""
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})
            for number, param in zip(saved["params"], group["params"], strict=True):
                row = state_dict["state"].get(number, {})
                # torch counts steps on the CPU.
                moved = {k: v.to(param.device) for k, v in row.items() if isinstance(v, Tensor) and k != "step"}
                self.state[param] = row | moved
