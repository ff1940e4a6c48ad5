"""How far one set of pictures is from another in style: the sliced Wasserstein distance of their small patches.

Patches say which colours, contours and textures there are, and not where they are nor what is shown; it needs no model.
Read it between the distance of two true sets (the floor) and that of the base's pictures to a true set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (H, W, 3)

PATCH_PX: Final = 5
SCALES: Final = (1, 2)  # the picture, and its half
PROJECTIONS: Final = 128
QUANTILES: Final = 512
SEED: Final = 20


def distance(pictures: Sequence[Pixels], references: Sequence[Pixels]) -> float:
    """Sliced Wasserstein-1 distance of 5x5 colour patches at two scales, in grey levels (0..255); 0 = the same patches.

    The root mean square over scales of the mean over fixed random directions (Rabin et al. 2012). All pictures must be
    of one size; the sets need not be equally large.

    Raises:
        ValueError: a set is empty.
    """
    if not pictures or not references:
        raise ValueError("both sets need a picture")
    parts = []
    for scale in SCALES:
        first, second = (_slices(np.stack([_reduced(one, scale) for one in side])) for side in (pictures, references))
        parts.append(float(np.abs(first - second).mean()))
    return float(np.sqrt(np.mean(np.square(parts))))


def _reduced(picture: Pixels, scale: int) -> NDArray[np.float32]:
    height, width = picture.shape[0] // scale * scale, picture.shape[1] // scale * scale
    blocks = picture[:height, :width].astype(np.float32).reshape(height // scale, scale, width // scale, scale, 3)
    means: NDArray[np.float32] = blocks.mean(axis=(1, 3))
    return means


def _slices(pictures_NHWC: NDArray[np.float32]) -> NDArray[np.float32]:
    """Quantiles of the patches along each direction, (QUANTILES, PROJECTIONS)."""
    windows = np.lib.stride_tricks.sliding_window_view(pictures_NHWC, (PATCH_PX, PATCH_PX), axis=(1, 2))
    patches = windows[:, ::2, ::2].reshape(-1, 3 * PATCH_PX * PATCH_PX)
    rng = np.random.default_rng(SEED)
    directions = rng.normal(size=(3, PATCH_PX * PATCH_PX, PROJECTIONS)).astype(np.float32)
    # Half of the directions see colours only, half contours only: flat patches would else drown the contours.
    half = PROJECTIONS // 2
    directions[:, :, :half] = directions[:, :1, :half]
    directions[:, :, half:] -= directions[:, :, half:].mean(axis=1, keepdims=True)
    directions = directions.reshape(-1, PROJECTIONS)
    # Weights of length 1 over what they measure: a grey step of 1 moves a colour direction by about 1.
    directions[:, :half] /= np.linalg.norm(directions[:, :half], axis=0) * PATCH_PX
    directions[:, half:] /= np.linalg.norm(directions[:, half:], axis=0)
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    result: NDArray[np.float32] = np.quantile(patches @ directions, levels, axis=0).astype(np.float32)
    return result
