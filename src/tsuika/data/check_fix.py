"""A cleaned copy of a checked folder: only what can be corrected without judgement. Originals are only read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from PIL import Image

from tsuika.core import files
from tsuika.core.errors import RecipeError
from tsuika.core.files import make_folder, whole, write_text
from tsuika.core.texts import _
from tsuika.data import caption_files
from tsuika.data.caption_files import Sources
from tsuika.data.check_report import CheckedImage, Report
from tsuika.data.folder import kohya_folder, walk
from tsuika.data.image import is_turned, open_image
from tsuika.data.roles import Masks, tell_apart

LIST: Final = "left-out.tsv"
# Findings that the copy corrects by itself; others of level `look` are left for a person.
MENDED: Final = frozenset({"near-duplicate", "bars"})


@dataclass(frozen=True)
class LeftOutImage:
    """An image that is not in the copy. `code` is a key of `faults.FAULTS`."""

    name: str
    code: str
    instead: str = ""  # of a near-duplicate: the one that was kept


@dataclass(frozen=True)
class Mended:
    """An image that was saved anew, without loss, as PNG. `changes`: `turned`, `cropped`."""

    name: str
    written: str
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Cleaned:
    """What was done."""

    out: Path
    kept: int  # images in the copy
    left_out: tuple[LeftOutImage, ...]
    mended: tuple[Mended, ...]
    recoded: tuple[str, ...]  # images whose caption was saved anew as UTF-8
    to_look_at: tuple[str, ...]  # images of the copy that a person should still look at


def may_write(folder: Path, out: Path) -> None:
    """Whether a cleaned copy of `folder` may be written to `out`.

    Raises:
        RecipeError: it is there already and not empty, or lies in the folder itself (DS005).
    """
    files.check_place(out, is_folder=True)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RecipeError("DS005", where=out, why=_("It is there already, and nothing is ever overwritten."))
    if out.resolve() == folder.resolve() or folder.resolve() in out.resolve().parents:
        raise RecipeError("DS005", where=out, why=_("It lies in the folder of the originals."))


def clean(report: Report, out: Path) -> Cleaned:
    """Write the copy, or where `out` ends in `.tsv` or `.txt`, only the list of what should be left out.

    Left out: what cannot be used, and of near-duplicates all but the best. Turned upright by EXIF and without even bars:
    as PNG. Captions: as UTF-8, every line kept; what cannot be read, and all else, is copied byte for byte, in the same
    subfolders, masks and regularization images too; where the folder's own name says repeats and words, in one of that
    name.

    Raises:
        RecipeError: as `may_write`.
    """
    may_write(report.folder, out)
    left_out = tuple(_left_out(report))
    rows = [f"{left.name}\t{left.code}\t{left.instead}".rstrip() for left in left_out]
    text = "\n".join(["# picture\treason\tkept instead", *rows]) + "\n"
    if out.suffix.lower() in (".tsv", ".txt"):
        write_text(out, text)
        return Cleaned(out, 0, left_out, (), (), ())
    without = {left.name for left in left_out}
    kept = [image for image in report.usable if image.name not in without]
    # A copy that was cut short would look like a whole one.
    with whole(out) as copy:
        inside = inside_folder(report.folder.resolve().name, out.resolve().name)
        mended, recoded = _copied(report, kept, copy / inside)
        write_text(copy / LIST, text)
    open_findings = [one for one in report.findings if one.level == "look" and one.code not in MENDED]
    still = {name for finding in open_findings for name in finding.pictures}
    to_look_at = tuple(name for name in report.to_look_at if name in still - without)
    mended = tuple(replace(one, written=inside + one.written) for one in mended)
    return Cleaned(out, len(kept), left_out, mended, recoded, to_look_at)


def _copied(report: Report, kept: Sequence[CheckedImage], inside: Path) -> tuple[tuple[Mended, ...], tuple[str, ...]]:
    """Put the images, and all that lies beside them, into a folder; what was saved anew of them, and of captions."""
    listing = walk(report.folder)
    known = tell_apart(listing, report.folder)
    sources, masks = caption_files.find(known.subject, listing), Masks(known.aside)
    taken: set[str] = set()
    mended, recoded = [], []
    for image in kept:
        changes = ("turned",) * is_turned(image.path) + ("cropped",) * any(image.bars)
        name = target_name(image.name, bool(changes), taken)
        target = inside / name
        make_folder(target.parent)
        if changes:
            _cropped(image.path, image.bars).save(target, format="PNG")
            mended.append(Mended(image.name, name, changes))
        else:
            shutil.copyfile(image.path, target)
        if _write_caption(image.name, sources, target):
            recoded.append(image.name)
        for mask in masks.of(image.name):
            _copy_mask(mask.path, image, bool(changes), inside / mask.name)
    beside: dict[Path, list[Path]] = {}
    regularization = [left for left in known.aside if left.reason == "regularization"]
    for path in (*(text.path for text in listing.texts), *(left.path for left in regularization)):
        beside.setdefault(path.with_suffix(""), []).append(path)
    for one in regularization:
        for path in beside[one.path.with_suffix("")]:
            _copy(path, (inside / one.name).with_name(path.name))
    return tuple(mended), tuple(recoded)


def _left_out(report: Report) -> Iterator[LeftOutImage]:
    for finding in report.findings:
        if finding.level == "unusable":
            yield from (LeftOutImage(name, finding.code) for name in finding.pictures)
        elif finding.code == "near-duplicate":
            yield from (LeftOutImage(name, finding.code, finding.values["of"][name]) for name in finding.pictures)


def _cropped(path: Path, bars: tuple[int, int, int, int]) -> Image.Image:
    upright, (left, top, right, bottom) = open_image(path), bars
    return upright.crop((left, top, upright.width - right, upright.height - bottom))


def inside_folder(name: str, out: str) -> str:
    """The subfolder that keeps what a folder called `N_words` says, where the copy's own name says something else."""
    own = kohya_folder([name])
    return f"{name}/" if own is not None and own != kohya_folder([out]) else ""


def target_name(name: str, as_png: bool, taken: set[str]) -> str:
    """The name in the copy. Two images of one stem would share a caption file, so the later one keeps its suffix."""
    path = PurePosixPath(name)
    target = path.with_suffix(".png") if as_png else path
    if str(path.with_suffix("")).casefold() in taken:
        target = path.with_name(f"{path.name}{'.png' if as_png else path.suffix}")
    taken.add(str(target.with_suffix("")).casefold())
    return str(target)


def _write_caption(name: str, sources: Sources, target: Path) -> bool:
    """Captions beside the copy; whether one was saved in another encoding. Files that were not read are copied as they are.

    The caption that training uses is saved as UTF-8 `.txt`, every line of it.
    """
    found, _notes = sources.caption(name)
    for source in sources.of.get(name, ()):
        suffix = source.path.suffix.lower()
        if source.row is None and not (found and suffix == ".txt") and source.path.stat().st_size:
            _copy(source.path, target.with_suffix(suffix))
    if found is None:
        return False
    write_text(target.with_suffix(".txt"), "\n".join(found.lines) + "\n")
    return found.encoding not in ("", "utf-8")


def _copy(path: Path, target: Path) -> None:
    if not target.exists():
        make_folder(target.parent)
        shutil.copyfile(path, target)


def _copy_mask(path: Path, image: CheckedImage, is_changed: bool, target: Path) -> None:
    """A mask is turned and cropped as its image is, where it has its size."""
    if not is_changed or open_image(path).size != (image.width, image.height):
        _copy(path, target)
        return
    make_folder(target.parent)
    _cropped(path, image.bars).save(target.with_suffix(".png"), format="PNG")
