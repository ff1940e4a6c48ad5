"""A saved state, read as the artifact that would have been written at its step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiny_models import shallow
from tsuika import formats
from tsuika.api.states import Files
from tsuika.core.rundir import RunDir
from tsuika.methods import METHODS
from tsuika.methods.lora import Lora
from tsuika.training import checkpoint
from tsuika.training.checkpoint import State


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_it_is_what_was_written(tmp_path: Path, adapter: str) -> None:
    """Also where a model's own parameter has another shape than the file has."""
    run = RunDir(tmp_path / "run").create()
    attachment = METHODS["lora"].attach(
        shallow("sd1"), Lora(rank=2, conv=True, adapter=adapter), torch.Generator().manual_seed(0)
    )
    for tensor in attachment.tensors().values():
        tensor.add_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(1)))
    written = attachment.artifact()
    file = run.artifacts / "run.safetensors"
    formats.for_method("lora")[0].write(written, file, dtype=torch.float32)
    checkpoint.save(run.checkpoints, State(5, attachment.tensors(), {"param_groups": [], "state": {}}))
    path = checkpoint.place(run.checkpoints, 5)
    found, there = Files().find(path).read(path), formats.find(file).read(file)
    assert found.tensors.keys() == there.tensors.keys()
    assert all(torch.equal(value, there.tensors[name]) for name, value in found.tensors.items())
