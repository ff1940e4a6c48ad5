"""Which images below a folder are not its subject: masks, conditions, regularization images, samples of a training.

Known by the names that OneTrainer, kohya_ss, sd-scripts and ai-toolkit give them, and only where something else bears it
out: a mask has its image, samples lie beside a model. What is asked for by name, as the folder itself, is what it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from tsuika.core.texts import _
from tsuika.data.folder import ImageFile, Listing
from tsuika.data.manifest import LeftOut

# OneTrainer's: `NAME-masklabel.png`, `NAME-condlabel.png`.
_LABELS: Final = {"masklabel": "mask", "condlabel": "condition"}
_LABELLED: Final = re.compile(r"(.+)-(masklabel|condlabel)", re.IGNORECASE)
_SUFFIXED: Final = re.compile(r"(.+)[-_. ](?:mask|masks|matte)", re.IGNORECASE)
_PREFIXED: Final = re.compile(r"(?:mask|masks|matte)[-_. ](.+)", re.IGNORECASE)
_WORDS: Final = {"mask": _("Masks are used with data.masks=auto.")}
_FOLDERS: Final = {
    **dict.fromkeys(("mask", "masks", "masklabel", "masklabels", "matte", "mattes"), "mask"),
    **dict.fromkeys(("conditioning", "conditioning_images", "conditioning_data", "control", "controls"), "condition"),
}
_REGULARIZATION: Final = frozenset(
    {
        "reg",
        "regs",
        "regularization",
        "regularisation",
        "reg_images",
        "reg_imgs",
        "class_images",
        "regularization_images",
    }
)
_SAMPLES: Final = frozenset({"sample", "samples", "preview", "previews"})
_OUTPUTS: Final = frozenset({"model", "models", "output", "outputs", "log", "logs"})
# What trainers call their samples: sd-scripts, ai-toolkit, ours.
_SAMPLE_NAMES: Final = re.compile(
    r".*_e?\d{6}_\d{2}_\d{14}(?:_\d+)?|\d{13}__\d{9}_\d+|step-\d{6}-\d{2}-seed-\d+", re.DOTALL
)


@dataclass(frozen=True)
class Roles:
    """Images of the subject; the others, each with its role; the folder of regularization images, if there is one."""

    subject: tuple[ImageFile, ...]
    aside: tuple[LeftOut, ...] = ()
    regularization: str = ""


def tell_apart(listing: Listing, root: Path, reg_images: str = "", masks: str = "") -> Roles:
    """The roles of a folder's images.

    Args:
        listing: of `root`.
        reg_images: the folder of regularization images that the recipe names, which may lie below `root`.
        masks: that of masks, or `auto`.
    """
    given = Path(reg_images).resolve() if reg_images and Path(reg_images).is_dir() else None
    of_masks = Path(masks).resolve() if masks and Path(masks).is_dir() else None
    found: dict[str, str] = {}
    of_reg: dict[str, str] = {}
    for image in listing.images:
        if given is not None and given != root.resolve() and given in image.path.resolve().parents:
            found[image.name] = "regularization"
        elif of_masks is not None and of_masks != root.resolve() and of_masks in image.path.resolve().parents:
            found[image.name] = "mask"
        elif folder := _parent_called(image.name, _REGULARIZATION):
            of_reg[image.name] = folder
    # A folder that holds nothing else is a set of its own.
    if len(of_reg) + len(found) < len(listing.images):
        found |= dict.fromkeys(of_reg, "regularization")
    else:
        of_reg = {}
    for role in (_samples, _masks):
        found |= dict(role(listing, [image for image in listing.images if image.name not in found]))
    aside = tuple(
        LeftOut(one.path, found[one.name], "" if masks else _WORDS.get(found[one.name], ""), one.name)
        for one in listing.images
        if one.name in found
    )
    subject = tuple(image for image in listing.images if image.name not in found)
    folder = next(iter(of_reg.values()), "") if given is None else ""
    return Roles(subject, aside, str(root / folder) if folder else "")


def _parent_called(name: str, names: Collection[str]) -> str:
    """The outermost folder around an image that has one of these names; empty: there is none."""
    parts = PurePosixPath(name).parts[:-1]
    depth = next((depth for depth, part in enumerate(parts) if part.casefold() in names), None)
    return "" if depth is None else str(PurePosixPath(*parts[: depth + 1]))


def _samples(listing: Listing, images: Iterable[ImageFile]) -> Iterator[tuple[str, str]]:
    weights = {weight.folder for weight in listing.weights}
    stems = {(weight.folder, weight.stem.casefold()) for weight in listing.weights}
    # Those that lie in the `img` folder of a kohya_ss project, `img/10_words/NAME.png`.
    in_img = (one.name for one in listing.images if re.search(r"(^|/)img/\d+_[^/]*/", one.name, re.IGNORECASE))
    roots = {name[: name.casefold().find("img/")] for name in in_img}
    by_folder: dict[str, list[ImageFile]] = {}
    for image in images:
        by_folder.setdefault(image.folder, []).append(image)
    is_mixed = not all(_SAMPLE_NAMES.fullmatch(image.stem) for image in listing.images)
    for folder, inside in by_folder.items():
        parts = [part.casefold() for part in PurePosixPath(folder).parts]
        above = [f"{parent}/" if str(parent) != "." else "" for parent in PurePosixPath(folder).parents]
        outputs = tuple(f"{root.casefold()}{name}/" for root in roots for name in _OUTPUTS)
        is_output = folder.casefold().startswith(outputs)
        beside_model = parts[-1:] and parts[-1] in _SAMPLES and (weights & {*above} or _OUTPUTS & {*parts[:-1]})
        for image in inside:
            is_preview = folder in weights and (folder, image.stem.casefold().removesuffix(".preview")) in stems
            if is_output or beside_model or is_preview or (is_mixed and _SAMPLE_NAMES.fullmatch(image.stem)):
                yield image.name, "sample"


def _masks(listing: Listing, images: Iterable[ImageFile]) -> Iterator[tuple[str, str]]:
    images = list(images)
    beside = {(image.folder, name.casefold()) for image in images for name in (image.stem, image.base)}
    in_folders: dict[tuple[str, str], list[ImageFile]] = {}
    for image in images:
        label = _LABELLED.fullmatch(image.stem)
        named = _SUFFIXED.fullmatch(image.stem) or _PREFIXED.fullmatch(image.stem)
        if label:
            yield image.name, _LABELS[label[2].lower()]
        elif named and (image.folder, named[1].casefold()) in beside:
            yield image.name, "mask"
        elif folder := _parent_called(image.name, _FOLDERS):
            in_folders.setdefault((folder, _FOLDERS[PurePosixPath(folder).name.casefold()]), []).append(image)
    apart = {image.name for inside in in_folders.values() for image in inside}
    for (folder, role), inside in in_folders.items():
        above = folder.rpartition("/")[0]
        others = {
            name.casefold()
            for image in images
            if image.name not in apart and image.name.startswith(f"{above}/" if above else "")
            for name in (image.stem, image.base)
        }
        if any(masked(image.stem).casefold() in others for image in inside):
            yield from ((image.name, role) for image in inside)


class Masks:
    """Masks and conditions by the images that they are for."""

    def __init__(self, aside: Iterable[LeftOut]) -> None:
        self._by_stem: dict[str, list[LeftOut]] = {}
        for one in aside:
            if one.reason in _LABELS.values():
                self._by_stem.setdefault(masked(PurePosixPath(one.name).stem).casefold(), []).append(one)

    def of(self, image: str) -> list[LeftOut]:
        """Those of an image: in its folder, or in one of masks."""
        own = PurePosixPath(image)
        found = [one for key in (own.stem, own.name) for one in self._by_stem.get(key.casefold(), ())]
        return [
            one for one in found if PurePosixPath(one.name).parent == own.parent or _parent_called(one.name, _FOLDERS)
        ]


def masked(stem: str) -> str:
    """Of a mask's name without suffix that of its image, as far as it says it."""
    named = _LABELLED.fullmatch(stem) or _SUFFIXED.fullmatch(stem) or _PREFIXED.fullmatch(stem)
    return named[1] if named else stem
