"""Curves to judge stopping rules by: every lane of every configuration, and the truth beside it. Decides nothing.

    python bench/guard/collect.py --out DIR [--seeds 3] [--only lora/mascot/5/0] [--longer 2]

A configuration is (method, concept, number of pictures, seed). Its lanes are trained one after another by the product's
own loop: the folds that leave one picture out or the lane that holds some out, as `data.split` says, and the lane that
learns from all pictures. At every rung of a dense ladder each fold lane's held-out pictures are measured by the
product's own probe, and the all-pictures lane by fresh pictures that nobody trains on: the truth. One JSON file a
configuration, written whole when it is done: the collector can be stopped and goes on where it was, and several
processes can share a folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import numpy as np
import torch

from tsuika import EMBEDDED, config, families
from tsuika.config import Recipe
from tsuika.core.events import drained
from tsuika.core.files import write_text
from tsuika.core.seeds import derive, generator
from tsuika.core.types import Attachment, Batch, Model
from tsuika.data import bank as banks
from tsuika.data import bucket, scan
from tsuika.data.bank import Bank, BucketLatents
from tsuika.data.split import LEAST_TO_HOLD_OUT, SHARE, Split, split
from tsuika.embedded import gadget, mascot, sketch
from tsuika.guard import probe as probes
from tsuika.guard.probe import Probe, ProbedImage
from tsuika.guard.reading import Ratios
from tsuika.methods import METHODS
from tsuika.training.device import DTYPES
from tsuika.training.fit import Fit
from tsuika.training.guard_plan import LEAST_HELD_OUT, MOST_HELD_OUT
from tsuika.training.loop import conditioner, draw, fit
from tsuika.training.preparation import accelerate_for
from tsuika.training.schedule import Schedule

RECIPES = Path(__file__).parents[2] / "examples"
RECIPE = {
    "lora": "character-lora",
    "textual-inversion": "object-textual-inversion",
    "dreambooth": "character-dreambooth",
    "hypernetwork": "style-hypernetwork",
}
CONCEPTS = {
    "lora": ("mascot", "sketch"),
    "textual-inversion": ("gadget", "mascot"),
    "dreambooth": ("mascot", "gadget"),
    "hypernetwork": ("sketch", "mascot"),
}
WORDS = {
    "mascot": {"data.trigger": mascot.TRIGGER, "data.class_word": mascot.CLASS_WORD},
    "gadget": {"data.trigger": gadget.TRIGGER, "data.class_word": gadget.CLASS_WORD},
    "sketch": {"data.trigger": "", "data.class_word": ""},
}
INIT = {"mascot": "robot", "gadget": "tomato"}
COUNTS = (3, 5, 10, 20, 50)
HYPERNETWORK_COUNTS = (50, 300)
# Steps and learning rate at 3 pictures (hypernetwork: at 50), and the powers of n that they grow with: the truth is to
# have its best well inside the budget. A new word's truth comes to rest instead.
BUDGET = {
    "lora": (130, 0.4, 2e-3, 0.15),
    "textual-inversion": (90, 0.2, 4e-2, 0.0),
    "dreambooth": (130, 0.45, 4e-4, 0.15),
    "hypernetwork": (200, 0.1, 2.5e-3, 0.0),
}
ORDER = (10, 20, 50, 300, 5, 3)  # of work: runs that are to be gone on with first, what the guard does not judge last
BATCH = 4
EMA = 0.9  # 0.98 in the examples, whose runs are five times as long
FIRST, RATIO = 8, 1.2  # of the ladder
COARSE = 4  # fold lanes meet the fresh pictures at every so many rungs
POPULATION = 16
TWINS = 8  # most pictures of the all-pictures lane's train probe
FIXED_EVERY = 2  # steps between losses of DVAR's fixed batch
CHUNK = 40


@dataclass(frozen=True)
class Configuration:
    method: str
    concept: str
    pictures: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}/{self.concept}/{self.pictures}/{self.seed}"

    @property
    def more(self) -> float:
        """Pictures by the fewest of this method."""
        return self.pictures / (HYPERNETWORK_COUNTS if self.method == "hypernetwork" else COUNTS)[0]

    @property
    def steps(self) -> int:
        steps, power, _, _ = BUDGET[self.method]
        return round(steps * self.more**power)

    @property
    def rate(self) -> float:
        _, _, rate, power = BUDGET[self.method]
        return float(f"{rate * self.more**power:.3g}")


def plan(seeds: int) -> list[Configuration]:
    """Everything, in the order of work: one concept a seed, in turn, before the other; three pictures come last."""
    every = [
        Configuration(method, concept, count, seed)
        for seed in range(seeds)
        for method in RECIPE
        for concept in CONCEPTS[method]
        for count in (HYPERNETWORK_COUNTS if method == "hypernetwork" else COUNTS)
    ]

    def turn(one: Configuration) -> tuple[bool, bool, int, int]:
        second = CONCEPTS[one.method].index(one.concept) != one.seed % 2
        return one.pictures == ORDER[-1], second, ORDER.index(one.pictures), one.seed

    return sorted(every, key=turn)


def drawn(concept: str, count: int, seed: int) -> list[mascot.Illustration]:
    """Pictures of a concept, drawn independently of each other from one distribution, whatever their number and seed.

    The examples' own sets go through poses and backgrounds in turn: what is left out of such a set is always something
    that the rest does not show, and what is fresh is not. Some taken at random from a much larger set are not like that.
    """
    random = np.random.default_rng(derive(seed, "bench pictures"))
    if concept == "sketch":
        things = tuple(sketch.TRAINED[i] for i in random.integers(len(sketch.TRAINED), size=count))
        scenes = sketch.scenes(count, seed, things)
        return [
            mascot.Illustration(
                f"{sketch.NAME}_{i:03d}", sketch.stylise(scene), sketch.caption(scene), scene.background
            )
            for i, scene in enumerate(scenes, 1)
        ]
    # The doll on every background: on its examples' five, five pictures could show all that there is.
    many = (mascot.pictures if concept == "mascot" else gadget.held_out)(max(240, 2 * count), seed)
    rows = random.permutation(len(many))[:count]
    return [many[row]._replace(name=f"{concept}_{i:03d}") for i, row in enumerate(rows, 1)]


def recipe_of(one: Configuration, steps: int, rate: float, changed: Mapping[str, Any] = MappingProxyType({})) -> Recipe:
    """The method's example recipe, with a smaller batch, this bench's budget and what is `changed`."""
    tables = config.read_tables(RECIPES / f"{RECIPE[one.method]}.toml")
    settings = {
        "data.images": "bench",
        "data.cache": False,
        "data.flip": True,
        "train.steps": steps,
        "train.batch_size": BATCH,
        "train.learning_rate": rate,
        "train.seed": one.seed,
        "train.device": "cpu",
        "train.schedule": "constant",
        **WORDS[one.concept],
    }
    if one.method == "lora":
        settings["method.rank"] = 16
    if one.method != "textual-inversion":
        settings["train.ema"] = EMA
    if one.method == "textual-inversion":
        settings["method.init"] = INIT[one.concept]
    return config.build(config.override(tables, {**settings, **changed}))


def bank_of(model: Model, pictures: Sequence[mascot.Illustration], recipe: Recipe) -> Bank:
    with tempfile.TemporaryDirectory() as folder:
        mascot.write(Path(folder), pictures)
        manifest = scan.scan(Path(folder), recipe.data, size_px=model.native_size_px, needed=1)
        buckets = bucket.assign(manifest, size_px=model.native_size_px, step_px=8)

        def encode(pixels: torch.Tensor) -> torch.Tensor:
            return model.encode_images(pixels).float()

        filling = banks.fill(
            buckets, recipe.data, encode, vae="embedded", scale=model.latent_scale, folder=None, device=model.device
        )
        return drained(filling)


def part_of(bank: Bank, names: Sequence[str], recipe: Recipe) -> Bank:
    """The bank of some of its pictures."""
    wanted, shelves = set(names), []
    for shelf in bank.buckets:
        rows = [row for row, sample in enumerate(shelf.samples) if sample.name in wanted]
        if rows:
            samples = tuple(shelf.samples[row] for row in rows)
            shelves.append(replace(shelf, samples=samples, latents_NVCHW=tuple(shelf.latents_NVCHW[r] for r in rows)))
    assert all(isinstance(shelf, BucketLatents) for shelf in shelves)
    return Bank(shelves, recipe.data, bank.device)


def subjects(bank: Bank, names: Sequence[str] | None = None, key: str = "train") -> list[ProbedImage]:
    every = {
        b.names[0]: ProbedImage(f"{key}/{b.names[0]}", b.latents_BCHW[0], b.captions[0], bank.size_px_of(b))
        for b in bank.plain()
    }
    return [every[name] for name in (names or every)]


def check_schedule(steps: int) -> list[int]:
    rungs = [FIRST]
    while rungs[-1] < steps:
        rungs.append(max(rungs[-1] + 1, math.ceil(round(RATIO * rungs[-1], 9))))
    return [*(rung for rung in rungs if rung < steps), steps]


@dataclass(frozen=True)
class Lane:
    kind: str  # "fold", "hold-out" or "all"
    names: tuple[str, ...]  # trained on
    held_out: tuple[str, ...] = ()
    twins: tuple[str, ...] = ()


def lanes_of(bank: Bank, one: Configuration, folds: int = 0) -> Iterator[Lane]:
    """As `data.split` and `training.guard_plan` have it."""
    groups = [(name,) for name in bank.names]  # drawn apart, so no two are copies
    few = folds > 0 or len(groups) < LEAST_TO_HOLD_OUT
    count = min(MOST_HELD_OUT, max(LEAST_HELD_OUT, round(SHARE * len(groups))), -(-len(groups) // 2))
    how: Split = split(groups, one.seed, folds=folds, count=count)
    for fold, part in enumerate(how.parts):
        rest = tuple(name for name in bank.names if name not in part)
        yield Lane("fold" if few else "hold-out", rest, part, how.train_probe(max(2, len(part)), fold))
    yield Lane("all", tuple(bank.names), twins=tuple(bank.names)[:TWINS])


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, Ratios):
        return rounded(asdict(value))
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, (list, tuple)) else value


class Bench:
    """One model and its accelerator, used for every configuration in turn."""

    def __init__(self, precision: str = "auto") -> None:
        first = recipe_of(Configuration("lora", "mascot", 3, 0), 8, 1e-3)
        train = first.train.model_copy(update={"precision": precision})
        self.accelerator = accelerate_for(first.model_copy(update={"train": train}))
        self.precision = "fp32" if self.accelerator.mixed_precision == "no" else self.accelerator.mixed_precision
        self.model = families.load(
            "embedded",
            tokenizer="",
            vae="builtin",
            device=self.accelerator.device,
            dtype=DTYPES[self.precision],
            embedded_path=EMBEDDED,
        )

    def attached(self, recipe: Recipe) -> Attachment:
        """The trained part of a recipe, on the model."""
        settings = recipe.method.completed(recipe.data)
        return METHODS[recipe.method.name].attach(self.model, settings, generator(recipe.train.seed, "init"))

    def fitting(self, attachment: Attachment, recipe: Recipe, bank: Bank, schedule: Schedule | None = None) -> Fit:
        """A training by the product's own loop."""
        train = recipe.train
        # What Accelerate keeps of the training before.
        self.accelerator.free_memory()
        return Fit(
            self.model,
            attachment,
            recipe,
            self.accelerator,
            batch=lambda number: bank.batch(number, train.batch_size, train.seed),
            condition=conditioner(self.model, attachment, bank.size_px_of),
            schedule=schedule,
        )

    def truth(self, attachment: Attachment, population: Sequence[ProbedImage]) -> Probe:
        """Of pictures that nobody trains on, in the middle range only."""
        with mock.patch.object(probes, "HIGH", ()):
            autocast = self.accelerator.autocast
            return Probe(self.model, attachment, population, (), controls=(), chunk=CHUNK, autocast=autocast)

    def run(self, one: Configuration, *, steps: int, rate: float, only: str = "", folds: int = 0) -> dict[str, Any]:
        began = time.monotonic()
        recipe = recipe_of(one, steps, rate)
        bank = bank_of(self.model, drawn(one.concept, one.pictures, one.seed), recipe)
        fresh = bank_of(self.model, drawn(one.concept, POPULATION, 1000 + one.seed), recipe)
        population = subjects(fresh, key="fresh")
        lanes = [
            self.lane(recipe, bank, lane, population)
            for lane in lanes_of(bank, one, folds)
            if not only or lane.kind == only
        ]
        return {
            **asdict(one),
            "steps": steps,
            "rate": rate,
            "batch": recipe.train.batch_size,
            "precision": self.precision,
            "ema": recipe.train.ema,
            "schedule": recipe.train.schedule,
            "optimizer": recipe.train.optimizer,
            "seconds": round(time.monotonic() - began, 1),
            "lanes": lanes,
        }

    def lane(self, recipe: Recipe, bank: Bank, lane: Lane, population: Sequence[ProbedImage]) -> dict[str, Any]:
        """Train one lane and read it at every rung."""
        part = part_of(bank, lane.names, recipe)
        attachment = self.attached(recipe)
        try:
            run = self.fitting(attachment, recipe, part)
            truth = self.truth(attachment, population)
            held, twins = subjects(bank, lane.held_out) if lane.held_out else (), subjects(bank, lane.twins, "twin")
            own = Probe(self.model, attachment, held, twins, chunk=CHUNK, autocast=self.accelerator.autocast)
            fixed = Fixed(run, part) if lane.kind == "all" else None
            rungs, rows, losses, batch_losses = check_schedule(recipe.train.steps), [], [], []
            train_s = 0.0
            for event in fit(run):
                losses.append(event.loss)
                train_s += event.seconds
                if fixed and event.step % FIXED_EVERY == 1:
                    batch_losses.append((event.step, fixed.loss()))
                if event.step not in rungs:
                    continue
                coarse = (rungs.index(event.step)) % COARSE == 0 or event.step == rungs[-1]
                started = time.monotonic()
                with run.written_weights():
                    mine = own.measure(drift=coarse)
                    own_s = time.monotonic() - started
                    there = truth.measure(train=False, drift=False) if coarse or lane.kind == "all" else None
                rows.append(
                    {
                        "step": event.step,
                        "held_out": mine.held_out,
                        "train": mine.train,
                        "population": there.held_out if there else None,
                        "drift": mine.drift,
                        "own_drift": mine.own_drift,
                        "train_s": train_s,
                        "probe_s": own_s,
                        "truth_s": time.monotonic() - started - own_s,
                    }
                )
            return rounded(
                {
                    "kind": lane.kind,
                    "trained_on": len(lane.names),
                    "held_out": lane.held_out,
                    "rungs": rows,
                    "base": {"held_out": own._base[0], "train": own._base[1], "population": truth._base[0]},
                    "losses": losses if lane.kind == "all" else [],
                    "fixed_batch": batch_losses,
                    "probe_draws": own.draws,
                    "train_s": train_s,
                }
            )
        finally:
            attachment.detach()


class Fixed:
    """DVAR's yardstick: one batch of training pictures, its noise and timesteps never changed; the live weights."""

    def __init__(self, run: Fit, bank: Bank) -> None:
        self._run = run
        self._batch: Batch = bank.batch(0, BATCH, 12345)
        latents_BCHW = self._batch.latents_BCHW
        self._t_B, self._noise = draw(run.recipe.train, 1_000_000, latents_BCHW, run.objective)

    def loss(self) -> float:
        run, latents = self._run, self._batch.latents_BCHW
        noisy = run.objective.add_noise(latents, self._noise, self._t_B)
        with torch.no_grad(), run.accelerator.autocast():
            output = run.model.denoise(noisy, self._t_B, run.condition(self._batch))
        return float((output.float() - run.objective.target(latents, self._noise, self._t_B)).pow(2).mean())


def claim(path: Path) -> bool:
    """Take a configuration for this process; one whose owner is gone is free again."""
    with suppress(FileExistsError):
        with path.open("x") as lock:
            lock.write(str(os.getpid()))
        return True
    with suppress(FileNotFoundError, ValueError, ProcessLookupError):
        owner = int(path.read_text())
        os.kill(owner, 0)
        return owner == os.getpid()
    with suppress(FileNotFoundError):
        path.unlink()
    return claim(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="method/concept/pictures/seed, or the beginning of it")
    parser.add_argument("--longer", type=float, default=1, help="times the plan's steps")
    parser.add_argument("--steps", type=int, default=0, help="instead of the plan's, for a trial")
    parser.add_argument("--rate", type=float, default=0, help="instead of the plan's, for a trial")
    parser.add_argument("--lane", default="", help="only this kind of lane, for a trial")
    parser.add_argument("--folds", type=int, default=0, help="so many folds whatever the number of pictures")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    bench = Bench(options.precision)
    for one in plan(options.seeds):
        path = options.out / f"{one.name.replace('/', '-')}.json"
        lock = path.with_suffix(".lock")
        if not one.name.startswith(options.only) or path.exists() or not claim(lock):
            continue
        if not path.exists():
            rate = options.rate or one.rate
            steps = options.steps or round(options.longer * one.steps)
            result = bench.run(one, steps=steps, rate=rate, only=options.lane, folds=options.folds)
            write_text(path, json.dumps(result))
            print(f"{time.strftime('%H:%M:%S')} {one.name}: {result['seconds']} s", flush=True)
        lock.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
