"""A folder to a `Manifest`: usable images with captions, why others were left out. Originals are only read."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Final

from tsuika.core.errors import ImageError
from tsuika.core.events import Event, Progress, drained
from tsuika.core.files import write_text
from tsuika.core.sections import Data
from tsuika.core.texts import _, listed
from tsuika.data import caption
from tsuika.data.faults import FAULTS
from tsuika.data.image import Opened, UnusableError, read_image, sniff
from tsuika.data.manifest import LeftOut, Manifest, Note, Sample

SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"}
    | {".heic", ".heif", ".hif"}
)
# Named in the report instead of passed over. Raw files begin like TIFF and would give their thumbnail.
FOREIGN: Final = frozenset(
    {".svg", ".svgz", ".eps", ".ps", ".ai", ".pdf", ".psd", ".psb", ".xcf", ".kra", ".clip", ".jxl", ".jp2", ".ico"}
    | {".tga", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
)
RUN_MARKS: Final = ("events.jsonl", "recipe.toml")  # a run folder of ours
CACHE_MARK: Final = "CACHEDIR.TAG"  # bford.info/cachedir

# Above this, `2024_summer` is a name and not a number of repeats.
MAX_FOLDER_REPEATS: Final = 1000


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sorts as people do: `2.png` before `10.png`, in any case and Unicode form."""
    text = unicodedata.normalize("NFC", name)
    parts = re.split(r"([0-9]+)", text.casefold())
    return tuple((0, int(part), "") if part.isdigit() and part.isascii() else (1, 0, part) for part in parts), text


def kohya_folder(names: Sequence[str]) -> tuple[int, str] | None:
    """Repeats and words of the innermost folder called `N_words` as sd-scripts reads them; None: there is none."""
    for name in reversed(names):
        match = re.fullmatch(r"([0-9]{1,4})_(.*)", unicodedata.normalize("NFC", name), re.DOTALL)
        if match and int(match[1]) <= MAX_FOLDER_REPEATS:
            return int(match[1]), match[2].strip()
    return None


def scan(folder: Path, config: Data, *, size_px: int = 0, needed: int = 1, report: Path | None = None) -> Manifest:
    """Every image under `folder`, in natural order. Hidden files and our own run and cache folders are passed over.

    Args:
        folder: any folder; links are followed, each real folder once.
        size_px: the training size where `config.size_px` is 0 (the base's own).
        needed: how many usable images there must be.
        report: where the manifest is written as JSON, also when too few are left.

    Raises:
        ImageError: no such folder (DS001), or fewer than `needed` usable images (DS002).
    """
    return drained(scan_events(folder, config, size_px=size_px, needed=needed, report=report))


def scan_events(
    folder: Path,
    config: Data,
    *,
    size_px: int = 0,
    needed: int = 1,
    report: Path | None = None,
    visit: Callable[[str, Opened], None] | None = None,
    workers: int = 1,
) -> Generator[Event, None, Manifest]:
    """As `scan`, with a `Progress` for each image read.

    Args:
        folder: as in `scan`.
        config: as in `scan`.
        size_px: as in `scan`.
        needed: as in `scan`.
        report: as in `scan`.
        visit: called with each usable image's name and pixels while they are at hand, from any of the workers.
        workers: threads that read images.
    """
    if not folder.is_dir():
        raise ImageError("DS001", where=folder)
    least_px = config.min_size_px or (config.size_px or size_px) // 2
    found = _Found()
    _walk(folder, (_for_people(folder.resolve().name),), "", found)
    samples: list[Sample] = []

    def read(item: _ImageFile) -> tuple[Sample, list[Note]] | LeftOut:
        try:
            return _sample(item, config, least_px, visit)
        except UnusableError as error:
            return LeftOut(item.path, error.reason, error.words, item.name)

    items = sorted(found.images, key=lambda item: natural_key(item.name))
    with ThreadPoolExecutor(workers) as pool:
        for done, one in enumerate(pool.map(read, items) if workers > 1 else map(read, items), 1):
            if isinstance(one, LeftOut):
                found.left_out.append(one)
            else:
                samples.append(one[0])
                found.notes.extend(one[1])
            yield Progress("pictures", done, len(items))
    left_out = sorted(found.left_out, key=lambda left: natural_key(str(left.path)))
    manifest = Manifest(tuple(samples), tuple(left_out), tuple(found.notes))
    if report:
        write_text(report, manifest.to_json())
    if len(samples) < needed:
        counts = {"usable": len(samples), "total": len(samples) + len(left_out), "needed": needed}
        why = _why_too_few(manifest)
        raise ImageError("DS002", where=folder, why=why, report=report or "tsuika check", **counts)
    return manifest


@dataclass(frozen=True)
class _ImageFile:
    path: Path
    name: str
    captions: dict[str, Path]
    repeats: int
    folder_words: str


@dataclass
class _Found:
    images: list[_ImageFile] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)  # (device, inode) of folders: links may form loops


def _walk(folder: Path, names: tuple[str, ...], prefix: str, found: _Found) -> None:
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in found.seen:
            return
        found.seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: (natural_key(entry.name), os.fsencode(entry.name)))
    except OSError as error:
        found.left_out.append(_unreadable(folder, prefix.rstrip("/") or names[-1], error))
        return
    if prefix and (own := _own_output({entry.name for entry in entries})):
        found.notes.append(Note(prefix.rstrip("/"), "own-output", own))
        return
    named: list[tuple[os.DirEntry[str], str]] = []
    taken: set[str] = set()
    for entry in entries:
        name = _own_name(entry.name, taken)
        if name.startswith("."):
            continue
        try:
            entry.is_dir()
        except OSError as error:  # a link that leads in a circle or into a closed folder
            found.left_out.append(_unreadable(Path(entry.path), prefix + name, error))
        else:
            named.append((entry, prefix + name))
    captions: dict[str, dict[str, Path]] = {}
    for entry, _name in named:
        plain = PurePath(entry.name)
        if plain.suffix.lower() in caption.SUFFIXES and entry.is_file():
            for stem in (plain.stem, _composed(plain.stem)):  # the image's may be composed otherwise
                captions.setdefault(stem, {})[plain.suffix.lower()] = Path(entry.path)
    repeats, words = kohya_folder(names) or (1, "")
    for entry, name in named:
        path = Path(entry.path)
        if entry.is_dir():
            _walk(path, (*names, _for_people(entry.name)), f"{name}/", found)
        elif path.suffix.lower() in FOREIGN:
            unsupported = _("{suffix} files are not supported; save it as PNG.", suffix=path.suffix)
            found.left_out.append(LeftOut(path, "unsupported", unsupported, name))
        elif path.suffix.lower() in SUFFIXES or _is_picture(path):
            if repeats == 0:
                found.left_out.append(LeftOut(path, "no-repeats", _("folder {folder}", folder=names[-1]), name))
                continue
            files = captions.get(path.stem) or captions.get(_composed(path.stem), {})
            found.images.append(_ImageFile(path, name, files, repeats, words))


def _unreadable(path: Path, name: str, error: OSError) -> LeftOut:
    return LeftOut(path, "unreadable", error.strerror or str(error), name)


def _own_name(name: str, taken: set[str]) -> str:
    """The name for people, unique in its folder: of two that look the same one gets a hash of its bytes."""
    plain = PurePath(_for_people(name))
    own, digest = str(plain), os.fsencode(name)
    while own in taken:
        digest = hashlib.sha256(digest).hexdigest().encode()
        own = f"{plain.stem}-{digest[:8].decode()}{plain.suffix}"
    taken.add(own)
    return own


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _for_people(name: str) -> str:
    """NFC, and bytes that are no UTF-8 replaced."""
    return _composed(os.fsencode(name).decode("utf-8", "replace"))


def _own_output(names: set[str]) -> str:
    if all(mark in names for mark in RUN_MARKS):
        return _("a run folder")
    return _("a cache folder") if CACHE_MARK in names else ""


def _is_picture(path: Path) -> bool:
    """Whether its first bytes are those of an image."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return sniff(stream.read(16)) is not None
    except OSError:
        return False


def _sample(
    item: _ImageFile, config: Data, least_px: int, visit: Callable[[str, Opened], None] | None
) -> tuple[Sample, list[Note]]:
    opened = read_image(item.path)
    width, height = opened.image.size
    if min(width, height) < least_px:
        small = _("{width}x{height} px, below the {least_px} px minimum", width=width, height=height, least_px=least_px)
        raise UnusableError(item.path, "too-small", small)
    text, caption_notes = caption.read(item.captions)
    words, source = caption.complete(text, config, item.folder_words)
    if not words:
        caption_notes.append(("caption-none", _("no caption file, trigger or class word")))
    if visit:
        visit(item.name, opened)
    notes = [Note(item.name, code, more) for code, more in (*opened.notes, *caption_notes)]
    repeats = item.repeats * config.repeats
    sample = Sample(item.path, item.name, words, width, height, repeats, opened.sha256, caption_source=source)
    return sample, notes


def _why_too_few(manifest: Manifest) -> str:
    if not manifest.quarantined:
        formats = "JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, HEIC"
        return "" if manifest.samples else _("No images were found ({formats}).", formats=formats)
    counts = Counter(left.reason for left in manifest.quarantined)
    rows = [_("{reason} ({count})", reason=FAULTS[reason].what, count=count) for reason, count in counts.items()]
    return _("Left out: {reasons}.", reasons=listed(rows))
