"""L2 towards the base, weight decay, prior preservation: what each buys at the same fidelity, on the embedded base.

    python bench/regularize.py --out DIR [--methods lora,dreambooth] [--pictures 5] [--steps 240] [--seeds 1]
                               [--arms free,l2-1,...]

Trains the mascot with each arm and reads, at every rung of a ladder, the loss on fresh pictures that nobody trains on
(held out, relative to the base), the same on the training pictures, and how far the answers to known prompts have moved
(drift). One JSON file a run, and a table from all that are there; runs that are there are not trained again.

Matched fidelity: drift where an arm has first won 80 % of what the free run wins at its best on fresh pictures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image

from guard.collect import BUDGET, CHUNK, Bench, Configuration, bank_of, check_schedule, drawn, recipe_of, subjects
from tsuika import config
from tsuika.api.models import defaults_of
from tsuika.config import Recipe
from tsuika.core.events import drained
from tsuika.core.files import write_text
from tsuika.core.seeds import derive
from tsuika.core.types import Model
from tsuika.data import bank as banks
from tsuika.data import bucket, reg_images, scan
from tsuika.data.bank import Bank
from tsuika.embedded import mascot
from tsuika.embedded.world import World
from tsuika.generation import pipeline
from tsuika.guard.probe import Probe
from tsuika.guard.reading import mean
from tsuika.training.loop import fit
from tsuika.training.schedule import Schedule

POPULATION = 16
CLASS_PICTURES = 24
MATCHED = 0.8
Arm = Callable[[Recipe], dict[str, Any]]  # settings that differ from the free run's


def decay(strength: float) -> Arm:
    """Weight decay of this strength over the run, whatever the rate."""
    return lambda free: {"train.weight_decay": strength / (free.train.learning_rate * Schedule.of(free.train).total)}


ARMS: dict[str, Arm] = {
    "free": lambda _: {},
    **{f"l2-{strength}": partial(lambda s, _: {"regularize.l2": s}, strength) for strength in (0.3, 1, 3, 10)},
    **{f"decay-{strength}": decay(strength) for strength in (0.01, 0.3, 1, 3)},
    **{f"prior-{weight}": partial(lambda w, _: {"data.reg_weight": w}, weight) for weight in (0.3, 1)},
    "free-no-ema": lambda _: {"train.ema": 0.0},
    **{
        f"l1-{strength}-no-ema": partial(lambda s, _: {"regularize.l1": s, "train.ema": 0.0}, strength)
        for strength in (0.1, 0.3)
    },
    **{f"max-norm-{largest}": partial(lambda c, _: {"regularize.max_norm": c}, largest) for largest in (0.3, 1)},
}
USUAL = "free,l2-1,l2-3,decay-1,decay-3,prior-1"


def known(count: int, seed: int) -> list[str]:
    """Captions of things that the base knows."""
    rng = np.random.default_rng(derive(seed, "known captions"))
    world = World()
    return [world.caption(world.picture(rng), rng) for _ in range(count)]


def class_bank(model: Model, subject: Bank, recipe: Recipe, folder: Path) -> reg_images.RegularizedBank:
    """Behind the subject's pictures, some that the base draws from captions of what it knows."""
    if not folder.exists():
        folder.mkdir(parents=True)
        for i, caption in enumerate(known(CLASS_PICTURES, 1)):
            (picture,) = pipeline.to_images(pipeline.sample(model, caption, seed=i, defaults=defaults_of(model)))
            assert isinstance(picture, Image.Image)
            picture.save(folder / f"{i:03d}.png")
            write_text(folder / f"{i:03d}.txt", caption)
    settings = reg_images.settings(recipe.data)
    manifest = scan.scan(folder, settings, size_px=model.native_size_px, needed=1)
    filled = banks.fill(
        bucket.assign(manifest, size_px=model.native_size_px, step_px=8),
        settings,
        lambda pixels: model.encode_images(pixels).float(),
        vae="embedded",
        scale=model.latent_scale,
        folder=None,
        device=model.device,
    )
    size = (model.native_size_px, model.native_size_px)
    return reg_images.RegularizedBank(subject, {size: drained(filled)}, recipe.data.reg_weight)


def run(bench: Bench, one: Configuration, arm: str, steps: int, out: Path) -> dict[str, Any]:
    """Train one arm and read it at every rung."""
    free = recipe_of(one, steps, BUDGET[one.method][2])
    recipe = config.build(config.override(free.model_dump(mode="json"), ARMS[arm](free)))
    bank: Any = bank_of(bench.model, drawn(one.concept, one.pictures, one.seed), recipe)
    twins = subjects(bank)
    fresh = bank_of(bench.model, mascot.held_out(POPULATION, one.seed, trained_backgrounds=True), recipe)
    if arm.startswith("prior"):
        bank = class_bank(bench.model, bank, recipe, out / "class-pictures")
    attachment = bench.attached(recipe)
    try:
        training = bench.fitting(attachment, recipe, bank)
        probe = Probe(
            bench.model,
            attachment,
            subjects(fresh, key="fresh"),
            twins,
            controls=known(16, 0),
            chunk=CHUNK,
            autocast=bench.accelerator.autocast,
        )
        rungs, rows, seconds = check_schedule(steps)[::-2], [], 0.0  # every second one, and the last
        for event in fit(training):
            seconds += event.seconds
            if event.step in rungs:
                with training.written_weights():
                    seen = probe.measure()
                rows.append(
                    {
                        "step": event.step,
                        "held_out": mean(seen.held_out.mid),
                        "twin": mean(seen.train.mid),
                        "drift": seen.drift,
                        "own_drift": seen.own_drift,
                        "seconds": seconds,
                    }
                )
        return {"method": one.method, "pictures": one.pictures, "seed": one.seed, "arm": arm, "rungs": rows}
    finally:
        attachment.detach()


def reached(rows: list[dict[str, float]], level: float) -> float | None:
    """Drift where held-out loss first falls to `level`, between two rungs by a straight line."""
    before = {"held_out": 0.0, "drift": 0.0}
    for row in rows:
        if row["held_out"] <= level:
            share = (level - before["held_out"]) / (row["held_out"] - before["held_out"])
            return before["drift"] + share * (row["drift"] - before["drift"])
        before = row
    return None


def table(runs: list[dict[str, Any]]) -> str:
    """Means over seeds, in percent."""
    columns = (
        "method",
        "arm",
        "best held out",
        "at step",
        "drift there",
        f"drift at {MATCHED:.0%} of the free gain",
        "held out at the end",
        "twin at the end",
        "drift at the end",
        "s a step",
        "seeds",
    )
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    free = {
        (one["method"], one["seed"]): min(r["held_out"] for r in one["rungs"]) for one in runs if one["arm"] == "free"
    }
    for method in dict.fromkeys(one["method"] for one in runs):
        for arm in ARMS:
            same = [
                one for one in runs if one["method"] == method and one["arm"] == arm and (method, one["seed"]) in free
            ]
            if not same:
                continue
            best = [min(one["rungs"], key=lambda row: row["held_out"]) for one in same]
            ends = [one["rungs"][-1] for one in same]
            matched = [reached(one["rungs"], MATCHED * free[method, one["seed"]]) for one in same]
            met = [value for value in matched if value is not None]
            cells = [
                f"{100 * fmean(row['held_out'] for row in best):+.2f}",
                f"{fmean(row['step'] for row in best):.0f}",
                f"{100 * fmean(row['drift'] for row in best):.2f}",
                f"{100 * fmean(met):.2f}" if len(met) == len(matched) else "not reached",
                *(f"{100 * fmean(row[key] for row in ends):+.2f}" for key in ("held_out", "twin", "drift")),
                f"{fmean(row['seconds'] / row['step'] for row in ends):.2f}",
                str(len(same)),
            ]
            lines.append(f"| {method} | {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "tsuika-regularize")
    parser.add_argument("--methods", default="lora,dreambooth")
    parser.add_argument("--pictures", type=int, default=5)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", default=USUAL, help=f"of: {','.join(ARMS)}")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    bench = None
    for seed in range(options.seeds):
        for method in options.methods.split(","):
            for arm in options.arms.split(","):
                path = options.out / f"{method}-{options.pictures}-{seed}-{arm}.json"
                if not path.exists():
                    bench = bench or Bench()
                    one = Configuration(method, "mascot", options.pictures, seed)
                    write_text(path, json.dumps(run(bench, one, arm, options.steps, options.out)))
                    print(path.stem, flush=True)
    print(table([json.loads(path.read_text()) for path in sorted(options.out.glob("*.json"))]))


if __name__ == "__main__":
    main()
