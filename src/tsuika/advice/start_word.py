"""The known word that a new word starts from: some are tried on the images themselves, without training.

A word is tried by the loss of the base on the images under a prompt of that word. Candidates are the class word and those near it
among the text encoders' word vectors. A word that says nothing has a low loss, too: it must be better than no word at all.

Shapes: B draws, C latent channels, H x W latents, V words.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from tsuika.core.events import Event, Progress
from tsuika.core.seeds import generator
from tsuika.core.types import Conditioning, Model
from tsuika.diffusion.objective import objective
from tsuika.guard.probe import MID
from tsuika.guard.reading import Grid, estimate, mean, minus
from tsuika.methods.textual_inversion import TextualInversion
from tsuika.methods.textual_inversion.vectors import attach

# Candidates beside the class word, and how many of all are measured on every draw.
NEAR: Final = 20
FINALISTS: Final = 4
_PROBE: Final = "tsuika-start-word"


@dataclass(frozen=True)
class StartWord:
    """What was chosen."""

    word: str  # the class word, unless another one is better than that and than no word by its whole 95% interval
    class_word: str  # what it was compared with
    change: float  # log ratio of the loss with it to that with the class word
    tried: int  # how many words were tried


@dataclass(frozen=True)
class _Draws:
    noisy_BCHW: Tensor
    target_BCHW: Tensor
    t_B: Tensor
    images: int

    def some(self) -> _Draws:
        """Of every image the middle timestep."""
        every = len(self.t_B) // self.images
        rows = slice(every // 2, None, every)
        return _Draws(self.noisy_BCHW[rows], self.target_BCHW[rows], self.t_B[rows], self.images)


def choose(model: Model, latents: Sequence[Tensor], class_word: str) -> Generator[Event, None, StartWord]:
    """Choose, with a `Progress` for each word that is tried.

    Args:
        latents: of images, scaled, (C, H, W) of one size.
        class_word: must not be empty.
    """
    draws = _draws(model, latents)
    words = candidates(model, class_word)
    prompts = {word: f"a {word}" for word in words}
    found: dict[str, Grid] = {}
    for number, (word, prompt) in enumerate(prompts.items(), start=1):
        found[word] = _grid(model, draws.some(), prompt)
        yield Progress("start-word", number, len(words))
    best = sorted(words[1:], key=lambda word: mean(found[word]))[:FINALISTS]
    whole = {word: _grid(model, draws, prompts[word]) for word in (class_word, *best)}
    chosen = min(whole, key=lambda word: mean(whole[word]))
    change, said = (estimate(minus(whole[chosen], other)) for other in (whole[class_word], _grid(model, draws, "")))
    if change.high < 0 and said.high < 0:
        return StartWord(chosen, class_word, change.mean, len(words))
    return StartWord(class_word, class_word, 0.0, len(words))


def candidates(model: Model, class_word: str) -> list[str]:
    """The class word and words near it."""
    settings = TextualInversion(words=(_PROBE,), vectors=1, init=class_word)
    attachment = attach(model, settings, generator(0, "start-word"))
    try:
        # T5's vocabulary is another one.
        vectors = {name: attachment.words[_PROBE][name].detach().float() for name in model.targets("text.attn")}
    finally:
        attachment.detach()
    tables = [_table(model, component).float() for component in vectors]
    near_V = torch.stack([torch.cosine_similarity(*pair) for pair in zip(tables, vectors.values(), strict=True)]).sum(0)
    scores, known = near_V.tolist(), _vocabulary(model)
    return [class_word, *sorted(known.keys() - {class_word}, key=lambda word: (-scores[known[word]], word))[:NEAR]]


def _draws(model: Model, latents: Sequence[Tensor]) -> _Draws:
    told = objective(model.prediction, model.scheduler_config, "cpu")
    clean_BCHW = torch.stack([one.float().cpu() for one in latents for _t in MID[::2]])
    t_B = torch.tensor([told.at(t) for t in MID[::2]] * len(latents))
    noise_BCHW = torch.randn(clean_BCHW.shape, generator=generator(0, "start-word"))
    noisy_BCHW = told.add_noise(clean_BCHW, noise_BCHW, t_B)
    target_BCHW = told.target(clean_BCHW, noise_BCHW, t_B)
    device = model.device
    return _Draws(noisy_BCHW.to(device), target_BCHW.to(device), t_B.to(device), len(latents))


def _losses(model: Model, draws: _Draws, prompt: str) -> Tensor:
    side = model.latent_factor
    size_px = (draws.noisy_BCHW.shape[-1] * side, draws.noisy_BCHW.shape[-2] * side)
    cond = Conditioning.join([model.encode_text([prompt], size_px=size_px)] * len(draws.t_B))
    output_BCHW = model.denoise(draws.noisy_BCHW, draws.t_B, cond).float()
    return (output_BCHW - draws.target_BCHW).pow(2).flatten(1).mean(1)


def _grid(model: Model, draws: _Draws, prompt: str) -> Grid:
    with torch.no_grad():
        logs = [math.log(max(loss, 1e-12)) for loss in _losses(model, draws, prompt).tolist()]
    width = len(logs) // draws.images
    return tuple(tuple(logs[start : start + width]) for start in range(0, len(logs), width))


def _table(model: Model, component: str) -> Tensor:
    (path,) = model.targets("text.tokens")[component]
    layer: Any = model.module(component, path)
    weights: Tensor = layer.weight.detach()
    return weights


def _vocabulary(model: Model) -> dict[str, int]:
    """Whole words of CLIP's vocabulary that can stand in a prompt, with their ids."""
    tokens: Mapping[str, int] = next(iter(model.tokenizers.values())).get_vocab()
    end = "</w>"
    words = {token.removesuffix(end): number for token, number in tokens.items() if token.endswith(end)}
    return {word: number for word, number in words.items() if word.isalpha() and word.isascii() and len(word) > 2}
