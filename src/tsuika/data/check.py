"""Check a folder of images: what training would leave out, what a person should look at, how varied the set is.

Blur, enlargement and exposure are judged against the set's own median, never absolutely: soft watercolours or flat
drawings are not at fault. The thresholds are measured by `bench/check.py`. Originals are only read.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from threadpoolctl import threadpool_limits

from tsuika.core.events import Event, Phase
from tsuika.core.sections import AUTO, Data
from tsuika.data import bucket, check_captions, check_variety, dedupe, scan
from tsuika.data.check_report import (
    CheckedImage,
    CountFit,
    Finding,
    FoundSoFar,
    ImageSize,
    Level,
    MethodFit,
    Report,
    Variety,
    in_order,
    of_rows,
)
from tsuika.data.folder import natural_key
from tsuika.data.image import Opened
from tsuika.data.manifest import Manifest, Sample
from tsuika.data.quality import Quality, measure

FEWEST: Final = 4  # with fewer images there is no median to judge by

# Against the set's median, and never where the image is as crisp as most are; from bench/check.py.
BLURRED: Final = 0.55
BLURRED_MOST: Final = 0.17
ENLARGED: Final = 0.65
ENLARGED_MOST: Final = 0.085  # soft photographs, not enlarged, have 0.094 ...
ENLARGED_MOST_DRAWN: Final = 0.1  # ... and drawings 0.11
INTERPOLATED: Final = 7.0  # of an enlarged image in any set; other photographs reach 5.4 (bench/check.py)
# Share of pixels with a channel at its end, at least, and above the set's median.
OVEREXPOSED: Final = 0.18
OVEREXPOSED_ABOVE: Final = 0.15
# Share of the clipped pixels: too much light clips colours one after the other, a white backdrop all at once.
TINTED: Final = 0.012
# Grey level of the brightest hundredth, at most, and against the set's median.
UNDEREXPOSED: Final = 120.0
UNDEREXPOSED_SHARE: Final = 0.62
# Share of even pixels from which an image, or (its median) a set counts as drawn, whose tones are meant.
DRAWN: Final = 0.6
DRAWN_SET: Final = 0.45  # lower, as JPEG leaves fewer

ODD_ASPECT: Final = 0.75  # share of an image that its bucket must show
MUCH_ENLARGED: Final = 1.25
SAME_BACKGROUND: Final = 0.5  # share of images
EMPTY_TAIL: Final = 256  # zero bytes at the end of a JPEG: a download that broke off

_LEVELS: Final[tuple[tuple[Level, bool], ...]] = (("look", True), ("note", False))
_NOTED: Final = ("frames", "reduced", "profile-ignored", "exif-ignored", "own-output", "system-folder", "not-read")
_OF_MASKS: Final = ("mask-empty", "mask-white", "mask-size", "mask-unreadable", "mask-none", "mask-orphan")
BASE_SIZES: Final = (512, 768, 1024)  # SD1, SD2, SDXL


def check(
    folder: Path,
    config: Data,
    *,
    size_px: int,
    step_px: int = 64,
    base: str = "",
    tokenize: check_captions.Tokenize | None = None,
    tokenizer: str = "",
    room: int = 75,
    wanted: Mapping[str, tuple[int, int]] | None = None,
    workers: int = 0,
) -> Generator[Event, None, Report]:
    """Check every image of a folder, its captions, and the set as a whole, with events on the way.

    Args:
        size_px: the training size, where `config.size_px` is 0.
        step_px: what sides must be multiples of.
        base: its name, as `tokenizer`, for the report.
        tokenize: the base's tokenizer; None: captions' lengths and words are not judged.
        room: tokens that the base reads at once.
        wanted: for each method how many different images it needs and how many are of use; None: no method is judged.
        workers: threads; 0: as many as there are cores.

    Raises:
        ImageError: no such folder (DS001).
        RecipeError: `size_px` does not suit the model (RC002).
    """
    size_px, workers = config.size_px or size_px, workers or os.cpu_count() or 1
    asked, config = config.masks_images, config.model_copy(update={"masks": config.masks or AUTO})
    measured: dict[str, tuple[dedupe.Thumbnail, Quality]] = {}

    def visit(name: str, opened: Opened) -> None:
        measured[name] = dedupe.Thumbnail(opened.image), measure(opened.image)

    def of_images(manifest: Manifest) -> list[Finding]:
        qualities = {sample.name: measured[sample.name][1] for sample in manifest.samples}
        return [
            *_of_files(manifest),
            *_of_masks(manifest, asked),
            *_of_pixels(manifest.samples, qualities, size_px),
            *_of_sizes(into_buckets(manifest), config.crop),
        ]

    def into_buckets(manifest: Manifest) -> tuple[bucket.Bucket, ...]:
        return bucket.assign(manifest, size_px=size_px, step_px=step_px, buckets=config.buckets)

    def so_far(manifest: Manifest) -> Iterator[Event]:
        yield FoundSoFar(tuple(one.to_dict() for one in in_order(of_images(manifest))))

    # One image a thread: matrix products with threads of their own would wait for each other.
    yield Phase("pictures")
    with threadpool_limits(1, "blas"):
        manifest = yield from scan.scan_events(
            folder, config, size_px=size_px, needed=0, visit=visit, so_far=so_far, workers=workers
        )
    samples = manifest.samples
    thumbnails = [measured[sample.name][0] for sample in samples]
    qualities = {sample.name: measured[sample.name][1] for sample in samples}

    yield Phase("compare-pictures", 2 * len(samples))
    pairs = yield from dedupe.pair_events(thumbnails, workers=workers)
    alike = [(i, j) for i, j, found in pairs if found.same]
    duplicates = _duplicates(samples, qualities, alike)
    captions, about_captions = check_captions.check(manifest, config, tokenize, tokenizer, room)
    variety, about_variety = _variety(samples, thumbnails, duplicates)
    instead = {name: group[0] for group in duplicates for name in group[1:]}
    drawn = any(one.flat >= DRAWN for one in qualities.values())
    missing = {"text": True, "few": len(samples) < FEWEST, "drawn": drawn, "tokens": tokenize is None}
    findings = [
        *of_images(manifest),
        *([Finding("near-duplicate", "look", tuple(instead), {"of": instead})] if instead else []),
        *about_captions,
        *about_variety,
    ]
    return Report(
        folder=folder,
        base=base,
        size_px=size_px,
        pictures=_images(manifest, qualities, tokenize),
        findings=in_order(findings),
        duplicates=duplicates,
        captions=captions,
        variety=variety,
        sizes=tuple(ImageSize(one.width, one.height, len(one.samples)) for one in into_buckets(manifest)),
        large_enough={
            side: sum(sample.width * sample.height >= side * side for sample in samples)
            for side in sorted({size_px, *BASE_SIZES})
        },
        methods=tuple(
            MethodFit(name, low, high, count_fit(variety.different, low, high))
            for name, (low, high) in (wanted or {}).items()
        ),
        not_judged=tuple(name for name, holds in missing.items() if holds),
    )


def count_fit(count: int, low: int, high: int) -> CountFit:
    """Whether a number of different images lies below, within or above a range."""
    return "few" if count < low else "many" if count > high else "right"


def _has_empty_tail(path: Path) -> bool:
    """Whether a JPEG ends in zeros: decoders fill the rest with grey and do not complain."""
    with path.open("rb") as stream:
        if stream.read(3) != b"\xff\xd8\xff":
            return False
        stream.seek(max(0, path.stat().st_size - EMPTY_TAIL))
        return not stream.read().strip(b"\0")


def _of_files(manifest: Manifest) -> list[Finding]:
    """Of files that cannot be used, and of those that can but are not quite in order."""
    found, left_out = [], manifest.quarantined
    if not manifest.samples:
        code = "nothing-usable" if left_out else "nothing-found"
        found.append(Finding(code, "unusable", (), {"left": len(left_out)}))
    for reason, _count in Counter(left.reason for left in left_out).most_common():
        group = [left for left in left_out if left.reason == reason]
        found.append(of_rows(reason, "unusable", group))
    if tails := tuple(sample.name for sample in manifest.samples if _has_empty_tail(sample.path)):
        found.append(Finding("empty-tail", "look", tails))
    for reason in dict.fromkeys(left.reason for left in manifest.aside):
        found.append(Finding(reason, "note", tuple(left.name for left in manifest.aside if left.reason == reason)))
    for code in _NOTED:
        if notes := [note for note in manifest.notes if note.code == code]:
            found.append(of_rows(code, "note", notes))
    return found


def _of_masks(manifest: Manifest, asked: bool) -> list[Finding]:
    """Which images have a mask, and what may be wrong with them; `asked`: the recipe uses masks."""
    masked = tuple(sample.name for sample in manifest.samples if sample.mask_kind)
    found = [Finding("masked", "note", masked, {"total": len(manifest.samples)})] if masked else []
    for code in _OF_MASKS:
        notes = [note for note in manifest.notes if note.code == code]
        if notes and (masked or asked or code != "mask-none"):
            found.append(of_rows(code, "look", notes))
    return found


def _middle(qualities: Mapping[str, Quality], measure: str) -> float:
    """The median of the images where it is known; 0 where those are too few."""
    known = [value for one in qualities.values() if not np.isnan(value := getattr(one, measure))]
    return median(known) if len(known) >= FEWEST else 0.0


def _of_pixels(samples: Sequence[Sample], qualities: Mapping[str, Quality], size_px: int) -> list[Finding]:
    drawn = median(one.flat for one in qualities.values()) >= DRAWN_SET if qualities else False
    found = _of_sharpness(samples, qualities, size_px, drawn)
    if not drawn:
        found += _of_exposure(qualities)
    if barred := tuple(name for name, one in qualities.items() if any(one.bars)):
        found.append(Finding("bars", "look", barred))
    return found


def _of_sharpness(
    samples: Sequence[Sample], qualities: Mapping[str, Quality], size_px: int, drawn: bool
) -> list[Finding]:
    sharp, crisp = (_middle(qualities, key) for key in ("sharpness", "crispness"))
    # Comparisons with nan are false.
    blurred = tuple(name for name, one in qualities.items() if one.sharpness < min(BLURRED * sharp, BLURRED_MOST))
    found = [Finding("blurred", "look", blurred, {"others": sharp})] if blurred else []
    enlarged = {
        sample.name: _detail_px(sample, qualities[sample.name])
        for sample in samples
        if sample.name not in blurred and _is_enlarged(qualities[sample.name], crisp, drawn)
    }
    for level, too_small in _LEVELS:
        if names := tuple(name for name, px in enlarged.items() if (px < size_px) == too_small):
            values = {"detail_px": min(enlarged[name] for name in names), "size_px": size_px}
            found.append(Finding("upscaled", level, names, values))
    return found


def _of_exposure(qualities: Mapping[str, Quality]) -> list[Finding]:
    """Of photographs: the tones of drawings are meant."""
    clipped, brightest = (_middle(qualities, key) for key in ("clipped", "brightest"))
    most = max(OVEREXPOSED, clipped + OVEREXPOSED_ABOVE)
    least = min(UNDEREXPOSED, UNDEREXPOSED_SHARE * (brightest or 255.0))
    over = {
        name: one.clipped
        for name, one in qualities.items()
        if one.flat < DRAWN and one.clipped >= most and one.tinted >= TINTED
    }
    # Not only of images with uneven tones: JPEG leaves even areas in very dark photographs, too.
    under = {name: one.brightest for name, one in qualities.items() if one.brightest <= least}
    found = []
    if over:
        found.append(Finding("overexposed", "look", tuple(over), {"share": round(100 * max(over.values()))}))
    if under:
        found.append(Finding("underexposed", "look", tuple(under), {"grey": round(min(under.values()))}))
    return found


def _is_enlarged(one: Quality, middle: float, drawn: bool) -> bool:
    most = ENLARGED_MOST_DRAWN if drawn or one.flat >= DRAWN else ENLARGED_MOST
    if one.screened:
        return False
    return one.repeated > 1 or one.interpolated >= INTERPOLATED or one.crispness < min(ENLARGED * middle, most)


def _detail_px(sample: Sample, quality: Quality) -> int:
    share = min(quality.detail, 1 / quality.repeated)
    return round(share * math.sqrt(sample.width * sample.height))


def _of_sizes(buckets: Sequence[bucket.Bucket], crop: float) -> list[Finding]:
    found = []
    # Of the image's area, what covering its bucket leaves visible, in (0, 1].
    ratios = {s.name: (s.width * one.height) / (s.height * one.width) for one in buckets for s in one.samples}
    if odd := {name: share for name, ratio in ratios.items() if (share := min(ratio, 1 / ratio)) < ODD_ASPECT}:
        found.append(Finding("odd-aspect", "look", tuple(odd), {"kept": round(100 * min(odd.values()))}))
    factors = bucket.enlarged(buckets, crop)
    for level, much in _LEVELS:
        if names := tuple(name for name, factor in factors.items() if (factor >= MUCH_ENLARGED) == much):
            found.append(Finding("small", level, names, {"factor": round(max(factors[name] for name in names), 2)}))
    return found


def _duplicates(
    samples: Sequence[Sample], qualities: Mapping[str, Quality], alike: Sequence[tuple[int, int]]
) -> tuple[tuple[str, ...], ...]:
    """Groups of two and more: the one with most detail, and those that show the same as it. Not a chain: each of a
    group is alike to its first, so that leaving the others out loses nothing."""
    contents: dict[str, int] = {}
    equal = [(contents.setdefault(sample.sha256, i), i) for i, sample in enumerate(samples)]
    near: dict[int, set[int]] = {}
    for i, j in (*alike, *(pair for pair in equal if pair[0] != pair[1])):
        near.setdefault(i, set()).add(j)
        near.setdefault(j, set()).add(i)

    def worth(row: int) -> tuple[float, int]:
        one, quality = samples[row], qualities[samples[row].name]
        return -one.width * one.height * quality.detail**2, row

    taken: set[int] = set()
    groups = []
    for row in sorted(near, key=worth):
        if row in taken:
            continue
        others = sorted(near[row] - taken)
        taken |= {row, *others}
        if others:
            groups.append((row, *others))
    return tuple(tuple(samples[row].name for row in group) for group in sorted(groups))


def _variety(
    samples: Sequence[Sample], thumbnails: Sequence[dedupe.Thumbnail], duplicates: Sequence[Sequence[str]]
) -> tuple[Variety, list[Finding]]:
    redundant = {name for group in duplicates for name in group[1:]}
    rows = [row for row, sample in enumerate(samples) if sample.name not in redundant]
    if not rows:
        return Variety(0, 0, 0.0, 0.0, 0.0, 0.0), []
    features = check_variety.features([thumbnails[row] for row in rows])
    groups = check_variety.backgrounds(features.frame_ND)
    share = len(groups[0]) / len(rows)
    variety = Variety(len(rows), len(groups), round(share, 3), *check_variety.spreads(features))
    if len(rows) < FEWEST or share < SAME_BACKGROUND:
        return variety, []
    names = tuple(samples[rows[i]].name for i in groups[0])
    return variety, [Finding("same-background", "note", names, {"different": len(rows)})]


def _images(
    manifest: Manifest, qualities: Mapping[str, Quality], tokenize: check_captions.Tokenize | None
) -> tuple[CheckedImage, ...]:
    sharp = _middle(qualities, "sharpness")
    rows = [CheckedImage(left.name, left.path, False) for left in manifest.quarantined]
    for sample in manifest.samples:
        one = qualities[sample.name]
        rows.append(
            CheckedImage(
                sample.name,
                sample.path,
                True,
                sample.width,
                sample.height,
                sample.caption,
                sample.caption_source,
                tokens=max(len(tokenize(text)) for text in sample.captions) if tokenize else None,
                alternatives=sample.alternatives,
                sharpness=0.0 if not sharp or np.isnan(one.sharpness) else round(one.sharpness / sharp, 3),
                detail_px=_detail_px(sample, one),
                mask=sample.mask_kind,
                bars=one.bars,
                drawn=one.flat >= DRAWN,
                dark=round(one.black, 3),
                bright=round(one.white, 3),
            )
        )
    return tuple(sorted(rows, key=lambda row: natural_key(row.name)))
