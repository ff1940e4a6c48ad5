"""A run that was stopped by its user: the best weights so far, from what the run keeps in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from tsuika.guard.judge import replay
from tsuika.training import checkpoint
from tsuika.training.guard_plan import GuardPlan
from tsuika.training.monitor import read_checks
from tsuika.training.prepared import Prepared
from tsuika.training.trainer import Snapshots
from tsuika.training.trial_run import judge_of


class Weights(NamedTuple):
    """Weights of a step, by the names of an attachment's tensors."""

    step: int
    tensors: Mapping[str, Tensor]


def best_so_far(prepared: Prepared, plan: GuardPlan) -> Weights | None:
    """The weights to take from a run that has not ended; None before its first state is saved.

    In the trial run, or in a training that holds images out, those of the step that the guard would choose now, as far as
    they are kept; else the newest ones.
    """
    guard, states = prepared.folder.guard, prepared.folder.checkpoints
    single = guard / "checks.json"
    chosen = _chosen(prepared, plan, Snapshots(guard / "kept"), "checks.json") if single.exists() else None
    if chosen is not None:
        return chosen
    if (newest := _newest(states)) is not None:
        return newest
    if not plan.folds and (chosen := _chosen(prepared, plan, Snapshots(guard / "look"), "checks-0.json")) is not None:
        return chosen
    trials = [_newest(guard / f"look-{number}") for number in range(max(1, len(plan.split.parts)))]
    return max((one for one in trials if one is not None), key=lambda one: one.step, default=None)


def _chosen(prepared: Prepared, plan: GuardPlan, snapshots: Snapshots, checks: str) -> Weights | None:
    judge = judge_of(prepared, plan, plan.budget(prepared.recipe).steps)
    found = read_checks(prepared.folder.guard / checks)
    if not found:
        return None
    replay(judge, found)
    step = judge.chosen.balanced
    return Weights(step, snapshots.load(step)) if step and step in snapshots else None


def _newest(folder: Path) -> Weights | None:
    state, _damaged = checkpoint.newest(folder)
    # What would be written is the average where there is one.
    return Weights(state.step, {**state.weights, **state.average}) if state is not None else None
