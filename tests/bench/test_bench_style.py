import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest

from tsuika.embedded import sketch, world

_SPEC = importlib.util.spec_from_file_location(
    "style_distance", Path(__file__).parents[2] / "bench" / "style_distance.py"
)
style = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(style)


@pytest.fixture(scope="module")
def sets():
    scenes, others = sketch.scenes(24, 1, sketch.HELD_OUT), sketch.scenes(24, 2, sketch.HELD_OUT)
    return (
        [world.draw(scene) for scene in scenes],
        [sketch.stylise(scene, world.SIZE_PX) for scene in scenes],
        [sketch.stylise(scene, world.SIZE_PX) for scene in others],
    )


def test_distance_is_zero_for_the_same_pictures_in_any_order_and_symmetric(sets):
    plain, printed, _ = sets
    assert style.distance(printed, printed[::-1]) == pytest.approx(0, abs=1e-4)
    assert style.distance(plain, printed) == pytest.approx(style.distance(printed, plain))


def test_other_pictures_in_the_style_are_nearer_than_the_same_pictures_without_it(sets):
    plain, printed, other = sets
    assert style.distance(other, printed) < style.distance(plain, printed) / 3
    half = len(plain) // 2  # things hardly count: two halves of one kind are nearer than the two kinds
    assert style.distance(plain[:half], plain[half:]) < style.distance(plain[:half], printed[half:])


def test_distance_falls_steadily_on_the_way_into_the_style(sets):
    plain, printed, _ = sets
    way = [
        style.distance([((1 - t) * a + t * b).astype(np.uint8) for a, b in zip(plain, printed)], printed)
        for t in (0, 0.25, 0.5, 0.75, 1)
    ]
    assert all(near < far for far, near in itertools.pairwise(way))


def test_a_plain_shift_of_all_colours_is_seen_and_so_are_blurred_contours(sets):
    printed = sets[1]
    darker = [(picture * 0.8).astype(np.uint8) for picture in printed]
    shuffled = [np.random.default_rng(0).permutation(p.reshape(-1, 3)).reshape(p.shape) for p in printed]
    assert style.distance(darker, printed) > 2
    assert style.distance(shuffled, printed) > 2  # every colour is there, no contour is
    with pytest.raises(ValueError, match="picture"):
        style.distance([], printed)
