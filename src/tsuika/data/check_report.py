"""What `check` says about a folder of pictures: frozen facts and findings, no pixels. Words for people: `check_words`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from tsuika.data.manifest import CaptionSource

# unusable: training leaves it out. look: a person should look. note: good to know, nothing need be done.
Level = Literal["unusable", "look", "note"]
Fit = Literal["few", "right", "many"]
LEVELS: Final[tuple[Level, ...]] = ("unusable", "look", "note")


@dataclass(frozen=True)
class Finding:
    """One fault, and the pictures that have it.

    `code` is a key of `check_words.FAULTS`; `values` fill its words and hold the numbers it stands on.
    """

    code: str
    level: Level
    pictures: tuple[str, ...] = ()  # names; empty: it is about the set as a whole
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckedPicture:
    """One file. Where it is not usable, sizes and numbers are 0 and the caption is empty."""

    name: str  # relative to the folder, with `/`
    path: Path
    usable: bool
    width: int = 0  # px, upright
    height: int = 0
    caption: str = ""  # as it will be trained with
    caption_source: CaptionSource = "built"
    tokens: int | None = None  # of the caption, start and end not counted; None: there was no tokenizer
    sharpness: float = 0.0  # against the set's median; 1 = like most others; 0 where there is too little to tell by
    detail_px: int = 0  # about what side (of a square of the same area) would hold all the detail there is
    bars: tuple[int, int, int, int] = (0, 0, 0, 0)  # even bars left, above, right, below, px
    drawn: bool = False  # flat areas of one colour, as in drawings: its exposure is not judged
    dark: float = 0.0  # share of pixels that are as good as black, 0..1
    bright: float = 0.0  # share of pixels that are as good as white, 0..1


@dataclass(frozen=True)
class Captions:
    """Counts over usable pictures."""

    from_files: int
    without: int  # neither a file nor a trigger or class word to build one from
    different: int  # different captions
    trigger: str
    with_trigger: int  # not counting those that training puts it in front of
    tokenizer: str  # whose tokens were counted; empty: nobody's
    longest_tokens: int
    torn: Mapping[str, tuple[str, ...]]  # word -> its pieces
    common: tuple[str, ...]  # phrases that stand in every caption


@dataclass(frozen=True)
class Variety:
    """How different the pictures are from each other, from thumbnails and colours alone: approximate, no encoder.

    Shares are of usable pictures, 0..1; the spreads are relative to what `bench/check.py` measured on mixed photographs
    (about 1) and on one repeated scene (about 0).
    """

    different: int  # pictures, near-duplicates counted once
    backgrounds: int  # groups of alike backgrounds
    same_background: float  # share of pictures in the largest of them
    palette: float
    composition: float
    light: float


@dataclass(frozen=True)
class Size:
    """A bucket: what training would sort the pictures into."""

    width: int
    height: int
    count: int


@dataclass(frozen=True)
class MethodWants:
    """How many different pictures a method wants, by the rules of thumb in use; `fit` is about this set."""

    method: str
    low: int
    high: int
    fit: Fit


@dataclass(frozen=True)
class Report:
    """All of it."""

    folder: Path
    base: str  # as given; its size and tokenizer are what the pictures were judged for
    size_px: int  # training size: side of a square
    pictures: tuple[CheckedPicture, ...]  # every file that was found, in natural order
    findings: tuple[Finding, ...]  # worst first
    duplicates: tuple[tuple[str, ...], ...]  # groups that show the same picture, the best one first
    captions: Captions
    variety: Variety
    sizes: tuple[Size, ...]
    large_enough: Mapping[int, int]  # training size in px -> usable pictures that need no enlarging for it
    methods: tuple[MethodWants, ...]
    not_judged: tuple[str, ...]  # keys of `check_words.NOT_JUDGED`

    @property
    def total(self) -> int:
        return len(self.pictures)

    @property
    def usable(self) -> tuple[CheckedPicture, ...]:
        return tuple(picture for picture in self.pictures if picture.usable)

    @property
    def different(self) -> int:
        """Usable pictures, near-duplicates counted once."""
        return self.variety.different

    @property
    def to_look_at(self) -> tuple[str, ...]:
        """Names of usable pictures with a fault that a person should look at."""
        named = {name for finding in self.findings if finding.level == "look" for name in finding.pictures}
        return tuple(picture.name for picture in self.usable if picture.name in named)

    def of(self, name: str) -> tuple[Finding, ...]:
        """The findings about one picture."""
        return tuple(finding for finding in self.findings if name in finding.pictures)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the counts that `--json` begins with."""
        counts = {"total": self.total, "usable": len(self.usable), "to_look_at": len(self.to_look_at)}
        table = asdict(self)
        for row in table["pictures"]:
            row["path"] = str(row["path"])
        return {**counts, **table, "folder": str(self.folder)}
