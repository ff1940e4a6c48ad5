"""How a run is guarded: which images are held out, and how much the checks may measure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from tsuika.config import Recipe
from tsuika.core.events import Warned, note
from tsuika.core.texts import Text, _
from tsuika.data import dedupe, split
from tsuika.data.manifest import Manifest
from tsuika.guard.judge import EARLY, LOOK, WHOLE, affordable_schedule, check_schedule, patient_ratio
from tsuika.guard.probe import MID, PATH, passes
from tsuika.guard.reading import ENOUGH_IMAGES

# Where all images are trained on afterwards, so that holding out costs none: intervals over images begin at 4. It is half of the
# images at most: of five, three held out once found a step as good as a well-chosen plan (bench/guard/frontier.py --few).
LEAST_HELD_OUT: Final = 4
FEW: Final = 10  # images; in folds of fewer the best step grows with their number to a method's own power
MOST_HELD_OUT: Final = 12
CONTROLS: Final = 4  # unrelated prompts, and as many training captions
# Passes in the middle range of a check: each of the six timesteps twice, or once.
TWICE: Final = 2 * len(MID)
ONCE: Final = len(MID)
STEP_PASSES: Final = (
    2.5  # what training on an image takes at least, in passes without gradient; small batches take more
)
SPLIT: Final = "split.json"  # in the run's `guard`

Kind = Literal["off", "none", "hold-out", "folds"]


@dataclass(frozen=True)
class GuardPlan:
    """What is held out of a run, and what follows for its length.

    off: the guard is off. none: too few images, all are trained on. hold-out: one trial run without some of the images. folds:
    several trial runs in turn, each without its own part.
    """

    kind: Kind
    split: split.Split
    notes: tuple[Warned, ...] = ()
    growth: float = 1.0  # the power of `longer`

    def trial(self, recipe: Recipe) -> int:
        """The steps of a trial run at most; the recipe's where nothing follows it."""
        steps = recipe.train.steps
        return max(1, round(LOOK * steps)) if self.kind == "hold-out" and refits(recipe) else steps

    def longer(self, step: int, most: int) -> int:
        """The step of a training on all images that is as far as a step of the trial run; `most` at most."""
        return min(most, max(step, round(step * math.pow(_more(self.split), self.growth))))

    def begins(self, step: int, most: int) -> int:
        """The step at which the result goes on, where `step` is the trial run's best; 0 for 0.

        After folds that is half of a steady training's on all images: the rate was too high for too long (bench/guard/continued.py).
        """
        return -(-self.longer(step, most) // 2) if self.folds else step

    def ends(self, step: int, stop: int, most: int) -> int:
        """The step at which the result is done.

        It goes on for as many steps as starting again would take. After a trial run of `stop` steps without some of the images both
        together take WHOLE of the plan, which is `most`, at most.
        """
        more = self.longer(step, most)
        return self.begins(step, most) + (more if self.folds else min(more, round(WHOLE * most) - stop))

    @property
    def folds(self) -> int:
        """The number of parts that are held out in turn; 0 without folds."""
        return len(self.split.parts) if self.kind == "folds" else 0

    def budget(self, recipe: Recipe) -> Budget:
        """What a check of a trial run may measure, and when; the same for every fold."""
        parts = range(len(self.split.parts))
        most = max((len(self.split.held_out_probe(fold)) for fold in parts), default=0)
        inside = min(map(self.split.different_inside, parts), default=len(self.split.groups))
        return budget(recipe, most, inside, self.trial(recipe))


def plan(recipe: Recipe, manifest: Manifest, folder: Path) -> GuardPlan:
    """What is held out. The split is written to `folder` and read again when a run goes on."""
    if recipe.guard.mode == "off":
        return GuardPlan("off", split.Split("none", (), (), 0))
    file = folder / SPLIT
    if file.exists():
        parted = split.Split.read(file)
    else:
        parted = _split(recipe, dedupe.groups(manifest), {sample.name: sample.set for sample in manifest.samples})
        parted.write(file)
    notes = [note("GD014", names=", ".join(group)) for group in parted.groups if len(group) > 1]
    if len(parted.groups) < split.LEAST_TO_HOLD_OUT:
        notes.append(note("GD012", found=len(parted.groups), then=_then(parted.kind)))
    found, folds = len(manifest), len(parted.parts)
    growth = recipe.method.few_growth if parted.kind == "folds" and len(parted.groups) < FEW else 1.0
    if parted.kind == "hold-out":
        out = parted.parts[0]
        then = _then("refit" if refits(recipe) else "gone")
        notes.append(note("GD013", held_out=len(out), found=found, names=", ".join(out), then=then))
    elif parted.kind == "folds":
        code, times = ("GD029", round(_more(parted) ** growth)) if folds == 2 else ("GD016", 1)
        why = _("Each is a training of its own.")
        notes.append(note(code, folds=folds, found=found, times=times, why=why))
    return GuardPlan(parted.kind, parted, tuple(notes), growth)


def refits(recipe: Recipe) -> bool:
    """Whether the result is trained on all images after a trial run without some."""
    return recipe.guard.mode == "on" and recipe.guard.refit


def hold_out_parts(
    groups: Sequence[split.Group], seed: int, folds: int, parts: int, sets: Mapping[str, str] | None = None
) -> split.Split:
    """Deal the images into folds, and hold out the first few of the parts; nothing where there are too few images."""
    dealt = split.split(groups, seed, folds=folds, sets=sets)
    if dealt.kind == "none":
        return dealt
    out = tuple(name for part in dealt.parts[:parts] for name in part)
    return replace(dealt, kind="hold-out", parts=(out,))


def _split(recipe: Recipe, groups: Sequence[split.Group], sets: Mapping[str, str]) -> split.Split:
    guard, seed, found = recipe.guard, recipe.train.seed, len(groups)
    if not refits(recipe):
        # There is one training only, so nothing can be left out in turn, and what is held out is missing in the result.
        if guard.folds:
            return hold_out_parts(groups, seed, guard.folds, 1, sets)
        if split.LEAST_TO_LEAVE_OUT <= found < FEW:
            return hold_out_parts(groups, seed, found, found // 3, sets)
    least = LEAST_HELD_OUT if refits(recipe) else split.LEAST_HELD_OUT
    count = min(MOST_HELD_OUT, max(least, round(guard.held_out * found)), -(-found // 2))
    return split.split(groups, seed, folds=guard.folds, count=count, sets=sets)


def _then(kind: str) -> Text:
    if kind == "none":
        return _(
            "All of them are trained on. The guard can only see divergence; the step count is what the recipe says."
        )
    if kind == "folds":
        return _(
            "They are left out in turn all the same: what comes out is a rough guess at the best step, but better than none."
        )
    if kind == "refit":
        return _("From the best step on, the result learns from all images.")
    return _("The result does without them. To train on all images: {on}, or {off}", on="--guard on", off="--guard off")


def _more(parted: split.Split) -> float:
    """All images by those that a fold has, on average; 1 without a split."""
    every, parts = sum(map(len, parted.groups)), max(1, len(parted.parts))
    return every * parts / sum(len(parted.inside(part)) for part in range(parts))


@dataclass(frozen=True)
class Budget:
    """How much a check may measure, and when: counted in forward passes, so that it does not depend on a clock."""

    held_out: int  # held-out images in a check
    trained_on: int  # images that are trained on
    draws: tuple[int, int]  # timesteps in the middle range for each of both
    controls: int  # unrelated prompts, and as many training captions
    steps: tuple[int, ...]  # when to check


def budget(recipe: Recipe, held_out: int, inside: int, steps: int) -> Budget:
    """What `guard.overhead` allows over `steps` of training, where `held_out` and `inside` images could be measured.

    All that are held out are measured, and the checks are as dense as the patience asks for, before there are more timesteps
    for each image. Where there is too little for that, half of those trained on and of the prompts go.
    """
    train, most = recipe.train, min(MOST_HELD_OUT, max(1, held_out))
    is_double = recipe.data.regularizes or recipe.regularize.output_preservation
    a_step = train.batch_size * train.accumulate * STEP_PASSES * (2 if is_double else 1)
    allowed, patience = (recipe.guard.overhead or math.inf) * steps * a_step, recipe.guard.patience

    def measured(held: int, trained: int, controls: int) -> Budget:
        # Below four, the interval speaks of timesteps, and needs them all.
        images = max(1, min(inside, trained, MOST_HELD_OUT))
        draws = _draws(most, held) if most >= ENOUGH_IMAGES else len(MID), _draws(images, trained)
        return Budget(most, images, draws, controls, ())

    def cost(one: Budget, checks: float) -> float:
        """Of measuring the base, and of every check."""
        sides = passes(one.held_out, one.draws[0]) + passes(one.trained_on, one.draws[1])
        return (1 + checks) * sides + (len(PATH) + 1 + checks) * 2 * one.controls

    whole = len(MID) * most
    choices = [measured(whole, whole, CONTROLS), measured(TWICE, TWICE, CONTROLS), measured(TWICE, ONCE, CONTROLS // 2)]
    wanted = len(check_schedule(steps, patient_ratio(patience), EARLY))
    found = next((one for one in choices if cost(one, wanted) <= allowed), choices[-1])
    start = cost(found, 0)
    checks = int(min(steps, (allowed - start) / (cost(found, 1) - start)))
    return replace(found, steps=affordable_schedule(steps, checks, patience))


def _draws(images: int, most: int) -> int:
    """Timesteps for each of so many images, at most so many passes: a divisor of all, for `guard.probe.strata`."""
    return next((count for count in (len(MID), 3, 2) if images * count <= most), 1)
