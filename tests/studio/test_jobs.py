"""Jobs: their queue, and what becomes of them when the studio, the job or the machine is killed.

What they run is a stand-in for the command line that speaks as it does, so that a test takes no seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tsuika.core.rundir import RunDir
from tsuika.studio.home import Home
from tsuika.studio.jobs import LIGHT, Job, Jobs
from tsuika.studio.live import Live

# Called as `--events FILE WHAT`; says that it began, does it, and says how it ended.
STAND_IN = """
import json, os, signal, sys, time
file, what = sys.argv[2], sys.argv[3]
log = open(file, "a")
def write(**row):
    log.write(json.dumps(row) + "\\n"); log.flush()
if what != "silent":
    write(event="Began", pid=os.getpid(), began=time.time())
def ended(status, error=None):
    write(event="Ended", status=status, error=error); sys.exit(status)
signal.signal(signal.SIGTERM, lambda *_: ended(143))
if what == "fails":
    ended(3, {"code": "DS001", "where": "x", "what": {"en": "no", "ja": "無"}, "why": {}, "do": {}})
if what == "secret":
    print(json.dumps({"secret": os.environ.get("SECRET", "")[::-1]})); ended(0)
if what == "breaks":
    raise SystemExit(9)
if what in ("waits", "silent"):
    while not os.path.exists(file + ".go"):
        time.sleep(0.01)
print(json.dumps({"found": what}))
ended(0)
"""


@pytest.fixture
def program(tmp_path: Path) -> tuple[str, ...]:
    file = tmp_path / "program.py"
    file.write_text(STAND_IN)
    return sys.executable, "-S", "-E", str(file)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


def until(jobs: Jobs, job: Job, *states: str) -> Job:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        jobs.tick()
        found = jobs.get(job.id)
        assert found is not None
        if found.state in states:
            return found
        time.sleep(0.01)
    raise AssertionError(f"still {found.state}, not {states}")


def begun(jobs: Jobs, job: Job) -> Job:
    """Once its process has said so."""
    file = jobs.folder(job) / "events.jsonl"
    end = time.monotonic() + 10
    while not (file.exists() and file.read_text().endswith("\n")):
        assert time.monotonic() < end
        time.sleep(0.01)
    found = jobs.get(job.id)
    assert found is not None
    return found


def let_go(jobs: Jobs, job: Job) -> None:
    (jobs.folder(job) / "events.jsonl.go").touch()


@pytest.mark.parametrize("what", ["nothing", "fails", "breaks"])
def test_pages_are_told_of_a_job_that_is_over_between_two_looks(
    home: Home, program: tuple[str, ...], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(home, program)
    live, told = Live(home, jobs), list[dict[str, Any]]()
    monkeypatch.setattr(live, "tell", told.append)
    live.look()
    over = until(jobs, jobs.add("check", [what], lane=LIGHT), "done", "failed", "died")
    live.look()
    assert [(one["job"]["id"], one["job"]["state"]) for one in told] == [(over.id, over.state)]
    live.look()
    assert len(told) == 1


def test_a_job_starts_at_once_and_its_result_is_what_it_printed(home: Home, program: tuple[str, ...]) -> None:
    jobs = Jobs(home, program)
    job = jobs.add("check", ["quick"], lane=LIGHT)
    assert job.state == "running"
    done = until(jobs, job, "done")
    assert (done.status, jobs.result(done)) == (0, {"found": "quick"})


def test_a_failure_says_why_in_every_language(home: Home, program: tuple[str, ...]) -> None:
    jobs = Jobs(home, program)
    failed = until(jobs, jobs.add("check", ["fails"], lane=LIGHT), "failed")
    assert failed.error is not None
    assert (failed.status, failed.error["code"], failed.error["what"]["ja"]) == (3, "DS001", "無")


def test_a_device_does_one_at_a_time_in_an_order_that_can_be_changed(home: Home, program: tuple[str, ...]) -> None:
    jobs = Jobs(home, program)
    first, second, third, fourth = (jobs.add("train", ["waits"], lane="cpu") for _ in range(4))
    assert [jobs.get(one.id).state for one in (first, second, third)] == ["running", "waiting", "waiting"]  # type: ignore[union-attr]
    assert jobs.before(second) is not None
    assert jobs.before(second).id == first.id  # type: ignore[union-attr]
    other = jobs.add("check", ["waits"], lane=LIGHT)
    assert jobs.get(other.id).state == "running"  # type: ignore[union-attr]
    jobs.move(third, "up")
    jobs.stop(fourth)
    assert jobs.get(fourth.id).state == "cancelled"  # type: ignore[union-attr]
    begun(jobs, first)
    let_go(jobs, first)
    until(jobs, first, "done")
    assert [until(jobs, one, "running", "waiting").state for one in (third, second)] == ["running", "waiting"]
    for one in (third, second, other):
        let_go(jobs, one)
        until(jobs, one, "done")


def test_a_queue_in_another_order_is_the_same_after_a_restart(home: Home, program: tuple[str, ...]) -> None:
    jobs = Jobs(home, program)
    first, *rest = (jobs.add("train", ["waits"], lane="cpu") for _ in range(5))
    names = {job.id: name for job, name in zip(rest, "abcd")}

    def order(of: Jobs = jobs) -> str:
        return "".join(names[job.id] for job in of.waiting("cpu"))

    a, _b, c, d = rest
    for job, to, then in (
        (d, "up", "abdc"),
        (a, "down", "badc"),
        (c, "first", "cbad"),
        (c, "up", "cbad"),
        (d, "down", "cbad"),
    ):
        jobs.move(job, to)  # type: ignore[arg-type]
        assert order() == then
    # What runs, or waits elsewhere, is in no queue of these.
    other = [jobs.add("check", ["waits"], lane=LIGHT) for _ in range(3)]
    for job in (first, other[2]):
        jobs.move(job, "first")
    assert order() == "cbad"
    # However often, no two come to the same place.
    for _ in range(60):
        jobs.move(a, "up")
        jobs.move(a, "down")
    assert order() == "cbad"
    assert order(Jobs(Home.open(home.root), program)) == "cbad"
    for job in (*rest, first, *other):
        jobs.stop(job)
        until(jobs, job, "cancelled", "stopped", "died")


def test_a_secret_reaches_the_process_and_is_written_nowhere(home: Home, program: tuple[str, ...]) -> None:
    jobs = Jobs(home, program)
    first = jobs.add("publish", ["waits"], lane="cpu")
    asked = {"lane": "cpu", "secret": {"SECRET": "hf_abc"}}
    gone, second, third = (jobs.add("publish", ["secret"], **asked) for _ in range(3))  # type: ignore[arg-type]
    jobs.stop(gone)
    begun(jobs, first)
    let_go(jobs, first)
    until(jobs, first, "done")
    assert jobs.result(until(jobs, second, "done")) == {"secret": "cba_fh"}
    assert jobs.result(until(jobs, third, "done")) == {"secret": "cba_fh"}
    assert not [path for path in home.root.rglob("*") if path.is_file() and b"hf_abc" in path.read_bytes()]
    # Of a job that waited while the studio was closed nothing is left: it starts without.
    first = jobs.add("publish", ["waits"], lane="cpu")
    waiting = jobs.add("publish", ["secret"], **asked)  # type: ignore[arg-type]
    begun(jobs, first)
    let_go(jobs, first)
    again = Jobs(home, program)
    until(again, first, "done")
    assert again.result(until(again, waiting, "done")) == {"secret": ""}


def test_a_job_outlives_the_studio(home: Home, program: tuple[str, ...]) -> None:
    job = Jobs(home, program).add("train", ["waits"], lane="cpu")
    # Another studio in the same home: it has not started the process and cannot wait for it.
    again = Jobs(Home.open(home.root), program)
    assert until(again, begun(again, job), "running").pid == job.pid
    let_go(again, job)
    assert until(again, job, "done").status == 0


def test_the_studio_is_killed_before_it_has_noted_the_process(home: Home, program: tuple[str, ...]) -> None:
    jobs = Jobs(home, program)
    job = begun(jobs, jobs.add("train", ["waits"], lane="cpu"))
    home.db.update("jobs", job.id, pid=None, pid_started=None)
    again = Jobs(home, program)
    again.tick()
    assert again.get(job.id).state == "running"  # type: ignore[union-attr]
    let_go(again, job)
    assert until(again, job, "done").status == 0


@pytest.mark.parametrize("seen", [True, False], ids=["by the studio that started it", "by another"])
def test_a_job_is_killed(home: Home, program: tuple[str, ...], seen: bool) -> None:
    jobs = Jobs(home, program)
    job = begun(jobs, jobs.add("train", ["waits"], lane="cpu"))
    waiting = jobs.add("train", ["quick"], lane="cpu")
    os.kill(job.pid, signal.SIGKILL)  # type: ignore[arg-type]
    if not seen:
        psutil.Process(job.pid).wait(5)
    assert until(jobs if seen else Jobs(home, program), job, "died").error is None
    # The queue goes on.
    assert until(jobs, waiting, "done")


def test_the_machine_goes_down(home: Home, program: tuple[str, ...]) -> None:
    jobs = Jobs(home, program)
    job = begun(jobs, jobs.add("train", ["waits"], lane="cpu"))
    jobs.kill(job)
    until(jobs, job, "died")
    # After the start another process has its number, which began at another time.
    home.db.update("jobs", job.id, state="running", pid=os.getpid(), pid_started=1.0, ended=None)
    assert until(Jobs(home, program), job, "died")


def test_a_process_that_never_began_is_given_up(home: Home, program: tuple[str, ...]) -> None:
    jobs = Jobs(home, program)
    job = jobs.add("train", ["silent"], lane="cpu")
    home.db.update("jobs", job.id, pid=None, pid_started=None, started=time.time() - 60)
    os.kill(job.pid, signal.SIGKILL)  # type: ignore[arg-type]
    assert until(Jobs(home, program), job, "died")


def test_stop_reaches_the_process_and_a_second_one_does_no_harm(home: Home, program: tuple[str, ...]) -> None:
    jobs = Jobs(home, program)
    job = begun(jobs, jobs.add("generate", ["waits"], lane="cpu"))
    jobs.stop(job)
    assert until(jobs, job, "stopped").status == 143
    jobs.stop(job)
    jobs.kill(job)
    assert jobs.get(job.id).state == "stopped"  # type: ignore[union-attr]


def test_a_crash_without_a_word(home: Home, program: tuple[str, ...]) -> None:
    jobs = Jobs(home, program)
    broken = until(jobs, jobs.add("generate", ["breaks"], lane="cpu"), "died")
    assert broken.status == 9
    assert jobs.result(broken) is None


def test_the_job_leads_a_group_of_its_own(home: Home, program: tuple[str, ...]) -> None:
    jobs = Jobs(home, program)
    job = begun(jobs, jobs.add("generate", ["waits"], lane="cpu"))
    assert job.pid is not None
    assert os.getpgid(job.pid) == job.pid != os.getpgrp()
    let_go(jobs, job)
    until(jobs, job, "done")


def test_a_half_written_line_of_events_is_no_end(home: Home, program: tuple[str, ...]) -> None:
    jobs = Jobs(home, program)
    job = begun(jobs, jobs.add("generate", ["waits"], lane="cpu"))
    with (jobs.folder(job) / "events.jsonl").open("a") as log:
        log.write(json.dumps({"event": "Ended", "status": 0})[:20])
    os.kill(job.pid, signal.SIGKILL)  # type: ignore[arg-type]
    assert until(jobs, job, "died")


def test_what_has_come_to_no_result_says_how_it_can(home: Home, program: tuple[str, ...]) -> None:
    jobs = Jobs(home, program)

    def over(what: str, kind: str = "generate", *more: str, **about: Any) -> Job:
        return until(jobs, jobs.add(kind, [what, *more], lane=LIGHT, **about), "done", "failed", "died")

    assert [jobs.way_on(over(what)) for what in ("quick", "fails", "breaks")] == ["", "again", "again"]
    # What it was given, such as a token, is nowhere any more.
    assert jobs.way_on(over("breaks", secret={"SECRET": "x"})) == ""
    # A search has begun in its folder, and the same call goes on there.
    folder = home.root / "search"
    found = over("breaks", "search", f"--out={folder}")
    assert jobs.way_on(found) == "again"
    folder.mkdir()
    (folder / "search.db").touch()
    assert jobs.way_on(found) == "resume"
    # A run folder: none yet, begun, and over.
    run = RunDir(home.root / "runs/x")
    found = over("breaks", "train", "--out", str(run.root), run=run.root)
    assert jobs.way_on(found) == "again"
    run.root.mkdir()
    run.recipe.touch()
    assert jobs.way_on(found) == ""
    run.events.touch()
    assert jobs.way_on(found) == "resume"
    run.report_json.touch()
    assert jobs.way_on(found) == ""


def test_old_checks_are_forgotten_and_trainings_are_not(home: Home, program: tuple[str, ...]) -> None:
    jobs = Jobs(home, program)
    kept = [
        until(jobs, jobs.add(kind, ["quick"], lane=LIGHT, project="p"), "done") for kind in ["check"] * 5 + ["train"]
    ]
    jobs.prune()
    assert [one.id for one in jobs.all()] == [one.id for one in kept[2:]]
    assert not jobs.folder(kept[0]).exists()
