"""Plain runs with some settings changed, against the truth: what a default is worth where the guard has no say.

    python bench/guard/settings.py ranks --out DIR [--seeds 2]     # rank x rate x alpha, of a LoRA with 20 pictures
    python bench/guard/settings.py l2 --out DIR [--seeds 2]        # regularize.l2 x plan, few pictures, LoRA and DreamBooth
    python bench/guard/settings.py ranks --out DIR --read

All pictures, no look, the rate falling to nothing over the plan; fresh pictures tell the truth at its end. A run goes on where
it was: a value that is there is not trained again. One JSON file a question.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from analyse import table
from collect import CONCEPTS, Bench, Configuration
from frontier import Trainings
from frontier_read import Part

from tsuika.core.files import write_text

RANKS, RATES, ALPHA = (4, 16, 64), (5e-4, 1e-3, 2e-3, 4e-3, 8e-3), 16
RANK_STEPS = 120
STRENGTHS, L2_PLANS, L2_PICTURES = (0, 1, 3, 10), (1, 3), (5, 3, 10)


class Trial(NamedTuple):
    one: Configuration
    steps: int
    changed: Mapping[str, Any]

    @property
    def name(self) -> str:
        return " ".join([self.one.name, str(self.steps), *(f"{key}={value:g}" for key, value in self.changed.items())])


def ranks(seeds: int) -> Iterator[Trial]:
    """The constant alpha is the middle rank's, so that both ways agree there."""
    for seed, rank, rate in product(range(seeds), RANKS, RATES):
        for alpha in sorted({rank, ALPHA}):
            one = Configuration("lora", CONCEPTS["lora"][seed % 2], 20, seed)
            changed = {"method.rank": rank, "method.alpha": alpha, "train.learning_rate": rate}
            yield Trial(one, RANK_STEPS, changed)


def l2(seeds: int) -> Iterator[Trial]:
    """The dose is spread over the plan, so the plan is a setting of the run as well."""
    for seed, pictures, method in product(range(seeds), L2_PICTURES, ("lora", "dreambooth")):
        one = Configuration(method, CONCEPTS[method][seed % 2], pictures, seed)
        for longer, strength in product(L2_PLANS, STRENGTHS):
            steps = longer * one.steps
            yield Trial(one, steps, {"regularize.l2": strength, "train.steps": steps})


QUESTIONS = {"ranks": ranks, "l2": l2}


def told(name: str, found: Mapping[str, float], trials: list[Trial]) -> str:
    """Means over seeds of the change of the loss on fresh pictures, in per cent; lower is better."""

    def cell(some: list[Trial]) -> str:
        values = [found[trial.name] for trial in some if trial.name in found]
        return f"{100 * fmean(values):.1f}" if values else ""

    if name == "ranks":
        rows = [
            (
                rank,
                alpha,
                *(cell([t for t in trials if tuple(t.changed.values()) == (rank, alpha, rate)]) for rate in RATES),
            )
            for rank in RANKS
            for alpha in sorted({rank, ALPHA})
        ]
        return table("rank | alpha | " + " | ".join(f"rate {rate:g}" for rate in RATES), rows)
    rows = []
    for method, pictures, longer in product(("lora", "dreambooth"), sorted(L2_PICTURES), L2_PLANS):
        some = [
            t for t in trials if (t.one.method, t.one.pictures, t.steps) == (method, pictures, longer * t.one.steps)
        ]
        rows.append(
            (method, pictures, longer, *(cell([t for t in some if t.changed["regularize.l2"] == s]) for s in STRENGTHS))
        )
    return table("method | pictures | plan, by the budget | " + " | ".join(f"L2 {s}" for s in STRENGTHS), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=tuple(QUESTIONS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--read", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.question}.json"
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    trials = list(QUESTIONS[options.question](options.seeds))
    if options.read:
        print(told(options.question, found, trials))
        return
    torch.set_num_threads(1)
    bench = Bench()
    for trial in trials:
        if trial.name not in found:
            here = Trainings(bench, trial.one, trial.changed)
            try:
                found[trial.name] = here.part(Part(0, trial.steps), here.start)["mean"]
            finally:
                here.attachment.detach()
            write_text(path, json.dumps(found))
            print(f"{time.strftime('%H:%M:%S')} {trial.name}: {100 * found[trial.name]:.1f}", flush=True)


if __name__ == "__main__":
    main()
