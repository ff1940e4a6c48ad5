"""What jobs are doing, read from their files as they grow, and told to every open page: one stream a tab."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tsuika.api import phases
from tsuika.api.status import Follower, RunStatus
from tsuika.core.errors import TsuikaError
from tsuika.core.messages import MESSAGES, sentence
from tsuika.core.texts import languages
from tsuika.pages import in_languages as of_every_language
from tsuika.studio import titles
from tsuika.studio.home import Home
from tsuika.studio.jobs import Job, Jobs

EVERY_S: Final = 0.4
# A comment on the stream, by which a page that is gone is noticed.
QUIET_S: Final = 15.0
# Jobs that a page is told of when it opens.
LATEST: Final = 60


@dataclass
class LiveProgress:
    """What the events of a job that is no training have told so far."""

    phase: str = ""
    done: int = 0
    total: int = 0
    # Images that it has written, with the labels and places of a sheet.
    images: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    # Of a search, by number: settings, and what came of them.
    trials: dict[int, dict[str, Any]] = field(default_factory=dict)
    # Of a check, while it runs.
    findings: list[dict[str, Any]] = field(default_factory=list)
    _read: int = 0

    def read(self, file: Path) -> None:
        """Take in what is new in a file of events."""
        with suppress(OSError), file.open("rb") as stream:
            stream.seek(self._read)
            whole, newline, _rest = stream.read().rpartition(b"\n")
            self._read += len(whole) + len(newline)
            for line in whole.decode("utf-8", "replace").splitlines():
                with suppress(ValueError):
                    self._take(json.loads(line))

    def _take(self, row: Mapping[str, Any]) -> None:
        match row["event"]:
            case "Phase":
                self.phase = row["name"]
                if not self.trials:
                    self.done, self.total = 0, row["total"]
            case "Progress" if not self.trials:
                self.done, self.total = row["done"], row["total"]
            case "TrialStarted":
                self.done, self.total = len(self._ended()), row["total"]
                self.trials[row["number"]] = {"number": row["number"], "params": row["params"], "state": "running"}
            case "TrialEnded":
                ended = self.trials.setdefault(row["number"], {"number": row["number"], "params": {}})
                ended |= {name: row[name] for name in ("state", "value", "se", "step")}
                self.done = len(self._ended())
            case "FoundSoFar":
                self.findings = row["findings"]
            case "Drawn":
                self.images.append({"path": row["path"], "seed": row["seed"]})
            case "CellDrawn":
                self.done, self.total = row["done"], row["total"]
                about = {name: row[name] for name in ("path", "seed", "labels", "place")}
                self.images.append(about)
            case "Warned":
                self.notes.append({"code": row["code"], "message": row["message"], "params": row["params"]})

    def _ended(self) -> list[dict[str, Any]]:
        return [one for one in self.trials.values() if one["state"] != "running"]


class Live:
    """Follows all jobs, in a thread of its own, and hands what has changed to every page that listens."""

    def __init__(self, home: Home, jobs: Jobs) -> None:
        self._home, self._jobs = home, jobs
        self._progress: dict[str, LiveProgress] = {}
        self._followers: dict[str, Follower] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._listeners: set[tuple[asyncio.AbstractEventLoop, asyncio.Queue[dict[str, Any]]]] = set()
        self._looked = time.time()
        self._lock, self._ends = threading.Lock(), threading.Event()
        # A file is read on by one thread at a time, else its lines would be taken in twice.
        self._reading = threading.RLock()
        self._thread = threading.Thread(target=self._follow, name="jobs", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following; jobs go on."""
        self._ends.set()
        self.tell({"end": True})

    def _follow(self) -> None:
        while not self._ends.wait(EVERY_S):
            self.look()

    def look(self) -> None:
        """Look after the jobs now, and tell what has changed."""
        # A job may begin and end between two looks.
        since, self._looked = self._looked, time.time()
        self._jobs.tick()
        with self._reading:
            chosen = f"where state in ('waiting', 'running') or ended >= ? or id in ({self._marks()})"
            for job in self._jobs.all(chosen, since, *self._told):
                view = self.view(job)
                if self._told.get(job.id) != view:
                    self._told[job.id] = view
                    self.tell({"job": view})
                if job.ended is not None:
                    self._told.pop(job.id, None)

    def _marks(self) -> str:
        return ", ".join("?" * len(self._told))

    def tell(self, message: dict[str, Any]) -> None:
        """Tell every page."""
        with self._lock:
            for loop, queue in self._listeners:
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(queue.put_nowait, message)

    async def stream(self) -> AsyncIterator[dict[str, Any] | None]:
        """What a page is told: first the latest jobs, then what changes; None where nothing has for a while."""
        listener = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any]]()
        with self._lock:
            self._listeners.add(listener)
        try:
            yield {"jobs": await asyncio.to_thread(self.latest)}
            while not self._ends.is_set():
                try:
                    message = await asyncio.wait_for(listener[1].get(), QUIET_S)
                except TimeoutError:
                    yield None
                    continue
                if "end" in message:
                    return
                yield message
        finally:
            with self._lock:
                self._listeners.discard(listener)

    def latest(self) -> list[dict[str, Any]]:
        """The latest jobs, the newest last, and before them those that wait or run for longer."""
        every = self._jobs.all()
        older = [job for job in every[:-LATEST] if job.ended is None]
        return [self.view(job) for job in (*older, *every[-LATEST:])]

    def progress(self, job: Job) -> LiveProgress:
        """What a job has told so far."""
        with self._reading:
            found = self._progress.setdefault(job.id, LiveProgress())
            found.read(self._jobs.folder(job) / "events.jsonl")
            return found

    def status(self, run: Path) -> RunStatus:
        """What a run is doing now.

        Raises:
            RecipeError: TR002, it is no run folder.
        """
        with self._reading:
            if str(run) not in self._followers:
                self._followers[str(run)] = Follower(run)
            return self._followers[str(run)].status()

    def view(self, job: Job) -> dict[str, Any]:
        """A job for the page."""
        view: dict[str, Any] = {
            "id": job.id,
            "project": job.project,
            "kind": job.kind,
            "title": titles.title(job.kind),
            "about": job.about,
            "state": job.state,
            "lane": job.lane,
            "place": job.place,
            "created": job.created,
            "started": job.started,
            "ended": job.ended,
            "error": job.error,
            "run": self._home.key_of(self._home.root / job.run) if job.run else "",
            "command": command_line(job),
            "makes_file": self._jobs.file_of(job) is not None,
            "way_on": self._jobs.way_on(job),
        }
        if job.state == "waiting":
            first = self._jobs.before(job)
            view["waits_for"] = titles.title(first.kind) if first else None
        if job.state == "running" or job.ended is not None:
            view |= self._work(job)
        return view

    def _work(self, job: Job) -> dict[str, Any]:
        folder = self._jobs.run_of(job)
        if folder is not None and job.state == "running":
            with suppress(TsuikaError):
                now = self.status(folder.root)
                return {
                    "phase": in_languages(now.phase),
                    "done": now.done,
                    "total": now.total,
                    "step": now.step,
                    "seconds_left": None if now.seconds_left is None else round(now.seconds_left),
                    "previews": len(now.previews),
                    "checks": len(now.guard["gaps"]) if now.guard else 0,
                }
        found = self.progress(job)
        return {
            "phase": in_languages(found.phase),
            "done": found.done,
            "total": found.total,
            "images": [
                {"seed": one["seed"], "labels": one.get("labels"), "place": one.get("place")} for one in found.images
            ],
            "trials": list(found.trials.values()),
            # What is over has a result that says more.
            "findings": found.findings if job.state == "running" else [],
            "notes": [
                {"code": one["code"], "message": of_every_language(sentence(one["code"], one["params"]))}
                for one in found.notes
                if one["code"] in MESSAGES
            ],
        }


def in_languages(phase: str) -> dict[str, str]:
    """A phase by language."""
    title = phases.title(phase)
    return {lang: title.to(lang) for lang in languages()} if phase else {}


def command_line(job: Job) -> str:
    """What would do the same on a terminal."""
    import shlex

    return shlex.join(["tsuika", *(one for one in job.argv if one != "--json")])
