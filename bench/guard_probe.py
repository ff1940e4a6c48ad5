"""Does a probe of a few held-out pictures follow the truth? Measured on the embedded world, where the truth is known.

    python bench/guard_probe.py [--pictures 10] [--population 60] [--steps 300] [--batch 8] [--rate 2e-3] [--seed 0]
                                [--out curve.json]
    python bench/guard_probe.py --read curve.json --steps 300

Trains a LoRA on a few pictures of the mascot. At every check the loss relative to the base is measured on fresh
pictures of the same distribution, the population. Then many small probes are drawn from the population, each is judged
as a run would be judged, and what it chooses is compared with the truth: the curve of all the other pictures.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from tsuika.guard.judge import Judge, check_schedule
from tsuika.guard.reading import Check, Ratios, Reading, estimate, mean

PROBES = 300  # drawn of each size


def measure(options: argparse.Namespace) -> list[Check]:
    """Checks of one run with the whole population held out and all training pictures as the twin."""
    import torch
    from accelerate import Accelerator

    import tsuika
    from tsuika import config
    from tsuika.core.events import drained
    from tsuika.core.seeds import generator
    from tsuika.core.types import Model
    from tsuika.data import bank as banks
    from tsuika.data import bucket, scan
    from tsuika.embedded import mascot
    from tsuika.guard.probe import Probe, ProbedImage
    from tsuika.methods import METHODS
    from tsuika.training.fit import Fit
    from tsuika.training.loop import conditioner, fit

    def bank_of(model: Model, drawn: Sequence[mascot.Illustration], data: config.Data) -> banks.Bank:
        with tempfile.TemporaryDirectory() as folder:
            mascot.write(Path(folder), drawn)
            manifest = scan.scan(Path(folder), data, size_px=model.native_size_px, needed=1)
            buckets = bucket.assign(manifest, size_px=model.native_size_px, step_px=8)
            filling = banks.fill(
                buckets,
                data,
                model.encode_images,
                vae="embedded",
                scale=model.latent_scale,
                folder=None,
                device=model.device,
            )
            return drained(filling)

    def subjects(bank: banks.Bank) -> list[ProbedImage]:
        return [
            ProbedImage(batch.names[0], batch.latents_BCHW[0], batch.captions[0], bank.size_px_of(batch))
            for batch in bank.plain()
        ]

    tables = config.override(
        config.read_tables(tsuika.DEMO_RECIPE),
        {
            "train.steps": options.steps,
            "train.learning_rate": options.rate,
            "train.seed": options.seed,
            "train.precision": "fp32",
            "train.device": "cpu",
            "train.batch_size": options.batch,
            "data.variants": 4,
        },
    )
    recipe = config.build(tables)
    model = tsuika.load("embedded", device="cpu", precision="fp32")
    bank = bank_of(model, mascot.pictures(options.pictures, options.seed), recipe.data)
    fresh = mascot.held_out(options.population, options.seed, trained_backgrounds=True)
    population = bank_of(model, fresh, recipe.data.model_copy(update={"flip": False, "variants": 1}))
    settings = recipe.method.completed(recipe.data)
    attachment = METHODS["lora"].attach(model, settings, generator(options.seed, "init"))
    run = Fit(
        model,
        attachment,
        recipe,
        Accelerator(mixed_precision="no", cpu=True),
        batch=lambda number: bank.batch(number, recipe.train.batch_size, options.seed),
        condition=conditioner(model, attachment, bank.size_px_of),
    )
    twins = [ProbedImage(f"train {one.key}", one.latents_CHW, one.caption, one.size_px) for one in subjects(bank)]
    probe = Probe(model, attachment, subjects(population), twins, chunk=40)
    torch.set_num_threads(1)
    rungs, checks, train_s, guard_s = set(check_schedule(options.steps)), [], 0.0, 0.0
    for event in fit(run):
        train_s += event.seconds
        if event.step in rungs:
            began = time.monotonic()
            with run.written_weights():
                reading = probe.measure()
            guard_s += time.monotonic() - began
            checks.append(Check(event.step, reading, guard_s, train_s))
            if options.out:
                options.out.write_text(json.dumps([one.to_json() for one in checks]), encoding="utf-8")
            held, twin = estimate(reading.held_out.mid), mean(reading.train.mid)
            print(
                f"| {event.step} | {100 * held.mean:+.2f} ± {100 * (held.high - held.mean):.2f} | {100 * twin:+.2f} "
                f"| {100 * (mean(reading.held_out.high) - mean(reading.train.high)):+.2f} "
                f"| {100 * (reading.drift or 0):.2f} | {100 * (reading.own_drift or 0):.2f} |",
                flush=True,
            )
    share = probe.draws * len(checks) / (options.steps * recipe.train.batch_size * 2.15)
    print(f"\n{train_s:.0f} s of training, {guard_s:.0f} s of checks; forward passes by count: {share:.0%}")
    return checks


def part(ratios: Ratios, rows: Sequence[int]) -> Ratios:
    return Ratios(tuple(ratios.mid[row] for row in rows), tuple(ratios.high[row] for row in rows))


def compare(checks: Sequence[Check], steps: int) -> None:
    """Small probes against the truth."""
    columns = (
        "held out",
        "twin",
        "sd of R at the end, pp",
        "correlation with the truth",
        "best step: probe (10-90 %)",
        "truth",
        "regret of its choice, pp (90 %)",
        "the same, choosing by all draws",
        "stopped at",
        "saved",
        "coverage",
    )
    print(f"\n| {' | '.join(columns)} |\n|" + "---|" * len(columns))
    everyone = range(len(checks[0].reading.held_out))
    drawing = random.Random(0)
    for size in (1, 2, 3, 4, 6, 10):
        ends, alike, chosen, truths, regrets, by_all, stops, covered = [], [], [], [], [], [], [], []
        for _ in range(PROBES):
            rows = drawing.sample(everyone, size)
            rest = [row for row in everyone if row not in rows]
            twin_rows = drawing.sample(range(len(checks[0].reading.train)), min(size, len(checks[0].reading.train)))
            truth = {0: 0.0} | {one.step: mean(part(one.reading.held_out, rest).mid) for one in checks}
            judge, stopped = Judge(steps, 1e-3), steps
            for one in checks:
                reading = Reading(
                    part(one.reading.held_out, rows),
                    part(one.reading.train, twin_rows),
                    one.reading.drift,
                    one.reading.own_drift,
                )
                verdict = judge.update(Check(one.step, reading))
                if verdict.kind == "stop":
                    stopped = one.step
                    break
            curve = [mean(part(one.reading.held_out, rows).mid) for one in checks]
            best = verdict.evidence.best_step
            ends.append(curve[-1])
            alike.append(correlation(curve, list(truth.values())[1:]))
            chosen.append(best)
            truths.append(min(truth, key=truth.__getitem__))
            regrets.append(truth[best] - min(truth.values()))
            heard = {one.step: mean(one.reading.held_out.mid) for one in judge.checks}
            by_all.append(truth[min(heard, key=heard.__getitem__)] - min(truth.values()))
            stops.append(stopped)
            if size >= 4 and verdict.evidence.best:
                covered.append(verdict.evidence.best.low <= truth[best] <= verdict.evidence.best.high)
        coverage = f"{fmean(covered):.0%}" if covered else "-"
        print(
            f"| {size} | {min(size, len(twin_rows))} | {100 * stdev(ends):.2f} | {fmean(alike):.3f} | {fmean(chosen):.0f} "
            f"({quantile(chosen, 0.1):.0f}-{quantile(chosen, 0.9):.0f}) | {fmean(truths):.0f} "
            f"| {100 * fmean(regrets):.3f} ({100 * quantile(regrets, 0.9):.3f}) | {100 * fmean(by_all):.3f} | {fmean(stops):.0f} "
            f"| {1 - fmean(stops) / steps:.0%} | {coverage} |"
        )


def correlation(left: Sequence[float], right: Sequence[float]) -> float:
    a, b = fmean(left), fmean(right)
    return (
        fmean((x - a) * (y - b) for x, y in zip(left, right, strict=True))
        / (fmean((x - a) ** 2 for x in left) * fmean((y - b) ** 2 for y in right)) ** 0.5
    )


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--population", type=int, default=60)
    parser.add_argument("--out", type=Path, help="where the checks go, after each of them")
    parser.add_argument("--read", type=Path, help="checks of an earlier run of so many --steps, instead of training")
    options = parser.parse_args()
    if options.read:
        checks = [Check.from_json(row) for row in json.loads(options.read.read_text(encoding="utf-8"))]
    else:
        print(
            "| step | held out, pp (95 %) | train, pp | high-noise gap, pp | drift, % | own drift, % |\n|" + "---|" * 6
        )
        checks = measure(options)
    compare(checks, options.steps)


if __name__ == "__main__":
    main()
