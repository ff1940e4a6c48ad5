"""What stopping rules would have done on the collected curves, against the truth: Markdown tables and SVG plots.

    python bench/guard/analyse.py DIR [--plots DIR]

DIR is what `collect.py` wrote. A rule hears only what the guard hears; what it chooses is read off the true curve of the
lane that learns from all pictures. Regret is in percentage points (pp) of log ratio to the base's loss; a share is of
what that true curve gains at its best.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
from curves import Run, read
from plots import svg_curves, svg_rules
from rules import BASELINES, GRID, METHODS, MID, VARIANTS, Rule, cost, judged, kept, lane_truth, outcome, play, refitted

from tsuika.guard.reading import estimate

EXPONENTS = (0, 0.55, 1, 1.5)


def table(head: str, rows: Iterable[Sequence[object]]) -> str:
    """Of a head with ` | ` between its columns."""
    lines = [f"| {head} |", "|" + "---|" * len(head.split(" | "))]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def pp(values: Sequence[float]) -> str:
    """Mean ± standard error over configurations."""
    if len(values) < 2:
        return f"{100 * values[0]:.2f}" if len(values) else "–"
    return f"{100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1) / math.sqrt(len(values)):.2f}"


def percent(values: Sequence[float]) -> str:
    return f"{100 * np.mean(values):.0f} %" if len(values) else "–"


def lost_share(runs: Sequence[Run], regrets: Sequence[float]) -> str:
    """Of what can be gained, over all of these runs together; not told where that is less than a point a run."""
    total = sum(run.gain for run in runs)
    return f"{100 * sum(regrets) / total:.1f} %" if total >= 0.01 * len(runs) else "–"


def main_table(runs: Sequence[Run]) -> str:
    rows = []
    groups = [(m, n) for m in METHODS for n in sorted({r.pictures for r in runs if r.method == m})]
    for method, n in [*groups, *((m, 0) for m in METHODS), ("all", 0)]:
        some = [run for run in runs if method in (run.method, "all") and n in (run.pictures, 0)]
        if not some:
            continue
        steps = {run: judged(run) for run in some}
        regrets = [run.regret(kept(run)) for run in some]
        rows.append(
            (
                method,
                n or "all",
                len(some),
                f"{np.mean([run.truth.best() / run.steps for run in some]):.2f}",
                f"{100 * np.mean([run.gain for run in some]):.1f}",
                pp(regrets),
                lost_share(some, regrets),
                pp([run.fair_regret(kept(run)) for run in some]),
                f"{100 * max(regrets):.2f}",
                percent([1 - steps[run].stop / run.steps for run in some]),
                pp([run.regret(run.steps) for run in some]),
                pp([run.a_rung_off for run in some]),
            )
        )
    head = (
        "method | pictures | runs | true best, share of budget | gain, pp | regret, pp | share of the gain | "
        "cross-fitted regret, pp | worst, pp | steps saved | budget's end: regret, pp | "
        "a rung beside the best: regret, pp"
    )
    return table(head, rows)


def refit_table(runs: Sequence[Run]) -> str:
    rows = []
    groups = [("all", n) for n in sorted({run.pictures for run in runs})] + [(m, 0) for m in (*METHODS, "all")]
    for method, n in groups:
        some = [run for run in runs if method in (run.method, "all") and n in (run.pictures, 0)]
        cells = [pp([run.regret(kept(run, exponent)) for run in some]) for exponent in EXPONENTS]
        lane = [lane_truth(run, judged(run).best) + run.gain for run in some if run.kind == "hold-out"]
        one = [run.regret(refitted(run, judged(run, one_lane=True).best)) for run in some if run.kind == "fold"]
        pooled = [run.regret(kept(run)) for run in some if run.kind == "fold"]
        rows.append((method, n or "all", len(some), *cells, pp(lane), pp(pooled), pp(one)))
    exponents = " | ".join(f"exponent {power}" for power in EXPONENTS)
    head = f"method | pictures | runs | {exponents} | no refit: the hold-out lane itself | folds pooled | one fold only"
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
        "run | held out | folds | gain, pp | hold-out: regret, pp | folds: regret, pp | hold-out, bagged | "
        "folds, bagged"
    )
    return table(head, rows)


def lanes_table(runs: Sequence[Run]) -> str:
    """How many of the folds that leave one picture out are enough: all choices of K of them."""
    rows = []
    left_out = [run for run in runs if run.kind == "fold" and len(run.folds) == run.pictures]
    for method, n in sorted({(run.method, run.pictures) for run in left_out}):
        some = [run for run in left_out if (run.method, run.pictures) == (method, n)]
        for count in sorted({1, 2, 3, n}):
            regrets, parts = [], 0
            for run in some:
                for chosen in combinations(run.folds, count):
                    part = replace(run, folds=chosen, memo={})
                    regrets.append(run.regret(refitted(run, play(part, Rule(columns=MID)).best)))
                    parts += 1
            share = lost_share([run for run in some for _ in range(parts // len(some))], regrets)
            rows.append((method, n, count, len(some), pp(regrets), f"{100 * max(regrets):.1f}", share))
    head = "method | pictures | folds heard | runs | regret, pp (± over choices) | worst, pp | share of the gain"
    return table(head, rows)


def baseline_table(runs: Sequence[Run]) -> str:
    def row(name: str, steps: Mapping[Run, tuple[float, float]]) -> tuple[object, ...]:
        regrets = {run: run.regret(steps[run][0]) for run in runs}
        by_method = [pp([regrets[run] for run in runs if run.method == method]) for method in METHODS]
        saved = percent([1 - steps[run][1] / run.steps for run in runs])
        values = list(regrets.values())
        return name, pp(values), lost_share(runs, values), f"{100 * max(values):.1f}", saved, *by_method

    guard = {run: (kept(run), judged(run).stop) for run in runs}
    heard = {run: judged(run, everything=True) for run in runs}
    dense = {run: (refitted(run, found.best), found.stop) for run, found in heard.items()}
    rows = [row("the guard", guard), row("the guard, if it measured all it could", dense)]
    rows += [row(name, {r: f(r) for r in runs}) for name, f in BASELINES.items()]
    return table(
        " | ".join(["what chooses | regret, pp | share of the gain | worst, pp | steps saved", *METHODS]), rows
    )


def early_table(runs: Sequence[Run]) -> str:
    return baseline_table([run for run in runs if run.gain and run.truth.best() <= 0.75 * run.steps])


def variant_table(runs: Sequence[Run]) -> str:
    rows, basis = [], [outcome(run, VARIANTS["by all draws"])[0] for run in runs]
    for name, rule in VARIANTS.items():
        results = [outcome(run, rule) for run in runs]
        regrets = [one[0] for one in results]
        rows.append(
            (
                name,
                pp(regrets),
                lost_share(runs, regrets),
                pp([a - b for a, b in zip(regrets, basis)]),
                f"{100 * max(regrets):.1f}",
                percent([1 - one[1] for one in results]),
                percent([one[2] for one in results]),
            )
        )
    head = (
        "rule | regret, pp | share of the gain | by all draws it is more by, pp (paired) | worst, pp | "
        "steps saved | forward passes of checks, by training's"
    )
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
    return table("held-out pictures | timesteps | passes a check | regret, pp | 90 % | step off by a factor of", rows)


def cross_validated(runs: Sequence[Run]) -> str:
    """The rule chosen on one concept of each method and reported on the other, and the other way round."""
    firsts = {m: sorted({run.concept for run in runs if run.method == m})[:1] for m in METHODS}
    halves = (
        [run for run in runs if run.concept in firsts[run.method]],
        [run for run in runs if run.concept not in firsts[run.method]],
    )
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
            rows.append(
                (
                    f"{name}, {which} concepts",
                    words,
                    len(told),
                    pp(regrets),
                    lost_share(told, regrets),
                    percent([1 - one[1] for one in results]),
                )
            )
    head = "chosen on | rule | runs it is told by | regret, pp | share of the gain | steps saved"
    return table(head, rows)


def coverage_table(runs: Sequence[Run]) -> str:
    """How often a 95 % interval holds the truth of the very lanes it speaks of."""
    rows = []
    for kind, n in [("fold", 3), ("fold", 5), *(("hold-out", n) for n in (10, 20, 50, 300)), ("hold-out", 0)]:
        some = [run for run in runs if run.kind == kind and n in (run.pictures, 0)]
        hits, wide, naive, errors, halves, biases, kinds = [], [], [], [], [], [], set()
        for run in some:
            first = run.folds[0]
            overlap = 1 / first.trained_on if len(run.folds) > 1 else 0.0
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
            rows.append(
                (
                    "leave-one-out, pooled" if kind == "fold" else "hold-out",
                    n or "all",
                    len(some),
                    len(hits),
                    "/".join(sorted(kinds)),
                    percent(hits),
                    percent(naive),
                    percent(wide),
                    f"{100 * np.mean(halves):.1f}",
                    f"{100 * np.std(errors):.1f}",
                    pp(biases),
                )
            )
    head = (
        "readings | pictures | runs | readings of them | interval over | holds the truth | without fold overlap | "
        "with the truth's own error | half width, pp | sd of the error, pp | bias, pp"
    )
    return table(head, rows)


def worse_table(runs: Sequence[Run]) -> str:
    """Runs that the guard left worse than the budget's end."""
    rows = []
    for run in runs:
        found = judged(run)
        step = refitted(run, found.best)
        worse = run.truth.at(step) - run.truth.at(run.steps)
        if worse > 0:
            rows.append(
                (
                    run.name,
                    found.code,
                    f"{step:.0f}",
                    f"{run.truth.best():.0f}",
                    run.steps,
                    f"{100 * worse:.2f}",
                    f"{100 * found.half:.2f}",
                    "yes" if worse > found.half else "no",
                )
            )
    rows.sort(key=lambda row: -float(str(row[5])))
    head = (
        "run | verdict | step kept | true best | budget | worse than its end by, pp | interval ±, pp | by more than it"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--folds", type=Path, help="folder of runs of `collect.py --folds K --lane fold`")
    parser.add_argument("--plots", type=Path, help="folder for the SVG files")
    options = parser.parse_args()
    runs = [read(path) for path in sorted(options.folder.glob("*.json"))]
    parts = {
        "The guard's whole procedure": main_table,
        "From folds to all pictures: regret, pp": refit_table,
        "How many folds": lanes_table,
        "Against other ways": baseline_table,
        "The same, where the truth is best in the first three quarters of the budget": early_table,
        "Rules": variant_table,
        "Pictures or timesteps": probe_table,
        "Chosen on one half, told by the other": cross_validated,
        "Intervals": coverage_table,
        "Worse than training to the budget's end": worse_table,
        "Growth of the best step with the pictures": exponent_line,
    }
    print(f"{len(runs)} runs, {len({run.seed for run in runs})} seeds")
    for title, make in parts.items():
        print(f"\n### {title}\n\n{make(runs)}")
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
