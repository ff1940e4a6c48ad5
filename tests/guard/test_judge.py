"""The judge: hand-computed numbers, and what it does on curves whose optimum is known."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from tsuika.core.messages import MESSAGES
from tsuika.guard.judge import (
    CHECKS_AT_LEAST,
    EARLY,
    Judge,
    Range,
    Verdict,
    affordable_schedule,
    check_schedule,
    patient_ratio,
    replay,
)
from tsuika.guard.reading import Check, Ratios, Reading, estimate, mean, minus, t95

Curve = Callable[[int], float]


def grid(value: float, pictures: int = 2, timesteps: int = 6, spread: float = 0.0) -> tuple[tuple[float, ...], ...]:
    """`value` on average, with picture and timestep effects that cancel."""
    return tuple(
        tuple(value + spread * ((i - (pictures - 1) / 2) + (k - (timesteps - 1) / 2)) for k in range(timesteps))
        for i in range(pictures)
    )


def check(step: int, held: float, train: float | None = None, *, high_gap: float = 0.0, pictures: int = 2) -> Check:
    twin = held if train is None else train
    return Check(
        step,
        Reading(
            Ratios(grid(held, pictures), grid(high_gap, pictures, 2)), Ratios(grid(twin), grid(0.0, 2, 2)), 0.1, 0.5
        ),
    )


def run(held: Curve, train: Curve | None = None, steps: int = 2000) -> tuple[Judge, list[Verdict]]:
    """A run that ends where the judge says stop."""
    judge = Judge(steps, 1e-4)
    verdicts: list[Verdict] = []
    while (step := judge.next_step()) is not None:
        verdicts.append(judge.update(check(step, held(step), train(step) if train else held(step))))
        if verdicts[-1].kind == "stop":
            break
    return judge, verdicts


def u_shape(best: float, depth: float = 0.02) -> Curve:
    """A parabola from 0 down to -depth at `best`, back at 0 at twice that, then rising without end."""
    return lambda step: depth * ((step / best - 1) ** 2 - 1)


def test_numbers_of_a_check_worked_by_hand() -> None:
    rows = ((-0.01, -0.03), (-0.02, -0.04))
    low = estimate(rows)  # columns: -0.015, -0.035
    assert low.kind == "draws" and low.mean == pytest.approx(-0.025)
    assert low.se == pytest.approx(0.01) and low.high == pytest.approx(-0.025 + 12.706 * 0.01)
    many = estimate(((0.0,), (0.02,), (0.04,), (0.06,)))  # deviation 0.02582, of the mean 0.01291
    assert many.kind == "pictures" and many.mean == pytest.approx(0.03)
    assert many.se == pytest.approx(0.012910, rel=1e-4) and many.low == pytest.approx(0.03 - 3.182 * 0.012910, rel=1e-4)
    # Leave-one-out of 5: sqrt(1/5 + 1/4) against sqrt(1/5), Nadeau & Bengio.
    five = ((0.0,), (0.1,), (0.2,), (0.3,), (0.4,))
    assert estimate(five, overlap=1 / 4).se / estimate(five).se == pytest.approx(1.5)
    assert estimate(((0.1,),)).high == math.inf


def test_gaps_and_the_best_worked_by_hand() -> None:
    held = Ratios(((-0.01, -0.05, -0.03, -0.07),), ((0.02, 0.04),))
    twin = Ratios(((-0.06, -0.06, -0.06, -0.06),), ((-0.01, -0.03),))
    now = Judge(100, 1e-4).update(Check(10, Reading(held, twin, 0.2, 0.5))).evidence
    assert now.gap_mid == pytest.approx(-0.04 + 0.06) and now.gap_high == pytest.approx(0.03 + 0.02)
    assert now.selectivity == pytest.approx(2.5) and now.best_step == 10
    assert now.best is not None and now.best.mean == pytest.approx(-0.04)  # by all draws, as the chart shows it
    assert now.optimism is None, "one image leaves none to choose by"


@pytest.mark.parametrize("freedom", [1, 3, 11, 30, 40, 59, 200])
def test_points_of_students_t(freedom: int) -> None:
    """Against the integral of the density, by Simpson's rule."""
    point, pieces = t95(freedom), 20_000
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    width = point / pieces
    weights = [1] + [4, 2] * ((pieces - 2) // 2) + [4, 1]
    inside = sum(w * (1 + (i * width) ** 2 / freedom) ** (-(freedom + 1) / 2) for i, w in enumerate(weights))
    assert 2 * scale * inside * width / 3 == pytest.approx(0.95, abs=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 7, 60, 100, 300, 500, 1500, 20_000])
def test_checks_are_few_and_end_with_the_run(steps: int) -> None:
    rungs = check_schedule(steps, 1.2)
    assert rungs[-1] == steps and list(rungs) == sorted(set(rungs)) and rungs[0] >= 1
    assert len(rungs) <= 12 + math.log(steps + 1, 1.2) / 2
    assert rungs[0] == 50 if steps >= 400 else rungs[0] <= -(-steps // 8)


@pytest.mark.parametrize("best", [90, 150, 400, 1000, 3000])
@pytest.mark.parametrize("depth", [0.002, 0.02, 0.3])
def test_a_u_shaped_curve_is_stopped_with_little_regret(best: float, depth: float) -> None:
    curve = u_shape(best, depth)
    judge, verdicts = run(curve, lambda s: -1e-5 * s, steps=10_000)
    final = verdicts[-1]
    assert final.kind == "stop" and final.code in ("GD006", "GD002")
    chosen = final.evidence.best_step
    # At worst the optimum is midway between checks at a and r a, rounded up to whole steps.
    r = patient_ratio(0.5)
    assert curve(chosen) - -depth <= depth * ((r - 1) / (r + 1) + 1 / best) ** 2
    assert judge.checks[-1].step <= r * max(2000, r**3 * best)  # at the first check after both waits are over


def test_a_falling_curve_is_never_stopped() -> None:
    for curve in (lambda s: -1e-5 * s, lambda s: -0.02 * (1 - math.exp(-s / 300)), lambda s: -0.5 * math.log1p(s)):
        judge, verdicts = run(curve, steps=3000)
        assert {one.kind for one in verdicts} == {"go"} and judge.checks[-1].step == 3000
        assert verdicts[-1].evidence.best_step == 3000 and judge.next_step() is None


def test_nothing_is_stopped_for_lack_of_gain_before_the_least_number_of_steps() -> None:
    for steps in (100, 400, 1500, 5000):
        _, verdicts = run(lambda s: -0.01 if s <= 60 else -0.005, steps=steps)
        stops = [one.evidence.step for one in verdicts if one.kind == "stop"]
        assert all(step >= max(min(150, 0.3 * steps), 0.2 * steps) for step in stops) and stops


def test_the_smallest_gain_counts() -> None:
    """No least gain: a threshold of 0.1 pp multiplies the regret (delta is 0)."""
    _, verdicts = run(lambda s: -0.01 - 1e-9 * s, steps=3000)
    assert verdicts[-1].evidence.best_step == 3000 and verdicts[-1].kind == "go"


def test_patience_is_relative_to_the_best_step_and_in_checks() -> None:
    rows = [check(step, -0.02 if step == 1000 else -0.01) for step in (800, 1000, 1100, 1200, 1300, 1499, 1500)]
    kinds = [one.kind for one in replay(Judge(4000, 1e-4), rows)]
    assert kinds == ["go"] * 6 + ["stop"]
    sparse = [check(step, -0.02 if step == 1000 else -0.01) for step in (1000, 1600, 1900)]
    assert [one.kind for one in replay(Judge(4000, 1e-4), sparse)] == ["go", "go", "stop"]


@pytest.mark.parametrize("where", ["held_out", "train"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_the_best_step_stays(where: str, bad: float) -> None:
    judge = Judge(1000, 3e-4)
    judge.update(check(50, -0.01))
    broken = Ratios(((bad,) * 6,) * 2, ((0.0, 0.0),) * 2)
    reading = replace(check(60, -0.02).reading, **{where: broken})
    verdict = judge.update(Check(60, reading))
    assert (verdict.kind, verdict.code, verdict.evidence.best_step) == ("stop", "GD001", 50)
    assert "1e-04" in verdict.words("en") or "0.0001" in verdict.words("en")


def test_a_bad_start_that_gets_better_is_not_divergence() -> None:
    """New words begin as noise."""
    verdicts = replay(Judge(1000, 1e-4), [check(50, 0.3), check(60, 0.2), check(72, 0.06), check(87, -0.01)])
    assert [one.code for one in verdicts] == ["GD011", "GD011", "GD011", "GD008"]


def test_a_wobble_on_the_way_down_is_not_divergence() -> None:
    """As measured: a new word on pictures that it cannot be learnt from (bench/guard)."""
    curve = [0.074, 0.059, 0.060, 0.052, 0.043, 0.038]
    verdicts = replay(Judge(10_000, 1e-4), [check(50 + 10 * i, r) for i, r in enumerate(curve)])
    assert {one.kind for one in verdicts} == {"go"}


def test_divergence_stops_at_once_and_what_stays_bad_at_the_second_look() -> None:
    judge = Judge(1000, 1e-4)
    assert judge.update(check(50, 0.04)).kind == "go"
    assert judge.update(check(60, 0.061)).code == "GD002"
    stays = replay(Judge(1000, 1e-4), [check(50, 0.8), check(60, 0.81), check(72, 0.805)])
    assert [one.kind for one in stays] == ["go", "go", "stop"] and stays[-1].code == "GD002"


def test_training_pictures_that_get_worse_stop_the_run_but_jitter_does_not() -> None:
    rise = [-0.02, -0.01, 0.0, 0.01]
    verdicts = replay(Judge(2000, 1e-4), [check(50 + 10 * i, -0.03 + r / 9, r) for i, r in enumerate(rise)])
    assert [one.kind for one in verdicts] == ["go", "go", "go", "stop"] and verdicts[-1].code == "GD003"
    jitter = [check(50 + 10 * i, -0.03, -0.02 + 0.004 * i) for i in range(5)]
    assert {one.kind for one in replay(Judge(2000, 1e-4), jitter)} == {"go"}


def test_three_rises_in_a_row_end_a_run_and_two_do_not() -> None:
    rows = [check(50 + 10 * i, -0.03 + 0.01 * i, 0.03 * i) for i in range(4)]
    assert [one.code == "GD003" for one in replay(Judge(2000, 1e-4), rows)] == [False, False, False, True]


def test_nothing_learnt_is_said_after_a_third_and_not_where_the_training_pictures_improve() -> None:
    judge, verdicts = run(lambda s: -1e-5, steps=1500)
    assert verdicts[-1].code == "GD004" and 500 <= judge.checks[-1].step < 650
    _, verdicts = run(lambda s: 0.01, lambda s: -1e-4 * s, steps=1500)
    assert verdicts[-1].code == "GD005"
    _, verdicts = run(lambda s: -1e-5 * s, lambda s: -1e-5 * s, steps=1500)
    assert verdicts[-1].kind == "go"


def test_memorising_is_said_and_ends_the_range() -> None:
    rows = [check(100, -0.03), check(120, -0.04, high_gap=0.02), check(144, -0.039, high_gap=0.06)]
    rows += [check(173, -0.038, high_gap=0.07), check(208, -0.037, high_gap=0.08)]
    judge = Judge(1000, 1e-4)
    verdicts = replay(judge, rows)
    assert [one.code for one in verdicts] == ["GD008", "GD008", "GD010", "GD007", "GD006"]
    assert verdicts[-1].evidence.range == Range(120, 120, 144)
    assert replay(Judge(1000, 1e-4), [check(100, -0.031), check(120, -0.03, -0.29)])[-1].code == "GD007"
    # Where more is gained than the limit, a gap below twice the gain is no alarm.
    for train, code in ((-0.89, "GD010"), (-0.92, "GD007")):
        assert replay(Judge(1000, 1e-4), [check(100, -0.301), check(120, -0.3, train)])[-1].code == code


@pytest.mark.parametrize(("ahead", "likeness"), [(0.29, 144), (0.31, 120)])
def test_the_range_ends_where_images_are_ahead_by_more_than_the_gain(ahead: float, likeness: int) -> None:
    """In layout at two checks in a row, where the best step has gained 30 points."""
    later = [check(step, -0.25, high_gap=ahead) for step in (120, 144)]
    verdicts = replay(Judge(1000, 1e-4), [check(100, -0.3), *later])
    assert verdicts[-1].evidence.range == Range(100, 100, likeness)


def test_memorising_is_not_said_while_held_out_images_get_better() -> None:
    """Four images of an object: ahead by more than the gain from the first check on, and the best step came last."""
    rows = [check(100 + 20 * i, -0.03 - 0.01 * i, -0.3 - 0.05 * i, high_gap=0.2) for i in range(4)]
    assert {one.code for one in replay(Judge(1000, 1e-4), rows)} == {"GD008"}
    assert replay(Judge(1000, 1e-4), [*rows, check(180, -0.05, -0.5, high_gap=0.2)])[-1].code == "GD007"


def test_the_range_lies_in_order_and_its_weights_are_kept() -> None:
    draws = random.Random(5)
    for _ in range(60):
        best, noise = draws.uniform(60, 800), draws.uniform(0, 0.01)
        curve = u_shape(best, draws.uniform(0.005, 0.05))
        judge, held = Judge(3000, 1e-4), frozenset[int]()
        while (step := judge.next_step()) is not None:
            values = tuple(tuple(curve(step) + draws.gauss(0, noise) for _ in range(6)) for _ in range(5))
            verdict = judge.update(Check(step, Reading(Ratios(values, values), Ratios(values, values), 0.1, 0.5)))
            found = verdict.evidence.range
            assert {found.safe, found.balanced, found.likeness} - {0} <= held | {step}  # nothing that was let go
            assert judge.keep <= held | {step}
            held = judge.keep
            assert found.safe <= found.balanced <= found.likeness <= 2.5 * found.balanced
            if verdict.kind == "stop":
                break


def test_one_standard_error_makes_the_safe_step_earlier() -> None:
    flat = [check(100, -0.02, pictures=5), check(120, -0.0201, pictures=5)]
    assert replay(Judge(1000, 1e-4), flat)[-1].evidence.range.safe == 120  # no noise: the difference is real
    wobbling = (0.002, -0.002, 0.001, -0.001, 0.0001)
    held = Ratios(tuple((-0.0201 + w,) * 6 for w in wobbling), flat[1].reading.held_out.high)
    noisy = [flat[0], Check(120, replace(flat[1].reading, held_out=held))]
    assert replay(Judge(1000, 1e-4), noisy)[-1].evidence.range == Range(100, 120, 120)


def test_without_held_out_pictures_only_divergence_stops() -> None:
    judge = Judge(600, 1e-4)
    rows = [Check(s, Reading(Ratios(), Ratios(grid(-0.001 * s), grid(0, 2, 2)))) for s in check_schedule(600, 1.2)]
    verdicts = replay(judge, rows)
    assert {one.code for one in verdicts} == {"GD009"} and verdicts[-1].evidence.range == Range(600, 600, 600)
    assert verdicts[-1].evidence.held_out is None and judge.keep == {600}


def test_order_of_pictures_and_of_timesteps_changes_nothing() -> None:
    draws = random.Random(1)
    rows = []
    for step in check_schedule(1500, 1.2):
        base = u_shape(200)(step)
        held, twin = ([[base + draws.gauss(0, 0.01) for _ in range(6)] for _ in range(5)] for _ in range(2))
        rows.append((step, held, twin))

    def verdicts(pictures: list[int], order: list[int]) -> list[Verdict]:
        def turn(values: list[list[float]]) -> tuple[tuple[float, ...], ...]:
            return tuple(tuple(values[i][k] for k in order) for i in pictures)

        checks = [Check(s, Reading(Ratios(turn(h), turn(h)), Ratios(turn(t), turn(t)), 0.1, 0.5)) for s, h, t in rows]
        return replay(Judge(1500, 1e-4), checks)

    plain = verdicts([0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5])
    again = verdicts([3, 1, 4, 0, 2], [4, 1, 0, 5, 2, 3])
    assert [(one.kind, one.code, one.evidence.range) for one in again] == [
        (one.kind, one.code, one.evidence.range) for one in plain
    ]
    assert {one.kind for one in plain} == {"go", "stop"}


@pytest.mark.parametrize("steps", [1, 7, 60, 800, 1500, 20_000])
@pytest.mark.parametrize("checks", [0, 5, 9, 12, 100])
def test_the_check_schedule_is_as_dense_as_its_checks_allow(steps: int, checks: int) -> None:
    rungs = affordable_schedule(steps, checks)
    assert rungs[-1] == steps and list(rungs) == sorted(set(rungs))
    assert len(rungs) <= max(checks, CHECKS_AT_LEAST)
    densest = check_schedule(steps, patient_ratio(0.5))
    if checks >= len(densest):
        assert rungs == densest
    saving = check_schedule(steps, patient_ratio(0.5), EARLY)
    if len(saving) <= checks < len(densest):
        assert rungs == saving, "early checks are saved before the patience is stretched"


def test_a_run_read_back_from_its_events_gives_the_same_verdicts() -> None:
    judge, verdicts = run(u_shape(200), lambda s: -1e-5 * s)
    lines = [json.dumps(one.to_json(), allow_nan=False) for one in judge.checks]
    again = Judge(2000, 1e-4)
    assert replay(again, [Check.from_json(json.loads(line)) for line in lines]) == verdicts
    assert again.chosen == judge.chosen and again.verdicts[-1].code == "GD006"
    broken = Check(7, Reading(Ratios(((math.nan,),), ())))
    assert math.isnan(mean(Check.from_json(json.loads(json.dumps(broken.to_json()))).reading.held_out.mid))


def test_checks_that_do_not_belong_together_are_refused() -> None:
    judge = Judge(1000, 1e-4)
    judge.update(check(50, -0.01))
    for wrong in (check(50, -0.01), check(60, -0.01, pictures=3)):
        with pytest.raises(ValueError, match=r"check at|changed"):
            judge.update(wrong)


def test_every_outcome_has_a_sentence_in_both_languages() -> None:
    curves = (u_shape(200), lambda s: 0.2, lambda s: -1e-6, lambda s: -1e-4 * s)
    said = {one.code: one for curve in curves for one in run(curve, lambda s: -1e-7 * s)[1]}
    assert {"GD002", "GD004", "GD006", "GD008", "GD010", "GD033"} <= said.keys()
    for verdict in said.values():
        en, ja = verdict.words("en"), verdict.words("ja")
        assert "{" not in en + ja and en.isascii() and "。" in ja
    assert {f"GD{i:03d}" for i in range(1, 15)} <= MESSAGES.keys()


def wobbling(step: int, held: float, wobble: float) -> Check:
    """Five pictures of one mean, `wobble` times a fixed pattern of standard error 1 apart."""
    unit = [w / math.sqrt(0.5) for w in (2, -2, 1, -1, 0)]
    rows = tuple((held + wobble * w,) * 6 for w in unit)
    assert estimate(tuple((w,) for w in unit)).se == pytest.approx(1)
    return Check(step, Reading(Ratios(rows, ((0.0, 0.0),) * 5), Ratios(rows, ((0.0, 0.0),) * 5)))


def test_the_safe_step_is_within_one_standard_error_and_earlier_ranges_stay_to_choose_from() -> None:
    """B lies between safe and best at step 144, and is the safe step once A is further off than one error."""
    a, b, c, d = (
        wobbling(100, -0.0200, 0.0),
        wobbling(120, -0.0204, 0.001),
        wobbling(144, -0.0206, 0.001),
        # To A: 0.0012 at an error of 0.001; to B: 0.0008 at an error of 0.002.
        wobbling(173, -0.0212, -0.001),
    )
    judge = Judge(1000, 1e-4)
    assert [one.evidence.range.safe for one in replay(judge, [a, b, c])] == [100, 100, 100]
    assert judge.keep == {100, 120, 144}
    assert judge.update(d).evidence.range == Range(120, 173, 173)


@pytest.mark.parametrize(("overlap", "safe"), [(0.0, 120), (0.25, 100)])
def test_the_error_of_the_safe_step_allows_for_what_folds_share(overlap: float, safe: int) -> None:
    """0.0012 apart at an error of 0.001; of leave-one-out 0.0015."""
    rows = [wobbling(100, -0.0200, 0.0), wobbling(120, -0.0212, 0.001)]
    assert replay(Judge(1000, 1e-4, overlap=overlap), rows)[-1].evidence.range.safe == safe


def test_no_step_is_safe_that_is_not_better_than_the_base() -> None:
    rows = [wobbling(100, 0.0001, 0.0), wobbling(120, -0.0002, 0.001)]
    assert replay(Judge(1000, 1e-4), rows)[-1].evidence.range == Range(120, 120, 120)


def test_a_step_that_was_let_go_is_not_safe_later() -> None:
    """The first is further off than one error from the second and nearer than one from the third."""
    rows = [wobbling(100, -0.0200, 0.0), wobbling(120, -0.0206, 0.0001), wobbling(144, -0.0207, 0.005)]
    judge = Judge(1000, 1e-4)
    assert [one.evidence.range.safe for one in replay(judge, rows)] == [100, 120, 120]
    assert 100 not in judge.keep


def last_word(held: Curve, train: Curve | None = None, steps: int = 1000) -> Verdict:
    return run(held, train, steps)[1][-1]


@pytest.mark.parametrize(
    ("held", "train", "code"),
    [
        (lambda s: -1e-4 * s, None, "GD033"),  # still improving at the end
        (lambda s: -0.02 if s == 800 else -0.01, None, "GD032"),  # the best step is not the last
        (lambda s: 0.04 - 3e-5 * s, None, "GD034"),  # on its way, but too slow
        (lambda s: 0.02, lambda s: -1e-5 * s, "GD005"),
    ],
)
def test_the_last_verdict_of_a_run_closes_it(held: Curve, train: Curve | None, code: str) -> None:
    judge = Judge(1000, 1e-4, check_steps=[100, 200, 400, 800, 1000])
    for step in (100, 200, 400, 800, 1000):
        verdict = judge.update(check(step, held(step), train(step) if train else held(step)))
    assert verdict.code == code and not judge.to_come
    assert verdict.kind == ("stop" if code == "GD005" else "go")
    assert "waiting" not in verdict.words("en") and "1000" in verdict.words("en")


def test_nothing_learnt_is_not_said_while_a_loss_falls_towards_a_gain() -> None:
    """A rate that is too low: 0.05 pp after a third of the run, 0.15 pp at its end."""
    slow = [one.code for one in run(lambda s: 0.0, lambda s: -1e-6 * s, steps=1500)[1]]
    assert "GD004" not in slow
    # Too slow even for that, or no longer falling: nothing.
    assert last_word(lambda s: 0.0, lambda s: -1e-7 * s).code == "GD004"
    assert last_word(lambda s: 0.0, lambda s: -5e-4 if s > 60 else 0.0).code == "GD004"


def test_no_two_sentences_of_one_run_ask_for_opposite_learning_rates() -> None:
    """What a run can end with, beside the note that no step was better than the base."""
    up, down = ("raise the learning rate",), ("lower the learning rate", "a third of")
    for code in ("GD001", "GD002", "GD003", "GD004", "GD005", "GD034"):
        params = dict.fromkeys(("step", "best", "rate", "higher", "more", "percent", "train", "gain"), "1")
        both = f"{MESSAGES[code].sentence(params)} {MESSAGES['GD017'].sentence(params)}".casefold()
        assert any(word in both for word in up) != any(word in both for word in down)


def test_before_any_check_nothing_is_chosen_or_kept() -> None:
    judge = Judge(1000, 1e-4)
    assert judge.chosen == Range(0, 0, 0) and judge.keep == frozenset()


def test_a_flat_run_that_is_checked_at_its_end_alone_has_learned_nothing() -> None:
    judge = Judge(1000, 1e-4, check_steps=[100, 1000])
    assert [one.code for one in replay(judge, [check(100, 0.0), check(1000, 0.0)])] == ["GD011", "GD004"]


def test_only_the_last_gap_in_detail_warns_and_a_check_without_training_images_hides_none() -> None:
    best, wide, narrow = check(90, -0.031), check(100, -0.03, -0.29), check(120, -0.03, -0.05)
    assert [one.code for one in replay(Judge(1000, 1e-4), [best, wide, narrow])] == ["GD008", "GD007", "GD010"]
    blind = replace(wide, step=120, reading=replace(wide.reading, train=Ratios()))
    assert [one.code for one in replay(Judge(1000, 1e-4), [best, wide, blind])] == ["GD008", "GD007", "GD007"]


@pytest.mark.parametrize(("even", "odd", "best"), [(-0.01, 0.02, 0), (0.01, -0.03, 100)])
def test_all_draws_decide_whether_a_step_is_better_than_the_base(even: float, odd: float, best: int) -> None:
    rows = ((even, odd) * 3,) * 2
    reading = Reading(Ratios(rows, ((0.0, 0.0),) * 2), Ratios(rows, ((0.0, 0.0),) * 2))
    assert Judge(1000, 1e-4).update(Check(100, reading)).evidence.best_step == best


def test_grids_of_other_sizes_have_no_differences() -> None:
    with pytest.raises(ValueError, match="zip"):
        minus(((0.1, 0.2),), ((0.1,),))
    with pytest.raises(ValueError, match="zip"):
        minus(((0.1,), (0.2,)), ((0.1,),))


def test_the_file_that_a_run_goes_on_from_is_step_0_and_may_be_the_best() -> None:
    """Better than the base at first: what falls further is better still, what rises gives the start back."""
    for slope, best, code in ((-1e-5, 800, "GD033"), (1e-5, 0, "GD039")):
        steps = (0, *check_schedule(800, 1.2))
        judge = Judge(800, 1e-4, check_steps=steps)
        while (step := judge.next_step()) is not None:
            verdict = judge.update(check(step, -0.02 + slope * step))
            if verdict.kind == "stop":
                break
        assert judge.verdicts[0].code == "GD038" and judge.checks[0].step == 0
        assert judge.chosen.balanced == best and verdict.code == code
        assert 0 not in {judge.chosen.safe} or best == 0
    judge = Judge(800, 1e-4, check_steps=(0, 50, 100))
    for step, loss in ((0, 0.01), (50, 0.02), (100, 0.03)):
        judge.update(check(step, loss))
    assert judge.chosen == Range(0, 0, 0), "the least harm is none: the start as it is"


def word(curve: Curve, steps: int = 200) -> Judge:
    """A run that begins with a new word: with another loss than without it."""
    judge = Judge(steps, 1e-4, check_steps=(0, *check_schedule(steps, 1.2)), keeps_start=False)
    while (step := judge.next_step()) is not None:
        if judge.update(check(step, curve(step))).kind == "stop":
            break
    return judge


def test_a_new_word_that_begins_above_the_base_and_falls_is_learning() -> None:
    """What the first third has not reached yet is no failure, and neither is what it began with."""
    judge = word(lambda step: 0.2 - 0.0008 * step)
    assert judge.verdicts[0].code == "GD042"
    assert judge.checks[-1].step == 200 and judge.verdicts[-1].code == "GD034"
    assert word(lambda step: 0.2 - 0.0016 * step).chosen.balanced == 200
    # Judged by the base alone, the same curve ends early.
    without = Judge(200, 1e-4, check_steps=check_schedule(200, 1.2))
    while (step := without.next_step()) is not None and without.update(check(step, 0.2 - 0.0008 * step)).kind != "stop":
        pass
    assert without.checks[-1].step < 100


def test_a_new_word_that_stays_or_rises_is_stopped_and_its_start_never_chosen() -> None:
    stays, rises = word(lambda step: 0.2), word(lambda step: 0.2 + 0.002 * step)
    assert stays.verdicts[-1].code == "GD004" and stays.checks[-1].step < 120
    assert rises.verdicts[-1].code in {"GD002", "GD003"}
    # It begins as a word that is better than none, and gets worse.
    worse = word(lambda step: -0.1 + 0.0001 * step)
    for judge in (stays, rises, worse):
        assert judge.chosen.balanced > 0 and 0 not in judge.keep


@pytest.mark.parametrize("planned", [0, 1000])
def test_twice_the_plan_is_suggested_where_the_trial_run_is_a_part_of_it(planned: int) -> None:
    judge = Judge(800, 1e-4, planned=planned)
    while (step := judge.next_step()) is not None:
        verdict = judge.update(check(step, -1e-4 * step))
    assert (verdict.code, verdict.params["more"]) == ("GD033", 2 * (planned or 800))
