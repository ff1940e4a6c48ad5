"""Captions and masks by models: looked at first, and written beside linked copies of the images where that is wanted.

A model goes through a folder of images, which is never changed; without `out` nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

import numpy as np
from PIL import Image, ImageChops

from tsuika.annotation import MODES, Mode
from tsuika.api.display import shown as shown_html
from tsuika.api.image_set import link_or_copy
from tsuika.api.run import Events, JsonResult, starts
from tsuika.core import files
from tsuika.core.errors import ImageError, RecipeError, no_such
from tsuika.core.events import Event, Phase, Progress, Warned, note
from tsuika.core.texts import _, few
from tsuika.data import caption_files, check_captions, check_fix, masks
from tsuika.data.caption import has_word, normalise
from tsuika.data.faults import FAULTS
from tsuika.data.folder import ImageFile, Listing, walk
from tsuika.data.image import UnusableError, open_image, read_image
from tsuika.data.roles import Masks, Roles, tell_apart

MOST_PX: Final = 200  # around what a mask's model finds
ROWS_SHOWN: Final = 50
Made = TypeVar("Made")


@dataclass(frozen=True)
class CaptionedImage:
    """An image with its captions, one a line.

    Attributes:
        name: relative to the folder, with `/`.
        before: what stands beside it; empty: nothing.
        after: what would stand, or stands, beside it in the copy.
        tags: of a tagger, with their probabilities 0..1; empty where the model was not asked.
    """

    name: str
    before: str
    after: str
    tags: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Captioned(JsonResult):
    """What a captioning has made.

    Attributes:
        folder: of the images.
        model: as it was named.
        kind: of model: `tags` or `sentence`.
        mode: `missing`, `replace` or `add`.
        trigger: the trigger word.
        images: all usable ones, in natural order.
        left_out: images that cannot be used, with the reason.
        tags: what stands between commas, with the number of captions that have it, the most frequent first.
        common: phrases of almost every caption, with the number of captions: the trigger word will not learn them apart.
        out: the folder that was written; None: nothing was.
        notes: findings.
    """

    folder: Path
    model: str
    kind: str
    mode: str
    trigger: str
    images: tuple[CaptionedImage, ...]
    left_out: Mapping[str, str]
    tags: Mapping[str, int]
    common: Mapping[str, int]
    out: Path | None
    notes: tuple[Warned, ...]

    @property
    def changed(self) -> tuple[CaptionedImage, ...]:
        """Images whose caption is another than before."""
        return tuple(one for one in self.images if one.after != one.before)

    def to_dict(self) -> dict[str, Any]:
        """As in the command's `--json`."""
        return {**super().to_dict(), "changed": len(self.changed)}

    def _repr_html_(self) -> str:
        """The captions that change, the tags, and what is in almost every caption."""
        captions = {one.name: one.after for one in self.changed[:ROWS_SHOWN]}
        return shown_html(
            {"captions": captions, "tags": self.tags, "common": self.common, "left out": self.left_out, "out": self.out}
        )


@dataclass(frozen=True)
class MaskedImage:
    """An image and its mask.

    Attributes:
        name: relative to the folder, with `/`.
        before: the share of the image that its mask shows, 0..1; None: it has none.
        after: the same of the mask that stands, or would stand, beside it in the copy.
        mask: the mask that was written for it, relative to `out`; empty: none was.
    """

    name: str
    before: float | None
    after: float
    mask: str = ""


@dataclass(frozen=True, kw_only=True)
class Masked(JsonResult):
    """What was made.

    Attributes:
        folder: of the images.
        model: as it was named.
        text: what is looked for.
        mode: `missing`, `replace` or `add`.
        images: all usable ones, in natural order.
        left_out: images that cannot be used, with the reason.
        out: the folder that was written; None: nothing was.
        notes: findings.
    """

    folder: Path
    model: str
    text: str
    mode: str
    images: tuple[MaskedImage, ...]
    left_out: Mapping[str, str]
    out: Path | None
    notes: tuple[Warned, ...]


@starts
def caption(
    folder: Path | str,
    *,
    model: str,
    mode: str = "missing",
    trigger: str = "",
    class_word: str = "",
    threshold: float | None = None,
    character_threshold: float | None = None,
    exclude: Sequence[str] = (),
    out: Path | str | None = None,
    device: str = "auto",
) -> Events[Captioned]:
    """Captions of a folder's images by a model. The folder is never changed; without `out` nothing is written at all.

    Args:
        folder: as for `train`.
        model: a folder or a Hugging Face model id: a captioner of transformers (BLIP, GIT), or a WD tagger
            (`model.onnx` and `selected_tags.csv`).
        mode: `missing`: images without a caption; `replace`: all of them; `add`: what is not in a caption yet, at its end.
        trigger: put in front of the captions that are made or added to, where they do not have it. With `missing`, captions
            that are there stay as they are; how many of them lack it is among the notes (CP007).
        class_word: what kind of thing it is; that it stands in every caption is as it should be.
        threshold: of a tagger alone: the least probability of a tag, 0..1; None: 0.35.
        character_threshold: the same of names of characters; None: 0.85.
        exclude: of a tagger alone: tags that are never given; case, underscores and `\\(` do not matter.
        out: a new folder: the images (hard links, else copies), and a `.txt` beside each.
        device: where the model computes.

    Raises:
        ImageError: no such folder (DS001), or no image in it that can be used (DS002).
        RecipeError: a mode or threshold that cannot be (RC002), `out` is there already (DS005), no onnxruntime (CP002), or what
            only a tagger has, for a captioner (CP006).
        ModelError: no captioning model (CP001).
        NetworkError: it could not be downloaded (CP003).
    """
    from tsuika.annotation import captioners, wording
    from tsuika.training.device import pick_device

    trigger, how = normalise(trigger), _mode(mode)
    _check_probabilities({"threshold": threshold, "character-threshold": character_threshold})
    walked = _Walk.of(Path(folder), out)
    sources = caption_files.find(walked.known.subject, walked.listing)
    yield Phase("caption-model")
    captioner = captioners.load(
        model, pick_device(device), threshold=threshold, character_threshold=character_threshold, exclude=exclude
    )
    silent, untouched, unknown = list[str](), list[str](), captioner.unknown
    notes = [note("CP008", count=len(unknown), names=few(unknown), nearest=few(unknown.values()))] if unknown else []
    # Before the work, which takes long: it can be begun again.
    yield from notes

    def captioned(image: ImageFile) -> CaptionedImage:
        found, _notes = sources.caption(image.name)
        before = found.lines if found else ()
        pixels, after, tags = open_image(image.path), before, dict[str, float]()
        if how != "missing" or not before:
            said = captioner.say(pixels)
            silent.extend([] if said.text else [image.name])
            after, tags = wording.joined(before, said, how, trigger), dict(said.tags)
        elif trigger and not all(has_word(line, trigger) for line in before):
            untouched.append(image.name)
        return CaptionedImage(image.name, "\n".join(before), "\n".join(after), tags)

    made, left_out = yield from walked.through("caption", captioned)
    texts = [line for one in made for line in one.after.splitlines()]
    common = check_captions.phrases(texts, trigger, class_word)
    found_after = [note("CP004", phrases=check_captions.shown_phrases(common, len(texts)))] if common else []
    if silent:
        found_after.append(note("CP005", count=len(silent), names=few(silent)))
    if untouched:
        found_after.append(note("CP007", count=len(untouched), trigger=trigger, names=few(untouched)))
    yield from found_after
    if walked.out:
        yield Phase("write")
        with files.whole(walked.out) as copy:
            _write_captions(made, walked, copy / walked.inside)
    return Captioned(
        folder=walked.folder,
        model=model,
        kind=captioner.kind,
        mode=how,
        trigger=trigger,
        images=made,
        left_out=left_out,
        tags=check_captions.tags(texts),
        common=common,
        out=walked.out,
        notes=(*notes, *found_after),
    )


@starts
def mask(
    folder: Path | str,
    *,
    text: str,
    model: str = "",
    mode: str = "missing",
    threshold: float = 0.3,
    grow_px: int = 10,
    out: Path | str | None = None,
    device: str = "auto",
) -> Events[Masked]:
    """Masks of a folder's images by a model, for `data.masks`. The folder is never changed; without `out` nothing is written.

    Args:
        folder: as for `train`.
        text: what is to be learned, in a few words: `a cat`.
        model: a folder or a Hugging Face model id of a CLIPSeg; empty: CIDAS/clipseg-rd64-refined.
        mode: `missing`: images without a mask; `replace`: all of them; `add`: what a mask does not show yet.
        threshold: the least probability that the text is shown, 0..1.
        grow_px: pixels around what is found that are shown, too, 0..200.
        out: a new folder: the images and texts (hard links, else copies), and `NAME-mask.png` beside each.
        device: where the model computes.

    Returns:
        A run with `Phase`, `Progress` and `Warned` events; its result is what was made.

    Raises:
        ImageError: no such folder (DS001), or no image in it that can be used (DS002).
        RecipeError: a mode, threshold or number that cannot be (RC002), no text (RC005), `out` is there already (DS005).
        ModelError: no segmentation model (CP020); NetworkError: it could not be downloaded (CP021).
    """
    from tsuika.annotation import segmenter
    from tsuika.training.device import pick_device

    model, how = model or segmenter.USUAL, _mode(mode)
    if not text.strip():
        raise RecipeError("RC005", found="--text", do='tsuika mask DIR --text "a cat"')
    _check_probabilities({"threshold": threshold})
    if not 0 <= grow_px <= MOST_PX:
        raise RecipeError("RC002", key="grow-px", found=grow_px, why=f"0..{MOST_PX}")
    walked = _Walk.of(Path(folder), out)
    beside = Masks(one for one in walked.known.aside if one.reason == "mask")
    yield Phase("mask-model")
    clipseg = segmenter.load(model, pick_device(device))
    new: dict[str, Image.Image] = {}

    def masked(image: ImageFile) -> MaskedImage:
        opened = read_image(image.path)
        own = next((masks.read(one.path, opened)[0].image for one in beside.of(image.name)), None)
        after = own
        if after is None or how != "missing":
            after = segmenter.shown(clipseg.probabilities(opened.image, text), threshold, grow_px)
            if own is not None and how == "add":
                after = ImageChops.lighter(own, after)
            new[image.name] = after
        return MaskedImage(image.name, None if own is None else _share(own), _share(after))

    made, left_out = yield from walked.through("mask", masked)
    empty = [one.name for one in made if one.name in new and not one.after]
    notes = [note("CP022", count=len(empty), names=few(empty), text=text)] if empty else []
    yield from notes
    if walked.out:
        yield Phase("write")
        with files.whole(walked.out) as copy:
            replaced = {one.path for name in new for one in beside.of(name)}
            written = _write_masks(new, replaced, walked, copy / walked.inside)
        made = tuple(replace(one, mask=written.get(one.name, "")) for one in made)
    return Masked(
        folder=walked.folder,
        model=model,
        text=text,
        mode=how,
        images=made,
        left_out=left_out,
        out=walked.out,
        notes=tuple(notes),
    )


def _share(mask: Image.Image) -> float:
    return round(float(np.asarray(mask).mean()) / 255, 4)


def _mode(name: str) -> Mode:
    found = next((one for one in MODES if one == name), None)
    if found is None:
        raise no_such("mode", name, MODES)
    return found


def _check_probabilities(by_flag: Mapping[str, float | None]) -> None:
    for name, value in by_flag.items():
        if value is not None and not 0 <= value <= 1:
            raise RecipeError("RC002", key=name, found=value, why=_("It is a probability: 0 to 1."))


@dataclass(frozen=True)
class _Walk:
    """The images of a folder, and where the copy is to be."""

    folder: Path
    out: Path | None
    listing: Listing
    known: Roles

    @classmethod
    def of(cls, folder: Path, out: Path | str | None) -> _Walk:
        target = Path(out) if out else None
        if not folder.is_dir():
            raise ImageError("DS001", where=folder)
        if target:
            check_fix.may_write(folder, target)
        listing = walk(folder)
        return cls(folder, target, listing, tell_apart(listing, folder))

    def through(
        self, phase: str, annotated: Callable[[ImageFile], Made]
    ) -> Generator[Event, None, tuple[tuple[Made, ...], dict[str, str]]]:
        """What is made of each image, in natural order; and the images that cannot be used, with the reason."""
        subject, made = self.known.subject, list[Made]()
        left_out = {one.name: str(FAULTS[one.reason].what) for one in self.listing.left_out}
        yield Phase(phase, len(subject))
        for done, image in enumerate(subject, 1):
            try:
                made.append(annotated(image))
            except UnusableError as error:
                left_out[image.name] = str(FAULTS[error.reason].what)
                yield note("DS006", name=image.name, reason=FAULTS[error.reason].what, words=error.words)
            yield Progress(phase, done, len(subject))
        if not made:
            counts = {"usable": 0, "total": len(left_out), "needed": 1}
            raise ImageError("DS002", where=self.folder, why="", report="tsuika check", **counts)
        return tuple(made), left_out

    @property
    def inside(self) -> str:
        """The subfolder of the copy that stands for the folder of the images."""
        assert self.out
        return check_fix.inside_folder(self.folder.resolve().name, self.out.resolve().name)


def _write_captions(made: Sequence[CaptionedImage], walked: _Walk, inside: Path) -> None:
    """Images and masks as links, captions as `.txt`, in the same subfolders; regularization images as they are."""
    paths = {one.name: one.path for one in walked.known.subject}
    beside, taken = Masks(walked.known.aside), set[str]()
    for one in made:
        target = inside / check_fix.target_name(one.name, False, taken)
        _link(target, paths[one.name])
        if one.after:
            files.write_text(target.with_suffix(".txt"), one.after + "\n")
        for mask in beside.of(one.name):
            _link(inside / mask.name, mask.path)
    for left in walked.known.aside:
        if left.reason == "regularization":
            target, text = inside / left.name, left.path.with_suffix(".txt")
            _link(target, left.path)
            if text.is_file():
                _link(target.with_suffix(".txt"), text)


def _write_masks(new: Mapping[str, Image.Image], replaced: set[Path], walked: _Walk, inside: Path) -> dict[str, str]:
    """Images and texts as links, in the same subfolders, and the new masks; returns these by image, relative to `out`."""
    written = {}
    for one in (*walked.listing.images, *walked.listing.texts):
        if one.path not in replaced:
            _link(inside / one.name, one.path)
    for name, image in new.items():
        path = PurePosixPath(name)
        shares = sum(PurePosixPath(other).with_suffix("") == path.with_suffix("") for other in new) > 1
        mask = path.with_name(f"{path.name if shares else path.stem}-mask.png").as_posix()
        files.make_folder((inside / mask).parent)
        image.save(inside / mask, format="PNG")
        written[name] = walked.inside + mask
    return written


def _link(target: Path, source: Path) -> None:
    files.make_folder(target.parent)
    if not target.exists():
        link_or_copy(target, source)
