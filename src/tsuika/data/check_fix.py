"""A cleaned copy of a checked folder: only what can be corrected without judgement. Originals are only read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from PIL import Image

from tsuika.core.errors import RecipeError
from tsuika.core.files import whole, write_text
from tsuika.core.texts import _
from tsuika.data import caption
from tsuika.data.check_report import CheckedImage, Report
from tsuika.data.image import is_turned, open_image
from tsuika.data.scan import kohya_folder

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
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        why = _("It is there already, and nothing is ever overwritten.")
        raise RecipeError("DS005", where=out, why=why)
    if out.resolve() == folder.resolve() or folder.resolve() in out.resolve().parents:
        raise RecipeError("DS005", where=out, why=_("It lies in the folder of the originals."))


def clean(report: Report, out: Path) -> Cleaned:
    """Write the copy, or where `out` ends in `.tsv` or `.txt`, only the list of what should be left out.

    Left out: what cannot be used, and of near-duplicates all but the best. Turned upright by EXIF and without even bars:
    as PNG. Captions: as UTF-8 in one line. Everything else is copied byte for byte, in the same subfolders; where the
    folder's own name says repeats and words, in one of that name.

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
    inside = _inside(report.folder.resolve().name, out.resolve().name)
    taken: set[str] = set()
    mended, recoded = [], []
    for image in kept:
        changes = tuple(_changes(image))
        name = inside + _target(image.name, bool(changes), taken)
        target = out / name
        with whole(target) as temporary:
            if changes:
                _mend(image).save(temporary, format="PNG")
            else:
                shutil.copyfile(image.path, temporary)
        if changes:
            mended.append(Mended(image.name, name, changes))
        if _write_caption(image, target):
            recoded.append(image.name)
    write_text(out / LIST, text)
    open_findings = [one for one in report.findings if one.level == "look" and one.code not in MENDED]
    still = {name for finding in open_findings for name in finding.pictures}
    to_look_at = tuple(name for name in report.to_look_at if name in still - without)
    return Cleaned(out, len(kept), left_out, tuple(mended), tuple(recoded), to_look_at)


def _left_out(report: Report) -> Iterator[LeftOutImage]:
    for finding in report.findings:
        if finding.level == "unusable":
            yield from (LeftOutImage(name, finding.code) for name in finding.pictures)
        elif finding.code == "near-duplicate":
            yield from (LeftOutImage(name, finding.code, finding.values["of"][name]) for name in finding.pictures)


def _changes(image: CheckedImage) -> Iterator[str]:
    if is_turned(image.path):
        yield "turned"
    if any(image.bars):
        yield "cropped"


def _mend(image: CheckedImage) -> Image.Image:
    upright = open_image(image.path)
    left, top, right, bottom = image.bars
    return upright.crop((left, top, upright.width - right, upright.height - bottom))


def _inside(name: str, out: str) -> str:
    """The subfolder that keeps what a folder called `N_words` says, where the copy's own name says something else."""
    own = kohya_folder([name])
    return f"{name}/" if own is not None and own != kohya_folder([out]) else ""


def _target(name: str, as_png: bool, taken: set[str]) -> str:
    """The name in the copy. Two images of one stem would share a caption file, so the later one keeps its suffix."""
    path = PurePosixPath(name)
    target = path.with_suffix(".png") if as_png else path
    if str(path.with_suffix("")).casefold() in taken:
        target = path.with_name(f"{path.name}{'.png' if as_png else path.suffix}")
    taken.add(str(target.with_suffix("")).casefold())
    return str(target)


def _write_caption(image: CheckedImage, target: Path) -> bool:
    """The caption as UTF-8 beside the copy; whether its encoding was another. Nothing where there was no caption file."""
    if image.caption_source == "built":
        return False
    files = {suffix: image.path.with_suffix(suffix) for suffix in caption.SUFFIXES}
    found = {suffix: path for suffix, path in files.items() if path.is_file()}
    text = caption.read(found)[0] if found else None
    write_text(target.with_suffix(".txt"), (text or image.caption) + "\n")
    return bool(found) and caption.decode(next(iter(found.values())).read_bytes())[1] != "utf-8"
