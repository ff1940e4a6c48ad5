"""Kills, and several processes at once: `pytest -m slow tests/campaign/kills.py`.

KILLS (default 2) is how many times runs of each kind (a method, with the guard or without) are killed, at random moments;
SEED chooses them, and is printed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "training"))
from runs import arguments, begin, hashes, make_place, rows

from tsuika.methods import METHODS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")]

KILLS = int(os.environ.get("KILLS", "2"))
SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
PATIENCE_S = 600
STEPS = 8


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    print(f"SEED={SEED}")
    with tempfile.TemporaryDirectory(prefix="tsuika-kills-") as folder:
        make_place(Path(folder))
        yield Path(folder)


def train(place: Path, run: Path, method: str, guard: str) -> list[str]:
    more: dict[str, Any] = {"train": {"steps": STEPS, "checkpoint_every": 2}, "guard": {"mode": guard}}
    return arguments(place / "base", place / "pictures", run, method, **more)


@pytest.mark.parametrize("guard", ["off", "on"])
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_any_moment_it_ends_with_the_same_bits(place: Path, method: str, guard: str) -> None:
    """A run is killed again and again, until it comes to its end between two kills; then the next one."""
    chance = random.Random(f"{SEED} {method} {guard}")
    whole, told = place / f"{method}-{guard}", place / "told.txt"
    warm = begin(place, told, "--version")
    warm.join(PATIENCE_S)
    began = time.monotonic()
    calm = begin(place, told, *train(place, whole, method, guard))
    calm.join(PATIENCE_S)
    took = time.monotonic() - began
    assert calm.exitcode == 0, told.read_text()
    kills = runs = 0
    while kills < KILLS:
        run = place / f"{method}-{guard}-{runs}"
        runs += 1
        ended = False
        while not ended:
            # Before its recipe was written there is nothing to go on with, and the folder is free.
            words = ["resume", str(run)] if (run / "recipe.toml").exists() else train(place, run, method, guard)
            process = begin(place, told, *words)
            process.join(chance.uniform(0.02, 1.1) * took if kills < KILLS else PATIENCE_S)
            if process.exitcode is None and process.pid:
                os.kill(process.pid, signal.SIGKILL)
                process.join(PATIENCE_S)
                kills += process.exitcode == -signal.SIGKILL
            ended = process.exitcode != -signal.SIGKILL
            assert not ended or process.exitcode == 0, f"SEED={SEED}, kill {kills}: {told.read_text()}"
        assert hashes(run / "artifacts") == hashes(whole / "artifacts"), f"SEED={SEED}, kill {kills}"
        assert not list(run.rglob(".*.tmp"))
    print(f"{method}, guard {guard}: {kills} kills in {runs} runs, each to the same bits; {took:.1f} s undisturbed")


def test_two_processes_on_one_run_and_one_cache(place: Path) -> None:
    run, told = place / "shared", place / "told.txt"
    first = begin(place, told, *train(place, run, "lora", "on"))
    while not rows(run, "Stepped") and first.exitcode is None:
        time.sleep(0.01)
    second = begin(place, place / "second.txt", "resume", str(run))
    third = begin(place, place / "third.txt", *train(place, place / "beside", "lora", "on"))
    for process in (second, third, first):
        process.join(PATIENCE_S)
    assert second.exitcode == 2 and "RC027" in (place / "second.txt").read_text()
    assert (first.exitcode, third.exitcode) == (0, 0)
    assert hashes(run / "artifacts") == hashes(place / "beside" / "artifacts")


def test_two_processes_on_one_search(place: Path) -> None:
    pytest.importorskip("optuna")
    out, images, source = place / "search", place / "different", random.Random(0)
    images.mkdir()
    for number in range(8):
        blocks = Image.frombytes("RGB", (8, 8), source.randbytes(192))
        blocks.resize((64, 64), Image.Resampling.NEAREST).save(images / f"{number}.png")
    words = [word.replace(str(place / "pictures"), str(images)) for word in train(place, out, "lora", "on")]
    words = ["search", *words[1:], "--over", "method.rank=1,2,3", "--over", "train.ema=0,0.9"]
    told = [place / f"search-{number}.txt" for number in range(2)]
    processes = [begin(place, file, *words) for file in told]
    for process in processes:
        process.join(2 * PATIENCE_S)
    assert [process.exitcode for process in processes] == [0, 0], [file.read_text() for file in told]
    assert len(list((out / "trials").glob("*/report.json"))) == 6
