"""Prompts with weights and of any length -> Conditioning, through `Model` alone.

What the A1111 web UI does: chunks as long as the text encoder takes, joined along the tokens; each token's embedding
times its weight, then the mean of the chunk put back. Shapes: S tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tsuika.core.events import Warn, note
from tsuika.core.types import Conditioning, Model, split_words
from tsuika.families.chunks import limit_of, split
from tsuika.generation.prompt import Prompt, Weighted, parse

if TYPE_CHECKING:
    from torch import Tensor


def encode(
    model: Model, prompt: str | Prompt, *, size_px: tuple[int, int] | None = None, warn: Warn | None = None
) -> Conditioning:
    """One prompt, batch 1. A plain prompt is `model.encode_text([text])`, bit for bit, as captions are in training.

    A new word's strength (`Model.word_weights`) multiplies its weight in the prompt, as `(word:0.8)` does.
    `size_px` is (width, height), for SDXL. Pooled embeddings are those of the first chunk, not weighted, as in A1111.
    """
    prompt = parse(prompt) if isinstance(prompt, str) else prompt
    if warn:
        for found in prompt.ignored:
            warn(note("GN003", found=found))
    prompt = replace(prompt, sections=tuple(_at_strength(part, model.word_weights) for part in prompt.sections))
    if prompt.is_plain:
        return model.encode_text([prompt.text], size_px=size_px)
    chunks = [
        [(word.text, word.weight) for word in chunk]
        for section in prompt.sections
        for chunk in split([(part.text, part.weight) for part in section], model.count_tokens, limit_of(model))
    ]
    return model.encode_weighted(chunks, partial(_rescale, warn=warn), size_px=size_px)


def _at_strength(section: tuple[Weighted, ...], strengths: Mapping[str, float]) -> tuple[Weighted, ...]:
    """The section with each new word of another strength than 1 as a part of its own, at that weight."""
    words = [word for word, strength in strengths.items() if strength != 1]
    if not words:
        return section
    changed = {word.casefold(): strengths[word] for word in words}
    return tuple(
        Weighted(text, part.weight * (changed.get(text.casefold(), 1) if number % 2 else 1))
        for part in section
        for number, text in enumerate(split_words(part.text, words))
    )


def _rescale(states_BSD: Tensor, weights: list[float], *, warn: Warn | None) -> Tensor:
    import torch

    weight_S = torch.tensor(weights, dtype=states_BSD.dtype, device=states_BSD.device)
    return _restore_mean(states_BSD * weight_S[:, None], states_BSD, (min(weights), max(weights)), warn)


def _restore_mean(scaled_BSD: Tensor, plain_BSD: Tensor, weights: tuple[float, float], warn: Warn | None) -> Tensor:
    """Put the mean back, as A1111 does, where the mean measures size at all.

    Scaling rows by weights w moves a mean that measures size by a factor from min(w) to max(w). Outside of that the
    rows' means have mixed signs and nearly cancel; dividing by such a mean would blow up or negate every embedding.
    """
    before, after = float(plain_BSD.float().mean()), float(scaled_BSD.float().mean())
    low, high = weights
    if before and low * (1 - 1e-3) <= after / before <= high * (1 + 1e-3) and after / before > 0:
        return scaled_BSD * (before / after)
    if warn:
        warn(note("GN004"))
    return scaled_BSD
