"""Jobs: each is the command line in a process of its own, in a queue a device, and outlives the studio.

What a job is doing is read from files: its events, its result (stdout) and its log (stderr) lie in a folder of the home. A
process is told by its number and the time it began, so that after a crash or a restart nothing is taken for another.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import psutil

import tsuika
from tsuika.api import search_space
from tsuika.api import status as run_status
from tsuika.core.rundir import RunDir
from tsuika.studio.home import Home

# Reading and checking only: two at once, beside whatever the device does.
LIGHT: Final = "light"
AT_ONCE: Final[Mapping[str, int]] = {LIGHT: 2}
# Exit statuses of a run that was stopped and can go on (CLI contract).
STOPPED: Final = frozenset({8, 130, 143, -signal.SIGINT, -signal.SIGTERM})
# Seconds that a process may take until it says that it has begun.
BEGINS_WITHIN_S: Final = 20.0
# Two clocks tell when a process began.
CLOCKS_APART_S: Final = 2.0
OPEN_STATES: Final = ("waiting", "running")
PROGRAM: Final = (sys.executable, "-m", "tsuika")
# In what a job is about: it was given something that is kept nowhere.
GIVEN_MORE: Final = "given_more"
# Checks, and the like, of a project that are kept.
KEPT: Final = 3
LOG_BYTES: Final = 20_000
# What can be done with a job that is over: nothing, the same from its beginning, or from where it was.
WayOn = Literal["", "again", "resume"]


@dataclass(frozen=True)
class Job:
    """A piece of work.

    Attributes:
        id: as in addresses; also the name of its folder.
        project: its id; empty for none.
        kind: the command, such as `train` or `check`.
        about: whatever the page that asked for it wants to keep.
        argv: arguments of the command line.
        lane: the queue that it waits in.
        place: in the queue.
        state: `waiting`, `running`, `done`, `stopped`, `failed`, `died` or `cancelled`.
        run: the run folder, relative to the home; empty for none.
        created: seconds since 1970.
        started: when its process began.
        ended: when it was over.
        pid: of its process.
        pid_started: when the system says that the process began.
        status: exit status.
        error: code, where, and what, why and do by language.
    """

    id: str
    project: str
    kind: str
    about: Mapping[str, Any]
    argv: tuple[str, ...]
    lane: str
    place: float
    state: str
    run: str
    created: float
    started: float | None
    ended: float | None
    pid: int | None
    pid_started: float | None
    status: int | None
    error: Mapping[str, Any] | None


class Jobs:
    """All jobs of a home. `tick` is called again and again, by one thread."""

    def __init__(self, home: Home, program: Sequence[str] = PROGRAM) -> None:
        self._home, self._db, self._lock, self._program = home, home.db, threading.RLock(), program
        # Those that this process has started: they must be waited for.
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        # What a job needs and nobody may read: kept here alone, until its process has it.
        self._secrets: dict[str, Mapping[str, str]] = {}

    def folder(self, job: Job | str) -> Path:
        """Where a job's events, result and log are."""
        return self._home.root / "jobs" / (job if isinstance(job, str) else job.id)

    def all(self, where: str = "", *values: Any) -> list[Job]:
        """Jobs, the newest last."""
        rows = self._db.rows(f"select * from jobs {where} order by created, rowid", *values)  # noqa: S608 - our words
        return [_job(row) for row in rows]

    def get(self, key: str) -> Job | None:
        """A job by its id."""
        return next(iter(self.all("where id = ?", key)), None)

    def add(
        self,
        kind: str,
        argv: Sequence[str],
        *,
        lane: str,
        project: str = "",
        run: Path | None = None,
        about: Mapping[str, Any] | None = None,
        secret: Mapping[str, str] | None = None,
    ) -> Job:
        """Put a job into its queue, at the end. It starts at once if nothing is before it.

        `secret` are variables of the process's environment that are written nowhere: if the studio is closed while the job waits,
        it starts without them.
        """
        key = secrets.token_hex(6)
        about = dict(about or {})
        if secret:
            self._secrets[key] = secret
            about[GIVEN_MORE] = True
        self.folder(key).mkdir(parents=True)
        now = time.time()
        inside = run.relative_to(self._home.root).as_posix() if run else ""
        self._db.insert(
            "jobs",
            id=key,
            project=project,
            kind=kind,
            about=json.dumps(about, ensure_ascii=False),
            argv=json.dumps([*argv], ensure_ascii=False),
            lane=lane,
            place=now,
            state="waiting",
            run=inside,
            created=now,
        )
        self.tick()
        found = self.get(key)
        assert found is not None
        return found

    def tick(self) -> None:
        """Note which processes are over, and start what can start."""
        with self._lock:
            for job in self.all("where state = 'running'"):
                self._look_after(job)
            for lane in {job.lane for job in self.all("where state = 'waiting'")}:
                self._start_in(lane)

    def _start_in(self, lane: str) -> None:
        busy = len(self.all("where state = 'running' and lane = ?", lane))
        for job in self.waiting(lane)[: max(0, AT_ONCE.get(lane, 1) - busy)]:
            self._start(job)

    def _start(self, job: Job) -> None:
        folder = self.folder(job)
        folder.mkdir(parents=True, exist_ok=True)
        # First, so that a job whose start is not noted any more is looked for.
        self._db.update("jobs", job.id, state="running", started=time.time())
        command = [*self._program, "--events", str(folder / "events.jsonl"), *job.argv]
        # The package of this process, wherever that is.
        above = str(Path(tsuika.__file__).parents[1])
        paths = os.pathsep.join(filter(None, (above, os.environ.get("PYTHONPATH"))))
        groups: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            groups = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        with (folder / "result.json").open("wb") as out, (folder / "log.txt").open("ab") as log:
            child = subprocess.Popen(  # noqa: S603 - a list of arguments, and no shell
                command,
                cwd=self._home.root,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env={**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8", **self._secrets.pop(job.id, {})},
                **groups,
            )
        self._children[job.id] = child
        began: float | None = None
        with suppress(psutil.Error):
            began = psutil.Process(child.pid).create_time()
        self._db.update("jobs", job.id, pid=child.pid, pid_started=began)

    def _look_after(self, job: Job) -> None:
        child = self._children.get(job.id)
        if child is not None:
            if child.poll() is None:
                return
            del self._children[job.id]
            self._end(job, child.returncode)
        elif not self._is_alive(job):
            self._end(job, None)

    def _is_alive(self, job: Job) -> bool:
        """Whether the job's process, which another studio has started, is still there."""
        pid, began, later = job.pid, job.pid_started, CLOCKS_APART_S
        if pid is None:
            # The studio was killed between starting it and noting it: the process has said so itself, a little later.
            first = next(events(self.folder(job) / "events.jsonl"), {})
            pid, began, later = first.get("pid"), first.get("began"), BEGINS_WITHIN_S
            if pid is None:
                return abs(time.time() - (job.started or 0)) < BEGINS_WITHIN_S
        try:
            process = psutil.Process(pid)
            same = began is None or -CLOCKS_APART_S < began - process.create_time() < later
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False

    def _end(self, job: Job, returned: int | None) -> None:
        last = next(iter(deque(events(self.folder(job) / "events.jsonl"), maxlen=1)), {})
        if last.get("event") == "Ended":
            status: int | None = last["status"] if isinstance(last["status"], int) else 1
            state = "done" if status == 0 else "stopped" if status in STOPPED else "failed"
            error = last["error"]
        else:
            # Killed, or the machine went down: it could not say so itself.
            status, state, error = returned, "stopped" if returned in STOPPED else "died", None
        text = json.dumps(error, ensure_ascii=False) if error else None
        self._db.update("jobs", job.id, state=state, status=status, ended=time.time(), error=text)

    def waiting(self, lane: str) -> list[Job]:
        """What waits in a queue, in its order."""
        found = self.all("where state = 'waiting' and lane = ?", lane)
        return sorted(found, key=lambda job: job.place)

    def way_on(self, job: Job) -> WayOn:
        """How a job that is over without a result can come to one, by what it has left behind."""
        if job.ended is None or job.state == "done" or job.about.get(GIVEN_MORE):
            return ""
        run, out = self.run_of(job), out_of(job)
        if run is not None and run.recipe.is_file():
            return "resume" if run_status.can_resume(run) else ""
        return "resume" if out is not None and search_space.is_begun(out) else "again"

    def move(self, job: Job, to: Literal["first", "up", "down"]) -> None:
        """Put a waiting job in front of its queue, or change it with the one before or behind it."""
        with self._lock:
            queue = self.waiting(job.lane)
            at = next((number for number, one in enumerate(queue) if one.id == job.id), None)
            if at is None:
                return
            if to == "first":
                self._db.update("jobs", job.id, place=queue[0].place - 1)
                return
            other = at - 1 if to == "up" else at + 1
            if 0 <= other < len(queue):
                # In one statement, so that nothing comes between.
                one, two = queue[at], queue[other]
                change = "update jobs set place = case id when ? then ? else ? end where id in (?, ?)"
                self._db.rows(change, one.id, two.place, one.place, one.id, two.id)

    def stop(self, job: Job) -> None:
        """Take a waiting job out of its queue; ask a running one to save and stop, as Ctrl+C does."""
        with self._lock:
            found = self.get(job.id)
            if found is None or found.state not in OPEN_STATES:
                return
            if found.state == "waiting":
                self._secrets.pop(job.id, None)
                self._db.update("jobs", job.id, state="cancelled", ended=time.time())
                return
            folder = self.run_of(found)
            if folder is not None and folder.recipe.is_file() and run_status.is_running(folder):
                _ = run_status.stop(folder.root).result
            elif self._is_ours(found):
                self._signal(found, signal.SIGTERM)

    def kill(self, job: Job) -> None:
        """End a running job at once; a training goes on from its last saved state."""
        with self._lock:
            found = self.get(job.id)
            if found is not None and found.state == "running" and self._is_ours(found):
                self._signal(found, getattr(signal, "SIGKILL", signal.SIGTERM))

    def _is_ours(self, job: Job) -> bool:
        return job.pid is not None and (job.id in self._children or self._is_alive(job))

    def _signal(self, job: Job, number: int) -> None:
        """To the job's whole group, which it leads."""
        assert job.pid is not None
        with suppress(OSError):
            if sys.platform == "win32":
                os.kill(job.pid, signal.CTRL_BREAK_EVENT if number == signal.SIGTERM else number)
            else:
                os.killpg(job.pid, number)

    def prune(self) -> None:
        """Forget all but the latest of what is asked for again and again."""
        latest: dict[tuple[str, str], list[Job]] = {}
        for job in self.all("where kind in ('check', 'doctor', 'advise', 'caption', 'mask') and ended is not null"):
            latest.setdefault((job.project, job.kind), []).append(job)
        for job in (job for jobs in latest.values() for job in jobs[:-KEPT]):
            shutil.rmtree(self.folder(job), ignore_errors=True)
            # Masks that were looked at, and taken or not.
            if job.kind == "mask" and job.project:
                shutil.rmtree(self._home.root / job.about["out"], ignore_errors=True)
            self._db.rows("delete from jobs where id = ?", job.id)

    def run_of(self, job: Job) -> RunDir | None:
        """The run folder that a job works on."""
        return RunDir(self._home.root / job.run) if job.run else None

    def file_of(self, job: Job) -> Path | None:
        """The file of results that a job has made; None where it is none, or not over yet."""
        path = (self._home.root / str(job.about.get("out") or "")).resolve()
        inside = any(path.is_relative_to(self._home.root / place) for place in ("results", "made"))
        return path if inside and job.state == "done" and path.is_file() else None

    def result(self, job: Job) -> Any:
        """What a job has printed, as JSON; None before its end or where it is none."""
        try:
            return json.loads((self.folder(job) / "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def log(self, job: Job) -> str:
        """The end of what it has said."""
        with suppress(OSError), (self.folder(job) / "log.txt").open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - LOG_BYTES))
            return stream.read().decode("utf-8", "replace")
        return ""

    def before(self, job: Job) -> Job | None:
        """What a waiting job waits for."""
        if job.state != "waiting":
            return None
        running = self.all("where state = 'running' and lane = ?", job.lane)
        return next(iter(running), None)


def out_of(job: Job) -> Path | None:
    """Where a job's command line says that its result goes."""
    for flag, value in zip(job.argv, (*job.argv[1:], "")):
        if flag.startswith("--out="):
            return Path(flag.removeprefix("--out="))
        if flag == "--out":
            return Path(value)
    return None


def events(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a job's events, as far as they are whole."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                yield row


def _job(row: Mapping[str, Any]) -> Job:
    plain = {name: row[name] for name in Job.__dataclass_fields__}
    error = json.loads(row["error"]) if row["error"] else None
    return Job(**{**plain, "about": json.loads(row["about"]), "argv": tuple(json.loads(row["argv"])), "error": error})
