"""From a project's answers to command lines: what is checked, advised and trained. No logic of training is here."""

from __future__ import annotations

import csv
import io
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import tsuika
from tsuika import config
from tsuika.advice import estimate
from tsuika.config import Recipe
from tsuika.core.errors import RecipeError
from tsuika.core.files import at_home, write_text
from tsuika.core.rundir import RunDir
from tsuika.core.texts import _
from tsuika.core.weights import read_json
from tsuika.evaluation.report_guard import role
from tsuika.families.vaes import shipped
from tsuika.methods import METHODS
from tsuika.studio.home import Project
from tsuika.studio.jobs import LIGHT, OPEN_STATES, Job
from tsuika.studio.state import Studio

# A training shows itself so many times on its way.
SHOWN: Final = 8
# What a goal is called in a prompt, where nothing better is said.
CLASS_WORDS: Final[Mapping[str, str]] = {"character": "character", "style": "style", "object": "", "concept": ""}
HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# In the home: what jobs have made that is only looked at.
MADE: Final = "made"
FLAGS: Final[Mapping[str, str]] = {"base": "--base", "trigger": "--trigger", "class_word": "--class-word"}


def machine(studio: Studio) -> dict[str, Any] | None:
    """What `tsuika doctor` said last, with the disk as it is now; None while it has said nothing yet."""
    for job in reversed(studio.jobs.all("where kind = 'doctor' and state = 'done'")):
        if found := studio.jobs.result(job):
            free = shutil.disk_usage(studio.home.root).free
            return {**found, "disk_free_gib": round(free / 2**30, 1)}
    return None


def examine(studio: Studio) -> None:
    """Have the machine looked at, in a process of its own: that loads torch."""
    studio.jobs.add("doctor", ["doctor", "--json"], lane=LIGHT)


def lane(studio: Studio) -> str:
    """The device with the shortest queue."""
    devices: list[str] = list((machine(studio) or {}).get("devices", {"auto": ""}))
    waiting = [job.lane for job in studio.jobs.all("where state in ('waiting', 'running')")]
    return min(devices, key=waiting.count)


def device(studio: Studio, chosen: str) -> str:
    """What `--device` says of a lane: nothing special where there is but one."""
    return chosen if len((machine(studio) or {}).get("devices", {})) > 1 else "auto"


def plan(project: Project) -> dict[str, Any]:
    """What was answered, with what stands in for the rest."""
    goal = str(project.plan.get("goal", "character"))
    word = re.sub(r"[^0-9a-z]+", "", project.name.lower()) or "mychar"
    return {"goal": goal, "base": "embedded", "trigger": word, "class_word": CLASS_WORDS.get(goal, "")} | dict(
        project.plan
    )


def flags(answers: Mapping[str, Any], *wanted: str) -> list[str]:
    """Answers as flags of the command line."""
    return [part for name in wanted if answers.get(name) for part in (FLAGS[name], str(answers[name]))]


def last_check(studio: Studio, project: Project) -> dict[str, Any] | None:
    """What the last check of a project found; None: none is over yet."""
    for job in reversed(studio.jobs.all("where project = ? and kind = 'check'", project.id)):
        if job.state in ("done", "failed") and (found := studio.jobs.result(job)):
            return {key: value for key, value in found.items() if key not in ("folder", "base")} | {"job": job.id}
    return None


def caption(
    studio: Studio,
    project: Project,
    *,
    model: str,
    mode: str,
    threshold: float | None,
    character_threshold: float | None,
    exclude: str,
) -> Job:
    """Have a model write captions for a project's images; they are only shown.

    Raises:
        RecipeError: RC015, the model is neither a Hugging Face id nor in a folder that may be looked into.
    """
    model = known_model(studio, model)
    for job in studio.jobs.all(f"where project = ? and kind = 'caption' and state in {OPEN_STATES}", project.id):
        studio.jobs.stop(job)
    chosen = lane(studio)
    # In one piece, so that no value is taken for a flag.
    argv = ["caption", f"--model={model}", f"--mode={mode}", f"--device={device(studio, chosen)}", "--json"]
    of_taggers = {
        "threshold": threshold,
        "character-threshold": character_threshold,
        "exclude": exclude.strip() or None,
    }
    argv += [f"--{name}={value}" for name, value in of_taggers.items() if value is not None]
    argv += [*flags(plan(project), "trigger", "class_word"), "--", str(project.images.folder)]
    return studio.jobs.add("caption", argv, lane=chosen, project=project.id)


def known_model(studio: Studio, model: str) -> str:
    """A model that captions or masks, as it was typed.

    Raises:
        RecipeError: RC015, it is neither a Hugging Face id nor in a folder that may be looked into.
    """
    model = model.strip()
    place = at_home(model)
    # A job does not run where the studio does, so that a relative path would be another one.
    if not HUB_ID.fullmatch(model) and not (place.is_absolute() and studio.picker.allowed(place)):
        why = _("It is neither a Hugging Face model id nor a folder in your home folder or the studio's.")
        raise RecipeError("RC015", key="model", found=model[:200], why=why, do="tsuika caption --help")
    return model


def advise(studio: Studio, project: Project) -> Job:
    """Ask for advice; while a device is busy nothing is timed on it."""
    for job in studio.jobs.all("where project = ? and kind = 'advise' and state in ('waiting', 'running')", project.id):
        studio.jobs.stop(job)
    answers = plan(project)
    out = project.folder / "advice" / secrets.token_hex(4)
    argv = ["advise", "--images", str(project.images.folder), "--goal", answers["goal"], "--out", str(out), "--json"]
    argv += flags(answers, *FLAGS)
    if any(job.lane != LIGHT for job in studio.jobs.all(f"where state in {OPEN_STATES}")):
        argv.append("--no-measure")
    about = {name: answers[name] for name in ("goal", *FLAGS)}
    return studio.jobs.add("advise", argv, lane=LIGHT, project=project.id, about=about)


def tables(studio: Studio, project: Project, advice: str, option: int) -> dict[str, Any]:
    """The recipe that was advised, with what the studio adds: previews on the way, and the project's name.

    Raises:
        RecipeError: RC003, there is no such advice.
    """
    job = studio.jobs.get(advice)
    found = studio.jobs.result(job) if job is not None and job.project == project.id else None
    if not found:
        raise RecipeError("RC003", where=advice, why="")
    options = [found["recommendation"], *found["alternatives"]]
    chosen = config.read_tables(Path(options[min(option, len(options) - 1)]["recipe_file"]))
    steps = int(chosen["train"]["steps"])
    ours = {"preview.every": max(1, steps // SHOWN), "output.name": project.folder.name}
    # Masks that were made or dropped are there to be used.
    if any(one.mask and not one.left_out for one in project.images.images()):
        ours["data.masks"] = "auto"
    return config.override(chosen, ours)


def built(studio: Studio, tables: Mapping[str, Any], settings: Mapping[str, Any]) -> Recipe:
    """A recipe with settings of a form. The method is the advised one: naming another from outside would import it.

    Raises:
        RecipeError: a setting is wrong, or RC015, it names a place outside of those that may be looked into.
    """
    if unknown := settings.keys() - {one.key for one in config.settings()}:
        raise RecipeError("RC001", key=min(unknown), do=_("All settings: tsuika settings"))
    for key, value in settings.items():
        for text in _texts(value):
            studio.picker.refuse_outside(key, text)
    given = dict(settings)
    if isinstance(sets := given.get("data.sets"), list) and sets:
        # The project's own images are the first set; the others are named beside them.
        given |= {"data.images": "", "data.sets": [{"images": tables["data"]["images"]}, *sets]}
    return config.build(config.override(tables, given))


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def cost(studio: Studio, advice: str, option: int, recipe: Recipe) -> dict[str, Any]:
    """At most how many trainings a recipe takes under guard, and seconds (None: nothing was measured), by the advice."""
    job = studio.jobs.get(advice)
    found = (studio.jobs.result(job) if job else None) or {}
    options = [found.get("recommendation", {}), *found.get("alternatives", [])]
    about = options[min(option, len(options) - 1)]
    trained = about.get("trained_numbers", 0) * recipe.method.bytes_per_weight
    times = estimate.trainings(found.get("pictures", 0), recipe.guard, trained)
    step_s = about.get("step_seconds")
    larger = recipe.train.batch_size / about.get("batch_size", recipe.train.batch_size)
    return {"trainings": times, "seconds": step_s and step_s * larger * recipe.train.steps * times}


def train(studio: Studio, project: Project, advice: str, option: int, settings: Mapping[str, Any]) -> Job:
    """Start the training of a plan.

    Raises:
        RecipeError: a setting is wrong.
    """
    recipe = built(studio, tables(studio, project, advice, option), settings)
    chosen = lane(studio)
    if recipe.train.device == "auto":
        recipe = config.build(config.override(recipe.model_dump(), {"train.device": device(studio, chosen)}))
    run, number = project.folder / "runs" / recipe.method.name, 1
    # A run that waits in the queue has no folder yet, but it has its recipe.
    while run.exists() or (project.folder / "recipes" / f"{run.name}.toml").exists():
        number += 1
        run = run.with_name(f"{recipe.method.name}-{number}")
    file = project.folder / "recipes" / f"{run.name}.toml"
    write_text(file, config.dump(recipe))
    run.parent.mkdir(exist_ok=True)
    argv = ["train", "--recipe", str(file), "--out", str(run), "--json"]
    return studio.jobs.add("train", argv, lane=chosen, project=project.id, run=run)


def resume(studio: Studio, run: RunDir, project: str) -> Job:
    """Go on with a run that was stopped."""
    return studio.jobs.add(
        "train", ["resume", str(run.root), "--json"], lane=lane(studio), project=project, run=run.root
    )


def grid(studio: Studio, run: RunDir, prompts: Sequence[str], strengths: Sequence[float], seed: int) -> Job:
    """A sheet of a run's files by strengths, for each prompt; of whole models, which have none, beside the base."""
    recipe, report = config.read_tables(run.recipe), read_json(run.report_json)
    every = [row["path"] for row in report["artifacts"]]
    first: dict[str, str] = {}
    for path in every:
        # A folder of a whole model has its tokenizer with it.
        if role(path, every) not in first or (run.root / path).is_dir():
            first[role(path, every)] = str(run.root / path)
    files = [first[one] for one in ("safe", "", "likeness") if one in first]
    base = recipe["base"]["model"]
    if METHODS[report["method"]].whole_model:
        axes = ["--x", _axis("base", [base, *files])]
    else:
        files = [
            next(path for path in _single(run, every, one) if path) for one in ("safe", "", "likeness") if one in first
        ]
        axes = ["--base", base, "--x", _axis("strength", strengths), "--y", _axis("artifact", files)]
    if len(prompts) > 1:
        axes += ["--z" if "--y" in axes else "--y", _axis("prompt", prompts)]
    chosen, key = lane(studio), studio.home.key_of(run.root)
    out = run.root.parent.parent / "sheets" / f"{run.root.name}-{secrets.token_hex(4)}"
    argv = ["grid", f"--prompt={prompts[0]}", "--seed", str(seed), "--out", str(out), *axes]
    argv += ["--device", device(studio, chosen), "--json"]
    return studio.jobs.add(
        "grid", argv, lane=chosen, project=project_of(studio, run), about={"run": key, "prompts": [*prompts]}
    )


def vaes(studio: Studio, run: RunDir, chosen: Sequence[str]) -> Job:
    """Compare VAEs with the one of a run's base model, on the images that it was trained on.

    Raises:
        RecipeError: RC002, a VAE that is neither the base's nor was picked.
    """
    recipe = config.read_tables(run.recipe)
    base = recipe["base"]["model"]
    own = own_vaes(base)
    names = []
    for one in chosen:
        path = None if one in own else studio.picker.path(one)
        if one not in own and path is None:
            raise RecipeError("RC002", key="vaes", found=one, why=", ".join(own))
        names.append(str(path or one))
    on = lane(studio)
    argv = ["vae", "compare", "--images", recipe["data"]["images"], "--base", base, "--device", device(studio, on)]
    # The page with crops and difference maps, to be downloaded.
    page = studio.home.root / MADE / f"vaes-{secrets.token_hex(4)}.html"
    about = {"run": studio.home.key_of(run.root), "out": page.relative_to(studio.home.root).as_posix()}
    argv += [f"--out={page}", "--json", "--", *names]
    return studio.jobs.add("vae compare", argv, lane=on, project=project_of(studio, run), about=about)


def own_vaes(base: str) -> tuple[str, ...]:
    """The VAEs that come with a base model, its own first."""
    return shipped(tsuika.EMBEDDED if base == "embedded" else at_home(base))


def _single(run: RunDir, every: Sequence[str], wanted: str) -> list[str]:
    """The files of a role."""
    return [str(run.root / one) for one in every if role(one, every) == wanted and (run.root / one).is_file()]


def _axis(name: str, values: Iterable[object]) -> str:
    """An axis of `tsuika grid`: values with a comma in quotation marks."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return f"{name}={line.getvalue()}"


def project_of(studio: Studio, run: RunDir) -> str:
    """The project that a run belongs to; empty: none."""
    return next((one.id for one in studio.home.projects() if run.root.is_relative_to(one.folder)), "")
