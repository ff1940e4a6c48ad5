"""Where an image's caption stands: files beside it, in a folder of captions, or a row of a table.

Read, the first that holds something: `NAME.txt`, `NAME.caption`, the same after the image's full name (`NAME.png.txt`),
`NAME.json`; the same in a folder `captions` below or beside; then tables, the nearest first: Hugging Face's
`metadata.jsonl` and `metadata.csv`, sd-scripts' `meta_lat.json` and `meta_cap.json`, and others that name images as these do.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

from tsuika.core.texts import Text, _
from tsuika.data.encoding import decode, usual_encoding
from tsuika.data.folder import File, ImageFile, Listing, composed, natural_key
from tsuika.data.manifest import Note

BESIDE: Final = (".txt", ".caption", ".json")  # in this order
_FOLDERS: Final = frozenset({"captions", "caption", "txt", "text", "texts", "tags", "prompts"})
_TABLES: Final = (".jsonl", ".ndjson", ".csv", ".tsv", ".json")
# Of one folder, in this order; others after them by name. sd-scripts writes one after the other, each with all before it.
_FIRST: Final = (
    *("metadata.jsonl", "metadata.csv", "metadata.json"),
    *("meta_lat.json", "meta_clean.json", "meta_cap_dd.json", "meta_cap.json"),
)
_NAME_FIELDS: Final = ("file_name", "filename", "file", "image", "image_path", "image_file", "img", "path", "name")
_TEXT_FIELDS: Final = ("caption", "captions", "text", "prompt", "description", "additional_feature")
_TAG_FIELDS: Final = ("tags", "tag_string", "tag_string_general")
_NO_CAPTIONS: Final = ("readme", "license", "licence", "copying", "requirements", "changelog", "notes")
_LARGEST_CAPTION: Final = 1 << 20
_LARGEST_TABLE: Final = 1 << 28

Lines = tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A place where an image's caption may stand. `row`: what a table says; None: the file is the image's own."""

    path: Path
    name: str  # of the file, for people
    row: Lines | None = None


@dataclass(frozen=True)
class Caption:
    """What was found: the lines of a caption, the place, and the encoding of the file (empty for a table's row)."""

    lines: Lines
    source: Source
    encoding: str = ""


@dataclass(frozen=True)
class Sources:
    """The places of every image's caption by the image's name, the first of them first; notes on files not read."""

    of: Mapping[str, tuple[Source, ...]]
    notes: tuple[Note, ...]
    usual: str  # the encoding of those files that are not UTF-8

    def caption(self, image: str) -> tuple[Caption | None, list[tuple[str, str]]]:
        """An image's caption, None where there is none, and notes (code, words)."""
        notes: list[tuple[str, str]] = []
        found: Caption | None = None
        for source in self.of.get(image, ()):
            if found is None:
                try:
                    found = self._read(source)
                except (OSError, ValueError, RecursionError) as error:
                    said = error.args[0] if error.args else ""
                    why = said if isinstance(said, Text) else getattr(error, "strerror", "") or str(error)
                    notes.append(("caption-unreadable", _("{file}: {why}", file=source.name, why=why)))
                else:
                    if found is None and source.path.suffix.lower() == ".json":
                        notes.append(("caption-not-read", source.name))
            elif source.row is None and source.path.suffix.lower() != ".json" and _quietly(source.path).strip():
                notes.append(("caption-both", _("{file} is not used", file=source.name)))
        if found is None:
            if not notes and any(source.row is None for source in self.of.get(image, ())):
                notes.append(("caption-empty", ""))
            return None, notes
        if found.encoding not in ("", "utf-8", "utf-8-sig"):
            about = {"file": found.source.path.name, "encoding": found.encoding, "text": found.lines[0]}
            notes.append(("caption-encoding", _("{file}: {encoding}, “{text}”", **about)))
        return found, notes

    def _read(self, source: Source) -> Caption | None:
        if source.row is not None:
            return Caption(source.row, source) if source.row else None
        text, encoding = decode(_content(source.path, _LARGEST_CAPTION), self.usual)
        if source.path.suffix.lower() == ".json":
            lines = _of_json(_parsed(text))
        else:
            lines = _split(text)
        return Caption(lines, source, encoding) if lines else None


def find(images: Sequence[ImageFile], listing: Listing) -> Sources:
    """The places of these images' captions among the listing's text files.

    Text files without an image, and tables that are not understood, are named in `notes`.
    """
    beside: dict[tuple[str, str], dict[str, File]] = {}
    for text in listing.texts:
        beside.setdefault((text.folder, text.path.stem), {})[text.suffix] = text
    for text in listing.texts:
        # The image's name may be composed otherwise.
        beside.setdefault((text.folder, composed(text.path.stem)), {}).setdefault(text.suffix, text)
    used: set[str] = set()
    found: dict[str, list[Source]] = {image.name: [] for image in images}
    known = {place for place, _stem in beside}
    around = {folder: _caption_folders(folder, known) for folder in {image.folder for image in images}}
    for image in images:
        for text in _beside(image, around[image.folder], beside):
            found[image.name].append(Source(text.path, text.name))
            used.add(text.name)
    folded = {
        (text.folder, composed(text.path.stem).casefold()): text for text in listing.texts if text.suffix in BESIDE
    }
    for image in (image for image in images if not found[image.name]):
        # From a system that knows no upper and lower case in names.
        other = folded.get((image.folder, image.stem.casefold()))
        if other is not None and other.name not in used:
            found[image.name].append(Source(other.path, other.name))
            used.add(other.name)
    places = _Places(images)
    notes: list[Note] = []
    names = {name for image in listing.images for name in (image.stem, image.base)}
    # The nearest first.
    tables = sorted((one for one in listing.texts if one.name not in used), key=lambda one: natural_key(one.name))
    tables.sort(key=lambda one: _FIRST.index(name) if (name := one.base.casefold()) in _FIRST else len(_FIRST))
    for table in sorted(tables, key=lambda one: -one.name.count("/")):
        rows = _rows(table, places) if table.suffix in _TABLES else {}
        for name, lines in rows.items():
            found[name].append(Source(table.path, table.name, lines))
        if not rows:
            notes += _not_read(table, names)
    contents = (_quietly(source.path) for sources in found.values() for source in sources if source.row is None)
    usual = usual_encoding(contents)
    return Sources({name: tuple(sources) for name, sources in found.items()}, tuple(notes), usual)


def _beside(
    image: ImageFile, around: Sequence[str], texts: Mapping[tuple[str, str], Mapping[str, File]]
) -> Iterator[File]:
    """The image's own text files, in its folder and then in folders of captions."""
    for place in (image.folder, *around):
        for stem in dict.fromkeys((image.path.stem, composed(image.path.stem), image.path.name, image.base)):
            known = texts.get((place, stem), {})
            yield from (known[suffix] for suffix in BESIDE if suffix in known)


def _caption_folders(folder: str, known: Iterable[str]) -> list[str]:
    """Which of the known folders hold captions: below `folder`, or beside it or one around it with the same subfolders."""
    parts = folder.split("/")[:-1]
    wanted = {f"{folder}{{}}/"}
    for depth in range(len(parts)):
        above, below = "".join(f"{part}/" for part in parts[:depth]), parts[depth + 1 :]
        wanted.add(f"{above}{{}}/" + "".join(f"{part}/" for part in below))
        wanted.add(f"{above}{{}}/" + "".join(f"{part}/" for part in parts[depth:]))
    named = {form.replace("{}", name).casefold() for form in wanted for name in _FOLDERS}
    return sorted((place for place in known if place.casefold() in named), key=natural_key)


class _Places:
    """Images by all that a table may call them."""

    def __init__(self, images: Sequence[ImageFile]) -> None:
        self._images = images
        self._names = cache(self._named)
        self._absolute = {str(image.path.absolute()): image.name for image in images}

    def image(self, called: str, folder: str) -> str | None:
        """The image that a table in `folder` calls so: by its path, with or without suffix, or if it is the only one by name."""
        known = self._names(folder)
        path = composed(called).replace("\\", "/")
        plain = path.removeprefix("./")
        return self._absolute.get(path) or known.get(plain) or known.get(PurePosixPath(plain).name)

    def _named(self, folder: str) -> dict[str, str]:
        names: dict[str, str] = {}
        short: dict[str, list[str]] = {}
        for image in self._images:
            if image.name.startswith(folder):
                inner = image.name[len(folder) :]
                names[inner] = image.name
                names.setdefault(str(PurePosixPath(inner).with_suffix("")), image.name)
                for key in (image.base, image.stem):
                    short.setdefault(key, []).append(image.name)
        return {key: owners[0] for key, owners in short.items() if len(set(owners)) == 1} | names


def _rows(table: File, places: _Places) -> dict[str, Lines]:
    try:
        text, _encoding = decode(_content(table.path, _LARGEST_TABLE))
        pairs = list(_pairs(text, table.suffix))
    except (OSError, ValueError, csv.Error, RecursionError):
        return {}
    found: dict[str, Lines] = {}
    for called, lines in pairs:
        if lines and (name := places.image(called, table.folder)):
            # Several rows of one image are several captions.
            found[name] = (*found.get(name, ()), *lines)
    return found


def _pairs(text: str, suffix: str) -> Iterator[tuple[str, Lines]]:
    if suffix in (".csv", ".tsv"):
        delimiter = "\t" if suffix == ".tsv" else max(",;\t", key=text.partition("\n")[0].count)
        lines = csv.reader(io.StringIO(text), delimiter=delimiter)
        head = [field.strip().casefold() for field in next(lines, [])]
        if not any(field in head for field in _NAME_FIELDS):
            # Without a head: name, caption.
            yield from ((row[0], _split(row[1])) for row in csv.reader(io.StringIO(text)) if len(row) == 2)
            return
        yield from (pair for row in lines if (pair := _of_row(dict(zip(head, row, strict=False)))))
        return
    if suffix == ".json":
        rows = _parsed(text)
        if isinstance(rows, Mapping):
            yield from ((str(key), texts) for key, value in rows.items() if (texts := _of_json(value)))
            rows = next((value for value in rows.values() if isinstance(value, list)), [])
        rows = rows if isinstance(rows, list) else []
    else:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    yield from (pair for row in rows if isinstance(row, Mapping) and (pair := _of_row(row)))


def _of_row(row: Mapping[str, Any]) -> tuple[str, Lines] | None:
    called = next((row[field] for field in _NAME_FIELDS if isinstance(row.get(field), str)), None)
    return (called, _of_json(row)) if called else None


def _of_json(value: Any) -> Lines:
    """Captions in a value: a text, a list of them, or a table with fields that are called so.

    As sd-scripts does it, tags follow the caption, or each of its lines.
    """
    if isinstance(value, str):
        return _split(value)
    if isinstance(value, list):
        return tuple(line for one in value if isinstance(one, str) for line in _split(one))
    if not isinstance(value, Mapping):
        return ()
    lines: Lines = next(filter(None, (_of_json(value.get(field)) for field in _TEXT_FIELDS)), ())
    tags = next(filter(None, (_tags(value.get(field)) for field in _TAG_FIELDS)), "")
    return tuple(f"{line}, {tags}" for line in lines) if lines and tags else lines or ((tags,) if tags else ())


def _tags(value: Any) -> str:
    if isinstance(value, str):
        # Danbooru separates tags by spaces.
        return ", ".join(value.split()) if "," not in value and "_" in value else ", ".join(_split(value))
    if isinstance(value, Mapping):
        value = [one for inner in value.values() for one in (inner if isinstance(inner, list) else [])]
    return ", ".join(one for one in value if isinstance(one, str)) if isinstance(value, list) else ""


def _split(text: str) -> Lines:
    return tuple(filter(None, map(str.strip, text.splitlines())))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(_("it is nested too deep")) from None


def _content(path: Path, most: int) -> bytes:
    if not path.is_file():
        raise ValueError(_("it is a folder, a pipe or a device"))
    if (size := path.stat().st_size) > most:
        raise ValueError(_("{size} MB are too many for captions", size=round(size / 1e6)))
    return path.read_bytes()


def _quietly(path: Path) -> bytes:
    try:
        return _content(path, _LARGEST_CAPTION)
    except (OSError, ValueError):
        return b""


def _not_read(text: File, names: Collection[str]) -> Iterator[Note]:
    """A word on a text file that no image's caption comes from; none where it is nobody's caption."""
    if text.stem.casefold() in _NO_CAPTIONS:
        return
    if text.suffix in (".txt", ".caption"):
        if text.stem not in names:
            yield Note(text.name, "caption-orphan", "")
    elif text.suffix not in (".yaml", ".yml", ".xml", ".text") or text.stem in names:
        yield Note(text.name, "caption-not-read", "")
