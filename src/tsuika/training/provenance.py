"""What a run proved, from what was prepared and judged, for the files that it writes."""

from __future__ import annotations

import math
from importlib.metadata import version
from pathlib import Path
from typing import Final

from tsuika.formats.provenance import VERSION, GuardRecord, Provenance
from tsuika.guard.judge import Judge
from tsuika.guard.memorization import Memorization
from tsuika.training.guard_plan import GuardPlan
from tsuika.training.prepared import Prepared

PROGRAMS: Final = ("tsuika", "torch", "diffusers", "transformers")
DIGITS: Final = 5


def guard_record(judge: Judge, plan: GuardPlan, *, all_images: bool) -> GuardRecord | None:
    """What a judge saw on images that were held out; None where none were, or no check was sound."""
    seen = [one.evidence for one in judge.verdicts]
    curve = [(one.step, one.held_out) for one in seen if one.held_out is not None and math.isfinite(one.held_out.mean)]
    if not curve:
        return None
    rows = tuple((step, round(held.mean, DIGITS), _finite(held.low), _finite(held.high)) for step, held in curve)
    return GuardRecord(
        kind=plan.kind,
        held_out=sum(map(len, plan.split.parts)),
        folds=plan.folds,
        curve=rows,
        interval=curve[-1][1].kind,
        best_step=judge.chosen.balanced,
        optimism=_finite(seen[-1].optimism),
        all_images=all_images,
    )


def provenance(
    prepared: Prepared, steps: int, stopped_by: str, guard: GuardRecord | None, memorization: Memorization | None
) -> Provenance:
    """Of weights after `steps` steps."""
    model = prepared.model
    base = {"name": Path(model.source).name, "sha256": model.sha256, "predicts": model.prediction}
    return Provenance(
        version=VERSION,
        method=prepared.recipe.method.name,
        steps=steps,
        images=len(prepared.images),
        base={name: text for name, text in base.items() if text},
        stopped_by=stopped_by,
        guard=guard,
        memorized=memorization.recalled if memorization is not None else None,
        programs={name: version(name) for name in PROGRAMS},
    )


def _finite(value: float | None) -> float | None:
    return round(value, DIGITS) if value is not None and math.isfinite(value) else None
