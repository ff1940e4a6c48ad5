"""What looks at images in an evaluation: the embedded yardstick, or any image encoder that transformers can open.

Encoders give unit vectors of images; those with a text tower also fit texts. Safetensors only, and no repository's code is run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tsuika.core.errors import ModelError
from tsuika.core.files import at_home
from tsuika.core.texts import _
from tsuika.embedded import world, yardstick
from tsuika.embedded.things import KNOWN
from tsuika.families.sources import from_hub, is_hub_id

Vectors = NDArray[np.float64]  # (B, D), rows of length 1

EMBEDDED: Final = "embedded"
CHUNK: Final = 16
_FILES: Final = ["*.json", "*.txt", "*.model", "*.safetensors"]


class Encoder(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def reads(self) -> bool:
        """Whether it has a text tower."""

    def subjects(self, images: Sequence[Image.Image]) -> Vectors:
        """What is shown, as far as the encoder can leave the rest aside: for likeness to the training images."""

    def scenes(self, images: Sequence[Image.Image]) -> Vectors:
        """All that is shown: for how far images have moved."""

    def fit(self, images: Sequence[Image.Image], texts: Sequence[str]) -> NDArray[np.float64]:
        """How well each image fits each text (B, T), more is better; nan where the text says nothing to the encoder."""


class Yardstick:
    """The embedded yardstick. It knows the embedded world only; see `tsuika.embedded.yardstick`."""

    name = EMBEDDED
    reads = True

    def subjects(self, images: Sequence[Image.Image]) -> Vectors:
        return yardstick.directions(_arrays(images)).double().numpy()

    def scenes(self, images: Sequence[Image.Image]) -> Vectors:
        """The thing's direction beside the square roots of the backgrounds' probabilities, which have length 1 too."""
        arrays = _arrays(images)
        backgrounds = torch.stack([yardstick.background_scores(arrays, name) for name in world.BACKGROUNDS], 1)
        both = torch.cat([yardstick.directions(arrays), backgrounds.sqrt()], 1)
        return F.normalize(both.double(), dim=1).numpy()

    def fit(self, images: Sequence[Image.Image], texts: Sequence[str]) -> NDArray[np.float64]:
        """The mean of its probabilities for the background and the known things that a text names."""
        arrays, columns = _arrays(images), []
        for text in texts:
            background, things = named(text)
            scores = [yardstick.background_scores(arrays, background)] if background else []
            scores += [yardstick.thing_scores(arrays, thing) for thing in things]
            columns.append(torch.stack(scores).mean(0) if scores else torch.full((len(arrays),), torch.nan))
        return torch.stack(columns, 1).double().numpy()


def named(text: str) -> tuple[str, tuple[str, ...]]:
    """The background (empty for none) and the known things that a prompt of the embedded world names."""
    rest = f" {text.casefold()} "
    background = ""
    wordings = {world.where(name, choice): name for name in world.BACKGROUNDS for choice in range(3)}
    for words in sorted(wordings, key=len, reverse=True):
        if re.search(rf"\b{re.escape(words)}\b", rest):
            background, rest = wordings[words], rest.replace(words, " ", 1)
            break
    things = []
    for words, name in sorted(
        ((words, thing.name) for thing in KNOWN for words in thing.words), key=lambda row: -len(row[0])
    ):
        if re.search(rf"\b{re.escape(words)}\b", rest):
            things.append(name)
            rest = re.sub(rf"\b{re.escape(words)}\b", " ", rest)
    return background, tuple(dict.fromkeys(things))


class Transformer:
    """CLIP, SigLIP, DINOv2 or another image encoder of transformers."""

    def __init__(self, name: str, model: Any, processor: Any, tokenizer: Any, device: torch.device) -> None:
        self.name, self._model, self._processor, self._tokenizer = name, model, processor, tokenizer
        self._device = device
        self.reads = tokenizer is not None

    def subjects(self, images: Sequence[Image.Image]) -> Vectors:
        return self._images(images).double().numpy()

    scenes = subjects

    def fit(self, images: Sequence[Image.Image], texts: Sequence[str]) -> NDArray[np.float64]:
        """Cosines of images and texts: CLIP-T, where the encoder is a CLIP."""
        return (self._images(images) @ self._texts(texts).T).double().numpy()

    def _images(self, images: Sequence[Image.Image]) -> Tensor:
        parts = []
        for start in range(0, len(images), CHUNK):
            batch = self._processor(images=list(images[start : start + CHUNK]), return_tensors="pt").to(self._device)
            with torch.no_grad():
                own = hasattr(self._model, "get_image_features")
                parts.append(_vectors(self._model.get_image_features(**batch) if own else self._model(**batch)))
        return torch.cat(parts)

    def _texts(self, texts: Sequence[str]) -> Tensor:
        length = self._model.config.text_config.max_position_embeddings
        # SigLIP learnt from texts of full length only; others mask what is behind the end.
        padding = "max_length" if self._model.config.model_type.startswith("siglip") else True
        tokens = self._tokenizer(
            list(texts), padding=padding, truncation=True, max_length=length, return_tensors="pt"
        ).to(self._device)
        with torch.no_grad():
            return _vectors(self._model.get_text_features(**tokens))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _vectors(output: Any) -> Tensor:
    """Unit vectors on the CPU from what a tower returns: a tensor, or an output with a pooled part or a class token."""
    if not isinstance(output, Tensor):
        pooled = getattr(output, "pooler_output", None)
        output = output.last_hidden_state[:, 0] if pooled is None else pooled
    return F.normalize(output.float().cpu(), dim=1)


def load(name: str, device: torch.device) -> Encoder:
    """An encoder by name: `embedded`, a folder, or a hub id.

    Raises NetworkError (NW001): the hub does not have it or cannot be reached; ModelError (EV001): no such folder, and no id of
    the hub, or no image encoder that transformers can open from safetensors.
    """
    if name == EMBEDDED:
        return Yardstick()
    folder = at_home(name)
    if not folder.is_dir() and not is_hub_id(name):
        raise ModelError("EV001", where=name, why=_("There is no such folder."))
    return _open(name, folder if folder.is_dir() else from_hub(name, _FILES), device)


def _open(name: str, folder: Path, device: torch.device) -> Encoder:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **options)
        processor = AutoImageProcessor.from_pretrained(folder, **options)
        model, loaded = AutoModel.from_pretrained(
            folder, config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
        )
        _complete(model, loaded["missing_keys"])
        reads = hasattr(model, "get_text_features")
        tokenizer = AutoTokenizer.from_pretrained(folder, **options) if reads else None
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelError("EV001", where=folder, why=_first_line(error)) from None
    return Transformer(name, model.eval().requires_grad_(False).to(device), processor, tokenizer, device)


def _complete(model: Any, missing: Collection[str]) -> None:
    """Transformers fills what a file lacks with random numbers. Only a pooler may be missing, else ValueError."""
    if others := sorted(name for name in missing if not name.startswith("pooler.")):
        raise ValueError(f"{len(others)} tensors are missing, such as {others[0]}")
    if missing:
        model.pooler = None


def _arrays(images: Sequence[Image.Image]) -> list[NDArray[np.uint8]]:
    return [np.asarray(image.convert("RGB")) for image in images]
