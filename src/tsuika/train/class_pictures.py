"""Prior preservation in a run: class pictures from a folder, or drawn by the base before it learns anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tsuika.core.errors import PictureError, RecipeError
from tsuika.core.events import Event, Phase
from tsuika.core.files import sha256, split_strength, whole
from tsuika.core.sections import Data
from tsuika.core.seeds import derive
from tsuika.core.types import Model, model_tensors
from tsuika.core.words import Words
from tsuika.data import prior, scan
from tsuika.data.bank import Bank
from tsuika.data.bucket import Bucket

if TYPE_CHECKING:
    from PIL.Image import Image

_SHARE = 4  # drawn in one go: a chunk is there whole or drawn again, so a stopped run goes on to the same pictures


@dataclass(frozen=True)
class Wish:
    """Pictures to draw with the model as it stands."""

    prompt: str
    num: int
    seed: int  # of the first; one more for each
    size_px: int  # side of a square


Encoded = Callable[[Sequence[Bucket], Data], Generator[Event, None, Bank]]  # `data.bank.fill` for a model
Draw = Callable[[Model, Wish], "Sequence[Image]"]


def wanted(data: Data) -> bool:
    """Whether the recipe asks for prior preservation.

    Raises:
        RecipeError: RC005, class pictures are to be drawn, and there is no class word.
        PictureError: DS001, there is no such folder of them.
    """
    if data.reg_images and not Path(data.reg_images).is_dir():
        raise PictureError("DS001", where=data.reg_images)
    if data.reg_generate and not data.reg_images and not data.class_word:
        raise RecipeError("RC005", found="--class-word", do="--class-word dog")
    return bool(data.reg_images or data.reg_generate)


def drawn(
    model: Model, data: Data, folder: Path, draw: Draw, *, size_px: int, seed: int, also: Sequence[object] = ()
) -> Generator[Event, None, Path]:
    """The folder of `data.reg_generate` pictures of the class, below `folder`; only missing ones are drawn.

    It is named after everything that decides the pictures, so another run on this base finds them. What the model's
    tensors do not tell stands in `also`, as JSON can hold it: how is drawn, what lies on the base at which strength.
    """
    wish = Wish(prior.class_caption(data.class_word), data.reg_generate, derive(seed, "class") % 2**31, size_px)
    facts = [wish.prompt, wish.num, wish.seed, wish.size_px, fingerprint(model), *also]
    place = folder / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    yield Phase("class-pictures", wish.num)
    place.mkdir(parents=True, exist_ok=True)
    for first in range(0, wish.num, _SHARE):
        paths = [place / f"{i:05d}.png" for i in range(first, min(first + _SHARE, wish.num))]
        if not all(path.exists() for path in paths):
            pictures = draw(model, Wish(wish.prompt, len(paths), wish.seed + first, size_px))
            for path, picture in zip(paths, pictures, strict=True):
                with whole(path) as temporary:
                    picture.save(temporary, format="PNG")
    return place


def fingerprint(model: Model) -> str:
    """What tells one model's pictures from another's: a hash over names, shapes and some numbers of every tensor."""
    digest = hashlib.sha256()
    for name, value in sorted(model_tensors(model).items()):
        some = value.detach().flatten()[:: max(1, value.numel() // 64)].cpu().float()
        digest.update(f"{name} {tuple(value.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()


def on_base(texts: Sequence[str]) -> list[tuple[str, list[str], float]]:
    """Of each `FILE` or `FILE:STRENGTH` its name (which may be its word), its content (of a folder: of its files), its strength."""
    found = []
    for path, strength in map(split_strength, texts):
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        found.append((path.name, [sha256(file) for file in files if file.is_file()], strength))
    return found


def fill(
    folder: Path, buckets: Sequence[Bucket], subject: Bank, data: Data, encode: Encoded
) -> Generator[Event, None, prior.Preserving]:
    """The subject's bank with the pictures of `folder` behind it, in the sizes of the subject's `buckets`.

    Raises:
        PictureError: no such folder (DS001), no usable picture (DS002).
        RecipeError: RC005, a picture has neither a caption file nor a class word.
    """
    settings = prior.settings(data)
    manifest = scan.scan(folder, settings)
    yield from manifest.remarks()
    if nameless := [sample.name for sample in manifest.samples if not sample.caption]:
        do = Words(
            f"--set data.class_word=dog, or a text file beside {nameless[0]}",
            f"--set data.class_word=dog とするか、{nameless[0]} と同じ名前のテキストファイルを置いてください",
        )
        raise RecipeError("RC005", found="--class", do=do)
    classes = {}
    for bucket in prior.assign(manifest, buckets):
        classes[bucket.size] = yield from encode([bucket], settings)
    return prior.Preserving(subject, classes, data.reg_weight)
