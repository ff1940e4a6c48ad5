"""`export`: a run's result into a folder, or into the place that a program keeps such files in, ready to be used."""

from __future__ import annotations

import json
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
from tsuika.api.status import triggers
from tsuika.core import kept, names
from tsuika.core.errors import FormatError, InterruptedRunError, RecipeError, no_such
from tsuika.core.events import Event, Phase, Previewed, read
from tsuika.core.files import check_place, sha256, unused, whole, write_text
from tsuika.core.rundir import RunDir
from tsuika.core.texts import _
from tsuika.evaluation.report_guard import RANGE, role
from tsuika.evaluation.run_record import read_report
from tsuika.families import FAMILIES
from tsuika.methods import METHODS, title
from tsuika.methods.uses import Result, Use, in_tsuika
from tsuika.pages import in_languages

MAIN: Final = "balanced"
PREVIEW_PX: Final = 512
A1111_VERSIONS: Final = ("SD1", "SD2", "SDXL")


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
    if name and (why := names.fault_of(name)):
        raise RecipeError("RC002", key="--name", found=name, why=why)
    yield Phase("write")
    check_place(to, is_folder=True)
    program, ended = program_at(to), finished(folder, which)
    uses = ended.uses(ended.base, ended.paths)
    use = next((one for one in uses if program and program.name in one.program and one.file), None)
    if program and use is None:
        why = _("{program} does not apply its results.", program=program.name)
        raise RecipeError("RC002", key="--to", found=to, why=why)
    source = next((folder.root / path for path in ended.paths if use and PurePosixPath(path).name == use.file), None)
    source = source or next(
        (folder.root / one for one in ended.paths if (folder.root / one).is_file()), folder.root / ended.paths[0]
    )
    target = unused(to / (use.folder if use else ""), name or source.stem, source.suffix if source.is_file() else "")
    digest = _copied(source, target)
    beside = tuple(_beside(ended, source, target))
    told = tuple(map(_told, ended.uses(ended.base, (target.as_posix(),))))
    return Exported(target, program.name if program else "", digest, beside, told)


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended, with one of its results.

    Attributes:
        folder: of the run.
        report: the content of its `report.json`.
        base: as in the recipe.
        trigger: the trigger word, of several sets the first one's.
        triggers: all of them.
        prompt: an example.
        paths: of the result, relative to the run folder, `/` between.
    """

    folder: RunDir
    report: Mapping[str, Any]
    base: str
    trigger: str
    triggers: tuple[str, ...]
    prompt: str
    paths: tuple[str, ...]

    def uses(self, base: str, paths: tuple[str, ...]) -> Iterator[Use]:
        """How programs use the result, where the base is called so, and the files lie there."""
        result = Result(self.report["method"], self.report["family"], base, self.trigger, self.prompt, paths)
        method = METHODS.get(result.method)
        for one in method.uses(result) if method else in_tsuika(result):
            # Nothing else opens the embedded base.
            if base != "embedded" or one.program == "tsuika":
                yield one

    def previews(self) -> list[Previewed]:
        """All that lie in the run folder, whatever else a file of events may name."""
        drawn = (event for event in read(self.folder.events)[0] if isinstance(event, Previewed))
        place = self.folder.samples.resolve()
        return [one for one in drawn if (self.folder.root / one.path).resolve().is_relative_to(place)]


def finished(folder: RunDir, which: str) -> FinishedRun:
    """A run and its `safe`, `balanced` or `likeness` result.

    Raises:
        RecipeError: TR002, this is no run folder; EV004, the run has no result (yet).
        FormatError: TR011, its report or recipe was changed.
        RecipeError: RC002, no such result.
    """
    if which not in RANGE:
        raise no_such("--which", which, RANGE)
    if not folder.recipe.is_file():
        raise RecipeError("TR002", where=folder.root)
    if not folder.report_json.is_file():
        raise InterruptedRunError("EV004", where=folder.root)
    report = read_report(folder.report_json)
    if report["family"] not in {row.name for row in FAMILIES}:
        raise kept.damaged(folder.report_json, f"family: {report['family']}")
    every = [row["path"] for row in report["artifacts"]]
    paths = tuple(path for path in every if role(path, every) == ("" if which == MAIN else which))
    if not paths:
        raise RecipeError("RC002", key="--which", found=which, why=_("The run has no file of this kind."))
    recipe = config.read_tables(folder.recipe)
    try:
        data, base = recipe["data"], str(recipe["base"]["model"])
        first: Mapping[str, Any] = next(iter(data.get("sets", ())), {})
        trigger, word = report["trigger"], first.get("class_word", data["class_word"])
    except (LookupError, TypeError, AttributeError) as error:
        raise kept.damaged(folder.recipe, str(error)) from None
    prompt = f"a {' '.join(filter(None, (trigger, word)))}" if trigger or word else _("your prompt")
    return FinishedRun(folder, report, base, trigger, triggers(data), prompt, paths)


def _told(use: Use) -> dict[str, Any]:
    """A use, by language."""
    return {
        "program": use.program,
        "how": in_languages(_("On this machine:") if use.program == "tsuika" else use.how),
        "paste": use.paste,
        "note": in_languages(use.note) if use.note else None,
    }


def _copied(source: Path, target: Path) -> str:
    with whole(target) as temporary:
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, temporary)
    digest = "" if source.is_dir() else sha256(target)
    if digest and digest != sha256(source):
        raise FormatError("FM003", where=target, error=1.0, layer="–", limit=0.0)
    if formats.is_artifact(target):
        formats.find(target).read(target)
    else:
        _ = inspect(target).result
    return digest


def _beside(ended: FinishedRun, source: Path, target: Path) -> Iterator[Path]:
    """What a program looks for beside the file: a `.yaml` that says what a model predicts, an image, A1111's card."""
    if (yaml := source.with_suffix(".yaml")).is_file():
        shutil.copyfile(yaml, target.with_suffix(".yaml"))
        yield target.with_suffix(".yaml")
    yield from shown_beside(ended, target)


def shown_beside(ended: FinishedRun, target: Path, notes: str = "") -> Iterator[Path]:
    """Write an image of the result beside its file, and A1111's card: the words that call it up."""
    if previews := ended.previews():
        preview = next(one for one in previews if one.step == previews[-1].step)
        image = target.with_suffix(".png")
        plain_image(ended.folder.root / preview.path, image, PREVIEW_PX)
        yield image
    report = ended.report
    version = report["family"].upper()
    step = report.get("best_step") or report["steps_done"]
    card = {
        "description": f"{title(report['method'])}, tsuika",
        # Of SD3 it knows nothing.
        "sd version": version if version in A1111_VERSIONS else "Unknown",
        "activation text": ", ".join(ended.triggers),
        "preferred weight": 1.0,
        "negative text": "",
        "notes": notes or f"tsuika: {report['method']}, step {step}",
    }
    write_text(target.with_suffix(".json"), json.dumps(card, ensure_ascii=False, indent=4) + "\n")
    yield target.with_suffix(".json")


def plain_image(source: Path, target: Path, least_px: int = 0) -> None:
    """An image as a PNG without a word in it; a small one is enlarged."""
    with whole(target) as temporary, Image.open(source) as opened:
        image = opened.convert("RGB")
        if (side := max(image.size)) < least_px:
            size = (round(image.width * least_px / side), round(image.height * least_px / side))
            image = image.resize(size, Image.Resampling.LANCZOS)
        image.save(temporary, format="PNG")
