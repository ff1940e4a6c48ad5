"""Ways to choose a step: the product's judge, variants of it, and what other programs and habits do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from curves import Floats, Fold, Run, interpolated

from tsuika import config, methods
from tsuika.guard.judge import MIN_SHARE, Judge
from tsuika.guard.probe import HIGHS, strata
from tsuika.guard.reading import Check, Ratios, Reading
from tsuika.training.guard_plan import Budget, budget

STEP_SCALE = 10  # the bench's runs are a tenth of usual ones; the judge's constants in steps are meant for those


BACKWARD = {"lora": 2.15, "textual-inversion": 2.08, "dreambooth": 3.0, "hypernetwork": 2.5}  # a step by a forward pass

METHODS = tuple(BACKWARD)

MID = tuple(range(6))


@dataclass(frozen=True)
class Rule:
    """A rule by its parts; the defaults are the guard's."""

    patience: float = 0.5
    min_checks: int = 2
    every: int = 1  # of the recorded rungs, which lie 1.2 apart: 2 is a ladder of 1.44, 3 of 1.73, 4 of 2.07
    first: float = 0.0  # no check before this share of the budget
    not_before: float = MIN_SHARE  # no stop before this share of the budget
    columns: tuple[int, ...] = (0, 1, 2, 3, 4, 5)  # timesteps the best step is chosen by
    measured: int = 8  # timesteps measured, for the overhead
    statistic: str = "log"  # or "loss", "snr": mean loss, plain or min-SNR-weighted, by the base's
    pick: str = "min"  # or "smooth", "parabola", "bagged", "safe", "middle"
    one_lane: bool = False  # hear one fold only
    pictures: int = 99  # most held-out pictures of a fold that are measured, and as many twins
    affordable: bool = False  # at the steps, and of as many pictures, as the product's overhead allows
    twin: bool = True  # measure training pictures as well, for the overhead


class Outcome(NamedTuple):
    best: float  # step of the folds
    stop: float
    passes: float  # forward passes of single samples for all checks


@cache
def snr_weights() -> Floats:
    """Min-SNR weights of the eight timesteps on the embedded base."""
    from tsuika import EMBEDDED
    from tsuika.diffusion.objective import alphas_cumprod_T, min_snr_weight
    from tsuika.guard.probe import HIGH, MID

    config = json.loads((EMBEDDED / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    alphas = alphas_cumprod_T(config)[[t * len(alphas_cumprod_T(config)) // 1000 for t in (*MID, *HIGH)]]
    return np.array(min_snr_weight("v_prediction", alphas, 5.0).tolist())


def heard(run: Run, rule: Rule) -> tuple[Floats, Floats, Floats]:
    """Steps (S,), what is minimised (S,), and the same picture by picture (S, pictures)."""
    key = (rule.columns, rule.statistic, rule.one_lane, rule.pictures)
    if key not in run.memo:
        folds = run.folds[:1] if rule.one_lane else run.folds
        parts = []
        for fold in folds:
            logs = np.concatenate([fold.held_out.values, fold.held_high], axis=2)[
                :, : rule.pictures, list(rule.columns)
            ]
            if rule.statistic == "log":
                parts.append(logs.mean(2))
            else:
                weight = snr_weights()[list(rule.columns)] if rule.statistic == "snr" else 1.0
                base = fold.base[: rule.pictures, list(rule.columns)] * weight
                parts.append((np.exp(logs) * base).mean(2) / base.mean() - 1)
        rows = np.concatenate(parts, axis=1)
        run.memo[key] = run.folds[0].held_out.steps, rows.mean(1), rows
    found: tuple[Floats, Floats, Floats] = run.memo[key]
    return found


def afforded(run: Run) -> tuple[Budget, list[int]]:
    """What a check may measure as the product plans it for such a run, and the recorded rungs nearest to its own."""
    if "afforded" not in run.memo:
        tables = {"method": {"name": run.method}, "train": {"steps": run.steps * STEP_SCALE, "batch_size": run.batch}}
        fold = run.folds[0]
        allowed = budget(config.build(tables), fold.held_out.values.shape[1], fold.trained_on, run.steps * STEP_SCALE)
        logs = np.log(run.folds[0].held_out.steps)
        near = {int(abs(logs - math.log(rung / STEP_SCALE)).argmin()) for rung in allowed.steps}
        run.memo["afforded"] = allowed, sorted(near)
    found: tuple[Budget, list[int]] = run.memo["afforded"]
    return found


def play(run: Run, rule: Rule) -> Outcome:
    """The run until the rule stops it."""
    if rule.affordable:
        rule = replace(rule, pictures=afforded(run)[0].held_out)
    steps, values, rows = heard(run, rule)
    first = rule.first * run.steps
    rungs = [i for i in range(0, len(steps)) if steps[i] >= first][:: rule.every]
    if rungs[-1] != len(steps) - 1:
        rungs.append(len(steps) - 1)
    if rule.affordable:
        rungs = afforded(run)[1]
    folds = 1 if rule.one_lane else len(run.folds)
    twins = sum(min(fold.twin.values.shape[1], max(2, rule.pictures)) for fold in run.folds[:folds])
    pictures = rows.shape[1] + (twins if rule.twin else 0)
    best, stop, seen = -1, steps[-1], 0
    for place, i in enumerate(rungs):
        seen += 1
        if values[i] < min(0.0, values[best] if best >= 0 else 0.0):
            best, since = i, 0
        elif best >= 0:
            since = place - rungs.index(best)
            waited = steps[i] - steps[best] >= rule.patience * steps[best]
            if since >= rule.min_checks and waited and steps[i] >= rule.not_before * run.steps:
                stop = steps[i]
                break
    known = rungs[:seen]
    return Outcome(_picked(steps, values, rows, known, best, rule.pick), float(stop), seen * pictures * rule.measured)


def _picked(steps: Floats, values: Floats, rows: Floats, known: Sequence[int], best: int, pick: str) -> float:
    if best < 0:
        return 0.0
    if pick == "smooth":
        curve = values[list(known)]
        padded = np.concatenate([curve[:1], curve, curve[-1:]])
        return float(steps[known[int(((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4).argmin())]])
    if pick == "parabola":
        return _vertex(np.log(steps[list(known)]), values[list(known)])
    if pick == "bagged" and rows.shape[1] > 1:
        curves = rows[list(known)]
        without = (curves.sum(1, keepdims=True) - curves) / (rows.shape[1] - 1)  # each picture left out in turn
        return float(np.exp(np.log(steps[list(known)])[without.argmin(0)].mean()))
    if pick in ("safe", "middle") and rows.shape[1] > 1:
        worse = rows[list(known)] - rows[best]
        error = worse.std(1, ddof=1) / math.sqrt(rows.shape[1])
        near = [i for place, i in enumerate(known) if i == best or worse[place].mean() <= error[place]]
        return float(steps[near[0]]) if pick == "safe" else float(math.sqrt(steps[near[0]] * steps[near[-1]]))
    return float(steps[best])


def _vertex(logs: Floats, values: Floats) -> float:
    """The bottom of the parabola through the values within a factor of 2.1 of the smallest."""
    low = logs[values.argmin()]
    near = abs(logs - low) <= math.log(2.1)
    if near.sum() < 4:
        return float(math.exp(low))
    a, b, _ = np.polyfit(logs[near], values[near], 2)
    inside = float(np.clip(-b / (2 * a), logs[near][0], logs[near][-1])) if a > 0 else float(low)
    return math.exp(inside)


def growth(method: str) -> float:
    """The power of (all pictures by a fold's) that the product takes from a fold's best step to that of all pictures."""
    return methods.METHODS[method].settings.few_growth


def refitted(run: Run, step: float, exponent: float | None = None) -> float:
    """From the folds' best step to the one for all pictures, at most the budget; `exponent` instead of `growth`."""
    more = run.pictures / np.mean([fold.trained_on for fold in run.folds])
    return float(min(run.steps, step * more ** (growth(run.method) if exponent is None else exponent)))


class Judged(NamedTuple):
    best: float
    stop: float
    code: str
    half: float  # of the interval at the best step


def judged(run: Run, one_lane: bool = False, everything: bool = False) -> Judged:
    """The product's own judge on the folds' readings, pooled.

    Args:
        run: what it hears of: at the steps, and of the pictures and timesteps, that the product's 4 % allow for such a run.
        one_lane: of one fold only.
        everything: at every rung, and of every picture at every timestep, whatever it costs.
    """
    key = ("judged", one_lane, everything)
    if key not in run.memo:
        run.memo[key] = _judged(run, run.folds[:1] if one_lane else run.folds, everything)
    found: Judged = run.memo[key]
    return found


def _judged(run: Run, folds: Sequence[Fold], everything: bool) -> Judged:
    allowed, rungs = afforded(run)
    pictures, twins, draws = allowed.held_out, allowed.trained_on, allowed.draws
    if everything:
        pictures, twins, draws, rungs = 99, 99, (6, 6), list(range(len(folds[0].held_out.steps)))

    def ratios(grid: Sequence[Floats], above: Sequence[Floats], count: int, draws: int) -> Ratios:
        """The recorded draws that `guard.probe` would have; of the high range all, of as many images."""
        rows = [row for one in grid for row in one[:count]]
        return Ratios(
            tuple(tuple(row[list(strata(place, draws))]) for place, row in enumerate(rows)),
            tuple(tuple(row) for one in above for row in one[: count if draws == 6 else HIGHS]),
        )

    overlap = 1 / folds[0].trained_on if len(folds) > 1 else 0.0
    judge = Judge(run.steps * STEP_SCALE, run.rate, overlap=overlap)
    verdict = None
    for i in rungs:
        held = ratios(
            [fold.held_out.values[i] for fold in folds], [fold.held_high[i] for fold in folds], pictures, draws[0]
        )
        twin = ratios([fold.twin.values[i] for fold in folds], [fold.twin_high[i] for fold in folds], twins, draws[1])
        verdict = judge.update(Check(int(folds[0].held_out.steps[i]) * STEP_SCALE, Reading(held, twin)))
        if verdict.kind == "stop":
            break
    assert verdict is not None
    now = verdict.evidence
    half = now.best.high - now.best.mean if now.best else math.inf
    return Judged(judge.chosen.balanced / STEP_SCALE, now.step / STEP_SCALE, verdict.code, half)


def kept(run: Run, exponent: float | None = None) -> float:
    """The step of all pictures that the guard's best step stands for."""
    return refitted(run, judged(run).best, exponent)


def lane_truth(run: Run, step: float) -> float:
    """The true value of the first fold's lane: its few rungs give the distance to the all-pictures lane."""
    lane = run.folds[0].truth
    away = np.array([value - run.truth.at(at) for at, value in zip(lane.steps, lane.mean())])
    return run.truth.at(step) + interpolated(lane.steps, away, step)


def dvar(run: Run, window: int, threshold: float) -> tuple[float, float]:
    """Stop when the variance of the last `window` ticks is below a share of the variance of all (Voronov et al. 2023)."""
    ticks, losses = run.fixed[:, 0], run.fixed[:, 1]
    for n in range(window, len(losses) + 1):
        if losses[:n].var() and losses[n - window : n].var() / losses[:n].var() < threshold:
            return float(ticks[n - 1]), float(ticks[n - 1])
    return float(run.steps), float(run.steps)


def train_minimum(run: Run, smooth: float = 0.0) -> tuple[float, float]:
    """The smallest raw training loss; `smooth` is the window of a moving mean, as a share of the run."""
    width = max(1, round(smooth * run.steps))
    means = np.convolve(run.losses, np.ones(width) / width, "valid")
    return float(means.argmin() + width), float(run.steps)


def train_probe(run: Run) -> tuple[float, float]:
    return run.twin.best(), float(run.steps)


def share_of_budget(share: float) -> Callable[[Run], tuple[float, float]]:
    return lambda run: (share * run.steps, share * run.steps)


def fixed(steps: int) -> Callable[[Run], tuple[float, float]]:
    return lambda run: (min(run.steps, steps / STEP_SCALE), min(run.steps, steps / STEP_SCALE))


BASELINES: dict[str, Callable[[Run], tuple[float, float]]] = {
    "1,500 steps (150 here), or the budget": fixed(1500),
    "budget's end": share_of_budget(1.0),
    "half of the budget": share_of_budget(0.5),
    "a quarter of the budget": share_of_budget(0.25),
    "DVAR, W = 10 ticks of 2 steps, 0.15": lambda run: dvar(run, 10, 0.15),
    "DVAR, W = 20 ticks of 2 steps, 0.15": lambda run: dvar(run, 20, 0.15),
    "DVAR, W = 10 ticks of 2 steps, 0.4": lambda run: dvar(run, 10, 0.4),
    "raw training loss, smallest": train_minimum,
    "raw training loss, moving mean over 10 %": lambda run: train_minimum(run, 0.1),
    "train probe, smallest": train_probe,
}


VARIANTS: dict[str, Rule] = {
    "default (by all draws)": Rule(),
    "by half of the draws": Rule(columns=(0, 2, 4)),
    **{f"all draws, patience {p}": Rule(columns=MID, patience=p) for p in (0.0, 0.25, 0.75, 1.0, 2.0)},
    **{f"all draws, min. {c} checks": Rule(columns=MID, min_checks=c) for c in (1, 2, 4, 5)},
    **{
        f"all draws, ladder {1.2**k:.2f}, min. {c} checks": Rule(columns=MID, every=k, min_checks=c)
        for k, c in ((2, 2), (2, 3), (3, 1), (3, 2), (4, 1), (4, 2))
    },
    **{f"all draws, first check at {f:.0%}": Rule(columns=MID, first=f) for f in (0.15, 0.25)},
    **{f"all draws, no stop before {f:.0%}": Rule(columns=MID, not_before=f) for f in (0.0, 0.1, 0.3, 0.4)},
    "all draws, no train probe": Rule(columns=MID, twin=False),
    "3 timesteps measured (t 104, 321, 538)": Rule(columns=(0, 2, 4), measured=3),
    "3 timesteps measured (t 213, 429, 646)": Rule(columns=(1, 3, 5), measured=3),
    "2 timesteps measured (t 213, 538)": Rule(columns=(1, 4), measured=2),
    "low three (t 104, 213, 321)": Rule(columns=(0, 1, 2), measured=3),
    "upper three (t 429, 538, 646)": Rule(columns=(3, 4, 5), measured=3),
    "all eight, high ones too": Rule(columns=(*MID, 6, 7)),
    "plain loss": Rule(columns=MID, statistic="loss"),
    "min-SNR-weighted loss": Rule(columns=MID, statistic="snr"),
    "smoothed curve": Rule(columns=MID, pick="smooth"),
    "earliest within one standard error": Rule(columns=MID, pick="safe"),
    "middle of those within one standard error": Rule(columns=MID, pick="middle"),
    "bottom of a parabola": Rule(columns=MID, pick="parabola"),
    "mean of the choices without each picture": Rule(columns=MID, pick="bagged"),
    "one fold only": Rule(columns=MID, one_lane=True),
    **{f"{p} held-out pictures at most": Rule(columns=MID, pictures=p) for p in (1, 2, 4)},
    "what the default overhead affords": Rule(affordable=True),
    "never stops (best of the whole run)": Rule(columns=MID, patience=1e9),
}


def outcome(run: Run, rule: Rule) -> tuple[float, float, float, float]:
    """Regret, share of the budget that was run, overhead of the checks by what was run, regret at exponent 0."""
    key = ("outcome", rule)
    if key not in run.memo:
        done = play(run, rule)
        folds = 1 if rule.one_lane else len(run.folds)
        share = done.passes / (folds * done.stop * run.batch * BACKWARD[run.method])
        run.memo[key] = (run.regret(refitted(run, done.best)), done.stop / run.steps, share, run.regret(done.best))
    found: tuple[float, float, float, float] = run.memo[key]
    return found


GRID = [
    Rule(patience=patience, min_checks=checks, every=every, columns=columns, not_before=not_before, pick=pick)
    for patience, checks, every, columns, not_before, pick in product(
        (0.25, 0.5, 0.75, 1.0),
        (2, 3, 4),
        (1, 2, 3),
        ((0, 2, 4), MID, (*MID, 6, 7)),
        (0.0, 0.2),
        ("min", "smooth", "parabola", "bagged"),
    )
]


def cost(run: Run, rule: Rule) -> float:
    """What is minimised by the choice of a rule: regret by gain, and a twentieth of the budget's share that was run."""
    regret, ran, *_ = outcome(run, rule)
    return regret / max(run.gain, 0.02) + 0.05 * ran
