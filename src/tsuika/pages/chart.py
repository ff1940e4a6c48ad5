"""Curves as SVG paths in a box of 1000 x 300, with ticks and marks in percent of it; whoever draws them brings the frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import numpy as np

LEAST_PERCENT: Final = 0.3  # what small fine-tunes gain; a frame of less would show noise as a curve
CURVE_POINTS: Final = 600  # more would be narrower than a screen's pixels


def smoothed(losses: Sequence[float]) -> list[float]:
    """A Gaussian average with a width of a fortieth of the run; steps that are not finite do not count."""
    values = np.asarray(losses, float)
    good = np.isfinite(values)
    sigma = max(1.0, len(values) / 40)
    reach = math.ceil(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    total = np.convolve(np.where(good, values, 0.0), kernel)[reach : reach + len(values)]
    weight = np.convolve(good.astype(float), kernel)[reach : reach + len(values)]
    return [float(t / w) if w > 1e-9 else math.nan for t, w in zip(total, weight, strict=True)]


@dataclass(frozen=True)
class LossCurve:
    """The loss curve ready to draw: SVG paths in a 1000 x 300 box, and ticks as (percent, label)."""

    raw: str
    smooth: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    best: float | None  # percent


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers inside low..high."""
    rough = (high - low) / about
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda candidate: abs(math.log(candidate / rough)))
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _path(steps: Sequence[float], heights: Sequence[float]) -> str:
    stretches = groupby(zip(steps, heights, strict=True), key=lambda place: math.isfinite(place[1]))
    drawn = ("L".join(f"{x:.1f} {y:.1f}" for x, y in places) for is_finite, places in stretches if is_finite)
    return "".join(f"M{path}" for path in drawn)


def curve(losses: Sequence[float], best_step: int | None = None) -> LossCurve | None:
    """The training-loss curve; None if no loss is finite. Gaps stand for losses that were not finite."""
    values = np.asarray(losses, float)
    if not np.isfinite(values).any():
        return None
    low, high = _frame(values)
    last = max(len(values), 2)

    def x(step: float) -> float:
        return (step - 1) / (last - 1) * 1000

    bins = np.array_split(np.arange(len(values)), min(len(values), CURVE_POINTS))
    smooth, middles = smoothed(losses), [int(part[len(part) // 2]) for part in bins]
    middles = sorted({0, *middles, len(values) - 1})
    return LossCurve(
        raw=_raw(values, x),
        smooth=_path([x(i + 1) for i in middles], [_height(smooth[i], low, high) for i in middles]),
        x_ticks=tuple((x(tick) / 10, f"{tick:,.0f}") for tick in nice_ticks(0, last, 5) if tick >= 1),
        y_ticks=tuple((_height(tick, low, high) / 3, f"{tick:.3g}") for tick in nice_ticks(low, high, 4)),
        best=x(best_step) / 10 if best_step else None,
    )


def _frame(values: Any) -> tuple[float, float]:
    """Lowest and highest of a frame for losses. A lone spike must not flatten them: it is cut off at the frame."""
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(np.percentile(finite, 99))
    pad = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return (max(0.0, low - pad) if low >= 0 else low - pad), high + pad


def _height(loss: float, low: float, high: float) -> float:
    return min(max((high - loss) / (high - low), 0.0), 1.0) * 300 if math.isfinite(loss) else math.nan


def _raw(values: Any, x: Callable[[float], float]) -> str:
    """Every loss of a run; where they are too many, the lowest and highest of each bin keep the noise as wide as it is."""
    low, high = _frame(values)
    picked = list(range(len(values)))
    if len(values) > CURVE_POINTS:
        bins = np.array_split(np.arange(len(values)), CURVE_POINTS)
        picked = [int(i) for part in bins for i in sorted({_edge(values, part, 1.0), _edge(values, part, -1.0)})]
    return _path([x(i + 1) for i in picked], [_height(float(values[i]), low, high) for i in picked])


def _edge(values: Any, part: Any, sign: float) -> int:
    return int(part[np.argmax(np.where(np.isfinite(values[part]), sign * values[part], -np.inf))])


CurvePoint = tuple[float, float | None]  # step, value; None where there is no number


@dataclass(frozen=True)
class Plot:
    """Curves of the guard's checks: `lines` are CSS classes with their paths, the lowest first."""

    lines: tuple[tuple[str, str], ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    zero: float  # percent of the height
    marks: Mapping[str, float]  # percent of the width, by name
    span: tuple[float, float] | None  # percent of the width
    highest: float | None  # the largest value, if it lies above the frame


def plot(
    lines: Mapping[str, Sequence[CurvePoint]],
    *,
    band: Sequence[tuple[float, float | None, float | None]] = (),
    losses: Sequence[float] = (),
    marks: Mapping[str, int | None] | None = None,
    span: tuple[int, int] | None = None,
    cap: bool = False,
) -> Plot | None:
    """Lines over steps, by CSS class, in percent; None if no value is finite.

    `band`: step, low, high, as far as it fits; `losses`: one a step from step 1, thin, behind, to a scale of their own; `marks`:
    steps by name; `span`: steps between which the ground is shaded; `cap`: what a diverged run rises to may leave the frame, so
    as not to flatten the dip that one looks for.
    """
    values = [value for points in lines.values() for _, value in points if value is not None and math.isfinite(value)]
    if not values:
        return None
    low, high = min(-LEAST_PERCENT, *values), max(LEAST_PERCENT / 2, *values)
    cut = high if cap and high > max(10.0, -3 * low) else None
    high = max(10.0, -3 * low) if cut is not None else high
    ends = [end for _, *both in band for end in both if end is not None and math.isfinite(end)]
    reach = 0.6 * (high - low)
    low = max(min([low, *ends]), low - reach)
    high = min(max([high, *ends]), high + reach) if cut is None else high
    pad = 0.06 * (high - low)
    low, high = low - pad, high + pad
    last = max([step for points in lines.values() for step, _ in points] + [len(losses), 1])

    def x(step: float) -> float:
        return step / last * 1000

    def y(value: float | None) -> float:
        if value is None or not math.isfinite(value):
            return math.nan
        return min(max((high - value) / (high - low), -0.5), 1.5) * 300  # beyond the frame the image ends

    drawn: list[tuple[str, str]] = []
    if any(math.isfinite(loss) for loss in losses):
        drawn.append(("raw", _raw(np.asarray(losses, float), x)))
    drawn.append(("band", _area([x(step) for step, *_ in band], [(y(a), y(b)) for _, a, b in band])))
    for name, points in lines.items():
        xs, ys = [x(step) for step, _ in points], [y(value) for _, value in points]
        dots = "".join(f"M{a:.1f} {b:.1f}h.01" for a, b in zip(xs, ys, strict=True) if math.isfinite(b))
        drawn += [(name, _path(xs, ys)), (f"{name} dots", dots)]
    return Plot(
        lines=tuple((name, path) for name, path in drawn if path),
        x_ticks=tuple((x(tick) / 10, f"{tick:,.0f}") for tick in nice_ticks(0, last, 5) if tick >= 1),
        y_ticks=tuple((y(tick) / 3, f"{tick:+.3g}%" if tick else "0%") for tick in nice_ticks(low, high, 4)),
        zero=y(0.0) / 3,
        marks={name: x(step) / 10 for name, step in (marks or {}).items() if step is not None},
        span=(x(span[0]) / 10, min(x(span[1]) / 10, 100.0)) if span else None,
        highest=cut,
    )


def _area(xs: Sequence[float], ends: Sequence[tuple[float, float]]) -> str:
    """The ground between two lines, in one piece for each stretch where both are finite."""
    words: list[str] = []
    places = [(x, *both) for x, both in zip(xs, ends, strict=True)]
    for is_finite, stretch in groupby(places, key=lambda place: math.isfinite(place[1]) and math.isfinite(place[2])):
        if is_finite:
            piece = list(stretch)
            there = [f"{x:.1f} {high:.1f}" for x, _, high in piece]
            back = [f"{x:.1f} {low:.1f}" for x, low, _ in reversed(piece)]
            words.append(f"M{'L'.join(there + back)}Z")
    return "".join(words)
