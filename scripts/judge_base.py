"""Make the two judges of the embedded base, and question them.

python scripts/judge_base.py yardstick --work DIR    train, and show that it separates things it never saw
python scripts/judge_base.py question --work DIR     show that again
python scripts/judge_base.py examiner --work DIR     train on fresh renders only
python scripts/judge_base.py exam --work DIR --base FOLDER   judge 25-step samples over the whole vocabulary
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from base.judges import exam, examiner, mark, question_yardstick, train_examiner, train_yardstick
from tsuika.embedded.things import KNOWN
from tsuika.embedded.world import World, draw


def main() -> None:
    """One judge at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("yardstick", "examiner", "question", "exam"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--base", type=Path, help="exam: the diffusers folder to judge")
    parser.add_argument("--per-thing", type=int, default=8)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--sheet", type=Path, help="exam: write the samples as one picture")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.what == "yardstick":
        train_yardstick(options.work, options.steps)
        print(json.dumps(question_yardstick(options.work), indent=1))
    elif options.what == "question":
        print(json.dumps(question_yardstick(options.work), indent=1))
    elif options.what == "exam":
        print(
            json.dumps(exam(options.work, options.base, options.per_thing, options.cfg, sheet=options.sheet), indent=1)
        )
    else:
        train_examiner(options.work, options.steps)
        rng, world = np.random.default_rng(31337), World(pairs=0)
        pictures = [world.picture(rng) for _ in range(512)]
        names = {thing.name: thing for thing in KNOWN}
        right = mark(
            examiner(options.work),
            [draw(p) for p in pictures],
            [(names[p.things[0].thing], p.background) for p in pictures],
        )
        print(
            json.dumps(
                {"fresh_things_right": float(right[0].mean()), "fresh_backgrounds_right": float(right[1].mean())}
            )
        )


if __name__ == "__main__":
    main()
