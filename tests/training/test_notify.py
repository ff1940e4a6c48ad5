"""A message at a run's end, through Apprise, to a server on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from runs import make_place, settings

from tsuika.api.training import train
from tsuika.config import Recipe
from tsuika.core.errors import ModelError, RecipeError
from tsuika.core.events import Event, Phase, Warned
from tsuika.training import loggers, notify

pytest.importorskip("apprise")


class Server:
    """Keeps what is posted to it, and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.status, self.address = 200, ""


@pytest.fixture
def server() -> Iterator[Server]:
    there = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            there.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(there.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        there.address = f"json://me:hunter2@127.0.0.1:{listening.server_address[1]}/hook"
        Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        yield there
        listening.shutdown()


REPORT = {
    "steps_done": 1200,
    "artifacts": [{"path": "artifacts/zuzu.safetensors"}],
    "guard": {"sentence": {"en": "Stopped at step 20.", "ja": "ステップ20で停止。"}},
}


def test_what_is_sent(server: Server, tmp_path: Path) -> None:
    assert not [*notify.send([server.address], notify.of_end("zuzu", REPORT, "en"))]
    (got,) = server.got
    assert got["type"] == "success" and "zuzu" in got["title"]
    assert all(words in got["message"] for words in ("Stopped at step 20.", "1,200", "zuzu.safetensors"))
    assert "ステップ20で停止。" in notify.of_end("zuzu", REPORT, "ja")[1]
    # Addresses may stand in a file, which no recipe and no report shows.
    (tmp_path / "places.txt").write_text(f"{server.address}\n{server.address}2\n", encoding="utf-8")
    error = ModelError("MD001", where="/home/me/secret/base", why="secret")
    message = notify.of_failure("zuzu", error, "en")
    assert not [*notify.send([str(tmp_path / "places.txt")], message, failed=True)]
    assert [one["type"] for one in server.got[1:]] == ["failure", "failure"]
    assert "MD001" in server.got[1]["message"] and "secret" not in str(server.got)


def test_a_place_that_does_not_take_it_is_a_note_without_its_password(server: Server, tmp_path: Path) -> None:
    server.status = 500
    places = [server.address, "json://127.0.0.1:9/hook"]
    notes = [*notify.send(places, notify.of_end("zuzu", REPORT, "en"))]
    assert [one.code for one in notes] == ["TR024", "TR024"] and "hunter2" not in str(notes)
    (gone,) = notify.send([str(tmp_path / "gone.yml")], ("", ""))
    assert gone.code == "TR024"


def test_nothing_is_sent_unless_named_and_what_is_missing_is_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not [*notify.send((), ("", ""))]
    notify.check(())
    for place in ("nonsense://x", "json://", str(tmp_path / "none.yml"), str(tmp_path), ""):
        with pytest.raises(RecipeError) as error:
            notify.check([place])
        assert error.value.code == "RC002"
    monkeypatch.setitem(sys.modules, "apprise", None)
    notify.check(())
    with pytest.raises(RecipeError, match="pip install apprise"):
        notify.check(["json://host/path"])


def test_a_run_tells_its_end_and_keeps_the_password_to_itself(server: Server, tmp_path: Path) -> None:
    base, pictures = make_place(tmp_path)
    keys = settings("lora", train={"notify": [server.address], "steps": 1})
    events = [*train("lora", tmp_path / "run", images=pictures, base=base, trigger="zuzu", settings=keys)]
    assert not [one for one in events if isinstance(one, Warned) and one.code == "TR024"]
    (got,) = server.got
    assert "result.safetensors" in got["message"] and str(tmp_path) not in str(got)
    for name in ("report.html", "report.json", "events.jsonl"):
        assert "hunter2" not in (tmp_path / "run" / name).read_text(encoding="utf-8")
    recipe = Recipe.of("lora", settings={"train.notify": [server.address]})
    assert "hunter2" not in str([*loggers._settings(recipe)])


def test_an_error_is_told_and_raised(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_given: object, **_more: object) -> Iterator[Event]:
        yield Phase("load")
        raise failure

    base, pictures = make_place(tmp_path)
    keys = settings("lora", train={"notify": [server.address], "steps": 1})
    monkeypatch.setattr("tsuika.api.training.run.train", broken)
    for name, failure in (("a", ModelError("MD001", why="x")), ("b", RecipeError("RC003", why="x"))):
        with pytest.raises(type(failure)):
            list(train("lora", tmp_path / name, images=pictures, base=base, settings=keys))
    # What is wrong with a recipe is said at once, to whoever has started the run.
    assert [(one["type"], one["message"][:5]) for one in server.got] == [("failure", "MD001")]
