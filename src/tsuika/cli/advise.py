"""`tsuika advise`: parse, call `tsuika.api`, show one recommendation and its alternatives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Optional

import typer

from tsuika.cli import early, language, layout, progress, screen
from tsuika.cli.flags import BaseModel, ClassWord, Device, Json, Trigger
from tsuika.cli.language import local
from tsuika.core.texts import Text, _, _n, listed

_EVIDENCE: Final[Mapping[str, Text]] = {
    "measured": _("measured"),
    "published": _("published"),
    "folklore": _("hearsay"),
    "known": _("fact"),
}
_REASONS: Final = (6, 2)  # reasons for and against, each: of the recommendation, and of an alternative


def advise(
    images: Annotated[Path, typer.Option("--images", help=_("Folder of training images; never changed."))],
    goal: Annotated[str, typer.Option("--goal", help=_("Goal: character, style, object or concept."))],
    base: BaseModel = "embedded",
    vram_gb: Annotated[
        Optional[float],
        typer.Option("--vram-gb", help=_("GPU memory (VRAM) in GB that it must fit into; default: this machine's.")),
    ] = None,
    max_file_mb: Annotated[Optional[float], typer.Option("--max-file-mb", help=_("Largest file size in MB."))] = None,
    program: Annotated[
        str, typer.Option("--for", help=_("Program it must work in: A1111, Forge, ComfyUI, diffusers or tsuika."))
    ] = "",
    trigger: Trigger = "",
    class_word: ClassWord = "",
    out: Annotated[Optional[Path], typer.Option("--out", help=_("Folder for the recipes (TOML)."))] = None,
    device: Device = "auto",
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure",
            help=_("Try a few training steps to estimate the time (seconds); without, no time is given."),
        ),
    ] = True,
    json: Json = False,
) -> None:
    """`tsuika advise`."""
    given = {name: value for name, value in locals().items() if name != "json"}
    early.check(images=str(images))
    import tsuika

    found = progress.watch(tsuika.advise(**given)).to_dict()
    if json:
        screen.result(found, as_json=True)
    else:
        for line in _lines(found):
            screen.print_out(line)


def _words(row: Mapping[str, str]) -> str:
    return row.get(language.current(), row["en"])


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    from tsuika.advice.reasons import GOALS

    images = _n("{count} image", "{count} images", found["pictures"])
    about = {"images": images, "goal": GOALS[found["goal"]], "base": found["base"]}
    yield layout.wrap(local(_("{images} of {goal}, base model: {base}", **about)), rest="  ")
    yield from (layout.wrap(_words(row), first="  ", rest="  ") for row in found["notes"])
    recommended = found["recommendation"]
    yield ""
    yield layout.wrap(local(_("Recommended: {title}", title=_words(recommended["title"]))), rest="  ")
    yield from _option(recommended, _REASONS[0])
    for number, option in enumerate(found["alternatives"], 1):
        yield ""
        title = _("Alternative {number}: {title}", number=number, title=_words(option["title"]))
        yield layout.wrap(local(title), rest="  ")
        yield from _option(option, _REASONS[1])
    yield ""
    yield from _evidence(_("Combining"), _said(found["combine"]))
    yield from _evidence(_("Rules of thumb, and what was measured"), _said(found["rules_of_thumb"]))
    left = [
        (one["why"]["strength"], f"{_words(one['title'])}: {_words(one['why'])}") for one in found["not_recommended"]
    ]
    yield from _evidence(_("Not chosen this time"), left)
    if "recipe_file" not in recommended:
        yield layout.wrap(local(_("To keep the recipes, add --out FOLDER.")))


def _option(option: Mapping[str, Any], reasons: int) -> Iterator[str]:
    yield layout.table([(f"  {local(name)}", local(value)) for name, value in _facts(option)])
    yield from _evidence(_("Why"), _said(option["reasons"][:reasons]))
    yield from _evidence(_("Against it"), _said(option["against"][:reasons]))


def _facts(option: Mapping[str, Any]) -> Iterator[tuple[Text, Text | str]]:
    yield _("time"), _time(option)
    counted = option["memory_basis"] == "counted"
    text = _("about {memory:.1f} GB (counted)") if counted else _("about {memory:.1f} GB (measured here)")
    yield _("memory (VRAM)"), text.filled({"memory": option["memory_gb"]})
    yield _("file"), _size(option["file_bytes"])
    yield _("works in"), listed(option["works_in"])
    if "recipe_file" in option:
        yield _("start"), f"tsuika train --recipe {option['recipe_file']} --out RUN"


def _time(option: Mapping[str, Any]) -> Text:
    if option["time_basis"] == "unknown":
        return _("{steps:,} steps at most; nothing was measured", steps=option["steps"])
    known = {"steps": option["steps"], "time": _duration(option["seconds"])}
    if option["time_basis"] == "scaled":
        text = _("very roughly {time} at most for {steps:,} steps (from this machine's speed)", **known)
    else:
        known |= {"step": _duration(option["step_seconds"]), "date": option["measured_on"]}
        text = _("at most {time} for {steps:,} steps (measured here on {date}: {step} for a step)", **known)
    if option["trainings"] <= 1:
        return text
    known = {"time": text, "count": math.ceil(option["trainings"])}
    return _(
        "{time}; up to {count} training runs in all: the overfitting guard's, and those for its other files", **known
    )


def _said(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(row["strength"], _words(row)) for row in rows]


def _evidence(title: Text, rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Reasons below a title, each with what it rests on."""
    if rows:
        yield f"  {local(title)}"
        yield layout.table([(f"    {local(_EVIDENCE[strength])}", words) for strength, words in rows])


def _duration(seconds: float) -> Text:
    units = ((86400, _("{number} days")), (3600, _("{number} h")), (60, _("{number} min")), (1, _("{number} s")))
    size, unit = next(one for one in units if seconds >= 1.5 * one[0] or one[0] == 1)
    number = seconds / size
    return unit.filled({"number": f"{number:.2g}" if number < 10 else f"{number:,.0f}"})


def _size(size: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1000:.1f} KB"
