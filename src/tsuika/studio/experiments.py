"""What is tried before a training, or made for it: learning rates, a search over settings, masks by a model."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tsuika import config
from tsuika.api import search_space
from tsuika.config import Recipe
from tsuika.core.errors import RecipeError
from tsuika.core.files import unused, write_text
from tsuika.core.texts import _
from tsuika.studio import planning
from tsuika.studio.home import Project
from tsuika.studio.jobs import Job, out_of
from tsuika.studio.state import Studio


def _begin(studio: Studio, project: Project, kind: str, recipe: Recipe, argv: Sequence[str]) -> Job:
    """A job on a recipe of its own, in a folder of its own."""
    chosen = planning.lane(studio)
    folder = project.folder / "experiments" / f"{kind}-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    write_text(folder / "recipe.toml", config.dump(recipe))
    given = [kind, f"--recipe={folder / 'recipe.toml'}", f"--device={planning.device(studio, chosen)}", *argv, "--json"]
    if kind == "search":
        given.append(f"--out={folder / 'search'}")
    return studio.jobs.add(kind, given, lane=chosen, project=project.id)


def find_rate(studio: Studio, project: Project, recipe: Recipe, steps: int, rates: str = "") -> Job:
    """Try learning rates, or those around a recipe's own."""
    given = [f"--rates={rates}"] if rates.strip() else []
    return _begin(studio, project, "find-rate", recipe, [f"--steps={steps}", *given])


def search(studio: Studio, project: Project, recipe: Recipe, over: Mapping[str, str], trials: int) -> Job:
    """Search settings by short runs; `over` has values or a range by key.

    Raises:
        RecipeError: what cannot be searched, as the search itself would say (RC001, RC002, RC021).
    """
    if not over:
        raise RecipeError("RC021", found="", why=_("A setting, `=`, and values or a range are needed."))
    wanted = [search_space.read(f"{key}={values}", recipe) for key, values in over.items()]
    return _begin(studio, project, "search", recipe, [*(f"--over={one}" for one in wanted), f"--trials={trials}"])


def again(studio: Studio, job: Job) -> Job:
    """A job that is over once more: from where it was if it can, else as it was asked for, past what it has left behind."""
    way_on, run, out = studio.jobs.way_on(job), studio.jobs.run_of(job), out_of(job)
    if way_on == "resume" and run is not None:
        return planning.resume(studio, run, job.project)
    argv, about = job.argv, job.about
    if way_on == "again" and out is not None and out.exists():
        new = unused(out.parent, out.stem, out.suffix)
        argv = tuple(part.replace(str(out), str(new)) if part in (str(out), f"--out={out}") else part for part in argv)
        about = {**about, "out": new.relative_to(studio.home.root).as_posix()} if "out" in about else about
    root = run.root if run is not None else None
    return studio.jobs.add(job.kind, argv, lane=job.lane, project=job.project, run=root, about=about)


def mask(studio: Studio, project: Project, *, text: str, model: str, mode: str, threshold: float, grow_px: int) -> Job:
    """Have a model make masks for a project's images, in a folder of their own; they are only shown.

    Raises:
        RecipeError: RC015, the model is neither a Hugging Face id nor in a folder that may be looked into.
    """
    chosen = planning.lane(studio)
    out = Path(planning.MADE, f"mask-{secrets.token_hex(4)}")
    argv = ["mask", f"--text={text}", f"--mode={mode}", f"--threshold={threshold}", f"--grow-px={grow_px}"]
    argv += [f"--model={planning.known_model(studio, model)}"] if model.strip() else []
    argv += [f"--out={studio.home.root / out}", f"--device={planning.device(studio, chosen)}", "--json", "--"]
    for job in studio.jobs.all("where project = ? and kind = 'mask' and state in ('waiting', 'running')", project.id):
        studio.jobs.stop(job)
    about = {"out": out.as_posix(), "text": text}
    return studio.jobs.add("mask", [*argv, str(project.images.folder)], lane=chosen, project=project.id, about=about)


def masks(studio: Studio, project: Project, key: str) -> dict[str, Path]:
    """The masks that a job has made for a project, by the names of the images."""
    job = studio.jobs.get(key)
    found: dict[str, Any] = (studio.jobs.result(job) if job and job.project == project.id else None) or {}
    out = studio.home.root / str(job.about.get("out", "")) if job else Path()
    return {one["name"]: out / one["mask"] for one in found.get("images", ()) if one.get("mask")}
