"""Regularization images of a run: from a folder, or drawn by the base before it learns anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from tsuika.core.errors import ImageError, RecipeError
from tsuika.core.events import Event, Phase
from tsuika.core.files import whole
from tsuika.core.sections import Data
from tsuika.core.seeds import derive
from tsuika.core.texts import _
from tsuika.core.types import Model
from tsuika.data import reg_images, scan
from tsuika.data.bank import Bank
from tsuika.data.bucket import Bucket
from tsuika.data.manifest import Manifest
from tsuika.training.surroundings import fingerprint

if TYPE_CHECKING:
    from PIL.Image import Image

# Images that are drawn in one go: a chunk is there whole or drawn again, so a stopped run goes on to the same images.
_CHUNK: Final = 4


@dataclass(frozen=True)
class ClassRequest:
    prompt: str
    num: int
    seed: int  # of the first; one more for each
    size_px: int  # side of a square


Encode = Callable[[Sequence[Bucket], Data], Generator[Event, None, Bank]]  # `data.bank.fill` for a model


class Draw(Protocol):
    """Draws images with a model."""

    def __call__(self, model: Model, request: ClassRequest) -> Sequence[Image]: ...

    def settings(self, model: Model) -> object:
        """What decides the images beside the request, as JSON can hold it."""


def requested(data: Data) -> bool:
    """Whether the recipe asks for regularization images.

    Raises RecipeError: they are to be drawn, and there is no class word (RC005), or they are the subject's images (RC002);
    ImageError (DS001): there is no such folder.
    """
    for one in data.each().values():
        if one.reg_folder and not Path(one.reg_folder).is_dir():
            raise ImageError("DS001", where=one.reg_folder)
        if one.reg_folder and one.images and Path(one.reg_folder).resolve() == Path(one.images).resolve():
            why = _("These are the images of the subject. Regularization images show its class without it.")
            raise RecipeError("RC002", key="data.reg_images", found=one.reg_folder, why=why)
        if one.reg_generate and not one.reg_folder and not one.class_word:
            raise RecipeError("RC005", found="--class-word", do="--class-word dog")
    return data.regularizes


def drawn(
    model: Model, data: Data, folder: Path, draw: Draw, *, size_px: int, seed: int, also: object = None
) -> Generator[Event, None, Path]:
    """The folder of `data.reg_generate` images of the class, below `folder`; only missing ones are drawn.

    It is named after everything that decides the images, so that another run on this base finds them; `also` is what else
    does, as JSON can hold it (what is applied to the base, and how strongly).
    """
    request = ClassRequest(
        reg_images.class_caption(data.class_word), data.reg_generate, derive(seed, "class") % 2**31, size_px
    )
    facts = [request.prompt, request.num, request.seed, request.size_px, fingerprint(model), draw.settings(model), also]
    place = folder / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    yield Phase("class-pictures", request.num)
    place.mkdir(parents=True, exist_ok=True)
    for first in range(0, request.num, _CHUNK):
        paths = [place / f"{i:05d}.png" for i in range(first, min(first + _CHUNK, request.num))]
        if not all(path.exists() for path in paths):
            images = draw(model, ClassRequest(request.prompt, len(paths), request.seed + first, size_px))
            for path, image in zip(paths, images, strict=True):
                with whole(path) as temporary:
                    image.save(temporary, format="PNG")
    return place


def fill(
    sources: Mapping[Path, Data], buckets: Sequence[Bucket], subject: Bank, data: Data, encode: Encode
) -> Generator[Event, None, reg_images.RegularizedBank]:
    """The subject's bank with the images of some folders, each read as a set says, in the sizes of the subject's `buckets`.

    Raises ImageError: no such folder (DS001), or no usable image in it (DS002); RecipeError (RC005): an image has neither a
    caption file nor a class word.
    """
    found = {place: scan.scan(place, reg_images.settings(own)) for place, own in sources.items()}
    if len(found) == 1:
        (manifest,) = found.values()
    else:
        # All are of no set of the subject's.
        joined = Manifest.join({str(number): one for number, one in enumerate(found.values(), 1)})
        manifest = replace(joined, samples=tuple(replace(sample, set="") for sample in joined.samples))
    settings = reg_images.settings(data)
    yield from manifest.remarks()
    if nameless := [sample.name for sample in manifest.samples if not sample.caption]:
        do = _("{flag}, or a text file beside {name}", flag="--set data.class_word=dog", name=nameless[0])
        raise RecipeError("RC005", found="--class", do=do)
    classes = {}
    for bucket in reg_images.assign(manifest, buckets):
        classes[bucket.size] = yield from encode([bucket], settings)
    return reg_images.RegularizedBank(subject, classes, data.reg_weight)
