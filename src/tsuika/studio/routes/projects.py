"""Projects: their names, plans and what belongs to them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from tsuika.api.status import state_of
from tsuika.core.rundir import RunDir
from tsuika.studio import answers, planning
from tsuika.studio.home import Project
from tsuika.studio.routes.images import version
from tsuika.studio.state import Here, InProject, Studio

router = APIRouter(prefix="/api")


class Name(BaseModel):
    """Of a project."""

    name: str


class Change(BaseModel):
    """Of a project; what is None stays."""

    name: str | None = None
    plan: dict[str, Any] | None = None


@router.get("/home", response_model=answers.HomeView)
def home(studio: Here) -> dict[str, Any]:
    """Every project and run, and the machine."""
    return {
        "projects": [_short(studio, project) for project in studio.home.projects()],
        "runs": [_run(studio, run) for run in studio.home.runs() if run.root.parent == studio.home.root / "runs"],
        "machine": planning.machine(studio),
    }


def _short(studio: Studio, project: Project) -> dict[str, Any]:
    images = project.images.images()
    first = next((one for one in images if not one.left_out), None)
    return {
        "id": project.id,
        "name": project.name,
        "touched": project.touched,
        "images": sum(not one.left_out for one in images),
        "cover": first.key if first else "",
        "version": version(project.images, first) if first else "",
        "runs": [_run(studio, run) for run in project.runs[:1]],
    }


def _run(studio: Studio, run: RunDir) -> dict[str, Any]:
    about = {"id": studio.home.key_of(run.root), "name": run.root.name}
    return {**about, "state": state_of(run), "has_result": run.report_json.is_file()}


@router.post("/projects", response_model=answers.Key)
def new(given: Name, studio: Here) -> dict[str, str]:
    """A new project."""
    return {"id": studio.home.new_project(given.name).id}


@router.get("/projects/{project}", response_model=answers.ProjectView)
def project(project: InProject, studio: Here) -> dict[str, Any]:
    """A project: its plan, its runs, its latest job of each kind."""
    latest = {job.kind: job.id for job in studio.jobs.all("where project = ?", project.id)}
    return {
        "id": project.id,
        "name": project.name,
        "plan": planning.plan(project),
        "runs": [_run(studio, run) for run in project.runs],
        "jobs": latest,
    }


@router.patch("/projects/{project}")
def change(project: InProject, given: Change, studio: Here) -> dict[str, Any]:
    """Another name or plan."""
    studio.home.change_project(project.id, name=given.name, plan=given.plan)
    return {}


@router.delete("/projects/{project}")
def remove(project: InProject, studio: Here) -> dict[str, Any]:
    """Out of the list; the folder goes to the home's `trash`."""
    for job in studio.jobs.all("where project = ? and state in ('waiting', 'running')", project.id):
        studio.jobs.stop(job)
    studio.home.remove_project(project)
    return {}
