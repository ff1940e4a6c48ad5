"""Stands in for the trainings of a search: runs whose losses are known functions of the settings."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tsuika
from tsuika import config
from tsuika.config import Recipe
from tsuika.core.errors import DivergedError, RecipeError
from tsuika.core.events import Event
from tsuika.core.files import write_text
from tsuika.core.rundir import RunDir
from tsuika.data import split
from tsuika.guard.judge import Judge
from tsuika.guard.reading import Check, Grid, Ratios, Reading
from tsuika.training.monitor import judged

STEPS, PICTURES = 200, 5
RUNGS = (40, 80, 120, 160, 200)
NAMES = tuple((f"{i}.png",) for i in range(12))
BEST_RATE = 1e-3


def grid_at(level: float, timesteps: int = 6) -> Grid:
    """Draws around a level, always the same ones."""
    source = random.Random(0)
    return tuple(tuple(level + source.gauss(0, 0.002) for _ in range(timesteps)) for _ in range(PICTURES))


def gain(rate: float) -> float:
    """How far below the base a run at this rate ends: best at BEST_RATE, nothing two decades off."""
    return 0.2 * (1 - (math.log10(rate / BEST_RATE) / 2) ** 2)


@dataclass
class Runs:
    """Stands in for training: writes what a run's folder has of the guard, check by check."""

    begun: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    diverges_above: float = math.inf
    untrainable: int = 0  # a rank

    def train(self, recipe: Recipe, folder: Path) -> Iterator[Event]:
        self.begun.append(folder.name)
        assert recipe.guard.mode == "on" and not recipe.guard.refit
        run = RunDir(folder).create()
        write_text(run.recipe, config.dump(recipe))
        if recipe.method.model_dump().get("rank") == self.untrainable:
            raise RecipeError("RC010")
        split.split(NAMES, 0).write(run.guard / "split.json")
        return self._go(run, 0)

    def resume(self, folder: Path) -> Iterator[Event]:
        self.resumed.append(folder.name)
        done = len(folder.joinpath("events.jsonl").read_text(encoding="utf-8").splitlines())
        return self._go(RunDir(folder), done)

    def _go(self, run: RunDir, done: int) -> Iterator[Event]:
        train = config.load(run.recipe).train
        rate, timesteps = train.learning_rate, 3 if train.batch_size == 1 else 6  # as a small budget of checks has it
        judge = Judge(STEPS, rate, check_steps=RUNGS)
        for count, step in enumerate(RUNGS):
            level = -gain(rate) * step / STEPS
            seen = Ratios(*(2 * [grid_at(level, timesteps)]))
            check = Check(step, Reading(seen, seen))
            event = judged(judge.update(check), check)
            if count < done:
                continue
            if rate > self.diverges_above and count == 3:
                raise DivergedError("TR001", step=step, pictures="0.png", kept=step - 1, rate="?")
            with run.events.open("a", encoding="utf-8") as log:
                log.write(event.to_json() + "\n")
            yield event
            if event.verdict == "stop":
                break
        write_text(run.report_json, "{}")


def recipe(**more: Any) -> Recipe:
    return config.build(
        config.override({}, {"train.steps": STEPS, "train.precision": "fp32", "data.images": "pictures", **more})
    )


def last(events: Iterator[Event]) -> tsuika.Searched:
    found = list(events)[-1]
    assert isinstance(found, tsuika.Searched)
    return found
