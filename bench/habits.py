"""Do habits that people bring from other trainers matter on the embedded base? One short run or two each, and a figure.

    python bench/habits.py --out DIR [--only long,sets,start,flow] [--steps 150]

long: a caption's last words decide what it is, behind 80 tokens that are the same for all; read whole, and cut at 75 tokens.
sets: three folders, each with a trigger word of its own, in one run. start: going on from a LoRA file, or from nothing.
flow: the embedded base, which predicts v, is trained to predict flow; DIR/flow.png shows some drawings, a row of the table each.
LoRA (rank 32 with convolutions, 2e-3, EMA 0.98, 4 images a step) but for flow, which is DreamBooth; the guard is off. Likeness:
the yardstick's cosine to fresh images. A run that is there is not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

import tsuika
from examples import draw, held_out_loss, model_with, result_of
from subjects import SUBJECTS
from tsuika import config
from tsuika.core.sections import overrides
from tsuika.core.types import Model
from tsuika.embedded import gadget, mascot, world, yardstick
from tsuika.embedded.mascot import Illustration
from tsuika.families.chunks import limit_of

SEEDS: Final = 6
PLACES: Final = ("in the snow", "at night", "on a red background", "in the forest")
LORA: Final = {
    **{"method.rank": 32, "method.conv": True, "train.batch_size": 4, "train.learning_rate": 2e-3, "train.ema": 0.98},
    **{"guard.mode": "off", "preview.num": 0},
}
# Words that every image has in common; more than CLIP reads at once.
FILLER: Final = ", ".join(["a picture of something drawn by hand with clean outlines and bright colours"] * 6)


def trained(out: Path, name: str, method: str, **settings: Any) -> Path:
    run = out / name
    if not list(run.glob("artifacts/*")):
        for _ in tsuika.train(config.Recipe.of(method, settings=settings), run):
            pass
    return result_of(run)


def written(folder: Path, drawn: Sequence[Illustration], say: Callable[[str], str] = str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    mascot.write(folder, [one._replace(caption=say(one.caption)) for one in drawn])
    return folder


def likeness(model: Model, prompts: Sequence[str], truth: Sequence[Illustration]) -> float:
    flat = [one for row in draw(model, prompts, SEEDS) for one in row]
    return float(yardstick.likeness(flat, [one.pixels for one in truth]).mean())


def table(head: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(one if isinstance(one, str) else f'{one:.2f}' for one in row)} |", flush=True)


def long(out: Path, steps: int) -> None:
    """Two subjects under the same beginning of a caption."""
    tails = {f"a {mascot.NAME}": mascot.held_out(24, 1), f"a {gadget.TRIGGER} {gadget.CLASS_WORD}": gadget.held_out(24)}
    subjects = zip(tails, (mascot.pictures(12), gadget.pictures(12)), strict=True)
    model = tsuika.load("embedded")
    # As a trainer without chunks reads it: as many words as the text encoder has places for.
    words = FILLER.split(" ")
    while max(model.count_tokens(" ".join(words))) > limit_of(model):
        words.pop()
    cut = " ".join(words)
    for tail, drawn in subjects:
        for name, say in (("whole", f"{FILLER}, {tail}"), ("cut", cut)):
            part = [one._replace(name=f"{tail.split()[1]}_{one.name}") for one in drawn]
            written(out / f"long-{name}-images", part, lambda _caption, say=say: say)
    rows: list[list[str | float]] = []
    for name in ("base", "whole", "cut"):
        parts = []
        if name != "base":
            images = str(out / f"long-{name}-images")
            parts = [
                (trained(out, f"long-{name}", "lora", **LORA, **{"data.images": images, "train.steps": steps}), 1.0)
            ]
        with model_with(parts) as model:
            for tail in tails:
                prompts = [f"{FILLER}, {tail}"]
                rows.append([name, tail, *(likeness(model, prompts, truth) for truth in tails.values())])
    table(["captions", "asked for, behind the same 80 tokens", *(f"likeness: {tail}" for tail in tails)], rows)


def sets(out: Path, steps: int) -> None:
    """Three subjects of 15, 25 and 4 images, each as often."""
    imp, pinwheel = (next(one for one in SUBJECTS if one.trigger and one.name == name) for name in ("imp", "pinwheel"))
    truths = {f"{mascot.NAME}": mascot.held_out(24, 1)}
    truths |= {f"{one.trigger} {one.class_word}": one.truth() for one in (imp, pinwheel)}
    folders = [written(out / "sets/mascot", mascot.pictures(15)), out / "sets/imp", out / "sets/pinwheel"]
    for one, folder in ((imp, folders[1]), (pinwheel, folders[2])):
        if not folder.exists():
            one.write(folder)
    each = [
        {"images": str(folder), "trigger": name.split()[0], "class_word": name.split()[1], "repeats": repeats}
        for folder, name, repeats in zip(folders, truths, (5, 3, 19), strict=True)
    ]
    result = trained(out, "sets-run", "lora", **LORA, **{"data.sets": each, "train.steps": 2 * steps})
    rows: list[list[str | float]] = []
    for state, parts in (("base", []), ("after", [(result, 1.0)])):
        with model_with(parts) as model:
            for name in truths:
                prompts = [f"a {name} {place}" for place in PLACES]
                rows.append([state, name, *(likeness(model, prompts, truth) for truth in truths.values())])
    table(["", "asked for", *(f"likeness: {name}" for name in truths)], rows)


def start(out: Path, steps: int) -> None:
    """A LoRA, and half as many steps more: from its file, from nothing, or all at once."""
    images = {"data.images": str(written(out / "start-images", mascot.pictures(15))), "data.trigger": mascot.TRIGGER}
    images |= {"data.class_word": mascot.CLASS_WORD}
    first = trained(out, "start-first", "lora", **LORA, **images, **{"train.steps": steps})
    on = {**{key: value for key, value in LORA.items() if not key.startswith("method.")}, "method.start": str(first)}
    found: Mapping[str, list[tuple[Path, float]]] = {
        "base": [],
        f"{steps} steps": [(first, 1.0)],
        f"{steps // 2} more from its file": [(trained(out, "start-on", "lora", **on, **images, **{"train.steps": steps // 2}), 1.0)],
        f"{steps // 2} from nothing": [(trained(out, "start-half", "lora", **LORA, **images, **{"train.steps": steps // 2}), 1.0)],
        f"{steps + steps // 2} at once": [
            (trained(out, "start-once", "lora", **LORA, **images, **{"train.steps": steps + steps // 2}), 1.0)
        ],
    }  # fmt: skip
    rows: list[list[str | float]] = []
    for name, parts in found.items():
        with model_with(parts) as model:
            loss = float(np.mean(held_out_loss(model, mascot.held_out(24, 1), 4)))
            prompts = [f"a {mascot.NAME} {place}" for place in PLACES]
            rows.append([name, f"{loss:.4f}", likeness(model, prompts, mascot.held_out(24, 1))])
    table(["", "loss on fresh images", "likeness"], rows)


def flow(out: Path, steps: int) -> None:
    """All of the base, on pictures of what it knows."""
    rng, maker = np.random.default_rng(0), world.World(pairs=0.0)
    drawn = [maker.picture(rng) for _ in range(240)]
    pictures = [
        Illustration(f"{i:03d}", world.draw(one, mascot.PICTURE_PX), maker.caption(one, rng), one.background)
        for i, one in enumerate(drawn)
    ]
    images = str(written(out / "flow-images", pictures))
    settings = {"data.images": images, "base.prediction": "flow", "train.steps": 2 * steps, "train.batch_size": 8}
    more = {"train.learning_rate": 3.5e-4, "train.ema": 0.98, "guard.mode": "off", "preview.num": 0}
    result = trained(out, "flow-run", "dreambooth", **settings, **more)
    things = [thing.name for thing in world.KNOWN[::8]]
    rows: list[list[str | float]] = []
    seen = []
    asked = {
        "base, drawn as what it predicts": lambda: tsuika.load("embedded"),
        "base, drawn as flow": lambda: tsuika.load("embedded", overrides=overrides("flow", "auto", 1)),
        "trained, drawn as its files say": lambda: tsuika.load(str(result)),
    }
    for name, load in asked.items():
        model = load()
        with torch.no_grad():
            drawings = draw(model, [f"{world.article(thing)} on a white background" for thing in things], SEEDS)
        scores = [float(yardstick.thing_scores(row, thing).mean()) for row, thing in zip(drawings, things, strict=True)]
        white = [float(yardstick.background_scores(row, "white").mean()) for row in drawings]
        rows.append([name, model.prediction, float(np.mean(scores)), float(np.mean(white))])
        seen.append(np.concatenate([one for row in drawings[:6] for one in row[:2]], axis=1))
    Image.fromarray(np.concatenate(seen)).save(out / "flow.png")
    table(["", "prediction", "the thing", "the background"], rows)


QUESTIONS = {"long": long, "sets": sets, "start": start, "flow": flow}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=",".join(QUESTIONS))
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name in options.only.split(","):
        QUESTIONS[name](options.out, options.steps)


if __name__ == "__main__":
    main()
