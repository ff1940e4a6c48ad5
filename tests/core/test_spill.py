import os

import pytest
import torch

from tsuika.core import spill

TENSORS = [
    torch.randn(3, 5, generator=torch.Generator().manual_seed(1)),
    torch.tensor(7.0).bfloat16(),
    torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(2)).half().transpose(0, 2),
    torch.empty(0, 4),
    torch.arange(9),
]


@pytest.mark.skipif(os.name == "nt", reason="a mapped file keeps its name there")
def test_spilled_tensors_are_the_same_numbers_and_can_be_written_to(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(spill, "LEAST_BYTES", 0)
    monkeypatch.setattr(spill.tempfile, "tempdir", str(tmp_path))
    kept = spill.spilled(TENSORS)
    assert not list(tmp_path.iterdir())  # nothing is left for others to find, whatever happens
    for one, other in zip(kept, TENSORS, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
        assert one.data_ptr() != other.data_ptr() or not one.numel()
    kept[0].add_(1)
    assert torch.equal(kept[0], TENSORS[0] + 1)


def test_small_tensors_and_a_full_disk_leave_them_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(one is other for one, other in zip(spill.spilled(TENSORS), TENSORS, strict=True))
    monkeypatch.setattr(spill, "LEAST_BYTES", 0)
    monkeypatch.setattr(spill.tempfile, "tempdir", "/nowhere/at/all")
    assert all(one is other for one, other in zip(spill.spilled(TENSORS), TENSORS, strict=True))
