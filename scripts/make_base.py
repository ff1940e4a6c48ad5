"""Make the embedded base: glyphs, VAE, tokenizer, the two judges, then text encoder and UNet together.

python scripts/make_base.py --work DIR                   every stage, going on from what DIR holds
python scripts/make_base.py --work DIR --background      the same, detached, when the processor has nothing else to do
python scripts/make_base.py --work DIR --take-up FOLDER  begin with what a package ships; then set unet_steps in the plan
python scripts/make_base.py --work DIR --measure         what the VAE keeps, beside the one it began as
python scripts/make_base.py --work DIR --sheet FILE      the same as a picture
python scripts/make_base.py --work DIR --export FOLDER   write what is there as a diffusers folder
python scripts/make_base.py --work DIR --ship FOLDER     write base, yardstick and atlases into a package (src/tsuika/embedded)

DIR/plan.json may change the plan (base/plan.py): {"vae_steps": 12000}. DIR/photos, if there, is a folder of photographs
that the VAE is measured on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTokenizer

from base import hands
from base.common import say
from base.examiner import train_examiner
from base.export import export
from base.mixture import Mixture
from base.plan import plan_of
from base.ship import ship, take_up
from base.showing import compare_vaes, vae_sheet
from base.sources import Sources
from base.tokenizer import train_tokenizer
from base.unet import HORIZONS, train_unet
from base.vae import train_vae
from base.yardstick import train_yardstick
from tsuika.core.files import locked


def main() -> None:
    """Run the stages that are not done yet, or show what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--until", choices=("hands", "vae", "judges", "unet"), default="unet")
    parser.add_argument("--background", action="store_true")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--export", type=Path)
    parser.add_argument("--ship", type=Path)
    parser.add_argument("--take-up", type=Path)
    parser.add_argument(
        "--horizon", choices=tuple(HORIZONS), default="middle", help="export, ship: over which the weights are averaged"
    )
    options = parser.parse_args()
    work: Path = options.work
    if options.background:
        start_again(work)
    elif options.take_up:
        if (work / "unet.pt").exists():
            sys.exit(f"{work}: a training is there already")
        (work / "plan.json").write_text(json.dumps(asdict(take_up(plan_of(work), work, options.take_up)), indent=1))
    elif options.measure:
        print(json.dumps(compare_vaes(plan_of(work), work), indent=1))
    elif options.sheet:
        vae_sheet(plan_of(work), work, options.sheet)
    elif options.ship:
        ship(plan_of(work), work, options.ship, options.horizon)
    elif options.export:
        export(plan_of(work), work, options.export, options.horizon)
    else:
        with locked(work / "lock") as mine:
            if not mine:
                sys.exit(f"{work}: somebody else is at it already")
            (work / "pid").write_text(str(os.getpid()))
            for left in work.glob(".*.tmp"):  # of a process that was killed while it wrote
                left.unlink()
            # On a CPU the backward pass of torch's flash attention is slow at few tokens: of the UNet's step on 32 pictures it
            # takes 0.90 s, this one 0.51 s (forward 0.26 and 0.33), equal to 1e-6.
            with sdpa_kernel(SDPBackend.MATH):
                make(work, options.until)


def make(work: Path, until: str) -> None:
    """Every stage in turn."""
    plan, sources = plan_of(work), Sources(work / "packages")
    hands.make(work / "hands", sources)
    if until == "hands":
        return
    say(work, plan=asdict(plan), threads=torch.get_num_threads(), torch=torch.__version__)
    atlases = hands.Atlases(work / "hands")
    vae = train_vae(plan, work, Mixture(atlases, sources.photographs))
    if until == "vae":
        return
    if not (work / "tokenizer/vocab.json").exists():
        train_tokenizer(work / "tokenizer", plan.seed, atlases.names)
    train_yardstick(plan, work, atlases)
    train_examiner(plan, work, atlases)
    if until == "judges":
        return
    train_unet(plan, work, vae, CLIPTokenizer.from_pretrained(work / "tokenizer"), atlases)


def start_again(work: Path) -> None:
    """The same command, detached, with one thread and in the idle scheduling class; nothing if it runs already."""
    work.mkdir(parents=True, exist_ok=True)
    with locked(work / "lock") as mine:
        if not mine:
            print(f"running already: {(work / 'pid').read_text()}")
            return
    with (work / "out.txt").open("a") as out:
        process = subprocess.Popen(
            [sys.executable, __file__, "--work", str(work.resolve())],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, preexec_fn=_idle,  # noqa: PLW1509
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    print(f"started: {process.pid}, {work / 'out.txt'}")


def _idle() -> None:
    """Give way to every other process: in a session of its own it would else get a share of its own."""
    os.nice(19)
    autogroup = Path("/proc/self/autogroup")
    if autogroup.exists():
        autogroup.write_text("19")
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


if __name__ == "__main__":
    main()
