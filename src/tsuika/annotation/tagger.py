"""Tags by SmilingWolf's WD taggers (wd-*-tagger-v2 and v3), run by onnxruntime.

Preparation, thresholds and the emoticons that keep their underscores are as in the program that their author publishes with
them (huggingface.co/spaces/SmilingWolf/wd-tagger, `app.py`): on a white square, bicubic to the model's size, BGR, float32 0..255.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tsuika.annotation.captioners import NETWORK, TAGS, Kind, Said
from tsuika.annotation.models import refused
from tsuika.core.errors import ModelError, RecipeError
from tsuika.core.texts import _

# Categories of Danbooru; 9 is the rating, which is no caption.
GENERAL: Final = 0
CHARACTER: Final = 4
# Of `app.py`.
THRESHOLD: Final = 0.35
CHARACTER_THRESHOLD: Final = 0.85
KAOMOJI: Final = frozenset(
    (
        *("0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3"),
        *("6_9", ">_o", "@_@", "^_^", "o_o", "u_u", "x_x", "|_|", "||_||"),
    )
)
_WHITE: Final = (255, 255, 255)


class KnownTag(NamedTuple):
    """A row of the list: its name as it is written in captions, and its category."""

    name: str
    category: int


def plain(name: str) -> str:
    """A tag as it stands in captions: spaces, except in emoticons; parentheses are kept."""
    name = name.strip()
    return name if name in KAOMOJI else name.replace("_", " ")


def comparable(name: str) -> str:
    """One spelling of a tag, for comparing: without case, underscores, and the backslashes before parentheses."""
    return " ".join(name.replace("_", " ").replace("\\", "").casefold().split())


def prepared(image: Image.Image, height: int, width: int) -> NDArray[np.float32]:
    """An image as the model reads it: (1, H, W, 3), BGR, 0..255, in the middle of a white square."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), _WHITE)
    square.paste(image.convert("RGB"), ((side - image.width) // 2, (side - image.height) // 2))
    if (side, side) != (width, height):
        square = square.resize((width, height), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square, dtype=np.float32)[None, :, :, ::-1])


@dataclass(frozen=True)
class Tagger:
    """A network and its list of tags."""

    folder: Path
    session: Any
    tags: Sequence[KnownTag]
    size: tuple[int, int]  # height, width, px
    least: Mapping[int, float]  # probability, by category; others are not given
    exclude: frozenset[str]  # as `comparable` writes them
    unknown: Mapping[str, str]  # what is excluded and is none of the tags, with the most similar tag
    kind: Kind = "tags"

    def say(self, image: Image.Image) -> Said:
        """The tags above their thresholds, the most probable first."""
        try:
            given = {self.session.get_inputs()[0].name: prepared(image, *self.size)}
            found = np.asarray(self.session.run(None, given)[0], dtype=np.float64).reshape(-1)
        except _errors() as error:
            raise refused("CP001", self.folder, error) from None
        if len(found) != len(self.tags) or not ((found >= -1e-6) & (found <= 1 + 1e-6)).all():
            why = _(
                "It gives {count} numbers, where {wanted} probabilities are wanted, one for each row of {tags}.",
                count=len(found),
                wanted=len(self.tags),
                tags=TAGS,
            )
            raise ModelError("CP001", where=self.folder / NETWORK, why=why)
        rows = [
            (tag.name, float(share))
            for tag, share in zip(self.tags, found)
            if share > self.least.get(tag.category, math.inf) and comparable(tag.name) not in self.exclude
        ]
        tags = dict(sorted(rows, key=lambda row: -row[1]))
        return Said(", ".join(tags), tags)


def load(folder: Path, device: torch.device, least: Mapping[int, float], exclude: Iterable[str]) -> Tagger:
    """A tagger from a folder with `model.onnx` and `selected_tags.csv`.

    Args:
        folder: that holds both.
        device: where it computes.
        least: the least probability of a tag, by category.
        exclude: tags that are never given.

    Raises:
        ModelError: CP001, one of the two is missing or is something else.
        RecipeError: CP002, onnxruntime is not installed.
    """
    for name in (NETWORK, TAGS):
        if not (folder / name).is_file():
            raise ModelError("CP001", where=folder, why=_("{file} is missing.", file=name))
    tags = _tags(folder / TAGS)
    try:
        import onnxruntime
    except ImportError as error:
        raise RecipeError("CP002", where=folder / NETWORK, why=error) from None
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    here = set(onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(
            str(folder / NETWORK), providers=[*(one for one in wanted if one in here), "CPUExecutionProvider"]
        )
    except _errors() as error:
        raise refused("CP001", folder / NETWORK, error) from None
    shape = session.get_inputs()[0].shape if session.get_inputs() else []
    if len(shape) != 4 or not all(isinstance(side, int) and side > 0 for side in shape[1:3]) or shape[3] != 3:
        why = _("Its input is {shape}, and not images of a fixed size with three channels last.", shape=shape)
        raise ModelError("CP001", where=folder / NETWORK, why=why)
    asked, known = {comparable(one): one for one in exclude}, {comparable(one.name): one.name for one in tags}
    unknown = {
        one: known[get_close_matches(name, known, 1, cutoff=0.0)[0]] for name, one in asked.items() if name not in known
    }
    return Tagger(folder, session, tags, (shape[1], shape[2]), least, frozenset(asked), unknown)


def _tags(path: Path) -> list[KnownTag]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [KnownTag(plain(row["name"]), int(row["category"])) for row in csv.DictReader(stream)]
    except (KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
        why = _("It is not a table with the columns name and category ({why}).", why=error)
        raise ModelError("CP001", where=path, why=why) from None
    if not rows:
        raise ModelError("CP001", where=path, why=_("It is empty."))
    return rows


def _errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises: classes of its own without a common base, and a few of Python's."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = tuple(one for one in vars(state).values() if isinstance(one, type) and issubclass(one, Exception))
    return (*own, ValueError, RuntimeError)
