"""`advise`: which method for these images, on this base, on this machine."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tsuika.advice import estimate, evidence, rules, start_word
from tsuika.advice.base import KnownBase, describe_base
from tsuika.advice.estimate import Cost, Machine, Measure
from tsuika.advice.evidence import GOALS, Statement
from tsuika.advice.recipes import Subject, class_word_of
from tsuika.advice.rules import Advice, Option
from tsuika.advice.start_word import StartWord
from tsuika.api.checking import detail_lost
from tsuika.api.models import EMBEDDED
from tsuika.api.run import starts
from tsuika.api.timing import GIB, Timer, machine_for
from tsuika.config import Recipe
from tsuika.core import files
from tsuika.core.errors import ImageError, no_such
from tsuika.core.events import Event, Phase, Progress
from tsuika.core.messages import percent
from tsuika.core.sections import Data
from tsuika.core.texts import Text, _, _n
from tsuika.data import check as checks
from tsuika.data.augment import Transform, render
from tsuika.data.check_report import Report
from tsuika.data.image import open_image

SHOWN = 8  # images at most that start words are tried on
# Share of images with one background, and from how many images on that says something.
HALF, MANY = 0.5, 4


@dataclass(frozen=True)
class Advised:
    """One recommendation, up to two alternatives, and the machine that they were estimated for.

    Attributes:
        advice: everything that was found, with the evidence.
        machine: where times and memory were estimated.
        recipe_files: the recipes that were written, the recommendation's first; empty without `out`.
    """

    advice: Advice
    machine: Machine
    recipe_files: tuple[Path, ...] = ()

    @property
    def recommendation(self) -> Option:
        """The method to take, with its recipe."""
        return self.advice.options[0]

    @property
    def alternatives(self) -> tuple[Option, ...]:
        """Others, the better one first."""
        return self.advice.options[1:]

    @property
    def notes(self) -> tuple[Statement, ...]:
        """What should be known of the request."""
        return self.advice.notes

    def to_dict(self) -> dict[str, Any]:
        """As in the command's `--json`."""
        found = self.advice.to_dict(self.machine)
        for option, path in zip([found["recommendation"], *found["alternatives"]], self.recipe_files, strict=False):
            option["recipe_file"] = str(path)
        return found


@starts
def advise(
    images: Path,
    goal: str,
    *,
    base: str = "embedded",
    vram_gb: float | None = None,
    max_file_mb: float | None = None,
    program: str = "",
    trigger: str = "",
    class_word: str = "",
    device: str = "auto",
    measure: bool = True,
    out: Path | None = None,
) -> Generator[Event, None, Advised]:
    """One recommendation and two alternatives, each with a recipe, what it takes here, and the evidence.

    Args:
        images: the folder of images; only read.
        goal: character, style, object or concept.
        base: as for `train`; also `sdxl` and the like, for one that is not here.
        vram_gb: memory of a GPU that it must fit into, in 10^9 bytes; None: of this machine.
        max_file_mb: largest file, in 10^6 bytes.
        program: where the result must work.
        measure: run a few training steps for the time, some seconds, or take what was measured within a day; False: no time.
        out: a folder for the recipes, `1-METHOD.toml` and so on; the result then names them (`recipe_files`).

    Raises:
        RecipeError: RC002, no such goal or program; RC026, nothing keeps within the limits.
        TsuikaError: images or base cannot be used.
    """
    for path in (out / "-", *out.glob("[0-9]-*.toml")) if out is not None else ():
        files.check_out(path)
    if goal not in GOALS:
        raise no_such("--goal", goal, GOALS)
    known = describe_base(base, EMBEDDED)
    data = Data(images=str(images), trigger=trigger.strip(), class_word=class_word.strip())
    report = yield from checks.check(images, data, size_px=known.size_px, base=base)
    if not report.usable:
        why = f"→ tsuika check {images}"
        raise ImageError("DS002", where=images, usable=0, total=report.total, needed=1, why=why, report=images)
    captioned = all(image.caption_source != "built" for image in report.usable)
    words = data.trigger, data.class_word
    subject = Subject(goal, str(images), report.different, base, *words, captioned, known.is_embedded)
    machine = machine_for(known, device, measure)
    limit = machine.memory_gib * GIB / 1e9 if vram_gb is None else vram_gb
    counted = machine if vram_gb is None else replace(machine, device="cuda", precision="bf16")
    step = estimate.step_of(known)

    def estimated(recipe: Recipe, timed: Measure | None = None) -> Cost:
        return estimate.estimate(known, recipe, counted, subject.image_count, step, timed)

    with Timer(known, machine) as timer:
        start = (yield from _start_word(timer, subject, report)) if measure and timer.allowed else None
        yield Phase("estimate", rules.OFFERED)
        subject = replace(subject, start_word=start.word if start else "")
        request = rules.Request(subject, goal, limit, max_file_mb, rules.program(program))
        found = rules.advise(
            request,
            known,
            evidence.measured(embedded=known.is_embedded),
            estimated,
            lambda recipe: estimate.memory_gib(known, recipe, counted, step),
        )
        options = []
        for number, option in enumerate(found.options, start=1):
            timed = timer.measured if measure else None
            options.append(replace(option, estimate=estimated(option.recipe, timed)))
            yield Progress("estimate", number, len(found.options))
    texts = [*_notes(known, subject, machine, vram_gb, report, start)]
    for one in (yield from detail_lost(report, base, known.size_px)) if measure and known.at_hand else ():
        texts.append(_("{count} images: {what}. {why}", count=len(one.pictures), what=one.what, why=one.why))
    notes = tuple(Statement(text, "known") for text in texts)
    written = []
    if out is not None:
        for number, option in enumerate(options, start=1):
            written.append(out / f"{number}-{option.method}.toml")
            files.write_text(written[-1], option.toml)
    return Advised(replace(found, options=tuple(options), notes=notes), machine, tuple(written))


def _start_word(timer: Timer, subject: Subject, report: Report) -> Generator[Event, None, StartWord | None]:
    """The known word that a new word best starts from, tried on a few of the images; None without any class word."""
    class_word = class_word_of(subject)
    if not class_word:
        return None
    yield Phase("start-word")
    model, side = timer.model, timer.base.size_px
    shown = report.usable[:: max(1, -(-len(report.usable) // SHOWN))]
    # The middle of each.
    square = Transform(), (side, side)
    pixels_B3HW = torch.stack([render(open_image(image.path), *square) for image in shown]).to(model.device)
    with torch.no_grad():
        latents_BCHW = model.encode_images(pixels_B3HW)
    return (yield from start_word.choose(model, list(latents_BCHW), class_word))


def _notes(
    base: KnownBase, subject: Subject, machine: Machine, vram_gb: float | None, report: Report, start: StartWord | None
) -> Iterator[Text]:
    family = base.family.facts.title
    if not base.at_hand and base.guessed:
        yield _(
            "The base model is not on this machine; by its name it is taken for a {family}. Times can only be rough.",
            family=family,
        )
    elif not base.at_hand:
        yield _(
            "The base model is not on this machine; as you say it is a {family}. Times can only be rough.",
            family=family,
        )
    if (few := base.few_steps) is not None:
        yield _(
            "This is a few-step base model ({kind}, as told by: {why}). Training on it undoes its distillation, and losses on held-out"
            " images do not see that: better train on the model that it was distilled from, and use the result on this one.",
            kind=few.kind,
            why=few.why,
        )
    if vram_gb is not None and machine.device == "cpu":
        yield _(
            "Memory is for a GPU of that size; times are for this machine, which has none, and a GPU is much quicker."
        )
    usable = len(report.usable)
    if usable > subject.image_count:
        yield _n(
            "{count} image, {different} of them different; near-duplicates count once.",
            "{count} images, {different} of them different; near-duplicates count once.",
            usable,
            different=subject.image_count,
        )
    if report.to_look_at or report.total > usable:
        yield _(
            "{doubtful} of {total} images should be looked at first (tsuika check).",
            doubtful=len(report.to_look_at) + report.total - usable,
            total=report.total,
        )
    if subject.goal != "style" and subject.image_count >= MANY and report.variety.same_background >= HALF:
        yield _(
            "{share} of the images share one background, which will be learned along: add others, or name it in the captions.",
            share=f"{100 * report.variety.same_background:.0f}%",
        )
    if start is not None and start.word != start.class_word:
        yield _(
            "A new word (Textual Inversion) starts from `{word}`: of {count} known words that were tried on your images, the base"
            " model draws them best with it (loss {change} against `{class_word}`).",
            word=start.word,
            count=start.tried,
            change=percent(start.change),
            class_word=start.class_word,
        )
    elif start is not None:
        yield _(
            "A new word (Textual Inversion) starts from the class word `{word}`: none of {count} known words that were tried on"
            " your images is better.",
            word=start.word,
            count=start.tried,
        )
    if not subject.trigger:
        yield _("No --trigger was given: change the word in the recipe to one of your own.")
