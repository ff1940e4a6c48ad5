"""A run folder: the names of what is in it, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tsuika.core import files, kept, names
from tsuika.core.errors import FormatError, RecipeError
from tsuika.core.texts import _


class _Inside:
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
    began = _Inside("began.json")
    lock = _Inside(".lock")
    # Made by whoever wants something of the running process; taken away when it is done, between two steps.
    stop_request = _Inside("requests/stop")
    sample_request = _Inside("requests/sample")

    @property
    def has_states(self) -> bool:
        """Whether there is a saved state to go on from."""
        return any(self.root.glob("checkpoints/step-*")) or any(self.root.glob("guard/look-*"))

    @property
    def unfinished(self) -> Path:
        """What was best when the run was stopped; it goes when the run ends."""
        return self.artifacts / "unfinished"

    def result_name(self, asked: str = "") -> str:
        """What a result is called, without ending: as the recipe asks, else after the folder."""
        return asked or names.stem_of(self.root.resolve().name)

    def takes(self, request: Path) -> bool:
        """Whether something was requested; it is taken away."""
        try:
            request.unlink()
        except OSError:
            return False
        return True

    def check_free(self) -> None:
        """Whether a new run may go there. Raises RecipeError: RC006, it already holds something, or is a file;
        TsuikaError: as `files.check_place`."""
        files.check_place(self.root)
        if not names.is_unicode(self.root.resolve()):
            why = _("It is no Unicode (UTF-8), so that weights could not be read back from there.")
            raise RecipeError("RC028", where=self.root, why=why)
        if self.root.exists() and (not self.root.is_dir() or not all(map(self._is_left_over, self.root.iterdir()))):
            if self.recipe.is_file():
                why = _("It holds another training run.")
                do = _("Choose another --out, or go on with: tsuika resume {run}", run=self.root)
            else:
                why = _("It is a file, or a folder that holds something else.")
                do = _("Choose another --out: a folder that is empty or not there yet.")
            raise RecipeError("RC006", where=self.root, why=why, do=do)

    def create(self) -> RunDir:
        """Make a new run folder. Raises RecipeError: as `check_free`."""
        self.check_free()
        for folder in (self.root, self.checkpoints, self.samples, self.artifacts):
            files.make_folder(folder)
        for path in self._unwritten():
            files.remove(path)
        return self

    def clear(self, *, keep_list: bool, keep_root: bool) -> None:
        """Delete everything, as a run that has not begun leaves nothing; or all but the list of images."""
        for path in [*self.root.iterdir()]:
            if not (keep_list and path == self.left_out):
                files.remove(path)
        if not keep_list and not keep_root:
            files.remove(self.root)

    def _unwritten(self) -> list[Path]:
        return [*self.root.glob(f".{self.recipe.name}{files.TEMPORARY}")]

    def _is_left_over(self, path: Path) -> bool:
        """Whether it is of an attempt that could not begin: the lock, the list of images that we have written; or of one
        that was cut off before its recipe was written: folders that are still empty, and the recipe's beginning."""
        if path in (self.checkpoints, self.samples, self.artifacts):
            return path.is_dir() and not any(path.iterdir())
        if path != self.left_out:
            return path == self.lock or path in self._unwritten()
        try:
            return bool(kept.read(path, dict))
        except FormatError:
            return False
