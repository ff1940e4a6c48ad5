"""A set of images that may be edited: own copies of images and captions in a folder, and every change can be undone.

The originals are only read: an image is linked (or copied) into the set, and what is changed is written as a new file.
"""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Final

from tsuika.core.files import whole, write_text
from tsuika.core.texts import Text, _n
from tsuika.data import caption, caption_files
from tsuika.data.encoding import decode
from tsuika.data.folder import IMAGES as SUFFIXES
from tsuika.data.folder import natural_key, walk
from tsuika.data.image import open_image, sniff
from tsuika.data.manifest import LeftOut
from tsuika.data.roles import Masks, tell_apart

IMAGES: Final = "images"
LEFT_OUT: Final = "left-out"
UNDO: Final = "undo"
CAPTIONS: Final = (".txt", ".caption")  # captions of the set are the first; the second is read, too
KEPT_CHANGES: Final = 200  # changes that can be undone

Content = Path | bytes | None  # what a file of the set becomes: what another file holds, bytes, or nothing at all


@dataclass(frozen=True)
class SetImage:
    """An image of the set."""

    name: str  # relative to the folder of images, with `/`
    path: Path  # where it is
    left_out: bool  # whether it is kept aside, and not trained on
    caption: str  # as it stands beside the image, line by line; empty without a file
    mask: str = ""  # the name of its mask, as its own; empty: it has none

    @property
    def key(self) -> str:
        """What stands for it where no name may."""
        return key_of(self.name)

    @property
    def mask_key(self) -> str:
        """The same of its mask; empty: it has none."""
        return key_of(self.mask) if self.mask else ""


class ImageSet:
    """Images in `images/`, those that are left out in `left-out/`, and what was there before each change in `undo/`."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.folder = self.root / IMAGES

    def images(self) -> tuple[SetImage, ...]:
        """Every image, in natural order; those that are left out among them, masks are not."""
        every, masks = sorted(self._places(), key=lambda one: natural_key(one[0])), self._masks()
        no_images = {mask.name for known in masks.values() for mask in known}
        return tuple(
            SetImage(
                name, path, place == LEFT_OUT, _caption_of(path), next((mask.name for mask in masks.get(name, ())), "")
            )
            for name, path, place in every
            if name not in no_images
        )

    def __len__(self) -> int:
        return sum(1 for _place in self._places())

    def path(self, key: str) -> Path | None:
        """The image, or mask, of a key; None: there is none."""
        return next((path for name, path, _place in self._places() if key_of(name) == key), None)

    def mask_path(self, image: SetImage) -> Path:
        """Where the mask of an image is that has one."""
        return self.root / (LEFT_OUT if image.left_out else IMAGES) / image.mask

    def _masks(self) -> dict[str, list[LeftOut]]:
        """The masks of each image that has one, found as training finds them."""
        found: dict[str, list[LeftOut]] = {}
        # All that can be one is called so, and most sets have none.
        if not any(word in name.casefold() for name, _path, _place in self._places() for word in ("mask", "matte")):
            return found
        for place in (self.root / IMAGES, self.root / LEFT_OUT):
            roles = tell_apart(walk(place), place)
            if known := [one for one in roles.aside if one.reason == "mask"]:
                beside = Masks(known)
                found |= {image.name: masks for image in roles.subject if (masks := beside.of(image.name))}
        return found

    def _places(self) -> Iterator[tuple[str, Path, str]]:
        """Every image: its name, where it is, and in which of the folders."""
        for place in (IMAGES, LEFT_OUT):
            # Nothing hidden; links to folders are not followed.
            for above, folders, files in os.walk(self.root / place):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for path in (Path(above, name) for name in sorted(files) if not name.startswith(".")):
                    if path.suffix.lower() in SUFFIXES:
                        yield path.relative_to(self.root / place).as_posix(), path, place

    def add(self, source: Path, name: str, lines: Sequence[str] = ()) -> str:
        """Take a copy of an image into the set; returns its name, which has a number where there was one of that name.

        An image with the same content and name is taken once. `lines` become its caption.
        """
        target = self.folder / unicodedata.normalize("NFC", name)
        if target.suffix.lower() not in SUFFIXES:
            with source.open("rb") as stream:
                target = target.with_name(f"{target.name}.{(sniff(stream.read(16)) or 'png').lower()}")
        first, number = target, 1
        while _taken(target):
            if target.is_file() and target.samefile(source):
                return target.relative_to(self.folder).as_posix()
            number += 1
            target = first.with_stem(f"{first.stem}-{number}")
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(target, source)
        if lines:
            write_text(target.with_suffix(CAPTIONS[0]), _written(lines))
        return target.relative_to(self.folder).as_posix()

    def add_folder(self, folder: Path) -> Iterator[tuple[int, int]]:
        """Take copies of all images of a folder, with the captions that training would find, wherever they stand.

        Yields how many are done and how many there are.
        """
        listing = walk(folder)
        sources = caption_files.find(listing.images, listing)
        for number, image in enumerate(listing.images, 1):
            found, _notes = sources.caption(image.name)
            self.add(image.path, image.name, found.lines if found else ())
            yield number, len(listing.images)

    def leave_out(self, names: Sequence[str]) -> None:
        """Keep images aside, with their captions."""
        text = _n("{count} image left out", "{count} images left out", len(names))
        self._change(text, self._moved(names, IMAGES, LEFT_OUT))

    def put_back(self, names: Sequence[str]) -> None:
        """Take images in again that were left out."""
        text = _n("{count} image put back", "{count} images put back", len(names))
        self._change(text, self._moved(names, LEFT_OUT, IMAGES))

    def crop(self, bars: Mapping[str, tuple[int, int, int, int]]) -> None:
        """Cut even bars off images: left, above, right, below, in px. They are saved anew as PNG, upright."""
        changes: dict[str, Content] = {}
        scratch, masks = self.root / UNDO / "scratch", self._masks()
        scratch.mkdir(parents=True, exist_ok=True)
        for name, (left, top, right, bottom) in bars.items():
            size = None
            for one in (name, *(mask.name for mask in masks.get(name, ()))):
                image = open_image(self.folder / one)
                # A mask may be smaller than its image.
                image, size = image.resize(size) if size else image, size or image.size
                cropped = scratch / f"{len(changes)}.png"
                image.crop((left, top, image.width - right, image.height - bottom)).save(cropped, format="PNG")
                changes[f"{IMAGES}/{one}"] = None
                changes[f"{IMAGES}/{PurePosixPath(one).with_suffix('.png')}"] = cropped
        self._change(_n("{count} image cropped", "{count} images cropped", len(bars)), changes)
        shutil.rmtree(scratch, ignore_errors=True)

    def write_captions(self, captions: Mapping[str, str]) -> None:
        """Write captions by image; an empty one takes the file away."""
        paths = {name: path.relative_to(self.root) for name, path, _place in self._places()}
        changes: dict[str, Content] = {}
        for name, text in captions.items():
            own, *others = (paths[name].with_suffix(suffix).as_posix() for suffix in CAPTIONS)
            changes |= dict.fromkeys(other for other in others if (self.root / other).is_file())
            changes[own] = _written(text.splitlines()).encode() if text.strip() else None
        self._change(_n("{count} caption changed", "{count} captions changed", len(captions)), changes)

    def write_masks(self, masks: Mapping[str, Path | None]) -> None:
        """Take files as masks, by image, each as `NAME-mask.png` beside it; None takes the image's mask away."""
        paths, known = {name: path for name, path, _place in self._places()}, self._masks()
        changes: dict[str, Content] = {}
        for name, file in masks.items():
            image = paths[name].relative_to(self.root)
            above = image.parents[len(PurePosixPath(name).parts) - 1].as_posix()
            changes |= dict.fromkeys(f"{above}/{mask.name}" for mask in known.get(name, ()))
            if file is not None:
                changes[image.with_name(f"{image.stem}-mask.png").as_posix()] = file
        self._change(_n("{count} mask changed", "{count} masks changed", len(masks)), changes)

    def replaced(self, find: str, replace: str) -> dict[str, str]:
        """The captions that finding and replacing would change, as they would be; nothing is written."""
        if not find:
            return {}
        return {one.name: one.caption.replace(find, replace) for one in self.images() if find in one.caption}

    def added_to_all(self, words: str, *, front: bool = True) -> dict[str, str]:
        """The captions with words put in front, or behind, where they are not in it yet; nothing is written."""
        words = caption.normalise(words)

        def added(line: str) -> str:
            if caption.has_word(line, words):
                return line
            return ", ".join(filter(None, (words, line) if front else (line, words)))

        mine = {one.name: one.caption for one in self.images() if words and not one.left_out}
        changed = {name: "\n".join(map(added, text.splitlines() or [""])) for name, text in mine.items()}
        return {name: text for name, text in changed.items() if text != mine[name]}

    def last_change(self) -> Text | None:
        """What `undo` would undo; None: there is nothing."""
        if not (changes := self._changes()):
            return None
        row = json.loads(changes[-1].read_text(encoding="utf-8"))
        return Text(row["text"], row["params"], row["plural"], row["number"])

    def undo(self) -> None:
        """Take the last change back."""
        if not (changes := self._changes()):
            return
        for name, existed in json.loads(changes[-1].read_text(encoding="utf-8"))["files"].items():
            before, target = changes[-1].parent / "files" / name, self.root / name
            if before.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                before.replace(target)
            elif not existed:
                target.unlink(missing_ok=True)
        shutil.rmtree(changes[-1].parent)

    def _changes(self) -> list[Path]:
        return sorted((self.root / UNDO).glob("*/change.json"))

    def _moved(self, names: Sequence[str], old: str, new: str) -> dict[str, Content]:
        """Images, captions and masks from one folder to another, under names that are free there."""
        changes, masks = dict[str, Content](), self._masks()
        for name in names:
            path = self.root / old / name
            beside = [self.root / old / mask.name for mask in masks.get(name, ())]
            for file in filter(Path.is_file, (path, *map(path.with_suffix, CAPTIONS), *beside)):
                inside = file.relative_to(self.root / old).as_posix()
                changes |= {f"{old}/{inside}": None, f"{new}/{inside}": file}
        return changes

    def _change(self, text: Text, changes: Mapping[str, Content]) -> None:
        """Change files, and keep what was there before; after a crash `undo` gives it back."""
        if not changes:
            return
        earlier = self._changes()
        number = int(earlier[-1].parent.name) + 1 if earlier else 1
        kept = self.root / UNDO / f"{number:06d}"
        about = {"text": text.msgid, "params": dict(text.params or {}), "plural": text.plural, "number": text.number}
        files = {name: (self.root / name).is_file() for name in changes}
        write_text(kept / "change.json", json.dumps({**about, "files": files}, ensure_ascii=False))
        for name, existed in files.items():
            if existed:
                before = kept / "files" / name
                before.parent.mkdir(parents=True, exist_ok=True)
                (self.root / name).replace(before)
        for name, content in changes.items():
            target = self.root / name
            if isinstance(content, bytes):
                with whole(target) as temporary:
                    temporary.write_bytes(content)
            elif content is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                own = content.is_relative_to(self.root) and not content.exists()
                link_or_copy(target, kept / "files" / content.relative_to(self.root) if own else content)
        for old in earlier[: max(0, len(earlier) + 1 - KEPT_CHANGES)]:
            shutil.rmtree(old.parent, ignore_errors=True)


def key_of(name: str) -> str:
    """What stands for the image of a name where no name may."""
    return sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _caption_of(image: Path) -> str:
    for suffix in CAPTIONS:
        try:
            text = decode(image.with_suffix(suffix).read_bytes())[0]
        # Not there, or no text in any encoding: the check names it.
        except (OSError, ValueError):
            continue
        if lines := [caption.normalise(line) for line in text.splitlines() if line.strip()]:
            return "\n".join(lines)
    return ""


def _written(lines: Sequence[str]) -> str:
    return "\n".join(filter(None, map(caption.normalise, lines))) + "\n"


def _taken(target: Path) -> bool:
    """Whether a name is taken, or another image has its caption's name."""
    if target.exists() or not target.parent.is_dir():
        return target.exists()
    # As names, since there may be thousands, for each that is added.
    with os.scandir(target.parent) as beside:
        parts = (one.name.rpartition(".") for one in beside)
        return any(stem == target.stem and f".{suffix.lower()}" in SUFFIXES for stem, _dot, suffix in parts)


def link_or_copy(target: Path, source: Path) -> None:
    """A hard link where that can be made, else a copy."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        os.link(source, temporary, follow_symlinks=False) if not source.is_symlink() else shutil.copyfile(
            source, temporary
        )
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)
