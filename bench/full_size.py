"""Each method on SD1.5, SD2.1, SDXL and SD3.5-medium (without T5) at true geometry with random weights: it loads, trains,
writes, and reads back.

    python bench/full_size.py sd1|sd2|sdxl|sd3 --method lora|textual-inversion|dreambooth|hypernetwork
        --tokenizer FOLDER --images FOLDER [--size 256] [--steps 3] [--work FOLDER] [--set key=value]...

Builds the model in half precision, writes it as one file in the original layout, loads that file as a user's base, and
trains a few steps through the ordinary command. Prints seconds by phase, peak memory, and the files with their sizes.
Random weights say nothing of quality; time and memory do not depend on the weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

# What a person with little memory would choose.
SETTINGS = {
    "lora": ["method.rank=4"],
    "textual-inversion": ["method.vectors=2"],
    "dreambooth": ["method.weights=bf16", "train.optimizer=adafactor", "train.gradient_checkpointing=true"],
    "hypernetwork": ["method.sizes=all"],
}


def write_random(name: str, path: Path) -> None:
    """A base of the family's true geometry with random half-precision weights, in the original layout."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "families"))
    from family_files import write_single

    from tsuika.families import StableDiffusion, family
    from tsuika.families.common import build_vae

    kind = family(name)
    geometry = kind.geometry(kind.facts.prediction)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    text = {t.component: t.build(geometry.text[t.component]) for t in kind.towers if not t.optional}
    unet, vae = kind.network.build(geometry.unet), build_vae(geometry.vae)
    torch.set_default_dtype(torch.float32)
    model = StableDiffusion(
        family=kind,
        prediction=kind.facts.prediction,
        unet=unet,
        vae=vae,
        text_encoders=text,
        tokenizers={},
        scheduler_config={},
        latent_scale=kind.facts.latent_scale,
        latent_shift=geometry.latent_shift,
        native_size_px=geometry.native_size_px,
        source="",
    )
    write_single(model, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=("sd1", "sd2", "sdxl", "sd3"))
    parser.add_argument("--method", choices=SETTINGS, default="lora")
    parser.add_argument("--set", action="append", default=[], metavar="key=value")
    parser.add_argument("--tokenizer", required=True, help="folder with CLIP's vocab.json and merges.txt")
    parser.add_argument("--images", required=True)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where the random base is kept; default: a temporary folder")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        base, out = work / f"{options.family}.safetensors", Path(temporary) / "run"
        began = time.monotonic()
        if not base.exists():
            write_random(options.family, base)
        print(
            f"{base.name}: {base.stat().st_size / 2**30:.2f} GiB, built in {time.monotonic() - began:.0f} s", flush=True
        )
        settings = [
            f"base.tokenizer={options.tokenizer}",
            f"data.size_px={options.size}",
            "data.cache=false",
            "data.variants=1",
            "train.batch_size=1",
            "train.ema=0",
            "train.checkpoint_every=1000",
            "preview.num=0",
            *SETTINGS[options.method],
            *options.set,
        ]
        command = [
            sys.executable,
            "-m",
            "tsuika",
            "train",
            options.method,
            "--images",
            options.images,
            "--base",
            str(base),
            "--out",
            str(out),
            "--trigger",
            "sks",
            "--class-word",
            "cat",
            "--steps",
            str(options.steps),
            "--json",
            *(word for setting in settings for word in ("--set", setting)),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        sizes = {
            path.relative_to(out): path.stat().st_size for path in sorted(out.glob("artifacts/**/*")) if path.is_file()
        }
        tensors = {path: count(out / path) for path in sizes if path.suffix == ".safetensors"}
    print("| phase | seconds |\n|---|---|")
    for name, seconds in report["seconds"].items():
        print(f"| {name} | {seconds:.1f} |")
    print("\n| file | size | tensors |\n|---|---|---|")
    for path, size in sizes.items():
        print(f"| {path.relative_to('artifacts')} | {size / 2**20:,.2f} MiB | {tensors.get(path, '')} |")
    print(f"\npeak memory {report['peak_memory_bytes'] / 2**30:.1f} GiB; ", end="")
    print(f"largest relative error {max(a['largest_relative_error'] for a in report['artifacts']):.1e}")


def count(path: Path) -> int:
    """Tensors in a file."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return len(list(file.keys()))


if __name__ == "__main__":
    main()
