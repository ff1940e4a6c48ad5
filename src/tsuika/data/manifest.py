"""What is known about a set of images: `Sample`, `Manifest`, and their JSON. Knows no pixels and no model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from tsuika.core import kept
from tsuika.core.events import Warned, note
from tsuika.core.texts import Text, listed
from tsuika.data.faults import FAULTS

SHOWN: Final = 3  # particulars of one kind in a remark
CaptionSource = Literal["file", "file+trigger", "built"]


class LeftOut(NamedTuple):
    """A file that is not trained on. `reason` is a key of `FAULTS`; `words` are its particulars."""

    path: Path
    reason: str
    words: str
    name: str = ""  # as a sample's


class Note(NamedTuple):
    """Something about a used image or folder that people should know. `code` is a key of `FAULTS`."""

    name: str
    code: str
    words: str


@dataclass(frozen=True)
class Sample:
    """One usable image."""

    path: Path
    name: str  # relative to the image folder, NFC, with `/`: for people
    caption: str
    width: int  # px, after EXIF orientation
    height: int
    repeats: int  # how often it counts in an epoch
    sha256: str  # of the file's bytes
    weight: float = 1.0  # loss weight
    caption_source: CaptionSource = "built"
    alternatives: tuple[
        str, ...
    ] = ()  # as training draws them; `caption` is the first, without marks; empty: it is the only one
    mask: Path | None = None  # file with the mask; the image itself: its transparency is the mask
    mask_sha256: str = ""  # of that file's bytes
    set: str = ""  # of several folders the one that it is in, as `Data.each` calls it

    @property
    def mask_kind(self) -> Literal["", "file", "transparency"]:
        """What its mask is; empty: it has none."""
        return "" if self.mask is None else "transparency" if self.mask == self.path else "file"

    @property
    def captions(self) -> tuple[str, ...]:
        """All that it may be called by in training, templates apart."""
        return self.alternatives or (self.caption,)


@dataclass(frozen=True)
class Manifest:
    """The images of a run, in order; what was left out and why; notes on what was used; images of another role."""

    samples: tuple[Sample, ...]
    quarantined: tuple[LeftOut, ...] = ()
    notes: tuple[Note, ...] = ()
    aside: tuple[LeftOut, ...] = ()  # masks, samples and regularization images among them: no faults
    regularization: str = ""  # the folder of regularization images that was found among them

    def __len__(self) -> int:
        return len(self.samples)

    @staticmethod
    def join(sets: Mapping[str, Manifest]) -> Manifest:
        """Several as one; names begin with their set's."""

        def named(kind: str) -> Iterator[Any]:
            for name, one in sets.items():
                for row in getattr(one, kind):
                    inner = f"{name}/{row.name}"
                    yield replace(row, name=inner, set=name) if isinstance(row, Sample) else row._replace(name=inner)

        kinds = ("samples", "quarantined", "notes", "aside")
        samples, quarantined, notes, aside = (tuple(named(kind)) for kind in kinds)
        return Manifest(samples, quarantined, notes, aside)

    def of(self, name: str) -> Manifest:
        """Only the images of a set."""
        return replace(self, samples=tuple(sample for sample in self.samples if sample.set == name))

    def remarks(self) -> Iterator[Warned]:
        """What people should know: images left out (DS006), and what was changed about others (DS007).

        Of many images of one kind there is one remark (DS010, DS011).
        """
        masks = {sample.mask for sample in self.samples}
        used = [left for left in self.aside if left.reason == "regularization"]
        left_out = [*self.quarantined, *(left for left in self.aside if left not in used and left.path not in masks)]
        for one, many, rows in (
            ("DS006", "DS010", [Note(left.name, left.reason, left.words) for left in left_out]),
            ("DS007", "DS011", [*(Note(left.name, left.reason, left.words) for left in used), *self.notes]),
        ):
            for code in dict.fromkeys(row.code for row in rows):
                alike = [row for row in rows if row.code == code]
                words = particulars(row.words for row in alike)
                about: dict[str, object] = {"name": alike[0].name, "reason": FAULTS[code].what, "words": words}
                if len(alike) > 1:
                    names = some([row.name for row in alike])
                    shown = Text("{names}: {words}", {"names": names, "words": words}) if words else names
                    about |= {"count": len(alike), "names": shown}
                yield note(many if len(alike) > 1 else one, **about)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "samples": [_plain(sample) for sample in self.samples],
            "quarantined": [{**item._asdict(), "path": str(item.path)} for item in self.quarantined],
            "notes": [note._asdict() for note in self.notes],
            "aside": [{**item._asdict(), "path": str(item.path)} for item in self.aside],
            "regularization": self.regularization,
        }

    def write(self, path: Path) -> None:
        """Into a file, for a run that goes on; a file name that is not valid Unicode survives as JSON escapes."""
        kept.write(path, self.to_dict())

    @staticmethod
    def read(path: Path) -> Manifest:
        """From a file.

        Raises:
            FormatError: TR011, it is not there, damaged, or was changed.
        """
        return kept.read(path, Manifest.from_dict)

    @staticmethod
    def from_dict(tables: Mapping[str, Any]) -> Manifest:
        """The inverse of `to_dict`.

        Raises:
            KeyError, TypeError: not a manifest.
        """

        def left_out(name: str) -> tuple[LeftOut, ...]:
            return tuple(LeftOut(**{**row, "path": Path(row["path"])}) for row in tables.get(name, ()))

        return Manifest(
            samples=tuple(map(_sample, tables["samples"])),
            quarantined=left_out("quarantined"),
            notes=tuple(Note(**row) for row in tables["notes"]),
            aside=left_out("aside"),
            regularization=str(tables.get("regularization", "")),
        )


def _plain(sample: Sample) -> dict[str, Any]:
    return {**vars(sample), "path": str(sample.path), "mask": str(sample.mask or "")}


def _sample(row: Mapping[str, Any]) -> Sample:
    paths = {"path": Path(row["path"]), "mask": Path(row["mask"]) if row.get("mask") else None}
    return Sample(**{**row, **paths, "alternatives": tuple(row.get("alternatives", ()))})


def particulars(words: Iterable[str], most: int = SHOWN) -> str:
    """What is said of several files of one kind: the first few that differ, sentences behind each other."""
    first, *others = [*dict.fromkeys(words)][:most] or [""]
    if not first.endswith("."):
        return listed([first, *others])
    return reduce(lambda said, more: Text("{said} {more}", {"said": said, "more": more}), others, first)


def some(names: Sequence[str]) -> str:
    """The first of many names, or a dash for none."""
    return (", ".join(names[:5]) or "–") + (f" … ({len(names)})" if len(names) > 5 else "")
