"""Kills, full and read-only disks, and odd surroundings: `pytest -m slow tests/campaign/kills.py`.

KILLS (default 2) is how many times runs of each kind (a method, with the guard or without) are killed, at random moments;
SEED chooses them, and is printed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "training"))
from runs import PROGRAM, arguments, begin, environment, hashes, make_place, rows

from tsuika.methods import METHODS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL, no mounts")]

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


def program(place: Path, *words: str, **surroundings: Any) -> subprocess.CompletedProcess[str]:
    """The program to its end, in surroundings that differ from the usual ones; None takes a variable away."""
    told = {"check": False, "capture_output": True, "text": True, "timeout": PATIENCE_S, "cwd": place}
    own = {**environment(place), **surroundings.pop("env", {})}
    env = {name: value for name, value in own.items() if value is not None}
    return subprocess.run([*PROGRAM, *words], env=env, **{**told, **surroundings})


def in_words(done: subprocess.CompletedProcess[str]) -> str:
    """What was said, which is an error of ours in one block and not a bug."""
    said = str(done.stderr)
    assert 2 <= done.returncode <= 7, said
    assert said.count("error[") == 1 and "Traceback" not in said and len(said) < 4000
    return said


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


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small disk of its own."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no right to mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("kib", [64, 160, 256])
def test_on_a_full_disk_it_says_so_and_goes_on_when_there_is_room(place: Path, kib: int) -> None:
    with mounted(place / f"full-{kib}", f"size={kib}k") as disk:
        run = disk / "run"
        assert "RS002" in in_words(program(place, *train(place, run, "lora", "off")))
        assert not list(run.rglob(".*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        again = ["resume", str(run)] if (run / "recipe.toml").exists() else train(place, run, "lora", "off")
        done = program(place, *again)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dry", [False, True])
def test_a_read_only_disk(place: Path, dry: bool) -> None:
    with mounted(place / f"read-only-{dry}", "ro,size=1m") as disk:
        words = [*train(place, disk / "run", "lora", "off"), *(["--dry-run"] if dry else [])]
        assert "RS003" in in_words(program(place, *words))
        cached = train(place, place / f"uncached-{dry}", "lora", "off")
        if not dry:
            assert "DS020" in in_words(program(place, *cached, env={"XDG_CACHE_HOME": str(disk)}))


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
    out = place / "search"
    words = train(place, out, "lora", "on")
    words = ["search", *words[1:], "--over", "method.rank=1,2,3", "--over", "train.seed=0,1"]
    told = [place / f"search-{number}.txt" for number in range(2)]
    processes = [begin(place, file, *words) for file in told]
    for process in processes:
        process.join(2 * PATIENCE_S)
    assert [process.exitcode for process in processes] == [0, 0], [file.read_text() for file in told]
    assert len(list((out / "trials").glob("*/report.json"))) == 6


@pytest.mark.parametrize(
    ("name", "surroundings"),
    [
        ("C locale", {"env": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}}),
        ("no home", {"env": {"HOME": None, "XDG_CACHE_HOME": None}}),
        ("umask", {"umask": 0o377}),
        ("closed input", {"stdin": subprocess.DEVNULL}),
    ],
)
def test_odd_surroundings(place: Path, name: str, surroundings: dict[str, Any]) -> None:
    run = place / name.replace(" ", "-")
    done = program(place, *train(place, run, "lora", "off"), **surroundings)
    assert done.returncode == 0 or 2 <= done.returncode <= 7, done.stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_nobody_listens(place: Path, stream: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    run = place / f"unheard-{stream}"
    words = [*PROGRAM, *train(place, run, "lora", "off")]
    other = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: writing}
    done = subprocess.run(words, env=environment(place), cwd=place, timeout=PATIENCE_S, check=False, **other)
    os.close(writing)
    assert done.returncode == 0 and (run / "report.json").exists()


def test_a_clock_that_jumps(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Back by a year at every look: no duration may become negative, and no bit may change."""
    import json

    import tsuika
    from tsuika import config

    now = [time.time()]

    def jumping() -> float:
        now[0] -= 365 * 86400
        return now[0]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(time, "time", jumping)
    words = train(place, tmp_path / "run", "lora", "on")
    pairs = [words[at + 1].split("=", 1) for at, word in enumerate(words) if word == "--set"]
    tables = {key: json.loads(value) for key, value in pairs}
    tables |= {"base.model": str(place / "base"), "data.images": str(place / "pictures"), "data.trigger": "zuzu"}
    done = tsuika.train(config.build(config.override({}, tables)), tmp_path / "run").result
    assert all(value >= 0 for value in done.report["seconds"].values())
