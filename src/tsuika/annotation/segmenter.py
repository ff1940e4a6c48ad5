"""Masks that a model makes: where an image shows what a text says (CLIPSeg of transformers)."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import torch
from PIL import Image, ImageFilter

from tsuika.annotation.models import TransformersModel, folder_of
from tsuika.families.sources import from_hub

USUAL: Final = "CIDAS/clipseg-rd64-refined"  # Lüddecke & Ecker 2022, the authors' own
_FILES: Final = ["*.json", "*.txt", "*.safetensors"]


class Segmenter(TransformersModel):
    """A CLIPSeg with its processor."""

    wrong: ClassVar[str] = "CP020"

    def probabilities(self, image: Image.Image, text: str) -> Image.Image:
        """Where the text is shown, in the image's size, mode L: 255 is certain.

        Raises:
            ModelError: CP020, the model cannot do it.
        """

        def shares(batch: Any) -> torch.Tensor:
            logits: torch.Tensor = self.model(**batch).logits
            return logits.reshape(1, 1, *logits.shape[-2:]).sigmoid().cpu()

        small = self.ask(shares, text=[text], images=[image], truncation=True)
        full = torch.nn.functional.interpolate(small, image.size[::-1], mode="bilinear")[0, 0]
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

    folder = folder_of(name, lambda: from_hub(name, _FILES), wrong=Segmenter.wrong, missing="CP021")
    return Segmenter.open(folder, CLIPSegForImageSegmentation, device)
