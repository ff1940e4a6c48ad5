"""Make the embedded base's two other VAEs again: its own, with the decoder tuned for texture or for clean colour.

    python scripts/make_decoders.py --work DIR              tune both on what the VAE learnt from, drawn afresh
    python scripts/make_decoders.py --work DIR --measure    measure them and the base's own on other fresh pictures
    python scripts/make_decoders.py --work DIR --export     put their decoders into the package, in half precision

DIR is the work folder of make_base.py, after `--ship`.

Deterministic on one machine and build of torch. What is fitted and how: `tsuika.vae.tune`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tsuika
from base.hands import Atlases
from base.mixture import Mixture
from base.sources import Sources
from base.vae import to_signal
from tsuika.core.bootstrap import of_differences
from tsuika.core.events import drained
from tsuika.core.files import whole
from tsuika.embedded.world import SIZE_PX
from tsuika.vae import metrics, roundtrip, tune

SEED: Final = 20261122
# Texture on crops at a rate that moves much; colour on whole pictures at one that moves little: after 350 steps on crops
# at 4e-4 its loss on whole pictures was 0.206, against the 0.194 of the base's own.
STEPS: Final = {"texture": 350, "colour": 200}
BATCH: Final = {"texture": 16, "colour": 6}
SIDE_PX: Final = {"texture": 32, "colour": SIZE_PX}
RATE: Final = {"texture": 4e-4, "colour": 1.2e-4}
AVERAGE: Final = {"texture": 0.995, "colour": 0.98}
CHECK: Final = {"texture": 50, "colour": 25}
JUDGED, MEASURED = 32, 300  # pictures that choose the step, and those that the figures are of


def pictures(mixture: Mixture, count: int, *stream: int) -> Tensor:
    """Fresh pictures (count, 3, 64, 64) of all that the VAE learnt from, a function of the stream."""
    rng = np.random.default_rng([SEED, *stream])
    return to_signal(np.stack([mixture.example(rng).pixels for _ in range(count)]))


def crops(mixture: Mixture, name: str, step: int) -> Tensor:
    """What a step trains on: a random part of each of some fresh pictures."""
    rng, side, count = np.random.default_rng([SEED, 4, step]), SIDE_PX[name], BATCH[name]
    corners = rng.integers(0, SIZE_PX - side + 1, (count, 2))
    fresh = pictures(mixture, count, 2, step)
    return torch.stack([one[:, y : y + side, x : x + side] for one, (y, x) in zip(fresh, corners, strict=True)])


def make(mixture: Mixture, name: tune.Purpose, work: Path, steps: int) -> None:
    """Tune one decoder and keep it in float32."""
    vae = tsuika.load("embedded", device="cpu", precision="fp32").vae
    kept = list(pictures(mixture, JUDGED, 1).split(1))
    settings = tune.Settings(
        name, steps, BATCH[name], RATE[name], AVERAGE[name], CHECK[name], patience=steps, seed=SEED, half=True
    )
    began = time.process_time()

    def judge(one: nn.Module) -> float:
        value = tune.loss_on(one, kept, name)
        print(name, f"{value:.5f}", f"{time.process_time() - began:.0f} s", flush=True)
        return value

    fitted = drained(tune.fit(vae, lambda step: crops(mixture, name, step), judge, settings))
    decoder = {f"decoder.{key}": value for key, value in vae.decoder.state_dict().items()}
    with whole(work / f"{name}.safetensors") as path:
        save_file(decoder, path)
    facts = {
        "best_step": fitted.best_step,
        "steps": fitted.steps_done,
        "checks": fitted.checks,
        "processor_s": round(time.process_time() - began),
    }
    (work / f"{name}.json").write_text(json.dumps(facts))


def measure(mixture: Mixture, work: Path) -> None:
    """Every measure on fresh pictures: the mean, and the difference from the base's own with its 95 % interval."""
    vae = tsuika.load("embedded", device="cpu", precision="fp32").vae
    fresh = pictures(mixture, MEASURED, 3)
    own = vae.decoder.state_dict()
    rows: dict[str, list[dict[str, float]]] = {}
    for name in ("builtin", *STEPS):
        if name != "builtin":
            tuned = load_file(work / f"{name}.safetensors")
            vae.decoder.load_state_dict({key.removeprefix("decoder."): v.half() for key, v in tuned.items()})
        else:
            vae.decoder.load_state_dict(own)
        rows[name] = [
            row
            for part in fresh.split(16)
            for row in metrics.measure(roundtrip.decode(vae, roundtrip.encode(vae, part)), part)
        ]
    for name, one in rows.items():
        for key in metrics.MEASURES:
            difference = of_differences([row[key] for row in one], [row[key] for row in rows["builtin"]], seed=SEED)
            print(f"{name:8} {key:14} {metrics.mean(one, key):9.4f}  {difference.low:+.4f} .. {difference.high:+.4f}")


def export(work: Path) -> None:
    """The decoders as they ship: half precision, beside the base's own VAE."""
    for name in STEPS:
        tensors = {key: value.half() for key, value in load_file(work / f"{name}.safetensors").items()}
        folder = tsuika.EMBEDDED / f"vae-{name}"
        with whole(folder / "diffusion_pytorch_model.safetensors") as path:
            save_file(tensors, path, {"format": "pt"})


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", choices=tune.PURPOSES)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--export", action="store_true")
    arguments = parser.parse_args()
    mixture = Mixture(Atlases(arguments.work / "hands"), Sources(arguments.work / "packages").photographs)
    if arguments.measure:
        measure(mixture, arguments.work)
    elif arguments.export:
        export(arguments.work)
    else:
        for name, steps in STEPS.items():
            if arguments.only in (None, name):
                make(mixture, name, arguments.work, arguments.steps or steps)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
