"""A captioning model by name: a captioner of transformers, or a WD tagger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

import torch
from PIL import Image

from tsuika.annotation.models import folder_of
from tsuika.core.errors import ModelError, RecipeError
from tsuika.core.texts import _, listed
from tsuika.families.sources import from_hub

Kind = Literal["tags", "sentence"]

NETWORK: Final = "model.onnx"
TAGS: Final = "selected_tags.csv"
_TAGGER_FILES: Final = [NETWORK, TAGS]
_CAPTIONER_FILES: Final = ["*.json", "*.txt", "*.model", "*.safetensors"]


@dataclass(frozen=True)
class Said:
    """What a model says of one image: its sentence, or its tags, the most probable first, with their probabilities 0..1."""

    text: str
    tags: Mapping[str, float]


class Captioner(Protocol):
    """A model that says what an image shows."""

    @property
    def kind(self) -> Kind: ...

    @property
    def unknown(self) -> Mapping[str, str]:
        """Tags that were to be excluded and that it never gives, each with the most similar one that it knows."""
        ...

    def say(self, image: Image.Image) -> Said:
        """What an image (RGB) shows.

        Raises:
            ModelError: CP001, the model cannot do it.
        """
        ...


def load(
    name: str,
    device: torch.device,
    *,
    threshold: float | None = None,
    character_threshold: float | None = None,
    exclude: Sequence[str] = (),
) -> Captioner:
    """A captioning model, which a folder or a Hugging Face id names.

    Args:
        name: a folder, else a model id, whose files are downloaded once.
        device: where it computes.
        threshold: of a tagger: the least probability of a tag; None: `tagger.THRESHOLD`.
        character_threshold: of a tagger: the same of the names of characters; None: `tagger.CHARACTER_THRESHOLD`.
        exclude: of a tagger: tags that are never given, however they are written (`tagger.comparable`).

    Raises:
        NetworkError: CP003, no such folder, and the hub does not have it or cannot be reached.
        ModelError: CP001, it is no model of these two kinds.
        RecipeError: CP002, a tagger, and its library is not installed; CP006, what only a tagger has is given for a captioner.
    """
    from tsuika.annotation import sentences, tagger

    folder = folder_of(name, lambda: _downloaded(name), wrong="CP001", missing="CP003")
    if any((folder / file).is_file() for file in _TAGGER_FILES):
        least = {
            tagger.GENERAL: tagger.THRESHOLD if threshold is None else threshold,
            tagger.CHARACTER: tagger.CHARACTER_THRESHOLD if character_threshold is None else character_threshold,
        }
        return tagger.load(folder, device, least, exclude)
    if not (folder / "config.json").is_file():
        why = _("It holds neither {network} and {tags} (a tagger) nor config.json.", network=NETWORK, tags=TAGS)
        raise ModelError("CP001", where=folder, why=why)
    of_taggers = {"--threshold": threshold, "--character-threshold": character_threshold, "--exclude": exclude or None}
    if given := [flag for flag, value in of_taggers.items() if value is not None]:
        raise RecipeError("CP006", where=folder, names=listed(given))
    return sentences.load(folder, device)


def _downloaded(name: str) -> Path:
    """The files of a model of the hub; those of a tagger alone where it has them beside others."""
    folder = from_hub(name, _TAGGER_FILES, ignored=[])
    return folder if (folder / TAGS).is_file() else from_hub(name, _CAPTIONER_FILES)
