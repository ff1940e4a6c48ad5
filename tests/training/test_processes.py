"""Two processes are one: the same losses at the same global batch, and only the first writes."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
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


def ranks(place: Path, words: Sequence[str], count: int, **more: str) -> list[BaseProcess]:
    """Processes with the surroundings that a launcher gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **more}
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [begin(place, place / f"told-{i}.txt", *words, **shared, **one) for i, one in enumerate(own)]


def ended(place: Path, processes: Sequence[BaseProcess], status: int = 0) -> list[str]:
    """What they say once they are over."""
    for process in processes:
        process.join(PATIENCE_S)
    told = [(place / f"told-{rank}.txt").read_text(encoding="utf-8") for rank in range(len(processes))]
    assert [process.exitcode for process in processes] == [status] * len(processes), told
    return told


def wait_for_steps(run: Path, processes: Sequence[BaseProcess]) -> None:
    end = time.monotonic() + PATIENCE_S
    while len(rows(run, "Stepped")) < 5:
        assert time.monotonic() < end and all(process.is_alive() for process in processes)
        time.sleep(0.01)


def forked(place: Path, words: Sequence[str], count: int = 2, **more: str) -> list[str]:
    """What two processes say that a launcher has started."""
    return ended(place, ranks(place, words, count, **more))


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


@dataclass(frozen=True)
class Killed:
    """A run of two processes that was killed, and the losses of the same one in one process that was not."""

    place: Path
    run: Path
    whole: list[float]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    place = tmp_path_factory.mktemp("killed")
    base, pictures = make_place(place)
    more = {"train": {"steps": 12, "batch_size": 4, "checkpoint_every": 2}, "method": {"text_encoder": True}}
    whole, cut = (arguments(base, pictures, place / name, **more) for name in ("whole", "cut"))
    assert program(*whole) == 0
    both = ranks(place, cut, 2)
    wait_for_steps(place / "cut", both)
    for process in both:
        process.kill()
        process.join()
    assert not (place / "cut" / "report.json").exists()
    return Killed(place, place / "cut", [row["loss"] for row in rows(place / "whole", "Stepped")])


@pytest.mark.skipif(sys.platform == "win32", reason="no gloo over local sockets here")
@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_processes_goes_on_with_what_two_began(killed: Killed, count: int) -> None:
    """A state holds the whole batch's training, so that how many share it is of no account."""
    run = killed.place / f"by-{count}"
    shutil.copytree(killed.run, run)
    forked(killed.place, ["resume", str(run)], count)
    steps = {row["step"]: row["loss"] for row in rows(run, "Stepped")}
    assert max(steps) == 12 and (run / "report.json").exists()
    assert list(steps.values()) == pytest.approx(killed.whole, rel=1e-5)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Path, list[BaseProcess]]]:
    """Two processes in the middle of a long run."""
    base, pictures = make_place(tmp_path)
    words = arguments(base, pictures, tmp_path / "run", train={"steps": 9999, "batch_size": 4})
    both = ranks(tmp_path, words, 2)
    try:
        wait_for_steps(tmp_path / "run", both)
        yield tmp_path, both
    finally:
        for process in both:
            process.kill()


def newest_state(run: Path) -> int:
    return max(int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*"))


@pytest.mark.skipif(sys.platform == "win32", reason="no gloo over local sockets here")
def test_both_stop_as_they_are_asked_by_one_request(running: tuple[Path, list[BaseProcess]]) -> None:
    place, both = running
    assert program("stop", str(place / "run")) == 0
    first, second = ended(place, both, 8)
    assert "error[TR031]" in first and "error" not in second
    assert newest_state(place / "run") == rows(place / "run", "Stepped")[-1]["step"]
    assert any((place / "run" / "artifacts" / "unfinished").iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="no gloo over local sockets here")
def test_a_process_that_is_killed_ends_the_other_with_all_saved(running: tuple[Path, list[BaseProcess]]) -> None:
    place, (first, second) = running
    second.kill()
    (told,) = ended(place, [first], 8)
    assert told.count("error[") == 1 and "error[TR036]" in told
    assert newest_state(place / "run") == rows(place / "run", "Stepped")[-1]["step"]


def test_what_every_process_meets_is_told_by_the_first_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert program("train", "lora", "--images", str(tmp_path / "none"), "--out", str(tmp_path / "run")) == 3
        told.append(capsys.readouterr().err)
    assert "error[DS001]" in told[0] and not told[1]


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(RecipeError, match="batch_size"):
        accelerate_for(Recipe(train=Train(batch_size=3, device="cpu", precision="fp32")))


def test_a_launch_that_cannot_be_joined_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a scheduler has set some of the variables for itself."""

    def refusing(**_settings: object) -> None:
        int("x")

    monkeypatch.setattr(preparation, "Accelerator", refusing)
    with pytest.raises(RecipeError, match="RC045"):
        accelerate_for(Recipe(train=Train(device="cpu", precision="fp32")))


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


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_processes_that_would_shard_the_weights_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Sharded by Accelerate, the weights of the optimizer are not those that the model computes with: it would learn nothing."""
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(RecipeError) as caught:
        accelerate_for(Recipe(train=Train(device="cpu", precision="fp32")))
    assert caught.value.code == "RC030"
