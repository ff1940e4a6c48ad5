"""Requests that must not get through: what is tried, what it is like, and what it gets.

`docs/security.md` shows this table; a test compares them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Hostile:
    """A request; what is not said is as our own page would send it.

    `{project}`, `{image}`, `{job}` and `{run}` in `path` are ids that exist. A header of None is left out.
    """

    group: str
    what: str
    gets: int
    method: str = "GET"
    path: str = "/api/home"
    headers: dict[str, str | None] = field(default_factory=dict)
    body: Any = None
    more: str = ""


EVIL = "http://evil.example"
POST = {"method": "POST", "path": "/api/projects", "body": {"name": "x"}}
WITHOUT_COOKIE = {"Cookie": None}
TRAVERSALS = (
    "/web/../studio.db",
    "/web/..%2f..%2fstudio.db",
    "/web/%2e%2e/%2e%2e/etc/passwd",
    "/web/..\\..\\studio.db",
    "/web//etc/passwd",
    "/web/vendor/../../security.py",
    "/api/projects/..%2f..%2fetc/images",
    "/api/projects/%2e%2e/images/x",
    "/api/runs/..%2f..%2f..%2fetc%2fpasswd/log",
    "/api/jobs/../../studio.db",
    "/web/C:%5CWindows%5Cwin.ini",
    "/web/app.js%00.css",
)
EVERY_ROUTE = (
    "/",
    "/web/app.js",
    "/api/session",
    "/api/home",
    "/api/texts/en",
    "/api/events",
    "/api/settings",
    "/api/commands",
    "/api/bases",
    "/api/programs",
    "/api/artifacts",
    "/api/projects/{project}",
    "/api/projects/{project}/images",
    "/api/projects/{project}/images/{image}",
    "/api/projects/{project}/masks/{job}/{image}",
    "/api/jobs/{job}",
    "/api/jobs/{job}/log",
    "/api/jobs/{job}/file",
    "/api/jobs/{job}/images/0",
    "/api/runs/{run}",
    "/api/runs/{run}/previews/0",
    "/api/runs/{run}/report",
    "/api/runs/{run}/results",
    "/api/runs/{run}/recipe",
    "/api/runs/{run}/artifacts/0",
    "/api/runs/{run}/log",
)
NAMES = (
    "../x.png",
    "..\\x.png",
    "/etc/x.png",
    "C:\\x.png",
    "C:x.png",
    "\\\\server\\share\\x.png",
    "\\\\?\\C:\\x.png",
    "CON.png",
    "aux.png",
    "a/../../x.png",
    "x.png:stream",
    "x\x00.png",
    "a/b/c/d/e/f/g/h.png",
    ".htaccess.png",
    "trailing. /x.png",
    "",
)


def _asks(command: str, **values: str) -> dict[str, Any]:
    return {"command": [command], "values": values}


def requests() -> list[Hostile]:
    """All of them."""
    return [
        *(
            Hostile("DNS rebinding", f"Host: {host}", 400, headers={"Host": host})
            for host in ("evil.example", "127.0.0.1:1", "localhost", "127.0.0.1.evil.example:{port}", "0.0.0.0:{port}")
        ),
        Hostile(
            "DNS rebinding",
            "Host and Origin both of the foreign name",
            400,
            **POST,
            headers={"Host": "evil.example", "Origin": EVIL},
        ),
        Hostile("DNS rebinding", "no Host at all", 400, headers={"Host": None}),
        Hostile("DNS rebinding", "two Host headers", 400, more="Host: 127.0.0.1:{port}\r\n"),
        Hostile("foreign page", "POST with its Origin", 403, **POST, headers={"Origin": EVIL}),
        Hostile(
            "foreign page", "POST with `Origin: null` (sandboxed frame, file)", 403, **POST, headers={"Origin": "null"}
        ),
        Hostile("foreign page", "POST without Origin", 403, **POST, headers={"Origin": None}),
        Hostile(
            "foreign page",
            "POST from another port of this machine",
            403,
            **POST,
            headers={"Origin": "http://127.0.0.1:1"},
        ),
        Hostile(
            "foreign page",
            "POST from https of the same host",
            403,
            **POST,
            headers={"Origin": "https://127.0.0.1:{port}"},
        ),
        Hostile(
            "foreign page",
            "a dropped file from its page",
            403,
            method="POST",
            path="/api/dropped",
            body=b"x",
            headers={"Content-Type": "application/octet-stream", "Origin": EVIL},
        ),
        Hostile(
            "foreign page",
            "captions by a model from its page",
            403,
            method="POST",
            path="/api/projects/{project}/captions/model",
            body={"model": "a/b"},
            headers={"Origin": EVIL},
        ),
        Hostile(
            "foreign page",
            "masks by a model from its page",
            403,
            method="POST",
            path="/api/projects/{project}/masks/model",
            body={"text": "cat"},
            headers={"Origin": EVIL},
        ),
        Hostile(
            "foreign page",
            "a search from its page",
            403,
            method="POST",
            path="/api/projects/{project}/searches",
            body={"advice": "{job}", "over": {"method.rank": "4,8"}},
            headers={"Origin": EVIL},
        ),
        Hostile(
            "foreign page",
            "publishing from its page",
            403,
            method="POST",
            path="/api/runs/{run}/publish",
            body={"to": "a/b", "licence": "mit", "dry_run": False},
            headers={"Origin": EVIL},
        ),
        Hostile("foreign page", "two Origin headers", 403, **POST, more=f"Origin: {EVIL}\r\n"),
        Hostile("foreign page", "GET with its Origin", 403, headers={"Origin": EVIL}),
        Hostile("foreign page", "Sec-Fetch-Site: cross-site", 403, headers={"Sec-Fetch-Site": "cross-site"}),
        Hostile(
            "foreign page", "Sec-Fetch-Site: same-site (another port)", 403, headers={"Sec-Fetch-Site": "same-site"}
        ),
        Hostile(
            "foreign page",
            "an image of ours in its page",
            403,
            path="/api/projects/{project}/images/{image}",
            headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"},
        ),
        Hostile(
            "foreign page",
            "our stream of events in its page",
            403,
            path="/api/events",
            headers={"Sec-Fetch-Site": "cross-site"},
        ),
        Hostile(
            "foreign page",
            "CORS preflight",
            405,
            method="OPTIONS",
            path="/api/projects",
            headers={"Origin": EVIL, "Access-Control-Request-Method": "POST"},
        ),
        Hostile("form post", "text/plain", 415, **POST, headers={"Content-Type": "text/plain"}),
        Hostile(
            "form post",
            "application/x-www-form-urlencoded",
            415,
            **POST,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        ),
        Hostile(
            "form post", "multipart/form-data", 415, **POST, headers={"Content-Type": "multipart/form-data; boundary=x"}
        ),
        Hostile("form post", "no Content-Type", 415, **POST, headers={"Content-Type": None}),
        Hostile(
            "form post",
            "a file sent as a form",
            415,
            method="POST",
            path="/api/uploads/{project}",
            body=b"x",
            headers={"Content-Type": "multipart/form-data; boundary=x"},
        ),
        Hostile(
            "form post",
            "a dropped file sent as a form",
            415,
            method="POST",
            path="/api/dropped",
            body=b"x",
            headers={"Content-Type": "multipart/form-data; boundary=x"},
        ),
        Hostile("form post", "a compressed body", 415, **POST, headers={"Content-Encoding": "gzip"}),
        Hostile("token", "POST without the token", 403, **POST, headers={"X-Tsuika-Token": None}),
        Hostile("token", "POST with a wrong token", 403, **POST, headers={"X-Tsuika-Token": "0" * 64}),
        Hostile("token", "the cookie as token", 403, **POST, headers={"X-Tsuika-Token": "{cookie}"}),
        Hostile("token", "two tokens", 403, **POST, more="X-Tsuika-Token: x\r\n"),
        Hostile(
            "token",
            "DELETE without the token",
            403,
            method="DELETE",
            path="/api/projects/{project}",
            headers={"X-Tsuika-Token": None},
        ),
        Hostile(
            "token",
            "a file without the token",
            403,
            method="POST",
            path="/api/uploads/{project}",
            body=b"x",
            headers={"Content-Type": "application/octet-stream", "X-Tsuika-Token": None},
        ),
        Hostile(
            "token",
            "a dropped file without the token",
            403,
            method="POST",
            path="/api/dropped",
            body=b"x",
            headers={"Content-Type": "application/octet-stream", "X-Tsuika-Token": None},
        ),
        Hostile(
            "token",
            "captions by a model without the token",
            403,
            method="POST",
            path="/api/projects/{project}/captions/model",
            body={"model": "a/b"},
            headers={"X-Tsuika-Token": None},
        ),
        Hostile(
            "token",
            "masks by a model without the token",
            403,
            method="POST",
            path="/api/projects/{project}/masks/model",
            body={"text": "cat"},
            headers={"X-Tsuika-Token": None},
        ),
        Hostile(
            "token",
            "a job once more without the token",
            403,
            method="POST",
            path="/api/jobs/{job}",
            body={"action": "again"},
            headers={"X-Tsuika-Token": None},
        ),
        Hostile(
            "token",
            "publishing without the token",
            403,
            method="POST",
            path="/api/runs/{run}/publish",
            body={"to": "a/b", "licence": "mit", "dry_run": False},
            headers={"X-Tsuika-Token": None},
        ),
        Hostile(
            "token",
            "the token in the address",
            403,
            method="POST",
            path="/api/projects?x-tsuika-token={token}",
            body={"name": "x"},
            headers={"X-Tsuika-Token": None},
        ),
        *(Hostile("no cookie", f"GET {path}", 401, path=path, headers=WITHOUT_COOKIE) for path in EVERY_ROUTE),
        Hostile("no cookie", "POST with the token alone", 401, **POST, headers=WITHOUT_COOKIE),
        Hostile(
            "no cookie",
            "a dropped file",
            401,
            method="POST",
            path="/api/dropped",
            body=b"x",
            headers={"Content-Type": "application/octet-stream", **WITHOUT_COOKIE},
        ),
        Hostile(
            "no cookie",
            "captions by a model",
            401,
            method="POST",
            path="/api/projects/{project}/captions/model",
            body={"model": "a/b"},
            headers=WITHOUT_COOKIE,
        ),
        Hostile(
            "no cookie",
            "masks by a model",
            401,
            method="POST",
            path="/api/projects/{project}/masks/model",
            body={"text": "cat"},
            headers=WITHOUT_COOKIE,
        ),
        Hostile("no cookie", "a wrong cookie", 401, headers={"Cookie": "{name}=0000"}),
        Hostile("no cookie", "an empty cookie", 401, headers={"Cookie": "{name}="}),
        Hostile("no cookie", "two cookies of our name", 401, headers={"Cookie": "{name}=x; {name}={cookie}"}),
        Hostile("no cookie", "a cookie of another port", 401, headers={"Cookie": "tsuika-1={cookie}"}),
        Hostile(
            "no cookie",
            "a wrong key at the door",
            401,
            method="POST",
            path="/enter",
            body={"key": "guess"},
            headers=WITHOUT_COOKIE,
        ),
        *(Hostile("path", path.replace("\x00", "␀"), 404, path=path) for path in TRAVERSALS),
        Hostile("path", "a path where an id belongs", 404, path="/api/projects/etc"),
        Hostile(
            "path",
            "a folder that was never handed out",
            404,
            method="POST",
            path="/api/folders",
            body={"place": "L2V0Yw=="},
        ),
        Hostile(
            "path",
            "a path as a folder to import",
            404,
            method="POST",
            path="/api/projects/{project}/import",
            body={"place": "/etc"},
        ),
        Hostile(
            "path",
            "a forged handle",
            404,
            method="POST",
            path="/api/folders",
            body={"place": "QUFBQUFBQUFBQUFBQUFBQS9ldGM="},
        ),
        Hostile("path", "a mask of a job that made none", 404, path="/api/projects/{project}/masks/{job}/{image}"),
        Hostile("path", "a mask of a path", 404, path="/api/projects/{project}/masks/..%2f..%2f.secret/{image}"),
        Hostile("path", "a file of a job that made none", 404, path="/api/jobs/{job}/file"),
        Hostile(
            "path",
            "an image side that would be the file as it is",
            404,
            path="/api/projects/{project}/images/{image}?side=0",
        ),
        Hostile("path", "an image number below zero", 404, path="/api/runs/{run}/previews/-1"),
        Hostile("path", "a language with a path in it", 404, path="/api/texts/..%2fen"),
        *(
            Hostile(
                "file name",
                json.dumps(name),
                422,
                method="POST",
                path="/api/uploads/{project}",
                body=b"\x89PNG\r\n\x1a\n",
                headers={
                    "Content-Type": "application/octet-stream",
                    "X-File-Name": "".join(f"%{byte:02x}" for byte in name.encode()),
                },
            )
            for name in NAMES
        ),
        *(
            Hostile(
                "file name",
                f"{json.dumps(name)}, dropped",
                422,
                method="POST",
                path="/api/dropped",
                body=b"x",
                headers={
                    "Content-Type": "application/octet-stream",
                    "X-File-Name": "".join(f"%{byte:02x}" for byte in name.encode()),
                },
            )
            # Of weights, so that it is the name that is refused; of a path the last part is taken.
            for name in (one.replace(".png", ".pt") for one in NAMES if "/" not in one)
        ),
        *(
            Hostile(
                "file",
                f"{what}, dropped",
                gets,
                method="POST",
                path="/api/dropped",
                body=body,
                headers={"Content-Type": "application/octet-stream", "X-File-Name": name},
            )
            for what, gets, name, body in (
                ("a page", 415, "x.html", b"<script>alert(1)</script>"),
                ("a program", 415, "x.exe", b"MZ"),
                ("an SVG called PNG", 422, "x.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
                ("a pickle called PNG", 422, "x.png", b"\x80\x04cos\nsystem\n"),
            )
        ),
        *(
            Hostile(
                "file",
                what,
                422,
                method="POST",
                path="/api/uploads/{project}",
                body=body,
                headers={"Content-Type": "application/octet-stream", "X-File-Name": name},
            )
            for what, name, body in (
                (
                    "an SVG with a script",
                    "x.svg",
                    b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
                ),
                ("an SVG called PNG", "x.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
                ("a page", "x.html", b"<script>alert(1)</script>"),
                ("a program", "x.exe", b"MZ"),
                ("a pickle called PNG", "x.png", b"\x80\x04cos\nsystem\n"),
                ("a PNG that is cut off", "x.png", b"\x89PNG\r\n\x1a\n\x00\x00"),
                ("a zip that is none", "x.zip", b"PK\x03\x04"),
                ("nothing at all", "x.png", b""),
            )
        ),
        Hostile("body", "no JSON", 422, **{**POST, "body": b"{"}, headers={"Content-Type": "application/json"}),
        Hostile("body", "more than a megabyte", 413, **{**POST, "body": {"name": "x" * 2**20}}),
        *(
            Hostile("body", what, gets, method="POST", path=path, body=body)
            for what, gets, path, body in (
                *(
                    (
                        f"a captioning model that is {what}",
                        422,
                        "/api/projects/{project}/captions/model",
                        {"model": model},
                    )
                    for what, model in (
                        ("outside the roots", "/etc"),
                        ("a path with dots", "../../x"),
                        ("a flag", "--out=x"),
                        ("an address", "http://evil.example/x"),
                        ("nothing", ""),
                    )
                ),
                (
                    "thresholds that are no numbers",
                    422,
                    "/api/projects/{project}/captions/model",
                    {"model": "a/b", "threshold": "--out=x"},
                ),
                (
                    "a setting that names code",
                    422,
                    "/api/projects/{project}/recipe",
                    {"advice": "{job}", "settings": {"method.name": "os:system"}},
                ),
                *(
                    (
                        f"a segmentation model that is {what}",
                        422,
                        "/api/projects/{project}/masks/model",
                        {"text": "cat", "model": model},
                    )
                    for what, model in (
                        ("outside the roots", "/etc"),
                        ("a flag", "--out=x"),
                        ("an address", "http://evil.example/x"),
                    )
                ),
                *(
                    (f"published {what}", 422, "/api/runs/{run}/publish", {"licence": "mit", "dry_run": False, **given})
                    for what, given in (
                        ("at an address", {"to": "http://evil.example/x"}),
                        ("at a path", {"to": "../../x"}),
                        ("with a token of two lines", {"to": "a/b", "token": "x\nLD_PRELOAD=/x"}),
                    )
                ),
                ("a margin without end", 422, "/api/projects/{project}/masks/model", {"text": "cat", "grow_px": 10**9}),
                ("a flag that names code", 422, "/api/commands", _asks("find-rate", set_="method.name=os:system")),
                ("a table that names code", 422, "/api/commands", _asks("train", set_="method={name='os:system'}")),
                ("a recipe outside the roots", 422, "/api/commands", _asks("train", recipe="/etc/passwd")),
                (
                    "a path outside behind a sign",
                    422,
                    "/api/commands",
                    _asks("grid", prompt="x", x="base=a,/etc/passwd"),
                ),
                ("a home of somebody else", 422, "/api/commands", _asks("train", images="~root/../etc")),
                ("a training outside the home", 422, "/api/commands", _asks("train", method="lora", out="../../x")),
                ("a command that is none", 422, "/api/commands", _asks("rm")),
                ("a method from outside", 422, "/api/commands", _asks("find-rate", method="os:system")),
                ("a path outside the roots", 422, "/api/commands", _asks("inspect", file="/etc/passwd")),
                ("a result outside the home", 422, "/api/commands", _asks("resize", file="{home}", out="../../x")),
                ("a place for results that was not allowed", 404, "/api/runs/{run}/export", {"to": 16 * "0"}),
            )
        ),
        Hostile("method", "TRACE", 405, method="TRACE"),
        Hostile("method", "CONNECT", 405, method="CONNECT", path="/"),
        Hostile(
            "method",
            "web socket",
            404,
            path="/api/events-socket",
            headers={
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "eA==",
            },
        ),
    ]
