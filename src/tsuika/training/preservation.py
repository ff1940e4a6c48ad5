"""Differential output preservation: what the base itself predicts for a caption with the class word in place of the
trigger word is a target beside the image's own, so that the class stays as it was (as in ai-toolkit; regularization without
images of the class). Shapes: B images of a micro-batch, C latent channels, H x W latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tsuika.core.errors import RecipeError
from tsuika.core.sections import Data
from tsuika.core.texts import _
from tsuika.core.types import Attachment, Batch, Conditioning, Model
from tsuika.data.caption import of_class
from tsuika.data.subjects import Subject, subjects_of
from tsuika.methods import MethodSection

KEY = "regularize.output_preservation"
Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]


def check(data: Data, settings: MethodSection, weight: float) -> None:
    """Whether it has a meaning. Raises RecipeError: no trigger word or class word (RC005); what is trained has no part in a
    caption without the trigger word (RC002)."""
    if not weight:
        return
    for one in subjects_of(data):
        for word, flag in ((one.trigger, "--trigger"), (one.class_word, "--class-word")):
            if not word:
                do = _("{flag} WORD; or without it: {off}", flag=flag, off=f"--set {KEY}=0")
                raise RecipeError("RC005", where=", ".join(filter(None, one.sets)), found=flag, do=do)
    if settings.new_words:
        why = _(
            "New words are all that is trained, and captions of the class do not hold them: nothing of it can change."
        )
        raise RecipeError("RC002", key=KEY, found=weight, why=why)


@dataclass(frozen=True)
class Preservation:
    """The base's predictions as targets. `condition` encodes captions with what is trained, `of_base` without."""

    model: Model
    attachment: Attachment
    subjects: Sequence[Subject]
    condition: Callable[[Batch], Conditioning]
    of_base: Callable[[Batch], Conditioning]

    def predict(
        self, denoiser: Predict, noisy_BCHW: Tensor, t_B: Tensor, batch: Batch, cond: Conditioning
    ) -> tuple[Tensor, Tensor]:
        """The outputs for a batch, in one pass with those for captions of the class, and how far the latter are from the
        base's: mean squared differences (B,), 0 for captions without the trigger word."""
        captions = [self._of_class(text) for text in batch.captions]
        rows = [row for row, text in enumerate(captions) if text != batch.captions[row]]
        class_drift_B = torch.zeros(len(batch), device=noisy_BCHW.device)
        if not rows:
            return denoiser(noisy_BCHW, t_B, cond), class_drift_B
        names, texts = (tuple(values[row] for row in rows) for values in (batch.names, captions))
        ours = Batch(batch.latents_BCHW[rows], texts, names, batch.weight_B[rows])
        noisy, times = noisy_BCHW[rows], t_B[rows]
        self.attachment.set_strength(0)
        try:
            with torch.no_grad():
                wanted = self.model.denoise(noisy, times, self.of_base(ours))
        finally:
            self.attachment.set_strength(1)
        both = Conditioning.join([cond, self.condition(ours)])
        output = denoiser(torch.cat([noisy_BCHW, noisy]), torch.cat([t_B, times]), both)
        drift = (output[len(batch) :].float() - wanted.float()).pow(2).flatten(1).mean(1)
        return output[: len(batch)], class_drift_B.index_add(0, torch.tensor(rows, device=drift.device), drift)

    def _of_class(self, caption: str) -> str:
        """The caption with the class word in place of every trigger word in it."""
        for one in self.subjects:
            caption = of_class(caption, one.trigger, one.class_word)
        return caption
