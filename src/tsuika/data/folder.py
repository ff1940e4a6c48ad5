"""What lies in a folder of images and below it: images, text files, what is passed over. Opens no image."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Final

from tsuika.core.texts import _, one_line
from tsuika.data.image import sniff
from tsuika.data.manifest import LeftOut, Note

IMAGES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"}
    | {".heic", ".heif", ".hif"}
)
# Named in the report instead of passed over. Raw files begin like TIFF and would give their thumbnail.
FOREIGN: Final = frozenset(
    {".svg", ".svgz", ".eps", ".ps", ".ai", ".pdf", ".psd", ".psb", ".xcf", ".kra", ".clip", ".jxl", ".jp2", ".ico"}
    | {".tga", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
)
# What may hold captions, whether it can be read or only named.
TEXTS: Final = frozenset(
    {".txt", ".caption", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".tags", ".cap", ".wd14"}
    | {".yaml", ".yml", ".xml", ".xmp", ".text", ".xlsx", ".xls", ".ods", ".docx", ".rtf"}
)
CAPTIONS: Final = frozenset({".txt", ".caption"})
WEIGHTS: Final = frozenset({".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf"})
# With images inside that nobody looks for there.
NOT_READ: Final = frozenset(
    {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".tfrecord"}
)
# Thumbnails, bins and forks that systems put beside the files of people.
SYSTEM: Final = frozenset({"@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found", "system volume information"})
RUN_MARKS: Final = ("events.jsonl", "recipe.toml")  # a run folder of ours
CACHE_MARK: Final = "CACHEDIR.TAG"  # bford.info/cachedir
MAX_FOLDER_REPEATS: Final = 1000  # above this, `2024_summer` is a name and not a number of repeats


@dataclass(frozen=True)
class File:
    """A file: where it is, and its name for people, relative to the folder, NFC, with `/`."""

    path: Path
    name: str

    @property
    def folder(self) -> str:
        """The name of its folder with `/` at the end; empty for the folder itself."""
        return self.name[: len(self.name) - len(self.base)]

    @property
    def base(self) -> str:
        """The file's own name."""
        return self.name.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """That without suffix."""
        return PurePath(self.base).stem

    @property
    def suffix(self) -> str:
        """In lower case."""
        return self.path.suffix.lower()


@dataclass(frozen=True)
class ImageFile(File):
    """An image, with what the innermost kohya folder (`N_words`) around it says."""

    repeats: int = 1
    folder_words: str = ""


@dataclass
class Listing:
    """Everything that was found."""

    images: list[ImageFile] = field(default_factory=list)
    texts: list[File] = field(default_factory=list)
    weights: list[File] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sorts as people do: `2.png` before `10.png`, in any case and Unicode form."""
    text = composed(name)
    parts = re.split(r"([0-9]+)", text.casefold())
    return tuple((0, int(part), "") if part.isdigit() and part.isascii() else (1, 0, part) for part in parts), text


def kohya_folder(names: Sequence[str]) -> tuple[int, str] | None:
    """Repeats and words of the innermost folder called `N_words` as sd-scripts reads them; None: there is none."""
    for name in reversed(names):
        match = re.fullmatch(r"([0-9]{1,4})_(.*)", composed(name), re.DOTALL)
        if match and int(match[1]) <= MAX_FOLDER_REPEATS:
            return int(match[1]), match[2].strip()
    return None


def composed(name: str) -> str:
    """NFC."""
    return unicodedata.normalize("NFC", name)


def walk(root: Path) -> Listing:
    """Every file under `root`, in natural order. Hidden files and our own run and cache folders are passed over.

    Links are followed, each real folder once.
    """
    found = Listing()
    # (device, inode) of folders: links may form loops.
    seen: set[tuple[int, int]] = set()
    # Not by recursion: folders may be nested a thousand deep.
    waiting: list[tuple[Path, tuple[str, ...], str]] = [(root, (_for_people(root.resolve().name),), "")]
    while waiting:
        folder, names, prefix = waiting.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: (natural_key(entry.name), os.fsencode(entry.name)))
        except OSError as error:
            found.left_out.append(_unreadable(folder, prefix.rstrip("/") or names[-1], error))
            continue
        if prefix and (why := _passed_over(names[-1], {entry.name for entry in entries})):
            found.notes.append(Note(prefix.rstrip("/"), *why))
            continue
        inner = _sort(entries, names, prefix, found)
        waiting += [(path, (*names, _for_people(path.name)), f"{name}/") for path, name in reversed(inner)]
    found.left_out.sort(key=lambda left: natural_key(str(left.path)))
    found.images.sort(key=lambda image: natural_key(image.name))
    return found


def _sort(
    entries: Sequence[os.DirEntry[str]], names: tuple[str, ...], prefix: str, found: Listing
) -> list[tuple[Path, str]]:
    repeats, words = kohya_folder(names) or (1, "")
    inner: list[tuple[Path, str]] = []
    taken: set[str] = set()
    for entry in entries:
        own = _own_name(entry.name, taken)
        if own.startswith("."):
            continue
        name, path, suffix = prefix + own, Path(entry.path), Path(entry.path).suffix.lower()
        try:
            is_folder = entry.is_dir()
        except OSError as error:  # a link that leads in a circle or into a closed folder
            found.left_out.append(_unreadable(path, name, error))
            continue
        if is_folder:
            inner.append((path, name))
            if suffix in CAPTIONS:
                found.texts.append(File(path, name))
        elif entry.is_symlink() and not path.exists():
            found.left_out.append(LeftOut(path, "unreadable", _("It is a link to nothing."), name))
        elif suffix in FOREIGN:
            unsupported = _("{suffix} files are not supported; save it as PNG.", suffix=path.suffix)
            found.left_out.append(LeftOut(path, "unsupported", unsupported, name))
        elif suffix in IMAGES or _is_image(path):
            if repeats == 0:
                found.left_out.append(LeftOut(path, "no-repeats", _("folder {folder}", folder=names[-1]), name))
            else:
                found.images.append(ImageFile(path, name, repeats, words))
        elif suffix in NOT_READ:
            found.notes.append(Note(name, "not-read", path.suffix))
        elif suffix in TEXTS:
            found.texts.append(File(path, name))
        elif suffix in WEIGHTS and entry.is_file():
            found.weights.append(File(path, name))
    return inner


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


def _for_people(name: str) -> str:
    """NFC, in one line, and bytes that are no UTF-8 replaced."""
    return one_line(composed(os.fsencode(name).decode("utf-8", "replace")))


def _passed_over(name: str, inside: set[str]) -> tuple[str, str] | None:
    if all(mark in inside for mark in RUN_MARKS):
        return "own-output", _("a run folder")
    if CACHE_MARK in inside:
        return "own-output", _("a cache folder")
    return ("system-folder", name) if name.casefold() in SYSTEM else None


def _is_image(path: Path) -> bool:
    """Whether its first bytes are those of an image."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return sniff(stream.read(16)) is not None
    except OSError:
        return False
