"""The curves and the rules as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from curves import Run
from rules import BASELINES, VARIANTS, judged, kept, outcome, refitted

from tsuika.guard.reading import estimate


def svg_curves(runs: Sequence[Run]) -> str:
    """Small panels: the truth, what the guard heard with its interval, the train probe, and what was chosen."""
    width, height, columns = 300, 190, 3
    panels = []
    for place, run in enumerate(runs):
        ox, oy = (place % columns) * width, (place // columns) * height
        steps = run.folds[0].held_out.steps
        pooled = np.concatenate([fold.held_out.values for fold in run.folds], axis=1)
        twins = np.concatenate([fold.twin.values for fold in run.folds], axis=1).mean((1, 2))
        says = [estimate(tuple(map(tuple, rows))) for rows in pooled]
        low = 1.25 * min(run.truth.mean().min(), pooled.mean((1, 2)).min())
        shown = np.logical_and.accumulate(twins > low)
        top = max(0.02, pooled.mean((1, 2)).max(), run.truth.mean().max())

        def x(step: float, ox: float = ox, run: Run = run) -> float:
            return ox + 40 + (width - 55) * math.log(max(step, 6) / 6) / math.log(run.steps / 6)

        def y(value: float, oy: float = oy, low: float = low, top: float = top) -> float:
            return oy + 24 + (height - 54) * (top - min(max(value, low), top)) / (top - low)

        def path(xs: Iterable[float], ys: Iterable[float], x: Any = x, y: Any = y) -> str:
            return " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(xs, ys))

        band = path([*steps, *steps[::-1]], [*(s.high for s in says), *(s.low for s in says[::-1])])
        found = judged(run)
        step = refitted(run, found.best)
        panels.append(
            f'<text x="{ox + 40}" y="{oy + 15}" class="t">{run.name}</text>'
            f'<polygon points="{band}" class="band"/><polyline points="{path(steps[shown], twins[shown])}" class="twin"/>'
            f'<polyline points="{path(steps, pooled.mean((1, 2)))}" class="held"/>'
            f'<polyline points="{path(run.truth.steps, run.truth.mean())}" class="truth"/>'
            f'<line x1="{x(found.stop):.1f}" x2="{x(found.stop):.1f}" y1="{oy + 24}" y2="{oy + height - 30}" class="stop"/>'
            f'<circle cx="{x(step):.1f}" cy="{y(run.truth.at(step)):.1f}" r="4" class="kept"/>'
            f'<text x="{ox + 36}" y="{y(0) + 4:.1f}" class="n" text-anchor="end">0</text>'
            f'<text x="{ox + 36}" y="{y(low) + 4:.1f}" class="n" text-anchor="end">{100 * low:.0f}</text>'
            + "".join(
                f'<text x="{x(tick):.1f}" y="{oy + height - 14}" class="n" text-anchor="middle">{tick}</text>'
                for tick in (8, 20, 50, 100, 200)
                if tick <= run.steps
            )
        )
    total = math.ceil(len(runs) / columns) * height + 26
    style = (
        ".t{font:12px sans-serif;fill:#333}.n{font:10px sans-serif;fill:#666}polyline{fill:none;stroke-width:1.8}"
        ".band{fill:#2a6fb0;opacity:.15}.held{stroke:#2a6fb0}.twin{stroke:#bbb}.truth{stroke:#111}"
        ".stop{stroke:#c33;stroke-dasharray:4 3}.kept{fill:#c33}"
    )
    legend = (
        "black: truth (all pictures); blue: held out, 95 %; grey: train probe; red: guard's stop (line), step kept (dot), had "
        "it started again. x: steps, y: pp"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{columns * width}" height="{total}" '
        f'viewBox="0 0 {columns * width} {total}"><style>{style}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'{"".join(panels)}<text x="40" y="{total - 8}" class="n">{legend}</text></svg>\n'
    )


def svg_rules(runs: Sequence[Run]) -> str:
    """Mean regret of each rule and each other way, as bars with standard errors."""
    bars: list[tuple[str, list[float], str]] = [("the guard", [run.regret(kept(run)) for run in runs], "#c33")]
    bars += [(name, [outcome(run, rule)[0] for run in runs], "#2a6fb0") for name, rule in VARIANTS.items()]
    bars += [(name, [run.regret(f(run)[0]) for run in runs], "#999") for name, f in BASELINES.items()]
    bars.sort(key=lambda bar: float(np.mean(bar[1])))
    longest = max(float(np.mean(values)) for _, values, _ in bars)
    rows = []
    for place, (name, values, colour) in enumerate(bars):
        y, mean = 8 + 19 * place, float(np.mean(values))
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        long, more = 420 * mean / longest, 420 * error / longest
        rows.append(
            f'<text x="300" y="{y + 11}" text-anchor="end">{name}</text>'
            f'<rect x="306" y="{y}" width="{long:.1f}" height="13" fill="{colour}"/>'
            f'<line x1="{306 + long - more:.1f}" x2="{306 + long + more:.1f}" y1="{y + 6.5}" y2="{y + 6.5}" stroke="#111"/>'
            f'<text x="{312 + long + more:.1f}" y="{y + 11}">{100 * mean:.2f}</text>'
        )
    total = 8 + 19 * len(bars) + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="820" height="{total}" viewBox="0 0 820 {total}">'
        f'<style>text{{font:11px sans-serif;fill:#222}}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(rows)}'
        f'<text x="306" y="{total - 8}">mean regret, pp, ± standard error; {len(runs)} runs</text></svg>\n'
    )
