"""What all routes share: the home, its jobs, and who may come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request

from tsuika.core.files import at_home
from tsuika.core.rundir import RunDir
from tsuika.studio.home import Home, Project
from tsuika.studio.jobs import PROGRAM, Job, Jobs
from tsuika.studio.live import Live
from tsuika.studio.picker import Picker
from tsuika.studio.security import Access
from tsuika.studio.thumbnails import Thumbnails


@dataclass(frozen=True)
class Studio:
    """A studio that is open.

    Attributes:
        commands: the command line's commands with their flags, as forms.
        labels: what the keys of their results are called, by language.
    """

    home: Home
    access: Access
    jobs: Jobs
    live: Live
    thumbnails: Thumbnails
    picker: Picker
    commands: Sequence[Mapping[str, Any]] = ()
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    # One change of a project at a time.
    changing: Lock = field(default_factory=Lock)
    # Where the images of a project were when its list was read last, by their ids.
    places: dict[str, dict[str, Path]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        home: Home,
        access: Access,
        commands: Sequence[Mapping[str, Any]] = (),
        program: Sequence[str] = PROGRAM,
        labels: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    ) -> Studio:
        """A studio in a home, whose jobs run `program`."""
        jobs = Jobs(home, program)
        roots = tuple(dict.fromkeys((at_home("~").absolute(), home.root, Path.cwd())))
        return cls(
            home,
            access,
            jobs,
            Live(home, jobs),
            Thumbnails(home.root / "thumbnails", home.db),
            Picker(roots, access.secret, home.root),
            commands,
            labels,
        )


def _studio(request: Request) -> Studio:
    found: Studio = request.app.state.studio
    return found


Here = Annotated[Studio, Depends(_studio)]


def _project(project: str, studio: Here) -> Project:
    found = studio.home.project(project)
    if found is None:
        raise HTTPException(404)
    return found


def _job(job: str, studio: Here) -> Job:
    found = studio.jobs.get(job)
    if found is None:
        raise HTTPException(404)
    return found


def _run(run: str, studio: Here) -> RunDir:
    found = studio.home.run(run)
    if found is None:
        raise HTTPException(404)
    return found


InProject = Annotated[Project, Depends(_project)]
OfJob = Annotated[Job, Depends(_job)]
OfRun = Annotated[RunDir, Depends(_run)]
