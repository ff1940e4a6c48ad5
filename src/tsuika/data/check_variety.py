"""How different the images of a set are, from thumbnails: backgrounds, palette, composition, light. Approximate.

No encoder is used: the embedded one takes different images of one subject, such as a training set, for the same image.

Shapes: N images, P the side of a thumbnail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tsuika.data.dedupe import COARSE, Thumbnail

Floats = NDArray[np.float32]

FRAME: Final = 0.12  # of the side: the edge of an image is taken for its background
BINS: Final = 4  # of each of three colours
# CIELAB units, mean over the strips of the frame, in which two backgrounds differ at least; from bench/check.py.
OTHER_BACKGROUND: Final = 12.0
# Spreads of photographs of six subjects together (bench/check.py --variety): these count as 1.
MIXED: Final = {"palette": 0.32, "composition": 0.765, "light": 17.0}


class Features(NamedTuple):
    """Features of images that are compared with each other."""

    frame_ND: Floats  # mean colours of strips along the edge, CIELAB
    palette_ND: Floats  # roots of a colour histogram: products are Bhattacharyya coefficients
    layout_ND: Floats  # grey cells, mean 0 and length 1
    light_N: Floats  # mean lightness, 0..100


def features(thumbnails: Sequence[Thumbnail]) -> Features:
    """Features of every image."""
    rows = [_features(thumbnail) for thumbnail in thumbnails]
    return Features(*(np.stack([np.asarray(row[i], np.float32) for row in rows]) for i in range(4)))


def _features(thumbnail: Thumbnail) -> tuple[Floats, Floats, Floats, np.float32]:
    lab = to_lab(thumbnail.pixels_PP3[::2, ::2])
    side = len(lab)
    edge, half = max(1, round(FRAME * side)), side // 2
    edges, halves = (slice(edge), slice(-edge, None)), (slice(half), slice(half, None))
    strips = [lab[rows, part] for rows in edges for part in halves]
    strips += [lab[part, columns] for columns in edges for part in halves]
    frame = np.concatenate([np.median(strip.reshape(-1, 3), axis=0) for strip in strips])
    bins = (thumbnail.pixels_PP3[::2, ::2] // (256 // BINS)).reshape(-1, 3).astype(np.int64)
    counts = np.bincount(bins @ np.array([BINS * BINS, BINS, 1]), minlength=BINS**3) / (side * side)
    return frame, np.sqrt(counts).astype(np.float32), thumbnail.whole_2D[0], lab[..., 0].mean()


def to_lab(pixels: NDArray[np.uint8]) -> Floats:
    """sRGB (..., 3), 0..255, to CIELAB under D65 (IEC 61966-2-1, CIE 15)."""
    value = pixels.astype(np.float32) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float32)
    share = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089], np.float32)
    root = np.where(share > 216 / 24389, np.cbrt(share), (24389 / 27 * share + 16) / 116)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    lab: Floats = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)
    return lab


def backgrounds(frame_ND: Floats) -> list[list[int]]:
    """Rows in groups of alike backgrounds, the largest first: each joins the first group whose first member is alike."""
    groups: list[list[int]] = []
    for row, frame in enumerate(frame_ND):
        alike = apart(frame, frame_ND[np.array([group[0] for group in groups], np.int64)]) < OTHER_BACKGROUND
        if alike.any():
            groups[int(alike.argmax())].append(row)
        else:
            groups.append([row])
    return sorted(groups, key=len, reverse=True)


def apart(one_D: Floats, others_ND: Floats) -> Floats:
    """Mean distance of frames' strips (N), CIELAB units; of the other as it is or mirrored, whichever is nearer."""
    first, second = one_D.reshape(1, 8, 3), others_ND.reshape(-1, 8, 3)
    sides = (second, second[:, [1, 0, 3, 2, 6, 7, 4, 5]])
    distances = [np.sqrt(np.square(first - side).sum(2)).mean(1) for side in sides]
    return np.asarray(np.minimum(*distances), np.float32)


def spreads(found: Features) -> tuple[float, float, float]:
    """Palette, composition and light: mean difference of two images, relative to MIXED; 0 for one image."""
    count = len(found.light_N)
    if count < 2:
        return 0.0, 0.0, 0.0
    apart_pairs = count * (count - 1)
    alike = (np.square(found.palette_ND.sum(0)).sum() - np.square(found.palette_ND).sum()) / apart_pairs
    layouts = found.layout_ND.reshape(count, COARSE * COARSE)
    related = np.abs(layouts @ layouts.T)
    composed = (related.sum() - np.trace(related)) / apart_pairs
    light = float(found.light_N.std())
    measured = {"palette": 1 - float(alike), "composition": 1 - float(composed), "light": light}
    return tuple(round(max(0.0, measured[key] / MIXED[key]), 3) for key in ("palette", "composition", "light"))  # type: ignore[return-value]
