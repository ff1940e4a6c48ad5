"""`export`: a run's result into a folder, or into the place that a program keeps such files in, ready to be used."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from PIL import Image

from tsuika import config, formats
from tsuika.api.files import inspect
from tsuika.api.places import program_at
from tsuika.api.run import JsonResult, starts
from tsuika.core import names
from tsuika.core.errors import FormatError, InterruptedRunError, RecipeError, no_such
from tsuika.core.events import Event, Phase, Previewed, read
from tsuika.core.files import sha256, unused, whole, write_text
from tsuika.core.rundir import RunDir
from tsuika.core.texts import _
from tsuika.evaluation.report_guard import RANGE, role
from tsuika.methods import METHODS
from tsuika.methods.uses import Result, Use, in_tsuika
from tsuika.pages import in_languages

MAIN: Final = "balanced"
PREVIEW_PX: Final = 512


@dataclass(frozen=True)
class Exported(JsonResult):
    """What was put where.

    Attributes:
        file: the result there, a file or a folder.
        program: whose folder it is; empty for a plain one.
        sha256: of the file, there as in the run; empty for a folder.
        beside: the image and the card beside it.
        uses: how each program uses it: `program`, `how` and `note` by language, and `paste`.
    """

    file: Path
    program: str
    sha256: str
    beside: tuple[Path, ...]
    uses: tuple[Mapping[str, Any], ...]


@starts
def export(run: Path | str, to: Path | str, *, which: str = MAIN, name: str = "") -> Generator[Event, None, Exported]:
    """Copy a result of a finished run, read the copy back, and put an image and A1111's card beside it.

    Args:
        run: the run folder.
        to: a folder; if it is A1111's, Forge's or ComfyUI's own, the file goes where that program looks for it.
        which: `safe`, `balanced` (the main result) or `likeness`.
        name: of the file, without suffix; by default the result's. Nothing is overwritten: it gets a number if need be.

    Raises:
        InterruptedRunError: EV004, the run has no result (yet).
        RecipeError: RC002, no such result or name, or a program that does not use such files.
        FormatError: FM003, the copy is not what was copied.
    """
    folder, to = RunDir(Path(run)), Path(to)
    if which not in RANGE:
        raise no_such("--which", which, RANGE)
    if name and (why := names.fault_of(name)):
        raise RecipeError("RC002", key="--name", found=name, why=why)
    yield Phase("write")
    try:
        report = json.loads(folder.report_json.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InterruptedRunError("EV004", where=folder.root) from None
    program, recipe = program_at(to), config.read_tables(folder.recipe)
    every = [row["path"] for row in report["artifacts"]]
    paths = [path for path in every if role(path, every) == ("" if which == MAIN else which)]
    if not paths:
        raise RecipeError("RC002", key="--which", found=which, why=_("The run has no file of this kind."))
    trigger, word = recipe["data"]["trigger"], recipe["data"]["class_word"]
    prompt = f"a {' '.join(filter(None, (trigger, word)))}" if trigger or word else _("your prompt")
    result = Result(report["method"], report["family"], recipe["base"]["model"], trigger, prompt, tuple(paths))
    method = METHODS.get(report["method"])
    uses = list(method.uses(result) if method else in_tsuika(result))
    if result.base == "embedded":
        # Nothing else opens that base.
        uses = [one for one in uses if one.program == "tsuika"]
    use = next((one for one in uses if program and program.name in one.program and one.file), None)
    if program and use is None:
        why = _("{program} does not apply its results.", program=program.name)
        raise RecipeError("RC002", key="--to", found=to, why=why)
    source = next((folder.root / path for path in paths if use and PurePosixPath(path).name == use.file), None)
    source = source or next(
        (folder.root / one for one in paths if (folder.root / one).is_file()), folder.root / paths[0]
    )
    target = unused(to / (use.folder if use else ""), name or source.stem, source.suffix if source.is_file() else "")
    digest = _copied(source, target)
    beside = tuple(_beside(folder, report, trigger, target))
    told = tuple(_told(one, source.relative_to(folder.root), target) for one in uses)
    return Exported(target, program.name if program else "", digest, beside, told)


def _told(use: Use, was: Path, now: Path) -> dict[str, Any]:
    """A use by language, with the place and name that the file has now."""
    paste = use.paste.replace(shlex.quote(was.as_posix()), shlex.quote(str(now)))
    own = use.program == "tsuika"
    how = in_languages(_("On this machine:") if own else use.how)
    return {
        "program": use.program,
        "how": {lang: text.replace(was.stem, now.stem) for lang, text in how.items()},
        "paste": paste if own else paste.replace(was.stem, now.stem),
        "note": in_languages(use.note) if use.note else None,
    }


def _copied(source: Path, target: Path) -> str:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        with whole(target) as temporary:
            shutil.copyfile(source, temporary)
        digest = sha256(target)
        if digest != sha256(source):
            raise FormatError("FM003", where=target, error=1.0, layer="–", limit=0.0)
    if formats.is_artifact(target):
        formats.find(target).read(target)
    else:
        _ = inspect(target).result
    return "" if source.is_dir() else digest


def _beside(folder: RunDir, report: Mapping[str, Any], trigger: str, target: Path) -> Iterator[Path]:
    """An image of the result, and A1111's card: the words that call it up."""
    if previews := [event for event in read(folder.events)[0] if isinstance(event, Previewed)]:
        image = target.with_suffix(".png")
        shown = next(one for one in previews if one.step == previews[-1].step)
        with whole(image) as temporary, Image.open(folder.root / shown.path) as opened:
            side = max(PREVIEW_PX, *opened.size)
            grown = opened.convert("RGB").resize((side, side * opened.height // opened.width), Image.Resampling.LANCZOS)
            grown.save(temporary, format="PNG")
        yield image
    # "sd version" is SD1, SD2 or SDXL there.
    card = {
        "description": "",
        "sd version": report["family"].upper(),
        "activation text": trigger,
        "preferred weight": 1.0,
        "negative text": "",
        "notes": f"tsuika: {report['method']}, step {report.get('best_step') or report['steps_done']}",
    }
    write_text(target.with_suffix(".json"), json.dumps(card, ensure_ascii=False, indent=4) + "\n")
    yield target.with_suffix(".json")
