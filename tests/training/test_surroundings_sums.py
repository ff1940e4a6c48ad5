"""The fingerprint of a base: sums in parts give what the whole gives, in every number type."""

from __future__ import annotations

import pytest
import torch

from tsuika.training import surroundings


def plain(value: torch.Tensor, chunk: int) -> tuple[int, int]:
    """By the definition: numbers by place within a chunk, chunks by where they begin; wrapped as int64 is."""
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
    flat = value.contiguous().view(-1).view(bits).tolist()
    placed = 0
    for first in range(0, len(flat), chunk):
        total = sum(number * place for place, number in enumerate(flat[first : first + chunk], 1))
        placed += ((total + 2**63) % 2**64 - 2**63) * (first + 1)
    return sum(flat), placed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 500, 1000])
def test_sums_in_parts_are_those_of_the_whole(dtype: torch.dtype, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "_CHUNK", 400)
    monkeypatch.setattr(surroundings, "_CACHED", 64)
    value = (torch.randn(count, generator=torch.Generator().manual_seed(count)) * 100).abs().to(dtype)
    found = surroundings._sums(value)
    if dtype is torch.float64:  # whose own sum wraps, too
        found, expected = (found[1],), (plain(value, 400)[1],)
        assert [one % 2**64 for one in found] == [one % 2**64 for one in expected]
    else:
        assert found == plain(value, 400)
