"""Files that a page sends: named anew, limited in size and number, and decoded before they are kept."""

from __future__ import annotations

import stat
import unicodedata
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final
from urllib.parse import unquote

from tsuika.api.image_set import CAPTIONS, ImageSet
from tsuika.core import names
from tsuika.core.errors import ImageError, RecipeError
from tsuika.core.files import write_text
from tsuika.core.texts import _
from tsuika.data.encoding import decode
from tsuika.data.folder import IMAGES as SUFFIXES
from tsuika.data.image import open_image

MOST_BYTES: Final = 512 * 2**20
MOST_FILES: Final = 20_000
CAPTION_BYTES: Final = 2**16
# Of a zip: unpacked, by packed.
MOST_RATIO: Final = 200
MOST_DEPTH: Final = 6


def safe_name(text: str) -> str | None:
    """A relative name with `/` that every system takes; None where the given one leads elsewhere or is no name."""
    text = unicodedata.normalize("NFC", text)
    windows = PureWindowsPath(text)
    if not text or windows.drive or windows.root or text.startswith("/") or "\\" in text:
        return None
    parts = text.split("/")
    if len(parts) > MOST_DEPTH or any(not part or part in (".", "..") for part in parts):
        return None
    if any(names.fault_of(PurePosixPath(part).stem) or names.fault_of(part) for part in parts):
        return None
    return text


async def received(chunks: AsyncIterator[bytes], target: Path) -> int:
    """Write what arrives into a file; how many bytes that were.

    Raises:
        ImageError: DS003, it is too large.
    """
    size = 0
    with target.open("wb") as stream:
        async for chunk in chunks:
            size += len(chunk)
            if size > MOST_BYTES:
                raise ImageError("DS003", where=target.name, why=_("It is too large."))
            stream.write(chunk)
    return size


def take(into: ImageSet, file: Path, name: str) -> list[str]:
    """Take a file that has arrived into a set: an image, a caption, or a zip of these; returns the names of the images.

    Raises:
        RecipeError: RC002, the name is none that may be.
        ImageError: it is no image that can be used (DS003).
    """
    safe = safe_name(name)
    if safe is None:
        raise RecipeError("RC002", key="name", found=name, why=_("It is not the name of a file inside a folder."))
    suffix = PurePosixPath(safe).suffix.lower()
    if suffix == ".zip":
        return list(_unpacked(into, file))
    if suffix in CAPTIONS:
        _take_caption(into, file, safe)
        return []
    if suffix not in SUFFIXES:
        raise ImageError("DS003", where=safe, why=_("No image format ends in {suffix}.", suffix=suffix or "–"))
    # Decoded whole, so that nothing is kept that is no image.
    open_image(file)
    return [into.add(file, safe)]


def _take_caption(into: ImageSet, file: Path, name: str) -> None:
    content = file.read_bytes()
    if len(content) > CAPTION_BYTES:
        raise ImageError("DS003", where=name, why=_("It is too large."))
    try:
        text, _encoding = decode(content)
    except ValueError:
        raise ImageError("DS003", where=name, why=_("It is not UTF-8 text.")) from None
    # `a.png.txt` belongs to `a.png` as `a.txt` does.
    plain = PurePosixPath(name).with_suffix("")
    target = into.folder / (plain.with_suffix("") if plain.suffix.lower() in SUFFIXES else plain).with_suffix(
        CAPTIONS[0]
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        write_text(target, text)


def _unpacked(into: ImageSet, file: Path) -> Iterator[str]:
    try:
        with zipfile.ZipFile(file) as packed:
            entries = [one for one in packed.infolist() if not one.is_dir()]
            total = sum(one.file_size for one in entries)
            if len(entries) > MOST_FILES or total > 16 * MOST_BYTES or total > MOST_RATIO * max(1, file.stat().st_size):
                raise ImageError("DS003", where=file.name, why=_("It is too large."))
            for one in sorted(entries, key=lambda one: one.filename.lower().endswith(CAPTIONS)):
                yield from _entry(into, packed, one, file.parent)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ImageError("DS003", where=file.name, why=str(error)) from None


def _entry(into: ImageSet, packed: zipfile.ZipFile, one: zipfile.ZipInfo, scratch: Path) -> Iterator[str]:
    """An image or caption of a zip; anything else in it is passed over."""
    name = safe_name(one.filename)
    suffix = PurePosixPath(one.filename).suffix.lower()
    is_link = stat.S_ISLNK(one.external_attr >> 16)
    hidden = any(part.startswith((".", "__MACOSX")) for part in one.filename.split("/"))
    if name is None or is_link or hidden or suffix not in SUFFIXES | set(CAPTIONS):
        return
    target = scratch / f"entry{suffix}"
    left = one.file_size
    with packed.open(one) as source, target.open("wb") as stream:
        # What it says of its size need not be so.
        while block := source.read(2**20):
            left -= len(block)
            if left < 0:
                raise ImageError("DS003", where=one.filename, why=_("It is larger than it says."))
            stream.write(block)
    try:
        yield from take(into, target, name)
    except ImageError:
        # The others are taken all the same; the check names what is missing in a folder, and here there is none.
        return
    finally:
        target.unlink(missing_ok=True)


def file_name(header: str) -> str:
    """The last part of the name in a header.

    Raises:
        RecipeError: RC002, no file may be called so.
    """
    name = safe_name(name_in(header).rpartition("/")[2])
    if name is None:
        raise RecipeError("RC002", key="name", found=name_in(header), why=_("It is not the name of a file."))
    return name


def name_in(header: str) -> str:
    """The name in a header, percent-encoded UTF-8."""
    return unquote(header, errors="replace")
