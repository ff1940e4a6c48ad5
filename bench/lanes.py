"""Lanes against separate runs: how much time one pass for K attachments takes, and how far apart the weights end.

    python bench/lanes.py [--method lora|hypernetwork|textual-inversion] [--base embedded|wide] [--lanes 3 5]
                          [--batch 1] [--steps 4] [--rounds 5] [--double] [--set key=value]...

Trains K attachments on different pictures of the mascot in lockstep (`train.loop.fit_together`) and K others of the same
start one after another (`train.loop.fit`), both through the ordinary loop with its optimizer, clipping and averages. They
take turns, a few steps each, so that whatever else the machine does falls on both; times are of the processor, medians
over the rounds, which follow one that does not count. `wide` is the embedded base with a random UNet of SD1.5's blocks
at half its width (its attention at every resolution but the last, two layers a block). `--double` (LoRA) computes in
float64: Adam enlarges the rounding of gradients near zero, and this tells such differences from others.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

WIDE = {
    "block_out_channels": (160, 320, 640, 640),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
}


def load(base: str) -> Any:
    """The embedded base, with its own UNet or a wide one."""
    import torch

    from tsuika import embedded, families
    from tsuika.families.common import build_unet

    folder = Path(embedded.__file__).parent / "base"
    model = families.load("embedded", device=torch.device("cpu"), dtype=torch.float32, embedded_path=folder)
    if base == "wide":
        torch.manual_seed(0)
        model.unet = build_unet({**model.unet.config, **WIDE}).eval().requires_grad_(False)
    return model


def fits(model: Any, recipe: Any, count: int, batch: int) -> tuple[list[Any], Any]:
    """Trainings of the same start, each on pictures of its own, and their lanes."""
    import torch
    from accelerate import Accelerator

    from tsuika.core.seeds import generator
    from tsuika.core.types import Batch, Conditioning
    from tsuika.embedded import mascot
    from tsuika.methods import METHODS
    from tsuika.train.loop import Fit, conditioner

    method, settings = METHODS[recipe.method.name], recipe.method.completed(recipe.data)
    attachments = []
    for _ in range(count):
        attachments.append(method.attach(model, settings, generator(0, "init")))
        attachments[-1].set_strength(0)
    lanes = method.side_by_side(attachments)

    def fit_of(lane: int) -> Fit:
        drawn = mascot.pictures(count * batch)[lane * batch : (lane + 1) * batch]
        pixels = torch.stack([torch.from_numpy(one.pixels.copy()) for one in drawn]).permute(0, 3, 1, 2) / 127.5 - 1
        captions = tuple(one.caption for one in drawn)
        pictures = Batch(model.encode_images(pixels), captions, captions, torch.ones(batch))
        encode = conditioner(model, attachments[lane], lambda _: (model.native_size_px, model.native_size_px))

        def read(given: Batch) -> Conditioning:
            with lanes.alone(lane):
                return encode(given)

        return Fit(model, attachments[lane], recipe, Accelerator(cpu=True), lambda _: pictures, read)

    with torch.no_grad():
        runs = [fit_of(lane) for lane in range(count)]
    for run in runs:
        run.last_step = 0
    return runs, lanes


def weights(run: Any) -> Any:
    """All that a run trains, as one copy."""
    import torch

    return torch.cat([value.flatten() for value in run.attachment.tensors().values()])


def compare(options: argparse.Namespace, count: int) -> None:
    """Print one line for a number of lanes."""
    from tsuika.core import config
    from tsuika.train.loop import fit, fit_together

    model = load(options.base)
    tables = {"method": {"name": options.method}, "data": {"trigger": "tsuipi"}}
    plain = {"train.ema": 0.0} if options.double else {}
    recipe = config.build(config.override(tables, plain | dict(map(config.parse_assignment, options.set))))
    together, lanes = fits(model, recipe, count, options.batch)
    alone, singles = fits(model, recipe, count, options.batch)
    if options.double:
        model.unet.double()
    began = [weights(run) for run in alone]

    def side_by_side() -> None:
        list(fit_together(together, lanes))

    def one_by_one() -> None:
        for lane, run in enumerate(alone):
            with singles.alone(lane):
                list(fit(run))

    rounds = []
    for _ in range(options.rounds + 1):
        times = [time.process_time()]
        for run in (*together, *alone):
            run.last_step += options.steps
        for work in (side_by_side, one_by_one):
            work()
            times.append(time.process_time())
        rounds.append((times[1] - times[0], times[2] - times[1]))
    shared_s, apart_s = (median(side) / options.steps for side in zip(*rounds[1:], strict=True))
    ratios = sorted(a / b for a, b in rounds[1:])
    differ = [weights(a) - weights(b) for a, b in zip(together, alone, strict=True)]
    moved = [weights(run) - start for run, start in zip(alone, began, strict=True)]
    print(
        f"{options.method} on {options.base}, K = {count}, batch {options.batch}: a step of all {shared_s * 1e3:.0f} ms "
        f"together, {apart_s * 1e3:.0f} ms one by one; ratio {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
        f"or {median(ratios) * count:.2f} single runs. After {alone[0].step} steps: weights of up to "
        f"{max(float(weights(run).abs().max()) for run in alone):.2g} differ by {max(float(d.abs().max()) for d in differ):.1g} "
        f"at most, in norm {max(float(d.norm() / m.norm()) for d, m in zip(differ, moved, strict=True)):.1g} of their way",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("lora", "hypernetwork", "textual-inversion"), default="lora")
    parser.add_argument("--base", choices=("embedded", "wide"), default="embedded")
    parser.add_argument("--lanes", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--double", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="key=value")
    options = parser.parse_args()
    for count in options.lanes:
        compare(options, count)


if __name__ == "__main__":
    main()
