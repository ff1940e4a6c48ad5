"""`grid`: a sheet of images along up to three axes, drawn cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from tsuika.api.drawing import Renderer, as_drawing, check_files, check_strengths
from tsuika.api.run import Events, starts
from tsuika.core import files
from tsuika.core.errors import RecipeError
from tsuika.core.events import Event, Phase, Warned
from tsuika.core.texts import _
from tsuika.generation import axes, png_info
from tsuika.generation.axes import Axis, parse_axis
from tsuika.generation.drawing import Drawing
from tsuika.generation.grid import grid as lay_out
from tsuika.generation.grid import stack
from tsuika.generation.pipeline import known_sampler

CELLS = "cells"  # the folder of single images beside the sheet
SHEET = "grid.png"


@dataclass(frozen=True)
class CellDrawn(Event):
    """An image of the sheet is done."""

    done: int
    total: int
    labels: tuple[str, ...]  # its value on x, y and z
    place: tuple[int, ...]  # its number on x, y and z
    seed: int
    path: str  # of its own file; empty where only the sheet is kept


@dataclass(frozen=True)
class SheetWritten(Event):
    """The sheet is written; cells that were not drawn are left empty."""

    path: str
    done: int
    total: int


@dataclass(frozen=True)
class _Cell:
    """An image and how it was made."""

    image: Image.Image
    info: png_info.GenerationInfo
    own: dict[str, Any]


@dataclass(frozen=True)
class Sheet:
    """A sheet of images that is written.

    Attributes:
        path: the PNG.
        cells: one for each image that was drawn.
        notes: findings.
    """

    path: Path
    cells: tuple[CellDrawn, ...]
    notes: tuple[Warned, ...]


@starts
def grid(
    drawing: Drawing | str,
    out: Path | str,
    *,
    x: str,
    y: str = "",
    z: str = "",
    overwrite: bool = False,
    **settings: Any,
) -> Events[Sheet]:
    """Draw a sheet: one image a cell, with labels.

    What is expensive changes least often, whichever axis it is on. Closing the run, or an error, still writes the sheet
    of what is done.

    Args:
        drawing: what is drawn, or just its prompt.
        out: the PNG, or a folder for `grid.png` and every image in `cells/`.
        x: the axis along a row: `AXIS=V1,V2,...` (see `generation.axes`).
        y: the axis down.
        z: an axis of which each value has a sheet of its own in the same image.
        overwrite: whether the PNG may be there already.
        settings: fields of `Drawing`, as for `generate`.

    Raises:
        TsuikaError: an `out` that is there already (RC007), an axis or value that cannot be, and what `generate` raises.
    """
    drawing, out = as_drawing(drawing, settings), Path(out)
    # The first axis there has to be.
    chosen = [axes.spread(parse_axis(text), drawing) for text in (x, *filter(None, (y, z)))]
    # Of the others only the last one would be drawn, under the labels of both.
    names = [(axis.name, axis.of) for axis in chosen if axis.name not in axes.ADDING]
    if twice := next((name for name, of in names if names.count((name, of)) > 1), ""):
        raise RecipeError("RC002", key="axis", found=twice, why=_("Each axis can be there once."))
    places = axes.order(chosen)
    plan = {place: _at(chosen, place, drawing) for place in places}
    only_sheet = out.suffix.lower() == ".png" and not out.is_dir()
    sheet = out if only_sheet else out / SHEET
    for path in (sheet,) if only_sheet else (sheet, out / CELLS):
        files.check_out(path, overwrite=overwrite and path == sheet)
    cells: dict[tuple[int, ...], _Cell] = {}
    drawn: list[CellDrawn] = []
    with Renderer() as renderer:
        requests = [request for one in plan.values() for request in renderer.requests(one)]
        check_strengths(plan.values(), requests)
        check_files(plan.values(), requests)
        for sampler in {one.sampler for one in plan.values() if one.sampler}:
            known_sampler(sampler)
        yield Phase("grid", len(places))
        told = 0
        try:
            for place, one in plan.items():
                renderer.set_up(one)
                (image,) = renderer.draw(one)
                cell = cells[place] = _Cell(image, renderer.info(one, image.size), renderer.own(one))
                file = None if only_sheet else out / CELLS / f"{'-'.join(f'{number:03d}' for number in place)}.png"
                labels = tuple(axis.labels[number] for axis, number in zip(chosen, place))
                if file:
                    png_info.write_png(file, image, cell.info, {**cell.own, "cell": labels})
                yield from renderer.notes[told:]
                told = len(renderer.notes)
                drawn.append(CellDrawn(len(cells), len(places), labels, place, one.seed, str(file or "")))
                yield drawn[-1]
        finally:
            warnings = _write(sheet, chosen, cells) if cells else []
        yield from warnings
        yield SheetWritten(str(sheet), len(cells), len(places))
        return Sheet(sheet, tuple(drawn), (*renderer.notes, *warnings))


def _at(chosen: Sequence[Axis], place: Sequence[int], drawing: Drawing) -> Drawing:
    # Strengths first: they are by a file's name, and a step puts another file in its place.
    for axis, number in sorted(zip(chosen, place), key=lambda pair: pair[0].name != "strength"):
        drawing = axis.put(number, drawing)
    return drawing


def _write(path: Path, chosen: Sequence[Axis], cells: dict[tuple[int, ...], _Cell]) -> list[Warned]:
    """The sheet, with the text of its first image, the axes in the words of the A1111 web UI, and every cell's own."""
    rows = chosen[1].labels if len(chosen) > 1 else ("",)
    sheets, warnings = [], []
    for number, title in enumerate(chosen[2].labels if len(chosen) > 2 else ("",)):
        places = [(column, row, number) for row in range(len(rows)) for column in range(len(chosen[0].values))]
        found = [cells.get(place[: len(chosen)]) for place in places]
        images = [cell.image if cell else None for cell in found]
        sheet, warned = lay_out(images, rows, chosen[0].labels, title)
        sheets.append(sheet)
        warnings += [one for one in warned if one not in warnings]
    first = cells[min(cells)]
    told = {"Script": "X/Y/Z plot"}
    for letter, axis in zip("XYZ", chosen):
        told |= {f"{letter} Type": axis.name, f"{letter} Values": ", ".join(map(str, axis.values))}
    own = {
        "axes": [asdict(axis) for axis in chosen],
        "cells": [{"place": place, "seed": cell.info.seed, **cell.own} for place, cell in sorted(cells.items())],
    }
    png_info.write_png(path, stack(sheets), replace(first.info, extra=told), own)
    return warnings
