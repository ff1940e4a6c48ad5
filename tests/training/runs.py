"""A tiny base on disk, pictures, and the program for a short run on them."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tiny_models import draw_pictures, shallow, write_folder

PROGRAM = (sys.executable, "-m", "tsuika")
# What every run imports, most of a short one's time.
IMPORTED = (
    "tsuika.api.training",
    "tsuika.cli.main",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl",
    "transformers.models.clip.modeling_clip",
)


def make_place(folder: Path) -> tuple[Path, Path]:
    """A diffusers folder with a tiny SD1, and a folder with four pictures."""
    return write_folder(shallow(), folder / "base", old_style=True), draw_pictures(folder / "pictures")


def settings(name: str = "lora", **more: Any) -> dict[str, Any]:
    """Settings of a short run of a method, by dotted key."""
    keys = {f"{section}.{leaf}": value for section, row in more.items() for leaf, value in row.items()}
    small = {"method.rank": 2} if name == "lora" else {}
    return {
        "train.steps": 4,
        "train.batch_size": 2,
        "train.precision": "fp32",
        "train.device": "cpu",
        **small,
        "data.variants": 1,
        "output.name": "result",
        "preview.num": 0,
        "guard.mode": "off",
        **keys,
    }


def arguments(base: Path, pictures: Path, out: Path, name: str = "lora", **more: Any) -> list[str]:
    """`train ...` for the program."""
    pairs = [part for key, value in settings(name, **more).items() for part in ("--set", f"{key}={json.dumps(value)}")]
    words = ["--base", str(base), "--images", str(pictures), "--out", str(out), "--trigger", "zuzu"]
    return ["train", name, *words, *pairs]


def environment(folder: Path) -> dict[str, str]:
    """One thread, no network, a cache of its own."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(folder / "cache")}


def program(*words: str) -> int:
    """The program in this process: its exit status."""
    from tsuika.cli import screen
    from tsuika.cli.main import app

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        screen.run(app, ["--lang", "en", *words])
    except SystemExit as leave:
        return int(leave.code or 0)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


@cache
def _forks() -> Any:
    """Processes that begin with everything imported: a fork of a server that has done nothing else."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(list(IMPORTED))
    return forks


def begin(place: Path, told: Path, *words: str, slow_saves: bool = False, **surroundings: str) -> BaseProcess:
    """The program in a process of its own, which signals can hit; what it says goes into a file."""
    process: BaseProcess = _forks().Process(target=_program, args=(place, told, words, slow_saves, surroundings))
    process.start()
    return process


def _program(
    place: Path, told: Path, words: tuple[str, ...], slow_saves: bool, surroundings: Mapping[str, str]
) -> None:
    import torch

    from tsuika.cli.main import main
    from tsuika.core import files

    with told.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.update(environment(place) | surroundings)
    os.chdir(place)
    torch.set_num_threads(1)
    if slow_saves:  # so slow in flushing a state that a kill can hit it there
        flush = files.flush
        files.flush = lambda path: (time.sleep(0.3), flush(path))[1]
    sys.argv = ["tsuika", *words]
    main()


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    """Whole lines of `events.jsonl` of one kind of event."""
    log = run / "events.jsonl"
    lines = log.read_text(encoding="utf-8").split("\n")[:-1] if log.exists() else []
    return [row for row in map(json.loads, lines) if row["event"] == kind]
