"""What the guard sees of a run: probes on one fit or on several in lockstep, read as one, and the judge's verdicts."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from tsuika.core.events import Judged
from tsuika.core.files import write_text
from tsuika.core.plain import jsonable
from tsuika.core.types import Lanes
from tsuika.guard.judge import Judge, Verdict, replay
from tsuika.guard.probe import Probe
from tsuika.guard.reading import Check, Ratios, Reading
from tsuika.train.loop import Fit


@dataclass(frozen=True)
class Eye:
    """A probe on one of the fits."""

    fit: Fit
    probe: Probe
    lane: int = 0
    twins: bool = True  # whether pictures that are trained on are measured

    def look(self, lanes: Lanes | None) -> Reading:
        """What the weights that would be written make of the probe."""
        with lanes.alone(self.lane) if lanes is not None else nullcontext(), self.fit.written_weights():
            return self.probe.measure(train=self.twins)


class Watch:
    """Checks a run at the judge's steps. Its state is the file of its checks."""

    def __init__(
        self, eyes: Sequence[Eye], judge: Judge, file: Path, lanes: Lanes | None = None, spent_s: float = 0.0
    ) -> None:
        """`file` holds the checks, as JSON; `lanes` where the fits are in lockstep; measuring the base took `spent_s`."""
        self.judge = judge
        self._eyes, self._lanes, self._file = eyes, lanes, file
        self._train_s, self._guard_s = 0.0, spent_s

    @property
    def verdict(self) -> Verdict | None:
        """The last one."""
        return self.judge.verdicts[-1] if self.judge.verdicts else None

    @property
    def ended(self) -> bool:
        """Whether the judge has said stop."""
        return self.verdict is not None and self.verdict.kind == "stop"

    def go_on_from(self, step: int) -> Judged | None:
        """Hear again what was checked up to a step of an earlier sitting; gives the verdict of that very step, if any."""
        checks = [check for check in read_checks(self._file) if check.step <= step]
        replay(self.judge, checks)
        if not checks:
            return None
        self._train_s = checks[-1].train_s
        self._guard_s += checks[-1].guard_s  # the base was measured once more
        return judged(self.judge.verdicts[-1], checks[-1]) if checks[-1].step == step else None

    def after(self, step: int, seconds: float) -> Judged | None:
        """A check, if one is due after this step, which took so long."""
        self._train_s += seconds
        if step != self.judge.next_step():
            return None
        began = time.monotonic()
        accelerator = self._eyes[0].fit.accelerator
        found: list[Any] = [self._read() if accelerator.is_main_process else None]
        broadcast_object_list(found)  # all processes hear the same numbers, so they stop together
        self._guard_s += time.monotonic() - began
        verdict = self.judge.hear(Check(step, found[0], self._guard_s, self._train_s))
        if accelerator.is_main_process:
            write_text(self._file, json.dumps([check.to_json() for check in self.judge.checks]))
        return judged(verdict, self.judge.checks[-1])

    def _read(self) -> Reading:
        return joined([eye.look(self._lanes) for eye in self._eyes])


def read_checks(file: Path) -> list[Check]:
    """The checks in a file; none where there is no file."""
    return [Check.from_json(row) for row in json.loads(file.read_text(encoding="utf-8"))] if file.exists() else []


def judged(verdict: Verdict, check: Check) -> Judged:
    """A verdict as an event."""
    evidence: dict[str, Any] = jsonable(verdict.evidence)
    return Judged(check.step, verdict.kind, verdict.code, dict(verdict.params), check.to_json(), evidence)


def joined(readings: Sequence[Reading]) -> Reading:
    """Several folds' readings as one: every held-out picture by the fold that has not seen it."""

    def rows(parts: Sequence[Ratios]) -> Ratios:
        return Ratios(
            tuple(row for part in parts for row in part.mid), tuple(row for part in parts for row in part.high)
        )

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    return Reading(
        rows([one.held_out for one in readings]),
        rows([one.train for one in readings]),
        mean([one.drift for one in readings]),
        mean([one.own_drift for one in readings]),
    )
