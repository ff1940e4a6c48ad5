"""A run folder: the names of what is in it, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tsuika.core.errors import RecipeError


class _Inside:
    """The path of what has this name in the run folder."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: RunDir, kind: type[RunDir]) -> Path:
        return run.root / self._name


@dataclass(frozen=True)
class RunDir:
    """`RUN` of the command line's contract."""

    root: Path

    recipe = _Inside("recipe.toml")
    events = _Inside("events.jsonl")
    checkpoints = _Inside("checkpoints")
    samples = _Inside("samples")
    artifacts = _Inside("artifacts")
    report_json = _Inside("report.json")
    guard = _Inside("guard")
    left_out = _Inside("pictures.json")
    log = _Inside("log.txt")
    # Held by the process that works on the run, so that it is free again however that ends.
    lock = _Inside(".lock")
    # Made by whoever wants something of the running process; taken away when it is done, between two steps.
    stop_request = _Inside("requests/stop")
    sample_request = _Inside("requests/sample")

    @property
    def has_states(self) -> bool:
        """Whether there is a saved state to go on from."""
        return any(self.root.glob("checkpoints/step-*")) or any(self.root.glob("guard/look-*"))

    def takes(self, request: Path) -> bool:
        """Whether something was requested; it is taken away."""
        try:
            request.unlink()
        except OSError:
            return False
        return True

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
