"""Two processes are one: the same losses at the same global batch, and only the first writes."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from runs import arguments, begin, environment, hashes, make_place, program, rows

from tsuika.config import Recipe
from tsuika.core.errors import RecipeError
from tsuika.core.sections import Train
from tsuika.training import preparation
from tsuika.training.preparation import accelerate_for

# `--multi_gpu` also where there are only CPUs: without it Accelerate starts one process.
LAUNCH = (
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
    "--main_process_port",
    "0",
    "-m",
    "tsuika",
)
PATIENCE_S = 120  # on a busy machine


def launched(place: Path, words: Sequence[str]) -> list[str]:
    """What two processes say that Accelerate's launcher starts."""
    command = [*LAUNCH, *words]
    done = subprocess.run(
        command, cwd=place, env=environment(place), text=True, timeout=PATIENCE_S, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return [done.stdout]


def forked(place: Path, words: Sequence[str]) -> list[str]:
    """What two processes say with the surroundings that a launcher gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told = [place / f"told-{rank}.txt" for rank in range(2)]
    both = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    for process in [begin(place, file, *words, **both, **rank) for file, rank in zip(told, ranks, strict=True)]:
        process.join(PATIENCE_S)
        assert process.exitcode == 0, [file.read_text(encoding="utf-8") for file in told]
    return [file.read_text(encoding="utf-8") for file in told]


@pytest.mark.skipif(sys.platform == "win32", reason="no gloo over local sockets here")
# The launcher and what it starts import everything anew.
@pytest.mark.parametrize("start", [forked, pytest.param(launched, marks=pytest.mark.slow)])
def test_two_processes_are_one(
    start: Callable[[Path, Sequence[str]], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, pictures = make_place(tmp_path)
    more = {
        "train": {"steps": 4, "batch_size": 4, "accumulate": 2},
        "method": {"text_encoder": True},
        "preview": {"num": 1, "steps": 1, "prompts": ["a cat"]},
    }
    ours, theirs = ([*arguments(base, pictures, tmp_path / name, **more), "--json"] for name in ("one", "two"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert program(*ours) == 0
    # One object: the second process says nothing.
    (result,) = (told for told in start(tmp_path, theirs) if '"steps_done"' in told)
    assert result.count('"steps_done"') == 1 and '"steps_done": 4' in result
    one, two = ([row["loss"] for row in rows(tmp_path / name, "Stepped")] for name in ("one", "two"))
    assert len(one) == 4
    assert two == pytest.approx(one, rel=1e-5)
    assert len(rows(tmp_path / "two", "Started")) == 1
    assert hashes(tmp_path / "two").keys() == hashes(tmp_path / "one").keys()


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(RecipeError, match="batch_size"):
        accelerate_for(Recipe(train=Train(batch_size=3, device="cpu", precision="fp32")))


def test_the_device_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the second GPU: Accelerate takes whichever is the current one. A launch gives each process its own."""
    taken: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(preparation, "pick_device", torch.device)
    wish = Recipe(train=Train(device="cuda:1", precision="fp32"))
    accelerate_for(wish)
    assert taken == [torch.device("cuda:1")]
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(
        preparation, "Accelerator", lambda **_: SimpleNamespace(num_processes=1, device=torch.device("cuda"))
    )
    accelerate_for(wish)
    assert taken == [torch.device("cuda:1")]


def test_a_run_may_compute_otherwise_than_the_one_before_it_in_the_same_process() -> None:
    trains = [Train(device="cpu", precision=precision) for precision in ("fp32", "bf16", "fp32")]
    modes = [accelerate_for(Recipe(train=train)).mixed_precision for train in trains]
    assert modes == ["no", "bf16", "no"]
