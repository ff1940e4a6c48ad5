"""The guard's whole procedure against the truth: the look, and what follows it.

    python bench/guard/whole.py DIR --continued DIR2 [--longer DIR3]

DIR is what `collect.py` wrote, DIR2 what `continued.py` made of its hold-out runs ("linear again"), of those with folds
("half linear 1.0") and, to compare, of some runs ("no look", "no look x4"), DIR3 what `collect.py --longer 2` wrote of
some of them. What goes on with all pictures while the rate falls are the weights of the look, after folds the lane of all
pictures at half of the step that they chose for it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from analyse import lost_share, percent, pp, table
from collect import CONCEPTS
from curves import Run, read
from rules import METHODS, judged, kept, refitted

from tsuika.guard.reading import mean
from tsuika.training.guard_plan import FEW

GOES_ON = {"hold-out": "linear again", "fold": "half linear 1.0"}
NO_LOOK = {1: "no look", 4: "no look x4"}  # by the planned steps, times the bench's own budget
PLANNED = (1, 2, 4)
MANY = 10**6  # pictures


def steps_of_all(run: Run) -> float:
    """Steps from the first to the result; folds that learn side by side count once."""
    found = judged(run)
    then = refitted(run, found.best)
    if (
        run.kind == "fold" and run.method == "dreambooth"
    ):  # in turn, and half of the result's steps come before it goes on
        return len(run.folds) * found.stop + 1.5 * then
    return found.stop + then


def continued(run: Run, folder: Path, way: str) -> float | None:
    """Regret of what `continued.py` has made of a run in one way; None where it has not."""
    path = folder / f"{run.name.replace('/', '-')}.json"
    grids = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return mean(grids[way]) + run.gain if way in grids else None


def ends(runs: Sequence[Run], folder: Path) -> dict[Run, float]:
    """Regret of the result where it is known."""
    found = {}
    for run in runs:
        regret = continued(run, folder, GOES_ON[run.kind])
        if regret is None and not judged(run).best:
            regret = run.gain
        if regret is not None:
            found[run] = regret
    return found


def is_second(run: Run) -> bool:
    """Whether it is of the concept of its seed that came after the rule was chosen."""
    return CONCEPTS[run.method].index(run.concept) != run.seed % 2


def procedure_table(regrets: Mapping[Run, float]) -> str:
    """As it is, by method and by kind of look."""
    groups = {
        "all": list(regrets),
        **{method: [run for run in regrets if run.method == method] for method in METHODS},
        **{
            f"{kind}, {n} pictures": [run for run in regrets if (run.kind, run.pictures) == (kind, n)]
            for kind, n in sorted({(run.kind, run.pictures) for run in regrets})
        },
        "20 pictures and more": [run for run in regrets if run.pictures >= 20],
        "after the rule": [run for run in regrets if run.pictures == 3 or is_second(run)],
    }
    rows = []
    for name, some in groups.items():
        if some:
            mine = [regrets[run] for run in some]
            end = [run.regret(run.steps) for run in some]
            better = [last - own for last, own in zip(end, mine)]
            rows.append(
                (
                    name,
                    len(some),
                    f"{100 * np.mean([run.gain for run in some]):.1f}",
                    pp(mine),
                    lost_share(some, mine),
                    f"{100 * max(mine):.1f}",
                    pp([run.regret(kept(run)) for run in some]),
                    pp(end),
                    pp(better),
                )
            )
    head = (
        "runs | of them | gain, pp | regret, pp | share of the gain | worst, pp | "
        "had it started again: regret, pp | budget's end: regret, pp | better than the budget's end by, pp"
    )
    return table(head, rows)


def no_look_table(regrets: Mapping[Run, float], folder: Path) -> str:
    """Beside a training on all pictures over the whole budget whose rate falls, as most people train."""
    rows = [(run, mine, continued(run, folder, NO_LOOK[1])) for run, mine in regrets.items()]
    known = [(run, mine, other) for run, mine, other in rows if other is not None]
    groups = [(f"{n} pictures", n, n) for n in sorted({run.pictures for run, *_ in known}) if n < FEW]
    told = []
    for name, least, most in [*groups, ("10 and more", FEW, MANY), ("all", 0, MANY)]:
        some = [row for row in known if least <= row[0].pictures <= most]
        if some:
            runs, mine, other = zip(*some)
            told.append(
                (
                    name,
                    len(some),
                    pp(mine),
                    pp(other),
                    pp([run.regret(run.steps) for run in runs]),
                    pp([a - b for a, b in zip(mine, other)]),
                    f"{np.mean([steps_of_all(run) / run.steps for run in runs]):.2f}",
                )
            )
    head = (
        "runs | of them | the guard: regret, pp | falling rate, whole budget | steady rate, whole budget | "
        "the guard less the falling rate | its steps by the budget"
    )
    return table(head, told)


def folds_table(runs: Sequence[Run], folder: Path) -> str:
    """After folds: the lane of all pictures at the step that they chose, on from half of it, and no folds at all."""
    rows = []
    known = [run for run in runs if run.kind == "fold" and continued(run, folder, NO_LOOK[1]) is not None]
    groups = [(m, n) for n in sorted({run.pictures for run in known}) for m in (*METHODS, "")]
    for method, n in [*groups, ("", 0)]:
        some = [run for run in known if method in (run.method, "") and n in (run.pictures, 0)]
        if some:
            as_is = [run.regret(kept(run)) for run in some]
            half, none = ([continued(run, folder, way) for run in some] for way in (GOES_ON["fold"], NO_LOOK[1]))
            less = [[a - b for a, b in zip(half, other)] for other in (as_is, none)]
            rows.append(
                (
                    method or "all",
                    n or "all",
                    len(some),
                    *map(pp, (as_is, half, none, *less)),
                    sum(by < 0 for by in less[1]),
                )
            )
    head = (
        "method | pictures | runs | folds as they are: regret, pp | from half | falling rate, no folds | "
        "from half less folds | from half less no folds | better than no folds in"
    )
    return table(head, rows)


def harmed(regrets: Mapping[Run, float]) -> str:
    """Runs that end worse than at the budget's end, and by more than the interval at the best step says."""
    worse = {run: regrets[run] - run.regret(run.steps) for run in regrets}
    names = [f"{run.name} {100 * by:.1f} pp" for run, by in worse.items() if by > 0]
    beyond = sum(by > judged(run).half for run, by in worse.items())
    return f"Worse than the budget's end: {len(names)} of {len(regrets)} ({'; '.join(names)}); beyond the interval: {beyond}."


def planned_table(runs: Sequence[Run], longer: Mapping[str, Run]) -> str:
    """Had more steps been planned: a stop inside what was recorded is the same, whatever would have come after it."""
    rows = []
    for factor in PLANNED:
        some = []
        for run in runs:
            plan = factor * run.steps
            recorded = longer.get(run.name, run) if factor > 1 else run
            planned = replace(recorded, steps=plan, memo={})
            if recorded.steps >= plan or judged(planned).stop < recorded.steps:
                some.append(planned)
        for method in (*METHODS, ""):
            these = [run for run in some if method in (run.method, "")]
            if these:
                regrets = [run.regret(kept(run)) for run in these]
                rows.append(
                    (
                        factor,
                        method or "all",
                        f"{len(these)} of {sum(method in (run.method, '') for run in runs)}",
                        f"{np.mean([run.truth.best() / run.steps for run in these]):.2f}",
                        percent([1 - run.truth.best() / run.steps for run in these]),
                        percent([1 - judged(run).stop / run.steps for run in these]),
                        percent([1 - steps_of_all(run) / run.steps for run in these]),
                        pp(regrets),
                        lost_share(these, regrets),
                    )
                )
    head = (
        "planned, by the bench's budget | method | runs known | true best, share of the plan | "
        "saved by stopping there | saved by the guard's look | saved with what follows | "
        "had it started again: regret, pp | share of the gain"
    )
    return table(head, rows)


def too_long_table(runs: Sequence[Run], folder: Path) -> str:
    """Four times the bench's budget planned: the guard beside a training without any, whose rate falls over the whole plan.

    Runs whose look would have stopped inside what was recorded, and at the same best step, so that the result is known.
    """
    plan = max(NO_LOOK)
    rows = []
    for run in runs:
        planned = replace(run, steps=plan * run.steps, memo={})
        mine, other = continued(run, folder, GOES_ON[run.kind]), continued(run, folder, NO_LOOK[plan])
        stopped = judged(planned).stop < run.steps and judged(planned).best == judged(run).best
        if stopped and mine is not None and other is not None:
            rows.append((run, mine, other, steps_of_all(planned) / planned.steps))
    head = (
        "method | runs | the guard: regret, pp | falling rate, whole plan | the guard less it | "
        "its steps by the plan | better in"
    )
    told = []
    for method in (*METHODS, ""):
        some = [row for row in rows if method in (row[0].method, "")]
        if some:
            _, mine, other, steps = zip(*some)
            less = [a - b for a, b in zip(mine, other)]
            told.append(
                (
                    method or "all",
                    len(some),
                    pp(mine),
                    pp(other),
                    pp(less),
                    f"{np.mean(steps):.2f}",
                    sum(by < 0 for by in less),
                )
            )
    return table(head, told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--continued", type=Path, required=True)
    parser.add_argument("--longer", type=Path)
    options = parser.parse_args()
    runs = [read(path) for path in sorted(options.folder.glob("*.json"))]
    regrets = ends(runs, options.continued)
    print(f"{len(runs)} runs; not continued: {', '.join(run.name for run in runs if run not in regrets) or 'none'}\n")
    print(f"### As it is\n\n{procedure_table(regrets)}\n\n{harmed(regrets)}\n")
    print(f"### Against a falling rate over the whole budget\n\n{no_look_table(regrets, options.continued)}\n")
    print(f"### After folds\n\n{folds_table(runs, options.continued)}\n")
    print(f"### Against it with a plan that is far too long\n\n{too_long_table(runs, options.continued)}\n")
    longer = [read(path) for path in sorted(options.longer.glob("*.json"))] if options.longer else []
    print(f"### Had more steps been planned\n\n{planned_table(runs, {run.name: run for run in longer})}")


if __name__ == "__main__":
    main()
