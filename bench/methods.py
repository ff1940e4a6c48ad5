"""Which method for which goal: the four methods on the embedded world, per goal and number of pictures, in equal seconds.

    python bench/methods.py --out DIR [--seeds 3] [--only lora/character/16/0]   # trains; goes on where it was
    python bench/methods.py --out DIR --read [--write FILE]                         # the tables; the file that `advise` reads
    python bench/methods.py --out bench/methods.jsonl.xz --read                     # of what is kept here

A cell is (method, goal, pictures, seed). Training ends after SECONDS processor seconds of training steps in one thread, so a
busy machine changes nothing. At each sixth of that the weights that would be written meet fresh pictures (bench/goals): the
best of these is what a perfect guard would keep, and it is drawn, scored by the embedded yardstick and written to a file.
Combinations come after the cells of a seed that they are made of. One JSON file a cell, written whole.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / "guard"))
sys.path.insert(0, str(Path(__file__).parent))

import collect

import goals
import tsuika
from goals import BY_NAME, GOALS
from tsuika import config, formats
from tsuika.config import Recipe
from tsuika.core.files import write_text
from tsuika.core.types import Artifact, Attachment
from tsuika.data.bank import Bank
from tsuika.embedded import mascot
from tsuika.generation import pipeline
from tsuika.guard import probe as probes
from tsuika.guard.probe import Probe
from tsuika.methods import METHODS
from tsuika.training.fit import Fit
from tsuika.training.loop import fit

PIVOTAL = "textual-inversion + lora"
PLAIN = "lora without convolutions"  # what `advise` recommends for a real base
COUNTS = (4, 16, 100)  # a few, some, many
SECONDS = 18.0
RUNGS = 6
FRESH = 16
DRAW_STEPS = 12
# Each method's best of three (0.5, 1 and 2 times what it was on the base's first edition; where 0.5 won, 0.25 as well), by the
# character and the style of 16 with a seed of their own: docs/log/2026-11-30-which-method-second-base.md.
RATES = {"lora": 1.75e-3, "textual-inversion": 8e-2, "dreambooth": 3.5e-4, "hypernetwork": 1.25e-3}


@dataclass(frozen=True)
class Cell:
    method: str
    goal: str
    pictures: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method.replace(' without ', '-without-')}/{self.goal}/{self.pictures}/{self.seed}"

    @property
    def trains(self) -> str:
        """The method by its name in the package."""
        return "lora" if self.method == PLAIN else self.method


@dataclass(frozen=True)
class Pair:
    """Two results on one model, against each of them alone. `first` is trained on `goal`s[0], and so on."""

    name: str
    methods: tuple[str, str]
    goals: tuple[str, str]
    scene: str  # what is asked for: "print" (the character as a print) or "both" (character and object)


PAIRS = (
    Pair("character LoRA + style hypernetwork", ("lora", "hypernetwork"), ("character", "style"), "print"),
    Pair("character LoRA + style LoRA", ("lora", "lora"), ("character", "style"), "print"),
    Pair("character LoRA + object word", ("lora", "textual-inversion"), ("character", "object"), "both"),
    Pair("character LoRA + object LoRA", ("lora", "lora"), ("character", "object"), "both"),
    Pair("character DreamBooth + style hypernetwork", ("dreambooth", "hypernetwork"), ("character", "style"), "print"),
    Pair("character DreamBooth + object word", ("dreambooth", "textual-inversion"), ("character", "object"), "both"),
)
PAIR_COUNT = 16  # pictures of each result of a pair
STRENGTHS = ((1.0, 0.0), (0.5, 0.0), (0.0, 1.0), (0.0, 0.5), (1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (0.5, 0.5))


@dataclass(frozen=True)
class Pairing:
    pair: Pair
    seed: int

    @property
    def name(self) -> str:
        return f"pair/{self.pair.name.replace(' ', '-')}/{self.seed}"


def plan(seeds: int) -> Iterator[Cell | Pairing]:
    """A whole seed first, and in it what pairs are made of, then these."""
    for seed in range(seeds):
        yield from (Cell(method, goal, PAIR_COUNT, seed) for goal in GOALS for method in METHODS)
        yield from (Pairing(pair, seed) for pair in PAIRS)
        yield from (Cell(method, goal, count, seed) for count in (4, 100) for goal in GOALS for method in METHODS)
        yield from (Cell(PIVOTAL, goal, PAIR_COUNT, seed) for goal in ("character", "object", "concept"))
        yield from (Cell(PLAIN, goal, count, seed) for count in COUNTS for goal in GOALS)


def recipe_of(cell: Cell) -> Recipe:
    """The method's recipe for the embedded world at this goal."""
    goal = BY_NAME[cell.goal]
    tables = config.read_tables(collect.RECIPES / f"{collect.RECIPE[cell.trains]}.toml")
    settings: dict[str, Any] = {
        "data.images": "bench",
        "data.cache": False,
        "data.flip": True,
        "data.variants": 4,
        "train.steps": 100_000,
        "train.batch_size": collect.BATCH,
        "train.learning_rate": RATES[cell.trains],
        "train.seed": cell.seed,
        "train.device": "cpu",
        "train.schedule": "constant",
        "train.warmup": 0.0,
        **goal.words,
    }
    if cell.trains == "lora":
        settings |= {"method.rank": 16, "method.conv": cell.method != PLAIN}
    if cell.method == "textual-inversion":
        settings |= {"method.init": goal.init, "data.trigger": goal.words["data.trigger"] or goals.STYLE_WORD}
    else:
        settings["train.ema"] = collect.EMA
    return config.build(config.override(tables, settings))


class Bench(collect.Bench):
    """One model, used for every cell in turn."""

    def cell(self, cell: Cell, folder: Path) -> dict[str, Any]:
        """Train, measure on the way, draw and write what was best."""
        began, spent = time.process_time(), 0.0
        under: Attachment | None = None
        if cell.method == PIVOTAL:  # a third of the seconds for the word, the rest for a LoRA on it
            one = replace(cell, method="textual-inversion")
            under, fitting = self.attach(one, self.bank(one, goals.pictures(cell.goal, cell.pictures, cell.seed)))
            events = fit(fitting)
            while spent < SECONDS / 3:
                started = time.process_time()
                next(events)
                spent += time.process_time() - started
            events.close()
        trained = replace(cell, method="lora") if under else cell
        bank = self.bank(trained, goals.pictures(cell.goal, cell.pictures, cell.seed))
        attachment, fitting = self.attach(trained, bank)
        try:
            fresh = self.bank(trained, goals.fresh(cell.goal, FRESH, cell.seed), plain=True)
            truth = self.probe(attachment, fresh, goals.UNRELATED)
            rows: list[dict[str, Any]] = []
            best: dict[str, torch.Tensor] = {}
            events = fit(fitting)
            while spent < SECONDS:
                started = time.process_time()
                event = next(events)
                spent += time.process_time() - started
                if spent < SECONDS * (len(rows) + 1) / RUNGS:
                    continue
                with fitting.written_weights():
                    reading = truth.measure(train=False)
                    row = {"step": event.step, "seconds": spent, "mid": reading.held_out.mid, "drift": reading.drift}
                    rows.append(row)
                    if value(row) == min(map(value, rows)):
                        best = {name: tensor.detach().clone() for name, tensor in attachment.tensors().items()}
            events.close()
            attachment.load(best)
            prompts = [self.worded(trained, prompt.text) for prompt in BY_NAME[cell.goal].prompts]
            drawn = self.draw(prompts, BY_NAME[cell.goal].seeds)
            sheet(folder / "pictures" / f"{cell.name.replace('/', '-')}.png", drawn)
            parts = [attachment, under] if under else [attachment]
            return collect.rounded(
                {
                    **asdict(cell),
                    "rows": rows,
                    "base": truth._base[0],
                    "rate": RATES[trained.trains],
                    "scores": goals.scores(cell.goal, drawn)._asdict(),
                    "bytes": sum(self.write(cell, p, folder) for p in parts),
                    "trained": sum(t.numel() for t in attachment.tensors().values()),
                    "precision": self.precision,
                    "all_s": time.process_time() - began,
                }
            )
        finally:
            attachment.detach()
            if under:
                under.detach()

    def attach(self, cell: Cell, bank: Bank) -> tuple[Attachment, Fit]:
        recipe = recipe_of(cell)
        attachment = self.attached(recipe)
        return attachment, self.fitting(attachment, recipe, bank)

    def worded(self, cell: Cell, caption: str) -> str:
        return goals.with_word(cell.goal, caption) if cell.method == "textual-inversion" else caption

    def bank(self, cell: Cell, drawn: Sequence[mascot.Illustration], *, plain: bool = False) -> Bank:
        recipe = recipe_of(cell)
        if plain:
            recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"variants": 1, "flip": False})})
        worded = [one._replace(caption=self.worded(cell, one.caption)) for one in drawn]
        return collect.bank_of(self.model, worded, recipe)

    def probe(self, attachment: Attachment, fresh: Bank, controls: Sequence[str] = ()) -> Probe:
        with mock.patch.object(probes, "HIGH", (925,)):  # `HIGHS` of them: the middle range, and little else
            return Probe(
                self.model,
                attachment,
                collect.subjects(fresh, key="fresh"),
                (),
                controls=controls,
                draws=(3, 3),
                chunk=collect.CHUNK,
                autocast=self.accelerator.autocast,
            )

    def draw(self, prompts: Sequence[str], seeds: int) -> list[goals.Pixels]:
        defaults = pipeline.defaults_for(self.model, tsuika.EMBEDDED)
        with self.accelerator.autocast():
            pixels = pipeline.sample(
                self.model, prompts, seed=100, num=seeds, steps=DRAW_STEPS, defaults=defaults, batch_size=8
            )
        return [np.asarray(picture) for picture in pipeline.to_images(pixels)]

    def write(self, cell: Cell, attachment: Attachment, folder: Path) -> int:
        """Bytes of the method's main file in half precision; the result is kept where a pair needs it."""
        artifact = attachment.artifact()
        main = formats.for_method(artifact.method)[0]
        if cell.pictures == PAIR_COUNT and cell.method != PLAIN:
            kept = kept_path(folder, cell.method, cell.goal, cell.seed)
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save(asdict(artifact), kept)
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / f"result{main.suffix}"
            main.write(artifact, path, dtype=torch.float16)
            return path.stat().st_size

    def pair(self, pair: Pair, seed: int, folder: Path) -> dict[str, Any]:
        """Two results on the base at several strengths, on pictures that need both; 0 is one of them alone."""
        cell = Cell("lora", pair.goals[0], PAIR_COUNT, seed)
        fresh = self.bank(cell, goals.joint(pair.scene, 2 * FRESH, seed), plain=True)
        parts = []
        for method, goal in zip(pair.methods, pair.goals, strict=True):
            kept = torch.load(kept_path(folder, method, goal, seed), weights_only=True)
            parts.append(METHODS[method].restore(self.model, Artifact(**kept)))
        stack, rows = Stack(parts), []
        try:
            probe = self.probe(stack, fresh)
            for strengths in STRENGTHS:
                stack.mix(strengths)
                row = {"strengths": strengths, "mid": probe.measure(train=False, drift=False).held_out.mid}
                if set(strengths) <= {0.0, 1.0}:
                    drawn = self.draw(goals.joint_prompts(pair.scene), 2)
                    sheet(folder / "pictures" / f"{Pairing(pair, seed).name.replace('/', '-')}-{strengths}.png", drawn)
                    row["scores"] = goals.joint_scores(pair.scene, drawn)._asdict()
                rows.append(row)
        finally:
            stack.detach()
        return collect.rounded({"pair": pair.name, "seed": seed, "rows": rows})


class Stack:
    """Several attachments as the one that a probe asks."""

    def __init__(self, parts: Sequence[Attachment]) -> None:
        self.parts = parts
        self.trains = frozenset({"text.tokens"})  # a word comes and goes with its strength: captions must not be kept
        self.set_strength(1)  # peft activates the newest set of layers only

    def set_strength(self, strength: float) -> None:
        self.mix([strength] * len(self.parts))

    def mix(self, strengths: Sequence[float]) -> None:
        for part, strength in zip(self.parts, strengths, strict=True):
            part.set_strength(strength)

    def detach(self) -> None:
        for part in reversed(self.parts):
            part.detach()


def value(row: dict[str, Any]) -> float:
    return fmean(number for line in row["mid"] for number in line)


def kept_path(folder: Path, method: str, goal: str, seed: int) -> Path:
    return folder / "kept" / f"{method}-{goal}-{seed}.pt"


def sheet(path: Path, drawn: Sequence[goals.Pixels]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(drawn, axis=1)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="method/goal/pictures/seed, or the beginning of it")
    parser.add_argument("--times", type=float, default=1, help="the rates of RATES, to find the best ones")
    parser.add_argument("--read", action="store_true")
    parser.add_argument("--write", type=Path, help="with --read: the file that `tsuika advise` reads")
    options = parser.parse_args()
    if options.read:
        import methods_read

        return methods_read.read(options.out, options.write)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    RATES.update({method: options.times * rate for method, rate in RATES.items()})
    bench = Bench()
    for job in plan(options.seeds):
        name = job.name.replace("/", "-")
        path = options.out / f"{name}.json"
        if path.exists() or not job.name.startswith(options.only):
            continue
        began = time.monotonic()
        result = bench.cell(job, options.out) if isinstance(job, Cell) else bench.pair(job.pair, job.seed, options.out)
        write_text(path, json.dumps(result))
        print(f"{time.strftime('%H:%M:%S')} {name}: {time.monotonic() - began:.0f} s", flush=True)
    return None


if __name__ == "__main__":
    main()
