"""The embedded yardstick's figures of a run's images, before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tsuika.config import Recipe
from tsuika.data.subjects import named_in, subjects_of
from tsuika.embedded import mascot, yardstick
from tsuika.evaluation import report
from tsuika.evaluation.near_copies import ImageSource, opened

# (recipe, training images, before and after) -> figures
Scorer = Callable[[Recipe, Sequence[report.TrainingImage], Sequence[report.BeforeAfter]], tuple[report.Score, ...]]


def pixels(source: ImageSource) -> NDArray[np.uint8]:
    return np.asarray(opened(source))


def _by_seed(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Prompts x seeds to one mean a seed."""
    return tuple(float(value) for value in np.mean(np.asarray(rows), axis=0))


def likeness(
    recipe: Recipe, images: Sequence[report.TrainingImage], rows: Sequence[report.BeforeAfter]
) -> tuple[report.Score, ...]:
    """Likeness to the training images, where the embedded yardstick knows the base's world."""
    if recipe.base.model != "embedded":
        return ()
    subjects = subjects_of(recipe.data)
    of_each = [[pixels(image.source) for image in images if image.set in one.sets] for one in subjects]
    about = {row.prompt: named_in(row.prompt, subjects) for row in rows if not row.control}
    rows = [row for row in rows if about.get(row.prompt)]
    if not rows:
        return ()

    def near(row: report.BeforeAfter, side: Sequence[ImageSource]) -> list[float]:
        """Of a prompt's drawings to the images of what it is about; of several things the mean."""
        drawn = [pixels(one) for one in side]
        found: list[float] = np.mean(
            [yardstick.likeness(drawn, of_each[place]).tolist() for place in about[row.prompt]], axis=0
        ).tolist()
        return found

    sides = _by_seed([near(row, row.before) for row in rows]), _by_seed([near(row, row.after) for row in rows])
    # Of each to the others: a mean that it is part of would be nearer to it than any drawing can be.
    own = [
        float(yardstick.likeness([one], rest)[0])
        for references in of_each
        for place, one in enumerate(references)
        if (rest := [*references[:place], *references[place + 1 :]])
    ]
    truth = float(np.mean(own)) if own else None
    return (report.Score("likeness", sides[0], sides[1], truth),)


def mascot_scores(
    recipe: Recipe, images: Sequence[report.TrainingImage], rows: Sequence[report.BeforeAfter]
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
