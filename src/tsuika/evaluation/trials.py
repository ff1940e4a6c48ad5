"""What the trials of a search have come to, and which of them to take: numbers only; knows no optimizer of settings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tsuika.core import events
from tsuika.core.events import Judged
from tsuika.core.rundir import RunDir
from tsuika.data.split import Split
from tsuika.guard.reading import Check, Grid, estimate, minus

TrialState = Literal["done", "pruned", "diverged", "failed", "running"]


@dataclass(frozen=True)
class Trial:
    """One run of a search, by the guard's numbers at its best step."""

    number: int
    params: Mapping[str, Any]  # dotted key -> value
    state: TrialState
    value: float | None = None  # log ratio of the held-out loss to the base's at that step, by all draws
    se: float | None = None  # its standard error
    step: int = 0  # the best one; 0: none is better than the base
    learning_rate: float = 0.0
    rank: int = 0
    grid: Grid = ()  # of all draws at the best step
    overlap: float = 0.0  # as `guard.reading.estimate`
    probes: str = ""  # what the draws are of: trials with equal probes are compared draw by draw
    folder: str = ""
    why: str = field(default="", compare=False)


def standing(judged: Judged) -> float:
    """How good a run is so far: the best step's value; at best 0 without one."""
    best, held = judged.evidence["best"], judged.evidence["held_out"]
    if best is not None and best["mean"] is not None:
        return float(best["mean"])
    now = held["mean"] if held is not None else None
    return max(0.0, float(now)) if now is not None else math.inf


def checks_of(folder: Path) -> list[Judged]:
    """The checks of a run so far, those of the sitting that went on included, in order."""
    log = RunDir(folder).events
    checks: dict[int, Judged] = {}
    for event in events.read(log)[0] if log.exists() else ():
        if isinstance(event, Judged) and not event.fold:
            checks = {step: one for step, one in checks.items() if step < event.step} | {event.step: event}
    return list(checks.values())


def measured(folder: Path) -> dict[str, Any]:
    """`value`, `se`, `step`, `grid`, `overlap` and `probes` of a run under guard, from its folder; nothing of an unheard one."""
    checks = checks_of(folder)
    if not checks or checks[-1].evidence["best"] is None:
        return {}
    evidence = checks[-1].evidence
    best = next((one for one in checks if one.step == evidence["best_step"]), None)
    if best is None:
        return {}
    grid = Check.from_json(best.check).reading.held_out.mid
    split = Split.read(RunDir(folder).guard / "split.json")
    probes = json.dumps([split.parts, len(grid), len(grid[0])], ensure_ascii=False)  # images and timesteps
    found = evidence["best"]
    return {
        "value": found["mean"],
        "se": found["se"],
        "step": best.step,
        "grid": grid,
        "overlap": split.overlap,
        "probes": probes,
    }


def near_the_best(trials: Sequence[Trial]) -> list[Trial]:
    """Finished trials better than the base within one standard error of the best; paired where the draws are the same."""
    gained = [one for one in trials if one.state == "done" and one.value is not None and one.value < 0]
    best = min(gained, key=lambda one: (one.value, one.number), default=None)
    return [one for one in gained if one is best or _within_one_error(one, best)] if best else []


def choose(trials: Sequence[Trial]) -> Trial | None:
    """Of those near the best, the one that learns least: the earliest step, then rate x steps, then rank.

    What cannot be told apart is better had with less training, which is quicker and less prone to memorise (the rule of
    Breiman et al. 1984, "Classification and Regression Trees", 3.4.3). None: no trial is better than the base.
    """
    return min(
        near_the_best(trials),
        key=lambda one: (one.step, one.learning_rate * one.step, one.rank, one.number),
        default=None,
    )


def _within_one_error(one: Trial, best: Trial) -> bool:
    if one.probes == best.probes and one.grid and best.grid:
        worse = estimate(minus(one.grid, best.grid), best.overlap)
        return worse.mean <= worse.se
    if one.value is None or best.value is None or one.se is None or best.se is None:
        return False
    return one.value - best.value <= math.hypot(one.se, best.se)
