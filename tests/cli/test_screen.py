"""What the drawing commands print: results on stdout, talk on stderr, in the language in use."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from tsuika import CellDrawn, SheetWritten
from tsuika.cli import drawing, language, progress, screen
from tsuika.core.errors import RecipeError
from tsuika.core.events import Chosen, Event, Judged, Phase, note

CELL = CellDrawn(1, 2, ("seed 1", "ついか犬"), (0, 0), 1, "out/cells/000-000.png")
USED = {
    "file": "a.pt",
    "method": "textual-inversion",
    "strength": 0.5,
    "text_strength": None,
    "matched": 3,
    "unmatched": 1,
    "unmatched_first": ["x"],
    "layers": 0,
    "words": ["tsuipi"],
    "sha256": None,
}
DRAWN = {
    "pictures": ["a.png"],
    "artifacts": [USED],
    "refused": [],
    "notes": [note("GN003", found="<x:1>")],
    "conflicts": [{"first": "a", "second": "b", "layers": 7, "example": "unet.x"}],
}


@pytest.fixture
def japanese() -> Iterator[None]:
    language.use("ja")
    yield
    language.use(None)


def events() -> Iterator[Event]:
    yield Phase("grid", 2)
    yield CELL
    yield SheetWritten("out/grid.png", 1, 2)


def test_cells_as_they_come_and_the_sheet_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    drawing.cells(events(), as_json=False)
    told = capsys.readouterr()
    assert told.out == "out/grid.png\n"
    assert "1/2" in told.err
    assert "ついか犬" in told.err


def test_cells_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    drawing.cells(events(), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["sheet"] == "out/grid.png"
    assert told["cells"][0]["labels"] == ["seed 1", "ついか犬"]


def test_ctrl_c_closes_the_sheet() -> None:
    closed = []

    def interrupted() -> Iterator[Event]:
        try:
            yield Phase("grid", 2)
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        drawing.cells(interrupted(), as_json=False)
    assert closed


@pytest.mark.usefixtures("japanese")
def test_the_combination_in_japanese(capsys: pytest.CaptureFixture[str]) -> None:
    drawing.combined(DRAWN, as_json=False)
    told = capsys.readouterr()
    assert told.out == "a.png\n"
    for words in ("強さ0.5", "プロンプトに書く単語: tsuipi", "同じ7層", "お知らせ[GN003]", "対応していません"):
        assert words in told.err


def test_the_combination_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    drawing.combined(DRAWN, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["artifacts"] == [USED]
    assert told["notes"][0]["code"] == "GN003"


def judged(step: int, verdict: str, code: str, held_out: dict[str, object] | None, best: int) -> Judged:
    params = {
        "step": step,
        "best": best,
        "gain": "-12.0 %",
        "gap_mid": "+60.0 %",
        "gap_high": "+40.0 %",
        "percent": "-1 %",
    }
    evidence = {"held_out": held_out, "train": math.log(0.7), "best_step": best}
    return Judged(step, verdict, code, params, {}, evidence)


def follow(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    held = {"mean": math.log(0.88), "low": math.log(0.85), "high": math.log(0.91)}
    events = [
        judged(50, "go", "GD011", held | {"low": None, "high": None}, 0),
        judged(100, "go", "GD008", held, 100),
        judged(150, "warn", "GD007", held, 100),
        judged(180, "warn", "GD007", held, 100),
        judged(220, "stop", "GD006", held, 100),
        judged(260, "go", "GD009", None, 0),
        Chosen(
            "hold-out", 100, 113, {"safe": 90, "balanced": 113, "likeness": 150}, "GD006", {"step": 220}
        ),  # said already
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress.signal, "signal", lambda *_: None)  # Ctrl+C stays the test runner's
        progress.follow(iter(events), folder, as_json=False)
    return capsys.readouterr().err


def test_checks_of_the_guard_are_a_line_each_and_an_alarm_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = follow(tmp_path, capsys)
    lines = [line.strip() for line in told.splitlines()]
    loss = "loss against the base model"
    assert lines[0] == f"step 50: {loss}: held-out -12.0% (- to -), training -30.0%; not better yet"
    assert lines[1] == f"step 100: {loss}: held-out -12.0% (-15.0% to -9.0%), training -30.0%; best so far: step 100"
    assert [line for line in lines if line.startswith("note[GD007]")] == [lines[3]]
    assert sum("note[" in line for line in lines) == 2
    assert f"step 260: {loss}: training -30.0%; no image is held out" in lines
    assert "Steps of your files: 113 (safe 90, likeness 150)" in told


def test_a_check_says_of_which_fold_it_is_and_what_is_to_be_done_is_said_of_all_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.signal, "signal", lambda *_: None)
    held = {"mean": math.log(0.88), "low": math.log(0.85), "high": math.log(0.91)}
    stop = judged(220, "stop", "GD006", held, 100)
    folds = [replace(stop, fold=number, folds=2) for number in (1, 2)]
    progress.follow(iter([*folds, replace(stop, folds=2)]), tmp_path, as_json=False)
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert [line.split(", step")[0] for line in lines[:3]] == ["fold 1 of 2", "fold 2 of 2", "all 2 folds together"]
    assert lines[3].startswith("note[GD006]") and not any("note[" in line for line in lines[:3])


@pytest.mark.usefixtures("japanese")
def test_checks_of_the_guard_in_japanese(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = follow(tmp_path, capsys)
    assert (
        "ステップ100: 学習前と比べたロス: 検証用 -12.0%(-15.0%〜-9.0%)、学習用 -30.0%。これまでの最良: ステップ100"
        in told
    )
    assert "お知らせ[GD006] ステップ220で停止" in told
    assert "ファイルに選んだステップ: 113" in told


def ended(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The status and the words of a program that ends with an error."""
    app = typer.Typer()

    @app.command()
    def work() -> None:
        raise error

    with pytest.raises(SystemExit) as left:
        screen.run(app, [])
    return int(left.value.code or 0), capsys.readouterr().err


def test_a_bug_is_logged_where_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, temporary, theirs = tmp_path / "here", tmp_path / "temporary", tmp_path / "theirs.txt"
    here.mkdir()
    temporary.mkdir()
    theirs.write_text("theirs")
    monkeypatch.chdir(here)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    (here / "tsuika-error.log").symlink_to(theirs)
    for log in (here / "tsuika-error-2.log", here / "tsuika-error-3.log"):
        status, told = ended(ValueError("\udc83"), capsys)
        assert status == 1 and str(log) in told and "tsuika doctor" in told
        assert "ValueError" in log.read_text(encoding="utf-8")
    assert theirs.read_text() == "theirs"
    shutil.rmtree(here)
    status, told = ended(ValueError("odd"), capsys)
    assert status == 1 and str(temporary / "tsuika-error.log") in told
    monkeypatch.setattr("tempfile.tempdir", str(here))
    status, told = ended(ValueError("odd"), capsys)
    assert status == 1 and "ValueError('odd')" in told and "Traceback" not in told


def named(kind: str, words: str) -> Exception:
    """An error of a library, which is known by its name."""
    error: Exception = type(kind, (RuntimeError,), {})(words)
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "RS001"),
        (named("OutOfMemoryError", "CUDA out of memory.\nMore"), "RS001"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"), "RS001"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), "RS001"),
        (RuntimeError("unable to mmap 9 bytes from file <a>: Cannot allocate memory (12)"), "RS001"),
        (named("AcceleratorError", "CUDA error: out of memory"), "RS001"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), "RS002"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "RS002"),
        (named("SafetensorError", "I/O error: No space left on device (os error 28) at path x"), "RS002"),
        (named("OperationalError", "(sqlite3.OperationalError) database or disk is full"), "RS002"),
        (named("OperationalError", "(sqlite3.OperationalError) attempt to write a readonly database"), "RS003"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "RS003"),
        (OSError(errno.EROFS, "Read-only file system", "a"), "RS003"),
        (OSError(errno.EIO, "Input/output error", "a"), "RS004"),
    ],
)
def test_what_runs_out_is_no_bug(
    error: Exception, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, told = ended(error, capsys)
    assert status == 5 and code in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), RuntimeError("size mismatch: got (28)"), OSError("no number"), OSError(errno.EBADF, "Bad file")],
)
def test_what_is_a_bug_stays_one(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ended(error, capsys)[0] == 1


def test_a_reader_that_has_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `tsuika ... | head` does; and a stream that was never open."""
    for name in ("stdout", "stderr"):
        reading, writing = os.pipe()
        os.close(reading)
        monkeypatch.setattr(sys, name, os.fdopen(writing, "w"))
    app = typer.Typer()
    app.command()(lambda: [one("x" * 9999) for one in (screen.print_out, screen.say) * 2])
    screen.run(app, [])
    sys.stdout.close()
    sys.stderr.close()
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    screen.run(app, [])


def test_names_that_are_no_unicode_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()
    app.command()(lambda: screen.result({"picture": "\udc83.png"}, as_json=True))
    screen.run(app, [])
    assert json.loads(capsys.readouterr().out) == {"picture": "\udc83.png"}


def test_what_breaks_after_ctrl_c_is_the_end_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bug before it, and an error with a code at any time, stay what they are."""
    monkeypatch.chdir(tmp_path)
    stop = progress.Stop()
    with pytest.raises(ValueError, match="early"), progress._ended_by(stop, tmp_path):
        raise ValueError("early")
    stop.signal = 2
    with pytest.raises(OSError), progress._ended_by(stop, tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(RecipeError), progress._ended_by(stop, tmp_path):
        raise RecipeError("RC002", key="seed", found=-1, why="0")
    assert not list(tmp_path.glob("*.log"))
    with pytest.raises(SystemExit) as left, progress._ended_by(stop, tmp_path):
        raise ValueError("compiler cut off")
    assert left.value.code == 130
    assert "compiler cut off" in (tmp_path / "tsuika-error.log").read_text(encoding="utf-8")
    assert "tsuika-error.log" in capsys.readouterr().err
