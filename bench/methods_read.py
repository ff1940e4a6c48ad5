"""The tables of bench/methods, and the file of measurements that `tsuika advise` reads. No torch.

A gain is the drop of the loss on fresh pictures against the base, in per cent of it, at the best of the checks. A seed stands for
other training pictures, other fresh ones and another start. Intervals of 95 % are over seeds, paired where two methods are
compared; three seeds alone say little about their variance, so it is pooled over the goals and numbers of pictures of a method.
They say nothing about other concepts.
"""

from __future__ import annotations

import json
import lzma
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from tsuika.core.files import write_text
from tsuika.guard.reading import Grid, estimate, minus, t95

METHODS = ("lora", "textual-inversion", "dreambooth", "hypernetwork", "textual-inversion + lora")
PLAIN = "lora without convolutions"
Cell = dict[str, Any]


def load(folder: Path) -> tuple[list[Cell], list[Cell]]:
    """Cells, with their grids made relative to the one base of each goal and seed; and pairs. Of a folder or a packed file."""
    if folder.is_dir():
        rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    else:
        with lzma.open(folder, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
    cells, pairs = [row for row in rows if "goal" in row], [row for row in rows if "pair" in row and "rows" in row]
    plain = {(one["goal"], one["seed"]): one["base"] for one in cells if one["method"] in ("lora", "dreambooth")}
    cells = [one for one in cells if (one["goal"], one["seed"]) in plain]
    for one in cells:
        reference = plain[one["goal"], one["seed"]]
        # Log losses; of some pictures a timestep of the high range follows.
        middle = len(one["rows"][0]["mid"][0])
        shift = np.array([line[:middle] for line in one["base"]]) - np.array([line[:middle] for line in reference])
        for row in one["rows"]:
            row["mid"] = tuple(map(tuple, (np.array(row["mid"]) + shift).tolist()))
        one["best"] = min(one["rows"], key=lambda row: value(row["mid"]))
    return cells, pairs


def value(grid: Grid) -> float:
    return fmean(number for line in grid for number in line)


def percent(log_ratio: float) -> float:
    """Drop of the loss in per cent; below 0 it rose."""
    return round(100 * (1 - math.exp(log_ratio)), 2)


def told(mean: float, half: float) -> dict[str, float]:
    return {"mean": percent(mean), "low": percent(mean + half), "high": percent(mean - half)}


BySeed = dict[int, Grid]


class Spread:
    """Means over seeds with their intervals, from what seeds differ by in all rows of a kind."""

    def __init__(self, rows: Iterable[BySeed]) -> None:
        several = [[value(grid) for grid in row.values()] for row in rows if len(row) > 1]
        self._freedom = sum(len(values) - 1 for values in several)
        squares = sum((one - fmean(values)) ** 2 for values in several for one in values)
        self._variance = squares / max(1, self._freedom)

    def told(self, row: BySeed) -> dict[str, float]:
        """With one seed everywhere, the interval is over its fresh pictures."""
        if not self._freedom:
            found = estimate([line for grid in row.values() for line in grid])
            return told(found.mean, found.high - found.mean)
        return told(fmean(map(value, row.values())), t95(self._freedom) * math.sqrt(self._variance / len(row)))


def summary(folder: Path) -> dict[str, Any]:
    """What `advise` reads: `cells` for the embedded base, `cells_without_convolutions` for others, where a LoRA has none."""
    cells, pairs = load(folder)
    own = [one for one in cells if one["method"] != PLAIN]
    others = [{**one, "method": "lora"} if one["method"] == PLAIN else one for one in cells if one["method"] != "lora"]
    return {
        "what": "bench/methods.py on the embedded base: drop of the loss on fresh pictures, per cent, best of six checks",
        "seconds": round(min((one["rows"][-1]["seconds"] for one in cells), default=0)),
        "cells": rows_of(own),
        "cells_without_convolutions": rows_of(others),
        "pairs": pair_rows(pairs),
    }


def rows_of(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row for each goal, number of pictures and method."""
    by: dict[tuple[str, int, str], dict[int, Cell]] = defaultdict(dict)
    for one in cells:
        by[one["goal"], one["pictures"], one["method"]][one["seed"]] = one
    gains = {key: {seed: one["best"]["mid"] for seed, one in seeds.items()} for key, seeds in by.items()}
    against = {key: rival for key in gains if (rival := _against(key, gains))}
    spread = {method: Spread(row for key, row in gains.items() if key[2] == method) for method in METHODS}
    apart = {method: Spread(row for key, (_, row) in against.items() if key[2] == method) for method in METHODS}
    rows = []
    for key, seeds in sorted(by.items(), key=lambda item: (item[0][0], item[0][1], METHODS.index(item[0][2]))):
        goal, count, method = key
        mine = list(seeds.values())
        row = {
            "goal": goal,
            "pictures": count,
            "method": method,
            "seeds": len(mine),
            "gain": spread[method].told(gains[key]),
            "by_seed": [percent(value(one["best"]["mid"])) for one in mine],
            "early": percent(fmean(value(one["rows"][1]["mid"]) for one in mine)),
            "end": percent(fmean(value(one["rows"][-1]["mid"]) for one in mine)),
            "best_s": round(fmean(one["best"]["seconds"] for one in mine), 1),
            "steps": round(fmean(one["best"]["step"] for one in mine)),
            "fidelity": round(fmean(one["scores"]["fidelity"] for one in mine), 3),
            "adherence": round(fmean(one["scores"]["adherence"] for one in mine), 3),
            "drift": round(fmean(one["best"]["drift"] for one in mine), 4),
            "bytes": round(fmean(one["bytes"] for one in mine)),
        }
        if key in against:
            rival, gaps = against[key]
            row["against"] = {"method": rival, **apart[method].told(gaps)}
        rows.append(row)
    return rows


def _against(key: tuple[str, int, str], gains: Mapping[tuple[str, int, str], BySeed]) -> tuple[str, BySeed] | None:
    """The best of the other methods, and how much smaller this one's loss is on the same fresh pictures."""
    mine = gains[key]
    rivals = {
        other[2]: row
        for other, row in gains.items()
        if other[:2] == key[:2] and other[2] in METHODS[:4] and other != key and row.keys() & mine.keys()
    }
    if not rivals:
        return None
    best = min(rivals, key=lambda method: fmean(map(value, rivals[method].values())))
    return best, {seed: minus(mine[seed], rivals[best][seed]) for seed in sorted(mine.keys() & rivals[best].keys())}


SIDES = {"first": (1, 0), "second": (0, 1), "both": (1, 1)}  # which strengths are above zero


def pair_rows(pairs: Sequence[Cell]) -> list[Cell]:
    """Strengths are chosen on every other fresh picture, and told by the rest."""

    def rows(one: Cell, side: str) -> list[Cell]:
        return [row for row in one["rows"] if tuple(int(strength > 0) for strength in row["strengths"]) == SIDES[side]]

    def best(one: Cell, *sides: str) -> Cell:
        return min((row for side in sides for row in rows(one, side)), key=lambda row: value(row["mid"][0::2]))

    def rest(row: Cell) -> Grid:
        return tuple(row["mid"][1::2])

    by_name: dict[str, dict[int, Cell]] = defaultdict(dict)
    for pair in pairs:
        by_name[pair["pair"]][pair["seed"]] = pair
    sides = {
        side: {name: {seed: rest(best(one, side)) for seed, one in ones.items()} for name, ones in by_name.items()}
        for side in SIDES
    }
    over = {
        name: {seed: minus(sides["both"][name][seed], rest(best(one, "first", "second"))) for seed, one in ones.items()}
        for name, ones in by_name.items()
    }
    found = []
    for name, ones in by_name.items():
        row = {"name": name, "seeds": len(ones), "over_best_alone": Spread(over.values()).told(over[name])}
        for side, gains in sides.items():
            full = [next(r for r in rows(one, side) if set(r["strengths"]) <= {0.0, 1.0}) for one in ones.values()]
            row[side] = Spread(gains.values()).told(gains[name])
            row[f"{side}_strengths"] = [best(one, side)["strengths"] for one in ones.values()]
            row[f"{side}_fidelity"] = round(fmean(one["scores"]["fidelity"] for one in full), 3)
        found.append(row)
    return found


def read(folder: Path, write: Path | None) -> None:
    """Print the tables; write the file."""
    found = summary(folder)
    without = [{**row, "method": PLAIN} for row in found["cells_without_convolutions"] if row["method"] == "lora"]
    print(
        "| goal | pictures | method | seeds | gain, % | loss below the best other's, % | at a third of the time, % | at the end, % |"
        " best after, s | likeness (style: distance) | adherence | drift | file, KB |\n|" + "---|" * 13
    )
    for row in [*found["cells"], *without]:
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
        )
    print(
        "\n| two together | seeds | first alone, % | second alone, % | both, % | loss of both below the better one's, % | likeness:"
        " first, second, both |\n|" + "---|" * 7
    )
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
