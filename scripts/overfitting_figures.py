"""Draws the figures of docs/overfitting.md from measured runs; nothing in them is invented.

    python scripts/overfitting_figures.py DATA --measure     # trains; some minutes a figure
    python scripts/overfitting_figures.py DATA [--out docs/pictures]

The runs are those of RUNS: a LoRA of the mascot, trained and measured as `bench/guard/collect.py` does. DATA holds a file
for each. The guard hears the checks of such a run where it would have made them; the thin line is the truth, measured on
fresh pictures that no user has. Prints what was drawn.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, Final

from tsuika.core.files import write_text
from tsuika.core.messages import percent
from tsuika.guard.judge import Judge, Range, Verdict
from tsuika.guard.reading import Check, Grid, Ratios, Reading, mean
from tsuika.pages.chart import LossCurve, Plot, curve, plot

# Pictures, the share of them that is held out, learning rate, steps.
RUNS: Final = {
    "overfitted": (12, 0.5, 3e-3, 320),
    "nothing": (12, 0.5, 1e-7, 40),
    "diverged": (12, 0.5, 1.5e-2, 40),
    "healthy": (50, 0.15, 2e-3, 160),
}
WIDTH, LEFT, RIGHT, HEIGHT, GAP = 760, 66, 18, 230, 78

COUNTS_AS: Final = 10  # the judge's constants in steps are meant for runs ten times as long (bench/guard/README.md)

WORDS: Final = {
    "held": ("held-out pictures", "検証用画像"),
    "train": ("training pictures", "学習用画像"),
    "truth": ("the truth: fresh pictures", "真の値: 学習にも検証にも使わない画像"),
    "mid": ("gap in detail", "細部の差"),
    "high": ("gap in layout", "構図の差"),
    "drift": ("drift on unrelated prompts", "ほかへの影響"),
    "raw": ("loss of each step", "各ステップのロス"),
    "smooth": ("smoothed", "ならした値"),
    "loss": ("Training loss", "学習ロス"),
    "curves": ("Loss against the untrained base", "学習前と比べたロス"),
    "gaps": ("Signs of memorizing", "丸暗記の兆候"),
    "step": ("step", "ステップ"),
    "best": ("best: {}", "最良: {}"),
    "stop": ("the guard stops: {}", "ガードが停止: {}"),
}
STYLE: Final = """
  .card { fill: #fff; stroke: #e6e1d8 } text { font: 12px system-ui, "Hiragino Sans", "Yu Gothic UI", "Noto Sans CJK JP", sans-serif; fill: #6b6776 }
  .title { font-size: 14px; font-weight: 600; fill: #23212b } .line { stroke: #e6e1d8 } .zero { stroke: #6b6776 } .span { fill: #f3efe8 }
  path { fill: none; stroke-linejoin: round } .raw { stroke: #a09aa8; stroke-width: .8; opacity: .5 } .smooth { stroke: #a09aa8; stroke-width: 2.5 }
  .band { fill: #0b8a86; opacity: .16 } .held, .mid { stroke: #0b8a86; stroke-width: 2.5 } .train { stroke: #7c5cc4; stroke-width: 2; stroke-dasharray: 7 5 }
  .truth { stroke: #23212b; stroke-width: 1.2 } .high { stroke: #b4560c; stroke-width: 2.5; stroke-dasharray: 7 5 }
  .drift { stroke: #6b6776; stroke-width: 2; stroke-dasharray: 1 5; stroke-linecap: round }
  .dots { stroke-width: 6; stroke-dasharray: none; stroke-linecap: round } .truth.dots { stroke-width: 3 }
  .best { stroke: #23212b; stroke-width: 1.5; stroke-dasharray: 5 4 } .stop { stroke: #b4560c; stroke-width: 2 }
  text.mark { paint-order: stroke; stroke: #fff; stroke-width: 4px; stroke-linejoin: round; fill: #23212b } text.of-stop { fill: #b4560c }
  @media (prefers-color-scheme: dark) {
    .card { fill: #1e1d25; stroke: #33313d } text { fill: #a5a1b3 } .title { fill: #eceaf2 } .line { stroke: #33313d } .zero { stroke: #a5a1b3 } .span { fill: #282630 }
    .band { fill: #3fd0c4 } .held, .mid { stroke: #3fd0c4 } .train { stroke: #b7a0f5 } .truth, .best { stroke: #eceaf2 } .high, .stop { stroke: #f5b067 }
    text.mark { stroke: #1e1d25; fill: #eceaf2 } text.of-stop { fill: #f5b067 }
  }"""  # noqa: E501


@dataclass(frozen=True)
class Told:
    """A run as the guard would have heard it, in steps of the bench."""

    verdicts: tuple[Verdict, ...]  # to the end of the run, whatever was said
    stopped: Verdict | None  # the first that says stop
    truth: tuple[tuple[int, float | None], ...]
    losses: tuple[float, ...]

    @property
    def last(self) -> Verdict:
        """What a user would have been told at the end."""
        return self.stopped or self.verdicts[-1]


def measure(folder: Path) -> None:
    """Train what is not in the folder yet."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "bench" / "guard"))
    import collect

    folder.mkdir(parents=True, exist_ok=True)
    collect.torch.set_num_threads(1)
    bench = collect.Bench()
    for name, (pictures, share, rate, steps) in RUNS.items():
        if (path := folder / f"{name}.json").exists():
            continue
        one = collect.Configuration("lora", "mascot", pictures, 0)
        recipe = collect.recipe_of(one, steps, rate)
        bank = collect.bank_of(bench.model, collect.drawn(one.concept, pictures, one.seed), recipe)
        fresh = collect.bank_of(bench.model, collect.drawn(one.concept, collect.POPULATION, 1000), recipe)
        parted = collect.split([(file,) for file in bank.names], one.seed, share=share)
        out = parted.parts[0]
        rest = tuple(file for file in bank.names if file not in out)
        lane = collect.Lane(
            "all", rest, out, parted.train_probe(max(2, len(out)))
        )  # of this kind losses and the truth are kept
        lanes = [bench.lane(recipe, bank, lane, collect.subjects(fresh, key="fresh"))]
        write_text(
            path, json.dumps({"steps": steps, "rate": rate, "recipe": recipe.model_dump(mode="json"), "lanes": lanes})
        )
        print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)


def ratios(table: dict[str, Any] | None) -> Ratios:
    def grid(rows: Sequence[Sequence[float | None]]) -> Grid:
        return tuple(tuple(math.nan if value is None else value for value in row) for row in rows)

    return Ratios(grid(table["mid"]), grid(table["high"])) if table else Ratios()


def read(path: Path) -> Told:
    """A run of RUNS."""
    run = json.loads(path.read_text(encoding="utf-8"))
    (lane,) = run["lanes"]
    judge, truth = Judge(COUNTS_AS * run["steps"], run["rate"]), []
    for row in lane["rungs"]:
        step, due = row["step"], judge.next_step()
        truth.append((step, _percent(mean(ratios(row["population"]).mid))))
        if due is not None and COUNTS_AS * step >= due:
            reading = Reading(ratios(row["held_out"]), ratios(row["train"]), row["drift"], row["own_drift"])
            judge.update(Check(COUNTS_AS * step, reading))
    verdicts = tuple(map(in_bench_steps, judge.verdicts))
    stopped = next((verdict for verdict in verdicts if verdict.kind == "stop"), None)
    return Told(verdicts, stopped, tuple(truth), tuple(lane["losses"]))


def in_bench_steps(verdict: Verdict) -> Verdict:
    now = verdict.evidence
    safe, balanced, likeness = (step // COUNTS_AS for step in (now.range.safe, now.range.balanced, now.range.likeness))
    there = Range(safe, balanced, likeness)
    return replace(
        verdict, evidence=replace(now, step=now.step // COUNTS_AS, best_step=now.best_step // COUNTS_AS, range=there)
    )


def curves(told: Told) -> Plot:
    """Held-out pictures, training pictures and the truth."""
    seen = [verdict.evidence for verdict in told.verdicts]
    best = told.last.evidence.range
    drawn = plot(
        {
            "truth": told.truth,
            "train": [(one.step, _percent(one.train)) for one in seen],
            "held": [(one.step, _percent(one.held_out.mean if one.held_out else None)) for one in seen],
        },
        band=[(one.step, _percent(one.held_out.low), _percent(one.held_out.high)) for one in seen if one.held_out],
        marks={"best": best.balanced or None, "stop": told.stopped.evidence.step if told.stopped else None},
        span=(best.safe, best.likeness) if best.balanced else None,
        cap=bool(best.balanced),
    )
    assert drawn is not None
    return drawn


def gaps(told: Told) -> Plot:
    """What training pictures are ahead by, and drift."""
    seen = [verdict.evidence for verdict in told.verdicts]
    drawn = plot(
        {
            "drift": [(one.step, 100 * one.drift) for one in seen if one.drift is not None],
            "mid": [(one.step, _percent(one.gap_mid)) for one in seen],
            "high": [(one.step, _percent(one.gap_high)) for one in seen],
        }
    )
    assert drawn is not None
    return drawn


def _percent(value: float | None) -> float | None:
    return 100 * math.expm1(min(value, 50.0)) if value is not None and math.isfinite(value) else None


def figure(panels: Sequence[tuple[str, Plot | LossCurve]], steps: dict[str, int], language: int) -> str:
    """Panels one above the other, as an SVG file that stands alone."""
    inner = WIDTH - LEFT - RIGHT
    parts = [
        f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{len(panels) * (HEIGHT + GAP) - 1}" rx="12"/>'
    ]

    def word(key: str) -> str:
        return WORDS[key][language]

    for number, (title, panel) in enumerate(panels):
        top = number * (HEIGHT + GAP) + 38
        high = HEIGHT - 20
        lines = panel.lines if isinstance(panel, Plot) else (("raw", panel.raw), ("smooth", panel.smooth))
        parts.append(f'<text class="title" x="16" y="{top - 16}">{escape(word(title))}</text>')
        if isinstance(panel, Plot) and panel.span:
            left, right = (LEFT + place * inner / 100 for place in panel.span)
            parts.append(f'<rect class="span" x="{left:.1f}" y="{top}" width="{right - left:.1f}" height="{high}"/>')
        for place, label in panel.y_ticks:
            y = top + place * high / 100
            parts.append(f'<path class="line" d="M{LEFT} {y:.1f}h{inner}"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        if isinstance(panel, Plot):
            parts.append(f'<path class="zero" d="M{LEFT} {top + panel.zero * high / 100:.1f}h{inner}"/>')
        box = f'x="{LEFT}" y="{top}" width="{inner}" height="{high}" viewBox="0 0 1000 300" preserveAspectRatio="none"'
        paths = "".join(f'<path class="{kind}" vector-effect="non-scaling-stroke" d="{path}"/>' for kind, path in lines)
        parts.append(f"<svg {box}>{paths}</svg>")
        for place, label in panel.x_ticks:
            parts.append(
                f'<text x="{LEFT + place * inner / 100:.1f}" y="{top + high + 17}" text-anchor="middle">{label}</text>'
            )
        parts.append(f'<text x="16" y="{top + high + 17}">{escape(word("step"))}</text>')
        for row, (mark, place) in enumerate(panel.marks.items() if isinstance(panel, Plot) else ()):
            x, before = LEFT + place * inner / 100, place >= 50
            parts.append(f'<path class="{mark}" d="M{x:.1f} {top}v{high}"/>')
            parts.append(
                f'<text class="mark of-{mark}" x="{x + (-7 if before else 7):.1f}" y="{top + 13 + 17 * row}" '
                f'text-anchor="{"end" if before else "start"}">{escape(word(mark).format(steps[mark]))}</text>'
            )
        x, y = LEFT, top + high + 40
        for key in reversed([kind for kind, _ in lines if kind in WORDS]):
            parts.append(
                f'<path class="{key}" d="M{x} {y - 4}h24"/><text x="{x + 30}" y="{y}">{escape(word(key))}</text>'
            )
            x += 62 + (13 if language else 7) * len(word(key))
    whole = len(panels) * (HEIGHT + GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {whole}" width="{WIDTH}" height="{whole}" role="img">'
        f"<style>{STYLE}\n</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "pictures")
    parser.add_argument("--measure", action="store_true", help="train what DATA lacks, and draw nothing")
    options = parser.parse_args()
    if options.measure:
        measure(options.data)
        return
    for name in RUNS:
        if not (file := options.data / f"{name}.json").exists():
            print(f"{name}: not measured yet")
            continue
        told = read(file)
        last = told.last.evidence
        steps = {"best": last.range.balanced, "stop": told.stopped.evidence.step if told.stopped else 0}
        panels: list[tuple[str, Plot | LossCurve]] = [("curves", curves(told))]
        if name == "overfitted":
            panels.append(("gaps", gaps(told)))
        for language, suffix in enumerate(("", ".ja")):
            path = options.out / f"overfitting-{name}{suffix}.svg"
            path.write_text(figure(panels, steps, language), encoding="utf-8")
        if name == "overfitted" and (raw := curve(told.losses)) is not None:
            for language, suffix in enumerate(("", ".ja")):
                path = options.out / f"overfitting-loss{suffix}.svg"
                path.write_text(figure([("loss", raw)], {}, language), encoding="utf-8")
        known = [(value, step) for step, value in told.truth if value is not None]
        held = last.best.mean if last.best else None
        print(
            f"{name}: best {last.range.balanced} ({percent(held)}), range {last.range.safe}-{last.range.likeness}, "
            f"stop {steps['stop']} ({told.last.code}); the truth: best {min(known)}, at the end {told.truth[-1]}, at all {told.truth}"
        )


if __name__ == "__main__":
    main()
