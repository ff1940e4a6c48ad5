"""Advice as plain data: for `--json`, and for whoever shows it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tsuika.advise.estimate import Machine
from tsuika.advise.evidence import Statement
from tsuika.advise.reasons import TITLES
from tsuika.advise.rules import Advice, Option


def to_dict(advice: Advice, machine: Machine) -> dict[str, Any]:
    """Everything, JSON-ready; texts in English and Japanese."""
    wish = advice.wish
    options = [_option(option) for option in advice.options]
    return {
        "goal": wish.goal,
        "pictures": wish.subject.pictures,
        "images": wish.subject.images,
        "base": wish.subject.base,
        "limits": {"vram_gb": wish.vram_gb, "max_file_mb": wish.max_file_mb, "program": wish.program},
        "machine": {"device": machine.device, "name": machine.name, "precision": machine.precision},
        "recommendation": options[0],
        "alternatives": options[1:],
        "not_recommended": [
            {"method": one.method, "title": _title(one.method), "why": _told(one.why)} for one in advice.unfit
        ],
        "combine": _all(advice.combine),
        "rules_of_thumb": _all(advice.folklore),
        "notes": _all(advice.notes),
    }


def _title(method: str) -> dict[str, str]:
    return dict(zip(("en", "ja"), TITLES[method], strict=True))


def _told(statement: Statement) -> dict[str, str]:
    return {"en": statement.en, "ja": statement.ja, "strength": statement.strength, "source": statement.source}


def _all(statements: Iterable[Statement]) -> list[dict[str, str]]:
    return [_told(one) for one in statements]


def _option(option: Option) -> dict[str, Any]:
    found, train = option.estimate, option.recipe.train
    return {
        "method": option.method,
        "title": _title(option.method),
        "strength": option.strength,
        "steps": found.steps,
        "batch_size": train.batch_size * train.accumulate,
        "step_seconds": found.step_s,
        "seconds": found.seconds,
        "trainings": found.trainings,
        "time_basis": found.time_basis,
        "memory_gb": round(found.memory_gib * 2**30 / 1e9, 2),
        "memory_basis": found.memory_basis,
        "trained_numbers": found.trained,
        "file_bytes": option.file_bytes,
        "works_in": list(option.works_in),
        "reasons": _all(option.reasons),
        "against": _all(option.against),
        "recipe": option.toml,
    }
