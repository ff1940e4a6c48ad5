"""The images of a project: taken in, shown, checked, left out, cropped, captioned."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from tsuika.api.image_set import ImageSet, SetImage, key_of
from tsuika.core.errors import TsuikaError
from tsuika.pages import in_languages
from tsuika.studio import answers, experiments, planning, uploads
from tsuika.studio.home import Project
from tsuika.studio.jobs import LIGHT
from tsuika.studio.state import Here, InProject, Studio
from tsuika.studio.thumbnails import SIDES

router = APIRouter(prefix="/api")


class ImageFolder(BaseModel):
    """A folder that was picked; `files` are those to list in it."""

    place: str
    files: Literal["", "models", "all"] = ""


class Edit(BaseModel):
    """What is done to images, by their ids."""

    action: Literal["leave-out", "put-back", "crop"]
    images: list[str]


class EditedCaptions(BaseModel):
    """New captions, by the ids of images."""

    captions: dict[str, str]


class Captioning(BaseModel):
    """Captions by a model; `model` is a folder of this machine or a Hugging Face id."""

    model: str
    mode: Literal["missing", "replace", "add"] = "missing"
    threshold: float | None = None
    character_threshold: float | None = None
    exclude: str = ""


class Bulk(BaseModel):
    """A change to many captions."""

    action: Literal["replace", "front", "behind"]
    find: str = ""
    text: str = ""


@router.get("/projects/{project}/images", response_model=answers.ImagesView)
def images(project: InProject, studio: Here) -> dict[str, Any]:
    """All images, what the last check found, and what can be undone."""
    every = _listed(project, studio)
    last = project.images.last_change()
    studio.thumbnails.ahead(one.path for one in every)
    return {
        "images": [
            {
                "id": one.key,
                "name": one.name,
                "version": version(project.images, one),
                "left_out": one.left_out,
                "caption": one.caption,
                "mask": one.mask_key,
            }
            for one in every
        ],
        "check": planning.last_check(studio, project),
        "undo": in_languages(last) if last else None,
    }


def _listed(project: Project, studio: Studio) -> tuple[SetImage, ...]:
    """All images; where they are is kept. Of two of one name, of which one is left out, the id is the other's."""
    every = project.images.images()
    studio.places[project.id] = {one.key: one.path for one in reversed(every)}
    return every


def version(images: ImageSet, one: SetImage) -> str:
    """Another one after each change of an image's file or mask: a browser keeps what was at the same address."""
    found = []
    for path in (one.path, *([images.mask_path(one)] if one.mask else [])):
        with suppress(OSError):
            found.append(f"{path.stat().st_mtime_ns:x}")
    return "-".join(found)


@router.get("/projects/{project}/images/{image}")
def image(project: InProject, image: str, studio: Here, side: int = SIDES[0]) -> FileResponse:
    """An image, made small."""
    # Looking through a folder takes long where it holds thousands.
    path = studio.places.get(project.id, {}).get(image)
    return thumbnail(studio, path if path and path.is_file() else project.images.path(image), side)


def thumbnail(studio: Studio, path: Path | None, side: int) -> FileResponse:
    """A small image of a file that belongs to the home.

    Raises:
        HTTPException: 404, there is none, or it is no image.
    """
    if path is None or side not in SIDES or not path.resolve().is_relative_to(studio.home.root):
        raise HTTPException(404)
    try:
        small = studio.thumbnails.of(path, side)
    except (OSError, ValueError, TsuikaError):
        raise HTTPException(404) from None
    return FileResponse(small, media_type="image/webp", headers={"cache-control": "private, max-age=86400"})


@router.post("/uploads/{project}", response_model=answers.TakenFiles)
async def upload(
    project: InProject, request: Request, studio: Here, x_file_name: Annotated[str, Header()] = ""
) -> dict[str, Any]:
    """A file: an image, a caption, or a zip of these."""
    if project.id not in studio.places:
        _listed(project, studio)
    known = studio.places[project.id]
    if len(known) >= uploads.MOST_FILES:
        raise HTTPException(413)
    scratch = Path(tempfile.mkdtemp(prefix=".upload-", dir=project.folder))
    try:
        file = scratch / "file"
        await uploads.received(request.stream(), file)

        def take() -> list[str]:
            with studio.changing:
                taken = uploads.take(project.images, file, uploads.name_in(x_file_name))
            paths = {key_of(name): project.images.folder / name for name in taken}
            known.update(paths)
            studio.thumbnails.ahead(paths.values())
            return taken

        return {"images": await run_in_threadpool(take)}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@router.post("/projects/{project}/import")
def import_(project: InProject, given: ImageFolder, studio: Here) -> dict[str, Any]:
    """Take in copies of a folder's images; the page is told how far it is."""
    folder = studio.picker.path(given.place)
    if folder is None or not folder.is_dir():
        raise HTTPException(404)

    def work() -> None:
        try:
            with studio.changing:
                for done, total in project.images.add_folder(folder):
                    if done % 20 == 0 or done == total:
                        studio.live.tell({"import": {"project": project.id, "done": done, "total": total}})
            studio.thumbnails.ahead(one.path for one in project.images.images())
        except OSError as error:
            studio.live.tell({"import": {"project": project.id, "error": str(error)}})
        studio.live.tell({"import": {"project": project.id, "over": True}})

    threading.Thread(target=work, daemon=True).start()
    return {}


@router.post("/projects/{project}/check", response_model=answers.Begun)
def check(project: InProject, studio: Here) -> dict[str, str]:
    """Check all images now."""
    for job in studio.jobs.all("where project = ? and kind = 'check' and state in ('waiting', 'running')", project.id):
        studio.jobs.stop(job)
    plan = planning.plan(project)
    argv = ["check", str(project.images.folder), "--json"]
    argv += planning.flags(plan, "base", "trigger", "class_word")
    return {"job": studio.jobs.add("check", argv, lane=LIGHT, project=project.id).id}


@router.post("/projects/{project}/edit", response_model=answers.ImagesView)
def edit(project: InProject, given: Edit, studio: Here) -> dict[str, Any]:
    """Leave out, put back, or cut bars off."""
    with studio.changing:
        names = _names(project, given.images)
        if given.action == "leave-out":
            project.images.leave_out(names)
        elif given.action == "put-back":
            project.images.put_back(names)
        else:
            known = _bars(studio, project)
            project.images.crop({name: known[name] for name in names if any(known.get(name, ()))})
    return images(project, studio)


def _names(project: Project, keys: list[str]) -> list[str]:
    known = {one.key: one.name for one in project.images.images()}
    return [known[key] for key in keys if key in known]


def _bars(studio: Studio, project: Project) -> dict[str, tuple[int, int, int, int]]:
    """What the last check has seen, by image."""
    found: Mapping[str, Any] = planning.last_check(studio, project) or {"pictures": []}
    return {row["name"]: tuple(row["bars"]) for row in found["pictures"]}


@router.put("/projects/{project}/captions", response_model=answers.ImagesView)
def captions(project: InProject, given: EditedCaptions, studio: Here) -> dict[str, Any]:
    """Write captions."""
    with studio.changing:
        known = {one.key: one.name for one in project.images.images()}
        project.images.write_captions({known[key]: text for key, text in given.captions.items() if key in known})
    return images(project, studio)


@router.post("/projects/{project}/captions/preview", response_model=answers.Captions)
def preview(project: InProject, given: Bulk, studio: Here) -> dict[str, Any]:
    """What a change to many captions would make of them, by id."""
    found = project.images
    if given.action == "replace":
        changed = found.replaced(given.find, given.text)
    else:
        changed = found.added_to_all(given.text, front=given.action == "front")
    keys = {one.name: one.key for one in found.images()}
    return {"captions": {keys[name]: text for name, text in changed.items()}}


@router.post("/projects/{project}/captions/model", response_model=answers.Begun)
def caption(project: InProject, given: Captioning, studio: Here) -> dict[str, str]:
    """Have a model write captions, to be looked at; nothing is changed."""
    return {"job": planning.caption(studio, project, **given.model_dump()).id}


class Masking(BaseModel):
    """Masks by a model: what is to be seen; `model` is a folder of this machine or a Hugging Face id, empty the usual one."""

    text: str = Field(min_length=1, max_length=500)
    model: str = ""
    mode: Literal["missing", "replace", "add"] = "missing"
    threshold: float = Field(default=0.3, ge=0, le=1)
    grow_px: int = Field(default=10, ge=0, le=200)


class TakenMasks(BaseModel):
    """Images, by their ids, that get the masks of a job; without one their masks are taken away."""

    images: list[str]
    job: str = ""


@router.post("/projects/{project}/masks/model", response_model=answers.Begun)
def mask(project: InProject, given: Masking, studio: Here) -> dict[str, str]:
    """Have a model make masks, to be looked at; nothing is changed."""
    return {"job": experiments.mask(studio, project, **given.model_dump()).id}


@router.get("/projects/{project}/masks/{job}/{image}")
def made_mask(project: InProject, job: str, image: str, studio: Here, side: int = SIDES[0]) -> FileResponse:
    """A mask that a job has made for an image, made small."""
    made = experiments.masks(studio, project, job)
    return thumbnail(studio, next((made[name] for name in _names(project, [image]) if name in made), None), side)


@router.put("/projects/{project}/masks", response_model=answers.ImagesView)
def masks(project: InProject, given: TakenMasks, studio: Here) -> dict[str, Any]:
    """Take masks, or take them away."""
    with studio.changing:
        made = experiments.masks(studio, project, given.job)
        names = _names(project, given.images)
        project.images.write_masks({name: made.get(name) for name in names if name in made or not given.job})
    return images(project, studio)


@router.post("/projects/{project}/undo", response_model=answers.ImagesView)
def undo(project: InProject, studio: Here) -> dict[str, Any]:
    """Take the last change back."""
    with studio.changing:
        project.images.undo()
    return images(project, studio)


@router.post("/folders", response_model=answers.Listing)
def folders(given: ImageFolder, studio: Here) -> dict[str, Any]:
    """A folder of this machine to choose from; an empty place gives the roots."""
    folder = studio.picker.path(given.place) if given.place else None
    if given.place and (folder is None or not folder.is_dir()):
        raise HTTPException(404)
    return studio.picker.listing(folder, given.files)


@router.post("/folders/path", response_model=answers.PathOf)
def path_of(given: ImageFolder, studio: Here) -> dict[str, str]:
    """The path of what was picked, to be shown in a form."""
    path = studio.picker.path(given.place)
    if path is None:
        raise HTTPException(404)
    return {"path": str(path)}
