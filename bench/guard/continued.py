"""After a look with some pictures held out: start again on all of them, or go on with all of them for a while?

    python bench/guard/continued.py DIR --out DIR2 [--only lora/mascot/10/0]     # trains; several can share DIR2
    python bench/guard/continued.py DIR --out DIR2 --read

DIR is what `collect.py` wrote. For each of its hold-out runs the lane without the held-out pictures is trained to the step
that the guard chose there; for each run with folds, the lane of all pictures to the step that they chose for it. From
there it goes on with all pictures in each of WAYS. The fresh pictures judge it beside the refit that DIR holds already.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import collect
import torch
from analyse import lost_share, pp, table
from collect import Bench, Configuration, bank_of, claim, drawn, lanes_of, part_of, recipe_of, subjects
from curves import Run, read
from rules import judged, refitted

from tsuika.core.files import write_text
from tsuika.guard.reading import Grid, mean
from tsuika.methods import METHODS
from tsuika.training.fit import Fit
from tsuika.training.loop import fit
from tsuika.training.schedule import Schedule


@dataclass(frozen=True)
class Way:
    """How a run goes on."""

    share: float = 1.0  # of the chosen step; 0: as many steps as starting again would take
    schedule: str = "linear"
    # Live weights, average and optimizer; else a new optimizer begins at the weights that would be written.
    keeps: bool = False
    since: float = 1.0  # of the chosen step, where it begins; 0: no look at all, a training over the whole budget
    budgets: int = 1  # or over several of it, as one plans who does not know

    def steps(self, look: Run, chosen: float) -> int:
        if not self.since:
            return self.budgets * look.steps
        return max(1, round(self.share * chosen if self.share else refitted(look, chosen)))


WAYS = {
    **{
        f"{schedule} {share}": Way(share, schedule) for schedule in ("constant", "linear") for share in (0.25, 0.5, 1.0)
    },
    "kept 1.0": Way(keeps=True),
    "linear again": Way(0),
    "kept again": Way(0, keeps=True),
    "half linear 0.5": Way(0.5, since=0.5),
    "half linear 1.0": Way(1.0, since=0.5),
    "no look": Way(since=0),
    "no look x4": Way(since=0, budgets=4),
}


def started(done: Run) -> float:
    """Where the look's weights are taken."""
    best = judged(done).best
    return best if done.kind == "hold-out" else refitted(done, best)


def run(bench: Bench, done: Run, ways: Sequence[str]) -> dict[str, Any]:
    """The truth at the chosen step, and after each of the ways."""
    one = Configuration(done.method, done.concept, done.pictures, done.seed)
    chosen = round(started(done))
    recipe = recipe_of(one, chosen, done.rate)
    every = bank_of(bench.model, drawn(one.concept, one.pictures, one.seed), recipe)
    fresh = bank_of(bench.model, drawn(one.concept, collect.POPULATION, 1000 + one.seed), recipe)
    lane = next(lane for lane in lanes_of(every, one) if lane.kind in ("hold-out", "all"))
    attachment = bench.attached(recipe)

    def measured(fit: Fit) -> Grid:
        with fit.written_weights():
            return truth.measure(train=False, drift=False).held_out.mid

    try:
        steady = Schedule.steady(recipe.train, chosen)
        look = bench.fitting(attachment, recipe, part_of(every, lane.names, recipe), steady)
        truth = bench.truth(attachment, subjects(fresh, key="fresh"))
        found: dict[str, Any] = {}
        begins = {round(WAYS[name].since * chosen) for name in ways}
        states = {0: ({name: value.clone() for name, value in attachment.tensors().items()}, deepcopy(look.state()))}
        for event in fit(look):
            if event.step in begins:
                with look.written_weights():
                    weights = {name: value.clone() for name, value in attachment.tensors().items()}
                states[event.step] = weights, deepcopy(look.state())
        found["look"] = measured(look)
        for name in ways:
            way = WAYS[name]
            begin = round(way.since * chosen)
            weights, state = states[begin]
            train = recipe.train.model_copy(update={"schedule": way.schedule})
            falling = Schedule.falling(train, begin, begin + way.steps(done, chosen))
            more = bench.fitting(attachment, recipe, every, falling)
            if way.keeps:
                more.restore(deepcopy(state))
            else:
                more.start_from(weights)
            for _ in fit(more):
                pass
            found[name] = measured(more)
        return found
    finally:
        attachment.detach()


def told(runs: Sequence[tuple[Run, dict[str, Any]]]) -> str:
    """Regret against the best of the lane that learnt from all pictures at once."""
    looks = [run for run, _ in runs]

    def row(name: str, regrets: Sequence[float], steps: Callable[[Run], float]) -> tuple[Any, ...]:
        more = sum(map(steps, looks)) / sum(judged(run).stop for run in looks)
        return name, pp(regrets), lost_share(looks, regrets), f"{100 * max(regrets):.1f}", f"{more:.2f}"

    again = {run: refitted(run, judged(run).best) for run in looks}
    rows = [row("again from the base", [run.regret(again[run]) for run in looks], again.__getitem__)]
    rows.append(row("nothing", [mean(grids["look"]) + run.gain for run, grids in runs], lambda run: 0.0))
    for name, way in WAYS.items():
        if all(name in grids for _, grids in runs):
            regrets = [mean(grids[name]) + run.gain for run, grids in runs]
            rows.append(row(name, regrets, lambda run, way=way: way.steps(run, started(run))))
    return table("after the look | regret, pp | share of the gain | worst, pp | steps by the look's", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="method/concept/pictures/seed, or the beginning of it")
    parser.add_argument("--ways", default=",".join(WAYS), help="what is not there yet of these is trained")
    parser.add_argument("--read", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    looked = [read(path) for path in sorted(options.folder.glob("*.json"))]
    if options.read:
        found = [(one, options.out / f"{one.name.replace('/', '-')}.json") for one in looked]
        pairs = [(one, json.loads(path.read_text(encoding="utf-8"))) for one, path in found if path.exists()]
        for kind, method in product(("hold-out", "fold"), (*METHODS, "")):
            if some := [pair for pair in pairs if pair[0].kind == kind and method in (pair[0].method, "")]:
                print(f"\n**{kind}, {method or 'all methods'}**, {len(some)} runs\n\n{told(some)}")
        return
    torch.set_num_threads(1)
    bench = Bench()
    for one in looked:
        path = options.out / f"{one.name.replace('/', '-')}.json"
        lock = path.with_suffix(".lock")
        if not one.name.startswith(options.only) or not judged(one).best or not claim(lock):
            continue
        there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if missing := [way for way in options.ways.split(",") if way not in there]:
            write_text(path, json.dumps(there | run(bench, one, missing)))
            print(f"{time.strftime('%H:%M:%S')} {one.name}", flush=True)
        lock.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
