"""Advice, trainings and all other jobs: asked for, followed, stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, PlainTextResponse
from pydantic import BaseModel, Field

from tsuika.core.errors import RecipeError
from tsuika.studio import answers, experiments, forms, planning
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

    action: Literal["stop", "kill", "first", "up", "down", "again"]


@router.get("/settings", response_model=answers.SettingsForm)
def settings() -> dict[str, Any]:
    """Every setting of a recipe, as a form."""
    return forms.settings()


@router.post("/projects/{project}/advise", response_model=answers.Begun)
def advise(project: InProject, studio: Here) -> dict[str, str]:
    """Ask for advice."""
    return {"job": planning.advise(studio, project).id}


@router.post("/projects/{project}/recipe", response_model=answers.RecipeView)
def recipe(project: InProject, given: Plan, studio: Here) -> dict[str, Any]:
    """The recipe of a plan: its values, what differs from the defaults, or what is wrong with it."""
    tables = planning.tables(studio, project, given.advice, given.option)
    advised = shown = planning.built(studio, tables, {})
    error = None
    try:
        shown = planning.built(studio, tables, given.settings)
    except RecipeError as wrong:
        error = forms.told(wrong)
    return {
        "cost": planning.cost(studio, given.advice, given.option, shown),
        "values": shown.model_dump(mode="json"),
        "advised": forms.differences(advised),
        "differences": forms.differences(shown),
        "error": error,
    }


@router.post("/projects/{project}/train", response_model=answers.TrainingBegun)
def train(project: InProject, given: Plan, studio: Here) -> dict[str, str]:
    """Start a training; if the device is busy it waits in the queue."""
    job = planning.train(studio, project, given.advice, given.option, given.settings)
    return {"job": job.id, "run": studio.home.key_of(studio.home.root / job.run)}


class RateSearch(Plan):
    """A plan whose learning rate is looked for, with so many steps of each rate; without rates around its own."""

    steps: int = Field(default=48, ge=8, le=1000)
    rates: str = Field(default="", max_length=200, pattern=r"^[0-9eE.,+ -]*$")


class SettingsSearch(Plan):
    """A plan whose settings are searched: values or a range by key, and how many trials (0: all, or the usual number)."""

    over: dict[str, str] = Field(max_length=8)
    trials: int = Field(default=0, ge=0, le=1000)


@router.post("/projects/{project}/rates", response_model=answers.Begun)
def find_rate(project: InProject, given: RateSearch, studio: Here) -> dict[str, str]:
    """Find a learning rate for a plan."""
    recipe = planning.built(studio, planning.tables(studio, project, given.advice, given.option), given.settings)
    return {"job": experiments.find_rate(studio, project, recipe, given.steps, given.rates).id}


@router.post("/projects/{project}/searches", response_model=answers.Begun)
def search(project: InProject, given: SettingsSearch, studio: Here) -> dict[str, str]:
    """Search settings for a plan."""
    recipe = planning.built(studio, planning.tables(studio, project, given.advice, given.option), given.settings)
    return {"job": experiments.search(studio, project, recipe, given.over, given.trials).id}


@router.get("/jobs/{job}", response_model=answers.JobAnswer)
def job(job: OfJob, studio: Here) -> dict[str, Any]:
    """A job, and what it has printed once it is over."""
    result = forms.in_every_language(studio.jobs.result(job)) if job.ended else None
    return {"job": studio.live.view(job), "result": result}


@router.get("/jobs/{job}/log")
def log(job: OfJob, studio: Here) -> PlainTextResponse:
    """The end of what a job has said."""
    return PlainTextResponse(studio.jobs.log(job))


@router.post("/jobs/{job}", response_model=answers.Job)
def want(job: OfJob, given: Want, studio: Here) -> dict[str, Any]:
    """Stop a job, end it at once, move it in its queue, or do one that came to no result once more."""
    if given.action == "again":
        return {"job": studio.live.view(experiments.again(studio, job) if studio.jobs.way_on(job) else job)}
    if given.action in ("first", "up", "down"):
        studio.jobs.move(job, given.action)
    elif given.action == "stop":
        studio.jobs.stop(job)
    else:
        studio.jobs.kill(job)
    studio.live.look()
    found = studio.jobs.get(job.id)
    return {"job": studio.live.view(found or job)}


@router.get("/jobs/{job}/file")
def file(job: OfJob, studio: Here) -> FileResponse:
    """The file that a job has made, to keep."""
    path = studio.jobs.file_of(job)
    if path is None:
        raise HTTPException(404)
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)


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
