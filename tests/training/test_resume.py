"""A run that is killed for real, several times, ends with the same files as one that nobody disturbed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from runs import arguments, begin, hashes, make_place, rows

from tsuika.evaluation import run_record
from tsuika.training import checkpoint

PATIENCE_S = 120  # on a busy machine
STEPS = 16


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    make_place(folder)
    return folder


def train_arguments(place: Path, name: str) -> list[str]:
    return arguments(
        place / "base",
        place / "pictures",
        place / name,
        train={"steps": STEPS, "checkpoint_every": 4},
        method={"rank": 2, "dropout": 0.2},
    )


def interrupt(process: BaseProcess, when: Callable[[], bool], number: signal.Signals) -> int | None:
    """Wait for a moment, send the signal, and return the status."""
    end = time.monotonic() + PATIENCE_S
    while not when():
        assert process.exitcode is None, "ended before its moment"
        assert time.monotonic() < end, "the moment never came"
        time.sleep(0.002)
    assert process.pid
    os.kill(process.pid, number)
    process.join(PATIENCE_S)
    return process.exitcode


def finish(process: BaseProcess, told: Path) -> None:
    process.join(PATIENCE_S)
    assert process.exitcode == 0, told.read_text(encoding="utf-8")


def stepped(run: Path) -> list[int]:
    return [row["step"] for row in rows(run, "Stepped")]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_and_stopped_again_and_again_it_ends_with_the_same_bits(place: Path) -> None:
    """Killed in its first steps, stopped by Ctrl+C, killed in a save with later steps lost, and in the last writing."""
    whole, run = place / "whole", place / "broken"
    states, killed = run / "checkpoints", -signal.SIGKILL
    calm, told = place / "calm.txt", place / "told.txt"
    undisturbed = begin(place, calm, *train_arguments(place, "whole"))
    try:
        early = begin(place, told, *train_arguments(place, "broken"))
        assert interrupt(early, lambda: len(stepped(run)) >= 2, signal.SIGKILL) == killed
        assert stepped(run)[-1] < STEPS

        seen = len(stepped(run))
        stopped = begin(place, told, "resume", str(run))
        assert interrupt(stopped, lambda: len(stepped(run)) >= seen + 2, signal.SIGINT) == 130
        state, _damaged = checkpoint.newest(states)
        assert state is not None
        assert state.step == stepped(run)[-1] < STEPS  # Ctrl+C saves what is done

        saving = begin(place, told, "resume", str(run), slow_saves=True)
        assert interrupt(saving, lambda: any(states.glob(".*.tmp")), signal.SIGKILL) == killed
        assert any(states.glob(".*.tmp"))  # half a state, which must not count
        newest, _damaged = checkpoint.newest(states)
        assert newest is not None
        assert newest.step == state.step < stepped(run)[-1]

        writing = begin(place, told, "resume", str(run))
        assert (
            interrupt(writing, lambda: "write" in [row["name"] for row in rows(run, "Phase")], signal.SIGKILL) == killed
        )
        assert not run_record.is_over(run / "report.json")  # that of the stopped run

        finish(begin(place, told, "resume", str(run)), told)
        finish(undisturbed, calm)
    finally:
        undisturbed.kill()
    assert not any(states.glob(".*"))
    assert hashes(run / "artifacts")
    assert hashes(run / "artifacts") == hashes(whole / "artifacts")
    losses = {row["step"]: row["loss"] for row in rows(whole, "Stepped")}
    assert list(losses) == list(range(1, STEPS + 1))
    assert {(row["step"], row["loss"]) for row in rows(run, "Stepped")} == set(
        losses.items()
    )  # also of steps done twice


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize(
    "method",
    ["textual-inversion", "dreambooth", pytest.param("hypernetwork", marks=pytest.mark.slow)],  # saved as a LoRA is
)
def test_each_other_method_survives_a_kill(place: Path, method: str) -> None:
    train = {"steps": 8, "checkpoint_every": 3}
    whole, run = place / f"{method}-whole", place / f"{method}-broken"
    calm, told = place / "calm.txt", place / "told.txt"
    undisturbed = begin(place, calm, *arguments(place / "base", place / "pictures", whole, method, train=train))
    try:
        killed = begin(place, told, *arguments(place / "base", place / "pictures", run, method, train=train))
        assert interrupt(killed, lambda: len(stepped(run)) >= 4, signal.SIGKILL) == -signal.SIGKILL
        assert stepped(run)[-1] < 8
        finish(begin(place, told, "resume", str(run)), told)
        finish(undisturbed, calm)
    finally:
        undisturbed.kill()
    assert hashes(run / "artifacts")
    assert hashes(run / "artifacts") == hashes(whole / "artifacts")
