"""What the trainings share: states in files, the log, random numbers, an optimizer step, and the loop of the judges."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from base.plan import Plan
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


def judge_rate(plan: Plan, step: int, steps: int) -> float:
    """Warm-up, then linear to zero."""
    return plan.judge_lr * min((step + 1) / 100, (steps - step) / steps)


def train(
    model: torch.nn.Module,
    loss_of: Callable[[np.random.Generator], torch.Tensor],
    plan: Plan,
    work: Path,
    name: str,
    steps: int,
) -> None:
    """Train a judge on what `loss_of` draws, going on from `name.pt`; a function of the plan and the step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.judge_lr, weight_decay=0.05, fused=True)
    state, saved, recent = resume(work / f"{name}.pt", model, optimizer), time.monotonic(), []
    for step in range(state["step"] if state is not None else 0, steps):
        for group in optimizer.param_groups:
            group["lr"] = judge_rate(plan, step, steps)
        loss = loss_of(np.random.default_rng([plan.seed, *name.encode(), step]))
        descend(loss, model, optimizer)
        recent.append(float(loss.detach()))
        done = step + 1
        if done % 250 == 0 or done == steps:
            say(work, stage=name, step=done, loss=float(np.mean(recent)))
            recent = []
        if time.monotonic() - saved > plan.save_every_s or done == steps:
            save(work / f"{name}.pt", model, optimizer, done)
            saved = time.monotonic()


def say(work: Path, **row: Any) -> None:
    """Append a row to the log and print it."""
    line = json.dumps({key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()})
    with (work / "log.jsonl").open("a") as stream:
        stream.write(line + "\n")
    print(line, flush=True)


def generator(*seed: int) -> torch.Generator:
    """A torch generator that is a function of several integers."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1))
