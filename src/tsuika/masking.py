"""Masks that a model makes: where an image shows what a text says (CLIPSeg of transformers). It knows no folder of images.

Nothing of a model is ever run as code, and only safetensors are opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image, ImageFilter

from tsuika.core.errors import ModelError, NetworkError
from tsuika.core.files import at_home
from tsuika.core.texts import _
from tsuika.families.sources import from_hub, is_hub_id
from tsuika.families.transformers_model import WRONG, opened

USUAL: Final = "CIDAS/clipseg-rd64-refined"  # Lüddecke & Ecker 2022, the authors' own
_FILES: Final = ["*.json", "*.txt", "*.safetensors"]


class Segmenter:
    """A CLIPSeg with its processor."""

    def __init__(self, folder: Path, model: Any, processor: Any, device: torch.device) -> None:
        self._folder, self._model, self._processor, self._device = folder, model, processor, device

    def probabilities(self, image: Image.Image, text: str) -> Image.Image:
        """Where the text is shown, in the image's size, mode L: 255 is certain.

        Raises:
            ModelError: CP020, the model cannot do it.
        """
        try:
            batch = self._processor(text=[text], images=[image], return_tensors="pt", truncation=True).to(self._device)
            with torch.no_grad():
                logits = self._model(**batch).logits
            shares = logits.reshape(1, 1, *logits.shape[-2:]).sigmoid().cpu()
        except WRONG as error:
            raise _refused(self._folder, error) from None
        full = torch.nn.functional.interpolate(shares, image.size[::-1], mode="bilinear")[0, 0]
        return Image.fromarray((full * 255).round().byte().numpy())


def shown(probabilities: Image.Image, threshold: float, grow_px: int) -> Image.Image:
    """A mask, black and white: where the probability is over the threshold, and so many pixels around it."""
    mask = probabilities.point([255 if value > threshold * 255 else 0 for value in range(256)])
    return mask.filter(ImageFilter.MaxFilter(2 * grow_px + 1)) if grow_px else mask


def load(name: str, device: torch.device) -> Segmenter:
    """A segmentation model, which a folder or a Hugging Face id names, whose files are downloaded once.

    Raises:
        NetworkError: CP021, no such folder, and the hub does not have it or cannot be reached.
        ModelError: CP020, it is no CLIPSeg, or has no safetensors, or tensors are missing.
    """
    from transformers import CLIPSegForImageSegmentation

    folder = at_home(name)
    if not folder.exists():
        if not is_hub_id(name):
            raise ModelError("CP020", where=name, why=_("There is no such folder."))
        try:
            folder = from_hub(name, _FILES)
        except NetworkError as error:
            raise NetworkError("CP021", where=name, why=error.params["why"], name=name) from None
    try:
        model, processor = opened(folder, CLIPSegForImageSegmentation)
    except ValueError as error:
        raise _refused(folder, error) from None
    return Segmenter(folder, model.to(device), processor, device)


def _refused(folder: Path, error: Exception) -> ModelError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ModelError("CP020", where=folder, why=lines[0])
