"""Everything else of the command line, as forms made of its flags."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

from tsuika.studio import models
from tsuika.studio.commands import forms
from tsuika.studio.commands import start as start_command
from tsuika.studio.state import Here

router = APIRouter(prefix="/api")


class Place(BaseModel):
    """A file or folder that was picked."""

    place: str


@router.get("/commands")
def commands(studio: Here) -> list[Any]:
    """The commands, with their flags."""
    return forms(studio)


class Command(BaseModel):
    """A command with the values of its form."""

    command: list[str] = Field(min_length=1, max_length=2)
    values: dict[str, Any] = {}
    about: dict[str, Any] = {}


@router.post("/commands")
def start(given: Command, studio: Here) -> dict[str, str]:
    """Run a command."""
    return {"job": start_command(studio, given.command, given.values, given.about).id}


@router.get("/artifacts")
def artifacts(studio: Here) -> dict[str, Any]:
    """What was made here, for the playground, and the samplers' names."""
    return {"artifacts": models.artifacts(studio), "samplers": list(models.SAMPLERS)}


@router.post("/artifacts")
def take_artifact(given: Place, studio: Here) -> dict[str, Any]:
    """A file that was picked, to be used in the playground."""
    path = studio.picker.path(given.place)
    if path is None or not path.is_file():
        raise HTTPException(404)
    return models.artifact(path, "")


@router.get("/bases")
def bases(studio: Here) -> dict[str, Any]:
    """Base models that were found on this machine or chosen before."""
    return {"bases": models.bases(studio)}


@router.post("/bases")
def take_base(given: Place, studio: Here) -> dict[str, str]:
    """A file that was picked, as a base model to choose from here on."""
    path = studio.picker.path(given.place)
    if path is None:
        raise HTTPException(404)
    return models.remember(studio, path)


@router.get("/programs")
def programs(studio: Here) -> dict[str, Any]:
    """The folders of programs that files may be copied into: found, or allowed before."""
    return {"programs": models.programs(studio)}


@router.post("/programs")
def allow(given: Place, studio: Here) -> dict[str, Any]:
    """Allow a program's folder, or any other, as a place for results."""
    path = studio.picker.path(given.place)
    if path is None or not path.is_dir():
        raise HTTPException(404)
    return {"programs": models.allow(studio, path)}
