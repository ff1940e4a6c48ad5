"""A studio that listens on a free port of this machine, in a thread of the test."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from tsuika.studio.app import application
from tsuika.studio.home import Home
from tsuika.studio.jobs import PROGRAM
from tsuika.studio.security import Access, hosts_of
from tsuika.studio.state import Studio

KEY = "the key of the tests"


@dataclass
class Running:
    """A studio, and how to talk to it."""

    studio: Studio
    port: int

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def origin(self) -> str:
        return f"http://{self.host}"

    @property
    def cookie(self) -> str:
        return f"{self.studio.access.cookie_name}={self.studio.access.cookie}"

    def ask(self, method: str, path: str, body: Any = None, **more: str) -> tuple[int, Any]:
        """As our own page would."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {"Cookie": self.cookie, "Sec-Fetch-Site": "same-origin"}
        content = None
        if method != "GET":
            headers |= {"Origin": self.origin, "X-Tsuika-Token": self.studio.access.token}
            is_file = isinstance(body, bytes)
            headers["Content-Type"] = "application/octet-stream" if is_file else "application/json"
            content = body if is_file else json.dumps(body or {}).encode()
        connection.request(method, path, content, headers | {key.replace("_", "-"): text for key, text in more.items()})
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        is_json = (answer.getheader("content-type") or "").startswith("application/json")
        return answer.status, json.loads(raw) if is_json else raw

    def raw(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Bytes as they are; the status, headers and body of the answer. A connection that is cut off: 0."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as stream:
            stream.settimeout(5)
            got = b""
            try:
                stream.sendall(request)
                while block := stream.recv(65536):
                    got += block
                    if b"text/event-stream" in got:
                        break
            except OSError:
                pass
        head, _gap, body = got.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        return (int(first.split()[1]) if first.startswith("HTTP/") else 0), headers, body

    def until(self, job: str, *states: str, seconds: float = 60) -> dict[str, Any]:
        """Wait for a job; its view."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            view: dict[str, Any] = self.ask("GET", f"/api/jobs/{job}")[1]["job"]
            if view["state"] in states:
                return view
            time.sleep(0.05)
        raise AssertionError(f"{view['state']} after {seconds} s: {self.studio.jobs.log(self.studio.jobs.get(job))}")  # type: ignore[arg-type]


@contextmanager
def running(home: Path, commands: Any = (), program: Any = PROGRAM) -> Iterator[Running]:
    """Open a studio in a home; it is closed at the end, its jobs are not."""
    place = Home.open(home)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        access = Access(hosts_of("127.0.0.1", port), KEY, place.secret(), port)
        studio = Studio.of(place, access, commands, program)
        config = uvicorn.Config(application(studio), log_level="error", ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Running(studio, port)
        finally:
            server.should_exit = True
            thread.join(5)
