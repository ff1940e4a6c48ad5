"""Stratified timesteps against drawing each one by itself: how much less do the gradients of a step vary?

    python bench/timesteps.py [--draws 64]

The mascot's 20 pictures, a LoRA at its start and after some steps; gradients of many batches by the product's own loss, with
nothing learnt in between. Noise scale: the trace of the gradients' covariance over the squared norm of their mean (McCandlish et
al. 2018, "An empirical model of large-batch training", eq. 2.8): the batch count from which on averaging more gains little.
Both are unbiased estimates; the interval of the ratio is from resampling batches.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent / "guard"))

from collect import Bench, Configuration, bank_of, drawn, recipe_of

from recipes import RUNS, uniform
from tsuika.training import loop
from tsuika.training.fit import Fit
from tsuika.training.loop import fit

TRAINED = 60  # steps of the second state
BATCHES = (4, 8)
GAMMAS = (5.0, 0.0)  # min-SNR
RESAMPLES = 2000


def products(run: Fit, draws: int, *, one_by_one: bool) -> NDArray[np.float64]:
    """Inner products (draws, draws) of the gradients of as many batches."""
    rows = []
    swap = mock.patch.object(loop, "stratified", uniform) if one_by_one else nullcontext()
    # Gradients alone: no step is taken.
    with swap, mock.patch.object(run, "advance"), mock.patch.object(run, "clip_gradients", return_value=0.0):
        # Batches and noise that training never meets.
        for run.step in range(10_000, 10_000 + draws):
            next(fit(run, run.step + 1))
            rows.append(torch.cat([param.grad.flatten() for param in run.params if param.grad is not None]))
    stacked = torch.stack(rows).double()
    return (stacked @ stacked.T).numpy()


def spread(gram: NDArray[np.float64]) -> tuple[float, float]:
    """The covariance's trace and the squared norm of the mean, unbiased."""
    count = len(gram)
    alike, every = float(np.trace(gram)), float(gram.sum())
    mean_square = (every - alike) / (count * (count - 1))
    return alike / count - mean_square, mean_square


def ratio(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float, float]:
    """Of two covariances' traces, with a 95 % interval."""
    rng = np.random.default_rng(0)

    def trace(gram: NDArray[np.float64]) -> float:
        rows = rng.integers(len(gram), size=len(gram))
        counts = np.bincount(rows, minlength=len(gram))
        whole = float(counts @ gram @ counts) / len(gram) ** 2
        return float(counts @ np.diag(gram)) / len(gram) - whole  # both sides are biased by the same (n - 1) / n

    found = [trace(one) / trace(other) for _ in range(RESAMPLES)]
    low, high = np.quantile(found, [0.025, 0.975])
    return spread(one)[0] / spread(other)[0], float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench()
    concept, pictures, _, rate = RUNS["lora"]
    one = Configuration("lora", concept, pictures, 0)
    print("| after | batch | min-SNR | noise scale, stratified | one by one | covariance, stratified / one by one |")
    print("|---|---|---|---|---|---|")
    recipe = recipe_of(one, TRAINED, rate)
    bank = bank_of(bench.model, drawn(concept, pictures, 0), recipe)
    attachment = bench.attached(recipe)

    def fitting(batch_size: int, gamma: float) -> Fit:
        train = recipe.train.model_copy(update={"batch_size": batch_size, "min_snr_gamma": gamma})
        return bench.fitting(attachment, recipe.model_copy(update={"train": train}), bank)

    for steps in (0, TRAINED):
        if steps:
            trained = fitting(BATCHES[0], GAMMAS[0])
            for _ in fit(trained):
                pass
            with trained.written_weights():  # the average: at this rate the live ones jitter
                average = {name: value.clone() for name, value in attachment.tensors().items()}
            attachment.load(average)
        for batch_size, gamma in product(BATCHES, GAMMAS):
            run = fitting(batch_size, gamma)
            grams = [products(run, options.draws, one_by_one=each) for each in (False, True)]
            scales = [trace / mean for trace, mean in map(spread, grams)]
            middle, low, high = ratio(grams[0], grams[1])
            print(
                f"| {steps} steps | {batch_size} | {gamma:g} | {scales[0]:.1f} | {scales[1]:.1f} "
                f"| {middle:.2f} ({low:.2f} to {high:.2f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
