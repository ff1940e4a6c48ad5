"""Runs: what they are doing, their previews, files and reports, wherever they were started."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, PlainTextResponse
from pydantic import BaseModel

import tsuika
from tsuika.core.rundir import RunDir
from tsuika.studio import planning
from tsuika.studio.routes.images import thumbnail
from tsuika.studio.state import Here, OfRun

router = APIRouter(prefix="/api/runs/{run}")


class Ask(BaseModel):
    """What is asked of a run."""

    action: Literal["stop", "sample", "resume"]


@router.get("")
def status(run: OfRun, studio: Here) -> dict[str, Any]:
    """What a run is doing."""
    found = studio.live.follower(run.root).status().to_dict()
    jobs = studio.jobs.all("where run = ?", run.root.relative_to(studio.home.root).as_posix())
    return {
        **{key: value for key, value in found.items() if key not in ("run", "previews")},
        "id": studio.home.key_of(run.root),
        "name": run.root.name,
        "project": planning.project_of(studio, run),
        "job": jobs[-1].id if jobs else "",
        "previews": [{key: one[key] for key in ("step", "prompt", "seed")} for one in found["previews"]],
        "can_resume": found["state"] == "stopped" and run.events.exists(),
    }


@router.post("")
def ask(run: OfRun, given: Ask, studio: Here) -> dict[str, Any]:
    """Ask for a stop or a sample between two steps, or go on with a run that was stopped."""
    if given.action == "resume":
        return {"job": planning.resume(studio, run, planning.project_of(studio, run)).id}
    _ = (tsuika.stop if given.action == "stop" else tsuika.sample)(run.root).result
    return {}


@router.get("/previews/{number}")
def preview(run: OfRun, number: int, studio: Here, side: int = 512) -> FileResponse:
    """A preview of a run."""
    previews = studio.live.follower(run.root).status().previews
    if not 0 <= number < len(previews):
        raise HTTPException(404)
    path = (run.root / previews[number]["path"]).resolve()
    return thumbnail(studio, path if path.is_relative_to(run.root.resolve()) else None, side)


@router.get("/report")
def report(run: OfRun) -> FileResponse:
    """The report, to keep: a page is never opened under our own address."""
    return _kept(run, run.root / "report.html")


@router.get("/log")
def log(run: OfRun, studio: Here) -> PlainTextResponse:
    """What the run's jobs have said."""
    jobs = studio.jobs.all("where run = ?", run.root.relative_to(studio.home.root).as_posix())
    return PlainTextResponse("\n".join(studio.jobs.log(job) for job in jobs))


@router.get("/recipe")
def recipe(run: OfRun) -> PlainTextResponse:
    """The recipe."""
    return PlainTextResponse(run.recipe.read_text(encoding="utf-8"))


@router.get("/artifacts/{number}")
def artifact(run: OfRun, number: int, studio: Here) -> FileResponse:
    """A file that the run has made."""
    found = studio.live.follower(run.root).status().artifacts
    if not 0 <= number < len(found):
        raise HTTPException(404)
    return _kept(run, run.root / found[number])


def _kept(run: RunDir, path: Path) -> FileResponse:
    real = path.resolve()
    if not real.is_file() or not real.is_relative_to(run.root.resolve()):
        raise HTTPException(404)
    return FileResponse(real, media_type="application/octet-stream", filename=real.name)
