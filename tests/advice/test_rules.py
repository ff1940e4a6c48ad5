"""Properties of advice: limits are kept, recipes load, every word has evidence and a translation, measurements decide."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path

import pytest
import tomlkit

from tsuika import EMBEDDED, config, methods
from tsuika.advice import estimate, evidence, recipes, rules
from tsuika.advice.base import KnownBase, describe_base
from tsuika.advice.estimate import Cost, Machine
from tsuika.advice.evidence import GOALS, METHODS, Cell, CombinedResults, Measurements, Statement
from tsuika.advice.recipes import Subject
from tsuika.advice.rules import Advice, Request
from tsuika.config import Recipe
from tsuika.core.errors import RecipeError
from tsuika.core.intervals import Interval
from tsuika.guard.judge import WHOLE
from tsuika.methods import Method, MethodSection
from tsuika.pages import verbatim

GPU = Machine("cuda", "a GPU", "bf16", 24.0, 5e13)
COUNTS = (1, 3, 4, 9, 12, 30, 100, 2000)


def cell(goal: str, pictures: int, method: str, gain: float, behind: float = -5.0, size: int = 1000) -> Cell:
    against = Interval(behind, behind - 2, behind + 2)
    return Cell(goal, pictures, method, 3, Interval(gain, gain - 1, gain + 1), against, "lora", 0.5, 0.01, size, 18.0)


def table(**gains: float) -> Measurements:
    names = {method.replace("-", "_"): method for method in METHODS}
    return Measurements(tuple(cell(goal, 16, names[name], gain) for goal in GOALS for name, gain in gains.items()))


MEASURED = table(lora=40, textual_inversion=10, dreambooth=25, hypernetwork=20)


@pytest.fixture(scope="module")
def bases() -> dict[str, KnownBase]:
    return {name: describe_base(name, EMBEDDED) for name in ("embedded", "sd1")}


def advice(
    base: KnownBase,
    goal: str = "character",
    pictures: int = 20,
    found: Measurements = MEASURED,
    trigger: str = "zoka",
    **limits: object,
) -> Advice:
    subject = Subject(goal, "pictures", pictures, base.name, trigger=trigger, embedded=base.is_embedded)
    step = estimate.step_of(base)
    return rules.advise(
        Request(subject, goal, **limits),
        base,
        found,  # type: ignore[arg-type]
        lambda recipe: estimate.estimate(base, recipe, GPU, pictures, step),
        lambda recipe: estimate.memory_gib(base, recipe, GPU, step),
    )


def statements(found: Advice) -> Iterator[Statement]:
    for option in found.options:
        yield from (*option.reasons, *option.against)
    yield from (one.why for one in found.not_offered)
    yield from (*found.combine, *found.folklore)


@pytest.mark.parametrize("name", ["embedded", "sd1"])
def test_limits_are_kept(bases: dict[str, KnownBase], name: str) -> None:
    base = bases[name]
    for goal, vram, size in product(("style", "object"), (0.95, 4.0, 9.0), (0.01, 3.0, None)):
        try:
            found = advice(base, goal, 7, vram_gb=vram, max_file_mb=size)
        except RecipeError as error:
            assert error.code == "RC026"
            continue
        for option in found.options:
            assert option.estimate.memory_gib * 2**30 / 1e9 <= vram
            assert size is None or option.file_bytes <= size * 1e6


def test_a_program_that_does_not_apply_hypernetworks_is_offered_none(bases: dict[str, KnownBase]) -> None:
    best = table(lora=1, textual_inversion=1, dreambooth=1, hypernetwork=50)
    assert advice(bases["sd1"], found=best).options[0].method == "hypernetwork"
    offered = advice(bases["sd1"], found=best, program="Forge")
    assert "hypernetwork" not in [option.method for option in offered.options]
    assert all("Forge" in option.works_in for option in offered.options)


def test_a_family_has_programs_of_its_own() -> None:
    """A1111 applies new words of SD3 and nothing else of it."""
    offered = advice(describe_base("sd3", EMBEDDED), program="A1111")
    assert {option.method for option in offered.options} == {"textual-inversion"}


def test_more_pictures_never_leave_without_advice(bases: dict[str, KnownBase]) -> None:
    for goal in GOALS:
        offered = [
            {option.method for option in advice(bases["embedded"], goal, pictures).options} for pictures in COUNTS
        ]
        assert all(len(methods) == 3 for methods in offered)
        assert all(one <= other for one, other in pairwise(offered))


def test_steps_grow_with_pictures() -> None:
    for method, embedded in product(METHODS, (True, False)):
        steps = [recipes.steps_of(Subject("style", "", pictures, "", embedded=embedded), method) for pictures in COUNTS]
        assert steps == sorted(steps)


@pytest.mark.parametrize("name", ["embedded", "sd1"])
def test_every_recipe_loads(bases: dict[str, KnownBase], name: str) -> None:
    for goal, pictures, trigger, vram in product(GOALS, (2, 5, 40), ("", "zoka"), (6.0, 80.0)):
        for option in advice(bases[name], goal, pictures, trigger=trigger, vram_gb=vram).options:
            loaded = config.build(tomlkit.parse(option.toml).unwrap())
            assert loaded == option.recipe
            loaded.method.completed(loaded.data)  # what a run asks first
            assert loaded.data.images == "pictures"


@pytest.mark.parametrize("name", ["embedded", "sd1"])
def test_every_statement_has_evidence_and_japanese(bases: dict[str, KnownBase], name: str) -> None:
    for goal, pictures in product(GOALS, (2, 16, 300)):
        found = advice(bases[name], goal, pictures, found=evidence.measured(embedded=name == "embedded"))
        assert all(option.reasons for option in found.options)
        for one in statements(found):
            assert one.strength == "folklore" or one.source, one
            assert re.search(r"[ぁ-ヿ一-鿿]", one.text.to("ja")), one
            assert one.text and not re.search(r"[ぁ-ヿ一-鿿]", one.text), one


def test_the_best_measured_comes_first(bases: dict[str, KnownBase]) -> None:
    for best in METHODS:
        gains = {method.replace("-", "_"): 10.0 for method in METHODS} | {best.replace("-", "_"): 60.0}
        assert advice(bases["embedded"], found=table(**gains)).options[0].method == best


def test_of_equals_the_smaller_file_comes_first() -> None:
    equal = [cell("object", 16, method, 30, size=10**number) for number, method in enumerate(reversed(METHODS))]
    found = Measurements(tuple(equal))
    assert rules.order(found, "object", 16, embedded=True) == list(reversed(METHODS))
    assert rules.order(found, "object", 16)[-1] == "hypernetwork"  # which works in fewer programs


def test_the_nearest_measured_number_of_pictures_is_asked() -> None:
    whole = [cell("style", count, method, count) for count in (4, 16, 100) for method in METHODS]
    found = Measurements((*whole, cell("style", 8, "lora", 90)))  # with 8, not every method was measured
    nearest = {n: found.row("style", n)["lora"].images for n in (1, 7, 9, 30, 50, 5000)}
    assert nearest == {1: 4, 7: 4, 9: 16, 30: 16, 50: 100, 5000: 100}


def test_without_measurements_publications_decide(bases: dict[str, KnownBase]) -> None:
    found = advice(bases["sd1"], found=Measurements())
    assert [option.method for option in found.options] == ["lora", "dreambooth", "textual-inversion"]
    assert all(one.strength != "measured" for one in statements(found))


def test_a_method_that_nobody_measured_is_named_and_not_advised(
    bases: dict[str, KnownBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(methods.METHODS, "bitfit", Method(MethodSection, verbatim("BitFit"), "", (1, 2)))
    found = advice(bases["sd1"], found=evidence.measured(embedded=False))
    assert "bitfit" not in [option.method for option in found.options]
    (said,) = [one.why for one in found.not_offered if one.method == "bitfit"]
    assert said.text.startswith("Nobody has measured it")


def test_a_method_that_is_advised_has_a_size(bases: dict[str, KnownBase]) -> None:
    assert all(methods.METHODS[name].outline is not None for name in METHODS)
    assert {guidance.place for guidance in evidence.GUIDANCE.values()} == {*range(1, len(METHODS) + 1)}


def test_combinations_are_praised_only_where_they_won(bases: dict[str, KnownBase]) -> None:
    won = CombinedResults("character LoRA + style LoRA", Interval(4, 2, 6))
    lost = CombinedResults("character LoRA + object LoRA", Interval(-4, -6, -2))
    told = advice(bases["embedded"], found=Measurements(MEASURED.cells, (won, lost))).combine
    assert [one.text.partition(" ")[0] for one in told] == ["Combine", "Together,"] and "worse" in told[1].text


def test_rules_of_thumb_hold_where_the_numbers_agree(bases: dict[str, KnownBase]) -> None:
    agree = advice(bases["embedded"], "style", found=table(lora=5, textual_inversion=60, dreambooth=5, hypernetwork=5))
    differ = advice(bases["embedded"], "style", found=MEASURED)
    assert ": held" in agree.folklore[0].text and "did not hold" in differ.folklore[0].text


def test_what_ships_is_what_the_bench_writes() -> None:
    tables = json.loads((Path(rules.__file__).parent / "evidence.json").read_text(encoding="utf-8"))
    own, others = evidence.measured(embedded=True), evidence.measured(embedded=False)
    assert len(own.cells) == len(tables["cells"]) and len(others.cells) == len(tables["cells_without_convolutions"])
    for one in (*own.cells, *others.cells):
        assert one.gain.low <= one.gain.mean <= one.gain.high and one.bytes > 0
        assert one.goal in GOALS
    # What a recipe for another base has no convolutions for was measured without them, and writes smaller files.
    for goal in GOALS:
        assert others.row(goal, 16)["lora"].bytes < own.row(goal, 16)["lora"].bytes


def test_thrift_takes_less_memory(bases: dict[str, KnownBase]) -> None:
    base = bases["sd1"]
    step = estimate.step_of(base)

    def need(recipe: Recipe, pictures: int = 20) -> float:
        return estimate.memory_gib(base, recipe, GPU, step)

    for method in METHODS:
        candidate = recipes.MethodSize(method)
        subject = Subject("object", "pictures", 6, "sd1", trigger="zoka")
        needs = [need(recipes.recipe_of(subject, candidate, way), 6) for way in recipes.ways(candidate, embedded=False)]
        assert needs[0] == max(needs) and min(needs[-2:]) == min(needs)
        every = [recipes.recipe_of(subject, candidate, way).train for way in recipes.ways(candidate, embedded=False)]
        assert {train.batch_size * train.accumulate for train in every} == {4}


def test_estimates_scale_with_the_work(bases: dict[str, KnownBase]) -> None:
    base = bases["sd1"]
    step = estimate.step_of(base)

    def of(settings: dict[str, object], pictures: int = 20) -> Cost:
        return estimate.estimate(base, config.build(config.override({}, settings)), GPU, pictures, step)

    one, two = of({"train.steps": 100}), of({"train.steps": 200})
    assert one.seconds and two.seconds == pytest.approx(2 * one.seconds)
    # Without some images and then with all; for `safe` and `likeness` at most as long again.
    plain = of({"train.steps": 100, "guard.mode": "off"})
    assert plain.seconds is not None and one.seconds == pytest.approx(WHOLE * plain.seconds)
    assert of({"train.steps": 100, "guard.range": True}).trainings == WHOLE + 2
    # Each of three left out in turn, all of them up to half of the best step, and from there the result.
    assert of({"train.steps": 100}, 3).trainings == 3 + 1.5
    assert of({"train.steps": 100}, 4).trainings == WHOLE
    assert of({"train.gradient_checkpointing": True, "train.steps": 100}).seconds > one.seconds
