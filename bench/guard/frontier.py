"""What a guarded run costs and what it gives, by how long its second part is: the frontier of price against regret.

    python bench/guard/frontier.py --out DIR [--seeds 2] [--only lora/mascot/10/0]      # trains; several can share DIR
    python bench/guard/frontier.py --out DIR --few               # five pictures, of which two or three are held out, once
    python bench/guard/frontier.py --out DIR --thrice [--only lora/mascot/10/0]         # and plain runs of thrice the plan
    python bench/guard/frontier.py --out bench/guard/frontier.jsonl.xz --read [--plot docs/pictures]    # tables, picture

A configuration is one of collect.py, with ten pictures and more, or five (where the product leaves each out in turn). The look
trains without the held-out pictures at a steady rate and is measured at every rung; the weights are kept. The judge is asked what
it would have chosen, and when it would have stopped, for each of PLANS: the plan of BUDGET and one thrice as long, each looked at
to its end or to 0.8 of it. From the chosen weights all pictures go on for each of LENGTHS, the rate falling. Beside it plain runs:
all pictures, no look, the rate falling over the plan, half of it and thrice. Fresh pictures tell the truth about each. All
trainings of a configuration begin at the same weights.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import collect
import torch
from collect import Bench, Configuration, bank_of, check_schedule, claim, drawn, lanes_of, part_of, recipe_of, subjects
from frontier_read import LOOKS, PLANS, Looked, Part, parts, picture, read, recorded

from tsuika.core.files import write_text
from tsuika.data.bank import Bank
from tsuika.guard.probe import Probe
from tsuika.guard.reading import mean
from tsuika.training.fit import Fit
from tsuika.training.loop import fit
from tsuika.training.schedule import Schedule

RECORDED = 2.0  # times the bench's budget, the look at most
LEAST = 10  # pictures
FEW = 5


@dataclass(frozen=True)
class Falling(Schedule):
    """A rate that falls with the square root of what is done."""

    def share(self, step: int) -> float:
        return 1 - math.sqrt((step - self.first) / (self.last - self.first))


class Trainings:
    """The trainings of one configuration, all from the same weights."""

    def __init__(self, bench: Bench, one: Configuration, changed: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.bench, self.one = bench, one
        self.recipe = recipe_of(one, one.steps, one.rate, changed)
        self.bank = bank_of(bench.model, drawn(one.concept, one.pictures, one.seed), self.recipe)
        self.fresh = bank_of(bench.model, drawn(one.concept, collect.POPULATION, 1000 + one.seed), self.recipe)
        self.attachment = bench.attached(self.recipe)
        self.start = self.weights()
        self.truth = bench.truth(self.attachment, subjects(self.fresh, key="fresh"))

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self.attachment.tensors().items()}

    def fit(self, bank: Bank, schedule: Schedule, weights: Mapping[str, torch.Tensor]) -> Fit:
        run = self.bench.fitting(self.attachment, self.recipe, bank, schedule)
        run.start_from(weights)
        return run

    def look(self) -> tuple[dict[str, Any], dict[int, dict[str, torch.Tensor]]]:
        """The look, measured at every rung until nothing can still be chosen, and the weights that would be written there."""
        one, train = self.one, self.recipe.train
        lane = next(lanes_of(self.bank, one, 2 if one.pictures < LEAST else 0))
        most = round(RECORDED * one.steps)
        own = Probe(
            self.bench.model,
            self.attachment,
            subjects(self.bank, lane.held_out),
            subjects(self.bank, lane.twins, "twin"),
            chunk=collect.CHUNK,
            autocast=self.bench.accelerator.autocast,
        )
        cuts = {round(plan * look * one.steps) for plan in PLANS for look in LOOKS}
        rungs = sorted({*check_schedule(most), *(cut for cut in cuts if cut <= most)})
        table: dict[str, Any] = {
            **{key: getattr(one, key) for key in ("method", "concept", "pictures", "seed", "steps", "rate")},
            "batch": train.batch_size,
            "precision": self.bench.precision,
            "ema": train.ema,
            "trained_on": len(lane.names),
            "rungs": [],
            "parts": {},
        }
        kept = {}
        bank = part_of(self.bank, lane.names, self.recipe)
        run = self.fit(bank, Schedule.steady(train, most), self.start)
        for event in fit(run):
            if event.step not in rungs:
                continue
            with run.written_weights():
                kept[event.step] = self.weights()
                mine = own.measure(drift=False)
                row = {"step": event.step, "held_out": mine.held_out, "train": mine.train}
                if rungs.index(event.step) % collect.COARSE == 0:
                    row["population"] = self.truth.measure(train=False, drift=False).held_out
            table["rungs"].append(collect.rounded(row))
            if event.step >= one.steps and all(Looked(table).judged(plan, look) for plan in PLANS for look in LOOKS):
                break
        return table, kept

    def part(self, part: Part, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
        """The truth after a training with all pictures."""
        train = self.recipe.train.model_copy(update={"schedule": "linear"})
        schedule = Schedule.falling(train, part.begin, part.begin + part.steps)
        if part.shape == "sqrt":
            schedule = Falling("linear", 0.0, schedule.first, schedule.last, schedule.total)
        run, began = self.fit(self.bank, schedule, weights), time.process_time()
        for _ in fit(run):
            pass
        spent = time.process_time() - began
        with run.written_weights():
            grid = self.truth.measure(train=False, drift=False).held_out.mid
        return collect.rounded({"mid": grid, "mean": mean(grid), "seconds": spent})


def plan(seeds: int, few: bool) -> Iterator[Configuration]:
    """Of one concept a seed, in turn; those from which most is learnt first."""
    counts = (FEW,) if few else (10, 20, 50)
    every = [one for one in collect.plan(seeds) if one.pictures in counts]
    every = [one for one in every if collect.CONCEPTS[one.method].index(one.concept) == one.seed % 2]
    yield from sorted(every, key=lambda one: (one.seed, counts.index(one.pictures)))


def trained(bench: Bench, one: Configuration, path: Path, thrice: bool) -> None:
    here = Trainings(bench, one)
    try:
        kept: dict[int, dict[str, torch.Tensor]] = {}
        if path.exists():
            table = json.loads(path.read_text(encoding="utf-8"))
        else:
            table, kept = here.look()
        wanted = {Part(0, round(share * one.steps)) for share in ((3,) if thrice else (0.5, 1))}
        for part in sorted(wanted | (parts(Looked(table)) if kept else set())):
            if part.name not in table["parts"]:
                table["parts"][part.name] = here.part(part, kept[part.begin] if part.begin else here.start)
        write_text(path, json.dumps(table))
    finally:
        here.attachment.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", default="", help="method/concept/pictures/seed, or the beginning of it")
    parser.add_argument("--thrice", action="store_true", help="the plain runs of thrice the plan")
    parser.add_argument("--few", action="store_true", help="five pictures")
    parser.add_argument("--read", action="store_true")
    parser.add_argument(
        "--pack", type=Path, help="with --read: a file for what was recorded; --out may name such a file"
    )
    parser.add_argument("--plot", type=Path, help="with --read: the folder for the picture in both languages")
    options = parser.parse_args()
    if options.read:
        looks = recorded(options.out)
        read(looks)
        if options.pack:
            with lzma.open(options.pack, "wt", encoding="utf-8") as lines:
                lines.writelines(json.dumps(one.tables) + "\n" for one in looks)
        for language, suffix in enumerate(("", ".ja") if options.plot else ()):
            write_text(options.plot / f"guard-price{suffix}.svg", picture(looks, language))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    bench = Bench()
    for one in plan(options.seeds, options.few):
        path = options.out / f"{one.name.replace('/', '-')}.json"
        lock = path.with_suffix(".lock")
        if not one.name.startswith(options.only) or (path.exists() and not options.thrice) or not claim(lock):
            continue
        began = time.monotonic()
        trained(bench, one, path, options.thrice)
        print(f"{time.strftime('%H:%M:%S')} {one.name}: {time.monotonic() - began:.0f} s", flush=True)
        lock.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
