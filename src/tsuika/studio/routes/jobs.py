"""Advice, trainings and all other jobs: asked for, followed, stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, PlainTextResponse
from pydantic import BaseModel

from tsuika.core.errors import RecipeError
from tsuika.studio import forms, planning
from tsuika.studio.routes.images import thumbnail
from tsuika.studio.state import Here, InProject, OfJob

router = APIRouter(prefix="/api")


class Plan(BaseModel):
    """Which advice is taken, and what is set otherwise."""

    advice: str
    option: int = 0
    settings: dict[str, Any] = {}


class Want(BaseModel):
    """What a job should do."""

    action: Literal["stop", "kill", "first"]


@router.get("/settings")
def settings() -> dict[str, Any]:
    """Every setting of a recipe, as a form."""
    return forms.settings()


@router.post("/projects/{project}/advise")
def advise(project: InProject, studio: Here) -> dict[str, str]:
    """Ask for advice."""
    return {"job": planning.advise(studio, project).id}


@router.post("/projects/{project}/recipe")
def recipe(project: InProject, given: Plan, studio: Here) -> dict[str, Any]:
    """The recipe of a plan: its values, what differs from the defaults, or what is wrong with it."""
    tables = planning.tables(studio, project, given.advice, given.option)
    advised = shown = planning.built(tables, {})
    error = None
    try:
        shown = planning.built(tables, given.settings)
    except RecipeError as wrong:
        error = forms.told(wrong)
    return {
        "values": shown.model_dump(mode="json"),
        "advised": forms.differences(advised),
        "differences": forms.differences(shown),
        "error": error,
    }


@router.post("/projects/{project}/train")
def train(project: InProject, given: Plan, studio: Here) -> dict[str, str]:
    """Start a training; if the device is busy it waits in the queue."""
    job = planning.train(studio, project, given.advice, given.option, given.settings)
    return {"job": job.id, "run": studio.home.key_of(studio.home.root / job.run)}


@router.get("/jobs/{job}")
def job(job: OfJob, studio: Here) -> dict[str, Any]:
    """A job, and what it has printed once it is over."""
    result = forms.in_every_language(studio.jobs.result(job)) if job.ended else None
    return {"job": studio.live.view(job), "result": result}


@router.get("/jobs/{job}/log")
def log(job: OfJob, studio: Here) -> PlainTextResponse:
    """The end of what a job has said."""
    return PlainTextResponse(studio.jobs.log(job))


@router.post("/jobs/{job}")
def want(job: OfJob, given: Want, studio: Here) -> dict[str, Any]:
    """Stop a job, end it at once, or let it be the next of its queue."""
    if given.action == "first":
        waiting = studio.jobs.all("where state = 'waiting' and lane = ?", job.lane)
        first = min(waiting, key=lambda one: one.place, default=None)
        if first is not None and first.id != job.id:
            studio.jobs.move(job, first)
    elif given.action == "stop":
        studio.jobs.stop(job)
    else:
        studio.jobs.kill(job)
    studio.live.look()
    found = studio.jobs.get(job.id)
    return {"job": studio.live.view(found or job)}


@router.get("/jobs/{job}/images/{number}")
def image(job: OfJob, number: int, studio: Here, side: int = 512) -> FileResponse:
    """An image that a job has written, made small; with side 0 the file itself, to keep."""
    images = studio.live.progress(job).images
    if not 0 <= number < len(images):
        raise HTTPException(404)
    path = Path(images[number]["path"])
    return original(studio.home.root, path) if side == 0 else thumbnail(studio, path, side)


def original(root: Path, path: Path) -> FileResponse:
    """A PNG of ours as it is, for download.

    Raises:
        HTTPException: 404, it is none or lies elsewhere.
    """
    real = path.resolve()
    if not real.is_file() or real.suffix != ".png" or not real.is_relative_to(root):
        raise HTTPException(404)
    return FileResponse(real, media_type="image/png", filename=real.name)
