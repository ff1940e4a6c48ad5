"""Artifacts in files, and the saved states of a run as artifacts, so that a training can be seen step by step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tsuika import formats
from tsuika.core.errors import FormatError, InterruptedRunError
from tsuika.core.rundir import RunDir
from tsuika.core.texts import _
from tsuika.core.types import Artifact, Format
from tsuika.generation.compose import Reader
from tsuika.methods import Method
from tsuika.training import checkpoint


@dataclass(frozen=True)
class SavedState:
    """The results of a run, with the weights of one of its saved states."""

    results: tuple[Path, ...]
    format: Format

    @property
    def method(self) -> str:
        """That of the run."""
        return self.format.method

    def read(self, path: Path) -> Artifact:
        """The artifact as it would have been written at that step (with averaged weights, where the run averages).

        Raises:
            FormatError: the state is not whole (TR011), or of another training than the results (MD003).
        """
        state = checkpoint.load(path)
        artifacts = [self.format.read(result) for result in self.results]
        tensors = {name: value for artifact in artifacts for name, value in artifact.tensors.items()}
        saved = {**state.weights, **state.average}
        if not all(name in tensors and tensors[name].numel() == value.numel() for name, value in saved.items()):
            why = _("The results beside the saved state are of another training.")
            raise FormatError("MD003", where=path, why=why)
        # A state has the shapes of the model's own parameters: a convolution's DoRA scale is (1, out, 1, 1) there.
        own = {name: value.reshape(tensors[name].shape) for name, value in saved.items()}
        return replace(artifacts[0], tensors={**tensors, **own})


@dataclass(frozen=True)
class Files:
    """Files of artifacts, the formats of methods from outside included, and saved states of runs."""

    also: tuple[Format, ...] = ()

    @staticmethod
    def of(*methods: Method) -> Files:
        """With the formats of these methods beside those of `tsuika.formats`.

        Raises:
            RecipeError: a format from outside cannot be imported (RC002).
        """
        return Files(
            tuple(found for one in methods if one.formats for found in formats.for_method(one.name, one.formats))
        )

    bundled = staticmethod(formats.bundled)

    def find(self, path: Path) -> Reader:
        """The format of a file or folder; the folder of a saved state is one too.

        Raises:
            FormatError: as `formats.find`.
            InterruptedRunError: EV004, a run without results.
        """
        if not (path / "manifest.json").is_file():
            return formats.find(path, self.also)
        folder = next((one for one in path.resolve().parents if RunDir(one).recipe.is_file()), path.parent.parent)
        run = RunDir(folder)
        # Of a run that was stopped: the states of its trial run are states, too.
        places = (run.artifacts, run.unfinished)
        found = [file for place in places for file in sorted(place.glob("*")) if file.is_file()]
        results = [one for one in found if formats.is_artifact(one) or any(own.sniff(one) for own in self.also)]
        if not results:
            raise InterruptedRunError("EV004", where=folder)
        first = formats.find(results[0], self.also)
        return SavedState(tuple(file for file in results if formats.find(file, self.also).name == first.name), first)
