"""`evaluate`: the results of a run, or any file, measured on images of the kept steps at several strengths."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from tsuika import config, formats
from tsuika.api.display import shown as shown_html
from tsuika.api.run import starts
from tsuika.api.snapshots import Snapshot, SnapshotRenderer, choose, snapshots
from tsuika.config import Recipe
from tsuika.core.errors import FormatError, ModelError, RecipeError
from tsuika.core.events import Event, Phase, Progress, Warned, note
from tsuika.core.files import write_text
from tsuika.core.plain import jsonable
from tsuika.core.rundir import RunDir
from tsuika.core.texts import _, languages
from tsuika.data import scan
from tsuika.data.manifest import Manifest
from tsuika.data.subjects import subjects_of
from tsuika.evaluation import encoders, memorization, prompts, report, report_evaluation, verdict
from tsuika.evaluation.encoders import Encoder
from tsuika.evaluation.evaluation import WORST, Evaluation, said
from tsuika.evaluation.measures import Ruler
from tsuika.evaluation.verdict import Point
from tsuika.formats import common
from tsuika.generation import grid, png_info
from tsuika.methods import METHODS
from tsuika.training import folder as run_folder

STRENGTHS: Final = (0.5, 0.75, 1.0)
SEEDS: Final = 4
KEPT: Final = 3  # steps that are compared where the user names none

First = Mapping[str, Image.Image]  # prompt -> its image at the first seed


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, and where it was written.

    Attributes:
        numbers: path of `evaluation.json`.
        page: path of `report.html` with the evaluation in it; None where there is no such page.
        sheets: paths of the sheets of images.
        evaluation: what was measured, and the verdict.
        notes: what could not be measured, and why.
    """

    numbers: Path
    page: Path | None
    sheets: tuple[Path, ...]
    evaluation: Evaluation
    notes: tuple[Warned, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The content of `evaluation.json`, as in the command's `--json`."""
        found: dict[str, Any] = jsonable(self.evaluation.to_dict())
        return found

    def _repr_html_(self) -> str:
        return shown_html({"verdict": said(self.evaluation), "sheets": self.sheets, "notes": self.notes})


@starts
def evaluate(
    run: Path,
    *,
    encoder: str = "",
    own_prompts: Path | None = None,
    seeds: int = SEEDS,
    strengths: Sequence[float] = STRENGTHS,
    steps: Sequence[int] = (),
    images: Path | None = None,
    base: str = "",
    trigger: str = "",
    out: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Generator[Event, None, Evaluated]:
    """Draw with the base and with a run's kept steps, measure, and come to a verdict.

    Writes `evaluation.json` into the run folder, a section into its `report.html`, and sheets into `evaluation/`. All that is
    drawn is kept there, so that an evaluation that was stopped goes on, to the same result. Of a file, which anybody may have
    trained, all of this but the page goes into a folder of its own.

    Args:
        run: the folder of a finished run; or a file (or diffusers folder) of weights, with `base` and `images`.
        encoder: `embedded`, a folder, or a hub id of a CLIP, SigLIP, DINOv2, ...; by default the embedded yardstick where
            the base is the embedded one, else none: then only copies and diversity are measured.
        own_prompts: a file with a prompt a line, see `evaluation.prompts.asked`.
        seeds: images a prompt.
        strengths: that every kept step is drawn at.
        steps: which kept steps; by default the results, and saved states up to three of them in all.
        images: where the training images are now, if not where the recipe says (of several sets the first's); of a file,
            images of what it should draw.
        base: of a file: the base that it is for.
        trigger: of a file: its trigger word, if the file does not name it.
        out: of a file: the folder to write into; by default NAME-evaluation beside it.
        device: as for training.
        precision: as for training.

    Raises:
        TsuikaError: no finished run, an encoder that cannot be had, no training images, a file that does not fit.
    """
    if RunDir(run).recipe.is_file():
        for flag, value in {"base": base, "trigger": trigger, "out": out}.items():
            if value:
                raise RecipeError("RC002", key=flag, found=value, why=_("A training run has its own."))
        work = _of_run(run)
    else:
        work = _of_file(run, base, str(images or ""), trigger, out)
    recipe, folder = work.recipe, work.folder
    if seeds < 1:
        raise RecipeError("RC002", key="seeds", found=seeds, why="≥ 1")
    if not strengths or not all(map(math.isfinite, strengths)):
        raise RecipeError("RC002", key="strengths", found=", ".join(map(str, strengths)) or "–", why="0.5, 0.75, 1")
    chosen = choose(work.kept, steps, KEPT)
    yield Phase("load")
    cells, drawn_at = folder.root / "evaluation", range(1, seeds + 1)
    with SnapshotRenderer(recipe, cells, drawn_at, device=device, precision=precision) as renderer:
        measuring, notes = _encoder(encoder, recipe, renderer)
        yield Phase("pictures")
        data = recipe.data
        if images:  # of several subjects the first: nothing says which image of the folder is of which
            data = data.first.model_copy(update={"images": str(images)})
        subjects = subjects_of(data)
        manifest = scan.scan_sets(data, size_px=renderer.model.native_size_px)[0]
        notes += _changes(folder, manifest) if work.is_run else []
        yield from notes
        place_of = {name: place for place, one in enumerate(subjects) for name in one.sets}
        homes = [place_of[sample.set] for sample in manifest.samples]
        captions: list[list[str]] = [[] for _ in subjects]
        for sample, home in zip(manifest.samples, homes, strict=True):
            captions[home].append(sample.caption)
        asked = prompts.asked(
            subjects, recipe.preview, captions, embedded=recipe.base.model == encoders.EMBEDDED, own=own_prompts
        )
        texts = [one.text for one in asked]
        renderer.captions = frozenset(one.text for one in asked if one.group == "captions")
        spots = [(one, strength) for one in chosen for strength in sorted(set(strengths))]
        total, done = len(texts) * (1 + len(spots)), 0
        yield Phase("evaluate", total)
        ruler, points, worst, shown = None, [], [], []
        for one, strength in [(None, 0.0), *spots]:
            drawn: dict[str, list[Image.Image]] = {}
            for text, made in renderer.draw(texts, one, strength):
                drawn[text] = made
                done += 1
                yield Progress("evaluate", done, total)
            if ruler is None:
                trained = [(sample.name, sample.path) for sample in manifest.samples]
                groups = memorization.groups_of(folder, manifest)
                ruler = Ruler(measuring, asked, drawn, renderer.seeds, trained, subjects, homes, groups)
            tables, pairs = ruler.measure(drawn)
            point = (one.name, work.place(one), one.step) if one else ("", "", 0)
            points.append(Point(*point, strength, tables, bool(one and one.main)))
            worst.append(tuple(pairs[:WORST]))
            shown.append({text: made[0] for text, made in drawn.items()})
        notes += renderer.notes
    yield from renderer.notes

    yield Phase("report")
    assert ruler is not None
    untrained, *rest = points
    found = verdict.judge(untrained.tables, rest, ruler.scale, doubted=work.is_run and _doubted(folder))
    evaluation = Evaluation(
        work.title,
        ", ".join(one.trigger for one in subjects if one.trigger),
        measuring.name if measuring else "",
        asked,
        renderer.seeds,
        untrained.tables,
        tuple(rest),
        ruler.scale,
        found,
        worst[1 + found.main],
        tuple({"code": one.code, **{lang: one.words(lang) for lang in languages()}} for one in notes),
        tuple(one.name for one in subjects) if len(subjects) > 1 else (),
    )
    sheets, warnings = _sheets(folder, evaluation, shown)
    numbers = folder.root / "evaluation.json"
    write_text(numbers, evaluation.to_json())
    page = folder.root / "report.html" if work.is_run else None
    if page is not None and (warned := _into_page(page, report_evaluation.section(evaluation, shown))):
        warnings.append(warned)
        page = None
    yield from warnings
    return Evaluated(numbers, page, tuple(sheets), evaluation, (*notes, *warnings))


@dataclass(frozen=True)
class _Work:
    """What is evaluated, by what recipe, and the folder that the evaluation goes into."""

    recipe: Recipe
    folder: RunDir
    kept: Sequence[Snapshot]
    title: str
    is_run: bool = True

    def place(self, one: Snapshot) -> str:
        """Where a snapshot lies, for people."""
        path = one.paths[0]
        return str(path.relative_to(self.folder.root)) if self.is_run else path.name


def _of_run(run: Path) -> _Work:
    recipe, folder = run_folder.read(run)
    return _Work(recipe, folder, snapshots(folder), folder.result_name(recipe.output.name))


def _of_file(file: Path, base: str, images: str, trigger: str, out: Path | None) -> _Work:
    """A file with a recipe that says what it is for.

    Raises:
        TsuikaError: FM004, not there; TR002, a folder that is neither a run nor weights; RC005, something is not said; RC007, the
            folder to write into holds something else.
    """
    if not file.exists():
        raise FormatError("FM004", where=file)
    if file.is_dir() and not formats.is_artifact(file) and not (file / "model_index.json").is_file():
        raise RecipeError("TR002", where=file)
    artifact = formats.find(file).read(file) if formats.is_artifact(file) else None
    if artifact is not None and artifact.method not in METHODS:
        # Its module would be imported, and so run, because a file names it.
        why = _("A method from outside is measured in its own training run.")
        raise RecipeError("RC002", key="method.name", found=artifact.method, why=why)
    facts = artifact.metadata if artifact is not None else {}
    whole = next(method.name for method in METHODS.values() if method.whole_model)
    named = {"--base": base, "--images": images, "--trigger": trigger or facts.get("trigger", "")}
    for flag, value in named.items():
        if not value:
            raise RecipeError(
                "RC005", found=flag, do=_("A file does not say what it was trained on: give {flag}.", flag=flag)
            )
    settings = {
        "method": {"name": artifact.method if artifact is not None else whole},
        "base": {"model": base},
        "data": {"images": images, "trigger": named["--trigger"]},
    }
    folder = RunDir(out or file.with_name(f"{file.stem}-evaluation"))
    if folder.root.exists() and any(one.name not in ("evaluation", "evaluation.json") for one in folder.root.iterdir()):
        raise RecipeError("RC007", where=folder.root, do=_("Choose another --out."))
    step = common.whole_number(facts.get("steps"))
    return _Work(
        config.build(settings), folder, (Snapshot(file.stem, (file,), step, main=True),), file.stem, is_run=False
    )


def _doubted(folder: RunDir) -> bool:
    """Whether the run's guard ended with nothing learned (GD004), or found no step better than the base (GD017)."""
    content = json.loads(folder.report_json.read_text(encoding="utf-8"))
    alarms, checks = ((content.get("guard") or {}).get(key) or [{}] for key in ("alarms", "curve"))
    ended = alarms[-1].get("code") == "GD004" and alarms[-1].get("step") == checks[-1].get("step")
    return ended or any(warning["code"] == "GD017" for warning in content["warnings"])


def _encoder(name: str, recipe: Recipe, renderer: SnapshotRenderer) -> tuple[Encoder | None, list[Warned]]:
    """The encoder, and what cannot be measured with it.

    Raises:
        ModelError: EV001, it is none, or the yardstick was asked for where it knows nothing.
        NetworkError: the hub.
    """
    embedded = recipe.base.model == encoders.EMBEDDED
    if name == encoders.EMBEDDED and not embedded:
        why = _("The embedded yardstick knows what the embedded base draws and no more.")
        raise ModelError("EV001", where=name, why=why)
    name = name or (encoders.EMBEDDED if embedded else "")
    if not name:
        return None, [note("EV002")]
    measuring = encoders.load(name, renderer.model.device)
    return measuring, [] if measuring.reads else [note("EV003", encoder=name)]


def _changes(folder: RunDir, manifest: Manifest) -> list[Warned]:
    """Whether the images are still those that were trained on."""
    was = Manifest.read(folder.left_out)
    then, now = ({sample.sha256 for sample in one.samples} for one in (was, manifest))
    if then == now:
        return []
    return [note("EV007", why=f"-{len(then - now)} +{len(now - then)} ({len(then)} → {len(now)})")]


def _sheets(folder: RunDir, evaluation: Evaluation, shown: Sequence[First]) -> tuple[list[Path], list[Warned]]:
    """For each kept step a sheet of all prompts at all strengths, beside the base, at the first seed."""
    rows = [one.text for one in evaluation.asked]
    base, *drawn = shown
    paths: list[Path] = []
    warnings: list[Warned] = []
    for state, step in dict.fromkeys((point.state, point.step) for point in evaluation.points):
        mine = [(point, first) for point, first in zip(evaluation.points, drawn, strict=True) if point.state == state]
        columns = ["base", *(f"{point.strength:g}" for point, _ in mine)]
        cells = [first[text] for text in rows for first in (base, *(first for _, first in mine))]
        sheet, warned = grid.grid(cells, rows, columns, f"{state} (step {step:,})")
        paths.append(folder.root / "evaluation" / f"{state}.png")
        content = {"prompts": rows, "strengths": columns[1:], "seed": evaluation.seeds[0]}
        png_info.write_png(paths[-1], sheet, None, content)
        warnings += [one for one in warned if one not in warnings]
    return paths, warnings


def _into_page(page: Path, section: str) -> Warned | None:
    """Put the section into the report page, in place of an earlier one; a note where there is no page to put it into."""
    try:
        text = report.with_evaluation(page.read_text(encoding="utf-8"), section)
    except OSError:
        return note("EV005", why=_("{file} is not there.", file=page.name))
    except ValueError:
        return note("EV005", why=_("{file} is of an older tsuika and has no place for it.", file=page.name))
    write_text(page, text)
    return None
