"""Which images show the same image: copies, re-encodings, resizes, crops and mirrored copies, joined into groups.

Two stages. A coarse one compares every image (and its mirror image) with a few hundred windows of every other, as
vectors of 12 x 12 grey cells: one matrix product an image. What is alike there is aligned finely (`align`), and two
correlations decide: of colours, and of fine detail, which images of one subject on one background do not share. Both
are normalised, so that brightness and contrast do not matter.

Both stages run on several threads. Each task is the same however many there are, so the pairs are, too.

Shapes: N windows, K x K cells, P the side of a thumbnail, 3 colours.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits

from tsuika.core.events import Event, Progress, drained
from tsuika.data import align
from tsuika.data.align import FAINT, THUMB_PX, normalised
from tsuika.data.image import open_image
from tsuika.data.manifest import Manifest

Floats = NDArray[np.float32]
Boxes = NDArray[np.float64]

COARSE: Final = 12  # cells each way
FINE: Final = 32
LEAST_AREA: Final = 0.55  # of a crop that is searched for: finds those of 60 % and more
SIDES: Final = (1.0, 0.92, 0.84, 0.76, 0.7, 0.64, 0.58)
STRIDE: Final = 0.06
# Cells, and the probe of each round of aligning. 32 cells twice: a wide probe first finds more (bench/duplicates.py).
FIRST: Final = (0.04, 0.03, 0.03, 0.02)
CLOSER: Final = ((20, (0.02, 0.02, 0.015)), (FINE, (0.03, 0.03, 0.02)), (FINE, (0.01, 0.006, 0.006, 0.004, 0.004)))
BATCH: Final = 32  # pairs that are aligned together; independent of the number of threads
CHUNK: Final = 512  # images of a product that stays in the cache

# From bench/duplicates.py: 190 of 192 altered copies (crops of 60 %, JPEG at 30, 40 % of the size, brightness 0.6-1.4) are
# found, all but two drawings of 64 px. First sight gives them 0.86 at least, and but for those drawings their detail is
# 0.9 at least. Different photographs reach 0.96 in colours and 0.84 in detail at most (one vase twice before one wall).
CANDIDATE: Final = 0.8
SAME_COLOURS: Final = 0.9
SAME_DETAIL: Final = 0.88
# A figure before white and before light blue: 0.84; brighter by 1.4, so that white is clipped: 0.89
SAME_HUES: Final = 0.86
# Smooth images hardly have any detail, and JPEG takes that; then the colours must agree all but entirely.
EQUAL_COLOURS: Final = 0.985
SMOOTH_DETAIL: Final = 0.5
WORTH_ALIGNING: Final = 0.85  # of cells in grey, coarsely aligned; copies reach 0.9 in colours, finely aligned
# Drawings of one kind are all alike at first sight: in large sets only each image's nearest are looked at closely.
MANY: Final = 300
NEAREST: Final = 5


@dataclass(frozen=True)
class Similarity:
    """How alike two images are where they match best; 1 is equal."""

    colours: float  # each colour's deviations from its own mean
    detail: float
    hues: float = 0.0  # deviations from one mean of all colours: what is recoloured is another image

    @property
    def same(self) -> bool:
        detailed = self.colours >= SAME_COLOURS and self.detail >= SAME_DETAIL
        smooth = self.colours >= EQUAL_COLOURS and self.detail >= SMOOTH_DETAIL
        return self.hues >= SAME_HUES and (detailed or smooth)


class Thumbnail:
    """An image at THUMB_PX x THUMB_PX, without regard to its aspect, and its coarse cells."""

    def __init__(self, image: Image.Image) -> None:
        filter_ = Image.Resampling.BOX if min(image.size) >= 2 * THUMB_PX else Image.Resampling.BICUBIC
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        self.pixels_PP3 = np.asarray(rgb.resize((THUMB_PX, THUMB_PX), filter_))
        self.grey_PP: Floats = self.pixels_PP3.mean(2, dtype=np.float32)
        cells_KK = align.whole(self.grey_PP[None], COARSE)[0]
        # Row 0 as it is, row 1 mirrored.
        self.whole_2D = normalised(np.stack([cells_KK, cells_KK[:, ::-1]])[..., None])

    def windows(self, boxes: Windows) -> Floats:
        """Normalised grey cells of windows (N, COARSE * COARSE)."""
        grid = boxes.rows @ self.grey_PP @ boxes.columns.T
        cells_YXKK = grid.reshape(len(boxes.rows) // COARSE, COARSE, -1, COARSE).transpose(0, 2, 1, 3)
        cells_NKK = cells_YXKK[boxes.which_y, boxes.which_x]
        return normalised(np.asarray(cells_NKK[..., None], np.float32))


class Windows:
    """Where a crop may lie in an image: the whole first."""

    def __init__(self) -> None:
        boxes = [(0.0, 0.0, 1.0, 1.0)]
        for width in SIDES:
            for height in SIDES:
                if LEAST_AREA <= width * height < 1:
                    lefts, tops = _places(width), _places(height)
                    boxes += [(x, y, x + width, y + height) for x in lefts for y in tops]
        self.boxes_N4: NDArray[np.float64] = np.array(boxes)
        across, which_x = np.unique(self.boxes_N4[:, ::2], axis=0, return_inverse=True)
        upright, which_y = np.unique(self.boxes_N4[:, 1::2], axis=0, return_inverse=True)
        self.which_x, self.which_y = which_x.ravel(), which_y.ravel()  # numpy 2.0 gives columns
        self.rows, self.columns = (align.weights(sides, COARSE).reshape(-1, THUMB_PX) for sides in (upright, across))


@dataclass(frozen=True, order=True)
class CandidatePair:
    """Two images that are alike at first sight, ordered by how much."""

    score: float
    part: int  # row of the one that may be a crop ...
    frame: int  # ... of this
    mirrored: bool
    place: int  # row of the window

    @property
    def pair(self) -> tuple[int, int]:
        return min(self.part, self.frame), max(self.part, self.frame)


def similarities(
    parts: Sequence[Thumbnail], frames: Sequence[Thumbnail], mirrored: Sequence[bool], boxes_B4: Boxes
) -> list[Similarity]:
    """How parts match frames best near a window: its four sides are moved, ever more finely, while it helps.

    Where a coarse alignment already shows two different images, its correlation stands for colours, and detail is 0.
    """
    turned = [-1 if one else 1 for one in mirrored]
    greys = np.stack([thumbnail.grey_PP[:, ::turn] for thumbnail, turn in zip(parts, turned, strict=True)])
    there = np.stack([thumbnail.grey_PP for thumbnail in frames])
    here_B4, score_B = align.refine(greys, there, boxes_B4, COARSE, FIRST)
    found = [Similarity(float(score), 0.0) for score in score_B]
    near = np.flatnonzero(score_B >= WORTH_ALIGNING).tolist()
    if not near:
        return found
    here_B4, greys, there = here_B4[near], greys[near], there[near]
    for count, probes in CLOSER:
        here_B4, _ = align.refine(greys, there, here_B4, count, probes)
    pixels = np.stack([parts[row].pixels_PP3[:, :: turned[row]] for row in near]).astype(np.float32)
    whole = align.window(pixels, np.tile([0.0, 0.0, 1.0, 1.0], (len(near), 1)), FINE)
    shown = align.window(np.stack([frames[row].pixels_PP3 for row in near]).astype(np.float32), here_B4, FINE)
    colours, detail, hues = (
        np.einsum("bd,bd->b", normalised(change(shown), faint), normalised(change(whole), faint))
        # The last: the colours as one, so that what is normalised keeps their differences.
        for change, faint in (
            (np.asarray, FAINT),
            (_detail, FAINT / 3),
            (lambda cells: cells.reshape(len(cells), -1, 1, 1), FAINT),
        )
    )
    for one, row in enumerate(near):
        found[row] = Similarity(float(colours[one]), float(detail[one]), float(hues[one]))
    return found


def pair_events(
    thumbnails: Sequence[Thumbnail], *, workers: int = 0
) -> Generator[Event, None, list[tuple[int, int, Similarity]]]:
    """All pairs that are alike at first sight, each once, with their similarity where they match best.

    With a `Progress` for each step, two for each image. `workers`: threads; 0: as many as there are cores.
    """
    if not thumbnails:
        return []
    places, count = Windows(), len(thumbnails)
    wholes_MD = np.concatenate([thumbnail.whole_2D for thumbnail in thumbnails])
    bounds_LM = np.ascontiguousarray(_bounds(wholes_MD).T)

    def progress(done: int, of: int, half: int) -> Progress:
        return Progress("compare-pictures", half * count + done * count // of, 2 * count)

    def see(frame: int) -> list[CandidatePair]:
        return _first_sight(frame, thumbnails[frame].windows(places), wholes_MD, bounds_LM)

    def compare(some: Sequence[CandidatePair]) -> list[Similarity]:
        parts, frames = (
            [thumbnails[row] for row in rows] for rows in zip(*((one.part, one.frame) for one in some), strict=True)
        )
        boxes_B4 = places.boxes_N4[[one.place for one in some]]
        return similarities(parts, frames, [one.mirrored for one in some], boxes_B4)

    best: dict[tuple[int, int], CandidatePair] = {}
    # One thread for each task, and none inside matrix products: those would wait for each other.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for done, some in enumerate(pool.map(see, range(count)), 1):
            for one in some:
                if one.pair not in best or one > best[one.pair]:
                    best[one.pair] = one
            yield progress(done, count, 0)
        chosen = sorted(best) if count <= MANY else _nearest({pair: one.score for pair, one in best.items()})
        batches = [[best[pair] for pair in chosen[row : row + BATCH]] for row in range(0, len(chosen), BATCH)]
        found: list[Similarity] = []
        for done, more in enumerate(pool.map(compare, batches), 1):
            found += more
            yield progress(done, len(batches), 1)
    if not batches:
        yield progress(1, 1, 1)
    return [(*pair, one) for pair, one in zip(chosen, found, strict=True)]


def _first_sight(frame: int, cells_ND: Floats, wholes_MD: Floats, bounds_LM: Floats) -> list[CandidatePair]:
    bounds_NL = _bounds(cells_ND)
    most_M = [(bounds_NL @ bounds_LM[:, row : row + CHUNK]).max(0) for row in range(0, len(wholes_MD), CHUNK)]
    rows = np.flatnonzero(np.concatenate(most_M) >= CANDIDATE)
    rows = rows[rows // 2 != frame]
    scores_NR = cells_ND @ wholes_MD[rows].T
    places = scores_NR.argmax(0)
    scores = scores_NR[places, np.arange(len(rows))]
    return [
        CandidatePair(float(scores[one]), int(rows[one]) // 2, frame, bool(rows[one] % 2), int(places[one]))
        for one in np.flatnonzero(scores >= CANDIDATE)
    ]


def _nearest(scores: Mapping[tuple[int, int], float]) -> list[tuple[int, int]]:
    """The pairs that are among the NEAREST of one of their two."""
    counts: Counter[int] = Counter()
    kept = []
    for pair in sorted(scores, key=lambda pair: (-scores[pair], pair)):
        if min(counts[pair[0]], counts[pair[1]]) < NEAREST:
            kept.append(pair)
            counts.update(pair)
    return sorted(kept)


def _bounds(cells_MD: Floats) -> Floats:
    """Short rows whose products are upper bounds of the products of rows of cells (Cauchy-Schwarz on what is left out)."""
    low_ML = cells_MD @ _smooth()
    rest_M = np.sqrt(np.maximum(np.square(cells_MD).sum(1) - np.square(low_ML).sum(1), 0))
    return np.concatenate([low_ML, rest_M[:, None]], axis=1)


@cache
def _smooth() -> Floats:
    """The lowest cosines of COARSE x COARSE cells as columns, orthonormal."""
    angle = np.pi / COARSE * (np.arange(COARSE) + 0.5)[:, None] * np.arange(COARSE // 2)
    waves = (np.cos(angle) / np.sqrt(COARSE / 2)).astype(np.float32)
    waves[:, 0] = COARSE**-0.5
    return np.kron(waves, waves)


def groups(manifest: Manifest) -> tuple[tuple[str, ...], ...]:
    """Every sample's name once, with those that show the same image; in the manifest's order.

    Raises:
        UnusableError: an image can no longer be read.
    """
    thumbnails = [Thumbnail(open_image(sample.path)) for sample in manifest.samples]
    joined = [(i, j) for i, j, found in drained(pair_events(thumbnails)) if found.same]
    contents: dict[str, int] = {}  # flat images have no cells to compare, but equal files are equal
    joined += [(contents.setdefault(sample.sha256, i), i) for i, sample in enumerate(manifest.samples)]
    return tuple(tuple(manifest.samples[row].name for row in group) for group in join(len(manifest.samples), joined))


def join(count: int, joined: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Rows 0..count-1 in groups: rows that a chain of pairs connects are one group."""
    group_of = [[row] for row in range(count)]
    for one, other in joined:
        first, second = group_of[one], group_of[other]
        if first is not second:
            first += second
            for row in second:
                group_of[row] = first
    return sorted(sorted(group) for group in {id(group): group for group in group_of}.values())


def _places(side: float) -> list[float]:
    places: list[float] = np.linspace(0, 1 - side, int(np.ceil((1 - side) / STRIDE)) + 1).tolist()
    return places


def _detail(cells_NKKC: Floats) -> Floats:
    """What is left of each cell without the mean of the 3 x 3 around it."""
    count = cells_NKKC.shape[1]
    padded = np.pad(cells_NKKC, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    around = sum(padded[:, i : i + count, j : j + count] for i in range(3) for j in range(3))
    rest: Floats = cells_NKKC - around / 9
    return rest
