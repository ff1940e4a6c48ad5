"""Cells of a thumbnail's windows, and the window of one thumbnail that matches another best: many pairs at a time.

Means over a window at any fraction of a pixel are products with sparse weights, one matrix a side. The four sides of a
window are moved by Gauss-Newton (Lucas and Kanade 1981) so that correlation grows: brightness and contrast do not matter
(after Evangelidis and Psarakis 2008).

Shapes: B pairs, N windows, K x K cells, P the side of a thumbnail. Boxes: left, top, right, bottom, shares of the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Boxes = NDArray[np.float64]

THUMB_PX: Final = 96
FAINT: Final = 2.0  # grey levels: below this deviation an image is flat and resembles nothing but its own copies

LONGEST: Final = 0.03  # share of the frame that a side moves in a round
SHORTEN: Final = 0.35  # a step that did not help
DAMPING: Final = 1e-4  # of the mean curvature (Levenberg)

# As it is, and either side a little less and more.
_PROBES: Final = np.array([(0.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)])


def weights(sides_N2: Boxes, count: int) -> Floats:
    """The weight of each pixel of a row in the means of `count` cells between two sides: (N, count, P)."""
    low, high = sides_N2[:, :1], np.maximum(sides_N2[:, 1:], sides_N2[:, :1] + 1e-6)
    edges_NE = ((low + (high - low) * np.linspace(0, 1, count + 1)) * THUMB_PX).astype(np.float32)
    before_NEP = edges_NE[:, :, None] - np.arange(THUMB_PX, dtype=np.float32)
    np.maximum(before_NEP, 0, out=before_NEP)
    np.minimum(before_NEP, 1, out=before_NEP)
    per_pixel = (count / THUMB_PX / (high - low)).astype(np.float32)
    means: Floats = np.subtract(before_NEP[:, 1:], before_NEP[:, :-1], dtype=np.float32)
    means *= per_pixel[:, :, None]
    return means


def whole(pixels_BPP: Floats, count: int) -> Floats:
    """Cells of whole thumbnails: (B, count, count)."""
    (weights_KP,) = weights(np.array([[0.0, 1.0]]), count)
    cells: Floats = weights_KP @ pixels_BPP @ weights_KP.T
    return cells


def normalised(cells_NKKC: Floats, faint: float = FAINT) -> Floats:
    """Rows of mean 0 (in each colour) and length 1, so that a product of two is their correlation; faint ones shorter."""
    flat = (cells_NKKC - cells_NKKC.mean((1, 2), keepdims=True)).reshape(len(cells_NKKC), -1)
    deviation = np.sqrt(np.square(flat).mean(1, keepdims=True))
    rows: Floats = (flat / np.maximum(deviation, faint) / np.sqrt(flat.shape[1])).astype(np.float32)
    return rows


def refine(
    parts_BPP: Floats, frames_BPP: Floats, boxes_B4: Boxes, count: int, probes: Sequence[float]
) -> tuple[Boxes, Floats]:
    """Boxes near the given ones whose `count` x `count` cells correlate best with the whole parts', and that correlation.

    Args:
        parts_BPP: grey levels.
        frames_BPP: as well.
        boxes_B4: where to begin.
        count: with few cells a distant place is found, with many the exact one.
        probes: one for each round: the distance over which slopes are taken, as a share of the frame.
    """
    target_BD = normalised(whole(parts_BPP, count)[..., None])
    best_B, best_B4 = np.full(len(boxes_B4), -1, np.float32), boxes_B4.copy()
    step_B4, share_B, here_B4 = np.zeros_like(boxes_B4), np.ones(len(boxes_B4)), boxes_B4
    for probe in probes:
        # (B, M, 2) of M moves, within the frame.
        across, upright = (np.clip(here_B4[:, None, side::2] + probe * _PROBES, 0, 1) for side in (0, 1))
        cells_BD, slopes_B4D = _slopes(frames_BPP, across, upright, count)
        along_B = np.einsum("bd,bd->b", cells_BD, target_BD)
        length_B = np.sqrt(np.square(cells_BD).sum(1))
        score_B = along_B / np.maximum(length_B, FAINT * count)
        # What is left of cells and slopes beside the target cells: contrast is left free.
        rest_BD1 = (cells_BD - along_B[:, None] * target_BD)[:, :, None]
        slopes_B4D -= (slopes_B4D @ target_BD[:, :, None]) * target_BD[:, None]
        curvature_B44 = (slopes_B4D @ slopes_B4D.transpose(0, 2, 1)).astype(np.float64)
        mean_B = np.trace(curvature_B44, axis1=1, axis2=2) / 4
        curvature_B44 += (DAMPING * mean_B + 1e-9)[:, None, None] * np.eye(4)
        found_B4 = -np.linalg.solve(curvature_B44, (slopes_B4D @ rest_BD1).astype(np.float64))[..., 0]
        better = score_B > best_B
        best_B[better], best_B4[better] = score_B[better], here_B4[better]
        step_B4[better] = np.clip(found_B4[better], -LONGEST, LONGEST)
        share_B = np.where(better, 1.0, share_B * SHORTEN)
        here_B4 = np.clip(best_B4 + step_B4 * share_B[:, None], 0, 1)
    return best_B4, best_B


def window(pixels_BPPC: Floats, boxes_B4: Boxes, count: int) -> Floats:
    """Cells of one window of each thumbnail: (B, count, count, C)."""
    rows, columns = weights(boxes_B4[:, 1::2], count), weights(boxes_B4[:, ::2], count)
    cells_BCKK = rows[:, None] @ pixels_BPPC.transpose(0, 3, 1, 2) @ columns.transpose(0, 2, 1)[:, None]
    return np.asarray(cells_BCKK.transpose(0, 2, 3, 1), np.float32)


def _stacked(sides_BM2: Boxes, count: int) -> Floats:
    return weights(sides_BM2.reshape(-1, 2), count).reshape(len(sides_BM2), -1, THUMB_PX)


def _slopes(frames_BPP: Floats, across_BM2: Boxes, upright_BM2: Boxes, count: int) -> tuple[Floats, Floats]:
    """Cells without their mean (B, D), and how they change with left, top, right and bottom (B, 4, D)."""
    size = len(frames_BPP)
    rows, columns = _stacked(upright_BM2, count), _stacked(across_BM2, count)
    wide = (rows[:, :count] @ frames_BPP) @ columns.transpose(0, 2, 1)
    wide = wide.reshape(size, count, 5, count).transpose(2, 0, 1, 3)
    high = rows[:, count:] @ (frames_BPP @ columns[:, :count].transpose(0, 2, 1))
    high = high.reshape(size, 4, count, count).transpose(1, 0, 2, 3)
    apart = [
        (sides[:, more] - sides[:, more - 1])[:, side].astype(np.float32)[:, None, None]
        for side, more in ((0, 2), (1, 4))
        for sides in (across_BM2, upright_BM2)
    ]
    changes = (wide[2] - wide[1], high[1] - high[0], wide[4] - wide[3], high[3] - high[2])
    slopes = np.stack([change / far for change, far in zip(changes, apart, strict=True)], 1).reshape(size, 4, -1)
    cells = wide[0].reshape(size, -1)
    return cells - cells.mean(1, keepdims=True), slopes - slopes.mean(2, keepdims=True)
