"""A stand-in of the Hugging Face hub on this machine: as much of its HTTP interface as `huggingface_hub` asks for an upload."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

WRITES, READS = "hf_writes", "hf_reads"


@dataclass
class Repository:
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0

    @property
    def sha(self) -> str:
        return f"{self.commits:040x}"


@dataclass
class Hub:
    """What it holds, and what it was asked."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    fails_at: str = ""  # a part of a path that answers with 503

    def answer(self, verb: str, path: str, body: bytes, token: str) -> tuple[int, Any]:
        self.asked.append(f"{verb} {path}")
        if self.fails_at and self.fails_at in path:
            # As unkind as can be: it says what it was given.
            return 503, {"error": f"down for maintenance, {token}"}
        if path.startswith("/lfs/"):
            self.stored[path.removeprefix("/lfs/")] = body
            return 200, {}
        if token not in (WRITES, READS):
            return 401, {"error": "Invalid username or password."}
        if path == "/api/validate-yaml":
            wrong = "license: nonsense" in json.loads(body)["content"]
            return (400, {"errors": [{"message": '"license" must be one of'}]}) if wrong else (200, {"warnings": []})
        if token == READS and verb != "GET":
            return 403, {"error": "Forbidden: you must use a token with write access."}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.repositories[name] = Repository(private=asked.get("private") or asked.get("visibility") == "private")
            return 200, {"url": f"{self.address}/{name}"}
        if path.endswith(".git/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            places = [{"upload": {"href": f"{self.address}/lfs/{one['oid']}"}} for one in wanted]
            objects = [{**one, "actions": place} for one, place in zip(wanted, places, strict=True)]
            return 200, {"transfer": "basic", "objects": objects}
        name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if (there := self.repositories.get(name)) is None:
            return 404, {"error": "Repository not found"}
        if "/preupload/" in path:
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith((".safetensors", ".png")) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            return 200, {"files": modes}
        if "/commit/" in path:
            lines = [json.loads(line) for line in body.splitlines()]
            if lines[0]["value"].get("parentCommit", there.sha) != there.sha:
                return 412, {"error": "The branch has moved on"}
            for line in lines[1:]:
                value = line["value"]
                lfs = line["key"] == "lfsFile"
                there.files[value["path"]] = self.stored[value["oid"]] if lfs else base64.b64decode(value["content"])
            there.commits += 1
            return 200, {"commitUrl": f"{self.address}/{name}/commit/{there.sha}", "commitOid": there.sha}
        siblings = [{"rfilename": one} for one in there.files]
        return 200, {"id": name, "sha": there.sha, "private": there.private, "siblings": siblings}

    def digest(self, repository: str, path: str) -> str:
        return sha256(self.repositories[repository].files[path]).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    """The stand-in, as long as the block lasts."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, content = hub.answer(self.command, self.path.partition("?")[0], body, token)
            said = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            if "error" in content:
                self.send_header("X-Error-Message", content["error"])
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_PUT = _answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
