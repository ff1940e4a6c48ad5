"""Cells are exact means, and the window that a crop was cut from is found to a fraction of a pixel."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from PIL import Image

from tsuika.data.align import THUMB_PX, normalised, refine, weights, whole, window


def pixels(seed: int, side: int = THUMB_PX) -> np.ndarray:
    """Smooth grey shapes."""
    cells = np.random.default_rng(seed).integers(0, 256, (9, 9), np.uint8)
    return np.asarray(Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC), np.float32)


def test_weights_are_means_of_cells_at_any_fraction_of_a_pixel() -> None:
    """Against pixels that are repeated 50 times each, whose whole numbers these fractions are."""
    row = np.random.default_rng(0).random(THUMB_PX)
    many = row.repeat(50)
    for low, high in ((0, 4800), (120, 4320), (77, 3677)):
        (found,) = weights(np.array([[low, high]]) / 4800, 12)
        edges = np.linspace(low, high, 13).astype(int)
        expected = [many[first:last].mean() for first, last in pairwise(edges)]
        assert np.allclose(found @ row, expected, atol=1e-4)
        assert np.allclose(found.sum(1), 1, atol=1e-5)


def test_the_window_of_a_crop_is_found_whatever_its_contrast() -> None:
    boxes, parts, frames = [], [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        large, (left, top) = pixels(seed, 960), rng.uniform(0.02, 0.2, 2)
        right, bottom = rng.uniform(0.8, 0.98, 2)
        image, where = Image.fromarray(large), (left * 960, top * 960, right * 960, bottom * 960)
        part = image.resize((THUMB_PX, THUMB_PX), Image.Resampling.BOX, box=where)
        parts.append(np.asarray(part) * 0.6 + 30)
        frames.append(np.asarray(image.resize((THUMB_PX, THUMB_PX), Image.Resampling.BOX)))
        boxes.append((left, top, right, bottom))
    wanted, start = np.array(boxes), np.array(boxes) + np.random.default_rng(9).uniform(-0.02, 0.02, (6, 4))
    here, score = refine(np.stack(parts), np.stack(frames), start, 32, (0.03, 0.02, 0.01, 0.006, 0.004))
    assert np.abs(here - wanted).max() < 0.002 and score.min() > 0.999
    seen = window(np.stack(frames)[..., None], here, 32)
    correlation = (normalised(seen) * normalised(whole(np.stack(parts), 32)[..., None])).sum(1)
    assert np.allclose(correlation, score, atol=1e-4)


def test_a_flat_picture_resembles_nothing() -> None:
    flat, other = np.full((1, THUMB_PX, THUMB_PX), 90, np.float32), pixels(1)[None]
    box = np.array([[0.0, 0.0, 1.0, 1.0]])
    for part, frame in ((flat, other), (other, flat), (flat, flat)):
        here, score = refine(part, frame, box, 12, (0.03, 0.02))
        assert abs(score[0]) < 1e-3 and ((here >= 0) & (here <= 1)).all()
