"""A run that is killed for real, several times, ends with the same files as one that nobody disturbed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import PROGRAM, arguments, environment, hashes, make_place, rows

from tsuika.train import checkpoint

PATIENCE_S = 240  # on a busy machine
# The program, but so slow in flushing a saved state that a kill can hit it there.
SLOW_TO_SAVE = """
import time
from tsuika.train import checkpoint
flush = checkpoint._flush
checkpoint._flush = lambda path: (time.sleep(0.3), flush(path))
from tsuika.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    make_place(folder)
    return folder


def train_arguments(place: Path, name: str) -> list[str]:
    return arguments(
        place / "base", place / "pictures", place / name,
        train={"steps": 16, "checkpoint_every": 3, "accumulate": 2}, method={"rank": 2, "dropout": 0.2},
    )  # fmt: skip


def begin(place: Path, *words: str, program: tuple[str, ...] = PROGRAM) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*program, *words], cwd=place, env=environment(place), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def interrupt(process: subprocess.Popen[str], when: Callable[[], bool], number: signal.Signals) -> int:
    """Wait for a moment, send the signal, and return the status."""
    end = time.monotonic() + PATIENCE_S
    while not when():
        assert process.poll() is None, f"ended before its moment: {process.communicate()}"
        assert time.monotonic() < end, "the moment never came"
        time.sleep(0.002)
    process.send_signal(number)
    process.communicate(timeout=PATIENCE_S)
    return process.returncode


def finish(process: subprocess.Popen[str]) -> None:
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, told


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_stopped_and_killed_again_it_ends_with_the_same_bits(place: Path) -> None:
    finish(begin(place, *train_arguments(place, "whole")))

    run = place / "broken"
    first = begin(place, *train_arguments(place, "broken"))
    assert interrupt(first, lambda: len(rows(run, "Stepped")) >= 5, signal.SIGINT) == 130
    state = checkpoint.newest(run / "checkpoints")
    assert state is not None
    assert state.step == rows(run, "Stepped")[-1]["step"] < 16  # Ctrl+C saves what is done

    slow = (sys.executable, "-c", SLOW_TO_SAVE)
    writing = begin(place, "resume", str(run), program=slow)
    status = interrupt(writing, lambda: any((run / "checkpoints").glob(".*.tmp")), signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert any((run / "checkpoints").glob(".*.tmp"))  # half a state, which must not count
    assert checkpoint.newest(run / "checkpoints") is not None

    done = len(rows(run, "Stepped"))
    stepping = begin(place, "resume", str(run))
    assert interrupt(stepping, lambda: len(rows(run, "Stepped")) >= done + 4, signal.SIGKILL) == -signal.SIGKILL

    finish(begin(place, "resume", str(run)))
    assert not any((run / "checkpoints").glob(".*"))
    assert hashes(run / "artifacts") == hashes(place / "whole/artifacts")
    by_step = {row["step"]: row["loss"] for row in rows(run, "Stepped")}
    assert by_step == {row["step"]: row["loss"] for row in rows(place / "whole", "Stepped")}


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_before_its_first_state_or_while_writing_the_result(place: Path) -> None:
    if not (place / "whole/report.json").exists():
        finish(begin(place, *train_arguments(place, "whole")))
    run = place / "early-and-late"
    early = begin(place, *train_arguments(place, "early-and-late"))
    assert interrupt(early, lambda: (run / "recipe.toml").exists(), signal.SIGKILL) == -signal.SIGKILL
    late = begin(place, "resume", str(run))
    wrote = lambda: any(row["name"] == "write" for row in rows(run, "Phase"))  # noqa: E731
    assert interrupt(late, wrote, signal.SIGKILL) == -signal.SIGKILL
    finish(begin(place, "resume", str(run)))
    assert hashes(run / "artifacts") == hashes(place / "whole/artifacts")
