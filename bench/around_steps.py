"""Processor seconds of what a run does around its steps with a base's weights: fingerprint, saved states, comparison.

    python bench/around_steps.py BASE [--tokenizer FOLDER] [--rounds 3]

A DreamBooth on the base, with the state of an AdamW that has stepped; float32, one thread. Medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tsuika import families, formats
from tsuika.methods import find
from tsuika.training import checkpoint, preparation, surroundings, writing


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("--tokenizer", default="")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = families.load(options.base, tokenizer=options.tokenizer, device=torch.device("cpu"), dtype=torch.float32)
    method = find("dreambooth")
    attachment = method.attach(model, method.settings(), torch.Generator(), None)
    weights = attachment.tensors()
    moments = {
        number: {"step": torch.tensor(1.0), "exp_avg": torch.zeros_like(one), "exp_avg_sq": torch.zeros_like(one)}
        for number, one in enumerate(weights.values())
    }
    optimizer = {"state": moments, "param_groups": [{"lr": 1e-6, "params": list(moments)}]}
    rounded = {name: value.to(torch.float16) for name, value in weights.items()}
    artifact = attachment.artifact()
    with tempfile.TemporaryDirectory() as folder:
        whole = checkpoint.State(1, weights, optimizer)
        last = checkpoint.State(2, weights, {"state": {}, "param_groups": []})
        parts: dict[str, Callable[[], object]] = {
            "fingerprint of the base": lambda: surroundings.fingerprint(model),
            "identity of the VAE": lambda: preparation.vae_identity(model),
            "saved state": lambda: checkpoint.save(Path(folder), whole),
            "saved state without the optimizer": lambda: checkpoint.save(Path(folder), last),
            "what half precision cannot hold": lambda: writing.faint_layers(artifact, "fp16"),
            "comparison with what was read back": lambda: formats.tensor_errors(weights, rounded),
        }
        count = sum(value.numel() for value in weights.values())
        print(f"{count:,} trained weights\n\n| | processor s | result |\n|---|---|---|")
        for name, part in parts.items():
            seconds, results = [], set()
            for _ in range(options.rounds):
                began = time.process_time()
                found = part()
                seconds.append(time.process_time() - began)
                shown = f"{max(found.values()):.6e}" if isinstance(found, dict) else str(found)
                results.add(shown[:12])
            print(f"| {name} | {statistics.median(seconds):.2f} | {', '.join(sorted(results))} |", flush=True)


if __name__ == "__main__":
    main()
