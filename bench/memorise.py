"""Which signals tell that a result copies its training pictures? Measured on the embedded world, where the truth is known.

    python bench/memorization.py collect --work DIR [--only NAME ...]     train, draw, measure; DIR keeps it all
    python bench/memorization.py analyse --work DIR                       truth, ROC and thresholds, from what DIR holds
    ... --seed 1 --work DIR2                                          other pictures and weights to begin with

Copying is provoked (few pictures, many steps) and, at early stops and with more pictures, avoided.

**The truth.** A caption names the thing and what is behind it; where the thing stands, how large and tilted it is and how
the background's details lie, it does not say. A model that has learnt the subject draws these afresh, one that copies
draws those of a training picture. So, for each sample, fresh true pictures of the very description it was asked for are
rendered, FRESH for each training picture of that description. The sample is a **copy** if a training picture is nearer to
it than all of them by MARGIN (root mean square of pixels), **no copy** if a fresh one is nearer, and left out otherwise.
To a model that draws what is left open at random, with m training pictures among m + F, the nearest is a training picture
with probability m / (m + F): a rank test, which needs the world's generator, so that no user can do it. No signal knows it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tsuika.core.seeds import derive
from tsuika.embedded import gadget, mascot, world

Pixels = NDArray[np.uint8]

TRAINED: Final = ("meadow", "beach", "yellow", "room", "sunset", "blue")  # backgrounds in turn
NEW: Final = ("snow", "night", "pink")
SEEDS: Final = (11, 12, 13, 14)
STEPS: Final = 12  # of a drawing
HELD_OUT: Final = 6
FRESH: Final = 200  # true pictures per training picture of a description
MARGIN: Final = 0.9


@dataclass(frozen=True)
class Run:
    """A training that is to copy, or not to."""

    name: str
    thing: str  # of `glyph`
    words: str
    pictures: int
    stops: tuple[int, ...]
    rate: float = 2e-3
    method: str = "lora"
    batch: int = 4


RUNS: Final = (
    Run("doll-3", "daruma", "a daruma doll", 3, (25, 75, 200, 400)),
    Run("creature-24", "tsuipi/waving", "a tsuipi character", 24, (75, 200, 400), batch=8),
    Run("creature-3", "tsuipi/waving", "a tsuipi character", 3, (75, 200)),
    Run("doll-6", "daruma", "a daruma doll", 6, (25, 75, 200, 400)),
    Run("creature-4-dreambooth", "tsuipi/waving", "a tsuipi character", 4, (50, 200), 3e-4, "dreambooth"),
    Run("doll-6-hypernetwork", "daruma", "a daruma doll", 6, (75, 200, 400), 2e-3, "hypernetwork"),
)


def glyph(name: str) -> Any:
    return gadget.source(name) if name == gadget.TRIGGER else mascot.source(name)


def picture(thing: str, background: str, seed: int, number: int, purpose: str) -> Pixels:
    """The `number`-th true picture of a description: whatever the description leaves open is drawn at random."""
    rng = np.random.default_rng(derive(seed, f"memorise {purpose} {thing} {background}", number))
    size = float(rng.uniform(0.5, 0.85))
    free = (1 - size) / 2
    x, y = 0.5 + rng.uniform(-free, free, 2)
    placed = world.Placed(thing, size, float(x), float(y), float(rng.uniform(-15, 15)), bool(rng.random() < 0.5))
    return world.draw(world.Picture(background, (placed,), int(rng.integers(1 << 31))), world.SIZE_PX, glyph)


def drawn(run: Run, count: int, purpose: str, seed: int) -> list[mascot.Illustration]:
    """A picture set, backgrounds in turn."""
    places = [TRAINED[i % len(TRAINED)] for i in range(count)]
    return [
        mascot.Illustration(
            f"{i:03d}", picture(run.thing, place, seed, i, purpose), f"{run.words} {world.where(place)}", place
        )
        for i, place in enumerate(places)
    ]


# --- collect ----------------------------------------------------------------------------------------------------------


def collect(run: Run, work: Path, seed: int) -> None:
    """Train one run and keep samples, predictions from noise and the probe's readings of the base and at each stop."""
    import torch
    from accelerate import Accelerator

    import tsuika
    from tsuika import config
    from tsuika.core.events import drained
    from tsuika.core.seeds import generator
    from tsuika.data import bank as banks
    from tsuika.data import bucket, scan
    from tsuika.guard.probe import Probe, ProbedImage
    from tsuika.guard.reading import Check
    from tsuika.methods import METHODS
    from tsuika.training.fit import Fit
    from tsuika.training.loop import conditioner, fit

    torch.set_num_threads(1)
    steps = run.stops[-1]
    settings = {"rank": 32, "conv": True} if run.method == "lora" else {}
    recipe = config.build(
        {
            "data": {"trigger": run.words.split()[1], "class_word": run.words.split()[2], "variants": 1},
            "method": {"name": run.method, **settings},
            "train": {
                "steps": steps,
                "learning_rate": run.rate,
                "precision": "fp32",
                "device": "cpu",
                "ema": 0.98,
                "batch_size": run.batch,
                "schedule": "constant",
                "seed": seed,
            },
        }
    )
    model = tsuika.load("embedded", device="cpu", precision="fp32")

    def bank_of(pictures: Sequence[mascot.Illustration]) -> banks.Bank:
        with tempfile.TemporaryDirectory() as folder:
            mascot.write(Path(folder), pictures)
            manifest = scan.scan(Path(folder), recipe.data, size_px=model.native_size_px, needed=1)
            buckets = bucket.assign(manifest, size_px=model.native_size_px, step_px=8)
            return drained(
                banks.fill(
                    buckets,
                    recipe.data,
                    model.encode_images,
                    vae="embedded",
                    scale=model.latent_scale,
                    folder=None,
                    device=model.device,
                )
            )

    def subjects(bank: banks.Bank, prefix: str) -> list[ProbedImage]:
        return [
            ProbedImage(prefix + batch.names[0], batch.latents_BCHW[0], batch.captions[0], bank.size_px_of(batch))
            for batch in bank.plain()
        ]

    train, fresh = drawn(run, run.pictures, "train", seed), drawn(run, HELD_OUT, "held-out", seed)
    bank = bank_of(train)
    twins, held = subjects(bank, "train "), subjects(bank_of(fresh), "held ")
    attachment = METHODS[run.method].attach(model, recipe.method.completed(recipe.data), generator(seed, "init"))
    fitting = Fit(
        model,
        attachment,
        recipe,
        Accelerator(mixed_precision="no", cpu=True),
        batch=lambda number: bank.batch(number, recipe.train.batch_size, seed),
        condition=conditioner(model, attachment, bank.size_px_of),
    )
    probe = Probe(model, attachment, held, twins[:HELD_OUT], chunk=32)
    captions = list(dict.fromkeys(one.caption for one in train))
    prompts = captions + [f"{run.words} {world.where(place)}" for place in NEW]
    arrays: dict[str, NDArray[Any]] = {"train_latents": torch.stack([one.latents_CHW for one in twins]).numpy()}
    said: dict[str, Any] = {"prompts": prompts, "trained": len(captions), "checks": []}

    def keep(stop: int) -> float:
        began = time.monotonic()
        for name, array in measured(model, prompts).items():
            arrays[f"{name}@{stop}"] = array
        return time.monotonic() - began

    print(f"{run.name}: base, {keep(0):.0f} s", flush=True)
    spent = 0.0
    for event in fit(fitting):
        spent += event.seconds
        if event.step in run.stops:
            with fitting.written_weights():
                seconds = keep(event.step)
                said["checks"].append(Check(event.step, probe.measure()).to_json())
            print(f"{run.name}: step {event.step}, {spent:.0f} s of training, {seconds:.0f} s of drawing", flush=True)
            np.savez_compressed(work / f"{run.name}.npz", **arrays)
            (work / f"{run.name}.json").write_text(json.dumps(said), encoding="utf-8")


CONTROLS: Final = ("a cat in the snow", "a frog on a yellow background", "an umbrella on the beach")


def measured(model: Any, prompts: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Of the model as it is: samples (P, S, 64, 64, 3), x0-hat from noise (P, S, C, H, W), and text magnitudes."""
    import torch

    from tsuika.core.types import Conditioning
    from tsuika.diffusion.objective import alphas_cumprod_T
    from tsuika.generation import pipeline

    side = model.native_size_px // model.latent_factor
    last = int(model.scheduler_config["num_train_timesteps"]) - 1
    a = alphas_cumprod_T(model.scheduler_config)[last]
    noise = torch.stack([torch.randn(4, side, side, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS])
    with torch.no_grad():
        nothing = model.encode_text([""])
        clean, first, along, samples = [], [], [], []
        for prompt in (*prompts, *CONTROLS):
            cond = model.encode_text([prompt])
            both = Conditioning.join([nothing[[0] * len(SEEDS)], cond[[0] * len(SEEDS)]])
            t_B = torch.full((2 * len(SEEDS),), last)
            without, with_ = model.denoise(torch.cat([noise, noise]), t_B, both).chunk(2)
            clean.append(a.sqrt() * noise - (1 - a).sqrt() * with_)  # v-prediction
            first.append((with_ - without).flatten(1).norm(dim=1))
        for prompt in prompts:
            recorder = _Recorder(model)
            scheduler = pipeline.make_scheduler(model, "DDIM")
            latents = pipeline.sample_latents(
                recorder,
                scheduler,
                model.encode_text([prompt])[[0] * len(SEEDS)],
                nothing,
                [torch.Generator().manual_seed(seed) for seed in SEEDS],
                steps=STEPS,
                cfg=3.0,
                size_px=(model.native_size_px,) * 2,
            )
            along.append(torch.stack(recorder.sizes).mean(0))
            pixels = model.decode_latents(latents)
            samples.append(((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1))
    return {
        "samples": torch.stack(samples).numpy(),
        "clean": torch.stack(clean).numpy(),
        "first": torch.stack(first).numpy(),
        "along": torch.stack(along).numpy(),
    }


class _Recorder:
    """A model that notes, in guided drawing, how far the text moves its answer."""

    def __init__(self, model: Any) -> None:
        self._model, self.sizes = model, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def denoise(self, noisy_BCHW: Any, t_B: Any, cond: Any) -> Any:
        out = self._model.denoise(noisy_BCHW, t_B, cond)
        without, with_ = out.chunk(2)
        self.sizes.append((with_ - without).flatten(1).norm(dim=1))
        return out


# --- analyse ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A sample, or what stands for one, with its truth and its signals."""

    run: str
    stop: int
    trained: bool  # drawn with a training caption
    copy: bool | None  # None: neither clearly so nor clearly not
    signals: dict[str, float]
    flagged: bool = False  # by `Resemblance.copies`


def judge(samples_S: NDArray[Any], train_N: NDArray[Any], fresh_F: NDArray[Any]) -> list[bool | None]:
    """The truth for samples of one prompt."""

    def nearest(sample: NDArray[Any], pictures: NDArray[Any]) -> float:
        difference = sample.astype(np.float32) - pictures.reshape(len(pictures), -1).astype(np.float32)
        return float(np.sqrt((difference**2).mean(1)).min())

    found: list[bool | None] = []
    for sample in samples_S.reshape(len(samples_S), -1):
        ours, fresh = nearest(sample, train_N), nearest(sample, fresh_F)
        found.append(True if ours < MARGIN * fresh else False if ours > fresh else None)
    return found


def analyse(run: Run, work: Path, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows of samples, and rows of training captions (truth: of at least half of the samples); prints a line a stop."""
    import torch
    from PIL import Image

    from tsuika.diffusion.objective import alphas_cumprod_T
    from tsuika.embedded import yardstick
    from tsuika.evaluation.memorization import similarity
    from tsuika.guard import memorization
    from tsuika.guard.probe import ProbedImage
    from tsuika.guard.reading import Check, mean

    arrays, said = np.load(work / f"{run.name}.npz"), json.loads((work / f"{run.name}.json").read_text("utf-8"))
    train = drawn(run, run.pictures, "train", seed)
    places = [*dict.fromkeys(one.background for one in train), *NEW]
    pixels_N = np.stack([one.pixels for one in train])
    fresh = {
        place: np.stack(
            [
                picture(run.thing, place, seed + 1, i, "fresh")
                for i in range(FRESH * max(1, sum(one.background == place for one in train)))
            ]
        )
        for place in places
    }
    images, references = [Image.fromarray(one) for one in pixels_N], yardstick.directions(list(pixels_N))
    subjects = [
        ProbedImage(str(i), torch.from_numpy(one), "", (64, 64)) for i, one in enumerate(arrays["train_latents"])
    ]
    noise = torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS])
    a = float(alphas_cumprod_T(EMBEDDED_SCHEDULE)[-1])
    checks = {one.step: one.reading for one in map(Check.from_json, said["checks"])}

    def measures(samples: NDArray[Any]) -> tuple[Any, Any]:
        drawings = [Image.fromarray(one) for one in samples]
        return similarity(drawings, images), yardstick.directions(list(samples)) @ references.T

    def leak(clean: NDArray[Any]) -> float:
        clean_BCHW = torch.from_numpy(clean)
        output = (a**0.5 * noise - clean_BCHW) / (1 - a) ** 0.5
        return memorization._nearest(
            memorization.without_noise(a**0.5 * noise - (1 - a) ** 0.5 * output, noise), subjects
        )[0]

    free = [
        one.copies
        for pixels in fresh.values()
        for one in memorization.resemblances(similarity([Image.fromarray(one) for one in pixels], images))
    ]
    print(f"<!-- {run.name}: {sum(free)} of {len(free)} fresh true pictures are taken for copies -->")
    rows: list[Row] = []
    of_captions: list[Row] = []
    before = [measures(samples) for samples in arrays["samples@0"]]
    leaks_before = [leak(clean) for clean in arrays["clean@0"]]
    for stop in (stop for stop in (0, *run.stops) if f"samples@{stop}" in arrays):
        pulls = np.log(arrays[f"first@{stop}"].mean(1) / arrays["first@0"].mean(1))
        reading = checks.get(stop)
        gaps = {}
        if reading is not None:
            gaps = {
                f"gap_{part}": mean(getattr(reading.held_out, part)) - mean(getattr(reading.train, part))
                for part in ("mid", "high")
            }
        here: list[Row] = []
        captions: list[Row] = []
        for number, (samples, place) in enumerate(zip(arrays[f"samples@{stop}"], places, strict=True)):
            trained = number < said["trained"]
            truth = judge(samples, pixels_N, fresh[place])
            pairs = [
                memorization.resemblances(now, base)
                for now, base in zip(measures(samples), before[number], strict=True)
            ]
            for copy, by_pixels, by_encoder in zip(truth, *pairs, strict=True):
                signals = {
                    "pixels: similarity": by_pixels.similarity,
                    "pixels: excess": by_pixels.excess,
                    "pixels: 1 - ratio": 1 - by_pixels.ratio,
                    "encoder: similarity": by_encoder.similarity,
                    "encoder: excess": by_encoder.excess,
                    "encoder: 1 - ratio": 1 - by_encoder.ratio,
                }
                here.append(Row(run.name, stop, trained, copy, signals, by_pixels.copies))
            if trained:
                cosine = leak(arrays[f"clean@{stop}"][number])
                signals = {
                    "leak: cosine": cosine,
                    "leak: excess": cosine - leaks_before[number],
                    "pull at the first step": pulls[number] - pulls[-len(CONTROLS) :].mean(),
                    "the same, controls not taken off": pulls[number],
                    "pull along the drawing": float(
                        np.log(arrays[f"along@{stop}"][number].mean() / arrays["along@0"][number].mean())
                    ),
                }
                share = np.mean([copy is True for copy in truth])
                clear = True if share >= 0.5 else False if share == 0 else None
                captions.append(Row(run.name, stop, True, clear, signals | gaps))
        rows += here if stop else []
        of_captions += captions if stop else []
        shares = [np.mean([row.copy is True for row in here if row.trained == kind]) for kind in (True, False)]
        numbers = [f"{share:.0%}" for share in shares]
        trained_rows = [row for row in here if row.trained]
        names = ("pixels: similarity", "pixels: excess", "encoder: excess")
        numbers += [f"{np.mean([row.signals[name] for row in trained_rows]):.2f}" for name in names]
        numbers += [
            f"{np.mean([row.signals[name] for row in captions]):.2f}"
            for name in ("leak: excess", "pull at the first step")
        ]
        numbers += [f"{100 * gaps[name]:.0f}" if gaps else "-" for name in ("gap_mid", "gap_high")]
        held = f"{100 * mean(reading.held_out.mid):+.1f}" if reading else "0"
        print(f"| {run.name} | {stop} | {held} | " + " | ".join(numbers) + " |")
    return rows, of_captions


EMBEDDED_SCHEDULE: Final = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.02}


def auc(copies: Sequence[float], others: Sequence[float]) -> float:
    """The chance that a copy's signal is the larger one (ties count half)."""
    left, right = np.asarray(copies)[:, None], np.asarray(others)[None]
    return float((left > right).mean() + (left == right).mean() / 2)


def report(rows: Sequence[Row], what: str) -> None:
    """A line a signal: AUC, and the threshold that 1 % of what is no copy is above, with the copies it finds.

    `leave one out`: the threshold comes from all other runs, so that both rates are of a run it has not seen.
    """
    clear = [row for row in rows if row.copy is not None]
    copies, others = [row for row in clear if row.copy], [row for row in clear if not row.copy]
    print(f"\n{what}: {len(copies)} copies, {len(others)} others, {len(rows) - len(clear)} unclear left out\n")
    print(
        "| signal | AUC | copies: median | others: median | threshold | found | other runs' threshold: found, false |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in rows[0].signals:
        have = [row.signals[name] for row in copies]
        lack = [row.signals[name] for row in others]
        threshold = float(np.quantile(lack, 0.99))
        hits: list[bool] = []
        false: list[bool] = []
        for run in dict.fromkeys(row.run for row in clear):
            apart = [row.signals[name] for row in others if row.run != run]
            if apart:
                limit = float(np.quantile(apart, 0.99))
                hits += [row.signals[name] > limit for row in copies if row.run == run]
                false += [row.signals[name] > limit for row in others if row.run == run]
        print(
            f"| {name} | {auc(have, lack):.3f} | {np.median(have):.2f} | {np.median(lack):.2f} | {threshold:.2f} "
            f"| {np.mean(np.array(have) > threshold):.0%} | {np.mean(hits):.0%}, {np.mean(false):.1%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("collect", "analyse"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[run.name for run in RUNS])
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    chosen = [run for run in RUNS if run.name in options.only]
    if options.what == "collect":
        for run in chosen:
            if not (options.work / f"{run.name}.npz").exists():
                collect(run, options.work, options.seed)
        return
    from tsuika.guard import memorization
    from tsuika.guard.judge import MEMORISING_HIGH

    print(
        "| run | step | held out, pp | copies: trained captions | new captions | similarity | excess | encoder excess "
        "| leak excess | pull | gap, mid, pp | gap, high, pp |\n|" + "---|" * 12
    )
    told = [analyse(run, options.work, options.seed) for run in chosen if (options.work / f"{run.name}.npz").exists()]
    samples, captions = ([row for part in side for row in part] for side in zip(*told, strict=True))
    report(samples, "Samples of all prompts")
    for words, truth in (("copies", True), ("others", False), ("unclear", None)):
        kind = [row.flagged for row in samples if row.copy is truth]
        print(f"The rule of `Resemblance.copies` flags {sum(kind)} of {len(kind)} {words}.")
    for name, limit in (("leak: excess", memorization.LEAK), ("gap_high", MEMORISING_HIGH)):
        over = [[row.signals[name] > limit for row in captions if row.copy is truth] for truth in (True, False)]
        found, false = (f"{sum(part)} of {len(part)}" for part in over)
        print(f"{name} is above the product's {limit} for {found} training captions that copy and {false} others.")
    report([row for row in samples if row.trained], "Samples of training captions")
    report(captions, "Training captions")


if __name__ == "__main__":
    main()
