"""What the demo costs: seconds per phase, images per second, peak memory, and where a training step's time goes.

    python bench/demo.py [--steps N] [--profile-steps 10]

Prints two tables in Markdown. The demo runs as a user runs it, in a process of its own; the profile is torch's own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

GROUPS = {  # operator name -> what it is, first match wins
    "convolution": "convolutions",
    "scaled_dot_product": "attention",
    "linear": "matrix products",
    "addmm": "matrix products",
    "mm": "matrix products",
    "group_norm": "normalisation",
    "layer_norm": "normalisation",
    "silu": "activations",
    "gelu": "activations",
    "copy_": "copies and casts",
    "_to_copy": "copies and casts",
    "cat": "copies and casts",
    "_foreach": "optimizer and average",
}


def run_demo(steps: int | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        command = [sys.executable, "-m", "tsuika", "demo", "--out", str(out), "--json"]
        subprocess.run([*command, *(["--steps", str(steps)] if steps else [])], check=True, stdout=subprocess.DEVNULL)
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    print("| phase | seconds |\n|---|---|")
    for name, seconds in report["seconds"].items():
        print(f"| {name} | {seconds:.1f} |")
    print(f"| all | {sum(report['seconds'].values()):.1f} |")
    print(
        f"\n{report['images_per_second']:.1f} images/s in training, peak memory {report['peak_memory_bytes'] / 2**20:.0f} MiB"
    )
    for key, score in (report["scores"] or {}).items():
        print(f"{key}: {score['before']['mean']:.3f} -> {score['after']['mean']:.3f} ({score['verdict']})")


def profile_steps(count: int) -> None:
    from torch.profiler import ProfilerActivity, profile

    import tsuika
    from tsuika import config
    from tsuika.core.events import Stepped

    tables = config.override(config.read_tables(tsuika.DEMO_RECIPE), {"data.images": str(tsuika.DEMO_PICTURES)})
    tables = config.override(tables, {"train.steps": count + 3, "data.trigger": "", "data.class_word": ""})
    with tempfile.TemporaryDirectory() as folder:
        events = tsuika.train(config.build(tables), Path(folder) / "run")
        for event in events:
            if isinstance(event, Stepped) and event.step == 2:
                break
        with profile(activities=[ProfilerActivity.CPU]) as watched:
            for _ in range(count):
                while not isinstance(next(events), Stepped):
                    pass
        events.close()  # type: ignore[attr-defined]
    shares: dict[str, float] = defaultdict(float)
    for row in watched.key_averages():
        name = row.key.removeprefix("aten::")
        shares[next((group for mark, group in GROUPS.items() if mark in name), "the rest")] += row.self_cpu_time_total
    total = sum(shares.values())
    print(f"\n| in a step ({total / count / 1e6:.3f} s under the profiler) | share |\n|---|---|")
    for group, micros in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"| {group} | {micros / total:.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="training steps of the demo; default: its own")
    parser.add_argument("--profile-steps", type=int, default=10)
    options = parser.parse_args()
    run_demo(options.steps)
    profile_steps(options.profile_steps)


if __name__ == "__main__":
    main()
