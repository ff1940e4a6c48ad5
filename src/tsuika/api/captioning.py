"""Captions by a model: looked at first, and written beside linked copies of the images where that is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tsuika.api.annotation import Walk, check_probabilities, link, mode_of
from tsuika.api.display import shown as shown_html
from tsuika.api.run import Events, JsonResult, starts
from tsuika.core import files
from tsuika.core.events import Phase, Warned, note
from tsuika.core.texts import few
from tsuika.data import caption_files, check_captions, check_fix
from tsuika.data.caption import has_word, normalise
from tsuika.data.folder import ImageFile
from tsuika.data.image import open_image
from tsuika.data.roles import Masks

ROWS_SHOWN: Final = 50


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

    trigger, how = normalise(trigger), mode_of(mode)
    check_probabilities({"threshold": threshold, "character-threshold": character_threshold})
    walked = Walk.of(Path(folder), out)
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


def _write_captions(made: Sequence[CaptionedImage], walked: Walk, inside: Path) -> None:
    """Images and masks as links, captions as `.txt`, in the same subfolders; regularization images as they are."""
    paths = {one.name: one.path for one in walked.known.subject}
    beside, taken = Masks(walked.known.aside), set[str]()
    for one in made:
        target = inside / check_fix.target_name(one.name, False, taken)
        link(target, paths[one.name])
        if one.after:
            files.write_text(target.with_suffix(".txt"), one.after + "\n")
        for mask in beside.of(one.name):
            link(inside / mask.name, mask.path)
    for left in walked.known.aside:
        if left.reason == "regularization":
            target, text = inside / left.name, left.path.with_suffix(".txt")
            link(target, left.path)
            if text.is_file():
                link(target.with_suffix(".txt"), text)
