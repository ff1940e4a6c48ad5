"""Axes: values as people write them, and what they make of a drawing."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from tsuika.core.errors import RecipeError
from tsuika.generation.axes import KINDS, MOST_CELLS, Axis, order, parse_axis, spread
from tsuika.generation.drawing import Drawing

DRAWING = Drawing("a cat on a red mat", negative="a red dog")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seed=1,2, 7", (1, 2, 7)),
        ("seed=1-5", (1, 2, 3, 4, 5)),
        ("seed=5-3", (5, 4, 3)),
        ("seed=1-10 (+3)", (1, 4, 7, 10)),
        ("seed=10-1(-3)", (10, 7, 4, 1)),
        ("seed=1-10 [4]", (1, 4, 7, 10)),
        ("seed=-1,3-4", (-1, 3, 4)),
        ("strength=0-1 (+0.25)", (0.0, 0.25, 0.5, 0.75, 1.0)),
        ("strength=0-0.3(+.1)", (0.0, 0.1, 0.2, 0.3)),  # not 0.30000000000000004
        ("strength=0-1 [3]", (0.0, 0.5, 1.0)),
        ("cfg=1-1 [1]", (1.0,)),
        ("cfg = 7, 3.5", (7.0, 3.5)),
        ("steps=4, 8-9", (4, 8, 9)),
        ('prompt=cat, "dog, small", "say ""hi"""', ("cat", "dog, small", 'say "hi"')),
        ("prompt=red,", ("red", "")),
        ("sampler=Euler a, DPM++ 2M Karras", ("Euler a", "DPM++ 2M Karras")),
        ("artifact=none,a=b-1.safetensors:0.5", ("none", "a=b-1.safetensors:0.5")),
    ],
)
def test_values(text: str, values: tuple[object, ...]) -> None:
    assert parse_axis(text).values == values
    assert [type(value) for value in parse_axis(text).values] == [type(value) for value in values]


@pytest.mark.parametrize(
    "text",
    [
        "seed",
        "seed=",
        "seed=,",
        "seed=1.5",
        "seed=x",
        "cfg=1-2 [0]",
        "cfg=0-1 (+0)",
        "seed=1-9999999",
        "sed=1",
        "cfg:a=1",
        "=1",
        "strength=a-b",
    ],
)
def test_what_cannot_be_is_said(text: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse_axis(text)
    assert error.value.code == "RC002"


def test_the_nearest_axis_is_named() -> None:
    with pytest.raises(RecipeError, match="Did you mean strength"):
        parse_axis("strenght=1")


def test_what_a_value_makes_of_a_drawing() -> None:
    def put(text: str, number: int) -> Drawing:
        return parse_axis(text).put(number, DRAWING)

    assert put("seed=1,5", 1).seed == 5
    assert put("cfg=2", 0).cfg == 2.0
    assert put("steps=2,9", 1).steps == 9
    assert put("size=64x32", 0).size == "64x32"
    assert put("strength=0.5", 0).strengths == (("", 0.5),)
    assert put("strength:m=0.5", 0).strengths == (("m", 0.5),)
    assert put("artifact=none,f.pt:0.5", 0) == DRAWING
    assert put("artifact=none,f.pt:0.5", 1).artifact == ("f.pt:0.5",)
    assert put("prompt=red,blue", 0) == DRAWING
    assert put("prompt=red,blue", 1) == Drawing("a cat on a blue mat", negative="a blue dog")
    with pytest.raises(RecipeError, match="green"):
        put("prompt=green,blue", 1)


def test_steps_of_a_training_are_the_files_beside_it(tmp_path: Path) -> None:
    for name in ("m.pt", "m-000100.pt", "m-000020.pt"):
        (tmp_path / name).touch()
    drawing = Drawing("x", embedding=(f"{tmp_path / 'm.pt'}:0.5",))
    axis = spread(parse_axis("step=all"), drawing)
    assert axis.values == ("20", "100", "last")
    assert axis.put(1, drawing).embedding == (f"{tmp_path / 'm-000100.pt'}:0.5",)
    strong = Drawing("x", embedding=(str(tmp_path / "m.pt"),), strengths=(("m", 0.2), ("", 0.3), ("other", 0.4)))
    assert axis.put(0, strong).strengths == (("m-000020", 0.2), ("", 0.3), ("other", 0.4))
    with pytest.raises(RecipeError, match="20, 100, last"):
        parse_axis("step=7").put(0, drawing)
    with pytest.raises(RecipeError, match="one artifact"):
        parse_axis("step=7").put(0, DRAWING)


def test_labels() -> None:
    assert parse_axis("strength=0,0.50").labels == ("strength 0", "strength 0.5")
    assert parse_axis("strength:犬=1").labels == ("犬 strength 1",)
    assert parse_axis("artifact=none,a/x.pt,b/y.pt").labels == ("none", "x", "y")
    assert parse_axis("artifact=a/x.pt,b/x.pt").labels == ("a/x.pt", "b/x.pt")
    assert parse_axis("prompt=cat,ついか犬").labels == ("cat", "ついか犬")


def changes(places: list[tuple[int, ...]], axis: int) -> int:
    return sum(one[axis] != two[axis] for one, two in pairwise(places))


def test_the_expensive_axis_changes_least_wherever_it_stands() -> None:
    axes = [parse_axis(text) for text in ("strength=0,1", "base=a,b,c", "seed=1,2,3,4")]
    for turn in range(3):
        turned = axes[turn:] + axes[:turn]
        places = order(turned)
        assert sorted(places) == sorted(set(places))
        assert len(places) == 24
        by_name = {axis.name: changes(places, number) for number, axis in enumerate(turned)}
        assert by_name == {"base": 2, "strength": 5, "seed": 23}


def test_cheap_axes_are_drawn_row_by_row() -> None:
    assert order([parse_axis("seed=1,2"), parse_axis("cfg=1,2")]) == [(0, 0), (1, 0), (0, 1), (1, 1)]


def test_a_prompt_that_names_artifacts_costs_like_them() -> None:
    assert parse_axis("prompt=<lora:a:1>,<lora:b:1>").cost == KINDS["artifact"].cost > parse_axis("prompt=a,b").cost


def test_too_many_cells() -> None:
    many = Axis("seed", tuple(range(MOST_CELLS)))
    assert len(order([many])) == MOST_CELLS
    with pytest.raises(RecipeError):
        order([many, Axis("cfg", (1.0, 2.0))])
