"""After a look with some pictures held out: start again on all of them, or go on with all of them for a while?

    python bench/guard/continued.py DIR --out DIR2 [--only lora/mascot/10/0]     # trains; goes on where it was
    python bench/guard/continued.py DIR --out DIR2 --read

DIR is what `collect.py` wrote. For each of its hold-out runs the lane without the held-out pictures is trained to the step
that the guard chose there; for each run with folds, the lane of all pictures to the step that they chose for it. From the
weights that would be written there, a new optimizer goes on with all pictures for a share of as many steps: at the same
rate, or with the rate falling to nothing. The fresh pictures judge it beside the refit that DIR holds already.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import collect
import torch
from analyse import lost_share, pp, table, trusted
from collect import Bench, Configuration, bank_of, drawn, lanes_of, part_of, recipe_of, subjects
from curves import Run, read
from rules import judged, refitted

from tsuika.core.config import Recipe
from tsuika.core.files import write_text
from tsuika.core.seeds import generator
from tsuika.data.bank import Bank
from tsuika.guard import probe as probes
from tsuika.guard.probe import Probe
from tsuika.guard.reading import Grid, mean
from tsuika.methods import METHODS
from tsuika.train.loop import Fit, conditioner, fit

SHARES = (0.25, 0.5, 1.0)  # of the chosen step, by all pictures
SCHEDULES = ("constant", "linear")


def started(done: Run) -> float:
    """Where the look's weights are taken."""
    best = judged(done).best
    return best if done.kind == "hold-out" else refitted(done, best)


def run(bench: Bench, done: Run) -> dict[str, Any]:
    """The truth at the chosen step, and after each of SHARES by each of SCHEDULES."""
    one = Configuration(done.method, done.concept, done.pictures, done.seed)
    chosen = round(started(done))
    recipe = recipe_of(one, chosen, done.rate)
    every = bank_of(bench.model, drawn(one.concept, one.pictures, one.seed), recipe)
    fresh = bank_of(bench.model, drawn(one.concept, collect.POPULATION, 1000 + one.seed), recipe)
    lane = next(lane for lane in lanes_of(every, one) if lane.kind in ("hold-out", "all"))
    attachment = METHODS[recipe.method.name].attach(
        bench.model, recipe.method.completed(recipe.data), generator(recipe.train.seed, "init")
    )

    def fitting(recipe: Recipe, bank: Bank, first: int) -> Fit:
        train = recipe.train
        return Fit(
            bench.model, attachment, recipe, bench.accelerator,
            batch=lambda number: bank.batch(first + number, train.batch_size, train.seed),
            condition=conditioner(bench.model, attachment, bank.size_px_of),
        )  # fmt: skip

    def measured(fit: Fit) -> Grid:
        with fit.written_weights():
            return truth.measure(train=False, drift=False).held_out.mid

    try:
        look = fitting(recipe, part_of(every, lane.names, recipe), 0)
        with mock.patch.object(probes, "HIGH", ()):
            truth = Probe(
                bench.model, attachment, subjects(fresh, key="fresh"), (), controls=(), chunk=collect.CHUNK,
                autocast=bench.accelerator.autocast,
            )  # fmt: skip
        for _ in fit(look):
            pass
        found: dict[str, Any] = {"look": measured(look)}
        with look.written_weights():
            weights = {name: value.clone() for name, value in attachment.tensors().items()}
        for schedule, share in product(SCHEDULES, SHARES):
            attachment.load(weights)
            train = recipe.train.model_copy(update={"steps": max(1, round(share * chosen)), "schedule": schedule})
            more = fitting(recipe.model_copy(update={"train": train}), every, chosen)
            for _ in fit(more):
                pass
            found[f"{schedule} {share}"] = measured(more)
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
    for schedule, share in product(SCHEDULES, SHARES):
        regrets = [mean(grids[f"{schedule} {share}"]) + run.gain for run, grids in runs]
        rows.append(row(f"+ {share:.0%}, {schedule}", regrets, lambda run, share=share: share * started(run)))
    return table(("after the look", "regret, pp", "share of the gain", "worst, pp", "steps by the look's"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="method/concept/pictures/seed, or the beginning of it")
    parser.add_argument("--read", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    looked = trusted([read(path) for path in sorted(options.folder.glob("*.json"))])
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
        if one.name.startswith(options.only) and not path.exists() and judged(one).best:
            write_text(path, json.dumps(run(bench, one)))
            print(one.name, flush=True)


if __name__ == "__main__":
    main()
