"""The start of a new word: what is tried, and that the choice is the word with the lowest loss on the images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from tiny_models import shallow
from tsuika.advice import start_word
from tsuika.advice.start_word import StartWord, choose
from tsuika.core.events import drained

IMAGES = [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(number)) for number in range(4)]


def chosen(
    monkeypatch: pytest.MonkeyPatch, losses: Mapping[str, float], wobble: float = 0.0, nothing: float = 2.0
) -> StartWord:
    """The choice among a few words where each has a loss of its own, and no word has `nothing`; `wobble`: from image to image,
    but for `dog` and no word."""

    def loss(_model: Any, draws: Any, prompt: str) -> torch.Tensor:
        images = torch.arange(len(draws.t_B)) * draws.images // len(draws.t_B)
        word = prompt.removeprefix("a ")
        by = 0.0 if word in ("dog", "") else wobble
        return (losses[word] if word else nothing) * torch.exp(by * (-1.0) ** images)

    monkeypatch.setattr(start_word, "_losses", loss)
    monkeypatch.setattr(start_word, "candidates", lambda _model, word: [word, *(w for w in losses if w != word)])
    return drained(choose(shallow("sd1"), IMAGES, "dog"))


def test_the_word_with_the_lowest_loss_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    found = chosen(monkeypatch, {"dog": 1.0, "cat": 0.9, "cup": 0.7, "red": 1.2})
    assert (found.word, found.class_word, found.tried) == ("cup", "dog", 4)
    assert found.change == pytest.approx(math.log(0.7))


def test_the_class_word_stays_where_no_other_is_surely_better(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, {"dog": 1.0, "cat": 1.1}).word == "dog"
    # Differences of +-0.05 on four images have an error of 0.029, and an interval of 3.2 times that.
    assert chosen(monkeypatch, {"dog": 1.0, "cat": 0.93}, wobble=0.05).word == "dog"
    assert chosen(monkeypatch, {"dog": 1.0, "cat": 0.88}, wobble=0.05).word == "cat"


def test_a_word_that_says_less_than_no_word_is_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {"dog": 1.0, "deep": 0.7}
    assert chosen(monkeypatch, losses, nothing=0.6).word == "dog"
    assert chosen(monkeypatch, losses, nothing=0.8).word == "deep"


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_candidates_are_known_words_and_the_model_is_as_it_was(family: str) -> None:
    model = shallow(family)
    before = {name: value.clone() for name, value in model.unet.state_dict().items()}
    found = drained(choose(model, IMAGES, "dog"))
    assert found.tried > 1 and model.words == {}
    words = start_word.candidates(model, "dog")
    assert words[0] == "dog" and len(set(words)) == len(words) <= 1 + start_word.NEAR
    assert all(model.count_tokens(word)[0] == 1 for word in words[1:])
    assert all(torch.equal(value, before[name]) for name, value in model.unet.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.unet.parameters())
