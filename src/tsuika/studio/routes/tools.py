"""Everything else of the command line, as forms made of its flags."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from tsuika.studio.state import Here

router = APIRouter(prefix="/api")


@router.get("/commands")
def commands(studio: Here) -> list[Any]:
    """The commands, with their flags."""
    return list(studio.commands)


@router.get("/bases")
def bases(studio: Here) -> dict[str, Any]:
    """Base models that were found on this machine or chosen before."""
    return {"bases": []}
