"""Peak memory and seconds of loading a base, each in a process of its own, in turn with diffusers where it is a folder.

python bench/loading.py BASE [--tokenizer FOLDER] [--precision fp32] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

OURS = "import tsuika; model = tsuika.load({base!r}, device='cpu', precision={precision!r}, tokenizer={tokenizer!r})"
THEIRS = """import torch, diffusers
model = diffusers.StableDiffusionPipeline.from_pretrained({base!r}, torch_dtype=torch.{dtype}, safety_checker=None)"""
MEASURED = """
import json, resource, time
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([usage.ru_maxrss / 2**20, usage.ru_utime + usage.ru_stime, time.monotonic() - began]))"""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("--tokenizer")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    dtype = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[options.precision]
    ways = {"tsuika": OURS} | ({"diffusers": THEIRS} if Path(options.base).is_dir() else {})
    rows: dict[str, list[list[float]]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, code in ways.items():
            program = "import time; began = time.monotonic()\n" + code.format(**vars(options), dtype=dtype) + MEASURED
            done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
            rows[name].append(json.loads(done.stdout.splitlines()[-1]))
    print("| | peak memory, GiB | processor, s | s |\n|---|---|---|---|")
    for name, measured in rows.items():
        print(
            f"| {name} | " + " | ".join(f"{statistics.median(one):.2f}" for one in zip(*measured, strict=True)) + " |"
        )


if __name__ == "__main__":
    main()
