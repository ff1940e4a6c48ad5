"""From measured numbers to a verdict: go on, warn or stop, and why. No torch, no clock: the same checks give the same verdicts.

R(s) is the mean log ratio of the held-out images' loss to the base's at step s in the middle range of timesteps, H(s)
in the high-noise range; a gap is held-out minus train. `pp` are percentage points of a ratio: 0.01. Constants marked
[18 runs] come from 18 dense public training logs of SD1.5 (spacepxl/demystifying-sd-finetuning, 10-270 images) and
were chosen on them; those marked [demo] in one run on the embedded base (bench/guard_probe.py); [proposed] ones wait for the benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

from tsuika.core.messages import percent, sentence
from tsuika.guard.reading import (
    ENOUGH_IMAGES,
    Check,
    Estimate,
    Grid,
    Ratios,
    cross_fitted,
    estimate,
    mean,
    minus,
    standard_error,
)

FIRST_CHECK: Final = 50  # [18 runs]
CHECKS_AT_LEAST: Final = 8  # a run shorter than 8 x 50 steps is first checked after an eighth of it [proposed]
PATIENCE: Final = 0.5  # stop when this share of the best step has gone by without a better one [18 runs]
# Without a better one, before a stop: three cost 1.4 to 3 times the best step where checks are scarce, and gain nothing; one is too
# few where weights jitter (docs/log/2026-11-30-guard-statistics.md).
MIN_CHECKS: Final = 2
EARLY: Final = 2.0  # ratio of checks before any that a stop can wait for, where checks are scarce
MIN_STEPS: Final = 150  # never stopped for lack of gain before this [18 runs]
MIN_SHARE: Final = (
    0.2  # nor before this share of the run: a limit for safety, after one run of 23 that wobbled (bench/guard)
)
MIN_SHORT: Final = 0.3  # instead of MIN_STEPS in a run that is too short for it [proposed]
DIVERGED: Final = 0.05  # R above this and not falling is worse than any useful state of the logs [18 runs]
RISING_CHECKS: Final = 3
RISE: Final = 0.02  # that counts: above the jitter of 1.6 pp of the train probe at high rates [18 runs]
# High-noise gap, twice in a row: 0.6-1.4 pp at the optimum of one SD1.5 run and 38-51 overtrained; on the embedded base
# 11-21 at the optimum without a copy, and copying begins at 33-51 (bench/memorise.py).
# So the limit is the gain itself, 24-32 pp there and 2-5 on SD1.5, and at least this.
MEMORISING_HIGH: Final = 0.05
MEMORISING_MID: Final = 0.25  # 5.5 pp at the optimum, 120 overtrained [one run]
NOTHING: Final = -0.001  # a gain of less than 0.1 pp after a third of the run is none [proposed]
NOTHING_AFTER: Final = 1 / 3
SLOPE_CHECKS: Final = 3  # over so many it is seen whether learning goes on [proposed]
# Change of the class word, or of unrelated prompts, by that of prompts with the trigger word: more is worth a word. 1.05 and
# 0.67 where the class word drew the subject (a LoRA of 100 steps, embedded base).
MOVED_ALONG: Final = 0.5
APART: Final = (
    1.3  # by this factor: checks lie 1.2 apart, and one beside the best is no worse than jitter (bench/guard)
)
# Bytes: what a step's weights may take for several steps to be kept and written. Of a whole model the best step alone is.
SEVERAL_BYTES: Final = 2**29
# Of the plan, a trial run without some of the images at most: what is left is for all of them (bench/guard/frontier.py).
LOOK: Final = 0.8
# Of the plan, such a trial run and what goes on from it together at most (the same).
WHOLE: Final = 1.3
LIKENESS_REACH: Final = 2.5  # usable checkpoints spanned 1-3 times the best step (demystifying-sd-finetuning)

Kind = Literal["go", "warn", "stop"]


@dataclass(frozen=True)
class Range:
    """Steps to choose from; 0 is the untrained base, or the file that the training goes on from."""

    safe: int  # the earliest that cannot be distinguished from the best (one standard error)
    balanced: int  # the best
    likeness: int  # the latest without an alarm, at most 2.5 times the best: nearer to the images, less varied


@dataclass(frozen=True)
class Evidence:
    """The numbers behind a verdict, as the report shows them; None where there is nothing to measure them by."""

    step: int
    held_out: Estimate | None
    train: float | None
    gap_mid: float | None
    gap_high: float | None
    drift: float | None
    selectivity: float | None  # change on training captions by change on unrelated prompts; reported, not judged
    best_step: int
    gap_high_se: float | None  # standard error of `gap_high`
    best: Estimate | None  # at the best step
    optimism: float | None  # by about how much `best` is too good, for these images have chosen the step
    range: Range
    overhead: float | None  # seconds of checks by seconds of training so far


@dataclass(frozen=True)
class Verdict:
    """The guard's opinion of a run. The trainer acts on it."""

    kind: Kind
    code: str  # in `core.messages`
    params: Mapping[str, object] = field(compare=False)
    evidence: Evidence

    def words(self, lang: str) -> str:
        return sentence(self.code, self.params).to(lang)


def patient_ratio(patience: float) -> float:
    """Of a check's step to the one before: MIN_CHECKS checks take as long as the patience, at most as long as PATIENCE."""
    return math.pow(1 + min(patience, PATIENCE), 1 / MIN_CHECKS)


def check_schedule(steps: int, ratio: float, early: float = 0.0) -> tuple[int, ...]:
    """Check schedule of a run: steps that grow geometrically, the last step always among them.

    `early`: the ratio up to where a stop may wait for two checks, for none stops a run before MIN_SHARE of it; 0: `ratio`.
    """
    found, waits = [max(1, min(FIRST_CHECK, -(-steps // CHECKS_AT_LEAST)))], MIN_SHARE * steps / ratio**MIN_CHECKS
    while found[-1] < steps:
        by = early if found[-1] * early <= waits else ratio
        found.append(math.ceil(round((by or ratio) * found[-1], 9)))
    # One close to the end would tell nothing that the end does not.
    return (*(step for step in found if step * math.sqrt(ratio) < steps), steps)


def affordable_schedule(steps: int, checks: int, patience: float = PATIENCE) -> tuple[int, ...]:
    """The densest check schedule with at most `checks` checks, or CHECKS_AT_LEAST where that is more.

    Early checks are saved first, then the patience is stretched. It is fixed before the run: the same recipe is checked at
    the same steps, however fast the machine is.
    """
    ratio, early = patient_ratio(patience), 0.0
    while len(found := check_schedule(steps, ratio, early)) > max(checks, CHECKS_AT_LEAST):
        ratio, early = (ratio + 0.02, early) if early else (ratio, EARLY)
    return found


class Judge:
    """Judges the checks of one run in order. Its whole state is `checks`: replaying them gives the same verdicts."""

    def __init__(
        self,
        steps: int,
        learning_rate: float,
        patience: float = PATIENCE,
        overlap: float = 0.0,
        check_steps: Sequence[int] = (),
        planned: int = 0,
        keeps_start: bool = True,
    ) -> None:
        """`steps` is the run's longest length; `overlap` as `reading.estimate`, for folds; `check_steps` when to check: with
        step 0 where the run does not begin with the base. `planned`: the recipe's steps, where the run is a part of them.
        `keeps_start`: whether step 0 may be the best, as a file to go on from may; a new word as it begins is of no use.

        `patience`: stop when this share of the best step has gone by without a better one, and MIN_CHECKS checks.
        """
        self.steps, self._planned, self._patience = steps, planned or steps, patience
        self.checks: list[Check] = []
        self.verdicts: list[Verdict] = []
        self._learning_rate, self._overlap, self._keeps_start = learning_rate, overlap, keeps_start
        self._check_steps = tuple(check_steps) or check_schedule(steps, patient_ratio(patience))
        self._range = Range(0, 0, 0)
        self._kept: frozenset[int] = frozenset()

    @property
    def keep(self) -> frozenset[int]:
        """Steps whose weights may still be chosen: the range, and earlier ranges that lie within it.

        No later verdict names a step that was dropped.
        """
        now = self.chosen
        between = {step for step in self._kept if now.safe <= step <= now.balanced}
        start = {0} if self._start is None or not self._keeps_start else set[int]()
        return frozenset(between | {now.safe, now.balanced, now.likeness}) - start

    @property
    def _start(self) -> Check | None:
        """What it began with, where that is not the base."""
        return self.checks[0] if self.checks and self.checks[0].step == 0 else None

    @property
    def chosen(self) -> Range:
        """The range; where nothing is better than the base, the check that is least worse; 0 where none is sound."""
        usable = [one for one in self._usable() if len(one.reading.held_out)]
        if self._range.balanced or not usable:
            return self._range
        least = min(usable, key=lambda one: mean(one.reading.held_out.mid)).step
        return Range(least, least, least)

    @property
    def to_come(self) -> frozenset[int]:
        """Steps of the checks that are still due."""
        last = self.checks[-1].step if self.checks else -1
        return frozenset(step for step in self._check_steps if step > last)

    def next_step(self) -> int | None:
        """When to check again; None after the last check."""
        return min(self.to_come, default=None)

    def update(self, check: Check) -> Verdict:
        """Judge a run by all of its checks so far. Raises ValueError: not later than the one before, or other probes."""
        if self.checks and check.step <= self.checks[-1].step:
            raise ValueError(f"check at step {check.step} after one at step {self.checks[-1].step}")
        if self.checks and len(check.reading.held_out) != len(self.checks[0].reading.held_out):
            raise ValueError("the held-out probes have changed")
        self.checks.append(check)
        best = self._best()
        self._range = self._selected(best)
        self._kept = self.keep
        verdict = self._verdict(self._evidence(best))
        self.verdicts.append(verdict)
        return verdict

    def _usable(self) -> list[Check]:
        """Sound checks, without a start that is of no use."""
        found = (one for one in self.checks if one.step or self._keeps_start)
        return [one for one in found if one.reading.held_out.finite and one.reading.train.finite]

    def _best(self) -> Check | None:
        """The check with the smallest R, None while that is the base; the earlier of equals."""
        held = [one for one in self._usable() if len(one.reading.held_out)]
        lowest = min(held, key=lambda one: mean(one.reading.held_out.mid), default=None)
        return lowest if lowest and mean(lowest.reading.held_out.mid) < 0 else None

    def _selected(self, best: Check | None) -> Range:
        usable = self._usable()
        if not self.checks[0].reading.held_out.mid:  # nothing to choose by: the latest state that is sound
            latest = usable[-1].step if usable else 0
            return Range(latest, latest, latest)
        if best is None:
            return Range(0, 0, 0)
        there = (one for one in usable if one.step in self._kept or one is best)
        # Timesteps differ systematically: with fewer images there is no error to go by.
        tells = len(best.reading.held_out) >= ENOUGH_IMAGES
        # The start is there already, so it is no result beside a better one.
        safe = next(
            one.step for one in there if one is best or (tells and one.step and self._within_one_error(one, best))
        )
        likeness = best.step
        for i, one in enumerate(usable):
            if one.step > best.step:
                memorising = _memorising(usable[: i + 1], _gain(best))
                if one.step > LIKENESS_REACH * best.step or memorising:
                    break
                likeness = one.step
        return Range(safe, best.step, likeness)

    def _within_one_error(self, one: Check, best: Check) -> bool:
        worse = estimate(minus(one.reading.held_out.mid, best.reading.held_out.mid), self._overlap)
        return worse.mean <= worse.se and mean(one.reading.held_out.mid) < 0

    def _evidence(self, best: Check | None) -> Evidence:
        check = self.checks[-1]
        held, train = check.reading.held_out, check.reading.train
        drift, own = check.reading.drift, check.reading.own_drift
        return Evidence(
            step=check.step,
            held_out=estimate(held.mid, self._overlap) if len(held) else None,
            train=mean(train.mid) if len(train) else None,
            gap_mid=_gap(held.mid, train.mid),
            gap_high=_gap(held.high, train.high),
            gap_high_se=_gap_se(held.high, train.high),
            drift=drift,
            selectivity=own / drift if drift and own is not None else None,
            best_step=self._range.balanced,
            best=estimate(best.reading.held_out.mid, self._overlap) if best else None,
            optimism=self._optimism(best) if best else None,
            range=self._range,
            overhead=check.guard_s / check.train_s if check.train_s else None,
        )

    def _optimism(self, best: Check) -> float | None:
        fitted = cross_fitted([one.reading.held_out.mid for one in self._usable() if len(one.reading.held_out)])
        return None if fitted is None else max(0.0, fitted - mean(best.reading.held_out.mid))

    def _verdict(self, now: Evidence) -> Verdict:
        check, best = self.checks[-1], self._best()
        params: dict[str, object] = {
            "step": now.step,
            "best": now.best_step,
            "rate": f"{self._learning_rate / 3:.2g}",
            "higher": f"{self._learning_rate * 3:.2g}",
            "more": 2 * self._planned,
            "percent": percent(now.held_out.mean if now.held_out else now.train),
            "gain": percent(now.best.mean if now.best else None),
            "train": percent(now.train),
            "gap_mid": percent(now.gap_mid),
            "gap_high": percent(now.gap_high),
        }

        def say(kind: Kind, code: str) -> Verdict:
            return Verdict(kind, code, params, now)

        if not (check.reading.held_out.finite and check.reading.train.finite):
            return say("stop", "GD001")
        if self._train_rises():
            return say("stop", "GD003")
        if now.step == 0:
            return say("go", "GD038" if self._keeps_start else "GD042")
        if now.held_out is None:
            return say("go", "GD009")
        if self._diverges():
            return say("stop", "GD002")
        soon = now.step < max(min(MIN_STEPS, MIN_SHORT * self.steps), MIN_SHARE * self.steps)
        late = not soon and now.step >= NOTHING_AFTER * self.steps
        if late and self._nothing(now):
            return say("stop", "GD004")
        ended = not self.to_come
        if not soon and self._exhausted(now.step):
            if now.best is not None and now.best.mean < NOTHING and (now.best_step or late):
                return say("stop", "GD006" if now.best_step else "GD039")
            if late:  # not before: the wobble around zero of a slow start is no optimum
                return say("stop", "GD005")
        # As long as held-out images get better, what is ahead of them is learned, too.
        if now.best_step != now.step and _memorising(self._usable(), _gain(best)):
            return say("warn", "GD007")
        if now.best is None and ended:
            fits = self._trained() < NOTHING and not self._falls("held_out")
            return say("stop", "GD005") if fits else say("go", "GD034")
        if now.best is None:
            return say("go", "GD011")
        if now.best_step == now.step:
            return say("go", "GD033" if ended else "GD008")
        return say("go", "GD032" if ended else "GD010")

    def _exhausted(self, now: int) -> bool:
        """Whether the best step, be it worse than the base, is so long ago that a better one is unlikely."""
        held = [one for one in self._usable() if len(one.reading.held_out)]
        best = min(held, key=lambda one: mean(one.reading.held_out.mid)).step
        since = sum(one.step > best for one in self.checks)
        return since >= MIN_CHECKS and now - best >= self._patience * best

    def _diverges(self) -> bool:
        """Whether held-out images are far worse than at the start, and rising or not improving for two checks (new words jitter)."""
        curve = [mean(one.reading.held_out.mid) for one in self.checks]
        lowest = min(curve)
        stays = curve.index(lowest) < len(curve) - 2
        return curve[-1] > self._from("held_out") + DIVERGED and (curve[-1] - lowest > RISE or stays)

    def _train_rises(self) -> bool:
        """Whether the images that are trained on got worse at each of the last checks, by more than jitter and chance.

        And the held-out ones with them, if there are any: weights that jitter move the two apart as often as together.
        """
        last = [one.reading for one in self.checks if len(one.reading.train)][-RISING_CHECKS - 1 :]
        if len(last) <= RISING_CHECKS or not all(mean(a.train.mid) < mean(b.train.mid) for a, b in pairwise(last)):
            return False
        change = minus(last[-1].train.mid, last[0].train.mid)
        along = not len(last[0].held_out) or mean(minus(last[-1].held_out.mid, last[0].held_out.mid)) > 0
        return along and mean(change) > max(RISE, 2 * standard_error(change))

    def _nothing(self, now: Evidence) -> bool:
        """Whether neither the held-out images nor those trained on show a gain, nor are on the way to one.

        With few images intervals are wide, and slow learning would count as nothing by the interval alone.
        """
        unseen = now.best is None or not now.best.high < NOTHING
        trained = self._trained() < self._from("train") + NOTHING
        return unseen and not trained and not self._falls("held_out") and not self._falls("train")

    def _from(self, side: Literal["held_out", "train"]) -> float:
        """What the loss began with: the base's, 0, or more, as of a new word that says something else than no word does."""
        rows: Grid = getattr(self._start.reading, side).mid if self._start else ()
        return max(0.0, mean(rows)) if rows else 0.0

    def _trained(self) -> float:
        """The lowest loss of the images that are trained on; 0, the base's, where none was measured."""
        return min((mean(one.reading.train.mid) for one in self._usable() if len(one.reading.train)), default=0.0)

    def _falls(self, side: Literal["held_out", "train"]) -> bool:
        """Whether a loss has fallen over the last checks by more than chance, and at that pace will be a gain at the end."""
        rows: list[tuple[int, Grid]] = [(one.step, getattr(one.reading, side).mid) for one in self._usable()]
        (before, then), (step, now) = rows[-SLOPE_CHECKS - 1 :][0], rows[-1]
        if step == before or not now or not then:
            return False
        change = estimate(minus(now, then), self._overlap)
        end = mean(now) + change.mean * (self.steps - step) / (step - before)
        return change.high < 0 and (end < NOTHING or step == self.steps)


def replay(judge: Judge, checks: Sequence[Check]) -> list[Verdict]:
    """Judge the checks of an earlier run again; returns the verdicts."""
    return [judge.update(check) for check in checks]


def _gap(held_out: Grid, train: Grid) -> float | None:
    return mean(held_out) - mean(train) if held_out and train else None


def _gap_se(held_out: Grid, train: Grid) -> float | None:
    return math.hypot(standard_error(held_out), standard_error(train)) if held_out and train else None


def _gain(best: Check | None) -> float:
    return -mean(best.reading.held_out.mid) if best else 0.0


def _memorising(checks: Sequence[Check], gain: float) -> bool:
    """By the middle gap of the last check that has one, or the high-noise gap of the last two, beyond their standard errors.

    Both may grow with the gain: on the embedded base, where 5 images gain 24 pp, the middle gap is 27 pp at the optimum, 47 at
    twice it [demo].
    """
    readings = [one.reading for one in checks if len(one.reading.train) and len(one.reading.held_out)][-2:]

    def beyond(held_out: Ratios, train: Ratios, part: Literal["mid", "high"], limit: float) -> bool:
        grids: tuple[Grid, Grid] = getattr(held_out, part), getattr(train, part)
        found, se = _gap(*grids), _gap_se(*grids)
        return found is not None and se is not None and found > limit + se

    detail = (beyond(one.held_out, one.train, "mid", max(MEMORISING_MID, 2 * gain)) for one in readings[-1:])
    layout = (beyond(one.held_out, one.train, "high", max(MEMORISING_HIGH, gain)) for one in readings)
    return any(detail) or (len(readings) == 2 and all(layout))
