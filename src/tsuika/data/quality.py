"""Measures of one image's pixels: detail, exposure, bars, pixel repetition.

Knows no set, and no thresholds but those of a single measurement: `check` compares an image with its set.

Detail is what an image loses when it is shrunk and enlarged again, as a share of the contrast where contrast is
strongest: the same for a photograph and a flat drawing, whose edges are all the detail there is.

Shapes: H x W grey levels 0..255, K cells of CELL x CELL pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Kernel = Literal["cubic", "lanczos"]

REACH: Final[dict[Kernel, int]] = {"cubic": 2, "lanczos": 3}  # px to either side
STRIP: Final = 32  # rows of a product: few weights beside those that count
Sides = tuple[int, int, int, int]  # left, top, right, bottom, px

ANALYSIS_PX: Final = 512  # sharpness is compared at this size (side of a square of the same area), as SD1 would see it
REGION_PX: Final = 512  # detail at full size is measured in the sharpest part of this side
CELL: Final = 8
STRONGEST: Final = 0.2  # share of cells, those of the most contrast, that detail is measured in
LEAST_CONTRAST: Final = 3.0  # grey levels (root mean square over these cells): below, there is nothing to measure
EXPOSURE_PX: Final = 160

CRISP: Final = 0.15  # from here on an image holds all the detail that its pixels can; costlier measures are not needed

CLIPPED: Final = 252  # of 255, any channel
WHITE: Final = 250  # all channels
COLOURED: Final = 240  # a channel below it beside one at its end: not white, also after JPEG
BLACK: Final = 12  # all channels

LEAST_RHYTHM_PX: Final = 256  # in shorter rows noise is as strong
RATES: Final = (0.1, 0.48)  # per px; 1 / factor, folded: of 1.11 to 1.92 and more
MOST_STEP: Final = 20  # grey levels, so that a few edges do not outweigh all else

SCREEN: Final = (1 / 20, 0.49)  # per px: dots of 2 to 20 px
# Power over that around it: of halftone 600 and more, also on half of an image; of 31 photographs and 30 drawings, also
# enlarged ones, at most 40.
STANDS_OUT: Final = 150.0

SEAMS: Final = 0.3  # of the grid's lines must be seams for pixels to count as repeated

BAR_RANGE: Final = 14  # grey levels within a row of an even bar; JPEG leaves some
BAR_LEAST: Final = 0.02  # of the side
BAR_STEP: Final = 14  # grey levels between bar and image ...
BAR_UNEVEN: Final = 0.05  # how much thicker one of a pair may be, of both
BAR_EDGE: Final = 0.55  # ... along this share of the edge: an object on an even background does not do that


@dataclass(frozen=True)
class Quality:
    """Measures of one image."""

    sharpness: float  # detail at ANALYSIS_PX, ~0.3; nan: no contrast to tell by
    crispness: float  # detail at full size and a small step, ~0.15; nan as above
    detail: float  # share of the side that would hold all the detail, 0..1
    interpolated: float  # strength of the pattern that interpolation leaves, ~3 without; 0: crisp, not measured
    repeated: int  # times each pixel is repeated, each way; 1: not
    screened: bool  # dots or lines in a regular pattern, as printing makes them: what looks soft or repeated is meant
    clipped: float  # share with a channel at its end
    white: float
    black: float
    tinted: float  # share of the clipped pixels that are not white: light too strong for a colour, no white background
    brightest: float  # grey level of the 99th percentile
    flat: float  # share of pixels equal to their neighbours, among those neither black nor white: drawings
    bars: Sides  # even bars of one colour on opposite sides


def measure(image: Image.Image) -> Quality:
    """All measures of an RGB image."""
    grey_HW = np.asarray(image.convert("L"))
    found = bars(grey_HW)
    if any(found):
        left, top, right, bottom = found
        image = image.crop((left, top, image.width - right, image.height - bottom))
        grey_HW = grey_HW[top : top + image.height, left : left + image.width]
    scale = min(1.0, ANALYSIS_PX / grey_HW.size**0.5)
    whole = _Detail(_resized(grey_HW, scale, "lanczos") if scale < 1 else grey_HW)
    loss_K = whole.loss(2)
    part = _Detail(_sharpest(grey_HW, loss_K, scale))
    crispness = part.lost(1.25)
    share, rhythm = (_detail_share(part), _interpolated(part.pixels_HW)) if crispness < CRISP else (1.0, 0.0)
    repeated = _repeated(part.pixels_HW)
    screened = (crispness < CRISP or repeated > 1) and _is_screened(part.pixels_HW)
    details = whole.share(loss_K), crispness, share, *((0.0, 1) if screened else (rhythm, repeated)), screened
    return Quality(*details, *_exposure(image), _flat(image), found)


def _resized(pixels_HW: Floats | NDArray[np.uint8], scale: float, kernel: Kernel) -> Floats:
    height, width = (max(1, round(side * scale)) for side in pixels_HW.shape)
    return resample(pixels_HW, height, width, kernel)


def _cells(pixels_HW: Floats) -> Floats:
    """Means over cells of CELL x CELL pixels (K); what is left over at the right and below is dropped."""
    height, width = (side // CELL for side in pixels_HW.shape)
    rows = pixels_HW[: height * CELL, : width * CELL].reshape(height, CELL, width * CELL).sum(1)
    means: Floats = rows.reshape(height * width, CELL).sum(1) / CELL**2
    return means


class _Detail:
    """What an image loses when it is shrunk and enlarged again."""

    def __init__(self, pixels_HW: Floats | NDArray[np.uint8]) -> None:
        self.pixels_HW = pixels_HW.astype(np.float32)
        contrast_K = _cells(np.square(self.pixels_HW)) - np.square(_cells(self.pixels_HW))
        self.contrast, self.strong_K = 0.0, np.zeros(0, np.bool_)
        if len(contrast_K) >= 1 / STRONGEST:
            self.strong_K = contrast_K >= np.quantile(contrast_K, 1 - STRONGEST)
            self.contrast = float(contrast_K[self.strong_K].mean())

    def loss(self, factor: float) -> Floats:
        """What shrinking by `factor` loses in each cell, squared (K); too small images have none."""
        if not self.strong_K.size:
            return np.zeros(0, np.float32)
        height, width = self.pixels_HW.shape
        back_HW = resample(_resized(self.pixels_HW, 1 / factor, "cubic"), height, width, "cubic")
        back_HW -= self.pixels_HW
        return _cells(np.square(back_HW, out=back_HW))

    def share(self, loss_K: Floats) -> float:
        """The loss where contrast is strongest, as a share of that contrast; nan: there is none."""
        if self.contrast < LEAST_CONTRAST**2:
            return float("nan")
        return float(np.sqrt(loss_K[self.strong_K].mean() / self.contrast))

    def lost(self, factor: float) -> float:
        """What shrinking by `factor` loses, as `share`."""
        return self.share(self.loss(factor))


def _sharpest(grey_HW: NDArray[np.uint8], loss_K: Floats, scale: float) -> NDArray[np.uint8]:
    """The part, at most REGION_PX each way, that has most detail; whole images of that size stay whole."""
    height, width = (min(REGION_PX, side) for side in grey_HW.shape)
    if max(grey_HW.shape) <= REGION_PX or not loss_K.size:
        return grey_HW[:height, :width]
    columns = max(1, round(grey_HW.shape[1] * scale)) // CELL
    rows = len(loss_K) // columns
    table = np.pad(loss_K.reshape(rows, columns).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    side = max(1, round(REGION_PX * scale / CELL))
    high, wide = min(side, rows), min(side, columns)
    sums = table[high:, wide:] - table[:-high, wide:] - table[high:, :-wide] + table[:-high, :-wide]
    row, column = np.unravel_index(int(sums.argmax()), sums.shape)
    left = min(round(int(column) * CELL / scale), grey_HW.shape[1] - width)
    top = min(round(int(row) * CELL / scale), grey_HW.shape[0] - height)
    return grey_HW[top : top + height, left : left + width]


def _detail_share(region: _Detail) -> float:
    """1 over the factor by which the image can be shrunk until it is as crisp as images are.

    A crisp image loses 0.3 when halved (measured on photographs and drawings); one that was enlarged loses as much
    only when it is shrunk further. Read it as "about".
    """
    crisp, before, step = 0.3, 0.0, 2
    while step <= 16:
        lost = region.lost(step)
        if not lost < crisp:  # also nan
            if step == 2:
                return 1.0
            share = (crisp - before) / max(lost - before, 1e-6)
            return float(2 / (step / 2 * 2**share))
        before, step = lost, step * 2
    return 1 / 16


def _interpolated(pixels_HW: Floats) -> float:
    """The strongest peak in the spectra of second differences, over the median, at one frequency both ways.

    Interpolated pixels are the smoother, the farther they lie from those they were made of, in a rhythm of the factor
    (Gallagher 2005). A pattern in the image seldom has the same one both ways; JPEG's, of eighths, is passed over.
    """
    shortest = min(pixels_HW.shape)
    if shortest < LEAST_RHYTHM_PX:
        return 0.0
    rates = np.fft.rfftfreq(REGION_PX)
    from_jpeg = np.abs(rates - np.round(8 * rates) / 8) <= 2.5 / shortest
    searched = (rates > RATES[0]) & (rates < RATES[1]) & ~from_jpeg
    lines = []
    for rows in (pixels_HW, pixels_HW.T):
        bends = np.abs(rows[:, 2:] - 2 * rows[:, 1:-1] + rows[:, :-2])
        rhythm = np.minimum(bends, MOST_STEP, out=bends).mean(0)
        rhythm -= np.convolve(np.pad(rhythm, 4, mode="edge"), np.full(9, 1 / 9, np.float32), "valid")
        spectrum = np.abs(np.fft.rfft(rhythm * np.hanning(len(rhythm)), REGION_PX))[searched]
        lines.append(spectrum / max(float(np.median(spectrum)), 1e-3))
    return float(np.minimum(*lines).max())


def _is_screened(pixels_HW: Floats) -> bool:
    """Whether one frequency stands out of the image's spectrum: the dots or lines of a print.

    Interpolation and repeated pixels leave a rhythm in differences, and none in the image itself.
    """
    shortest = min(pixels_HW.shape)
    if shortest < LEAST_RHYTHM_PX:
        return False
    window_HW = np.outer(*(np.hanning(side).astype(np.float32) for side in pixels_HW.shape))
    power = np.abs(np.fft.rfft2((pixels_HW - pixels_HW.mean()) * window_HW, (REGION_PX, REGION_PX))) ** 2
    power = np.fft.fftshift(power, 0)
    down, across = np.abs(np.fft.fftshift(np.fft.fftfreq(REGION_PX)))[:, None], np.fft.rfftfreq(REGION_PX)[None]
    searched = (np.hypot(down, across) > SCREEN[0]) & (np.maximum(down, across) < SCREEN[1])
    row, column = np.unravel_index(int(np.where(searched, power, 0).argmax()), power.shape)
    near = round(3 * REGION_PX / shortest)
    inner, outer = (
        power[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
        for reach in (near, 4 * near)
    )
    around = (outer.sum() - inner.sum()) / (outer.size - inner.size)
    return bool(power[row, column] > STANDS_OUT * max(float(around), 1e-3))


def _repeated(pixels_HW: Floats) -> int:
    """By what whole factor an image was enlarged by repeating pixels, 1..8; JPEG afterwards hides it little."""
    across, upright = np.diff(pixels_HW, axis=1), np.diff(pixels_HW, axis=0)
    steps_x, steps_y = np.abs(across, out=across).mean(0), np.abs(upright, out=upright).mean(1)
    return next((factor for factor in range(8, 1, -1) if _seamed(steps_x, factor) and _seamed(steps_y, factor)), 1)


def _seamed(steps: Floats, factor: int) -> bool:
    """Whether neighbours differ on every `factor`-th line, and hardly elsewhere."""
    phases = [steps[phase::factor] for phase in range(factor)]
    means = np.array([phase.mean() if phase.size else 0.0 for phase in phases])
    seam = int(means.argmax())
    # Edges on one grid line alone (a drawing's only contour) prove nothing.
    has_lines = (phases[seam] > 0.25 * means[seam]).sum() >= SEAMS * phases[seam].size
    return bool(means[seam] > 0.5 and has_lines and np.delete(means, seam).mean() < 0.3 * means[seam])


def _exposure(image: Image.Image) -> tuple[float, float, float, float, float]:
    scale = min(1.0, EXPOSURE_PX / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    pixels = np.asarray(image.resize(size, Image.Resampling.NEAREST))  # means would hide what is clipped
    red, green, blue = (pixels[..., colour] for colour in range(3))  # reducing an axis of 3 is slow
    most, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    clipped = most >= CLIPPED
    tinted = clipped & (least < COLOURED)
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    return (
        float(clipped.mean()),
        float((least >= WHITE).mean()),
        float((most <= BLACK).mean()),
        float(tinted.sum() / max(clipped.sum(), 1)),
        float(np.quantile(grey, 0.99)),
    )


def _flat(image: Image.Image) -> float:
    """Whichever is more common, pixels equal to their left or to their upper neighbour: gradients have one of the two."""
    width, height = (min(side, REGION_PX) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    pixels = np.asarray(image.crop((left, top, left + width, top + height)))
    inner, beside, above = pixels[1::8, 1:], pixels[1::8, :-1], pixels[:-1:8, 1:]
    toned = np.zeros(inner.shape[:2], np.bool_)
    even_x, even_y = ~toned, ~toned
    for colour in range(3):  # reducing an axis of 3 is slow
        one = inner[..., colour]
        toned |= (one > BLACK) & (one < WHITE - 5)
        even_x &= one == beside[..., colour]
        even_y &= one == above[: len(inner), :, colour]
    return max(float((toned & even).sum() / max(toned.sum(), 1)) for even in (even_x, even_y))


def bars(pixels_HW: NDArray[np.uint8]) -> Sides:
    """Even bars left and right, or above and below, of one colour each pair: (left, top, right, bottom) in px.

    A bar ends in an edge along most of its length; an even background with an object in it does not.
    """
    (left, right), (top, bottom) = _bar_pair(pixels_HW.T), _bar_pair(pixels_HW)
    height, width = pixels_HW.shape
    if (width - left - right) * (height - top - bottom) < 0.1 * width * height:
        return (0, 0, 0, 0)
    return (left, top, right, bottom)


def _bar_pair(rows_HW: NDArray[np.uint8]) -> tuple[int, int]:
    """Thickness of the even bars above and below; 0 unless they are a pair."""
    (first, level), (second, other) = _bar(rows_HW), _bar(rows_HW[::-1])
    is_pair = first and second and abs(level - other) <= 6
    return (first, second) if is_pair and abs(first - second) <= max(2, BAR_UNEVEN * (first + second)) else (0, 0)


def _bar(rows_HW: NDArray[np.uint8]) -> tuple[int, float]:
    height = len(rows_HW)
    level, thick, least = float(np.median(rows_HW[0])), 0, max(2, round(BAR_LEAST * height))
    for first in range(0, height // 2, least):
        near = np.abs(rows_HW[first : min(first + least, height // 2)].astype(np.int16) - level)
        even = (near > BAR_RANGE).mean(1) <= 0.02
        thick += int(even.size if even.all() else even.argmin())
        if not even.all():
            break
    else:
        return 0, level
    if thick < least:
        return 0, level
    ahead = rows_HW[thick : thick + 2 + height // 64].astype(np.int16)  # JPEG blurs the edge
    step = (np.abs(ahead - level) > BAR_STEP).mean(1)
    return (thick, level) if step.size and float(step.max()) >= BAR_EDGE else (0, level)


def resample(pixels_HW: NDArray[np.float32] | NDArray[np.uint8], height: int, width: int, kernel: Kernel) -> Floats:
    """A grey image at another size, (height, width): as Pillow does it, but in float and several times faster.

    Each output row is a weighted sum of a few input rows, so a strip of output rows is a small matrix product. Kernels: Keys
    1981 (cubic, a = -0.5) and Lanczos 1979 (3 lobes), widened when shrinking; the edge's missing pixels are left out.
    """
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
        away = np.abs(np.arange(low, high) + 0.5 - centres[:, None]) / widened
        if kernel == "lanczos":
            weights = np.where(away < 3, np.sinc(away) * np.sinc(away / 3), 0.0)
        else:
            near, far = (1.5 * away - 2.5) * away**2 + 1, ((-0.5 * away + 2.5) * away - 4) * away + 2
            weights = np.where(away < 1, near, np.where(away < 2, far, 0.0))
        strips.append((first, low, (weights / weights.sum(1, keepdims=True)).astype(np.float32)))
    return tuple(strips)
