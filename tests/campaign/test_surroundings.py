"""Commands where the machine is odd: full and read-only disks, an account without a home, other locales, a clock that jumps,
nobody who listens. What needs a whole run or a disk of its own is slow."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path += [str(Path(__file__).parent), *(str(Path(__file__).parents[1] / part) for part in ("training", "families"))]
import harness
from family_files import write_folder
from runs import PROGRAM, arguments, environment, hashes, make_place, settings

import tsuika
from tiny_models import shallow
from tsuika import config
from tsuika.advice.estimate import Machine, Measured
from tsuika.api import places
from tsuika.api.models import cache_folder
from tsuika.api.timing import Timer
from tsuika.cli import language, screen
from tsuika.core import files
from tsuika.studio.home import Home
from tsuika.studio.security import Access
from tsuika.studio.state import Studio

PATIENCE_S = 600
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, mounts")


# ------------------------------------------------------------------------------------------- an account without a home


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has no entry: `~` stays what it is."""
    pwd = pytest.importorskip("pwd", reason="Windows asks the environment alone")

    def no_entry(user: int) -> None:
        raise KeyError(user)

    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_there_are_other_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cache_folder().is_relative_to(tempfile.gettempdir())
    assert not any(one.exists() for one in places.usual_places() if not one.is_absolute())
    roots = Studio.of(Home.open(tmp_path / "studio"), Access(frozenset(), "key", b"secret", 0)).picker.roots
    assert all(one.is_absolute() for one in roots)
    status, said = ended(["studio", "--no-browser"], capsys)
    assert status == 2 and "error[RC005]" in said and "--home" in said
    assert [one.name for one in tmp_path.iterdir()] == ["studio"]


def ended(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The status of a command, and what it said."""
    status: Any = 0
    try:
        screen.run(harness.command(), words)
    except SystemExit as leave:
        status = leave.code or 0
    language.use(None)
    return int(status), capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- a clock that jumps


@pytest.mark.parametrize(("days", "is_used"), [(0.5, True), (1.5, False), (-0.5, True), (-400, False)])
def test_a_time_that_was_measured_is_used_for_a_day_also_where_the_clock_was_set_back(
    days: float, is_used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    recipe = config.build(config.override({}, settings() | {"data.trigger": "zuzu"}))
    base = SimpleNamespace(name="tiny", at_hand=True, numbers=lambda _part: 1)
    timer = Timer(base, Machine("cpu", "x", "fp32", 8.0))  # type: ignore[arg-type]
    measured = iter([Measured(1.0, "2026-11-30"), Measured(2.0, "2026-11-30")])
    monkeypatch.setattr(timer, "_run", lambda _recipe: next(measured))
    assert timer.measured(recipe) is not None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + days * 86400)
    again = timer.measured(recipe)
    assert again is not None and again.step_s == (1.0 if is_used else 2.0)


@pytest.mark.parametrize("content", ["", "[]", "null", '{"x": 1}', '{"seal": 3}', "[" * 100_000])
def test_times_that_cannot_be_read_are_measured_again(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files.write_text(tmp_path / "tsuika" / "speed.json", content)
    recipe = config.build(config.override({}, settings() | {"data.trigger": "zuzu"}))
    base = SimpleNamespace(name="tiny", at_hand=True, numbers=lambda _part: 1)
    timer = Timer(base, Machine("cpu", "x", "fp32", 8.0))  # type: ignore[arg-type]
    monkeypatch.setattr(timer, "_run", lambda _recipe: Measured(1.0, "2026-11-30"))
    assert timer.measured(recipe) == Measured(1.0, "2026-11-30")


@pytest.mark.slow
@pytest.mark.parametrize("by_days", [-365, 365])
def test_a_clock_that_jumps_at_every_look_changes_no_bit(
    by_days: int, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    whole = tsuika.train(recipe_of(place), tmp_path / "whole").result
    now = [time.time()]

    def jumping() -> float:
        now[0] += by_days * 86400
        return now[0]

    monkeypatch.setattr(time, "time", jumping)
    done = tsuika.train(recipe_of(place), tmp_path / "run").result
    assert all(value >= 0 for value in done.report["seconds"].values())
    assert hashes(done.folder / "artifacts") == hashes(whole.folder / "artifacts")


# --------------------------------------------------------------------------------------------------------- odd disks


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A base, images, a LoRA and a finished run."""
    folder = tmp_path_factory.mktemp("surroundings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        make_place(folder)
        write_folder(shallow(seed=4), folder / "tuned", old_style=True)
        _ = tsuika.train(recipe_of(folder), folder / "done").result
        (lora,) = (folder / "done" / "artifacts").glob("*.safetensors")
        shutil.copy(lora, folder / "lora.safetensors")
        yield folder


def recipe_of(place: Path, images: Path | None = None) -> config.Recipe:
    own = {"base.model": str(place / "base"), "data.images": str(images or place / "pictures"), "data.trigger": "zuzu"}
    return config.build(config.override({}, settings(train={"steps": 2, "checkpoint_every": 1}) | own))


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


DRAWN = ("--base", "<place>/base", "--size", "64x64", "--steps", "1", "--device", "cpu")
LORA = "<place>/lora.safetensors"
COMMANDS = {
    "train": ("train", "--recipe", "<place>/done/recipe.toml", "--out", "<disk>/run"),
    "train --dry-run": ("train", "--recipe", "<place>/done/recipe.toml", "--out", "<disk>/run", "--dry-run"),
    "search": (
        *("search", "--recipe", "<place>/done/recipe.toml", "--out", "<disk>/x", "--over", "method.rank=1,2"),
        *("--set", "guard.mode=on"),
    ),
    "generate": ("generate", "--prompt", "a cat", "--out", "<disk>/x.png", *DRAWN),
    "grid": ("grid", "--prompt", "a cat", "--x", "seed=1,2", "--out", "<disk>/x.png", *DRAWN),
    "convert": ("convert", LORA, "--to", "kohya", "--out", "<disk>/x.safetensors"),
    "convert to a folder": ("convert", LORA, "--to", "diffusers", "--out", "<disk>/folder"),
    "convert a base": ("convert", "<place>/base", "--to", "single-file", "--out", "<disk>/x.safetensors"),
    "merge": ("merge", LORA, f"{LORA}:0.5", "--out", "<disk>/x.safetensors"),
    "merge into a base": ("merge", LORA, "--into", "<place>/base", "--out", "<disk>/x.safetensors"),
    "resize": ("resize", LORA, "--rank", "1", "--out", "<disk>/x.safetensors"),
    "extract": ("extract", "<place>/tuned", "<place>/base", "--rank", "1", "--out", "<disk>/x.safetensors"),
    "export": ("export", "<place>/done", "--to", "<disk>"),
    "check --html": ("check", "<place>/pictures", "--html", "<disk>/x.html"),
    "check --fix": ("check", "<place>/pictures", "--fix", "--out", "<disk>/fixed"),
    "advise": (
        *("advise", "--images", "<place>/pictures", "--goal", "object", "--trigger", "zuzu", "--no-measure"),
        *("--out", "<disk>/a"),
    ),
    "vae bake": ("vae", "bake", "--base", "<place>/base", "--vae", "<place>/base/vae", "--out", "<disk>/baked"),
    "vae compare": (
        *("vae", "compare", "<place>/base/vae", "--base", "<place>/base", "--images", "<place>/pictures"),
        *("--size", "64", "--out", "<disk>/x.html"),
    ),
}


@pytest.mark.slow
@linux
@pytest.mark.parametrize(
    ("options", "code"), [("size=8k", "RS002"), ("ro,size=1m", "RS003")], ids=["full", "read-only"]
)
@pytest.mark.parametrize("name", COMMANDS)
def test_on_a_disk_that_takes_nothing_each_command_says_so(
    name: str,
    options: str,
    code: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    monkeypatch.chdir(tmp_path)
    with mounted(tmp_path / "disk", options) as disk:
        if code == "RS002":
            with suppress(OSError):
                (disk / "filler").write_bytes(bytes(1 << 20))
        there = sorted(disk.rglob("*"))
        words = [word.replace("<place>", str(place)).replace("<disk>", str(disk)) for word in COMMANDS[name]]
        status, said = ended(words, capsys)
        if name == "train --dry-run" and code == "RS002":  # which writes nothing
            assert status == 0
            return
        assert status == 5 and said.count("error[") == 1 and f"error[{code}]" in said, said
        assert str(disk) in said
        # A search goes on in its folder by the same command.
        assert name == "search" or sorted(disk.rglob("*")) == there
    assert [one.name for one in tmp_path.iterdir()] == ["disk"]


@pytest.mark.slow
@linux
@pytest.mark.parametrize("kib", [64, 160, 256, 512])
def test_a_disk_that_becomes_full_is_told_and_the_run_goes_on_when_there_is_room(
    kib: int, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    words = ["train", "--recipe", str(place / "done" / "recipe.toml"), "--out"]
    with mounted(tmp_path / "disk", f"size={kib}k") as disk:
        run = disk / "run"
        status, said = ended([*words, str(run)], capsys)
        assert status == 5 and said.count("error[RS002]") == 1, said
        assert not list(run.rglob(files.TEMPORARY))
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        again = ["resume", str(run)] if (run / "recipe.toml").exists() else [*words, str(run)]
        status, said = ended(again, capsys)
        assert status == 0, said
        assert hashes(run / "artifacts") == hashes(place / "done" / "artifacts")


@pytest.mark.slow
def test_on_a_slow_disk_the_bits_are_the_same(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flush = files.flush
    monkeypatch.setattr(files, "flush", lambda path: (time.sleep(0.1), flush(path))[1])
    run = tsuika.train(recipe_of(place), tmp_path / "run").result.folder
    assert hashes(run / "artifacts") == hashes(place / "done" / "artifacts")


@pytest.mark.slow
@linux
def test_a_read_only_cache_is_named(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(place / "done" / "recipe.toml")
    with mounted(tmp_path / "disk", "ro,size=1m") as disk:
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
        status, said = ended(["train", "--recipe", recipe, "--out", str(tmp_path / "run")], capsys)
        assert status == 5 and "error[DS020]" in said and "data.cache=false" in said
        assert not (tmp_path / "run").exists()
        words = ["train", "--recipe", recipe, "--out", str(tmp_path / "run"), "--set", "data.cache=false"]
        assert ended(words, capsys)[0] == 0


# ------------------------------------------------------------------------------------ locales, rights, closed streams


def program(place: Path, *words: str, **surroundings: Any) -> subprocess.CompletedProcess[bytes]:
    """The program to its end, in surroundings that differ from the usual ones; None takes a variable away."""
    told = {"check": False, "capture_output": True, "timeout": PATIENCE_S, "cwd": place}
    own = {**environment(place), **surroundings.pop("env", {})}
    env = {name: value for name, value in own.items() if value is not None}
    return subprocess.run([*PROGRAM, *words], env=env, **{**told, **surroundings})


ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": None}
SURROUNDINGS: dict[str, dict[str, Any]] = {
    "C locale": {"env": ASCII},
    "C locale in Japanese": {"env": {**ASCII, "TSUIKA_LANG": "ja", "LANGUAGE": "ja"}},
    "no home": {"env": {"HOME": None, "XDG_CACHE_HOME": None}},
    "no temporary folder": {"env": {"TMPDIR": "/nosuch", "TEMP": "/nosuch", "TMP": "/nosuch"}},
    "rights of nobody": {"umask": 0o777},
    "rights of others": {"umask": 0},
    "closed input": {"stdin": subprocess.DEVNULL},
}


@pytest.mark.slow
@linux
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_a_run_in_odd_surroundings_has_the_same_bits(name: str, place: Path, tmp_path: Path) -> None:
    """Names are Japanese."""
    shutil.copytree(place / "pictures", tmp_path / "画像")
    usual = tsuika.train(recipe_of(place, tmp_path / "画像"), tmp_path / "usual").result.folder
    run = tmp_path / "追加 学習"
    about = {"train": {"steps": 2, "checkpoint_every": 1}}
    done = program(tmp_path, *arguments(place / "base", tmp_path / "画像", run, **about), **SURROUNDINGS[name])
    said = done.stderr.decode("utf-8", "replace")
    assert done.returncode == 0 and "Traceback" not in said, said
    assert hashes(run / "artifacts") == hashes(usual / "artifacts")
    assert run.name in os.fsdecode(done.stdout) or run.name.encode("ascii", "backslashreplace") in done.stdout


@pytest.mark.slow
@linux
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_nobody_listens(stream: str, place: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    about = {"train": {"steps": 2, "checkpoint_every": 1}}
    words = arguments(place / "base", place / "pictures", tmp_path / "run", **about)
    other = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: writing}
    done = program(tmp_path, *words, capture_output=False, **other)
    os.close(writing)
    assert done.returncode == 0 and (tmp_path / "run" / "report.json").exists()
