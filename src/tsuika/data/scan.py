"""A folder to a `Manifest`: usable images with captions, why others were left out. Originals are only read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tsuika.core.errors import ImageError
from tsuika.core.events import Event, Progress, drained
from tsuika.core.sections import Data
from tsuika.core.texts import _, listed
from tsuika.data import caption, caption_files, masks, roles
from tsuika.data.caption_files import Sources
from tsuika.data.faults import FAULTS
from tsuika.data.folder import ImageFile, natural_key, walk
from tsuika.data.image import Opened, UnusableError, read_image
from tsuika.data.manifest import LeftOut, Manifest, Note, Sample

Visit = Callable[[str, Opened], None]
SoFar = Callable[[Manifest], Iterator[Event]]

# What is known so far is handed out after so many images, and then whenever there are so many times as many.
FIRST_LOOK, SOONER = 4, 1.25


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


def scan_sets(data: Data, *, size_px: int, report: Path | None = None) -> tuple[Manifest, Data]:
    """Every set of a run as one manifest, and the settings with the folders of regularization images found in them.

    Raises:
        ImageError: as `scan`, where a set has no usable image.
    """
    each = data.each()
    if len(each) == 1:
        own = data.first
        manifest = scan(Path(own.images), own, size_px=size_px, report=report)
        if manifest.regularization and not (own.reg_images or own.reg_generate):
            own = own.model_copy(update={"reg_images": manifest.regularization})
            data = (
                own
                if not data.sets
                else data.model_copy(update={"sets": ({**data.sets[0], "reg_images": own.reg_images},)})
            )
        return manifest, data
    found = {name: scan(Path(own.images), own, size_px=size_px, needed=0) for name, own in each.items()}
    manifest = Manifest.join(found)
    if report:
        manifest.write(report)
    for name, own in each.items():
        _check_enough(found[name], Path(own.images), 1, report)
    sets = tuple(
        {**one, "reg_images": found[name].regularization}
        if found[name].regularization and not (own.reg_images or own.reg_generate)
        else one
        for one, (name, own) in zip(data.sets, each.items(), strict=True)
    )
    return manifest, data.model_copy(update={"sets": sets})


def _check_enough(manifest: Manifest, folder: Path, needed: int, report: Path | None) -> None:
    if len(manifest) < needed:
        counts = {"usable": len(manifest), "total": len(manifest) + len(manifest.quarantined), "needed": needed}
        why = _why_too_few(manifest)
        raise ImageError("DS002", where=folder, why=why, report=report or "tsuika check", **counts)


def scan_events(
    folder: Path,
    config: Data,
    *,
    size_px: int = 0,
    needed: int = 1,
    report: Path | None = None,
    visit: Visit | None = None,
    so_far: SoFar | None = None,
    workers: int = 1,
) -> Generator[Event, None, Manifest]:
    """As `scan`, with a `Progress` for each image read.

    Args:
        visit: called with each usable image's name and pixels while they are at hand, from any of the workers.
        so_far: gives events about what is known by now, again and again while images are read.
        workers: threads that read images.
    """
    if not folder.is_dir():
        raise ImageError("DS001", where=folder)
    least_px = config.min_size_px or (config.size_px or size_px) // 2
    listing = walk(folder)
    known = roles.tell_apart(listing, folder, config.reg_folder, config.masks)
    mask_files, mask_notes = masks.find(config, folder, known.subject, known.aside)
    sources = caption_files.find(known.subject, listing)
    samples: list[Sample] = []
    left_out, notes = listing.left_out, [*listing.notes, *sources.notes, *mask_notes]

    def read(item: ImageFile) -> tuple[Sample, list[Note]] | LeftOut:
        try:
            return _sample(item, sources, mask_files.get(item.name), config, least_px, visit)
        except UnusableError as error:
            return LeftOut(item.path, error.reason, error.words, item.name)

    def manifest() -> Manifest:
        return Manifest(tuple(samples), tuple(left_out), tuple(notes), known.aside, known.regularization)

    items, look_at = known.subject, float(FIRST_LOOK)
    with ThreadPoolExecutor(workers) as pool:
        for done, one in enumerate(pool.map(read, items) if workers > 1 else map(read, items), 1):
            if isinstance(one, LeftOut):
                left_out.append(one)
            else:
                samples.append(one[0])
                notes.extend(one[1])
            yield Progress("pictures", done, len(items))
            if so_far and (done >= look_at or done == len(items)):
                look_at = done * SOONER
                yield from so_far(manifest())
    left_out.sort(key=lambda left: natural_key(str(left.path)))
    found = manifest()
    if report:
        found.write(report)
    _check_enough(found, folder, needed, report)
    return found


def _sample(
    item: ImageFile, sources: Sources, mask_file: Path | None, config: Data, least_px: int, visit: Visit | None
) -> tuple[Sample, list[Note]]:
    opened = read_image(item.path)
    width, height = opened.image.size
    if min(width, height) < least_px:
        small = _("{width}x{height} px, below the {least_px} px minimum", width=width, height=height, least_px=least_px)
        raise UnusableError(item.path, "too-small", small)
    found, caption_notes = sources.caption(item.name)
    texts, source = caption.complete(found.lines if found else (), config, item.folder_words)
    plain = caption.plain(texts[0], config)
    if not plain:
        caption_notes.append(("caption-none", _("no caption file, trigger or class word")))
    if visit:
        visit(item.name, opened)
    if found and len(found.lines) > 1:
        caption_notes.append(("caption-lines", caption.LINES[config.caption_lines]))
    mask, mask_notes = masks.look(mask_file, item.path, opened, config)
    notes = [Note(item.name, code, more) for code, more in (*opened.notes, *caption_notes, *mask_notes)]
    sample = Sample(
        item.path,
        item.name,
        plain,
        width,
        height,
        item.repeats * config.repeats,
        opened.sha256,
        config.weight,
        caption_source=source,
        alternatives=texts if texts != (plain,) else (),
        mask=mask.path if mask else None,
        mask_sha256=mask.sha256 if mask else "",
    )
    return sample, notes


def _why_too_few(manifest: Manifest) -> str:
    counts = Counter(left.reason for left in (*manifest.quarantined, *manifest.aside))
    if not counts:
        none = _("No images were found ({formats}).", formats="JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, HEIC")
        return "" if manifest.samples else none
    rows = [_("{reason} ({count})", reason=FAULTS[reason].what, count=count) for reason, count in counts.items()]
    return _("Left out: {reasons}.", reasons=listed(rows))
