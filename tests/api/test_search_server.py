"""A search of several machines by a PostgreSQL database: two folders stand for two machines.

The server is of this machine's package (Debian: apt-get install --no-install-recommends postgresql; pip install "psycopg[binary]").
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from search_runs import Runs, last, recipe

import tsuika
from tsuika.api import search_store
from tsuika.core.errors import NetworkError, RecipeError, TsuikaError
from tsuika.core.events import Event, Judged, Warned

OVER = ("train.learning_rate=1e-4,3e-4,1e-3,3e-3",)
PASSWORD = "not-to-be-shown"


@dataclass(frozen=True)
class Server:
    """A PostgreSQL of our own; its program refuses to be root."""

    programs: Path
    folder: Path
    port: int

    def _call(self, name: str, *words: str) -> None:
        user = "postgres" if os.geteuid() == 0 else None
        subprocess.run([self.programs / name, *words], check=True, user=user, cwd="/", stdout=subprocess.DEVNULL)

    def make(self) -> None:
        self.folder.mkdir()
        (self.folder / "password").write_text(PASSWORD, encoding="utf-8")
        if os.geteuid() == 0:
            shutil.chown(self.folder.parent, "postgres")
            shutil.chown(self.folder, "postgres")
            shutil.chown(self.folder / "password", "postgres")
        data = str(self.folder / "data")
        self._call("initdb", "-D", data, "-U", "tsuika", "-A", "scram-sha-256", f"--pwfile={self.folder / 'password'}")

    def start(self) -> None:
        where = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._call(
            "pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "log"), "-o", where, "start"
        )

    def stop(self) -> None:
        self._call("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", "immediate", "stop")

    def url(self, database: str = "postgres", password: str = PASSWORD, port: int = 0) -> str:
        return f"postgresql://tsuika:{password}@127.0.0.1:{port or self.port}/{database}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = shutil.which("initdb") or next(map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)
    if found is None:
        pytest.skip("needs a PostgreSQL server's programs")
    pytest.importorskip("psycopg", reason="needs psycopg")
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        made = Server(Path(found).parent, Path(folder) / "server", port)
        made.make()
        made.start()
        yield made
        made.stop()


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    """An empty database."""
    import psycopg

    def execute(command: str) -> None:
        # By a connection of its own: a test may stop the server.
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(command)

    execute("CREATE DATABASE trials")
    yield server.url("trials")
    execute("DROP DATABASE trials WITH (FORCE)")


def in_a_trial(out: Path, url: str) -> Iterator[Event]:
    """A search that has been left in the middle of its first trial."""
    events = tsuika.search(recipe(), out, OVER, storage=url)
    while not isinstance(next(events), Judged):
        pass
    return events


@pytest.mark.postgres
@pytest.mark.parametrize(("over", "trials"), [(OVER, 0), (("train.learning_rate=1e-5..1e-1",), 7)])
def test_two_that_begin_at_once_lose_and_double_no_trial(
    runs: Runs, url: str, tmp_path: Path, over: tuple[str, ...], trials: int
) -> None:
    """Also the tables and the study are made by both at once."""

    def one(machine: str) -> list[Event]:
        return list(tsuika.search(recipe(), tmp_path / machine / "s", over, trials=trials, storage=url))

    with ThreadPoolExecutor(2) as both:
        told = [*both.map(one, ("a", "b"))]
    count = trials or 4
    assert len(runs.begun) == count == len(set(runs.begun)) and not runs.resumed
    again = [last(tsuika.search(recipe(), tmp_path / name / "s", over, trials=trials, storage=url)) for name in "ab"]
    first, second = ([(row["number"], row["params"], row["value"], row["se"]) for row in one.trials] for one in again)
    assert first == second and len(first) == count and len(runs.begun) == count
    assert [row["number"] for row in sorted(again[0].trials, key=lambda row: row["number"])] == list(range(count))
    assert again[0].best is not None and again[0].near == again[1].near
    best = [(tmp_path / name / "s" / "best.toml").read_text(encoding="utf-8") for name in "ab"]
    assert best[0] == best[1]
    # Each tells of the folders of the other by its machine.
    mine = [row for row in again[0].trials if row["folder"].startswith("trials/")]
    assert all((tmp_path / "a" / "s" / row["folder"]).is_dir() for row in mine)
    ended = [sum(isinstance(event, tsuika.TrialEnded) for event in events) for events in told]
    assert len(mine) == ended[0] and sum(ended) == count


@pytest.mark.postgres
def test_a_machine_that_gives_no_sign_of_life_is_taken_over_from(
    runs: Runs, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_store, "SILENT_S", 1)
    monkeypatch.setattr(search_store, "ALIVE_S", 3600)
    gone = in_a_trial(tmp_path / "a" / "s", url)
    time.sleep(2)
    found = last(tsuika.search(recipe(), tmp_path / "b" / "s", OVER, storage=url))
    assert {row["state"] for row in found.trials} <= {"done", "pruned"} and len(found.trials) == 4
    assert len(runs.begun) == 5 and not runs.resumed
    assert len({row["params"]["train.learning_rate"] for row in found.trials}) == 4
    # It was there all the time, without a connection, and is told.
    rest = list(gone)
    assert "GD041" in [event.code for event in rest if isinstance(event, Warned)]
    (result,) = (event for event in rest if isinstance(event, tsuika.Searched))
    assert (result.best, len(result.trials)) == (found.best, 4)


@pytest.mark.postgres
def test_a_living_machine_is_not_taken_over_from(
    runs: Runs, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_store, "SILENT_S", 5)
    monkeypatch.setattr(search_store, "ALIVE_S", 1)
    living = in_a_trial(tmp_path / "a" / "s", url)
    time.sleep(6)
    last(tsuika.search(recipe(), tmp_path / "b" / "s", OVER, storage=url))
    found = last(living)
    assert len(found.trials) == 4 == len(runs.begun)


@pytest.mark.postgres
def test_what_a_process_left_goes_on_in_its_folder(
    runs: Runs, server: Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes away in the middle of a trial, which is the end of this process; the same call goes on, also late."""
    monkeypatch.setattr(search_store, "SILENT_S", 1)
    events = in_a_trial(tmp_path / "a" / "s", url)
    server.stop()
    try:
        with pytest.raises(NetworkError) as caught:
            list(events)
    finally:
        server.start()
    assert caught.value.code == "NW007" and PASSWORD not in caught.value.describe()
    time.sleep(2)
    found = last(tsuika.search(recipe(), tmp_path / "a" / "s", OVER, storage=url))
    assert runs.resumed == runs.begun[:1] and len(runs.begun) == 4 == len(found.trials)


@pytest.mark.postgres
def test_another_search_of_this_name_is_not_mixed_in(runs: Runs, url: str, tmp_path: Path) -> None:
    last(tsuika.search(recipe(), tmp_path / "a" / "s", OVER, storage=url))
    other = ("train.learning_rate=1e-4,1e-3",)
    for folder, over in ((tmp_path / "b" / "s", other), (tmp_path / "a" / "t", OVER)):
        if folder.name == "t":
            shutil.copytree(tmp_path / "a" / "s", folder)
        with pytest.raises(RecipeError) as caught:
            last(tsuika.search(recipe(), folder, over, storage=url))
        assert caught.value.code == "RC023"


@pytest.mark.postgres
@pytest.mark.parametrize("wrong", ["password", "database", "port"])
def test_a_server_that_cannot_be_had_is_told_without_the_password(server: Server, tmp_path: Path, wrong: str) -> None:
    with socket.socket() as unused:
        # Bound, but nobody listens.
        unused.bind(("127.0.0.1", 0))
        url = {
            "password": server.url(password="of-somebody-else"),
            "database": server.url("none"),
            "port": server.url(port=unused.getsockname()[1]),
        }[wrong]
        error = _refused(tmp_path, url)
    assert (error.code, error.exit_status) == ("NW007", 7)
    assert not any(secret in error.describe() for secret in (PASSWORD, "of-somebody-else"))


@pytest.mark.parametrize("url", ["hello", "mysql://a@b/c", "sqlite:///x.db", "postgresql://a:b@c:d/e"])
def test_an_address_of_nothing_that_is_known_is_refused(tmp_path: Path, url: str) -> None:
    pytest.importorskip("optuna", reason="the search needs optuna")
    error = _refused(tmp_path, url)
    assert (error.code, error.exit_status) == ("RC029", 2)
    assert all(error.describe(lang) for lang in ("en", "ja"))


def _refused(tmp_path: Path, url: str) -> TsuikaError:
    with pytest.raises(TsuikaError) as caught:
        last(tsuika.search(recipe(**{"data.images": str(tmp_path)}), tmp_path / "s", OVER, storage=url))
    assert not (tmp_path / "s").exists()
    return caught.value
