"""What an evaluation measures: images in, tables of prompts x seeds out. Knows no model and no file but training images.

- fidelity: cosine of a drawing to the mean direction of the training images of what its prompt is about, by an encoder
- adherence: how well a drawing fits its own prompt, by an encoder that reads
- others: the same of prompts that have nothing to do with the training
- drift: how far these have moved from the base's drawings at the same seeds, (1 - cosine) / 2
- diversity: how much drawings of one prompt differ, by the root mean square of their thumbnails' differences, 0..1. No
  encoder: it is about layouts, which is what stiffens first, and it is the same number for every base.
- copies: whether a drawing is a training image again, by thumbnails (`guard.memorization`); also for training captions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tsuika.core.bootstrap import Table
from tsuika.data.subjects import Subject
from tsuika.evaluation.encoders import Encoder, Vectors
from tsuika.evaluation.memorization import as_trained, similarity, thumbnail
from tsuika.evaluation.near_copies import ImageSource, NearestImage
from tsuika.evaluation.prompts import Asked, without_subject
from tsuika.guard.memorization import resemblances

REFERENCES: Final = 200  # training images of a subject that an encoder sees, at most: a mean direction needs no more

Drawn = Mapping[str, Sequence[Image.Image]]  # prompt -> an image a seed


@dataclass(frozen=True)
class Tables:
    """The measures of one set of weights at one strength, prompts x seeds; None for what cannot be measured."""

    fidelity: Table | None
    adherence: Table | None
    others: Table | None
    drift: Table | None
    diversity: Table | None  # prompts x 1: it is of all seeds together
    copies: Table  # 1 for a copy; also of training captions


@dataclass(frozen=True)
class Scale:
    """What the numbers are to be read against."""

    real: float | None  # fidelity of training images to the others
    chance: float  # adherence of the base's drawings to the other prompts
    other_prompt: float | None  # drift from one unrelated prompt to another in the base: another image altogether


class Ruler:
    """Measures drawings of fixed prompts and seeds against training images and the base's drawings."""

    def __init__(
        self,
        encoder: Encoder | None,
        asked: Sequence[Asked],
        base: Drawn,
        seeds: Sequence[int],
        images: Sequence[tuple[str, ImageSource]],
        subjects: Sequence[Subject],
        homes: Sequence[int] | None = None,
        groups: Sequence[int] | None = None,
    ) -> None:
        """`images` are the training images by name, `homes` the place of each one's subject (None: there is one), `groups` their
        numbers, near-duplicates alike.

        Raises UnusableError: a training image can no longer be read."""
        self._encoder, self._asked, self._seeds, self._base = encoder, asked, seeds, base
        self._texts = {
            group: [one.text for one in asked if one.group == group] for group in ("subject", "unrelated", "captions")
        }
        self._about = [one.about for one in asked if one.group == "subject"]
        about = zip(self._texts["subject"], self._about, strict=True)
        self._read = [without_subject(text, [subjects[place] for place in places]) for text, places in about]
        size_px = next(iter(base.values()))[0].size
        self._images, self._thumbnails, self._groups = list(images), [], groups
        homes = [0] * len(images) if homes is None else homes
        of_each = [[row for row, home in enumerate(homes) if home == place] for place in range(len(subjects))]
        shown = {rows[place] for rows in of_each for place in _spread(len(rows))}
        references: list[list[Image.Image]] = [[] for _ in subjects]
        for number, (_, source) in enumerate(images):  # one at a time: there may be thousands
            image = as_trained(source, size_px)
            self._thumbnails.append(thumbnail(image))
            if encoder is not None and number in shown:
                references[homes[number]].append(image)
        self._references = [encoder.subjects(rows) if rows else None for rows in references] if encoder else []
        self._scenes = self._of_scenes(base)
        _, chance = self._fit(base, self._texts["subject"], self._read)
        real = [score for one in self._references if (score := _real(one)) is not None]
        self.scale = Scale(float(np.mean(real)) if real else None, chance, _between_prompts(self._scenes, len(seeds)))

    def measure(self, drawn: Drawn) -> tuple[Tables, list[NearestImage]]:
        """The measures of drawings, and those that are nearest to a training image, the nearest first."""
        about, others = self._texts["subject"], self._texts["unrelated"]
        fidelity = adherence = controls = drift = None
        if self._encoder is not None:
            vectors = self._encoder.subjects(_flat(drawn, about))
            fidelity = self._table(np.concatenate([*map(self._likeness, self._by_prompt(vectors), self._about)]))
            adherence, _ = self._fit(drawn, about, self._read)
            controls, _ = self._fit(drawn, others, others)
            scenes = self._of_scenes(drawn)
            if scenes is not None and self._scenes is not None:
                drift = self._table(((scenes - self._scenes) ** 2).sum(1) / 4)  # exactly 0 for equal vectors
        copies, pairs = self._copies(drawn)
        diversity = np.array([[_differences(drawn[text])] for text in about]) if len(self._seeds) > 1 else None
        return Tables(fidelity, adherence, controls, drift, diversity, copies), pairs

    def _likeness(self, vectors: Vectors, about: Sequence[int]) -> NDArray[np.float64]:
        """Of a prompt's drawings to the images of what it is about; of several things the mean."""
        known = [one for place in about if (one := self._references[place]) is not None]
        found: NDArray[np.float64] = np.mean([vectors @ _centre(one) for one in known], axis=0)
        return found

    def _by_prompt(self, vectors: Vectors) -> list[Vectors]:
        return [vectors[row : row + len(self._seeds)] for row in range(0, len(vectors), len(self._seeds))]

    def _table(self, values: NDArray[np.float64]) -> Table:
        return values.reshape(-1, len(self._seeds))

    def _of_scenes(self, drawn: Drawn) -> Vectors | None:
        others = self._texts["unrelated"]
        return self._encoder.scenes(_flat(drawn, others)) if self._encoder and others else None

    def _fit(self, drawn: Drawn, texts: Sequence[str], read: Sequence[str]) -> tuple[Table | None, float]:
        """Each drawing's fit to its own prompt, and the mean fit of drawings to the other prompts."""
        if self._encoder is None or not self._encoder.reads or not texts:
            return None, 0.0
        fit = self._encoder.fit(_flat(drawn, texts), read)  # (prompts x seeds, prompts)
        own = np.repeat(np.arange(len(texts)), len(self._seeds))
        mine = fit[np.arange(len(fit)), own]
        if np.isnan(mine).all():
            return None, 0.0
        others = np.where(np.arange(len(texts))[None] == own[:, None], np.nan, fit)
        known = others[~np.isnan(others)]
        return self._table(mine), float(known.mean()) if known.size else 0.0

    def _copies(self, drawn: Drawn) -> tuple[Table, list[NearestImage]]:
        texts = self._texts["subject"] + self._texts["captions"]
        images = _flat(drawn, texts)
        ours = similarity(images, self._thumbnails)
        found = resemblances(ours, similarity(_flat(self._base, texts), self._thumbnails), self._groups)
        captions = set(self._texts["captions"])
        pairs = [
            NearestImage(text, seed, image, *self._images[one.picture], one, None, text in captions)
            for (text, seed), image, one in zip(product(texts, self._seeds), images, found, strict=True)
        ]
        table = self._table(np.array([float(one.copies) for one in found]))
        return table, sorted(pairs, key=lambda pair: pair.rank)


def _spread(count: int) -> list[int]:
    """So many places, or REFERENCES of them from beginning to end."""
    places: list[int] = np.linspace(0, count - 1, min(REFERENCES, count)).round().astype(int).tolist()
    return places


def _flat(drawn: Drawn, texts: Sequence[str]) -> list[Image.Image]:
    return [image for text in texts for image in drawn[text]]


def _centre(vectors: Vectors) -> NDArray[np.float64]:
    mean = vectors.mean(0)
    centre: NDArray[np.float64] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return centre


def _real(references: Vectors | None) -> float | None:
    """What a training image scores against the others: nearer than that, nothing new can honestly be."""
    if references is None or len(references) < 2:
        return None
    total = references.sum(0)
    return float(np.mean([one @ _centre((total - one)[None]) for one in references]))


def _between_prompts(scenes: Vectors | None, seeds: int) -> float | None:
    """How far the base's drawings of two prompts are apart at one seed, in the mean."""
    if scenes is None or len(scenes) < 2 * seeds:
        return None
    by_prompt = scenes.reshape(-1, seeds, scenes.shape[1])
    return float(np.mean([((a - b) ** 2).sum(1) / 4 for a, b in combinations(by_prompt, 2)]))


def _differences(images: Sequence[Image.Image]) -> float:
    """The mean over pairs of the root mean square difference of thumbnails, 0..1."""
    small = [np.asarray(thumbnail(image), np.float64) / 255 for image in images]
    return float(np.mean([np.sqrt(np.mean((a - b) ** 2)) for a, b in combinations(small, 2)]))
