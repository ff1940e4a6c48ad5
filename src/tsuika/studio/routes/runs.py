"""Runs: what they are doing, their previews, files and reports, wherever they were started."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, PlainTextResponse
from pydantic import BaseModel, Field, SecretStr

import tsuika
from tsuika import config
from tsuika.api.exporting import MAIN
from tsuika.api.status import can_resume
from tsuika.core.errors import RecipeError
from tsuika.core.rundir import RunDir
from tsuika.core.texts import _, languages
from tsuika.core.weights import read_json
from tsuika.evaluation.report_guard import RANGE, TITLES, role
from tsuika.families import sources
from tsuika.pages import in_languages
from tsuika.studio import answers, models, planning
from tsuika.studio.jobs import LIGHT
from tsuika.studio.live import in_languages as in_words
from tsuika.studio.routes.images import thumbnail
from tsuika.studio.state import Here, OfRun

router = APIRouter(prefix="/api/runs/{run}")
# Of the hub, or of another one of its kind; empty: the login of this machine.
TOKEN: Final = re.compile(r"[\w.~+/=-]{0,400}", re.ASCII)


class Ask(BaseModel):
    """What is asked of a run."""

    action: Literal["stop", "sample", "resume"]


@router.get("", response_model=answers.RunView)
def status(run: OfRun, studio: Here) -> dict[str, Any]:
    """What a run is doing."""
    found = studio.live.status(run.root).to_dict()
    jobs = studio.jobs.all("where run = ?", run.root.relative_to(studio.home.root).as_posix())
    return {
        **{key: value for key, value in found.items() if key not in ("run", "previews")},
        "id": studio.home.key_of(run.root),
        "name": run.root.name,
        "project": planning.project_of(studio, run),
        "phase": in_words(found["phase"]),
        "job": jobs[-1].id if jobs else "",
        "previews": [{key: one[key] for key in ("step", "prompt", "seed")} for one in found["previews"]],
        "can_resume": can_resume(run),
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
    previews = studio.live.status(run.root).previews
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
    found = studio.live.status(run.root).artifacts
    if not 0 <= number < len(found):
        raise HTTPException(404)
    return _kept(run, run.root / found[number])


@router.get("/results", response_model=answers.Results)
def results(run: OfRun, studio: Here) -> dict[str, Any]:
    """What a finished run has made: its files, what was measured, and what is near a training image."""
    report = read_json(run.report_json)
    every = [row["path"] for row in report.get("artifacts", [])]
    made = studio.live.status(run.root).artifacts
    files = []
    for which in RANGE:
        mine = [path for path in every if role(path, every) == ("" if which == MAIN else which)]
        if mine:
            single = next((path for path in mine if (run.root / path).is_file()), None)
            files.append(
                {
                    "which": which,
                    "title": in_languages(TITLES[which]),
                    "name": Path(mine[0]).name,
                    "step": (report.get("range") or {}).get(which) or report["steps_done"],
                    "bytes": (run.root / single).stat().st_size if single else None,
                    "number": made.index(single) if single in made else None,
                }
            )
    evaluation = run.root / "evaluation.json"
    return {
        "files": files,
        "lookalikes": report.get("lookalikes"),
        "evaluation": read_json(evaluation) if evaluation.is_file() else None,
        "method": report.get("method"),
        "vaes": planning.own_vaes(config.read_tables(run.recipe)["base"]["model"]),
    }


class Export(BaseModel):
    """Which result, and where to; an empty place is the studio's own folder of results."""

    which: Literal["safe", "balanced", "likeness"] = "balanced"
    to: str = ""


@router.post("/export", response_model=answers.Begun)
def export(run: OfRun, given: Export, studio: Here) -> dict[str, str]:
    """Put a result where it is used."""
    to = models.allowed(studio, given.to) if given.to else studio.home.root / "results"
    if to is None:
        raise HTTPException(404)
    argv = ["export", str(run.root), "--to", str(to), "--which", given.which, "--json"]
    about = {"which": given.which, "to": given.to, "run": studio.home.key_of(run.root)}
    job = studio.jobs.add("export", argv, lane=LIGHT, project=planning.project_of(studio, run), about=about)
    return {"job": job.id}


class Publication(BaseModel):
    """What is given to others, and under which name on the Hugging Face Hub; `token` is used once and not kept.

    Every field has a default: an error about a missing one would tell all others.
    """

    to: str = ""
    licence: str = ""
    language: str = "en"
    which: Literal["safe", "balanced", "likeness"] = "balanced"
    base: str = ""
    private: bool = False
    with_captions: bool = False
    overwrite: bool = False
    dry_run: bool = True
    token: SecretStr = SecretStr("")


@router.post("/publish", response_model=answers.Begun)
def publish(run: OfRun, given: Publication, studio: Here) -> dict[str, str]:
    """Upload a result, or with `dry_run` show what would be.

    Raises:
        RecipeError: RC002, a name, licence or token that cannot be.
    """
    for key in ("to", "base"):
        name = getattr(given, key)
        if (name or key == "to") and not sources.is_hub_id(name):
            raise RecipeError("RC002", key=key, found=name, why=_("A name on the hub is of the form USER/NAME."))
    if not given.licence and not given.dry_run:
        raise RecipeError("RC002", key="licence", found="", why=_("For example: openrail++"))
    token = given.token.get_secret_value().strip()
    if not TOKEN.fullmatch(token):
        raise RecipeError("RC002", key="token", found="***", why=_("A token is letters, digits and _, without spaces."))
    texts = ("to", "licence", "which", "base")
    argv = ["publish", *(f"--{key}={getattr(given, key)}" for key in texts if getattr(given, key))]
    switches = ("private", "with_captions", "overwrite", "dry_run")
    argv += [f"--{key.replace('_', '-')}" for key in switches if getattr(given, key)]
    argv += [f"--lang={given.language}"] if given.language in languages() else []
    about = {"run": studio.home.key_of(run.root), "to": given.to, "dry_run": given.dry_run}
    job = studio.jobs.add(
        "publish",
        [*argv, "--json", "--", str(run.root)],
        lane=LIGHT,
        project=planning.project_of(studio, run),
        about=about,
        secret={"HF_TOKEN": token} if token else None,
    )
    return {"job": job.id}


class Grid(BaseModel):
    """What a sheet compares."""

    prompts: list[Annotated[str, Field(min_length=1, max_length=2000)]] = Field(min_length=1, max_length=12)
    strengths: list[float] = Field(default=[0.0, 0.5, 0.75, 1.0], min_length=1, max_length=9)
    seed: int = Field(default=1, ge=0)


@router.post("/grid", response_model=answers.Begun)
def grid(run: OfRun, given: Grid, studio: Here) -> dict[str, str]:
    """A sheet: the run's files by strengths, for each prompt."""
    return {"job": planning.grid(studio, run, given.prompts, given.strengths, given.seed).id}


class Vaes(BaseModel):
    """VAEs to compare with the base model's own: names of those that come with it, or what was picked."""

    vaes: list[str] = Field(min_length=1, max_length=8)


@router.post("/vaes", response_model=answers.Begun)
def vaes(run: OfRun, given: Vaes, studio: Here) -> dict[str, str]:
    """Compare VAEs on the run's images."""
    return {"job": planning.vaes(studio, run, given.vaes).id}


@router.post("/evaluate", response_model=answers.Begun)
def evaluate(run: OfRun, studio: Here) -> dict[str, str]:
    """Measure the run's results."""
    chosen = planning.lane(studio)
    argv = ["evaluate", str(run.root), "--device", planning.device(studio, chosen), "--json"]
    about = {"run": studio.home.key_of(run.root)}
    project = planning.project_of(studio, run)
    return {"job": studio.jobs.add("evaluate", argv, lane=chosen, project=project, about=about).id}


def _kept(run: RunDir, path: Path) -> FileResponse:
    real = path.resolve()
    if not real.is_file() or not real.is_relative_to(run.root.resolve()):
        raise HTTPException(404)
    return FileResponse(real, media_type="application/octet-stream", filename=real.name)
