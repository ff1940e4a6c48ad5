"""Make the embedded base again from nothing: tokenizer, VAE, then text encoder and UNet together.

python scripts/make_base.py --work DIR                   every stage, going on from what DIR holds
python scripts/make_base.py --work DIR --export FOLDER   write what is there as a diffusers folder
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import CLIPTokenizer

from base.common import say
from base.export import export
from base.plan import Plan
from base.tokenizer import train_tokenizer
from base.unet import train_unet
from base.vae import train_vae
from tsuika.embedded.world import BACKGROUNDS


def main() -> None:
    """Run the stages that are not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--vae-steps", type=int, default=Plan.vae_steps)
    parser.add_argument("--unet-steps", type=int, default=Plan.unet_steps)
    parser.add_argument("--until", choices=("vae", "unet"), default="unet")
    parser.add_argument("--export", type=Path, help="Write the diffusers folder here instead of training.")
    options = parser.parse_args()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    plan = Plan(vae_steps=options.vae_steps, unet_steps=options.unet_steps)
    if options.export:
        export(plan, work, options.export)
        return
    say(work, plan=asdict(plan), threads=torch.get_num_threads(), torch=torch.__version__, backgrounds=len(BACKGROUNDS))
    if not (work / "tokenizer/vocab.json").exists():
        train_tokenizer(work / "tokenizer", plan.seed)
    vae = train_vae(plan, work)
    if options.until == "unet":
        tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
        train_unet(plan, work, vae, tokenizer)


if __name__ == "__main__":
    main()
