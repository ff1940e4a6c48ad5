"""Who may come in: every request is asked before any route sees it.

A loopback address is no wall: any page in the browser can send requests to it. So the name of the host must be ours (a
foreign name that points here is refused), the request must come from our own page, the browser must hold our cookie, and
whatever changes something must carry a token in a header, which no foreign page can read or send. docs/security.md has the
hostile requests that are tried in the tests.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The name of a header.
TOKEN_HEADER: Final = "x-tsuika-token"  # noqa: S105
ENTER: Final = "/enter"
# What the page that asks for the key needs.
OPEN: Final = frozenset({ENTER, "/web/enter.js", "/web/app.css", "/web/icon.svg"})
SAFE: Final = frozenset({"GET", "HEAD"})
CHANGING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
JSON_BYTES: Final = 2**20
UPLOADS: Final = ("/api/uploads/", "/api/dropped")
# Wrong keys within a minute, after which none is looked at.
TRIES: Final = 10
KEPT_S: Final = 90 * 86_400
HEADERS: Final = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True)
class Access:
    """What a visitor needs: one of the hosts, the key once, the cookie and the token from then on.

    Attributes:
        hosts: names with port under which the studio may be called, in lower case.
        key: that opens the door: a password, or one made for this home.
        secret: of this home; cookie and token are made of it and of the key.
        port: of the studio; cookies do not tell ports apart, so it is in the cookie's name.
    """

    hosts: frozenset[str]
    key: str
    secret: bytes
    port: int
    _wrong: deque[float] = field(default_factory=lambda: deque(maxlen=TRIES), compare=False)

    @property
    def cookie_name(self) -> str:
        """Of the session."""
        return f"tsuika-{self.port}"

    @property
    def cookie(self) -> str:
        """Its value."""
        return self._made("cookie")

    @property
    def token(self) -> str:
        """What changes something must carry it in a header."""
        return self._made("token")

    def _made(self, purpose: str) -> str:
        return hmac.new(self.secret, f"{purpose}:{self.key}".encode(), hashlib.sha256).hexdigest()

    def set_cookie(self) -> str:
        """The header that gives the cookie."""
        return f"{self.cookie_name}={self.cookie}; Path=/; Max-Age={KEPT_S}; HttpOnly; SameSite=Strict"

    def opens(self, key: str) -> bool:
        """Whether this is the key; after `TRIES` wrong ones within a minute nothing is, for a while."""
        now = time.monotonic()
        if len(self._wrong) == TRIES and now - self._wrong[0] < 60:
            return False
        if hmac.compare_digest(key.encode(), self.key.encode()):
            return True
        self._wrong.append(now)
        return False


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused."""

    status: int
    why: str


class AccessControl:
    """ASGI middleware that lets through what may come in, and puts our headers on every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # There are no web sockets here.
            await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _value in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given),
                ]
                if b"cache-control" not in given:
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        if (refused := refusal(scope, self._access)) is not None:
            await _answer(guarded, refused, as_page=_wants_page(scope))
            return
        limit = None if scope["path"].startswith(UPLOADS) else JSON_BYTES
        await self._app(scope, receive if limit is None else _limited(receive, limit), guarded)


def refusal(scope: Scope, access: Access) -> Refusal | None:
    """Why a request may not come in; None where it may."""
    headers = _Headers(scope["headers"])
    method, path = scope["method"], scope["path"]
    host = headers.only("host")
    if host is None or host.lower() not in access.hosts:
        return Refusal(400, "host")
    if method not in SAFE | CHANGING:
        return Refusal(405, "method")
    if scope.get("raw_path", path.encode()).split(b"?")[0] != path.encode() or "//" in path or "\\" in path:
        # Every address of ours is plain: nothing is to be decoded in it.
        return Refusal(404, "path")
    if headers.all("sec-fetch-site") not in ([], ["same-origin"], ["none"]):
        return Refusal(403, "sec-fetch-site")
    origin = headers.all("origin")
    if origin and origin != [f"{scope.get('scheme', 'http')}://{host.lower()}"]:
        return Refusal(403, "origin")
    if method in CHANGING and not origin:
        return Refusal(403, "origin")
    if method in CHANGING and (wrong := _wrong_body(headers, path)) is not None:
        return wrong
    if path in OPEN:
        return None
    if not hmac.compare_digest(_cookie(headers, access.cookie_name).encode(), access.cookie.encode()):
        return Refusal(401, "cookie")
    token = headers.only(TOKEN_HEADER) or ""
    if method in CHANGING and not hmac.compare_digest(token.encode("latin-1"), access.token.encode()):
        return Refusal(403, "token")
    return None


def _wrong_body(headers: _Headers, path: str) -> Refusal | None:
    uploads = path.startswith(UPLOADS)
    kind = (headers.only("content-type") or "").partition(";")[0].strip().lower()
    if kind != ("application/octet-stream" if uploads else "application/json"):
        return Refusal(415, "content-type")
    length = headers.all("content-length")
    if headers.all("content-encoding") or len(length) > 1:
        return Refusal(415, "content-encoding")
    if length and (not length[0].isdecimal() or (not uploads and int(length[0]) > JSON_BYTES)):
        return Refusal(413, "content-length")
    return None


class _Headers:
    """A request's headers, each with all its values."""

    def __init__(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        self._rows = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in rows]

    def all(self, name: str) -> list[str]:
        return [value for one, value in self._rows if one == name]

    def only(self, name: str) -> str | None:
        """Its value, if it stands there once."""
        found = self.all(name)
        return found[0] if len(found) == 1 else None


def _cookie(headers: _Headers, name: str) -> str:
    """The value of a cookie; empty without it, or where it is there twice."""
    pairs = [part.strip().partition("=") for line in headers.all("cookie") for part in line.split(";")]
    found = [value for key, _equals, value in pairs if key == name]
    return found[0] if len(found) == 1 else ""


def _wants_page(scope: Scope) -> bool:
    """Whether a person opens an address, and not a script."""
    return scope["method"] == "GET" and "text/html" in " ".join(_Headers(scope["headers"]).all("accept"))


def _limited(receive: Receive, limit: int) -> Receive:
    """The same body, but no more of it."""
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            return {"type": "http.disconnect"}
        return message

    return limited


async def _answer(send: Send, refused: Refusal, *, as_page: bool) -> None:
    """Say no. Somebody without a cookie who opens a page is sent to the door."""
    headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
    body, status = json.dumps({"refused": refused.why}).encode(), refused.status
    if refused.why == "cookie" and as_page:
        status, body, headers = 303, b"", [(b"location", ENTER.encode())]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def hosts_of(host: str, port: int, addresses: Iterable[str] = ()) -> frozenset[str]:
    """The names, with port, under which a studio bound to `host` may be called."""
    names = {"127.0.0.1", "localhost", "[::1]"}
    names |= {f"[{one}]" if ":" in one else one for one in (host, *addresses) if one not in ("0.0.0.0", "::", "")}  # noqa: S104 - not bound to here
    return frozenset(f"{name}:{port}".lower() for name in names)


def as_json(value: Mapping[str, Any]) -> bytes:
    """Compact UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
