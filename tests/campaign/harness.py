"""The program run on a case, and what every case must satisfy, whatever is in its files.

A case is a folder: `in` (files that are given; they must stay as they are), `work` (where the program runs; it must stay
empty), `out` (named by the command; the only place where something may be made), `cache` and `tmp`.
"""

from __future__ import annotations

import faulthandler
import hashlib
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

SECONDS, LINES, CHARACTERS = 10.0, 20, 4000
MOST_BYTES = 1 << 30
# In process what is imported counts once, some 400 MB.
MOST_GROWTH_BYTES = 600 << 20
KEPT = Path(__file__).parents[2] / "build" / "campaign"
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.utime",
}
# Whose last number may be the folder that the name is relative to.
_IN_FOLDERS = {"os.remove", "os.rename", "os.rmdir"}
_STARTS = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "pickle.find_class",
    "socket.connect",
}


class HungError(BaseException):
    """The program did not come back."""


class Watch:
    """What a piece of the program does to the system, as Python's audit events tell."""

    def __init__(self) -> None:
        self.place: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, details: tuple[Any, ...]) -> None:
        if self.place is None:
            return
        if event in _STARTS:
            self.seen.append(f"{event} {details!r:.200}")
        elif event == "open":
            path, mode, flags = details
            if (flags or 0) & _WRITES or (isinstance(mode, str) and set(mode) & set("wax+")):
                self._changes(event, path)
        elif event in _CHANGES:
            folders = [one for one in details[1:] if isinstance(one, int)][-1:]
            for path in (one for one in details[:2] if not isinstance(one, int)):
                self._changes(event, path, *folders)

    def _changes(self, event: str, path: object, folder: int = -1) -> None:
        if not isinstance(path, str | bytes | os.PathLike) or self.place is None:
            return
        name = os.fsdecode(path)
        if event in _IN_FOLDERS and folder >= 0:
            name = f"{os.readlink(f'/proc/self/fd/{folder}')}/{name}"  # noqa: PTH115
        # Runs inside an audit hook; links are not followed.
        full = os.path.abspath(name)  # noqa: PTH100
        inside = [str(self.place / name) + os.sep for name in ("out", "cache", "tmp")]
        if (
            not f"{full}{os.sep}".startswith((*inside, "/dev/", "/proc/"))
            and not full.endswith(".pyc")
            and "__pycache__" not in full
            and not full.endswith("/.lock")
        ):
            self.seen.append(f"{event} {full}")


_watches: list[Watch] = []


@contextmanager
def watched(place: Path) -> Iterator[list[str]]:
    """What is started, opened for writing or changed outside of the places where it may be."""
    if not _watches:
        _watches.append(Watch())
    watch = _watches[0]
    watch.seen, watch.place = [], place
    try:
        yield watch.seen
    finally:
        watch.place = None


def make(place: Path) -> Path:
    """An empty case."""
    shutil.rmtree(place, ignore_errors=True)
    for name in ("in", "work", "out", "cache", "tmp"):
        (place / name).mkdir(parents=True)
    return place


def snapshot(place: Path) -> dict[str, str]:
    """Every file and folder of a case that must not change, with a hash."""
    found = {}
    for name in ("in", "work"):
        for path in (place / name).rglob("*"):
            content = path.read_bytes() if path.is_file() else b"folder"
            found[str(path.relative_to(place))] = hashlib.sha256(content).hexdigest()
    return found


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


@cache
def command() -> Any:
    """The command line, built once: that takes most of the time of a small case."""
    from typer.main import get_command

    from tsuika.cli.main import app

    return get_command(app)


@contextmanager
def in_time(seconds: float) -> Iterator[None]:
    """Ends what does not come back; the process with it, where not even that helps."""

    def ring(_number: int, _frame: object) -> None:
        raise HungError

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(4 * seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, old)


def faults(status: int, said: str, out: str, words: Sequence[str]) -> list[str]:
    """What is wrong with how a case ended."""
    wrong = []
    if status != 0 and not 2 <= status <= 8:
        wrong.append(f"exit status {status}")
    if "Traceback (most recent call last)" in said + out:
        wrong.append("a traceback")
    blocks = sum(line.startswith("error[") for line in said.splitlines())
    # A check that finds no image that can be used is a report as well, with the status for that.
    is_report = words[0] == "check" and status == 3 and not blocks
    if blocks != (status != 0) and not is_report:
        wrong.append(f"{blocks} error blocks with exit status {status}")
    if blocks and (len(said.splitlines()) > LINES or len(said.encode("utf-8", "replace")) > CHARACTERS):
        wrong.append(f"{len(said.splitlines())} lines, {len(said.encode('utf-8', 'replace'))} bytes")
    if (status == 0 or is_report) and "--json" in words:
        try:
            json.loads(out, parse_constant=lambda name: wrong.append(f"{name} in JSON"))
        except ValueError as error:
            wrong.append(f"no JSON: {error}")
    return wrong


def run_here(place: Path, words: Sequence[str]) -> list[str]:
    """What is wrong with a command run in this process on a case."""
    from tsuika.cli import language, screen

    before = snapshot(place)
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=how) for how in ("strict", "backslashreplace")]
    old, cwd = (sys.stdout, sys.stderr), Path.cwd()
    status: Any = 0
    Path("/proc/self/clear_refs").write_text("5")
    memory, began = _memory("VmRSS"), time.process_time()
    wrong: list[str] = []
    os.chdir(place / "work")
    tempfile.tempdir = str(place / "tmp")
    sys.stdout, sys.stderr = streams
    try:
        with watched(place) as seen, in_time(6 * SECONDS):
            screen.run(command(), list(words))
    except SystemExit as leave:
        status = leave.code or 0
    except HungError:
        wrong.append(f"did not come back within {6 * SECONDS:.0f} s")
    # What escapes the program is a finding, not the end of the campaign.
    except BaseException as error:  # noqa: BLE001
        wrong.append(f"escaped: {error!r:.300}")
    finally:
        sys.stdout, sys.stderr = old
        os.chdir(cwd)
        language.use(None)
        tempfile.tempdir = None
    took, grown = time.process_time() - began, _memory("VmHWM") - memory
    for stream in streams:
        stream.flush()
    out, said = (stream.buffer.getvalue().decode("utf-8") for stream in streams)  # type: ignore[attr-defined]
    if not wrong:
        wrong = faults(status, said, out, words)
    if took > SECONDS:
        wrong.append(f"{took:.1f} s of processor time")
    if grown > MOST_GROWTH_BYTES:
        wrong.append(f"{grown >> 20} MiB more than before")
    wrong += [f"outside: {one}" for one in dict.fromkeys(seen)][:5]
    return wrong + _changed(place, before, said)


def run_apart(place: Path, words: Sequence[str]) -> list[str]:
    """The same in a process of its own, its memory and time measured."""
    before = snapshot(place)
    own = {
        "HOME": str(place / "work"),
        "XDG_CACHE_HOME": str(place / "cache"),
        "TMPDIR": str(place / "tmp"),
        "COLUMNS": "80",
    }
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1", **own}
    texts = [place / "told-out", place / "told"]
    with texts[0].open("wb") as out_file, texts[1].open("wb") as said_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tsuika", *words], cwd=place / "work", env=env, stdout=out_file, stderr=said_file
        )
        try:
            with in_time(9 * SECONDS):
                _pid, code, usage = os.wait4(process.pid, 0)
        except HungError:
            process.kill()
            return [f"did not come back within {9 * SECONDS:.0f} s"]
        process.returncode = os.waitstatus_to_exitcode(code)
    out, said = (path.read_text(encoding="utf-8", errors="replace") for path in texts)
    wrong = faults(process.returncode, said, out, words)
    # With the imports, some 3 s.
    if usage.ru_utime + usage.ru_stime > SECONDS:
        wrong.append(f"{usage.ru_utime + usage.ru_stime:.1f} s of processor time")
    # Linux counts what the process that started it had in memory until then, too.
    if usage.ru_maxrss * 1024 > max(MOST_BYTES, _memory("VmHWM")):
        wrong.append(f"{usage.ru_maxrss >> 10} MiB")
    return wrong + _changed(place, before, said)


def _changed(place: Path, before: dict[str, str], said: str) -> list[str]:
    after = snapshot(place)
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    logs = [path.read_text()[-1500:] for path in (place / "work").glob("tsuika-error*.log")]
    wrong = [f"changed: {', '.join(names[:5])}"] if names else []
    return [*wrong, *logs]


def keep(place: Path, name: str, words: Sequence[str], wrong: Sequence[str], again: str) -> Path:
    """A failing case as a folder under `build/campaign`, with the commands that run it again."""
    kept = KEPT / name
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(place, kept, symlinks=True)
    relative = [word.replace(str(place), "..") for word in words]
    text = f"cd {shlex.quote(str(kept / 'work'))} && tsuika {shlex.join(relative)}"
    (kept / "again.txt").write_text(
        f"{text}\n\nThe case made anew:\n{again}\n\n" + "\n".join(wrong) + "\n",
        encoding="utf-8",
        errors="backslashreplace",
    )
    return kept
