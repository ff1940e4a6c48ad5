"""At which rate and after how many steps does the embedded base know a subject, and what do other prompts lose by then?

    python bench/rates.py lora --rates 2.5e-4,5e-4 --steps 100,200,300 [--set method.rank=32] [--seeds 2]

Trains on an example's images, at each rate in turn, steady after the warm-up, and draws after each of the steps with the
weights that would be written. Prints a Markdown table of the figures of bench/examples.py. What is not set is as the base's own
defaults have it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent / "guard"))

from collect import Bench, bank_of

from examples import EXAMPLES, RECIPES, Drawings, draw
from tsuika import config
from tsuika.embedded.examples import SETS
from tsuika.training.loop import fit
from tsuika.training.schedule import Schedule

EXAMPLE = {
    "lora": "character-lora",
    "textual-inversion": "object",
    "dreambooth": "character-dreambooth",
    "hypernetwork": "style",
}


def row(bench: Bench, name: str, before: Drawings, seeds: int) -> str:
    """The figures of the model as it is."""
    example = EXAMPLES[name]
    figures = example.figures(before, draw(bench.model, example.prompts, seeds))
    return " | ".join(f"{np.mean(one.before):.2f} → {np.mean(one.after):.2f}" for one in figures)


def sweep(
    bench: Bench,
    name: str,
    rate: float,
    steps: Sequence[int],
    settings: Mapping[str, Any],
    seeds: int,
    before: Drawings,
) -> None:
    """Train at one rate to the last of the steps; a row of the table at each."""
    example = EXAMPLES[name]
    tables = config.read_tables(RECIPES / f"{example.recipe}.toml")
    own = {"data.images": "bench", "train.schedule": "constant", "train.steps": steps[-1], "train.learning_rate": rate}
    recipe = config.build(config.override(tables, {**own, "train.device": "cpu", **settings}))
    bank = bank_of(bench.model, SETS[example.pictures](), recipe)
    attachment = bench.attached(recipe)
    try:
        run = bench.fitting(attachment, recipe, bank, Schedule.steady(recipe.train))
        for event in fit(run):
            if event.step in steps:
                with run.written_weights():
                    print(f"| {rate:g}, {event.step} | {row(bench, name, before, seeds)} |", flush=True)
    finally:
        attachment.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=tuple(EXAMPLE))
    parser.add_argument("--rates", required=True, help="comma-separated")
    parser.add_argument("--steps", required=True, help="comma-separated, rising")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=2, help="images a prompt")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench, name = Bench(), EXAMPLE[options.method]
    before = draw(bench.model, EXAMPLES[name].prompts, options.seeds)
    titles = [figure.name for figure in EXAMPLES[name].figures(before, before)]
    print(f"| rate, steps | {' | '.join(titles)} |\n|" + "---|" * (1 + len(titles)), flush=True)
    settings = dict(one.split("=", 1) for one in options.settings)
    for rate in map(float, options.rates.split(",")):
        sweep(bench, name, rate, [int(one) for one in options.steps.split(",")], settings, options.seeds, before)


if __name__ == "__main__":
    main()
