"""A hub that refuses, hangs or lies: a server on this machine stands in for it. Each answer ends in one error of ours."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
import torch

from tsuika.core.errors import ModelError, NetworkError, ResourceError
from tsuika.families import load, sources

NAME, COMMIT = "someone/model", "a" * 40


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.how(self)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, content: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, how: Callable[[Request], None]) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.how, self.asked, self.over = how, list[str](), Event()


def always(status: int, content: bytes = b"{}", **headers: str) -> Callable[[Request], None]:
    return lambda request: request.answer(status, content, **headers)


def listing(*names: str, then: Callable[[Request], None]) -> Callable[[Request], None]:
    """A hub that knows the model and its files' names, and what it does when asked for one."""

    def how(request: Request) -> None:
        about = {"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
        tree = [{"type": "file", "path": name, "size": 4, "oid": "x"} for name in names]
        if "/tree/" in request.path:
            request.answer(200, json.dumps(tree).encode())
        elif "/api/models/" in request.path:
            request.answer(200, json.dumps(about).encode())
        elif "/api/" in request.path:
            request.answer(404)
        else:
            then(request)

    return how


def file(content: bytes, length: int | None = None) -> Callable[[Request], None]:
    def how(request: Request) -> None:
        request.answer(200, content, length, ETag='"x"', X_Repo_Commit=COMMIT)
        if length is not None and request.command != "HEAD":
            request.close_connection = True

    return how


def silent(request: Request) -> None:
    request.server.over.wait(60)


def silent_file(request: Request) -> None:
    if request.command == "HEAD":
        file(b"{}")(request)
    else:
        silent(request)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "above" / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(sources, "ANSWER_S", 0.5)
    return tmp_path / "above" / "hub"


@pytest.fixture
def hub(request: pytest.FixtureRequest, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(request.param)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


ANSWERS = {
    **{f"status {status}": always(status) for status in (401, 403, 404, 429, 500, 503)},
    "a page": always(200, b"<html>log in</html>", Content_Type="text/html"),
    "no object": always(200, b"[1, 2]"),
    "nothing": always(200, b""),
    "other types": always(200, b'{"id": 1, "siblings": 3}'),
    "no commit": always(200, json.dumps({"id": NAME, "siblings": []}).encode()),
    "circles": lambda request: request.answer(302, Location=request.path),
    "silence": silent,
    "a file that is gone": listing("model_index.json", then=always(404)),
    "a path outside": listing("../../../stray/config.json", then=file(b"{}")),
    "an absolute path": listing("/tmp/stray/config.json", then=file(b"{}")),
    "a path of another system": listing("..\\..\\stray/config.json", then=file(b"{}")),
}
SLOW_ANSWERS = {
    "files that fail": listing("model_index.json", then=always(500)),
    "a file that stops": listing("model_index.json", then=file(b"{}", 1000)),
    "a file that never comes": listing("model_index.json", then=silent_file),
    "files without headers": listing("model_index.json", then=always(200)),
}


@pytest.mark.parametrize(
    "hub",
    [
        *(pytest.param(how, id=name) for name, how in ANSWERS.items()),
        *(pytest.param(how, id=name, marks=pytest.mark.slow) for name, how in SLOW_ANSWERS.items()),
    ],
    indirect=True,
)
def test_what_is_no_answer_of_a_hub_is_said_to_be_one(hub: Hub, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(NetworkError) as error:
        sources.from_hub(NAME, sources.MODEL_FILES)
    assert error.value.code == "NW001" and NAME in str(error.value) and hub.asked
    strays = [one for one in tmp_path.rglob("*") if one.is_file() and cache not in one.parents]
    assert not strays and not Path("/tmp/stray").exists()


@pytest.mark.parametrize("hub", [pytest.param(listing("model_index.json", then=file(b"{}")), id="")], indirect=True)
def test_a_model_that_is_none_is_refused_as_a_folder_would_be(hub: Hub) -> None:
    with pytest.raises(ModelError) as error:
        load(NAME, device=torch.device("cpu"), dtype=torch.float32)
    assert error.value.exit_status == 4


def test_where_nobody_listens_it_is_said_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(NetworkError):
        sources.from_hub(NAME, sources.MODEL_FILES)
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "RS002"), (errno.EROFS, "RS003"), (errno.EACCES, "RS003")])
def test_a_cache_that_cannot_be_written_is_no_fault_of_the_hub(
    number: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(number, "x", "/cache/blob")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(ResourceError) as error:
        sources.from_hub(NAME, sources.MODEL_FILES)
    assert error.value.code == code and "/cache/blob" in str(error.value)
