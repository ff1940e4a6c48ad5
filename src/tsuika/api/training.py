"""Training runs: their events, their previews, and the report at their end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from tsuika.api.models import EMBEDDED, defaults_of
from tsuika.core import config
from tsuika.core.config import Recipe
from tsuika.core.events import Event, Phase, Previewed, Warned
from tsuika.core.rundir import RunDir
from tsuika.core.types import Model
from tsuika.core.words import Lang
from tsuika.embedded import mascot, yardstick
from tsuika.evaluate import lookalikes, outcome, report, scores
from tsuika.generate import grid, pipeline, png_info
from tsuika.train import assemble, class_pictures, gather, optim

DEMO_PICTURES = Path(str(files("tsuika.embedded"))) / "pictures"
DEMO_RECIPE = Path(str(files("tsuika.embedded"))) / "demo.toml"
CAPTIONS = 4  # training captions that are drawn beside the previews, once each


def cache_folder() -> Path:
    """Where encoded pictures are kept between runs: the platform's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tsuika" / "latents"


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"  # set by `accelerate launch` for each process


def train(recipe: Recipe, out: Path, *, language: Lang | None = None) -> Iterator[Event]:
    """Train by a recipe into a new run folder; its report opens in `language`, or in the browser's.

    Raises:
        TsuikaError: whatever is wrong; originals are never touched and nothing is overwritten.
    """
    folder = _open_run(recipe, out)
    command = f"tsuika train --recipe {folder.recipe} --out {out}-again"
    yield from _follow(run_of(recipe, folder), resume=False, command=command, scorer=scores.likeness, language=language)


def resume(out: Path, *, language: Lang | None = None) -> Iterator[Event]:
    """Go on exactly where a run stopped: the result has the same bits as if it had not.

    Raises:
        InterruptedRunError: TR002, this is no run folder.
    """
    recipe, folder = assemble.reopen(out)
    command = f"tsuika train --recipe {folder.recipe} --out {out}-again"
    is_demo = Path(recipe.data.images) == DEMO_PICTURES
    scorer = scores.mascot_scores if is_demo else scores.likeness
    yield from _follow(run_of(recipe, folder), resume=True, command=command, scorer=scorer, language=language)


def demo(out: Path, *, steps: int | None = None, language: Lang | None = None) -> Iterator[Event]:
    """Teach the embedded base a character it has never seen, from the bundled pictures, and compare before and after."""
    tables = config.override(config.read_tables(DEMO_RECIPE), {"data.images": str(DEMO_PICTURES)})
    prompts = [prompt.text for prompt in mascot.TEST_PROMPTS]
    tables = config.override(tables, {"preview.prompts": prompts} | ({"train.steps": steps} if steps else {}))
    recipe = config.build(tables, where=str(DEMO_RECIPE))
    folder = _open_run(recipe, out)
    yield from _follow(
        run_of(recipe, folder),
        resume=False,
        command=f"tsuika demo --out {out}-again",
        scorer=scores.mascot_scores,
        language=language,
    )


def dry_run(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Load the base and read the pictures; what a run into `out` would see. Trains nothing, writes nothing.

    Raises:
        TsuikaError: what the run would raise.
    """
    assemble.may_start(recipe, out)
    run = gather.Run(recipe, RunDir(out), EMBEDDED)
    with gather.clear_errors(recipe, out):
        events = [*gather.base_and_pictures(run, gather.accelerate_for(recipe)), *optim.notes(recipe.train)]
    assert run.model is not None
    return {
        "base": run.model.facts.title,
        "prediction": run.model.prediction,
        **assemble.summary(run),
        "notes": [event for event in events if isinstance(event, Warned)],
        "recipe": config.dump(recipe, comments=False),
    }


def _open_run(recipe: Recipe, out: Path) -> RunDir:
    """A new run folder, made by the first of several processes."""
    return assemble.start(recipe, out) if _is_main() else RunDir(out)


def run_of(recipe: Recipe, folder: RunDir) -> gather.Run:
    """A run as this door gives it: with previews, class pictures and the cache of encoded ones."""
    run = gather.Run(recipe, folder, EMBEDDED, draw=_draw_class, drawn_with=_drawn_with, cache=cache_folder())
    run.preview = partial(_preview, run)
    return run


def _follow(
    run: gather.Run, *, resume: bool, command: str, scorer: scores.Scorer, language: Lang | None
) -> Iterator[Event]:
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
            _report(run, notes, command, scorer, language)
    finally:
        events.close()  # type: ignore[attr-defined]
        if log is not None:
            log.close()


def _preview(run: gather.Run, model: Model, recipe: Recipe, folder: RunDir, step: int) -> Iterator[Previewed]:
    """Draw the recipe's previews into `samples/`, at fixed seeds; and some training captions, for the check on copying."""
    settings = recipe.preview
    defaults = defaults_of(model)
    wanted = [
        (template.replace("{trigger}", recipe.data.trigger), settings.num) for template in preview_prompts(recipe)
    ]
    for number, (prompt, num) in enumerate([*wanted, *((caption, 1) for caption in _captions(run))]):
        pixels = pipeline.sample(
            model,
            prompt,
            seed=settings.seed,
            num=num,
            steps=settings.steps or None,
            cfg=settings.cfg or None,
            defaults=defaults,
            batch_size=8,
        )
        for i, picture in enumerate(pipeline.to_pictures(pixels)):
            name = f"step-{step:06d}-{number:02d}-seed-{settings.seed + i}.png"
            info = png_info.PictureInfo(
                prompt,
                steps=settings.steps or defaults.steps,
                sampler=defaults.sampler,
                cfg=settings.cfg or defaults.cfg,
                seed=settings.seed + i,
                size_px=picture.size,
            )
            png_info.write_png(folder.samples / name, picture, info)
            yield Previewed(step, prompt, settings.seed + i, f"samples/{name}")


def _draw_class(model: Model, wish: class_pictures.Wish) -> list[Image.Image]:
    """Pictures for prior preservation."""
    pixels = pipeline.sample(
        model,
        wish.prompt,
        seed=wish.seed,
        num=wish.num,
        size_px=(wish.size_px, wish.size_px),
        defaults=defaults_of(model),
        batch_size=wish.num,
    )
    return pipeline.to_pictures(pixels)


def _drawn_with(model: Model) -> dict[str, Any]:
    return asdict(defaults_of(model))


def preview_prompts(recipe: Recipe) -> tuple[str, ...]:
    """The recipe's prompts; without any, the subject alone and in two places, and its class without the trigger."""
    data = recipe.data
    subject = " ".join(word for word in (data.trigger, data.class_word) if word)
    if recipe.preview.prompts or not subject:
        return recipe.preview.prompts
    control = (f"a {data.class_word} on the beach",) if data.class_word and data.trigger else ()
    return (f"a {subject}", f"a {subject} on the beach", f"a {subject} in the snow", *control)


def _captions(run: gather.Run) -> list[str]:
    """A few captions of the training pictures that no preview draws anyhow: where copying shows first."""
    assert run.manifest is not None
    prompts = {prompt.replace("{trigger}", run.recipe.data.trigger) for prompt in preview_prompts(run.recipe)}
    captions = [text for text in dict.fromkeys(s.caption for s in run.manifest.samples) if text and text not in prompts]
    return captions[:: max(1, -(-len(captions) // CAPTIONS))]


def _report(run: gather.Run, notes: outcome.Notes, command: str, scorer: scores.Scorer, language: Lang | None) -> None:
    recipe, manifest = run.recipe, run.manifest
    assert manifest is not None and run.model is not None
    controls = frozenset(prompt.text for prompt in mascot.TEST_PROMPTS if not prompt.mascot)
    drawn, captions = outcome.before_after(notes.previews, run.folder.root, controls), _captions(run)
    rows = tuple(row for row in drawn if row.prompt not in captions)
    prompts = preview_prompts(recipe)
    pictures = tuple(report.TrainingPicture(s.name, s.caption, s.path) for s in manifest.samples)
    encode = yardstick.directions if recipe.base.model == "embedded" else None
    evidence = outcome.Evidence(
        base=recipe.base.model,
        device=str(run.model.device),
        pictures=pictures,
        left_out=tuple(report.LeftOut(item.name, item.words) for item in manifest.quarantined),
        before_after=rows,
        scores=scorer(recipe, [sample.path for sample in manifest.samples], rows) if rows else (),
        example_prompt=prompts[0].replace("{trigger}", recipe.data.trigger) if prompts else manifest.samples[0].caption,
        command=command,
        lookalikes=lookalikes.find(
            drawn,
            pictures,
            encode,
            encoder=recipe.base.model,
            captions={picture.caption for picture in pictures},
            leaks=run.leaks,
        ),
    )
    if rows:
        warnings = _write_grid(run.folder.root / "before-after.png", rows)
        for warning in warnings:
            notes.add(warning)
    outcome.write_report(run.folder, recipe, notes, evidence, language)


def _write_grid(path: Path, rows: Sequence[report.BeforeAfter]) -> list[Warned]:
    """One picture to look at: a row a prompt, the base's pictures beside the result's at the same seeds."""
    seeds = rows[0].seeds
    columns = [*(f"before, seed {seed}" for seed in seeds), *(f"after, seed {seed}" for seed in seeds)]
    cells = [Image.fromarray(scores.pixels(cell)) for row in rows for cell in (*row.before, *row.after)]
    sheet, warnings = grid.grid(cells, [row.prompt for row in rows], columns)
    png_info.write_png(path, sheet, None, {"prompts": [row.prompt for row in rows], "seeds": list(seeds)})
    return warnings
