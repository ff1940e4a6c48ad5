"""The result of `check` on a folder of images: frozen facts and findings, no pixels. The texts are in `faults`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from tsuika.core.events import Event
from tsuika.core.texts import Text, _, _n
from tsuika.data.faults import FAULTS
from tsuika.data.manifest import SHOWN, CaptionSource, LeftOut, Note, particulars
from tsuika.pages import in_languages

# unusable: training leaves it out. look: a person should look. note: for information, nothing need be done.
Level = Literal["unusable", "look", "note"]
CountFit = Literal["few", "right", "many"]
LEVELS: Final[tuple[Level, ...]] = ("unusable", "look", "note")


@dataclass(frozen=True)
class Finding:
    """One fault, and the images that have it.

    `code` is a key of `faults.FAULTS`; `values` fill in its texts and hold the numbers it is based on.
    """

    code: str
    level: Level
    pictures: tuple[str, ...] = ()  # names; empty: it is about the set as a whole
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def what(self) -> Text:
        """The fault in a few words."""
        return FAULTS[self.code].what

    @property
    def why(self) -> Text:
        """Why it is one, with the numbers it is based on."""
        return FAULTS[self.code].why.filled({"count": len(self.pictures), **self.values})

    @property
    def todo(self) -> Text:
        """What can be done."""
        return FAULTS[self.code].todo.filled({"count": len(self.pictures), **self.values})

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the texts by language."""
        return {**asdict(self), **{name: in_languages(getattr(self, name)) for name in ("what", "why", "todo")}}


@dataclass(frozen=True)
class FoundSoFar(Event):
    """Findings, as in a report's JSON, of the images that are read by now; they are judged against these alone."""

    findings: tuple[Mapping[str, Any], ...]


def of_rows(code: str, level: Level, rows: Sequence[LeftOut | Note], most: int = SHOWN) -> Finding:
    """The finding of files that have the same fault, with the first few particulars."""
    return Finding(
        code, level, tuple(row.name for row in rows), {"words": particulars((row.words for row in rows), most)}
    )


@dataclass(frozen=True)
class CheckedImage:
    """One file. Where it is not usable, sizes and numbers are 0 and the caption is empty."""

    name: str  # relative to the folder, with `/`
    path: Path
    usable: bool
    width: int = 0  # px, upright
    height: int = 0
    caption: str = ""  # as it will be trained with
    caption_source: CaptionSource = "built"
    alternatives: tuple[str, ...] = ()  # captions, the one above among them, of which training draws one at each step
    tokens: int | None = None  # of the longest caption, start and end not counted; None: there was no tokenizer
    sharpness: float = 0.0  # against the set's median; 1 = like most others; 0 where there is too little to tell by
    detail_px: int = 0  # about what side (of a square of the same area) would hold all the detail there is
    mask: Literal["", "file", "transparency"] = ""  # what its mask is; empty: it has none
    bars: tuple[int, int, int, int] = (0, 0, 0, 0)  # even bars left, above, right, below, px
    drawn: bool = False  # flat areas of one colour, as in drawings: its exposure is not judged
    dark: float = 0.0  # share of pixels that are as good as black, 0..1
    bright: float = 0.0  # share of pixels that are as good as white, 0..1


@dataclass(frozen=True)
class Captions:
    """Counts over usable images."""

    from_files: int
    without: int  # neither a file nor a trigger or class word to build one from
    different: int  # different captions
    trigger: str
    with_trigger: int  # not counting those that training puts it in front of
    tokenizer: str  # of which base; empty: tokens were not counted
    longest_tokens: int
    torn: Mapping[str, tuple[str, ...]]  # word -> its pieces
    common: tuple[str, ...]  # phrases that stand in almost every caption
    common_counts: Mapping[str, int]  # the same, with the number of captions
    tags: Mapping[str, int]  # what stands between commas -> captions, the most frequent first


@dataclass(frozen=True)
class Variety:
    """How different the images are from each other, from thumbnails and colours alone: approximate, no encoder.

    Shares are of usable images, 0..1; the spreads are relative to what `bench/check.py` measured on mixed photographs
    (about 1) and on one repeated scene (about 0).
    """

    different: int  # images, near-duplicates counted once
    backgrounds: int  # groups of alike backgrounds
    same_background: float  # share of images in the largest of them
    palette: float
    composition: float
    light: float


@dataclass(frozen=True)
class ImageSize:
    """A bucket: what training would sort the images into."""

    width: int
    height: int
    count: int


@dataclass(frozen=True)
class MethodFit:
    """Whether this set has as many different images as a method needs."""

    method: str
    low: int
    high: int
    fit: CountFit


@dataclass(frozen=True)
class Report:
    """The result of a check."""

    folder: Path
    base: str  # as given; its size and tokenizer are what the images were judged for
    size_px: int  # training size: side of a square
    pictures: tuple[CheckedImage, ...]  # every file that was found, in natural order
    findings: tuple[Finding, ...]  # worst first
    duplicates: tuple[tuple[str, ...], ...]  # groups that show the same image, the best one first
    captions: Captions
    variety: Variety
    sizes: tuple[ImageSize, ...]
    large_enough: Mapping[int, int]  # training size in px -> usable images that need no enlarging for it
    methods: tuple[MethodFit, ...]
    not_judged: tuple[str, ...]  # keys of `faults.NOT_JUDGED`

    def with_findings(self, *more: Finding) -> Report:
        """The same with further findings, in their order."""
        return replace(self, findings=in_order([*self.findings, *more]))

    @property
    def headline(self) -> Text:
        """One line: images found, usable ones, those to look at, captions."""
        return _n(
            "{count} image · usable {usable} · to check {to_check} · captions {captions}/{usable}",
            "{count} images · usable {usable} · to check {to_check} · captions {captions}/{usable}",
            self.total,
            usable=len(self.usable),
            to_check=len(self.to_look_at),
            captions=self.captions.from_files,
        )

    @property
    def total(self) -> int:
        return len(self.pictures)

    @property
    def usable(self) -> tuple[CheckedImage, ...]:
        return tuple(image for image in self.pictures if image.usable)

    @property
    def different(self) -> int:
        """Usable images, near-duplicates counted once."""
        return self.variety.different

    @property
    def to_look_at(self) -> tuple[str, ...]:
        """Names of usable images with a fault that a person should look at."""
        named = {name for finding in self.findings if finding.level == "look" for name in finding.pictures}
        return tuple(image.name for image in self.usable if image.name in named)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the counts that `--json` begins with."""
        counts = {"total": self.total, "usable": len(self.usable), "to_look_at": len(self.to_look_at)}
        table = asdict(self)
        for row in table["pictures"]:
            row["path"] = str(row["path"])
        table["findings"] = [one.to_dict() for one in self.findings]
        return {**counts, **table, "folder": str(self.folder)}


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The worst first; of one level those about the whole set, then those of most images."""
    return tuple(sorted(findings, key=lambda one: (LEVELS.index(one.level), bool(one.pictures), -len(one.pictures))))


def spread_word(spread: float) -> Text:
    """A spread of `Variety` in a word."""
    return _("narrow") if spread < 0.4 else _("medium") if spread < 0.75 else _("wide")
