"""Everything else of the command line, as forms made of its flags."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from tsuika.core.files import unused
from tsuika.data.folder import IMAGES
from tsuika.methods import METHODS
from tsuika.pages import in_languages
from tsuika.studio import answers, models, planning, uploads
from tsuika.studio.commands import forms
from tsuika.studio.commands import start as start_command
from tsuika.studio.dropped import made
from tsuika.studio.jobs import LIGHT
from tsuika.studio.state import Here

router = APIRouter(prefix="/api")


class ChosenPath(BaseModel):
    """A file or folder that was picked."""

    place: str


@router.get("/commands", response_model=answers.CommandsView)
def commands(studio: Here) -> dict[str, Any]:
    """The commands with their flags, and what the keys of their results are called."""
    return {"commands": forms(studio), "labels": dict(studio.labels)}


class ToolCall(BaseModel):
    """A command with the values of its form."""

    command: list[str] = Field(min_length=1, max_length=2)
    values: dict[str, Any] = {}
    about: dict[str, Any] = {}


@router.post("/commands", response_model=answers.Begun)
def start(given: ToolCall, studio: Here) -> dict[str, str]:
    """Run a command."""
    return {"job": start_command(studio, given.command, given.values, given.about).id}


@router.get("/artifacts", response_model=answers.ArtifactsView)
def artifacts(studio: Here) -> dict[str, Any]:
    """What was made here or picked, for the playground, and what can be chosen there."""
    return {
        "artifacts": [one for one in models.artifacts(studio) if one["kind"] != models.VAE],
        "added": {name: in_languages(method.title) for name, method in METHODS.items() if not method.whole_model},
        "samplers": list(models.SAMPLERS),
        "own_vaes": list(planning.own_vaes("embedded")),
        "vaes": models.vaes(studio),
    }


@router.post("/dropped", response_model=answers.Dropped)
async def dropped(request: Request, studio: Here, x_file_name: Annotated[str, Header()] = "") -> dict[str, Any]:
    """A file that was dropped: what an image says of how it was made; of weights, the job that tells what they are.

    Raises:
        RecipeError: RC002, the name is none that may be.
        ImageError: DS003, it is no image, or too large.
    """
    name = uploads.file_name(x_file_name)
    folder = studio.home.root / models.DROPPED
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as scratch:
        file = Path(scratch) / name
        await uploads.received(request.stream(), file)
        if file.suffix.lower() in IMAGES:
            return {"image": await run_in_threadpool(lambda: made(studio, file))}
        if file.suffix.lower() not in models.WEIGHTS:
            raise HTTPException(415)
        kept = unused(folder, file.stem, file.suffix)
        file.replace(kept)
    job = studio.jobs.add("inspect", ["inspect", str(kept), "--json"], lane=LIGHT, about={"dropped": name})
    return {"job": job.id, "artifact": models.artifact(kept)}


class ChosenFile(ChosenPath):
    """What it is to be used as."""

    kind: Literal["artifacts", "vaes"] = "artifacts"


@router.post("/artifacts", response_model=answers.ArtifactRow)
def take_artifact(given: ChosenFile, studio: Here) -> dict[str, Any]:
    """A file that was picked, to be used in the playground."""
    path = studio.picker.path(given.place)
    if path is None or not path.exists():
        raise HTTPException(404)
    return models.take(studio, path, given.kind)


@router.get("/bases", response_model=answers.BasesView)
def bases(studio: Here) -> dict[str, Any]:
    """Base models that were found on this machine or chosen before."""
    return {"bases": models.bases(studio)}


@router.post("/bases", response_model=answers.BaseRow)
def take_base(given: ChosenPath, studio: Here) -> dict[str, str]:
    """A file that was picked, as a base model to choose from here on."""
    path = studio.picker.path(given.place)
    if path is None:
        raise HTTPException(404)
    return models.remember(studio, path)


@router.get("/programs", response_model=answers.ProgramsView)
def programs(studio: Here) -> dict[str, Any]:
    """The folders of programs that files may be copied into: found, or allowed before."""
    return {"programs": models.programs(studio)}


@router.post("/programs", response_model=answers.ProgramsView)
def allow(given: ChosenPath, studio: Here) -> dict[str, Any]:
    """Allow a program's folder, or any other, as a place for results."""
    path = studio.picker.path(given.place)
    if path is None or not path.is_dir():
        raise HTTPException(404)
    return {"programs": models.allow(studio, path)}
