"""What makes a fine-tune quicker: one setting changed at a time, judged by fresh pictures that nobody trains on.

    python bench/recipes.py --out DIR [--only lora] [--like EMA,rank] [--seeds 1]     # trains; can be stopped, goes on where it was
    python bench/recipes.py --out DIR --read                        # the tables

Every variant trains a method on one concept of the embedded world, past its best where the budget allows. At each rung of
a ladder the weights that would be written meet the fresh pictures of bench/guard. Seconds are processor seconds of the
training steps in one thread, so a busy machine does not change them; reading them as seconds on two cores halves them at best.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parent / "guard"))

import collect
from collect import Bench, Configuration

from tsuika import config
from tsuika.core.files import write_text
from tsuika.guard.reading import estimate, minus
from tsuika.training import loop
from tsuika.training.loop import fit

RUNS = {  # concept, pictures, steps, rate of the centre
    "lora": ("mascot", 20, 180, 3e-3),
    "textual-inversion": ("gadget", 5, 100, 4e-2),
    "dreambooth": ("mascot", 20, 180, 6e-4),
    "hypernetwork": ("sketch", 100, 140, 2.5e-3),
}
NEAR = 0.005  # of the best truth of all variants: how soon does a variant get so near?

Settings = dict[str, Any]


def variants(method: str, rate: float) -> Iterator[tuple[str, Settings]]:
    """Name and what is changed about the centre."""
    yield "centre", {}
    for factor in (1 / 3, 2.0):
        yield f"rate x {factor:.2g}", {"train.learning_rate": rate * factor}
    yield "cosine", {"train.schedule": "cosine"}
    yield "linear", {"train.schedule": "linear"}
    yield "min-SNR off", {"train.min_snr_gamma": 0.0}
    yield "uniform timesteps", {"uniform": True}
    yield "no augmentation", {"data.variants": 1, "data.flip": False}
    yield "16 variants, crop 0.9, colour 0.05", {"data.variants": 16, "data.crop": 0.9, "data.colour": 0.05}
    yield "batch 2", {"train.batch_size": 2}
    yield "batch 8", {"train.batch_size": 8}
    if method == "textual-inversion":
        yield "AdamW, rate 5e-3", {"train.optimizer": "adamw", "train.learning_rate": 5e-3}
        yield "AdamW, rate 5e-4 (diffusers)", {"train.optimizer": "adamw", "train.learning_rate": 5e-4}
        yield "1 vector", {"method.vectors": 1}
        yield "8 vectors", {"method.vectors": 8}
        return
    yield "EMA off", {"train.ema": 0.0}
    yield "EMA 0.98", {"train.ema": 0.98}
    yield "EMA off, rate x 0.33", {"train.ema": 0.0, "train.learning_rate": rate / 3}
    yield "EMA 0.98, rate x 2", {"train.ema": 0.98, "train.learning_rate": rate * 2}
    yield "schedule-free", {"train.optimizer": "schedule-free"}
    yield "Prodigy", {"train.optimizer": "prodigy", "train.learning_rate": 1.0}
    if method == "lora":
        yield "rank 8", {"method.rank": 8}
        yield "rank 32", {"method.rank": 32}
        yield "no convolutions", {"method.conv": False}
        plain = {
            "method.conv": False,
            "train.ema": 0.0,
            "train.min_snr_gamma": 0.0,
            "data.flip": False,
            "data.variants": 1,
        }
        yield (
            "kohya GUI: rank 8, alpha 1, 1e-4, cosine",
            {**plain, "method.rank": 8, "method.alpha": 1.0, "train.learning_rate": 1e-4, "train.schedule": "cosine"},
        )
        yield (
            "OneTrainer: rank 16, alpha 1, 3e-4",
            {**plain, "method.alpha": 1.0, "train.learning_rate": 3e-4, "train.schedule": "constant"},
        )
        yield (
            "ai-toolkit: rank 32, alpha 32, conv 16, 1e-4",
            {**plain, "method.rank": 32, "method.conv": True, "method.conv_rank": 16, "train.learning_rate": 1e-4},
        )
    if method == "dreambooth":
        yield "diffusers: 5e-6, constant", {"train.learning_rate": 5e-6, "train.ema": 0.0, "train.min_snr_gamma": 0.0}
    if method == "hypernetwork":
        yield (
            "A1111: 1e-5, no min-SNR",
            {"train.learning_rate": 1e-5, "train.ema": 0.0, "train.min_snr_gamma": 0.0, "method.zero_last": False},
        )
        yield "sizes all", {"method.sizes": "all"}


def uniform(count: int, source: torch.Generator) -> torch.Tensor:
    """In place of `stratified`: drawn one by one, as other trainers do."""
    return torch.rand(count, generator=source)


def run(bench: Bench, method: str, settings: Settings, seed: int) -> dict[str, Any]:
    concept, pictures, steps, rate = RUNS[method]
    one = Configuration(method, concept, pictures, seed)
    settings = dict(settings)
    drawn_one_by_one = settings.pop("uniform", False)
    plain = json.loads(collect.recipe_of(one, steps, rate).model_dump_json())
    recipe = config.build(config.override(plain, settings))
    bank = collect.bank_of(bench.model, collect.drawn(concept, pictures, seed), recipe)
    bare = recipe.data.model_copy(update={"variants": 1, "flip": False, "crop": 1.0, "colour": 0.0})
    fresh = collect.bank_of(
        bench.model, collect.drawn(concept, collect.POPULATION, 1000 + seed), recipe.model_copy(update={"data": bare})
    )
    attachment = bench.attached(recipe)
    try:
        fitting = bench.fitting(attachment, recipe, bank)
        truth = bench.truth(attachment, collect.subjects(fresh, key="fresh"))
        rows: list[dict[str, Any]] = []
        seconds = 0.0
        swap = mock.patch.object(loop, "stratified", uniform) if drawn_one_by_one else nullcontext()
        with swap:
            rungs, events = collect.check_schedule(recipe.train.steps), fit(fitting)
            while True:
                began = time.process_time()
                event = next(events, None)
                seconds += time.process_time() - began
                if event is None:
                    break
                if event.step in rungs:
                    with fitting.written_weights():
                        grid = truth.measure(train=False, drift=False).held_out.mid
                    rows.append({"step": event.step, "seconds": seconds, "mid": grid})
        return {"method": method, "seed": seed, "rows": rows}
    finally:
        attachment.detach()


def best(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = min(row["rows"], key=lambda one: fmean(value for line in one["mid"] for value in line))
    return found


def value(row: dict[str, Any]) -> float:
    return fmean(number for line in row["mid"] for number in line)


def table(folder: Path) -> None:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    for method, (concept, pictures, _, _) in RUNS.items():
        mine = [one for one in found if one["method"] == method]
        if not mine:
            continue
        by: dict[str, list[dict[str, Any]]] = {}
        for one in mine:
            by.setdefault(one["variant"], []).append(one)
        best_of_seed = {one["seed"]: min(value(best(o)) for o in mine if o["seed"] == one["seed"]) for one in mine}
        print(f"\n**{method}**, {concept}, {pictures} pictures\n")
        columns = (
            "best, % (against the centre, pp)",
            "step",
            "processor s",
            f"s to within {100 * NEAR:g} pp",
            "at the end, %",
        )
        print(f"| variant | runs | {' | '.join(columns)} |\n|" + "---|" * (len(columns) + 2))
        centre = {one["seed"]: best(one) for one in by["centre"]}
        for name, ones in sorted(by.items(), key=lambda item: fmean(value(best(o)) for o in item[1])):
            at_best = [best(one) for one in ones]
            pairs = [minus(best(one)["mid"], centre[one["seed"]]["mid"]) for one in ones if one["seed"] in centre]
            gap = estimate([row for pair in pairs for row in pair])
            soon = [
                next((row["seconds"] for row in one["rows"] if value(row) <= best_of_seed[one["seed"]] + NEAR), None)
                for one in ones
            ]
            reached = [seconds for seconds in soon if seconds is not None]
            near = (
                f"{fmean(reached):.0f}" + ("" if len(reached) == len(ones) else f" ({len(reached)})")
                if reached
                else "never"
            )
            print(
                f"| {name} | {len(ones)} | {100 * fmean(map(value, at_best)):.2f} ({100 * gap.mean:+.2f} ± "
                f"{100 * (gap.high - gap.mean):.2f}) | {fmean(row['step'] for row in at_best):.0f} "
                f"| {fmean(row['seconds'] for row in at_best):.0f} | {near} "
                f"| {100 * fmean(value(one['rows'][-1]) for one in ones):.2f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="methods, with commas")
    parser.add_argument("--like", default="", help="variants whose names hold one of these, with commas")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--read", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.read:
        return table(options.out)
    torch.set_num_threads(1)
    bench = Bench()
    for seed in range(options.seeds):
        for method in filter(None, options.only.split(",")) if options.only else RUNS:
            for number, (name, settings) in enumerate(variants(method, RUNS[method][3])):
                path = options.out / f"{method}-{number:02d}-{seed}.json"
                lock = path.with_suffix(".lock")
                wanted = any(word in name for word in options.like.split(","))
                if not wanted or path.exists() or lock.exists():
                    continue
                lock.write_text(str(os.getpid()), encoding="utf-8")
                began = time.monotonic()
                try:
                    result = run(bench, method, settings, seed)
                    write_text(path, json.dumps({**result, "variant": name}))
                finally:
                    lock.unlink()
                print(f"{method} {name} {seed}: {time.monotonic() - began:.0f} s", flush=True)
    return None


if __name__ == "__main__":
    main()
