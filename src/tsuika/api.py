"""What tsuika can do, as functions: the only door for the command line and the web app.

Every command of the program is a function here of the same name. Training functions are generators of events; close one
to stop the run (a state is saved first).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tsuika import families, formats
from tsuika.core import config
from tsuika.core.config import Recipe
from tsuika.core.errors import ModelError, RecipeError
from tsuika.core.events import Event, Phase, Previewed, Warned
from tsuika.core.files import sha256
from tsuika.core.rundir import RunDir
from tsuika.core.types import Model
from tsuika.embedded import mascot, yardstick
from tsuika.evaluate import outcome, report
from tsuika.generate import compose, grid, pipeline, png_info
from tsuika.generate.prompt import parse
from tsuika.methods import METHODS
from tsuika.train import assemble

EMBEDDED = Path(str(files("tsuika.embedded"))) / "base"
DEMO_PICTURES = Path(str(files("tsuika.embedded"))) / "pictures"
DEMO_RECIPE = Path(str(files("tsuika.embedded"))) / "demo.toml"

__all__ = ["DEMO_PICTURES", "EMBEDDED", "demo", "doctor", "dry_run", "generate", "inspect", "resume", "train"]

Scorer = Callable[[assemble.Run, Sequence[report.BeforeAfter]], tuple[report.Score, ...]]


def cache_folder() -> Path:
    """Where encoded pictures are kept between runs: the platform's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tsuika" / "latents"


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"  # set by `accelerate launch` for each process


# ------------------------------------------------------------------------------------------------------------- training


def train(recipe: Recipe, out: Path) -> Iterator[Event]:
    """Train by a recipe into a new run folder.

    Raises:
        TsuikaError: whatever is wrong; originals are never touched and nothing is overwritten.
    """
    folder = _open_run(recipe, out)
    command = f"tsuika train --recipe {folder.recipe} --out {out}-again"
    yield from _follow(_run(recipe, folder), resume=False, command=command, scorer=_likeness)


def resume(out: Path) -> Iterator[Event]:
    """Go on exactly where a run stopped: the result has the same bits as if it had not.

    Raises:
        InterruptedRunError: TR002, this is no run folder.
    """
    recipe, folder = assemble.reopen(out)
    command = f"tsuika train --recipe {folder.recipe} --out {out}-again"
    is_demo = Path(recipe.data.images) == DEMO_PICTURES
    scorer = _mascot_scores if is_demo else _likeness
    yield from _follow(_run(recipe, folder), resume=True, command=command, scorer=scorer)


def demo(out: Path, *, steps: int | None = None) -> Iterator[Event]:
    """Teach the embedded base a character it has never seen, from the bundled pictures, and compare before and after."""
    tables = config.override(config.read_tables(DEMO_RECIPE), {"data.images": str(DEMO_PICTURES)})
    prompts = [prompt.text for prompt in mascot.TEST_PROMPTS]
    tables = config.override(tables, {"preview.prompts": prompts} | ({"train.steps": steps} if steps else {}))
    recipe = config.build(tables, where=str(DEMO_RECIPE))
    folder = _open_run(recipe, out)
    yield from _follow(
        _run(recipe, folder), resume=False, command=f"tsuika demo --out {out}-again", scorer=_mascot_scores
    )


def dry_run(recipe: Recipe) -> dict[str, Any]:
    """Load the base and read the pictures; what a run would see. Trains nothing, writes nothing.

    Raises:
        TsuikaError: what the run would raise.
    """
    run = assemble.Run(recipe, RunDir(Path("dry-run")), EMBEDDED)
    model = load(recipe.base.model, tokenizer=recipe.base.tokenizer, vae=recipe.base.vae)
    notes = [str(event) for event in assemble.pictures(run, model) if not isinstance(event, Phase)]
    return {
        "base": model.facts.title, "prediction": model.prediction, **assemble.summary(run), "notes": notes,
        "recipe": config.dump(recipe, comments=False),
    }  # fmt: skip


def _open_run(recipe: Recipe, out: Path) -> RunDir:
    """A new run folder, made by the first of several processes."""
    return assemble.start(recipe, out) if _is_main() else RunDir(out)


def _run(recipe: Recipe, folder: RunDir) -> assemble.Run:
    return assemble.Run(recipe, folder, EMBEDDED, preview=_preview, cache=cache_folder())


def _follow(run: assemble.Run, *, resume: bool, command: str, scorer: Scorer) -> Iterator[Event]:
    """A run's events, also kept in its `events.jsonl` and, at the end, told in its report."""
    notes = outcome.Notes()
    if resume and run.folder.events.exists():
        for event in outcome.past(run.folder.events):
            notes.add(event)
    events = assemble.train(run, resume=resume)
    log = run.folder.events.open("a", encoding="utf-8") if _is_main() else None
    try:
        for event in events:
            notes.add(event)
            if log is not None:
                log.write(event.to_json() + "\n")
                log.flush()
            yield event
        if _is_main():
            yield Phase("report")
            _report(run, notes, command, scorer)
    finally:
        events.close()  # type: ignore[attr-defined]
        if log is not None:
            log.close()


def _preview(model: Model, recipe: Recipe, folder: RunDir, step: int) -> Iterator[Previewed]:
    """Draw the recipe's previews into `samples/`, at fixed seeds."""
    settings = recipe.preview
    defaults = _defaults(model)
    for number, template in enumerate(preview_prompts(recipe)):
        prompt = template.replace("{trigger}", recipe.data.trigger)
        pixels = pipeline.sample(
            model, prompt, seed=settings.seed, num=settings.num, steps=settings.steps or None, cfg=settings.cfg or None,
            defaults=defaults, batch_size=8,
        )  # fmt: skip
        for i, picture in enumerate(pipeline.to_pictures(pixels)):
            name = f"step-{step:06d}-{number:02d}-seed-{settings.seed + i}.png"
            info = png_info.PictureInfo(
                prompt, steps=settings.steps or defaults.steps, sampler=defaults.sampler, cfg=settings.cfg or defaults.cfg,
                seed=settings.seed + i, size_px=picture.size,
            )  # fmt: skip
            png_info.write_png(folder.samples / name, picture, info)
            yield Previewed(step, prompt, settings.seed + i, f"samples/{name}")


def preview_prompts(recipe: Recipe) -> tuple[str, ...]:
    """The recipe's prompts; without any, the subject alone and in two places, and its class without the trigger."""
    data = recipe.data
    subject = " ".join(word for word in (data.trigger, data.class_word) if word)
    if recipe.preview.prompts or not subject:
        return recipe.preview.prompts
    control = (f"a {data.class_word} on the beach",) if data.class_word and data.trigger else ()
    return (f"a {subject}", f"a {subject} on the beach", f"a {subject} in the snow", *control)


def _defaults(model: Model) -> pipeline.Defaults:
    """The base's own sampling defaults; the embedded base is called by name, so its folder is named here."""
    return pipeline.defaults_for(model, EMBEDDED if model.source == "embedded" else None)


def _report(run: assemble.Run, notes: outcome.Notes, command: str, scorer: Scorer) -> None:
    recipe, manifest = run.recipe, run.manifest
    assert manifest is not None and run.model is not None
    controls = frozenset(prompt.text for prompt in mascot.TEST_PROMPTS if not prompt.mascot)
    rows = outcome.before_after(notes.previews, run.folder.root, controls)
    prompts = preview_prompts(recipe)
    evidence = outcome.Evidence(
        base=recipe.base.model, device=str(run.model.device),
        pictures=tuple(report.TrainingPicture(s.name, s.caption, s.path) for s in manifest.samples),
        left_out=tuple(report.LeftOut(item.path.name, item.words) for item in manifest.quarantined),
        before_after=rows, scores=scorer(run, rows) if rows else (),
        example_prompt=prompts[0].replace("{trigger}", recipe.data.trigger) if prompts else manifest.samples[0].caption,
        command=command,
    )  # fmt: skip
    if rows:
        warnings = _write_grid(run.folder.root / "before-after.png", rows)
        for warning in warnings:
            notes.add(warning)
    outcome.write_report(run.folder, recipe, notes, evidence)


def _write_grid(path: Path, rows: Sequence[report.BeforeAfter]) -> list[Warned]:
    """One picture to look at: a row a prompt, the base's pictures beside the result's at the same seeds."""
    seeds = rows[0].seeds
    columns = [*(f"before, seed {seed}" for seed in seeds), *(f"after, seed {seed}" for seed in seeds)]
    cells = [Image.fromarray(_open(cell)) for row in rows for cell in (*row.before, *row.after)]
    sheet, warnings = grid.grid(cells, [row.prompt for row in rows], columns)
    png_info.write_png(path, sheet, None, {"prompts": [row.prompt for row in rows], "seeds": list(seeds)})
    return warnings


# -------------------------------------------------------------------------------------------------- embedded yardstick


def _open(source: report.PictureSource) -> NDArray[np.uint8]:
    image = Image.open(source) if isinstance(source, Path) else source
    return np.asarray(image.convert("RGB"))


def _by_seed(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Prompts x seeds to one mean a seed."""
    return tuple(float(value) for value in np.mean(np.asarray(rows), axis=0))


def _likeness(run: assemble.Run, rows: Sequence[report.BeforeAfter]) -> tuple[report.Score, ...]:
    """Likeness to the training pictures, where the embedded yardstick knows the base's world."""
    if run.recipe.base.model != "embedded" or run.manifest is None:
        return ()
    references = [_open(sample.path) for sample in run.manifest.samples]
    rows = [row for row in rows if not row.control and run.recipe.data.trigger in row.prompt]
    if not rows:
        return ()
    sides = [
        _by_seed([yardstick.likeness([_open(p) for p in side], references).tolist() for side in column])
        for column in ([row.before for row in rows], [row.after for row in rows])
    ]
    truth = float(np.mean([float(yardstick.likeness([r], references)[0]) for r in references]))
    return (report.Score("likeness", sides[0], sides[1], truth),)


def _mascot_scores(run: assemble.Run, rows: Sequence[report.BeforeAfter]) -> tuple[report.Score, ...]:
    """Likeness to the mascot, adherence of its pictures to the prompt, and the control prompts."""
    asked = {prompt.text: prompt for prompt in mascot.TEST_PROMPTS}

    def adherence(prompt: mascot.Prompt, pictures: Sequence[report.PictureSource]) -> list[float]:
        drawn = [_open(picture) for picture in pictures]
        scores = [yardstick.background_scores(drawn, prompt.background)]
        if prompt.companion:
            scores.append(yardstick.thing_scores(drawn, prompt.companion))
        means: list[float] = torch.stack(scores).mean(0).tolist()
        return means

    def score(key: str, chosen: Sequence[report.BeforeAfter], truth: float | None) -> report.Score:
        before = _by_seed([adherence(asked[row.prompt], row.before) for row in chosen])
        after = _by_seed([adherence(asked[row.prompt], row.after) for row in chosen])
        return report.Score(key, before, after, truth)

    real = [
        adherence(mascot.Prompt(drawn.caption, drawn.background, drawn.companion), [Image.fromarray(drawn.pixels)])
        for drawn in mascot.held_out(40, seed=1)
    ]
    mine, controls = [row for row in rows if not row.control], [row for row in rows if row.control]
    return (*_likeness(run, rows), score("adherence", mine, _by_seed(real)[0]), score("controls", controls, None))


# ----------------------------------------------------------------------------------------------------------- generation


def load(
    base: str = "embedded", *, tokenizer: str = "", vae: str = "builtin", device: str = "auto", precision: str = "auto"
) -> Model:
    """A base model, ready to draw with.

    Raises:
        ModelError: missing, damaged or of no known family; NetworkError: the hub was needed and could not be reached.
    """
    place = assemble.pick_device(device)
    dtype = assemble.DTYPES[assemble.pick_precision(precision, place)]
    return families.load(base, tokenizer=tokenizer, vae=vae, device=place, dtype=dtype, embedded_path=EMBEDDED)


def generate(
    prompt: str,
    out: Path,
    *,
    negative: str = "",
    base: str = "embedded",
    lora: Sequence[str] = (),
    artifacts: Path = Path(),
    vae: str = "builtin",
    tokenizer: str = "",
    seed: int = 0,
    steps: int | None = None,
    cfg: float | None = None,
    sampler: str | None = None,
    size: str = "",
    num: int = 1,
    device: str = "auto",
    precision: str = "auto",
) -> dict[str, Any]:
    """Draw `num` pictures of a prompt with artifacts at their strengths; returns what was written and what matched.

    `lora` entries are `FILE` or `FILE:STRENGTH`; `<lora:NAME:0.8>` in the prompt works too, looked up in `artifacts`.

    Raises:
        TsuikaError: a file that is missing or made for another family, a size or sampler that cannot be.
    """
    parsed = parse(prompt)
    tagged = compose.from_tags(parsed.tags, [artifacts, artifacts / "runs"]) if parsed.tags else []
    wanted = [*(_wanted(text) for text in lora), *tagged]
    model = load(base, tokenizer=tokenizer, vae=vae, device=device, precision=precision)
    defaults = _defaults(model)
    notes: list[str] = []
    with compose.compose(model, wanted, formats, METHODS, warn=lambda event: notes.append(event.message)) as together:
        pixels = pipeline.sample(
            model, parsed, negative=negative, seed=seed, num=num, steps=steps, cfg=cfg, sampler=sampler,
            size_px=_size(size), defaults=defaults, warn=lambda event: notes.append(event.message),
        )  # fmt: skip
        matched = {
            part.wanted.path.name: f"{len(part.matched)} tensors matched, {len(part.unmatched)} not"
            for part in together.parts
        }
    names = [*(f"<lora:{one.path.stem}:{one.strength:g}>" for one in (_wanted(text) for text in lora))]
    hashes = {one.path.stem: sha256(one.path)[:10] for one in wanted if one.path.is_file()}
    written: list[str] = []
    for i, picture in enumerate(pipeline.to_pictures(pixels)):
        path = out if num == 1 and out.suffix.lower() == ".png" else _numbered(out, seed + i)
        info = png_info.PictureInfo(
            " ".join([prompt, *names]), negative, steps=steps or defaults.steps, sampler=sampler or defaults.sampler,
            cfg=defaults.cfg if cfg is None else cfg, seed=seed + i, size_px=picture.size,
            model=Path(model.source).name, model_hash=(model.sha256 or "")[:10] or None, lora_hashes=hashes,
        )  # fmt: skip
        png_info.write_png(path, picture, info, {"base": base, "vae": vae})
        written.append(str(path))
    return {"pictures": written, "artifacts": matched, "notes": notes}


def _wanted(text: str) -> compose.Wanted:
    """`FILE` or `FILE:STRENGTH` (a Windows drive's colon is not one)."""
    head, colon, tail = text.rpartition(":")
    try:
        return (
            compose.Wanted(Path(head), float(tail)) if colon and not Path(text).exists() else compose.Wanted(Path(text))
        )
    except ValueError:
        return compose.Wanted(Path(text))


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise RecipeError("RC002", key="size", found=text, why="WIDTHxHEIGHT, e.g. 512x768")
    return int(width), int(height)


def _numbered(out: Path, seed: int) -> Path:
    folder = out.with_suffix("") if out.suffix.lower() == ".png" else out
    return folder / f"{seed:05d}.png"


# ------------------------------------------------------------------------------------------------------------- asking


def inspect(file: Path) -> dict[str, Any]:
    """What a file or folder is: an artifact's method, family, layers and metadata, or a base's family.

    Raises:
        ModelError: MD001, not there; FormatError: damaged or of no known kind.
    """
    if not file.exists():
        raise ModelError("MD001", where=file, why="There is no such file or folder.")
    if formats.is_artifact(file):
        artifact = formats.find(file).read(file)
        layers = {name.rsplit(".lora_", 1)[0] for name in artifact.tensors if ".lora_" in name}
        metadata = formats.read_header(file).metadata if file.is_file() else artifact.metadata
        return {
            "kind": artifact.method, "family": artifact.family, "format": formats.find(file).name, "layers": len(layers),
            "tensors": len(artifact.tensors), "sha256": sha256(file) if file.is_file() else None, "metadata": metadata,
        }  # fmt: skip
    found = families.detect(file)
    return {
        "kind": "base model",
        "family": found.facts.family,
        "title": found.facts.title,
        "prediction": found.prediction,
        "layout": found.kind,
    }


def doctor() -> dict[str, Any]:
    """The machine, the libraries, the device, free memory and disk."""
    names = ("tsuika", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "pillow", "numpy")
    optional = ("bitsandbytes", "prodigyopt", "schedulefree", "pillow-heif")
    place = assemble.pick_device("auto")

    def version(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1), "disk_free_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        "device": torch.cuda.get_device_name() if place.type == "cuda" else place.type,
        "precision": assemble.pick_precision("auto", place), "embedded_base": (EMBEDDED / "model_index.json").is_file(),
        "libraries": {name: version(name) for name in (*names, *optional)},
    }  # fmt: skip
