"""What masks do where all images have the same background: likeness, and how much of that background new prompts show.

    python bench/masks.py --out DIR [--steps 200] [--seeds 1]

Twelve images of the mascot in front of one busy background (known things in rows, the same pixels in every image),
called `a tsuipi character` throughout, so that neither variety nor words can tell the two apart. A LoRA is trained on them
without masks, with masks, and with masks whose outside weighs a tenth; the guard is off, so that all train as long.

likeness: `yardstick.likeness` of drawings of new prompts to fresh images of the mascot. place: probability that the yardstick
gives to the background asked for. leak: correlation of the drawing's outer frame (an eighth of the side) with that of the
training background, mean colour of each channel taken out. The base itself draws the first row.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import tsuika
from tsuika import config, families
from tsuika.api.models import EMBEDDED, defaults_of
from tsuika.core.types import Model
from tsuika.embedded import mascot, yardstick
from tsuika.embedded.world import Picture, Placed, draw, thing_mask
from tsuika.generation import pipeline
from tsuika.methods import METHODS
from tsuika.training.preparation import apply_artifact

COUNT: Final = 12
SIDE: Final = 64
DRAWINGS: Final = 6  # of each prompt
ARMS: Final = {
    "no mask": {},
    "mask": {"data.masks": "auto"},
    "mask, outside 0.1": {"data.masks": "auto", "data.mask_outside": 0.1},
}
CLUTTER: Final = ("apple", "frog", "strawberry", "cat", "banana", "rose")
PROMPTS: Final = tuple(prompt for prompt in mascot.TEST_PROMPTS if prompt.mascot and not prompt.companion)

Pixels = NDArray[np.uint8]


def background(side: int) -> Picture:
    """The one that stands behind every image."""
    spots = [(x, y) for y in range(4) for x in range(4)]
    things = (Placed(CLUTTER[(5 * x + 3 * y) % 6], 0.3, (x + 0.5) / 4, (y + 0.5) / 4) for x, y in spots)
    return Picture("yellow", tuple(things), 7)


def write(folder: Path) -> Pixels:
    """The images and their masks; returns the background at the size of drawings."""
    folder.mkdir(parents=True, exist_ok=True)
    behind = background(SIDE)
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        pose = list(mascot.POSES)[number % len(mascot.POSES)]
        x, y = rng.uniform(0.42, 0.58, 2)
        placed = Placed(
            f"{mascot.TRIGGER}/{pose}", float(rng.uniform(0.6, 0.8)), float(x), float(y), float(rng.uniform(-8, 8))
        )
        picture = Picture(behind.background, (*behind.things, placed), behind.seed)
        Image.fromarray(draw(picture, mascot.PICTURE_PX, mascot.source)).save(folder / f"{number:02d}.png")
        mask = thing_mask(Picture("white", (placed,), 0), mascot.PICTURE_PX, mascot.source)
        Image.fromarray((mask * 255).astype(np.uint8)).save(folder / f"{number:02d}-mask.png")
    return draw(behind, SIDE)


def load() -> Model:
    """The embedded base."""
    return families.load("embedded", device=torch.device("cpu"), dtype=torch.float32, embedded_path=EMBEDDED)


def drawings(model: Model) -> list[list[Pixels]]:
    """Of each prompt."""
    found = []
    for prompt in PROMPTS:
        pixels = pipeline.sample(
            model,
            prompt.text,
            seed=100,
            num=DRAWINGS,
            size_px=(SIDE, SIDE),
            defaults=defaults_of(model),
            batch_size=DRAWINGS,
        )
        found.append([np.asarray(image) for image in pipeline.to_images(pixels)])
    return found


def leak(drawing: Pixels, behind: Pixels) -> float:
    """Correlation of the outer frames."""
    frame = np.ones((SIDE, SIDE), bool)
    frame[SIDE // 8 : -SIDE // 8, SIDE // 8 : -SIDE // 8] = False
    a, b = (one[frame].astype(np.float64) for one in (drawing, behind))
    a, b = (one - one.mean(0) for one in (a, b))
    return float((a * b).sum() / (np.sqrt((a * a).sum() * (b * b).sum()) + 1e-9))


def row(name: str, model: Model, behind: Pixels, out: Path) -> None:
    found = drawings(model)
    flat = [one for group in found for one in group]
    Image.fromarray(np.concatenate([np.concatenate(group, 1) for group in found], 0)).save(out / f"{name}.png")
    fresh = [one.pixels for one in mascot.held_out(24, 1, trained_backgrounds=True)]
    likeness = float(yardstick.likeness(flat, fresh).mean())
    place = [
        yardstick.background_scores(group, prompt.background) for group, prompt in zip(found, PROMPTS, strict=True)
    ]
    leaks = [leak(one, behind) for one in flat]
    print(f"| {name} | {likeness:.3f} | {float(torch.cat(place).mean()):.2f} | {np.mean(leaks):.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    behind = write(args.out / "images")
    print("| | likeness | place | leak |\n|---|---|---|---|", flush=True)
    row("base", load(), behind, args.out)
    for seed in range(args.seeds):
        for name, settings in ARMS.items():
            common = {
                **{
                    "data.images": str(args.out / "images"),
                    "data.trigger": mascot.TRIGGER,
                    "data.class_word": mascot.CLASS_WORD,
                },
                **{"method.rank": 32, "method.conv": True, "train.steps": args.steps, "train.batch_size": 4},
                **{
                    "train.learning_rate": 2e-3,
                    "train.ema": 0.98,
                    "train.seed": seed,
                    "guard.mode": "off",
                    "preview.num": 0,
                },
            }
            run = args.out / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
            if not run.exists():
                for _ in tsuika.train(config.Recipe.of("lora", settings={**common, **settings}), run):
                    pass
            model = load()
            for _ in apply_artifact(str(next((run / "artifacts").glob("*.safetensors"))), model, METHODS["lora"]):
                pass
            row(f"{name}, seed {seed}", model, behind, args.out)


if __name__ == "__main__":
    main()
