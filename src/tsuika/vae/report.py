"""A comparison as one self-contained HTML page: advice, numbers, color against texture, crops and difference maps."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tsuika import pages
from tsuika.core.events import Warned
from tsuika.core.texts import _, languages, listed
from tsuika.pages.chart import nice_ticks
from tsuika.vae import metrics, roundtrip
from tsuika.vae.compare import ComparedImage, Comparison, VaeResult

SHOWN: Final = 4  # images whose crops are shown
CROP_PX: Final = 128
_BRIGHT: Final = 10.0  # CIEDE2000 at the bright end of a difference map
# Dark violet over red to yellow, evenly brighter: positions, and sRGB there.
_STOPS: Final = (
    (0.0, 0.25, 0.5, 0.75, 1.0),
    ((10, 8, 30), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)),
)
_COLUMNS: Final = {
    "psnr": _("PSNR, dB"),
    "ssim": _("SSIM"),
    "colour": _("color ΔE"),
    "colour_p95": _("ΔE, worst {share}", share="5%"),
    "chroma": _("chroma"),
    "texture": _("fine detail"),
    "texture_error": _("texture error"),
}
_PURPOSES: Final = {
    "texture": (_("Texture"), _("fine contrast nearest to the originals")),
    "colour": (_("Color"), _("smallest mean color difference")),
    "lines": (_("Line art"), _("smallest differences where they are largest: at edges")),
}
_ENCODERS: Final = {
    "same": _("the same: latents and training stay as they are"),
    "rounded": _("the same, rounded: latents stay as they are"),
    "other": _("another: latents and training are affected"),
}


def render(comparison: Comparison, images: Sequence[ComparedImage], *, base: str, size_px: int, lang: str) -> str:
    """The page, opening in `lang`; `images` are the originals, in the comparison's order, `size_px` of the shorter sides."""
    return pages.template(__package__, "report.html.j2").render(
        language=lang,
        comparison=comparison,
        base=base,
        size_px=size_px,
        columns=_COLUMNS,
        purposes=_PURPOSES,
        encoders=_ENCODERS,
        numbers=pages.sentences(
            _(
                "Means over the images. Below: the difference from the built-in VAE with its {level} interval, so that all"
                " intervals of a measure hold together at {together}; marked where it is not chance.",
                level=f"{100 * comparison.level:.3g}%",
                together="95%",
            ),
            _("Images differ among themselves by more than VAEs do, so only differences on the same image count."),
        ),
        cells=partial(_cell, comparison),
        plot=_plot(comparison),
        rows=_rows(comparison, images),
        uri=partial(pages.data_uri, side_px=2 * CROP_PX),
        found=_found,
        number=_number,
        span_of=pages.span_of,
        listed=listed,
        findings=[warned for one in comparison.results for warned in one.findings],
    )


def _found(warned: Warned) -> Markup:
    """A finding; flags in it become code."""
    return pages.spans(
        {lang: re.sub(r"(?<![\w`-])(--[\w-]+)(?!`)", r"`\1`", warned.words(lang)) for lang in languages()}
    )


def _number(value: float, digits: int = 3) -> str:
    if not math.isfinite(value):
        return "∞" if value > 0 else "–"
    return f"{value:.{digits}g}" if abs(value) < 100 else f"{value:.0f}"


def _cell(comparison: Comparison, result: VaeResult, name: str) -> dict[str, Any]:
    """A number of the table, its difference from the base's own, and whether that is better, worse or neither."""
    digits = 4 if name in ("psnr", "ssim") else 3
    cell: dict[str, Any] = {"mean": _number(metrics.mean(result.rows, name), digits), "change": "", "verdict": ""}
    if result.against:
        change = result.against[name]
        cell["change"] = pages.span_of(_signed(change.low), _signed(change.high)) if change.is_bounded else "?"
        better = metrics.MEASURES[name]
        # Without a direction, nearer to 1 is better.
        if better is None:
            mean, own = (
                abs(math.log(max(metrics.mean(one.rows, name), 1e-9))) for one in (result, comparison.results[0])
            )
            cell["verdict"] = "" if change.sign == 0 else "better" if mean < own else "worse"
        elif change.sign:
            cell["verdict"] = "better" if (change.sign > 0) == better else "worse"
    return cell


def _signed(value: float) -> str:
    if abs(value) < 5e-4:
        return "0"
    return f"{value:+.2g}" if math.isfinite(value) else "?"


_WIDTH, _HEIGHT = 640, 340
_LEFT, _TOP, _RIGHT, _BOTTOM = 64, 18, 616, 290


def _plot(comparison: Comparison) -> dict[str, Any] | None:
    """Colour against texture error, in a box of 640 x 340; None where fewer than two VAEs gave numbers."""
    points = {
        one.name: (metrics.mean(one.rows, "colour"), metrics.mean(one.rows, "texture_error"), one.is_sound)
        for one in comparison.results
    }
    points = {name: point for name, point in points.items() if all(map(math.isfinite, point[:2]))}
    if len(points) < 2:
        return None
    spans = [_frame([point[axis] for point in points.values()]) for axis in (0, 1)]

    def at(x: float, y: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = spans
        return (_LEFT + (x - x0) / (x1 - x0) * (_RIGHT - _LEFT), _BOTTOM - (y - y0) / (y1 - y0) * (_BOTTOM - _TOP))

    dots, taken = [], list[tuple[float, float]]()
    for name, (x, y, is_sound) in sorted(points.items(), key=lambda item: item[1][1]):
        left, top = at(x, y)
        is_right = left > (_LEFT + _RIGHT) / 2
        height = top + 4
        while any(abs(height - other) < 15 and abs(left - near) < 220 for near, other in taken):
            height -= 15
        taken.append((left, height))
        dot = {"name": name, "x": left, "y": top, "sound": is_sound, "label_y": height}
        beside = {"anchor": "end", "label_x": left - 10} if is_right else {"anchor": "start", "label_x": left + 10}
        dots.append(dot | beside)
    front = sorted(at(*points[name][:2]) for name in comparison.pareto if name in points)
    ticks = [
        [(at(v, spans[1][0])[0], _number(v)) for v in nice_ticks(*spans[0], 5)],
        [(at(spans[0][0], v)[1], _number(v)) for v in nice_ticks(*spans[1], 5)],
    ]
    return {"dots": dots, "front": " ".join(f"{x:.1f},{y:.1f}" for x, y in front), "ticks": ticks}


def _frame(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = 0.15 * (high - low) or 0.1 * abs(high) or 1.0
    return max(0.0, low - pad), high + pad


def _rows(comparison: Comparison, images: Sequence[ComparedImage]) -> list[dict[str, Any]]:
    """The images on which sound VAEs differ most, one of each group, cut to where they do."""
    shown = [one for one in comparison.results if one.is_sound] or list(comparison.results)
    colours = [[one.rows[n]["colour"] for one in shown] for n in range(len(images))]
    spread = [max(row) - min(row) for row in colours]
    order = sorted(range(len(images)), key=lambda n: -spread[n] if math.isfinite(spread[n]) else 0.0)
    rows: list[dict[str, Any]] = []
    groups: set[int] = set()
    for number in order:
        if len(rows) == SHOWN or images[number].group in groups:
            continue
        groups.add(images[number].group)
        rows.append(_row(comparison, shown, images[number], number))
    return rows


def _row(comparison: Comparison, shown: Sequence[VaeResult], image: ComparedImage, number: int) -> dict[str, Any]:
    original = roundtrip.to_bytes(image.pixels_13HW[0])
    truth, results = _lab(original), comparison.results
    maps = {one.name: metrics.ciede2000(_lab(one.images[number]), truth)[0].numpy() for one in results}
    stack = np.stack([maps[one.name] for one in shown])
    top, left = _busiest(stack.max(0) - stack.min(0) if len(stack) > 1 else stack[0])
    cut = (slice(top, top + CROP_PX), slice(left, left + CROP_PX))
    return {
        "name": image.name,
        "original": Image.fromarray(original[cut]),
        "vaes": [
            {
                "name": one.name,
                "crop": Image.fromarray(one.images[number][cut]),
                "map": _heat(maps[one.name][cut]),
                "colour": one.rows[number]["colour"],
            }
            for one in comparison.results
        ],
    }


@torch.no_grad()
def _lab(pixels_HW3: NDArray[Any]) -> Tensor:
    return metrics.to_lab(roundtrip.to_signal(Image.fromarray(pixels_HW3)))


def _busiest(difference_HW: NDArray[Any]) -> tuple[int, int]:
    """Top and left of the crop with the largest sum."""
    height, width = (max(0, side - CROP_PX) for side in difference_HW.shape)
    table = np.pad(difference_HW, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    tops, lefts = np.arange(0, height + 1, 8), np.arange(0, width + 1, 8)
    bottoms, rights = (np.minimum(first + CROP_PX, side) for first, side in zip((tops, lefts), difference_HW.shape))
    low, high = table[bottoms], table[tops]
    sums = low[:, rights] - high[:, rights] - low[:, lefts] + high[:, lefts]
    row, column = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(tops[row]), int(lefts[column])


def _heat(difference_HW: NDArray[Any]) -> Image.Image:
    share = np.clip(difference_HW / _BRIGHT, 0, 1)
    places, colours = _STOPS
    planes = [np.interp(share, places, [colour[plane] for colour in colours]) for plane in range(3)]
    return Image.fromarray(np.stack(planes, -1).round().astype(np.uint8))
