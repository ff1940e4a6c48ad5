"""The page itself, the door, texts, and the stream of events."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

import tsuika
from tsuika import config
from tsuika.core.texts import languages
from tsuika.studio import answers, catalogue
from tsuika.studio.state import Here

router = APIRouter()
_KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}


class Key(BaseModel):
    """What opens the door."""

    key: str


@cache
def _files() -> dict[str, str]:
    """Every file of the front end, by its address."""
    return {
        path.relative_to(catalogue.WEB).as_posix(): str(path) for path in catalogue.WEB.rglob("*.*") if path.is_file()
    }


def _file(name: str, etag: str | None = None) -> Response:
    path = _files().get(name)
    if path is None:
        raise HTTPException(404)
    suffix = name[name.rindex(".") :]
    kind = _KINDS.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    # Asked again each time, and answered with 304: after an update no page is half old.
    answer = FileResponse(path, media_type=kind, headers={"cache-control": "no-cache"})
    answer.set_stat_headers(catalogue.WEB.joinpath(name).stat())
    if etag and etag == answer.headers.get("etag"):
        return Response(status_code=304, headers={"etag": etag, "cache-control": "no-cache"})
    return answer


@router.get("/")
def home(if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """The page: one for all screens."""
    return _file("index.html", if_none_match)


@router.get("/web/{name:path}")
def web(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """A file of the front end."""
    return _file(name, if_none_match)


@router.get("/enter")
def door(studio: Here, key: str = "") -> Response:
    """With the key in, from the address that the program prints; else ask for it."""
    if key and studio.access.opens(key):
        return RedirectResponse("/", 303, headers={"set-cookie": studio.access.set_cookie()})
    return _file("enter.html")


@router.post("/enter")
def enter(given: Key, studio: Here) -> Response:
    """In with a key or password that was typed."""
    if not studio.access.opens(given.key):
        return JSONResponse({"refused": "key"}, status_code=401)
    return JSONResponse({}, headers={"set-cookie": studio.access.set_cookie()})


@router.get("/api/session", response_model=answers.Session)
def session(studio: Here) -> dict[str, Any]:
    """What the page needs first."""
    return {
        "token": studio.access.token,
        "version": tsuika.__version__,
        "languages": list(languages()),
        "home": str(studio.home.root),
        "language": studio.home.db.setting("language"),
        "flags": config.FLAGS,
    }


@router.get("/api/texts/{lang}", response_model=dict[str, str | list[str]])
def texts(lang: str) -> dict[str, Any]:
    """The texts of the page in a language."""
    if lang not in languages():
        raise HTTPException(404)
    return dict(catalogue.catalogue(lang))


class Choice(BaseModel):
    """A language."""

    language: str


@router.put("/api/language")
def language(choice: Choice, studio: Here) -> dict[str, Any]:
    """Remember a language."""
    if choice.language in languages():
        studio.home.db.keep("language", choice.language)
    return {}


@router.get("/api/events", response_class=EventSourceResponse)
async def events(studio: Here) -> AsyncIterator[ServerSentEvent]:
    """What happens, to this tab."""
    async for message in studio.live.stream():
        yield ServerSentEvent(comment="quiet") if message is None else ServerSentEvent(data=message)
