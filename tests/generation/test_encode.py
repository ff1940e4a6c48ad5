"""Weighted and long prompts against plain ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from tsuika.core.events import Warned
from tsuika.families.chunks import split
from tsuika.generation import encode as encode_part
from tsuika.generation.encode import encode
from tsuika.generation.prompt import Weighted, parse

FAMILIES = ("sd1", "sd2", "sdxl")


def ids(model: Any, text: str, name: str = "tokenizer") -> list[int]:
    return model.tokenizers[name](text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["", "a red cat and the dog", "猫、犬", " two  spaces ", "wow!!! (it:1.0)"])
def test_a_short_plain_prompt_is_encode_text(tiny_models: Mapping[str, Any], family: str, text: str) -> None:
    model = tiny_models[family]
    ours, theirs = encode(model, text), model.encode_text([parse(text).text])
    assert torch.equal(ours.tokens_BSD, theirs.tokens_BSD)
    if theirs.pooled_BP is not None:
        assert torch.equal(ours.pooled_BP, theirs.pooled_BP)
        assert torch.equal(ours.time_ids_B6, theirs.time_ids_B6)


def test_words_between_spaces_are_tokenized_apart(sd1: Any) -> None:
    for text in ("the cat, and (red) dog's!!", "猫と 犬 、 the-dog 12", "a  b\nc"):
        assert ids(sd1, text) == [number for word in text.split() for number in ids(sd1, word)]


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_scale_their_own_rows_and_the_mean_stays(
    tiny_models: Mapping[str, Any], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_models[family]
    read = model._read

    def shifted_read(component: str, prompts: Any) -> Any:
        # The tiny random encoders' means are near zero: give them one, as CLIP's own have.
        states, pooled = read(component, prompts)
        return states + 3, pooled

    monkeypatch.setattr(model, "_read", shifted_read)
    shifted = model.encode_text(["the cat and dog"])
    ours = encode(model, "the (cat:1.4) and dog")
    at = 1 + len(ids(model, "the"))
    rows = slice(at, at + len(ids(model, "cat")))
    start = 0
    for encoder in model.text_encoders.values():
        columns = slice(start, start + encoder.config.hidden_size)
        start = columns.stop
        before, after = shifted.tokens_BSD[..., columns], ours.tokens_BSD[..., columns]
        torch.testing.assert_close(after.mean(), before.mean())
        ratio = after / before
        torch.testing.assert_close(ratio[:, rows] / ratio[:, :1, :1], torch.full_like(ratio[:, rows], 1.4))
        others = torch.cat([ratio[:, :at], ratio[:, rows.stop :]], dim=1)
        torch.testing.assert_close(others, others[:, :1, :1].expand_as(others))
    assert start == ours.tokens_BSD.shape[-1]
    if shifted.pooled_BP is not None:
        assert torch.equal(ours.pooled_BP, shifted.pooled_BP)


def test_a_mean_near_zero_is_left_alone_and_told(sd1: Any) -> None:
    plain_BSD = torch.tensor([[[1.0, 1.0], [-1.0, -1.001], [0.0, 0.0]]])
    scaled_BSD = plain_BSD * torch.tensor([1.5, 1.0, 1.0])[:, None]
    told: list[Warned] = []
    assert torch.equal(encode_part._restore_mean(scaled_BSD, plain_BSD, (1.0, 1.5), told.append), scaled_BSD)
    assert [warning.code for warning in told] == ["GN004"]


@pytest.mark.parametrize("family", FAMILIES)
def test_long_prompts_become_chunks(tiny_models: Mapping[str, Any], family: str) -> None:
    model = tiny_models[family]
    limit = min(tokenizer.model_max_length for tokenizer in model.tokenizers.values()) - 2
    text = " ".join(["the cat", "red"] * limit)
    cond = encode(model, text)
    assert cond.tokens_BSD.shape[1] % (limit + 2) == 0
    count = cond.tokens_BSD.shape[1] // (limit + 2)
    assert count == -(-len(ids(model, text)) // limit)
    words = text.split()
    first = " ".join(words[:limit])  # each of these words is one token
    assert torch.equal(cond.tokens_BSD[:, : limit + 2], model.encode_text([first]).tokens_BSD)
    if cond.pooled_BP is not None:
        assert torch.equal(cond.pooled_BP, model.encode_text([first]).pooled_BP)


def test_chunks_end_at_a_comma_that_is_near(sd1: Any) -> None:
    limit = sd1.tokenizers["tokenizer"].model_max_length - 2
    words = ["cat"] * (limit - 5) + ["dog,"] + ["red"] * 10
    cond = encode(sd1, " ".join(words))
    head = " ".join(words[: limit - 4])
    assert torch.equal(cond.tokens_BSD[:, : limit + 2], sd1.encode_text([head]).tokens_BSD)


def test_japanese_without_spaces_is_cut_and_nothing_is_lost(sd1: Any) -> None:
    text = "白い砂浜に立つ犬、" * 20
    chunks = split([(text, 1.0)], sd1.count_tokens, 75)
    assert "".join(word.text for chunk in chunks for word in chunk) == text
    for chunk in chunks:
        assert len(ids(sd1, " ".join(word.text for word in chunk))) == sum(word.longest for word in chunk) <= 75


def test_break_starts_a_chunk(sd1: Any) -> None:
    cond = encode(sd1, "the cat BREAK the dog")
    parts = [sd1.encode_text([text]).tokens_BSD for text in ("the cat", "the dog")]
    assert torch.equal(cond.tokens_BSD, torch.cat(parts, dim=1))


def test_unsupported_syntax_is_told(sd1: Any) -> None:
    told: list[Warned] = []
    encode(sd1, "cat <what:1>", warn=told.append)
    assert [warning.code for warning in told] == ["GN003"]
    assert "<what:1>" in told[0].message


def test_a_words_strength_finds_it_whatever_its_case_folds_to() -> None:
    section = encode_part._at_strength((Weighted("a STRAßE, istan and İstan", 1.0),), {"Straße": 0.5, "istan": 2.0})
    assert [part.weight for part in section if part.text.casefold() in ("strasse", "istan")] == [0.5, 2.0]
    assert "".join(part.text for part in section) == "a STRAßE, istan and İstan"
