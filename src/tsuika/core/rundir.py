"""A run folder: the names of what is in it, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tsuika.core.errors import RecipeError


@dataclass(frozen=True)
class RunDir:
    """`RUN` of the command line's contract."""

    root: Path

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.toml"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def report_json(self) -> Path:
        return self.root / "report.json"

    @property
    def guard(self) -> Path:
        return self.root / "guard"

    @property
    def has_states(self) -> bool:
        """Whether there is a saved state to go on from."""
        return any(self.root.glob("checkpoints/step-*")) or any(self.root.glob("guard/look-*"))

    @property
    def left_out(self) -> Path:
        return self.root / "pictures.json"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    def check_free(self) -> None:
        """Whether a new run may go there.

        Raises:
            RecipeError: RC006, it already holds something, or is a file.
        """
        if self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise RecipeError("RC006", where=self.root)

    def create(self) -> RunDir:
        """Make a new run folder.

        Raises:
            RecipeError: as `check_free`.
        """
        self.check_free()
        for folder in (self.root, self.checkpoints, self.samples, self.artifacts):
            folder.mkdir(parents=True, exist_ok=True)
        return self
