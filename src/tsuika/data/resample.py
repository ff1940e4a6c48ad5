"""Shrinking and enlarging of grey images as Pillow does it, but in float and several times faster.

Each output row is a weighted sum of a few input rows, so a strip of output rows is a small matrix product. Kernels: Keys
1981 (cubic, a = -0.5) and Lanczos 1979 (3 lobes), widened when shrinking; the edge's missing pixels are left out.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Kernel = Literal["cubic", "lanczos"]

REACH: Final[dict[Kernel, int]] = {"cubic": 2, "lanczos": 3}  # px to either side
STRIP: Final = 32  # rows of a product: few weights beside those that count


def resample(pixels_HW: NDArray[np.float32] | NDArray[np.uint8], height: int, width: int, kernel: Kernel) -> Floats:
    """The image at another size: (height, width)."""
    rows = np.empty((height, pixels_HW.shape[1]), np.float32)
    for first, low, weights in _strips(pixels_HW.shape[0], height, kernel):
        some = pixels_HW[low : low + weights.shape[1]].astype(np.float32, copy=False)
        np.matmul(weights, some, out=rows[first : first + len(weights)])
    out = np.empty((height, width), np.float32)
    for first, low, weights in _strips(pixels_HW.shape[1], width, kernel):
        out[:, first : first + len(weights)] = rows[:, low : low + weights.shape[1]] @ weights.T
    return out


@lru_cache(128)
def _strips(count: int, target: int, kernel: Kernel) -> tuple[tuple[int, int, Floats], ...]:
    """First output row, first input row, weights (output rows, input rows) of every strip."""
    scale = count / target
    widened = max(scale, 1.0)
    strips = []
    for first in range(0, target, STRIP):
        centres = (np.arange(first, min(first + STRIP, target)) + 0.5) * scale
        low = max(0, int(centres[0] - REACH[kernel] * widened))
        high = min(count, int(np.ceil(centres[-1] + REACH[kernel] * widened)))
        weights = _kernel(np.abs(np.arange(low, high) + 0.5 - centres[:, None]) / widened, kernel)
        strips.append((first, low, (weights / weights.sum(1, keepdims=True)).astype(np.float32)))
    return tuple(strips)


def _kernel(away: NDArray[np.float64], kernel: Kernel) -> NDArray[np.float64]:
    if kernel == "lanczos":
        return np.where(away < 3, np.sinc(away) * np.sinc(away / 3), 0.0)
    near, far = (1.5 * away - 2.5) * away**2 + 1, ((-0.5 * away + 2.5) * away - 4) * away + 2
    return np.where(away < 1, near, np.where(away < 2, far, 0.0))
