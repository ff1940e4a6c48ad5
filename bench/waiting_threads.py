"""What it costs torch's threads to wait beside another program: `python bench/waiting_threads.py`, on two cores.

Draws the same images in a process of its own for each way of waiting, alone and beside a program that takes one core.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

WAYS: dict[str, dict[str, str]] = {
    "as torch has it": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def draw() -> None:
    import torch

    import tsuika
    from tsuika.generation import pipeline

    model = tsuika.load("embedded", device="cpu", precision="bf16")
    defaults = pipeline.defaults_for(model, tsuika.EMBEDDED)
    for _round in range(3):  # the first one warms up
        began = time.monotonic()
        with torch.autocast("cpu", torch.bfloat16):
            pipeline.sample(model, ["a cat in the snow"], seed=1, num=8, steps=8, defaults=defaults, batch_size=8)
        spent = time.monotonic() - began
    print(f"{spent:.2f}")


def main() -> None:
    print("| | free | busy |\n|---|---|---|")
    for name, settings in WAYS.items():
        seconds = []
        for busy in (False, True):
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
            try:
                command = [sys.executable, __file__, "draw"]
                run = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
            finally:
                if other is not None:
                    other.kill()
            seconds.append(run.stdout.split()[-1])
        print(f"| {name} | {seconds[0]} s | {seconds[1]} s |", flush=True)


if __name__ == "__main__":
    draw() if sys.argv[1:] == ["draw"] else main()
