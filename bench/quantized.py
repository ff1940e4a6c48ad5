"""What training beside a base of fewer bits costs: a LoRA is trained beside each, and measured on the base as it is.

    python bench/quantized.py --out DIR [--seeds 2]

Plain runs of 120 steps on 20 pictures, the rate falling, as in bench/guard/settings.py; fresh pictures tell the truth. A
row that is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import get_args

import torch

sys.path.insert(0, str(Path(__file__).parent / "guard"))

from collect import CONCEPTS, Bench, Configuration
from frontier import Trainings

from tsuika.core.files import write_text
from tsuika.diffusion.quantization import Kind, quantize
from tsuika.guard.reading import mean
from tsuika.training.loop import fit
from tsuika.training.schedule import Schedule

STEPS = 120


def truth(kind: Kind, seed: int) -> dict[str, float]:
    """The change of the loss on fresh pictures, on the whole base and on that which was trained beside; seconds of a step."""
    one, bench = Configuration("lora", CONCEPTS["lora"][seed % 2], 20, seed), Bench()
    quantize(bench.model, kind)
    beside = Trainings(bench, one)
    train = beside.recipe.train.model_copy(update={"schedule": "linear"})
    run, began = beside.fit(beside.bank, Schedule.falling(train, 0, STEPS), beside.start), time.process_time()
    for _ in fit(run):
        pass
    spent = time.process_time() - began
    with run.written_weights():
        weights = beside.weights()
        own = mean(beside.truth.measure(train=False, drift=False).held_out.mid)
    whole = Trainings(Bench(), one)
    whole.attachment.load(weights)
    found = mean(whole.truth.measure(train=False, drift=False).held_out.mid)
    return {"whole": found, "own": own, "seconds": spent / STEPS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    print(
        "| seed | base | loss on fresh pictures, on the whole base | on that beside which it was trained | s a step |"
    )
    print("|---|---|---|---|---|")
    for seed in range(options.seeds):
        for kind in get_args(Kind):
            path = options.out / f"{kind}-{seed}.json"
            if not path.exists():
                write_text(path, json.dumps(truth(kind, seed)))
            row = json.loads(path.read_text(encoding="utf-8"))
            print(f"| {seed} | {kind} | {row['whole']:+.1%} | {row['own']:+.1%} | {row['seconds']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
