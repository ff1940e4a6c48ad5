"""What the trainings of the VAE and of the UNet share: states in files, the log, random numbers, an optimizer step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tsuika.core.files import whole


def save(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int, **more: Any) -> None:
    """Write a training state whole or not at all; `step`: steps done."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), **more, "step": step}
    with whole(path) as temporary:
        torch.save(state, temporary)


def load(path: Path) -> dict[str, Any] | None:
    """The training state in `path`, or None."""
    return torch.load(path, weights_only=True) if path.exists() else None


def resume(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """The training state in `path`, with model and optimizer set to it; None where there is none."""
    if (state := load(path)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    return state


def descend(loss: torch.Tensor, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One step down the gradient, clipped to norm 1."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@torch.no_grad()
def average(mean: dict[str, torch.Tensor], model: torch.nn.Module, decay: float) -> None:
    """Move a running mean of the weights (1 - decay) of the way to what they are now."""
    live = dict(model.named_parameters())
    torch._foreach_lerp_([mean[name] for name in live], list(live.values()), 1 - decay)


def say(work: Path, **row: Any) -> None:
    """Append a row to the log and print it."""
    line = json.dumps({key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()})
    with (work / "log.jsonl").open("a") as stream:
        stream.write(line + "\n")
    print(line, flush=True)


def generator(*seed: int) -> torch.Generator:
    """A torch generator that is a function of several integers."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1))
