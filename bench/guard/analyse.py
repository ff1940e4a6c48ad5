"""What stopping rules would have done on the collected curves, against the truth: Markdown tables and SVG plots.

    python bench/guard/analyse.py DIR [--plots DIR]

DIR is what `collect.py` wrote. A rule hears only what the guard hears; what it chooses is read off the true curve of the
lane that learns from all pictures. Regret is in percentage points (pp) of log ratio to the base's loss; a share is of
what that true curve gains at its best.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tsuika.guard.judge import MIN_SHARE, Judge
from tsuika.guard.judge import Rule as JudgeRule
from tsuika.guard.reading import Check, Ratios, Reading, estimate

Floats = NDArray[np.float64]

STEP_SCALE = 10  # the bench's runs are a tenth of usual ones; the judge's constants in steps are meant for those
EXPONENTS = (0, 0.55, 1, 1.5)
EXPONENT = 1.0  # of n / (n - 1), from a fold's best step to the one for all pictures; `train.course.LONGER`
BACKWARD = {"lora": 2.15, "textual-inversion": 2.08, "dreambooth": 3.0, "hypernetwork": 2.5}  # a step by a forward pass
METHODS = tuple(BACKWARD)
LEAST = 4  # pictures; with fewer the product trusts no validation


@dataclass(frozen=True)
class Curve:
    """Log ratios at rungs: steps (S,), values (S, pictures, timesteps)."""

    steps: Floats
    values: Floats

    def mean(self) -> Floats:
        return self.values.mean((1, 2))

    def at(self, step: float, pictures: Sequence[int] | None = None) -> float:
        """At any step: linear in log steps between rungs, 0 at the base."""
        values = self.values if pictures is None else self.values[:, list(pictures)]
        return interpolated(self.steps, values.mean((1, 2)), step)

    def best(self, pictures: Sequence[int] | None = None) -> float:
        """The rung with the smallest mean, 0 where none is better than the base."""
        values = (self.values if pictures is None else self.values[:, list(pictures)]).mean((1, 2))
        return float(self.steps[values.argmin()]) if values.min() < 0 else 0.0


def interpolated(steps: Floats, values: Floats, step: float) -> float:
    if step <= steps[0]:
        return float(values[0] * max(step, 0) / steps[0])
    return float(np.interp(math.log(step), np.log(steps), values))


@dataclass(frozen=True)
class Fold:
    trained_on: int
    held_out: Curve
    held_high: Floats  # (S, pictures, timesteps)
    twin: Curve
    twin_high: Floats
    base: Floats  # (pictures, 6 + 2), the base's own losses
    truth: Curve  # of this very lane, at few rungs


@dataclass(frozen=True, eq=False)
class Run:
    """One configuration."""

    method: str
    concept: str
    pictures: int
    seed: int
    steps: int
    batch: int
    rate: float
    folds: tuple[Fold, ...]
    truth: Curve
    twin: Curve  # of the all-pictures lane
    losses: Floats  # raw training loss, step by step
    fixed: Floats  # (ticks, 2): step, loss of DVAR's batch
    kind: str = "hold-out"
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return f"{self.method}/{self.concept}/{self.pictures}/{self.seed}"

    @property
    def gain(self) -> float:
        """What the true curve gains at its best."""
        return max(0.0, -float(self.truth.mean().min()))

    @property
    def a_rung_off(self) -> float:
        """What it costs to end one rung beside the best: the jitter of weights that learn at a high rate."""
        means = self.truth.mean()
        i = int(means.argmin())
        return float(np.mean([means[j] - means[i] for j in (i - 1, i + 1) if 0 <= j < len(means)]))

    def regret(self, step: float) -> float:
        return self.truth.at(step) + self.gain

    def fair_regret(self, step: float) -> float:
        """The same, the best step found on one half of the fresh pictures and compared on the other, both ways.

        The minimum of a measured curve is too low on average; this one is not, but the step found is not quite the best.
        """
        count = self.truth.values.shape[1]
        sides = range(0, count, 2), range(1, count, 2)
        return float(
            np.mean([self.truth.at(step, b) - self.truth.at(self.truth.best(a), b) for a, b in (sides, sides[::-1])])
        )


def read(path: Path, folds_of: Path | None = None) -> Run:
    """A configuration from its file; `folds_of`: another file, whose folds stand in for its own."""
    tables = json.loads(path.read_text(encoding="utf-8"))
    looks = json.loads(folds_of.read_text(encoding="utf-8"))["lanes"] if folds_of else tables["lanes"]

    def curve(lane: Mapping[str, Any], what: str) -> Curve:
        rows = [row for row in lane["rungs"] if row[what] and row[what]["mid"]]
        return Curve(
            np.array([row["step"] for row in rows], dtype=float),
            np.array([row[what]["mid"] for row in rows], dtype=float),
        )

    def high(lane: Mapping[str, Any], what: str) -> Floats:
        return np.array([row[what]["high"] for row in lane["rungs"]], dtype=float)

    folds = tuple(
        Fold(
            lane["trained_on"], curve(lane, "held_out"), high(lane, "held_out"), curve(lane, "train"), high(lane, "train"),
            np.array(lane["base"]["held_out"], dtype=float).reshape(len(lane["held_out"]), -1), curve(lane, "population"),
        )
        for lane in looks if lane["kind"] != "all"
    )  # fmt: skip
    whole = next(lane for lane in tables["lanes"] if lane["kind"] == "all")
    return Run(
        *(tables[key] for key in ("method", "concept", "pictures", "seed", "steps", "batch", "rate")), folds,
        curve(whole, "population"), curve(whole, "train"), np.array(whole["losses"]), np.array(whole["fixed_batch"]),
        looks[0]["kind"],
    )  # fmt: skip


# What a rule may be made of ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """A rule by its parts; the defaults are the guard's."""

    patience: float = 0.5
    min_checks: int = 3
    every: int = 1  # of the recorded rungs, which lie 1.2 apart: 2 is a ladder of 1.44, 3 of 1.73, 4 of 2.07
    first: float = 0.0  # no check before this share of the budget
    not_before: float = MIN_SHARE  # no stop before this share of the budget
    columns: tuple[int, ...] = (0, 2, 4)  # timesteps the best step is chosen by
    measured: int = 8  # timesteps measured, for the overhead
    statistic: str = "log"  # or "loss", "snr": mean loss, plain or min-SNR-weighted, by the base's
    pick: str = "min"  # or "smooth", "parabola", "bagged", "safe", "middle"
    one_lane: bool = False  # hear one fold only
    pictures: int = 99  # most held-out pictures of a fold that are measured, and as many twins
    affordable: bool = False  # at the steps, and of as many pictures, as the product's 4 % allow
    twin: bool = True  # measure training pictures as well, for the overhead


class Outcome(NamedTuple):
    best: float  # step of the folds
    stop: float
    passes: float  # forward passes of single samples for all checks


@cache
def snr_weights() -> Floats:
    """Min-SNR weights of the eight timesteps on the embedded base."""
    from tsuika.api import EMBEDDED
    from tsuika.diffusion.schedule import alphas_cumprod_T
    from tsuika.diffusion.targets import min_snr_weight
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


def afforded(run: Run) -> tuple[int, list[int]]:
    """Pictures of each side in a check, and recorded rungs, as the product's budget for such a run has them."""
    from tsuika.core import config
    from tsuika.train.course import budget

    if "afforded" not in run.memo:
        tables = {"method": {"name": run.method}, "train": {"steps": run.steps * STEP_SCALE, "batch_size": run.batch}}
        count, side_by_side = len(run.folds), run.kind == "fold" and run.method != "dreambooth"
        runs, eyes = (count + 1, count) if side_by_side else (1, 1)
        allowed = budget(config.build(tables), run.folds[0].held_out.values.shape[1], runs, eyes)
        logs = np.log(run.folds[0].held_out.steps)
        near = {int(abs(logs - math.log(rung / STEP_SCALE)).argmin()) for rung in allowed.rungs}
        run.memo["afforded"] = allowed.pictures, sorted(near)
    found: tuple[int, list[int]] = run.memo["afforded"]
    return found


def play(run: Run, rule: Rule) -> Outcome:
    """The run until the rule stops it."""
    if rule.affordable:
        rule = replace(rule, pictures=afforded(run)[0])
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


def refitted(run: Run, step: float, exponent: float = EXPONENT) -> float:
    """From the folds' best step to the one for all pictures, at most the budget."""
    return min(run.steps, step * (run.pictures / run.folds[0].trained_on) ** exponent)


class Judged(NamedTuple):
    best: float
    stop: float
    code: str
    half: float  # of the interval at the best step


def judged(run: Run, one_lane: bool = False, **settings: Any) -> Judged:
    """The product's own judge on the folds' readings, pooled."""
    folds = run.folds[:1] if one_lane else run.folds
    overlap = folds[0].held_out.values.shape[1] / folds[0].trained_on if len(folds) > 1 else 0.0
    judge = Judge(run.steps * STEP_SCALE, run.rate, JudgeRule(**settings), overlap)
    verdict = None
    for i, step in enumerate(folds[0].held_out.steps):
        held, twin = (
            Ratios(
                tuple(tuple(row) for fold in folds for row in getattr(fold, name).values[i]),
                tuple(tuple(row) for fold in folds for row in getattr(fold, high)[i]),
            )
            for name, high in (("held_out", "held_high"), ("twin", "twin_high"))
        )
        verdict = judge.hear(Check(int(step) * STEP_SCALE, Reading(held, twin)))
        if verdict.kind == "stop":
            break
    assert verdict is not None
    now = verdict.evidence
    half = now.best.high - now.best.mean if now.best else math.inf
    return Judged(judge.chosen.balanced / STEP_SCALE, now.step / STEP_SCALE, verdict.code, half)


# Other ways to choose a step; each gives (step kept, step of the stop) of the all-pictures lane --------------------------


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


# Tables -----------------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def pp(values: Sequence[float]) -> str:
    """Mean ± standard error over configurations."""
    if not len(values):
        return "–"
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{100 * np.mean(values):.2f} ± {100 * error:.2f}"


def percent(values: Sequence[float]) -> str:
    return f"{100 * np.mean(values):.0f} %" if len(values) else "–"


def lost_share(runs: Sequence[Run], regrets: Sequence[float]) -> str:
    """Of what can be gained, over all of these runs together."""
    total = sum(run.gain for run in runs)
    return f"{100 * sum(regrets) / total:.1f} %" if total else "–"


def kept(run: Run, exponent: float = EXPONENT, **settings: Any) -> float:
    """The step that the guard's whole procedure ends with."""
    return refitted(run, judged(run, **settings).best, exponent)


def lane_truth(run: Run, step: float) -> float:
    """The true value of the first fold's lane: its few rungs give the distance to the all-pictures lane."""
    lane = run.folds[0].truth
    away = np.array([value - run.truth.at(at) for at, value in zip(lane.steps, lane.mean())])
    return run.truth.at(step) + interpolated(lane.steps, away, step)


def trusted(runs: Sequence[Run]) -> list[Run]:
    """Those with enough pictures for the product to validate by."""
    return [run for run in runs if run.pictures >= LEAST]


def main_table(runs: Sequence[Run]) -> str:
    rows = []
    groups = [(m, n) for m in METHODS for n in sorted({r.pictures for r in runs if r.method == m})]
    for method, n in [*groups, *((m, 0) for m in METHODS), ("all", 0)]:
        some = (
            [run for run in trusted(runs) if method in (run.method, "all")]
            if not n
            else [run for run in runs if run.method == method and run.pictures == n]
        )
        if not some:
            continue
        steps = {run: judged(run) for run in some}
        regrets = [run.regret(kept(run)) for run in some]
        rows.append((
            method, n or f">= {LEAST}", len(some), f"{np.mean([run.truth.best() / run.steps for run in some]):.2f}",
            f"{100 * np.mean([run.gain for run in some]):.1f}", pp(regrets), lost_share(some, regrets),
            pp([run.fair_regret(kept(run)) for run in some]), f"{100 * max(regrets):.2f}",
            percent([1 - steps[run].stop / run.steps for run in some]),
            pp([run.regret(run.steps) for run in some]), pp([run.a_rung_off for run in some]),
        ))  # fmt: skip
    head = (
        "method", "pictures", "runs", "true best, share of budget", "gain, pp", "regret, pp", "share of the gain",
        "cross-fitted regret, pp", "worst, pp", "steps saved", "budget's end: regret, pp", "a rung beside the best: regret, pp",
    )  # fmt: skip
    return table(head, rows)


def refit_table(runs: Sequence[Run]) -> str:
    rows = []
    groups = [("all", n) for n in sorted({run.pictures for run in runs})] + [(m, 0) for m in (*METHODS, "all")]
    for method, n in groups:
        some = [
            run for run in (runs if n else trusted(runs)) if method in (run.method, "all") and n in (run.pictures, 0)
        ]
        cells = [pp([run.regret(kept(run, exponent)) for run in some]) for exponent in EXPONENTS]
        lane = [lane_truth(run, judged(run).best) + run.gain for run in some if run.kind == "hold-out"]
        one = [run.regret(refitted(run, judged(run, one_lane=True).best)) for run in some if run.kind == "fold"]
        pooled = [run.regret(kept(run)) for run in some if run.kind == "fold"]
        rows.append((method, n or f">= {LEAST}", len(some), *cells, pp(lane), pp(pooled), pp(one)))
    head = (
        "method", "pictures", "runs", *(f"exponent {power}" for power in EXPONENTS), "no refit: the hold-out lane itself",
        "folds pooled", "one fold only",
    )  # fmt: skip
    return table(head, rows)


def against_folds(folder: Path, other: Path) -> str:
    """One hold-out set against folds of the same pictures."""
    rows = []
    for path in sorted(other.glob("*.json")):
        held, folds = read(folder / path.name), read(folder / path.name, path)
        cells = [f"{100 * run.regret(kept(run)):.2f}" for run in (held, folds)]
        cells += [
            f"{100 * run.regret(refitted(run, play(run, Rule(columns=MID, pick='bagged')).best)):.2f}"
            for run in (held, folds)
        ]
        counts = [sum(fold.held_out.values.shape[1] for fold in run.folds) for run in (held, folds)]
        rows.append(
            (
                held.name,
                counts[0],
                f"{len(folds.folds)} x {counts[1] // len(folds.folds)}",
                f"{100 * held.gain:.1f}",
                *cells,
            )
        )
    head = (
        "run", "held out", "folds", "gain, pp", "hold-out: regret, pp", "folds: regret, pp", "hold-out, bagged", "folds, bagged",
    )  # fmt: skip
    return table(head, rows)


def lanes_table(runs: Sequence[Run]) -> str:
    """How many of the folds that leave one picture out are enough: all choices of K of them."""
    rows = []
    for method in METHODS:
        some = [
            run
            for run in trusted(runs)
            if run.method == method and run.kind == "fold" and len(run.folds) == run.pictures
        ]
        for count in sorted({k for run in some for k in (1, 2, 3, len(run.folds))}):
            regrets, parts = [], 0
            for run in some:
                for chosen in combinations(run.folds, count):
                    part = replace(run, folds=chosen, memo={})
                    regrets.append(run.regret(refitted(run, play(part, Rule(columns=MID)).best)))
                    parts += 1
            rows.append(
                (
                    method,
                    count,
                    len(some),
                    pp(regrets),
                    f"{100 * max(regrets):.1f}",
                    lost_share([r for r in some for _ in range(parts // len(some))], regrets),
                )
            )
    head = ("method", "folds heard", "runs", "regret, pp (± over choices)", "worst, pp", "share of the gain")
    return table(head, rows)


BASELINES: dict[str, Callable[[Run], tuple[float, float]]] = {
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


def baseline_table(runs: Sequence[Run]) -> str:
    def row(name: str, steps: Mapping[Run, tuple[float, float]]) -> tuple[object, ...]:
        regrets = {run: run.regret(steps[run][0]) for run in runs}
        by_method = [pp([regrets[run] for run in runs if run.method == method]) for method in METHODS]
        saved = percent([1 - steps[run][1] / run.steps for run in runs])
        values = list(regrets.values())
        return name, pp(values), lost_share(runs, values), f"{100 * max(values):.1f}", saved, *by_method

    guard = {run: (kept(run), judged(run).stop) for run in runs}
    rows = [row("the guard", guard), *(row(name, {r: f(r) for r in runs}) for name, f in BASELINES.items())]
    return table(("what chooses", "regret, pp", "share of the gain", "worst, pp", "steps saved", *METHODS), rows)


def early_table(runs: Sequence[Run]) -> str:
    return baseline_table([run for run in runs if run.gain and run.truth.best() <= 0.75 * run.steps])


MID = tuple(range(6))
VARIANTS: dict[str, Rule] = {
    "default (by half of the draws)": Rule(),
    "by all draws": Rule(columns=MID),
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
    "what 4 % of a usual run affords": Rule(columns=MID, affordable=True),
    "the same, by half of the draws": Rule(affordable=True),
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


def variant_table(runs: Sequence[Run]) -> str:
    rows, basis = [], [outcome(run, VARIANTS["by all draws"])[0] for run in runs]
    for name, rule in VARIANTS.items():
        results = [outcome(run, rule) for run in runs]
        regrets = [one[0] for one in results]
        rows.append((
            name, pp(regrets), lost_share(runs, regrets), pp([a - b for a, b in zip(regrets, basis)]),
            f"{100 * max(regrets):.1f}", percent([1 - one[1] for one in results]), percent([one[2] for one in results]),
        ))  # fmt: skip
    head = (
        "rule", "regret, pp", "share of the gain", "by all draws it is more by, pp (paired)", "worst, pp", "steps saved",
        "forward passes of checks, by training's",
    )  # fmt: skip
    return table(head, rows)


COLUMNS = {1: (2,), 2: (1, 4), 3: (1, 3, 5), 6: MID}


def probe_table(runs: Sequence[Run]) -> str:
    """How to spend forward passes: pictures against timesteps.

    Some of the fresh pictures play the held-out ones of the all-pictures lane, the others are the truth; drawn many
    times. The whole curve is heard, so nothing but the choice of the step is compared.
    """
    drawing = np.random.default_rng(0)
    draws = [drawing.permutation(16) for _ in range(60)]
    rows = []
    for count, columns in product((1, 2, 4, 8), COLUMNS):
        regrets, away = [], []
        for run in runs:
            for order in draws:
                held, rest = order[:count], order[8:]
                heard_ = run.truth.values[:, held][:, :, list(COLUMNS[columns])].mean((1, 2))
                truth = run.truth.values[:, rest].mean((1, 2))
                regrets.append(truth[heard_.argmin()] - truth.min())
                away.append(abs(math.log(run.truth.steps[heard_.argmin()] / run.truth.steps[truth.argmin()])))
        rows.append(
            (
                count,
                columns,
                count * columns,
                f"{100 * np.mean(regrets):.2f}",
                f"{100 * np.quantile(regrets, 0.9):.2f}",
                f"{math.exp(np.mean(away)):.2f}",
            )
        )
    return table(
        ("held-out pictures", "timesteps", "passes a check", "regret, pp", "90 %", "step off by a factor of"), rows
    )


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


def cross_validated(runs: Sequence[Run]) -> str:
    """The rule chosen on one concept of each method and reported on the other, and the other way round."""
    firsts = {m: sorted({run.concept for run in runs if run.method == m})[:1] for m in METHODS}
    halves = (
        [run for run in runs if run.concept in firsts[run.method]], [run for run in runs if run.concept not in firsts[run.method]]
    )  # fmt: skip
    rows = []
    for chosen_on, told, which in ((halves[0], halves[1], "first"), (halves[1], halves[0], "second")):
        if not (chosen_on and told):
            continue
        best = min(GRID, key=lambda rule: np.mean([cost(run, rule) for run in chosen_on]))
        for name, rule in (("chosen", best), ("default", Rule()), ("by all draws", Rule(columns=MID))):
            results = [outcome(run, rule) for run in told]
            words = (
                f"patience {rule.patience}, min. {rule.min_checks} checks, ladder {1.2**rule.every:.2f}, "
                f"{len(rule.columns)} timesteps, no stop before {rule.not_before:.0%}, {rule.pick}"
            )
            regrets = [one[0] for one in results]
            rows.append((
                f"{name}, {which} concepts", words, len(told), pp(regrets), lost_share(told, regrets),
                percent([1 - one[1] for one in results]),
            ))  # fmt: skip
    head = ("chosen on", "rule", "runs it is told by", "regret, pp", "share of the gain", "steps saved")
    return table(head, rows)


def coverage_table(runs: Sequence[Run]) -> str:
    """How often a 95 % interval holds the truth of the very lanes it speaks of."""
    rows = []
    for kind, n in [("fold", 3), ("fold", 5), *(("hold-out", n) for n in (10, 20, 50, 300)), ("hold-out", 0)]:
        some = [run for run in runs if run.kind == kind and n in (run.pictures, 0)]
        hits, wide, naive, errors, halves, biases, kinds = [], [], [], [], [], [], set()
        for run in some:
            first = run.folds[0]
            overlap = first.held_out.values.shape[1] / first.trained_on if len(run.folds) > 1 else 0.0
            for place, step in enumerate(first.truth.steps):
                i = int(np.flatnonzero(first.held_out.steps == step)[0])
                rows_ = tuple(tuple(row) for fold in run.folds for row in fold.held_out.values[i])
                says, without = estimate(rows_, overlap), estimate(rows_)
                truths = np.array([fold.truth.values[place] for fold in run.folds]).mean((0, 2))
                truth, error = truths.mean(), truths.std(ddof=1) / math.sqrt(len(truths))
                hits.append(says.low <= truth <= says.high)
                naive.append(without.low <= truth <= without.high)
                scale = (says.high - says.mean) / says.se
                wide.append(abs(truth - says.mean) <= scale * math.hypot(says.se, error))
                errors.append(says.mean - truth)
                halves.append(says.high - says.mean)
                kinds.add(says.kind)
            biases.append(float(np.mean(errors[-len(first.truth.steps) :])))
        if hits:
            rows.append((
                "leave-one-out, pooled" if kind == "fold" else "hold-out", n or "all", len(some), len(hits), "/".join(sorted(kinds)),
                percent(hits), percent(naive), percent(wide), f"{100 * np.mean(halves):.1f}", f"{100 * np.std(errors):.1f}",
                pp(biases),
            ))  # fmt: skip
    head = (
        "readings", "pictures", "runs", "readings of them", "interval over", "holds the truth", "without fold overlap",
        "with the truth's own error", "half width, pp", "sd of the error, pp", "bias, pp",
    )  # fmt: skip
    return table(head, rows)


def worse_table(runs: Sequence[Run]) -> str:
    """Runs that the guard left worse than the budget's end."""
    rows = []
    for run in runs:
        found = judged(run)
        step = refitted(run, found.best)
        worse = run.truth.at(step) - run.truth.at(run.steps)
        if worse > 0:
            rows.append((
                run.name, found.code, f"{step:.0f}", f"{run.truth.best():.0f}", run.steps, f"{100 * worse:.2f}",
                f"{100 * found.half:.2f}", "yes" if worse > found.half else "no",
            ))  # fmt: skip
    rows.sort(key=lambda row: -float(str(row[5])))
    head = (
        "run",
        "verdict",
        "step kept",
        "true best",
        "budget",
        "worse than its end by, pp",
        "interval ±, pp",
        "by more than it",
    )
    return f"{len(rows)} of {len(runs)} runs; by more than the interval: {sum(r[-1] == 'yes' for r in rows)}\n\n{table(head, rows)}"


def exponent_line(runs: Sequence[Run]) -> str:
    """Growth of the true best step with the number of pictures."""
    lines = []
    for method in METHODS:
        some = [r for r in runs if r.method == method and r.truth.best() and r.truth.best() < r.steps]
        if len({run.pictures for run in some}) > 2:
            slope = np.polyfit(np.log([r.pictures for r in some]), np.log([r.truth.best() for r in some]), 1)[0]
            lines.append(f"{method} n^{slope:.2f} ({len(some)} runs)")
    return "; ".join(lines)


# Plots ------------------------------------------------------------------------------------------------------------------


def svg_curves(runs: Sequence[Run]) -> str:
    """Small panels: the truth, what the guard heard with its interval, the train probe, and what was chosen."""
    width, height, columns = 300, 190, 3
    panels = []
    for place, run in enumerate(runs):
        ox, oy = (place % columns) * width, (place // columns) * height
        steps = run.folds[0].held_out.steps
        pooled = np.concatenate([fold.held_out.values for fold in run.folds], axis=1)
        twins = np.concatenate([fold.twin.values for fold in run.folds], axis=1).mean((1, 2))
        says = [estimate(tuple(map(tuple, rows))) for rows in pooled]
        low = 1.05 * min(twins.min(), run.truth.mean().min(), pooled.mean((1, 2)).min())
        top = max(0.02, pooled.mean((1, 2)).max(), run.truth.mean().max())

        def x(step: float, ox: float = ox, run: Run = run) -> float:
            return ox + 40 + (width - 55) * math.log(max(step, 6) / 6) / math.log(run.steps / 6)

        def y(value: float, oy: float = oy, low: float = low, top: float = top) -> float:
            return oy + 24 + (height - 54) * (top - min(max(value, low), top)) / (top - low)

        def path(xs: Iterable[float], ys: Iterable[float], x: Any = x, y: Any = y) -> str:
            return " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(xs, ys))

        band = path([*steps, *steps[::-1]], [*(s.high for s in says), *(s.low for s in says[::-1])])
        found = judged(run)
        step = refitted(run, found.best)
        panels.append(
            f'<text x="{ox + 40}" y="{oy + 15}" class="t">{run.name}</text>'
            f'<polygon points="{band}" class="band"/><polyline points="{path(steps, twins)}" class="twin"/>'
            f'<polyline points="{path(steps, pooled.mean((1, 2)))}" class="held"/>'
            f'<polyline points="{path(run.truth.steps, run.truth.mean())}" class="truth"/>'
            f'<line x1="{x(found.stop):.1f}" x2="{x(found.stop):.1f}" y1="{oy + 24}" y2="{oy + height - 30}" class="stop"/>'
            f'<circle cx="{x(step):.1f}" cy="{y(run.truth.at(step)):.1f}" r="4" class="kept"/>'
            f'<text x="{ox + 36}" y="{y(0) + 4:.1f}" class="n" text-anchor="end">0</text>'
            f'<text x="{ox + 36}" y="{y(low) + 4:.1f}" class="n" text-anchor="end">{100 * low:.0f}</text>'
            + "".join(
                f'<text x="{x(tick):.1f}" y="{oy + height - 14}" class="n" text-anchor="middle">{tick}</text>'
                for tick in (8, 20, 50, 100, 200) if tick <= run.steps
            )
        )  # fmt: skip
    total = math.ceil(len(runs) / columns) * height + 26
    style = (
        ".t{font:12px sans-serif;fill:#333}.n{font:10px sans-serif;fill:#666}polyline{fill:none;stroke-width:1.8}"
        ".band{fill:#2a6fb0;opacity:.15}.held{stroke:#2a6fb0}.twin{stroke:#bbb}.truth{stroke:#111}"
        ".stop{stroke:#c33;stroke-dasharray:4 3}.kept{fill:#c33}"
    )
    legend = (
        "black: truth (all pictures); blue: held out, 95 %; grey: train probe; red: guard's stop (line), step kept (dot). "
        "x: steps, y: pp"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{columns * width}" height="{total}" '
        f'viewBox="0 0 {columns * width} {total}"><style>{style}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'{"".join(panels)}<text x="40" y="{total - 8}" class="n">{legend}</text></svg>\n'
    )


def svg_rules(runs: Sequence[Run]) -> str:
    """Mean regret of each rule and each other way, as bars with standard errors."""
    bars: list[tuple[str, list[float], str]] = [("the guard", [run.regret(kept(run)) for run in runs], "#c33")]
    bars += [(name, [outcome(run, rule)[0] for run in runs], "#2a6fb0") for name, rule in VARIANTS.items()]
    bars += [(name, [run.regret(f(run)[0]) for run in runs], "#999") for name, f in BASELINES.items()]
    bars.sort(key=lambda bar: float(np.mean(bar[1])))
    longest = max(float(np.mean(values)) for _, values, _ in bars)
    rows = []
    for place, (name, values, colour) in enumerate(bars):
        y, mean = 8 + 19 * place, float(np.mean(values))
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        long, more = 420 * mean / longest, 420 * error / longest
        rows.append(
            f'<text x="300" y="{y + 11}" text-anchor="end">{name}</text>'
            f'<rect x="306" y="{y}" width="{long:.1f}" height="13" fill="{colour}"/>'
            f'<line x1="{306 + long - more:.1f}" x2="{306 + long + more:.1f}" y1="{y + 6.5}" y2="{y + 6.5}" stroke="#111"/>'
            f'<text x="{312 + long + more:.1f}" y="{y + 11}">{100 * mean:.2f}</text>'
        )
    total = 8 + 19 * len(bars) + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="820" height="{total}" viewBox="0 0 820 {total}">'
        f'<style>text{{font:11px sans-serif;fill:#222}}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(rows)}'
        f'<text x="306" y="{total - 8}">mean regret, pp, ± standard error; {len(runs)} runs</text></svg>\n'
    )


EVERY = (main_table, refit_table, coverage_table, worse_table)  # told with fewer pictures, too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--folds", type=Path, help="folder of runs of `collect.py --folds K --lane fold`")
    parser.add_argument("--plots", type=Path, help="folder for the SVG files")
    options = parser.parse_args()
    runs = [read(path) for path in sorted(options.folder.glob("*.json"))]
    parts = {
        "The guard's whole procedure": main_table, "From folds to all pictures: regret, pp": refit_table,
        "How many folds": lanes_table, "Against other ways": baseline_table,
        "The same, where the truth is best in the first three quarters of the budget": early_table, "Rules": variant_table,
        "Pictures or timesteps": probe_table, "Chosen on one half, told by the other": cross_validated,
        "Intervals": coverage_table, "Worse than training to the budget's end": worse_table,
        "Growth of the best step with the pictures": exponent_line,
    }  # fmt: skip
    print(f"{len(runs)} runs, {len({run.seed for run in runs})} seeds")
    for title, make in parts.items():
        print(f"\n### {title}\n\n{make(runs if make in EVERY else trusted(runs))}")
    if options.folds:
        print(f"\n### Folds where the product holds out\n\n{against_folds(options.folder, options.folds)}")
    if options.plots and runs:
        options.plots.mkdir(parents=True, exist_ok=True)
        first = min(run.seed for run in runs)
        shown = [run for run in runs if run.seed == first]
        (options.plots / "curves.svg").write_text(svg_curves(shown), encoding="utf-8")
        (options.plots / "rules.svg").write_text(svg_rules(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
