"""A stretch of training with all that goes on beside it: saved states, the guard's checks, weights worth keeping."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from tsuika.core.events import Event, Judged, Saved
from tsuika.core.files import whole
from tsuika.core.types import Lanes
from tsuika.train import checkpoint
from tsuika.train.loop import Fit, fit_together
from tsuika.train.watch import Watch


class Kept:
    """Weights of single steps as they would be written, one file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}.safetensors"

    def __contains__(self, step: int) -> bool:
        return self.path(step).exists()

    def save(self, step: int, run: Fit) -> None:
        """Keep a fit's weights under a step's name."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with run.written_weights(), whole(self.path(step)) as temporary:
            tensors = {name: value.detach().cpu().contiguous() for name, value in run.attachment.tensors().items()}
            save_file(tensors, temporary)

    def load(self, step: int) -> Mapping[str, Tensor]:
        """The weights of a step."""
        tensors: dict[str, Tensor] = load_file(self.path(step))
        return tensors

    def only(self, steps: frozenset[int]) -> None:
        """Drop all others."""
        for path in self._folder.glob("step-*.safetensors"):
            if path not in {self.path(step) for step in steps}:
                path.unlink()


@dataclass
class Stage:
    """Fits in lockstep from where they are to their last step, or to the judge's stop."""

    runs: Sequence[Fit]  # events are the last one's
    states: Sequence[Path]  # where the states of each are saved
    every: int  # steps between saved states
    keep_states: int
    lanes: Lanes | None = None
    at_once: int = 0
    watch: Watch | None = None
    obeys: bool = True  # whether the judge's stop ends it
    kept: Kept | None = None  # of the last run
    only_best: bool = False  # whether of the judge's steps the best alone is kept
    keep: frozenset[int] | None = None  # which steps; None: those that the judge would keep
    # A step of the judge's -> the one that is kept, which may be earlier.
    kept_at: Callable[[int], int] = field(default=lambda step: step)
    after: Callable[[int], Iterator[Event]] = field(default=lambda step: iter(()))  # what else is done after a step
    _untold: Judged | None = None  # the verdict at the step that it goes on from, which nobody may have heard

    @property
    def step(self) -> int:
        """Steps done."""
        return self.runs[-1].step

    @property
    def _main(self) -> bool:
        return bool(self.runs[-1].accelerator.is_main_process)

    def resume(self) -> None:
        """Go on from the newest step of which every fit has a whole state."""
        states = checkpoint.newest_together(self.states)
        for run, state in zip(self.runs, states, strict=False):
            run.restore(state)
        if self.watch is not None:
            self._untold = self.watch.go_on_from(self.step)

    def go(self) -> Iterator[Event]:
        """Train. Closing it saves the states first."""
        saved = self.step
        try:
            for verdict in (self._untold, self._look(0.0)):  # or one that was cut short
                if verdict is not None:
                    yield verdict
            if self.watch is not None and self.obeys and self.watch.ended:
                return
            for event in fit_together(self.runs, self.lanes, self.at_once):
                verdict = self._look(event.seconds)
                yield event
                if verdict is not None:
                    yield verdict
                last = event.step == self.runs[-1].last_step
                ending = last or (verdict is not None and verdict.verdict == "stop" and self.obeys)
                if self._main and (event.step % self.every == 0 or ending):
                    yield self._save()
                    saved = event.step
                if ending:
                    return
                yield from self.after(event.step)
        finally:  # also when the generator is closed (Ctrl+C) or the loss is not finite: the weights are the last good ones
            if self._main and self.step > saved and not any(run.moving for run in self.runs):
                self._save()

    def _look(self, seconds: float) -> Judged | None:
        """What the guard makes of a step that took so long, if it is one to check; and weights worth keeping."""
        verdict = self.watch.after(self.step, seconds) if self.watch is not None else None
        self._keep(self.step)
        return verdict

    def _keep(self, step: int) -> None:
        if self.kept is None or not self._main:
            return
        wanted = self.keep if self.keep is not None else self._wanted()
        if step in wanted and step not in self.kept:
            self.kept.save(step, self.runs[-1])
        self.kept.only(wanted)

    def _wanted(self) -> frozenset[int]:
        """Steps that the judge may still choose."""
        if self.watch is None:
            return frozenset()
        judge = self.watch.judge
        best = judge.chosen.balanced  # the last check's, or what it was before
        return frozenset({best} - {0} if self.only_best else map(self.kept_at, judge.keep | judge.to_come))

    def _save(self) -> Saved:
        for run, folder in zip(self.runs, self.states, strict=True):
            path = checkpoint.save(folder, run.state())
        for folder in self.states:  # not before all of them have this one
            checkpoint.prune(folder, self.keep_states)
        return Saved(self.step, path.name)
