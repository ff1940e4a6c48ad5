"""The web application: routes, and the guard in front of them all."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp

from tsuika.core.errors import TsuikaError
from tsuika.studio import forms
from tsuika.studio.routes import images, jobs, pages, projects, runs, tools
from tsuika.studio.security import AccessControl
from tsuika.studio.state import Studio


async def _can_be_kept(request: Request) -> None:
    """Refuse what JSON may say and neither files nor JSON can hold: half a character, an infinite number."""
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            json.dumps(await request.json(), ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError):
            raise HTTPException(400) from None


def routes(lifespan: Any = None) -> FastAPI:
    """All routes, without what they work on."""
    # The schema is for the types of our own pages (scripts/studio_schema.py), so no route serves it.
    app = FastAPI(title="tsuika studio", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(GZipMiddleware, minimum_size=1024)
    for part in (pages, projects, images, jobs, runs, tools):
        app.include_router(part.router, dependencies=[Depends(_can_be_kept)])
    return app


def application(studio: Studio) -> ASGIApp:
    """The studio as an ASGI application."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        studio.live.start()
        yield
        studio.live.stop()

    app = routes(lifespan)
    app.state.studio = studio

    @app.exception_handler(TsuikaError)
    async def _told(_request: Request, error: TsuikaError) -> JSONResponse:
        return JSONResponse({"error": forms.told(error)}, status_code=422)

    return AccessControl(app, studio.access)
