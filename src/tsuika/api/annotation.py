"""What captioning and masking share: a model goes through a folder of images, which is never changed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tsuika.annotation import MODES, Mode
from tsuika.api.image_set import link_or_copy
from tsuika.core import files
from tsuika.core.errors import ImageError, RecipeError, no_such
from tsuika.core.events import Event, Phase, Progress, note
from tsuika.core.texts import _
from tsuika.data import check_fix
from tsuika.data.faults import FAULTS
from tsuika.data.folder import ImageFile, Listing, walk
from tsuika.data.image import UnusableError
from tsuika.data.roles import Roles, tell_apart

Made = TypeVar("Made")


@dataclass(frozen=True)
class Walk:
    """The images of a folder, and where the copy is to be."""

    folder: Path
    out: Path | None
    listing: Listing
    known: Roles

    @classmethod
    def of(cls, folder: Path, out: Path | str | None) -> Walk:
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


def mode_of(name: str) -> Mode:
    found = next((one for one in MODES if one == name), None)
    if found is None:
        raise no_such("mode", name, MODES)
    return found


def check_probabilities(by_flag: Mapping[str, float | None]) -> None:
    for name, value in by_flag.items():
        if value is not None and not 0 <= value <= 1:
            raise RecipeError("RC002", key=name, found=value, why=_("It is a probability: 0 to 1."))


def link(target: Path, source: Path) -> None:
    files.make_folder(target.parent)
    if not target.exists():
        link_or_copy(target, source)
