"""Sentences by a captioner of transformers (BLIP, GIT and others that need no instruction), from safetensors only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final

import torch
from PIL import Image

from tsuika.annotation.captioners import Kind, Said
from tsuika.annotation.models import TransformersModel
from tsuika.core.errors import ModelError
from tsuika.core.texts import _

# Captions of COCO, which these models learnt from, have about a dozen tokens; CLIP reads 75.
MOST_TOKENS: Final = 60
_TOKENIZERS: Final = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")


class SentenceCaptioner(TransformersModel):
    """A model of `AutoModelForImageTextToText` with its processor."""

    wrong: ClassVar[str] = "CP001"
    kind: Kind = "sentence"
    unknown: Mapping[str, str] = MappingProxyType({})

    def say(self, image: Image.Image) -> Said:
        """The model's most probable words, without sampling."""

        def text(batch: Any) -> str:
            tokens = self.model.generate(**batch, max_new_tokens=MOST_TOKENS, do_sample=False)
            said: str = self.processor.batch_decode(tokens, skip_special_tokens=True)[0]
            return said

        return Said(" ".join(self.ask(text, images=image).split()), {})


def load(folder: Path, device: torch.device) -> SentenceCaptioner:
    """A captioner from the folder that `save_pretrained` makes.

    Raises:
        ModelError: CP001, it is none, or asks for an instruction, or has no safetensors, or tensors are missing.
    """
    from transformers import AutoModelForImageTextToText

    # Transformers would make one that knows no words.
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise ModelError("CP001", where=folder, why=_("There is no tokenizer in it."))
    captioner = SentenceCaptioner.open(folder, AutoModelForImageTextToText, device)
    if getattr(captioner.processor, "chat_template", None):
        why = _("It is a model to talk with: it answers an instruction, and does not caption by itself.")
        raise ModelError("CP001", where=folder, why=why)
    return captioner
