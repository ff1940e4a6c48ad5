"""What is known about a set of images: `Sample`, `Manifest`, and their JSON. Knows no pixels and no model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tsuika.core.events import Warned, note
from tsuika.data.faults import FAULTS

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


@dataclass(frozen=True)
class Manifest:
    """The images of a run, in order; what was left out and why; notes on what was used."""

    samples: tuple[Sample, ...]
    quarantined: tuple[LeftOut, ...] = ()
    notes: tuple[Note, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def remarks(self) -> Iterator[Warned]:
        """What people should know: images left out (DS006), and what was changed about others (DS007)."""
        remarks = [("DS006", left.name, left.reason, left.words) for left in self.quarantined]
        remarks += [("DS007", *one) for one in self.notes]
        for code, name, reason, words in remarks:
            yield note(code, name=name, reason=FAULTS[reason].what, words=words)

    def to_json(self) -> str:
        """UTF-8 text; a file name that is not valid Unicode survives as JSON escapes."""
        tables = {
            "samples": [{**vars(sample), "path": str(sample.path)} for sample in self.samples],
            "quarantined": [{**item._asdict(), "path": str(item.path)} for item in self.quarantined],
            "notes": [note._asdict() for note in self.notes],
        }
        text = json.dumps(tables, ensure_ascii=False, indent=1)
        return text.encode("utf-8", "backslashreplace").decode("utf-8")

    @staticmethod
    def read(path: Path) -> Manifest | None:
        """From a file; None where there is none, or what is there is no manifest."""
        try:
            return Manifest.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @staticmethod
    def from_json(text: str) -> Manifest:
        """The inverse of `to_json`.

        Raises:
            ValueError: not JSON, or not a manifest (also KeyError, TypeError).
        """
        tables: dict[str, list[dict[str, Any]]] = json.loads(text)
        return Manifest(
            samples=tuple(Sample(**{**row, "path": Path(row["path"])}) for row in tables["samples"]),
            quarantined=tuple(LeftOut(**{**row, "path": Path(row["path"])}) for row in tables["quarantined"]),
            notes=tuple(Note(**row) for row in tables["notes"]),
        )
