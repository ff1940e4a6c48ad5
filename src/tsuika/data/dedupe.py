"""Which pictures show the same picture: copies, re-encodings, resizes, crops and mirrored copies, joined into groups.

Two stages. A coarse one compares every picture (and its mirror image) with a few hundred windows of every other, as
vectors of 12 x 12 grey cells: one matrix product a picture. What is alike there is aligned finely, and two correlations
decide: of colours, and of fine detail, which pictures of one subject on one background do not share. Both are normalised,
so that brightness and contrast do not matter. Means over a window of any size come from summed-area tables (Crow 1984).

Shapes: N windows, K x K cells, P the side of a thumbnail, 3 colours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
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

# From bench/duplicates.py: 476 of 480 altered copies (crops of 60 %, JPEG at 30, 40 % of the size, brightness 0.6-1.4)
# are found; first sight gives them 0.83 at least. Three of those missed are drawings of 64 px, spoilt by JPEG or shrinking.
# Different photographs reach 0.95 in colours and 0.78 in detail at most (one vase twice before one wall).
CANDIDATE: Final = 0.75
SAME_COLOURS: Final = 0.9
SAME_DETAIL: Final = 0.8
# Smooth pictures hardly have any detail, and JPEG takes that; then the colours must agree all but entirely.
EQUAL_COLOURS: Final = 0.985
SMOOTH_DETAIL: Final = 0.5
FAINT: Final = 2.0  # grey levels: below this deviation a picture is flat and resembles nothing but its own copies
SAME_VECTOR: Final = 0.97  # cosine, where an encoder is asked


@dataclass(frozen=True)
class Likeness:
    """How alike two pictures are where they match best; 1 is equal."""

    colours: float
    detail: float

    @property
    def same(self) -> bool:
        detailed = self.colours >= SAME_COLOURS and self.detail >= SAME_DETAIL
        return detailed or (self.colours >= EQUAL_COLOURS and self.detail >= SMOOTH_DETAIL)


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
        return _normal(_grey(_cells(_summed(self.pixels_PP3.astype(np.float64)), boxes_N4, COARSE)))


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
    """How `part` matches `frame` best near a window: its four sides are moved, ever more finely, while it helps."""
    pixels = part.pixels_PP3[:, ::-1] if mirrored else part.pixels_PP3
    whole_1KK3 = _cells(_summed(pixels.astype(np.float64)), np.array([[0.0, 0.0, 1.0, 1.0]]), FINE)
    wanted = _normal(whole_1KK3)[0]
    table = _summed(frame.pixels_PP3.astype(np.float64))
    grey_table, grey_wanted = table.mean(2, keepdims=True), _normal(_grey(whole_1KK3))[0]
    here = np.array(box, np.float64)
    for step in (0.03, 0.015, 0.0075, 0.004):
        for _ in range(3):
            around_N4 = np.clip(here + step * _moves(), 0, 1)
            scores = _normal(_cells(grey_table, around_N4, FINE)) @ grey_wanted
            found = int(scores.argmax())
            if np.array_equal(around_N4[found], here):
                break
            here = around_N4[found]
    there_1KK3 = _cells(table, here[None], FINE)
    detail = _normal(_detail(there_1KK3), FAINT / 3) @ _normal(_detail(whole_1KK3), FAINT / 3)[0]
    return Likeness(float((_normal(there_1KK3) @ wanted)[0]), float(detail[0]))


def pairs(looks: Sequence[Look], *, crops: bool = True) -> list[tuple[int, int, Likeness]]:
    """All pairs that are alike at first sight, each once, with what a closer look says.

    Args:
        looks: the pictures.
        crops: whether crops are looked for; without, only whole frames are compared, which takes seconds for thousands.
    """
    boxes_N4 = windows() if crops else windows(1.0)
    wholes_MD = np.concatenate([look.whole_2D for look in looks]) if looks else np.zeros((0, 1), np.float32)
    best: dict[tuple[int, int], tuple[float, int, int, bool, int]] = {}
    for frame, look in enumerate(looks):
        scores_NM = look.windows(boxes_N4) @ wholes_MD.T
        places = scores_NM.argmax(0)
        for row in np.flatnonzero(scores_NM.max(0) >= CANDIDATE).tolist():
            part, mirrored = divmod(row, 2)
            if part == frame:
                continue
            pair = (min(part, frame), max(part, frame))
            score = float(scores_NM[places[row], row])
            best[pair] = max(
                best.get(pair, (0.0, 0, 0, False, 0)), (score, part, frame, bool(mirrored), int(places[row]))
            )
    return [
        (*pair, likeness(looks[part], looks[frame], mirrored, boxes_N4[place]))
        for pair, (_, part, frame, mirrored, place) in sorted(best.items())
    ]


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


@cache
def _moves() -> Floats:
    """The four sides each one way, the other way, or not at all; not at all comes first, so that a tie stays."""
    moves = np.array(np.meshgrid(*[[0.0, -1.0, 1.0]] * 4, indexing="ij")).reshape(4, -1).T
    return np.ascontiguousarray(moves)


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


def _normal(cells_NKKC: Floats, faint: float = FAINT) -> NDArray[np.float32]:
    """Rows of mean 0 (in each colour) and length 1, so that a product of two is their correlation; faint ones shorter."""
    flat = (cells_NKKC - cells_NKKC.mean((1, 2), keepdims=True)).reshape(len(cells_NKKC), -1)
    deviation = np.sqrt((flat**2).mean(1, keepdims=True))
    rows: NDArray[np.float32] = (flat / np.maximum(deviation, faint) / np.sqrt(flat.shape[1])).astype(np.float32)
    return rows
