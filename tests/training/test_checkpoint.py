"""Saved states: whole or absent, and equal to what went in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tsuika.core import files
from tsuika.training import checkpoint


def _state(step: int, seed: int = 0) -> checkpoint.State:
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(
        [{"params": [model.weight], "lr": 0.1, "name": "a"}, {"params": [model.bias], "lr": 0.2, "name": "b"}]
    )
    for _ in range(3):
        model(torch.randn(4, 3)).pow(2).mean().backward()
        optimizer.step()
    weights = {"w": model.weight.data, "b": model.bias.data}
    average = {name: value * 2 for name, value in weights.items()}
    return checkpoint.State(step, weights, optimizer.state_dict(), average, {"scale": 512.0, "_growth_tracker": 3})


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = _state(5)
    checkpoint.save(tmp_path, state)
    back, _damaged = checkpoint.newest(tmp_path)
    assert back is not None and back.step == 5 and back.scaler == state.scaler
    for mine, theirs in ((state.weights, back.weights), (state.average, back.average)):
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    optimizer = torch.optim.AdamW([{"params": [torch.zeros(2, 3)], "lr": 1}, {"params": [torch.zeros(2)], "lr": 1}])
    optimizer.load_state_dict(back.optimizer)
    again = optimizer.state_dict()
    assert again["param_groups"] == state.optimizer["param_groups"]
    for index, row in state.optimizer["state"].items():
        assert all(torch.equal(row[name], again["state"][index][name]) for name in row)


def test_only_the_newest_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, _state(step))
        checkpoint.prune(tmp_path, 2)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-000002", "step-000003"]
    file = tmp_path / "step-000003/tensors.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    newest, _damaged = checkpoint.newest(tmp_path)
    assert newest is not None and newest.step == 2


def test_a_run_that_goes_on_from_before_a_state_does_not_lose_what_it_saves(tmp_path: Path) -> None:
    """The state of step 80 is damaged, so the run has gone on from an earlier one, and keeps a single state."""
    for step in (80, 20, 30):
        checkpoint.save(tmp_path, _state(step))
        checkpoint.prune(tmp_path, 1)
        newest, _damaged = checkpoint.newest(tmp_path)
        assert newest is not None and newest.step == step


def test_newest_is_by_number_not_by_name(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        checkpoint.save(tmp_path, _state(step))
        checkpoint.prune(tmp_path, 1)
    newest, _damaged = checkpoint.newest(tmp_path)
    assert newest is not None and newest.step == 1_000_000


def test_a_write_that_fails_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, _state(1))

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files, "flush", full)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path, _state(2))
    newest, _damaged = checkpoint.newest(tmp_path)
    assert newest is not None and newest.step == 1


def test_a_table_in_an_optimizers_table_comes_back(tmp_path: Path) -> None:
    """As bitsandbytes' 8-bit optimizers have it."""
    shared = torch.rand(256)  # one for all parameters
    inner = {"state1": torch.arange(4, dtype=torch.uint8), "map": shared, "bits": 8}
    state = {0: {"step": 3, "quant": inner}, 1: {"step": 3, "quant": {"map": shared}}}
    optimizer = {"state": state, "param_groups": [{"params": [0, 1], "betas": (0.9, 0.99)}]}
    checkpoint.save(tmp_path, checkpoint.State(1, {"w": torch.zeros(2)}, optimizer))
    back, _damaged = checkpoint.newest(tmp_path)
    assert back is not None and back.optimizer["param_groups"] == optimizer["param_groups"]
    row, other = (back.optimizer["state"][index] for index in (0, 1))
    assert row["step"] == 3 and row["quant"]["bits"] == 8
    assert torch.equal(row["quant"]["state1"], inner["state1"])
    assert torch.equal(row["quant"]["map"], shared) and torch.equal(other["quant"]["map"], shared)
