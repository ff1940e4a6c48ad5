"""How a run is guarded: what is held out, whether folds can learn side by side, and how much may be measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from accelerate import Accelerator

from tsuika.core.config import Recipe
from tsuika.core.events import Warned, note
from tsuika.core.files import write_text
from tsuika.core.words import Words
from tsuika.data import dedupe, split
from tsuika.data.manifest import Manifest
from tsuika.guard.judge import affordable
from tsuika.guard.probe import PATH
from tsuika.methods import find

# Where all are trained on afterwards, so that it costs none: intervals over pictures begin here
LEAST_HELD_OUT: Final = 4
MOST_HELD_OUT: Final = 12
MOST_MEASURED: Final = 8  # pictures of each side in a check
LEAST_MEASURED: Final = 4
CHECKS: Final = 10  # that a budget of forward passes should allow before more pictures are measured in each
CONTROLS: Final = 4  # unrelated prompts, and as many training captions
PASSES: Final = 8  # of a picture in a check: one for each timestep; or half of them
# What training on a picture takes at least, in forward passes without gradient; small batches take more.
STEP_PASSES: Final = 2.5
SPLIT: Final = "split.json"  # in the run's `guard`

Way = Literal["off", "none", "hold-out", "lanes", "turns"]


@dataclass(frozen=True)
class Course:
    """How a run goes about it."""

    way: Way
    split: split.Split
    notes: tuple[Warned, ...] = ()
    growth: float = 1.0  # `methods.MethodSection.growth`

    def longer(self, step: int, most: int) -> int:
        """The step of a training on all pictures that is as far as a step of the look; `most` at most."""
        return min(most, max(step, round(step * math.pow(_more(self.split), self.growth))))

    def begins(self, step: int, most: int) -> int:
        """The step at which the result takes up a look's weights, where the best step is `step`; 0 for 0.

        After folds they are those of the run on all pictures, halfway: beyond that the rate was too high for too long
        (bench/guard/continued.py).
        """
        return -(-self.longer(step, most) // 2) if self.folds else step

    def ends(self, step: int, most: int) -> int:
        """The step at which it is done: from there on, for as long as starting again would take.

        bench/guard/continued.py: fewer steps are not always enough after a look that was short.
        """
        return self.begins(step, most) + self.longer(step, most)

    @property
    def overlap(self) -> float:
        """Held-out pictures by training pictures of a fold (`guard.reading.estimate`); 0 without folds."""
        return 1 / (self.folds - 1) if self.folds else 0.0

    @property
    def folds(self) -> int:
        """Parts of the pictures that are held out in turn."""
        return len(self.split.parts) if self.way in ("lanes", "turns") else 0

    def budget(self, recipe: Recipe) -> Budget:
        """What a check of a look may measure, and when; the same for every fold."""
        runs, eyes = (self.folds + 1, self.folds) if self.way == "lanes" else (1, 1)
        most = max((len(self.split.witnesses(fold)) for fold in range(len(self.split.parts))), default=0)
        return budget(recipe, most, runs, eyes)


def _more(parted: split.Split) -> float:
    """All pictures by those that a fold has, on average; without a split 1."""
    every, parts = sum(map(len, parted.groups)), max(1, len(parted.parts))
    return every * parts / sum(len(parted.inside(part)) for part in range(parts))


def plan(recipe: Recipe, manifest: Manifest, folder: Path, alone: str = "") -> Course:
    """What is held back, and how. The split is kept in `folder` and read again when a run goes on.

    Args:
        alone: why folds cannot learn side by side; empty where they can.
    """
    guard = recipe.guard
    if guard.mode == "off":
        return Course("off", split.Split("none", (), (), 0))
    file = folder / SPLIT
    if file.exists():
        parted = split.Split.from_json(file.read_text(encoding="utf-8"))
    else:
        groups = dedupe.groups(manifest)
        in_turn = alone and not guard.folds and split.LEAST_TO_TRUST <= len(groups) < split.LEAST_TO_HOLD_OUT
        folds = split.FOLDS_IN_TURN if in_turn else guard.folds
        count = min(MOST_HELD_OUT, max(LEAST_HELD_OUT if refits(recipe) else 0, round(guard.held_out * len(groups))))
        parted = split.split(groups, recipe.train.seed, folds=folds, count=max(split.LEAST_HELD_OUT, count))
        write_text(file, parted.to_json())
    notes = [note("GD014", names=", ".join(group)) for group in parted.groups if len(group) > 1]
    found, growth = len(manifest), recipe.method.growth
    if parted.kind == "folds" and alone and not refits(recipe):  # there is one training only
        parted = replace(parted, kind="hold-out", parts=parted.parts[:1])
    if len(parted.groups) < split.LEAST_TO_TRUST:
        notes.append(note("GD012", found=len(parted.groups), then=_THEN[parted.kind]))
    if parted.kind == "none":
        return Course("none", parted, tuple(notes))
    if parted.kind == "hold-out":
        out = parted.parts[0]
        then = _THEN["refit" if refits(recipe) else "gone"]
        notes.append(note("GD013", held_out=len(out), found=found, names=", ".join(out), then=then))
        return Course("hold-out", parted, tuple(notes), growth)
    folds = len(parted.parts)
    if alone:
        why = _WHY_ALONE[alone]
        code, times = ("GD029", round(_more(parted) ** growth)) if folds == 2 else ("GD016", 1)
        notes.append(note(code, folds=folds, found=found, times=times, why=why))
        return Course("turns", parted, tuple(notes), growth)
    notes.append(note("GD015", folds=folds, found=found, times=folds + 1))
    return Course("lanes", parted, tuple(notes), growth)


_THEN: Final[dict[str, Words]] = {
    "none": Words(
        "All of them are trained on. The guard can only see divergence; the step count is what the recipe says.",
        "すべての画像を学習に使います。ガードが判断できるのは発散だけで、ステップ数はレシピのとおりです。",
    ),
    "folds": Words(
        "They are left out in turn all the same: what comes out is a rough guess at the best step, but better than none.",
        "それでも順に外して調べます。最良のステップの大まかな見当ですが、何も調べないよりは良い結果になります。",
    ),
    "refit": Words(
        "From the best step on, the result learns from all pictures.",
        "最良のステップから先は、全画像で学習を続けます。",
    ),
    "gone": Words(
        "The result does without them. To train on all pictures: --guard on, or --guard off",
        "学習結果には、これらの画像を使いません。全画像で学習するには: --guard on または --guard off",
    ),
}
_WHY_ALONE: Final[dict[str, Words]] = {
    "method": Words(
        "They cannot learn side by side, since each changes the whole model.",
        "この方法はモデル全体を変えるため、並行して学習できません。",
    ),
    "adapter": Words("Only plain LoRA layers can learn side by side.", "並行して学習できるのは通常のLoRA層だけです。"),
    "dropout": Words(
        "With dropout they cannot learn side by side and come out as they would alone.",
        "ドロップアウトを使うと、並行して学習したときに、単独で学習した場合と同じ結果になりません。",
    ),
    "machine": Words(
        "With several processes, fp16 or a compiled UNet they cannot learn side by side.",
        "複数プロセス、fp16、コンパイルしたUNetでは、並行して学習できません。",
    ),
}


def why_alone(recipe: Recipe, accelerator: Accelerator) -> str:
    """Why attachments cannot learn side by side, as a key of the words above; empty where they can."""
    method: Any = recipe.method
    if not hasattr(find(recipe.method.name).code, "side_by_side"):
        return "method"
    if getattr(method, "adapter", "lora") != "lora":
        return "adapter"
    if method.model_dump().get("dropout"):
        return "dropout"
    busy = accelerator.num_processes > 1 or accelerator.mixed_precision == "fp16" or recipe.train.compile
    return "machine" if busy else ""


def refits(recipe: Recipe) -> bool:
    """Whether the result is trained on all pictures after a look without some."""
    return recipe.guard.mode == "on" and recipe.guard.refit


@dataclass(frozen=True)
class Budget:
    """How much a check may measure, and when: counted in forward passes, so that no clock has a say."""

    pictures: int  # held-out ones in a check
    twins: int  # as many that are trained on, or half of that
    controls: int  # unrelated prompts, and as many training captions
    few: bool  # whether at half of the timesteps
    rungs: tuple[int, ...]  # steps of checks


def budget(recipe: Recipe, held_out: int, runs: int = 1, eyes: int = 1) -> Budget:
    """What `guard.overhead` allows, counted over the whole run; at the least 4 pictures in each of a few checks.

    What the best step is chosen by comes first: where there is too little for everything, half of the twins and prompts go.

    Args:
        held_out: pictures that could be measured, by each eye.
        runs: fits in lockstep.
        eyes: of them that are measured.
    """
    train = recipe.train
    preserves = bool(recipe.data.reg_images or recipe.data.reg_generate)
    a_step = train.batch_size * train.accumulate * runs * STEP_PASSES * (2 if preserves else 1)
    allowed = (recipe.guard.overhead or math.inf) * train.steps * a_step
    most = min(MOST_MEASURED, max(1, held_out))

    def cost(pictures: int, few: bool, coarse: bool, checks: int) -> int:
        share = 2 if coarse else 1
        sides = (pictures + -(-pictures // share)) * eyes * (PASSES // 2 if few else PASSES)
        prompts = 2 * CONTROLS // share
        return (1 + checks) * sides + (len(PATH) + checks) * prompts  # of the base, and of every check

    least = min(LEAST_MEASURED, most)
    enough = least * eyes >= LEAST_MEASURED  # else the interval speaks of timesteps, and needs them all
    choices = [
        (pictures, few, coarse)
        for pictures in range(most, least - 1, -1)
        for few in ((False, True) if enough else (False,))
        for coarse in (False, True)
    ]
    pictures, few, coarse = next((one for one in choices if cost(*one, CHECKS) <= allowed), choices[-1])
    start, each = cost(pictures, few, coarse, 0), cost(pictures, few, coarse, 1) - cost(pictures, few, coarse, 0)
    rungs = affordable(train.steps, int(min(train.steps, (allowed - start) / each)))
    half = 2 if coarse else 1
    return Budget(pictures, -(-pictures // half), CONTROLS // half, few, rungs)
