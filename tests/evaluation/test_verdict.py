"""The rules of the verdict, on made-up measures whose right answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tsuika.evaluation.evaluation import Evaluation, said
from tsuika.evaluation.measures import Scale, Tables
from tsuika.evaluation.prompts import Asked
from tsuika.evaluation.verdict import Point, at_level, judge

PROMPTS, SEEDS = 6, 4
SCALE = Scale(real=0.9, chance=0.0, other_prompt=0.1)


def table(mean: float, seed: int = 0, shape: tuple[int, int] = (PROMPTS, SEEDS), spread: float = 0.02) -> np.ndarray:
    """Numbers of exactly this mean."""
    noise = np.random.default_rng(seed).normal(0, spread, shape)
    return mean + noise - noise.mean()


def tables(fidelity: float, adherence: float = 0.8, *, seed: int = 0, copies: int = 0, **changes: float) -> Tables:
    copied = np.zeros((PROMPTS + 4, SEEDS))
    copied.flat[:copies] = 1
    means = {"others": 0.9, "drift": 0.01, "diversity": 0.2, **changes}
    return Tables(
        table(fidelity, seed),
        table(adherence, seed),
        table(means["others"], seed, (4, SEEDS)),
        table(means["drift"], seed, (4, SEEDS), 1e-4),
        table(means["diversity"], seed, (PROMPTS, 1)),
        copied,
    )


BASE = tables(0.1)


def point(found: Tables, step: int = 100, strength: float = 1.0, name: str = "mascot", main: bool = True) -> Point:
    return Point(name, f"artifacts/{name}.safetensors", step, strength, found, main)


def told(points: list[Point], base: Tables = BASE, scale: Scale = SCALE, *, doubted: bool = False) -> Evaluation:
    asked = (Asked("a tsuipi in the snow", "subject"), Asked("a cat", "unrelated"))
    found = judge(base, points, scale, doubted=doubted)
    return Evaluation("mascot", "tsuipi", "embedded", asked, (1, 2), base, tuple(points), scale, found, ())


def test_what_may_be_chance_is_not_told_as_nothing() -> None:
    """Likeness up by a tenth of the way, by less than the drawings vary, and by as much with drawings that vary little."""
    wide = replace(tables(0.2), fidelity=table(0.2, 1, spread=0.5))
    unsure, sure = told([point(wide)]), told([point(tables(0.2))])
    assert (unsure.verdict.grade, sure.verdict.grade) == ("unclear", "slight")
    assert "too few to tell" in said(unsure) and "--seeds 4" in said(unsure)
    worse = replace(wide, fidelity=table(0.05, 1, spread=0.5))
    assert told([point(worse)]).verdict.grade == "nothing"
    assert "It costs all the same" in said(told([point(replace(wide, others=tables(0, others=0.5).others))]))


@pytest.mark.parametrize(
    ("found", "grade"),
    [
        (tables(0.5), "good"),
        (tables(0.5, 0.7), "trade"),
        (tables(0.5, 0.5), "dear"),
        (tables(0.5, others=0.5), "dear"),
        (tables(0.5, diversity=0.09), "dear"),
        (tables(0.5, diversity=0.15), "trade"),
        (tables(0.1), "nothing"),
        (tables(0.02), "nothing"),
        (tables(0.12), "nothing"),  # surely above the base, and far too little
        (tables(0.24), "slight"),  # 0.14 of a way of 0.8
        (tables(0.27), "good"),  # 0.17
        (tables(0.5, drift=0.029), "good"),
        (tables(0.5, drift=0.031), "trade"),  # of 0.1 between two prompts
        (tables(0.5, copies=4), "copies"),
        (tables(0.5, copies=3), "good"),  # of 40: three may be chance
        (tables(0.02, 0.5, copies=9), "copies"),
    ],
)
def test_the_grade_of_the_file_as_it_is(found: Tables, grade: str) -> None:
    evaluation = told([point(found)])
    assert evaluation.verdict.grade == grade
    for language in ("en", "ja"):
        sentence = said(evaluation).to(language)
        assert "{" not in sentence and "()" not in sentence and sentence.count("..") == 0


def test_what_the_base_copies_itself_is_not_held_against_the_result() -> None:
    base = tables(0.1, copies=5)
    assert told([point(tables(0.5, copies=8))], base).verdict.grade == "good"
    assert told([point(tables(0.5, copies=9))], base).verdict.grade == "copies"


def test_without_an_encoder_it_says_what_it_does_not_know() -> None:
    def blind(**changes: float) -> Tables:
        return replace(tables(0.5, **changes), fidelity=None, adherence=None, others=None, drift=None)

    base, scale = replace(BASE, fidelity=None, adherence=None, others=None, drift=None), Scale(None, 0.0, None)
    for found, grade in ((blind(), "unmeasured"), (blind(diversity=0.05), "stiff"), (blind(copies=4), "copies")):
        evaluation = told([point(found)], base, scale)
        assert (
            evaluation.verdict.grade == grade and evaluation.verdict.best is None and evaluation.verdict.matched is None
        )
        assert "likeness " not in said(evaluation).replace("likeness to", "")
        assert evaluation.to_dict()["points"][0]["fidelity"] is None


def test_without_adherence_diversity_is_what_likeness_is_weighed_against() -> None:
    base = replace(BASE, adherence=None, others=None)
    mild, stiff = (
        replace(tables(0.5 + x, diversity=d), adherence=None, others=None) for x, d in ((0, 0.19), (0.05, 0.11))
    )
    found = told([point(mild, 100, main=False), point(stiff, 200, name="late")], base)
    assert found.verdict.best == 0


def test_the_best_trade_weighs_likeness_against_adherence() -> None:
    """Shares of the way: 0.5 x 1, 0.75 x 0.9, 0.8 x 0.6; the last is too dear besides."""
    points = [
        point(tables(0.5, 0.8, drift=0.01), strength=0.5),
        point(tables(0.7, 0.72, drift=0.02), strength=0.75),
        point(tables(0.74, 0.48, drift=0.03), strength=1.0),
    ]
    verdict = told(points).verdict
    assert [round(one.score or 0, 3) for one in verdict.judgements] == [0.5, 0.675, 0.48]
    assert verdict.best == 1 and verdict.main == 2 and verdict.grade == "dear"
    assert "step 100 at strength 0.75" in said(told(points))


def test_of_what_cannot_be_told_apart_the_gentler_one_is_best() -> None:
    wild = 0.15
    first = replace(tables(0.5, drift=0.01), fidelity=table(0.50, 1, spread=wild))
    second = replace(tables(0.5, drift=0.05), fidelity=table(0.51, 2, spread=wild))
    found = told([point(second, 300), point(first, 100, name="early", main=False)])
    assert found.verdict.best == 1


def test_after_a_guard_that_saw_no_gain_nothing_is_good() -> None:
    """One voice: whatever the drawings say."""
    for found, grade in ((tables(0.5), "doubtful"), (tables(0.5, 0.7), "doubtful"), (tables(0.24), "slight")):
        evaluation = told([point(found)], doubted=True)
        assert (evaluation.verdict.grade, evaluation.verdict.best) == (grade, None)
        assert "Better" not in said(evaluation) and "suffered" not in said(evaluation)
    assert told([point(tables(0.5, copies=9))], doubted=True).verdict.grade == "copies"
    blind = replace(tables(0.5), fidelity=None, adherence=None, others=None, drift=None)
    base = replace(BASE, fidelity=None, adherence=None, others=None, drift=None)
    unmeasured = [told([point(blind)], base, Scale(None, 0.0, None), doubted=doubted) for doubted in (False, True)]
    assert ["guard" in said(one) for one in unmeasured] == [False, True]


def test_what_has_moved_other_prompts_does_not_say_that_nothing_suffered() -> None:
    """Drift of 0.066 where two prompts are 0.1 apart."""
    sentence = said(told([point(tables(0.5, drift=0.066))]))
    assert sentence.count("66%") == 1 and "suffered" not in sentence


def saved(found: Tables, step: int) -> Point:
    return replace(point(found, step, name=f"step-{step:06d}", main=False), file=f"checkpoints/step-{step:06d}")


def test_of_equals_a_file_that_was_written_is_best() -> None:
    file, state = point(tables(0.5, seed=1, drift=0.02), 300), saved(tables(0.5, seed=2, drift=0.01), 100)
    assert told([file, state]).verdict.best == 0
    better = saved(tables(0.8, seed=2, drift=0.01), 100)
    assert told([file, better]).verdict.best == 1, "a better one counts, written or not"


def test_of_equals_a_difference_in_drift_within_its_error_decides_nothing() -> None:
    """Then the score does."""
    low, high = (replace(tables(0.5), fidelity=table(mean, seed, spread=0.15)) for mean, seed in ((0.5, 1), (0.52, 2)))
    steady, noisy = table(0.0200, 3, (4, SEEDS), 1e-4), table(0.0201, 4, (4, SEEDS), 5e-3)
    found = told([point(replace(low, drift=steady), 100, main=False), point(replace(high, drift=noisy), 300)])
    assert found.verdict.best == 1
    further = table(0.0301, 4, (4, SEEDS), 5e-3)
    found = told([point(replace(low, drift=steady), 100, main=False), point(replace(high, drift=further), 300)])
    assert found.verdict.best == 0


def test_strength_nought_is_never_the_best() -> None:
    found = told([point(BASE, strength=0.0), point(tables(0.5), strength=1.0)])
    assert found.verdict.best == 1 and found.verdict.main == 1
    none = found.verdict.judgements[0]
    assert none.gain is not None and (none.gain.mean, none.gain.low, none.gain.high) == (0, 0, 0)
    assert none.lost == () and none.score == 0


def test_steps_are_compared_at_equal_likeness() -> None:
    """The early step goes from (0.1, 0.8) to (0.5, 0.8), the late one to (0.9, 0.4): at 0.5 it has lost 0.2."""
    early = [point(tables(0.3), 60, 0.5, "early", False), point(tables(0.5), 60, 1.0, "early", False)]
    late = [point(tables(0.5, 0.6), 240, 0.5), point(tables(0.9, 0.4), 240, 1.0)]
    found = told([*late, *early]).verdict.matched
    assert found is not None and found.fidelity == pytest.approx(0.5)
    assert [(name, step) for name, step, _ in found.states] == [("early", 60), ("mascot", 240)]
    assert [value.mean for _, _, value in found.states] == pytest.approx([0.8, 0.6])
    assert found.lead.mean == pytest.approx(0.2) and found.lead.sign > 0
    assert "step 60 follows prompts better than step 240" in said(told([*late, *early]))
    alike = told([*early, *(replace(one, step=240, state="late") for one in early)]).verdict.matched
    assert alike is not None and (alike.lead.mean, alike.lead.low, alike.lead.high) == (0, 0, 0)
    assert told(early).verdict.matched is None  # one step has nobody to be compared with
    assert told([*early, point(BASE, 240)]).verdict.matched is None  # the other one has reached nothing


def test_a_single_picture_leads_nobody() -> None:
    """One prompt, one seed: every resample is the same, which is no certainty."""

    def one(fidelity: float, adherence: float, step: int, strength: float = 1.0) -> Point:
        found = tables(fidelity, adherence)
        single = replace(found, fidelity=np.array([[fidelity]]), adherence=np.array([[adherence]]))
        return point(single, step, strength, f"step-{step}", False)

    base = replace(BASE, fidelity=np.array([[0.1]]), adherence=np.array([[0.8]]))
    line = [one(0.3, 0.8, 60, 0.5), one(0.5, 0.8, 60), one(0.5, 0.6, 240, 0.5), one(0.9, 0.4, 240)]
    matched = told(line, base).verdict.matched
    assert matched is not None and matched.lead.mean == pytest.approx(0.2) and not matched.lead.is_bounded
    assert not any(value.is_bounded for _, _, value in matched.states)


def test_no_point_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="nothing"):
        judge(BASE, [], SCALE)


def test_a_level_is_found_on_the_line_between_two_points() -> None:
    xs, ys = [0.0, 0.4, 0.8], [1.0, 0.8, 0.4]  # a straight line in each stretch
    for level, wanted in ((0.0, 1.0), (0.2, 0.9), (0.4, 0.8), (0.5, 0.7), (0.8, 0.4)):
        assert float(at_level(xs, ys, level)) == pytest.approx(wanted)
    assert np.isnan(at_level(xs, ys, 0.9))
    back = [0.0, 0.5, 0.3, 0.6]  # the first crossing counts
    assert float(at_level(back, [0, 5, 3, 6], 0.4)) == pytest.approx(4)
    assert float(at_level([0.5, 0.9], [7, 3], 0.1)) == 7  # begins above it
    many = at_level([np.zeros(3), np.array([1.0, 2.0, 0.1])], [np.zeros(3), np.ones(3)], 0.5)
    assert many[:2].tolist() == [0.5, 0.25] and np.isnan(many[2])
