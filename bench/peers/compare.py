"""Step time, processor time, memory and time to the first step, beside diffusers' and kohya's training scripts, by equal work.

    python bench/peers/compare.py METHOD --diffusers FOLDER [--sd-scripts FOLDER] [--peer-python PYTHON]
        [--base FOLDER --size 256 --batch 1] [--tokenizer FOLDER] [--steps 24] [--rounds 3] [--work FOLDER]
        [--only PROGRAM] [--set key=value]...

METHOD: lora (of attention), lora-ff (attention and feed-forward, sd-scripts' own choice), dreambooth-lora, dreambooth,
textual-inversion. FOLDER of diffusers and sd-scripts: their sources, unpacked; of `--base`: a diffusers folder, by default the
embedded base, written as one. `--tokenizer`: CLIP's, which sd-scripts take from the hub otherwise. `--peer-python`: of an
environment with the peers' own requirements (datasets, imagesize, voluptuous, toml, opencv) and the same torch; torchvision may lack.

The programs run in turn, a process each, with the same images, batch, size, precision (fp32), rank, layers and optimizer; without
previews, guard, averages and saved states; `bench/peers/hook.py` measures. Prints a table of medians and ranges over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HOOK = Path(__file__).with_name("hook.py")
TRIGGER, CLASS_WORD = "sks", "cat"
METHODS = ("lora", "lora-ff", "dreambooth-lora", "dreambooth", "textual-inversion")
OF_DIFFUSERS = r".*\.attn[12]\.to_(q|k|v|out\.0)"  # the layers of diffusers' own LoRA scripts
SKIPPED = 3  # steps at the start, in which buffers and kernels are made
EQUAL = (
    *("guard.mode=off", "preview.num=0", "train.ema=0", "train.min_snr_gamma=0", "train.checkpoint_every=1000000"),
    *("data.cache=false", "data.variants=1", "data.caption_dropout=0", "train.schedule=constant", "train.warmup=0"),
    *("train.precision=fp32", "train.device=cpu", "train.optimizer=adamw", "train.weight_decay=0.01"),
)


def images(work: Path, size: int, count: int = 8) -> None:
    """The same images three times: alone, with caption files for sd-scripts and tsuika, with a table for diffusers."""
    caption = f"a photo of {TRIGGER} {CLASS_WORD}"
    rows = []
    for folder in ("plain", "captions/1_subject", "table"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        colours = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(colours).resize((size, size), Image.Resampling.BICUBIC)
        for folder in ("plain", "captions/1_subject", "table"):
            image.save(work / folder / f"{number}.png")
        (work / "captions/1_subject" / f"{number}.txt").write_text(caption, encoding="utf-8")
        rows.append(json.dumps({"file_name": f"{number}.png", "text": caption}))
    (work / "table" / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")


def ours(options: argparse.Namespace, work: Path, out: Path) -> list[str]:
    """The arguments of tsuika."""
    method = "lora" if "lora" in options.method else options.method
    settings = [*EQUAL, f"train.batch_size={options.batch}", f"data.size_px={options.size}"]
    if method == "lora":
        targets = "attention-ff" if options.method == "lora-ff" else OF_DIFFUSERS
        settings += [f"method.rank={options.rank}", f"method.targets={targets}", "method.text_encoder=false"]
    if method == "dreambooth":
        settings.append("method.text_encoder=false")
    folder = work / ("captions/1_subject" if method == "lora" else "plain")
    arguments = ["tsuika", "train", method, "--images", folder, "--base", options.base, "--out", out]
    arguments += ["--trigger", TRIGGER, "--class-word", CLASS_WORD, "--steps", options.steps, "--json", "--lang", "en"]
    return [*map(str, arguments), *(word for one in (*settings, *options.set) for word in ("--set", one))]


def of_diffusers(options: argparse.Namespace, work: Path, out: Path) -> list[str]:
    """The arguments of diffusers' script for the method."""
    scripts = {
        "lora": "text_to_image/train_text_to_image_lora.py",
        "dreambooth-lora": "dreambooth/train_dreambooth_lora.py",
        "dreambooth": "dreambooth/train_dreambooth.py",
        "textual-inversion": "textual_inversion/textual_inversion.py",
    }
    prompt = ["--instance_data_dir", work / "plain", "--instance_prompt", f"a photo of {TRIGGER} {CLASS_WORD}"]
    # Their quickest way for one prompt.
    prompt.append("--pre_compute_text_embeddings")
    own: dict[str, list[Any]] = {
        "lora": ["--train_data_dir", work / "table", "--rank", options.rank, "--cache_dir", work / "datasets"],
        "dreambooth-lora": [*prompt, "--rank", options.rank],
        "dreambooth": prompt,
        "textual-inversion": [
            *("--train_data_dir", work / "plain", "--learnable_property", "object", "--repeats", 100),
            *("--placeholder_token", "sks-cat", "--initializer_token", CLASS_WORD, "--save_steps", 1_000_000),
        ],
    }
    common = [
        *("--pretrained_model_name_or_path", options.base, "--output_dir", out, "--resolution", options.size),
        *("--train_batch_size", options.batch, "--max_train_steps", options.steps, "--checkpointing_steps", 1_000_000),
        *("--lr_scheduler", "constant", "--seed", 0, "--mixed_precision", "no", "--learning_rate", 1e-4),
    ]
    script = options.diffusers / "examples" / scripts[options.method]
    return [str(script), *map(str, common), *map(str, own[options.method])]


def of_sd_scripts(options: argparse.Namespace, work: Path, out: Path) -> list[str]:
    """The arguments of sd-scripts; its LoRA adapts attention and feed-forward layers."""
    here = work / "tokenizers" / "openai_clip-vit-large-patch14"
    if not here.exists():
        here.parent.mkdir(parents=True, exist_ok=True)
        here.symlink_to(options.tokenizer)
    arguments = [
        *(options.sd_scripts / "train_network.py", "--pretrained_model_name_or_path", options.base),
        *("--train_data_dir", work / "captions", "--output_dir", out, "--output_name", "result"),
        *("--resolution", f"{options.size},{options.size}", "--train_batch_size", options.batch, "--cache_latents"),
        *("--max_train_steps", options.steps, "--network_module", "networks.lora", "--network_dim", options.rank),
        *("--network_alpha", options.rank, "--network_train_unet_only", "--optimizer_type", "AdamW", "--sdpa"),
        *("--learning_rate", 1e-4, "--mixed_precision", "no", "--save_precision", "fp16", "--seed", 0),
        *("--max_data_loader_n_workers", 0, "--caption_extension", ".txt", "--save_model_as", "safetensors"),
        *("--tokenizer_cache_dir", here.parent, "--max_grad_norm", 1.0),
    ]
    return list(map(str, arguments))


def measured(python: str, arguments: Sequence[str], result: Path) -> dict[str, Any]:
    """A run; what the hook has written. Raises SystemExit: the program failed; its output is in `result` with `.log`."""
    with result.with_suffix(".log").open("w", encoding="utf-8") as log:
        done = subprocess.run(
            [python, HOOK, result, *arguments], stdout=log, stderr=log, cwd=result.parent, check=False
        )
    if done.returncode:
        raise SystemExit(f"{arguments[0]} failed, see {log.name}")
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def summary(run: dict[str, Any], batch: int) -> dict[str, float]:
    """The figures of one run."""
    steps = run["steps"]
    later = list(zip(steps[SKIPPED:], steps[SKIPPED - 1 :], strict=False))
    before = [both for when, *both in run["memory"] if when <= steps[0][0]]
    return {
        "processor s a step": statistics.median(now[1] - last[1] for now, last in later),
        "s a step": statistics.median(now[0] - last[0] for now, last in later),
        "first step, processor s": steps[0][1],
        "first step, s": steps[0][0],
        "whole program, processor s": run["whole"][1],
        "peak, GiB": run["peak"] / 2**30,
        "peak before the first step, GiB": max((all_ for all_, _own in before), default=0) / 2**30,
        "peak of memory of no file, GiB": max(own for _when, _all, own in run["memory"]) / 2**30,
        "trained weights": run["weights"],
        "transforms, ms a step": run["transforms"] / len(steps) * 1000,
    }


def main() -> None:
    """Measure in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--diffusers", type=Path)
    parser.add_argument("--sd-scripts", type=Path)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("peers-work"))
    parser.add_argument("--only", choices=("tsuika", "diffusers", "sd-scripts"))
    parser.add_argument("--set", action="append", default=[], metavar="key=value")
    options = parser.parse_args()
    if options.steps <= SKIPPED:
        parser.error(f"--steps: more than {SKIPPED}")
    work = options.work.resolve() / f"{options.size}px"
    images(work, options.size)
    if options.base is None:
        options.base = options.work.resolve() / "embedded"
        if not options.base.exists():
            import tsuika
            from tsuika.api.models import EMBEDDED

            for _event in tsuika.convert(EMBEDDED, to="diffusers", dtype="fp32", out=options.base):
                pass
    options.base = options.base.resolve()
    ways = {"tsuika": (sys.executable, ours)}
    if options.diffusers and options.method != "lora-ff":
        ways["diffusers"] = (options.peer_python, of_diffusers)
    if options.sd_scripts and options.method == "lora-ff":
        ways["sd-scripts"] = (options.peer_python, of_sd_scripts)
    if options.only:
        ways = {options.only: ways[options.only]}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name, (python, arguments) in ways.items():
            place = work / f"{options.method}-{name}-{number}"
            while place.exists():
                place = place.with_name(f"{place.name}+")
            place.mkdir()
            run = measured(python, arguments(options, work, place / "out"), place / "measured.json")
            rows[name].append(summary(run, options.batch))
            print(f"{name}: {rows[name][-1]}", file=sys.stderr, flush=True)
    names = list(ways)
    print(
        f"\n{options.method}, {options.base.name}, {options.size} px, batch {options.batch}, {options.rounds} rounds\n"
    )
    print(f"| | {' | '.join(names)} |{' ratio |' * (len(names) - 1)}")
    print("|---" * (2 * len(names)) + "|")
    for label in rows[names[0]][0]:
        middles = [statistics.median(one[label] for one in rows[name]) for name in names]
        ranges = [
            f"{min(one[label] for one in rows[n]):.4g} to {max(one[label] for one in rows[n]):.4g}" for n in names
        ]
        cells = [f"{middle:.4g} ({span})" for middle, span in zip(middles, ranges, strict=True)]
        ratios = [f"{middles[0] / other:.2f}" if other else "-" for other in middles[1:]]
        print(f"| {label} | {' | '.join([*cells, *ratios])} |")


if __name__ == "__main__":
    main()
