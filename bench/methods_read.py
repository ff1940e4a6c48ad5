"""The tables of bench/methods, and the file of measurements that `tsuika advise` reads. No torch.

A gain is the drop of the loss on fresh pictures against the base, in per cent of it, at the best of the checks; intervals of
95 % are over fresh pictures of all seeds, paired where two methods are compared. They say nothing about other concepts.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tsuika.core.files import write_text
from tsuika.guard.reading import Estimate, Grid, estimate, minus

SIDES = ("first", "second", "both")
METHODS = ("lora", "textual-inversion", "dreambooth", "hypernetwork", "textual-inversion + lora")
Cell = dict[str, Any]


def load(folder: Path) -> tuple[list[Cell], list[Cell]]:
    """Cells, with their grids made relative to the one base of each goal and seed; and pairs."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    cells, pairs = [row for row in rows if "goal" in row], [row for row in rows if "pair" in row and "rows" in row]
    plain = {(one["goal"], one["seed"]): one["base"] for one in cells if one["method"] in ("lora", "dreambooth")}
    cells = [one for one in cells if (one["goal"], one["seed"]) in plain]
    for one in cells:
        reference = plain[one["goal"], one["seed"]]
        shift = [math.log(own) - math.log(base) for own, base in zip(one["base"], reference, strict=True)]
        width = len(one["rows"][0]["mid"][0])
        for row in one["rows"]:
            row["mid"] = tuple(
                tuple(value + shift[i * width + t] for t, value in enumerate(line)) for i, line in enumerate(row["mid"])
            )
        one["best"] = min(one["rows"], key=lambda row: value(row["mid"]))
    return cells, pairs


def value(grid: Grid) -> float:
    return fmean(number for line in grid for number in line)


def percent(log_ratio: float) -> float:
    """Drop of the loss in per cent; below 0 it rose."""
    return round(100 * (1 - math.exp(log_ratio)), 2)


def told(found: Estimate) -> dict[str, float]:
    return {"mean": percent(found.mean), "low": percent(found.high), "high": percent(found.low)}


def summary(folder: Path) -> dict[str, Any]:
    """What `advise` reads."""
    cells, pairs = load(folder)
    by: dict[tuple[str, int, str], dict[int, Cell]] = defaultdict(dict)
    for one in cells:
        by[one["goal"], one["pictures"], one["method"]][one["seed"]] = one
    rows = []
    for (goal, count, method), seeds in sorted(
        by.items(), key=lambda item: (item[0][0], item[0][1], METHODS.index(item[0][2]))
    ):
        rivals = [
            theirs
            for (g, c, m), theirs in by.items()
            if (g, c) == (goal, count) and m in METHODS[:4] and m != method and theirs.keys() & seeds.keys()
        ]
        mine = list(seeds.values())
        gain = estimate([line for one in mine for line in one["best"]["mid"]])
        row = {
            "goal": goal, "pictures": count, "method": method, "seeds": len(mine), "gain": told(gain),
            "by_seed": [percent(value(one["best"]["mid"])) for one in mine],
            "early": percent(fmean(value(one["rows"][1]["mid"]) for one in mine)),
            "end": percent(fmean(value(one["rows"][-1]["mid"]) for one in mine)),
            "best_s": round(fmean(one["best"]["seconds"] for one in mine), 1),
            "steps": round(fmean(one["best"]["step"] for one in mine)),
            "fidelity": round(fmean(one["scores"]["fidelity"] for one in mine), 3),
            "adherence": round(fmean(one["scores"]["adherence"] for one in mine), 3),
            "drift": round(fmean(one["best"]["drift"] for one in mine), 4), "bytes": round(fmean(one["bytes"] for one in mine)),
        }  # fmt: skip
        if rivals:
            best = min(rivals, key=lambda theirs: fmean(value(one["best"]["mid"]) for one in theirs.values()))
            row["against"] = {"method": next(iter(best.values()))["method"], **paired(seeds, best)}
        rows.append(row)
    return {
        "what": "bench/methods.py on the embedded base: drop of the loss on fresh pictures, per cent, best of six checks",
        "seconds": round(min((one["rows"][-1]["seconds"] for one in cells), default=0)),
        "cells": rows,
        "pairs": [pair_row(name, pairs) for name in dict.fromkeys(pair["pair"] for pair in pairs)],
    }  # fmt: skip


def paired(mine: dict[int, Cell], theirs: dict[int, Cell]) -> dict[str, float]:
    """How much smaller my loss is than theirs, in per cent, on the same fresh pictures."""
    common = sorted(mine.keys() & theirs.keys())
    gaps = [line for seed in common for line in minus(mine[seed]["best"]["mid"], theirs[seed]["best"]["mid"])]
    return told(estimate(gaps))


def pair_row(name: str, pairs: Sequence[Cell]) -> dict[str, Any]:
    """Strengths are chosen on every other fresh picture, and told by the rest."""
    ones = [pair for pair in pairs if pair["pair"] == name]
    sides = {"first": (1, 0), "second": (0, 1), "both": (1, 1)}  # which are above zero

    def rows(one: Cell, side: tuple[int, int]) -> list[Cell]:
        return [row for row in one["rows"] if tuple(int(strength > 0) for strength in row["strengths"]) == side]

    def best(one: Cell, *wanted: tuple[int, int]) -> Cell:
        return min((row for side in wanted for row in rows(one, side)), key=lambda row: value(row["mid"][0::2]))

    picked = {side: [best(one, zeros) for one in ones] for side, zeros in sides.items()}
    alone = [best(one, sides["first"], sides["second"]) for one in ones]
    gaps = [
        line
        for both, single in zip(picked["both"], alone, strict=True)
        for line in minus(tuple(both["mid"][1::2]), tuple(single["mid"][1::2]))
    ]
    row: dict[str, Any] = {"name": name, "seeds": len(ones), "over_best_alone": told(estimate(gaps))}
    for side, chosen in picked.items():
        row[side] = told(estimate([line for one in chosen for line in one["mid"][1::2]]))
        row[f"{side}_strengths"] = chosen[0]["strengths"]
        full = [next(r for r in rows(one, sides[side]) if set(r["strengths"]) <= {0.0, 1.0}) for one in ones]
        row[f"{side}_fidelity"] = round(fmean(one["scores"]["fidelity"] for one in full), 3)
    return row


def read(folder: Path, write: Path | None) -> None:
    """Print the tables; write the file."""
    found = summary(folder)
    print("| goal | pictures | method | seeds | gain, % | loss below the best other's, % | at a third of the time, % | at the end, % |"
          " best after, s | likeness (style: distance) | adherence | drift | file, KB |\n|" + "---|" * 13)  # fmt: skip
    for row in found["cells"]:
        gain, against = row["gain"], row.get("against")
        rival = (
            f"{against['mean']:+.1f} ({against['low']:+.1f} … {against['high']:+.1f}), {against['method']}"
            if against
            else "–"
        )
        print(
            f"| {row['goal']} | {row['pictures']} | {row['method']} | {row['seeds']} | {gain['mean']:.1f} ({gain['low']:.1f} … "
            f"{gain['high']:.1f}) | {rival} | {row['early']:.1f} | {row['end']:.1f} | {row['best_s']:.0f} | {row['fidelity']:.3f} "
            f"| {row['adherence']:.2f} | {row['drift']:.3f} | {row['bytes'] / 1000:,.0f} |"
        )  # fmt: skip
    print("\n| two together | seeds | first alone, % | second alone, % | both, % | loss of both below the better one's, % | likeness:"
          " first, second, both |\n|" + "---|" * 7)  # fmt: skip
    for pair in found["pairs"]:
        over = pair["over_best_alone"]
        gains = " | ".join(f"{pair[side]['mean']:.1f}" for side in SIDES)
        likeness = ", ".join(f"{pair[side + '_fidelity']:.2f}" for side in SIDES)
        print(
            f"| {pair['name']} | {pair['seeds']} | {gains} | {over['mean']:+.1f} ({over['low']:+.1f} … {over['high']:+.1f}) "
            f"| {likeness} |"
        )
    if write:
        write_text(write, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
