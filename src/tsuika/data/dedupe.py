"""Which pictures show the same picture: copies, re-encodings, resizes, crops and mirrored copies, joined into groups.

Two stages. A coarse one compares every picture (and its mirror image) with a few hundred windows of every other, as
vectors of 12 x 12 grey cells: one matrix product a picture. What is alike there is aligned finely, and two correlations
decide: of colours, and of fine detail, which pictures of one subject on one background do not share. Both are normalised,
so that brightness and contrast do not matter. Means over a window of any size come from summed-area tables (Crow 1984).

Shapes: N windows, K x K cells, P the side of a thumbnail, 3 colours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tsuika.data.manifest import Manifest
from tsuika.data.picture import open_picture

Floats = NDArray[np.float64]
Embed = Callable[[Image.Image], Sequence[float]]  # a picture's vector, for an encoder's opinion

THUMB_PX: Final = 96
COARSE: Final = 12  # cells each way
FINE: Final = 32
LEAST_AREA: Final = 0.55  # of a crop that is looked for: finds those of 60 % and more
SIDES: Final = (1.0, 0.92, 0.84, 0.76, 0.7, 0.64, 0.58)
STRIDE: Final = 0.06

# From bench/duplicates.py: all of 192 altered copies (crops of 60 %, JPEG at 30, 40 % of the size, brightness 0.6-1.4) are
# found; first sight gives them 0.86 at least, and but for drawings of 64 px their detail is 0.9 at least. Different
# photographs reach 0.96 in colours and 0.84 in detail at most (one vase twice before one wall).
CANDIDATE: Final = 0.8
SAME_COLOURS: Final = 0.9
SAME_DETAIL: Final = 0.88
SAME_HUES: Final = (
    0.86  # a figure before white and before light blue: 0.84; brighter by 1.4, so that white is clipped: 0.89
)
# Smooth pictures hardly have any detail, and JPEG takes that; then the colours must agree all but entirely.
EQUAL_COLOURS: Final = 0.985
SMOOTH_DETAIL: Final = 0.5
FAINT: Final = 2.0  # grey levels: below this deviation a picture is flat and resembles nothing but its own copies
WORTH_ALIGNING: Final = 0.85  # of cells in grey, coarsely aligned; copies reach 0.9 in colours, finely aligned
# Drawings of one kind are all alike at first sight: in large sets only each picture's nearest are looked at closely.
MANY: Final = 300
NEAREST: Final = 5
SAME_VECTOR: Final = 0.97  # cosine, where an encoder is asked


# One way, the other way, or not at all, for two opposite sides; not at all comes first, so that a tie stays.
_MOVES: Final = np.array([(one, other) for one in (0.0, -1.0, 1.0) for other in (0.0, -1.0, 1.0)])


@dataclass(frozen=True)
class Likeness:
    """How alike two pictures are where they match best; 1 is equal."""

    colours: float  # each colour's deviations from its own mean
    detail: float
    hues: float = 0.0  # deviations from one mean of all colours: what is recoloured is another picture

    @property
    def same(self) -> bool:
        detailed = self.colours >= SAME_COLOURS and self.detail >= SAME_DETAIL
        smooth = self.colours >= EQUAL_COLOURS and self.detail >= SMOOTH_DETAIL
        return self.hues >= SAME_HUES and (detailed or smooth)


class Look:
    """What is remembered of a picture: a thumbnail, without regard to its aspect."""

    def __init__(self, image: Image.Image) -> None:
        filter_ = Image.Resampling.BOX if min(image.size) >= 2 * THUMB_PX else Image.Resampling.BICUBIC
        small = image.convert("RGB").resize((THUMB_PX, THUMB_PX), filter_)
        self.pixels_PP3 = np.asarray(small)
        tables = [_summed(pixels.astype(np.float64)) for pixels in (self.pixels_PP3, self.pixels_PP3[:, ::-1])]
        whole = np.array([[0.0, 0.0, 1.0, 1.0]])
        # Row 0 as it is, row 1 mirrored.
        self.whole_2D = np.concatenate([_normal(_grey(_cells(table, whole, COARSE))) for table in tables])

    def windows(self, boxes_N4: Floats) -> NDArray[np.float32]:
        """Normalised grey cells of windows (N, COARSE * COARSE)."""
        across, which_x = np.unique(boxes_N4[:, ::2], axis=0, return_inverse=True)
        upright, which_y = np.unique(boxes_N4[:, 1::2], axis=0, return_inverse=True)
        grid_YKXK = _grid(self.grey_PP, across, upright, COARSE)
        cells_NKK = grid_YKXK.transpose(0, 2, 1, 3)[which_y.ravel(), which_x.ravel()]
        return _normal(cells_NKK[..., None])

    @cached_property
    def grey_PP(self) -> NDArray[np.float32]:
        """Mean of the three colours."""
        grey: NDArray[np.float32] = self.pixels_PP3.mean(2, dtype=np.float32)
        return grey


def windows(least_area: float = LEAST_AREA) -> Floats:
    """Where a crop may lie in a picture: (N, 4), left, top, right, bottom as shares of the frame; the whole first."""
    boxes = [(0.0, 0.0, 1.0, 1.0)]
    for width in SIDES:
        for height in SIDES:
            if least_area <= width * height < 1:
                lefts, tops = _places(width), _places(height)
                boxes += [(x, y, x + width, y + height) for x in lefts for y in tops]
    return np.array(boxes)


def likeness(part: Look, frame: Look, mirrored: bool, box: Sequence[float]) -> Likeness:
    """How `part` matches `frame` best near a window: its four sides are moved, ever more finely, while it helps.

    Where a coarse alignment already shows two different pictures, its correlation stands for colours, and detail is 0.
    """
    grey = part.grey_PP[:, ::-1] if mirrored else part.grey_PP
    here, score = _align(grey, frame.grey_PP, np.array(box, np.float64), COARSE, (0.03, 0.015))
    if score < WORTH_ALIGNING:
        return Likeness(score, 0.0)
    here, _ = _align(grey, frame.grey_PP, here, FINE, (0.015, 0.0075, 0.004))
    pixels = part.pixels_PP3[:, ::-1] if mirrored else part.pixels_PP3
    whole_1KK3 = _cells(_summed(pixels.astype(np.float64)), np.array([[0.0, 0.0, 1.0, 1.0]]), FINE)
    there_1KK3 = _cells(_summed(frame.pixels_PP3.astype(np.float64)), here[None], FINE)
    detail = _normal(_detail(there_1KK3), FAINT / 3) @ _normal(_detail(whole_1KK3), FAINT / 3)[0]
    colours = _normal(there_1KK3) @ _normal(whole_1KK3)[0]
    there, whole = (cells.reshape(1, -1, 1, 1) for cells in (there_1KK3, whole_1KK3))
    return Likeness(float(colours[0]), float(detail[0]), float((_normal(there) @ _normal(whole)[0])[0]))


def _align(
    part_PP: NDArray[np.float32], frame_PP: NDArray[np.float32], box: Floats, count: int, steps: Sequence[float]
) -> tuple[Floats, float]:
    """The window near `box` whose `count` x `count` cells correlate best with the whole part's; and that correlation."""
    whole = np.array([[0.0, 1.0]])
    wanted_KK = _normal(_grid(part_PP, whole, whole, count).reshape(1, count, count, 1)).reshape(count, count)
    here, best = box, 0.0
    for step in steps:
        for _ in range(3):
            across, upright = (np.clip(here[side::2] + step * _MOVES, 0, 1) for side in (0, 1))
            grid_9K9K = _grid(frame_PP, across, upright, count)
            mean_99 = grid_9K9K.mean((1, 3))
            deviation_99 = np.sqrt(np.maximum(np.square(grid_9K9K).mean((1, 3)) - np.square(mean_99), 0))
            # The wanted cells have mean 0, so that the window's own mean drops out.
            scores_99 = np.einsum("ykxl,kl->yx", grid_9K9K, wanted_KK) / np.maximum(deviation_99, FAINT) / count
            y, x = divmod(int(scores_99.argmax()), len(_MOVES))
            best = float(scores_99[y, x])
            if x == y == 0:
                break
            here = np.array([across[x, 0], upright[y, 0], across[x, 1], upright[y, 1]])
    return here, best


def pairs(
    looks: Sequence[Look], *, crops: bool = True, progress: Callable[[int, int], None] | None = None
) -> list[tuple[int, int, Likeness]]:
    """All pairs that are alike at first sight, each once, with what a closer look says.

    Args:
        looks: the pictures.
        crops: whether crops are looked for; without, only whole frames are compared.
        progress: called with (steps done, steps in all).
    """
    boxes_N4 = windows() if crops else windows(1.0)
    if not looks:
        return []
    wholes_MD = np.concatenate([look.whole_2D for look in looks])
    best: dict[tuple[int, int], tuple[float, int, int, bool, int]] = {}
    bounds_ML = _bounds(wholes_MD)
    for frame, look in enumerate(looks):
        cells_ND = look.windows(boxes_N4)
        rows = np.flatnonzero((_bounds(cells_ND) @ bounds_ML.T).max(0) >= CANDIDATE)
        rows = rows[rows // 2 != frame]
        scores_NR = cells_ND @ wholes_MD[rows].T
        for column, place in enumerate(scores_NR.argmax(0).tolist()):
            score = float(scores_NR[place, column])
            if score < CANDIDATE:
                continue
            part, mirrored = divmod(int(rows[column]), 2)
            pair = (min(part, frame), max(part, frame))
            best[pair] = max(best.get(pair, (0.0, 0, 0, False, 0)), (score, part, frame, bool(mirrored), place))
        if progress:
            progress(frame + 1, 2 * len(looks))
    chosen = sorted(best) if len(looks) <= MANY else _nearest({pair: one[0] for pair, one in best.items()})
    found = []
    for done, pair in enumerate(chosen, 1):
        _, part, frame, mirrored, place = best[pair]
        found.append((*pair, likeness(looks[part], looks[frame], mirrored, boxes_N4[place])))
        if progress:
            progress(len(looks) + done * len(looks) // len(chosen), 2 * len(looks))
    return found


def _nearest(scores: Mapping[tuple[int, int], float]) -> list[tuple[int, int]]:
    """The pairs that are among the NEAREST of one of their two."""
    counts: Counter[int] = Counter()
    kept = []
    for pair in sorted(scores, key=lambda pair: (-scores[pair], pair)):
        if min(counts[pair[0]], counts[pair[1]]) < NEAREST:
            kept.append(pair)
            counts.update(pair)
    return sorted(kept)


def _bounds(cells_MD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Short rows whose products are upper bounds of the products of rows of cells (Cauchy-Schwarz on what is left out)."""
    low_ML = cells_MD @ _smooth()
    rest_M = np.sqrt(np.maximum(np.square(cells_MD).sum(1) - np.square(low_ML).sum(1), 0))
    return np.concatenate([low_ML, rest_M[:, None]], axis=1)


@cache
def _smooth() -> NDArray[np.float32]:
    """The lowest cosines of COARSE x COARSE cells as columns, orthonormal."""
    angle = np.pi / COARSE * (np.arange(COARSE) + 0.5)[:, None] * np.arange(COARSE // 2)
    waves = (np.cos(angle) / np.sqrt(COARSE / 2)).astype(np.float32)
    waves[:, 0] = COARSE**-0.5
    return np.kron(waves, waves)


def groups(manifest: Manifest, embed: Embed | None = None, *, crops: bool = True) -> tuple[tuple[str, ...], ...]:
    """Every sample's name once, with those that show the same picture; in the manifest's order.

    Args:
        manifest: the pictures.
        embed: an encoder; pictures whose vectors have a cosine of SAME_VECTOR or more are joined too.
        crops: as `pairs`.

    Raises:
        UnusableError: a picture can no longer be read.
    """
    looks, vectors = [], []
    for sample in manifest.samples:
        image = open_picture(sample.path)
        looks.append(Look(image))
        if embed is not None:
            vectors.append(np.asarray(embed(image), np.float64))
    joined = [(i, j) for i, j, found in pairs(looks, crops=crops) if found.same]
    contents: dict[str, int] = {}  # flat pictures have no cells to compare, but equal files are equal
    joined += [(contents.setdefault(sample.sha256, i), i) for i, sample in enumerate(manifest.samples)]
    if vectors:
        unit = np.array(vectors) / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        joined += [(int(i), int(j)) for i, j in np.argwhere(unit @ unit.T >= SAME_VECTOR)]
    return tuple(tuple(manifest.samples[row].name for row in group) for group in join(len(manifest.samples), joined))


def join(count: int, joined: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Rows 0..count-1 in groups: whatever a chain of pairs connects is one group."""
    leader = list(range(count))

    def find(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    for one, other in joined:
        low, high = sorted((find(one), find(other)))
        leader[high] = low
    members: dict[int, list[int]] = {}
    for row in range(count):
        members.setdefault(find(row), []).append(row)
    return list(members.values())


def _places(side: float) -> list[float]:
    if side == 1:
        return [0.0]
    count = int(np.ceil((1 - side) / STRIDE)) + 1
    return [float(place) for place in np.linspace(0, 1 - side, count)]


def _grid(pixels_PP: NDArray[np.float32], across_X2: Floats, upright_Y2: Floats, count: int) -> NDArray[np.float32]:
    """Exact means of `count` x `count` cells of all windows between these sides: (Y, count, X, count)."""
    rows, columns = (_weights(sides, count) for sides in (upright_Y2, across_X2))
    cells = np.asarray(rows @ pixels_PP @ columns.T, np.float32)
    return cells.reshape(len(upright_Y2), count, len(across_X2), count)


def _weights(sides_N2: Floats, count: int) -> NDArray[np.float32]:
    """What each pixel of a row counts in the means of cells between sides at any fraction of a pixel (N * count, P)."""
    low, high = sides_N2[:, :1], np.maximum(sides_N2[:, 1:], sides_N2[:, :1] + 1e-6)
    edges = (low + (high - low) * np.linspace(0, 1, count + 1)) * THUMB_PX
    first, last, pixel = edges[:, :-1, None], edges[:, 1:, None], np.arange(THUMB_PX)
    shares = np.clip(np.minimum(last, pixel + 1) - np.maximum(first, pixel), 0, None) / (last - first)
    weights: NDArray[np.float32] = shares.reshape(-1, THUMB_PX).astype(np.float32)
    return weights


def _summed(pixels_PPC: Floats) -> Floats:
    """Sums of all pixels above and to the left, (P + 1, P + 1, C)."""
    return np.pad(pixels_PPC.cumsum(0).cumsum(1), ((1, 0), (1, 0), (0, 0)))


def _cells(table: Floats, boxes_N4: Floats, count: int) -> Floats:
    """Exact means of `count` x `count` cells of windows at any fraction of a pixel: (N, K, K, C)."""
    places = np.linspace(0, 1, count + 1)
    low, high = boxes_N4[:, :2, None], boxes_N4[:, 2:, None]
    edges_N2E = np.clip((low + (high - low) * places) * THUMB_PX, 0, THUMB_PX)
    floor = np.minimum(edges_N2E.astype(np.int64), THUMB_PX - 1)
    share = edges_N2E - floor
    x, y = floor[:, 0, None, :], floor[:, 1, :, None]
    dx, dy = share[:, 0, None, :, None], share[:, 1, :, None, None]
    upper = table[y, x] * (1 - dx) + table[y, x + 1] * dx
    lower = table[y + 1, x] * (1 - dx) + table[y + 1, x + 1] * dx
    corners = upper * (1 - dy) + lower * dy
    sums = np.diff(np.diff(corners, axis=1), axis=2)
    sides_N2 = np.maximum(boxes_N4[:, 2:] - boxes_N4[:, :2], 1e-6) * THUMB_PX / count
    means: Floats = sums / (sides_N2[:, 0] * sides_N2[:, 1])[:, None, None, None]
    return means


def _grey(cells_NKKC: Floats) -> Floats:
    grey: Floats = cells_NKKC.mean(3, keepdims=True)
    return grey


def _detail(cells_NKKC: Floats) -> Floats:
    """What is left of each cell without the mean of the 3 x 3 around it."""
    count = cells_NKKC.shape[1]
    padded = np.pad(cells_NKKC, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    around = sum(padded[:, i : i + count, j : j + count] for i in range(3) for j in range(3))
    return np.asarray(cells_NKKC - around / 9, np.float64)


def _normal(cells_NKKC: Floats | NDArray[np.float32], faint: float = FAINT) -> NDArray[np.float32]:
    """Rows of mean 0 (in each colour) and length 1, so that a product of two is their correlation; faint ones shorter."""
    flat = (cells_NKKC - cells_NKKC.mean((1, 2), keepdims=True)).reshape(len(cells_NKKC), -1)
    deviation = np.sqrt((flat**2).mean(1, keepdims=True))
    rows: NDArray[np.float32] = (flat / np.maximum(deviation, faint) / np.sqrt(flat.shape[1])).astype(np.float32)
    return rows
