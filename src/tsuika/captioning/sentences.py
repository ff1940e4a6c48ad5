"""Sentences by a captioner of transformers (BLIP, GIT and others that need no instruction), from safetensors only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from tsuika.captioning.models import Kind, Said
from tsuika.core.errors import ModelError
from tsuika.core.texts import _
from tsuika.families.transformers_model import WRONG, opened

# Captions of COCO, which these models learnt from, have about a dozen tokens; CLIP reads 75.
MOST_TOKENS: Final = 60
_TOKENIZERS: Final = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")


class SentenceCaptioner:
    """A model of `AutoModelForImageTextToText` with its processor."""

    kind: Kind = "sentence"

    def __init__(self, folder: Path, model: Any, processor: Any, device: torch.device) -> None:
        self._folder, self._model, self._processor, self._device = folder, model, processor, device

    def say(self, image: Image.Image) -> Said:
        """The model's most probable words, without sampling."""
        try:
            batch = self._processor(images=image, return_tensors="pt").to(self._device)
            with torch.no_grad():
                tokens = self._model.generate(**batch, max_new_tokens=MOST_TOKENS, do_sample=False)
            text: str = self._processor.batch_decode(tokens, skip_special_tokens=True)[0]
        except WRONG as error:
            raise _refused(self._folder, error) from None
        return Said(" ".join(text.split()), {})


def load(folder: Path, device: torch.device) -> SentenceCaptioner:
    """A captioner from the folder that `save_pretrained` makes.

    Raises:
        ModelError: CP001, it is none, or asks for an instruction, or has no safetensors, or tensors are missing.
    """
    from transformers import AutoModelForImageTextToText

    # Transformers would make one that knows no words.
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise ModelError("CP001", where=folder, why=_("There is no tokenizer in it."))
    try:
        model, processor = opened(folder, AutoModelForImageTextToText)
    except ValueError as error:
        raise _refused(folder, error) from None
    if getattr(processor, "chat_template", None):
        why = _("It is a model to talk with: it answers an instruction, and does not caption by itself.")
        raise ModelError("CP001", where=folder, why=why)
    return SentenceCaptioner(folder, model.to(device), processor, device)


def _refused(folder: Path, error: Exception) -> ModelError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ModelError("CP001", where=folder, why=lines[0])
