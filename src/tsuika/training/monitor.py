"""The guard's checks of a fit: a probe is measured at the judge's steps, and the judge's verdicts become events."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from tsuika.core import kept
from tsuika.core.events import Judged
from tsuika.core.plain import jsonable
from tsuika.guard.judge import Judge, Verdict, replay
from tsuika.guard.probe import Probe
from tsuika.guard.reading import Check, Ratios, Reading
from tsuika.training.fit import Fit


class Monitor:
    """Checks a fit at the judge's steps. Its state is the file of its checks."""

    def __init__(self, run: Fit, probe: Probe, judge: Judge, file: Path, spent_s: float = 0.0) -> None:
        """`file` takes the checks as JSON; `spent_s` are the seconds that measuring the base has taken."""
        self.judge = judge
        self._run, self._probe, self._file = run, probe, file
        self._train_s, self._guard_s = 0.0, spent_s

    def replay(self, step: int) -> Judged | None:
        """Judge again the checks up to a step of an interrupted run; returns the verdict at that very step, if any."""
        checks = [check for check in read_checks(self._file) if check.step <= step]
        replay(self.judge, checks)
        if not checks:
            return None
        self._train_s = checks[-1].train_s
        self._guard_s += checks[-1].guard_s  # the base was measured once more
        return judged(self.judge.verdicts[-1], checks[-1]) if checks[-1].step == step else None

    def after(self, step: int, seconds: float) -> Judged | None:
        """Check the fit after a step that took `seconds`, if a check is due."""
        self._train_s += seconds
        if step != self.judge.next_step():
            return None
        began = time.monotonic()
        accelerator = self._run.accelerator
        found: list[Any] = [None]
        if accelerator.is_main_process:
            with self._run.written_weights():
                found = [self._probe.measure()]
        broadcast_object_list(found)  # all processes get the same numbers, so they stop together
        self._guard_s += time.monotonic() - began
        verdict = self.judge.update(Check(step, found[0], self._guard_s, self._train_s))
        if accelerator.is_main_process:
            kept.write(self._file, [check.to_json() for check in self.judge.checks])
        return judged(verdict, self.judge.checks[-1])


def has_ended(judge: Judge) -> bool:
    return bool(judge.verdicts) and judge.verdicts[-1].kind == "stop"


def read_checks(file: Path) -> list[Check]:
    """The checks in a file; none where there is no file. Raises FormatError (TR011): it is damaged or was changed."""
    return kept.read(file, lambda rows: [Check.from_json(row) for row in rows]) if file.exists() else []


def judged(verdict: Verdict, check: Check, folds: int = 0) -> Judged:
    """A verdict as an event; `folds`: it is on all of these together."""
    evidence: dict[str, Any] = jsonable(verdict.evidence)
    return Judged(check.step, verdict.kind, verdict.code, dict(verdict.params), check.to_json(), evidence, folds=folds)


def joined(checks: Sequence[Check]) -> Check:
    """The checks of several folds at one step as one: each held-out image by the fold that is not trained on it."""

    def rows(parts: Sequence[Ratios]) -> Ratios:
        return Ratios(
            tuple(row for part in parts for row in part.mid), tuple(row for part in parts for row in part.high)
        )

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    readings = [check.reading for check in checks]
    reading = Reading(
        rows([one.held_out for one in readings]),
        rows([one.train for one in readings]),
        mean([one.drift for one in readings]),
        mean([one.own_drift for one in readings]),
    )
    seconds = sum(check.guard_s for check in checks), sum(check.train_s for check in checks)
    return Check(checks[0].step, reading, *seconds)
