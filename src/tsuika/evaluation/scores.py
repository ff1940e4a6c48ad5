"""The embedded yardstick's figures of a run's images, before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tsuika.config import Recipe
from tsuika.embedded import mascot, yardstick
from tsuika.evaluation import report
from tsuika.evaluation.near_copies import ImageSource, opened

# (recipe, training images, before and after) -> figures
Scorer = Callable[[Recipe, Sequence[Path], Sequence[report.BeforeAfter]], tuple[report.Score, ...]]


def pixels(source: ImageSource) -> NDArray[np.uint8]:
    return np.asarray(opened(source))


def _by_seed(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Prompts x seeds to one mean a seed."""
    return tuple(float(value) for value in np.mean(np.asarray(rows), axis=0))


def likeness(recipe: Recipe, images: Sequence[Path], rows: Sequence[report.BeforeAfter]) -> tuple[report.Score, ...]:
    """Likeness to the training images, where the embedded yardstick knows the base's world."""
    if recipe.base.model != "embedded":
        return ()
    references = [pixels(path) for path in images]
    rows = [row for row in rows if not row.control and recipe.data.first.trigger in row.prompt]
    if not rows:
        return ()
    sides = [
        _by_seed([yardstick.likeness([pixels(p) for p in side], references).tolist() for side in column])
        for column in ([row.before for row in rows], [row.after for row in rows])
    ]
    # Of each to the others: a mean that it is part of would be nearer to it than any drawing can be.
    others = [[*references[:row], *references[row + 1 :]] for row in range(len(references))]
    own = [float(yardstick.likeness([one], rest)[0]) for one, rest in zip(references, others, strict=True) if rest]
    truth = float(np.mean(own)) if own else None
    return (report.Score("likeness", sides[0], sides[1], truth),)


def mascot_scores(
    recipe: Recipe, images: Sequence[Path], rows: Sequence[report.BeforeAfter]
) -> tuple[report.Score, ...]:
    """Likeness to the mascot, adherence of its images to the prompt, and the control prompts."""
    asked = {prompt.text: prompt for prompt in mascot.TEST_PROMPTS}

    def adherence(prompt: mascot.MascotPrompt, images: Sequence[ImageSource]) -> list[float]:
        drawn = [pixels(image) for image in images]
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
        adherence(
            mascot.MascotPrompt(drawn.caption, drawn.background, drawn.companion), [Image.fromarray(drawn.pixels)]
        )
        for drawn in mascot.held_out(40, seed=1)
    ]
    mine, controls = [row for row in rows if not row.control], [row for row in rows if row.control]
    return (
        *likeness(recipe, images, rows),
        score("adherence", mine, _by_seed(real)[0]),
        score("controls", controls, None),
    )
