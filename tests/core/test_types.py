"""What goes through training in batches: joined, cut and filled up without a number in another place."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tsuika.core.types import Batch, Conditioning, split_words

TOKENS = (5, 2, 3)


def text(tokens: int) -> Conditioning:
    source = torch.Generator().manual_seed(tokens)
    return Conditioning(*(torch.randn(size, generator=source) for size in ((1, tokens, 4), (1, 3), (1, 6))))


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return one == other


def test_a_row_of_joined_texts_is_the_text_that_went_in_and_what_fills_it_up_is_masked() -> None:
    joined = Conditioning.join([text(tokens) for tokens in TOKENS])
    for row, tokens in enumerate(TOKENS):
        for rows in (slice(row, row + 1), [row]):
            one, alone = joined[rows], text(tokens)
            assert torch.equal(one.tokens_BSD[:, :tokens], alone.tokens_BSD) and not one.tokens_BSD[:, tokens:].any()
            assert same(one.pooled_BP, alone.pooled_BP) and same(one.time_ids_B6, alone.time_ids_B6)
            assert one.mask_BS is not None and one.mask_BS.tolist() == [[1.0] * tokens + [0.0] * (5 - tokens)]


def test_texts_of_one_length_need_no_mask_unless_one_of_them_has_it() -> None:
    assert Conditioning.join([text(3), text(3)]).mask_BS is None
    masked = replace(text(3), mask_BS=torch.tensor([[1.0, 1.0, 0.0]]))
    both = Conditioning.join([text(3), masked])
    assert both.mask_BS is not None and both.mask_BS.tolist() == [[1, 1, 1], [1, 1, 0]]
    plain = Conditioning.join([Conditioning(text(3).tokens_BSD)] * 2)[:1]
    assert plain.pooled_BP is None and plain.time_ids_B6 is None and plain.mask_BS is None


@pytest.mark.parametrize("masked", [False, True])
def test_the_pieces_of_a_batch_are_the_batch(masked: bool) -> None:
    mask = torch.rand(5, 1, 2, 2) if masked else None
    batch = Batch(torch.randn(5, 4, 2, 2), tuple("abcde"), tuple("vwxyz"), torch.arange(5.0), mask)
    pieces = [batch[start : start + 2] for start in (0, 2, 4)]
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    for name in ("latents_BCHW", "weight_B", *(["mask_B1HW"] if masked else [])):
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces]), getattr(batch, name))
    for name in ("captions", "names"):
        assert tuple(one for piece in pieces for one in getattr(piece, name)) == getattr(batch, name)
    assert masked or all(piece.mask_B1HW is None for piece in pieces)


def test_a_text_and_its_new_words_are_the_text_again() -> None:
    """Words stand by themselves, in any case; the longest counts."""
    pieces = split_words("a ZUZU, zuzus and zuzu-2 by zuzu", ["zuzu", "zuzu-2"])
    assert "".join(pieces) == "a ZUZU, zuzus and zuzu-2 by zuzu"
    assert pieces[1::2] == ["ZUZU", "zuzu-2", "zuzu"]
    assert split_words("a cat", []) == ["a cat"]
