"""A fit with what goes on beside it: saved states, the guard's checks, snapshots, previews."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tsuika.core import files, kept, safetensors
from tsuika.core.errors import FormatError
from tsuika.core.events import Event, Judged, Saved, note
from tsuika.core.texts import _
from tsuika.training import checkpoint
from tsuika.training.fit import Fit
from tsuika.training.loop import fit
from tsuika.training.monitor import Monitor, has_ended

# Between saved states, where the recipe gives no number of steps: what a power cut may take, and how many times as long as
# saving one has taken.
_LEAST_SECONDS: Final = 120.0
_LEAST_SHARE: Final = 50
_HASH: Final = "sha256"  # in a snapshot's header, of its tensors


class Snapshots:
    """A folder of weights of single steps, as they would be written, one file a step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}.safetensors"

    def __contains__(self, step: int) -> bool:
        return self.path(step).exists()

    def save(self, step: int, run: Fit) -> None:
        with run.written_weights():
            tensors = {name: value.detach().cpu().contiguous() for name, value in run.attachment.tensors().items()}
            safetensors.save_tensors(self.path(step), tensors, {_HASH: safetensors.data_hash(tensors)})

    def load(self, step: int) -> Mapping[str, Tensor]:
        """The weights of a step. Raises FormatError (TR011): they are damaged or were changed."""
        path = self.path(step)
        try:
            stored: str | None = safetensors.read_header(path).metadata.get(_HASH)
            tensors: dict[str, Tensor] = load_file(path)
        except (FormatError, SafetensorError) as error:
            raise kept.damaged(path, str(error)) from None
        if stored != safetensors.data_hash(tensors):
            raise kept.damaged(path, _("Its content does not match its checksum."))
        return tensors

    def keep_only(self, steps: frozenset[int]) -> None:
        kept = {self.path(step) for step in steps}
        for path in self._folder.glob("step-*.safetensors"):
            if path not in kept:
                files.remove(path)


# Which steps have snapshots: those that are wanted at present; all others are deleted.
Keeping = tuple[Snapshots, Callable[[], frozenset[int]]]


class Trainer:
    """Trains a fit from where it is to its schedule's end, or to the judge's stop."""

    def __init__(
        self,
        run: Fit,
        folder: Path,
        *,
        monitor: Monitor | None = None,
        stops_from: int | None = 0,
        keeping: Keeping | None = None,
        after: Callable[[int], Iterator[Event]] = lambda step: iter(()),
        resume: bool = False,
    ) -> None:
        """Save states into `folder`; on `resume` its newest whole one is loaded.

        `stops_from`: from which step on the judge's stop ends the training; None: it never does.
        """
        self.run, self._folder, self._monitor = run, folder, monitor
        self._saved_at, self._save_seconds = time.monotonic(), 0.0
        self._stops_from, self._keeping, self._after = stops_from, keeping, after
        # The verdict at the step it goes on from: its event may not have been taken.
        self._repeated: Judged | None = None
        self._passed_over: tuple[str, ...] = ()
        if resume:
            state, self._passed_over = checkpoint.newest(folder)
            if state is not None:
                run.restore(state)
        if resume and monitor is not None:
            self._repeated = monitor.replay(run.step)

    def train(self) -> Iterator[Event]:
        """Train. Closing the generator saves a state first."""
        run, saved, is_main = self.run, self.run.step, self.run.accelerator.is_main_process
        try:
            if self._passed_over:
                yield note("TR012", names=", ".join(self._passed_over), step=run.step)
            # The second is of a check that was cut short.
            for verdict in (self._repeated, self._check(0.0)):
                if verdict is not None:
                    yield verdict
            if self._stops():
                return
            for event in fit(run):
                verdict = self._check(event.seconds)
                yield event
                if verdict is not None:
                    yield verdict
                ending = event.step == run.schedule.last or self._stops()
                if is_main and (ending or self._is_due(event.step)):
                    yield self._save()
                    saved = event.step
                if ending:
                    return
                yield from self._after(event.step)
        finally:
            # Also after Ctrl+C, or where the loss is not finite: the weights are the last good ones.
            if is_main and run.step > saved and run.between_steps:
                self._save()

    def _stops(self) -> bool:
        if self._stops_from is None or self._monitor is None:
            return False
        return self.run.step >= self._stops_from and has_ended(self._monitor.judge)

    def _check(self, seconds: float) -> Judged | None:
        """The guard's verdict after a step that took `seconds`, if a check is due; and snapshots."""
        verdict = self._monitor.after(self.run.step, seconds) if self._monitor is not None else None
        if self._keeping is not None and self.run.accelerator.is_main_process:
            snapshots, steps = self._keeping
            wanted = steps()
            if self.run.step in wanted and self.run.step not in snapshots:
                snapshots.save(self.run.step, self.run)
            snapshots.keep_only(wanted)
        return verdict

    def _is_due(self, step: int) -> bool:
        """Whether a state is saved after this step: a matter of the clock by default, since none decides the weights."""
        if every := self.run.recipe.train.checkpoint_every:
            return step % every == 0
        return time.monotonic() - self._saved_at >= max(_LEAST_SECONDS, _LEAST_SHARE * self._save_seconds)

    def _save(self) -> Saved:
        began = time.monotonic()
        path = checkpoint.save(self._folder, self.run.state())
        checkpoint.prune(self._folder, self.run.recipe.output.keep_states)
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - began
        return Saved(self.run.step, path.name)
