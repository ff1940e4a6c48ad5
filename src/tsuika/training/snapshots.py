"""Weights of single steps, as they would be written, kept in files of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from tsuika.core.files import whole
from tsuika.training.fit import Fit


class Snapshots:
    """A folder of snapshots, one file a step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, step: int) -> Path:
        """Where the snapshot of a step is."""
        return self._folder / f"step-{step:06d}.safetensors"

    def __contains__(self, step: int) -> bool:
        return self.path(step).exists()

    def save(self, step: int, run: Fit) -> None:
        """Write a fit's weights as the snapshot of a step."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with run.written_weights(), whole(self.path(step)) as temporary:
            tensors = {name: value.detach().cpu().contiguous() for name, value in run.attachment.tensors().items()}
            save_file(tensors, temporary)

    def load(self, step: int) -> Mapping[str, Tensor]:
        """The weights of a step."""
        tensors: dict[str, Tensor] = load_file(self.path(step))
        return tensors

    def keep_only(self, steps: frozenset[int]) -> None:
        """Delete all others."""
        kept = {self.path(step) for step in steps}
        for path in self._folder.glob("step-*.safetensors"):
            if path not in kept:
                path.unlink()
