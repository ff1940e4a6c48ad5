import numpy as np
import pytest

from tsuika.embedded import sketch, world, yardstick
from tsuika.embedded.things import KNOWN
from tsuika.embedded.world import Picture, Placed


def test_held_out_things_are_in_no_training_picture_and_of_every_kind():
    held_out = {thing.name for thing in sketch.HELD_OUT}
    assert len(held_out) == 20
    assert {thing.kind for thing in sketch.HELD_OUT} == {thing.kind for thing in KNOWN}
    scenes = sketch.scenes(300, 0, sketch.TRAINED)
    shown = {placed.thing for scene in scenes for placed in scene.things}
    assert shown == {thing.name for thing in sketch.TRAINED}
    assert not shown & held_out
    assert {scene.background for scene in scenes} == set(world.BACKGROUNDS)


def test_style_follows_from_the_picture_and_leaves_places_as_they_are():
    scene = Picture("snow", (Placed("panda", 0.7, 0.4, 0.55, 5.0, True),), 3)
    first = sketch.stylise(scene)
    assert np.array_equal(first, sketch.stylise(scene))
    mask = world.thing_mask(scene, sketch.PICTURE_PX) > 0.5
    # The outline's dark ink lies within a few pixels of the mask's edge, on every side of the thing.
    ink = (first.astype(int).sum(-1) < 260) & ~mask
    rows, columns = np.nonzero(ink)
    inside_rows, inside_columns = np.nonzero(mask)
    for line, inside in ((rows, inside_rows), (columns, inside_columns)):
        assert inside.min() - 4 <= line.min() <= inside.min()
        assert inside.max() <= line.max() <= inside.max() + 4


@pytest.mark.parametrize("background", world.BACKGROUNDS)
def test_every_colour_is_a_mixture_of_paper_and_inks(background):
    scene = Picture(background, (Placed("pineapple", 0.6),), 7)
    colours = sketch.stylise(scene).reshape(-1, 3).astype(float)
    # Without negative parts (a simplex), up to rounding.
    corners = np.array([sketch.PAPER, sketch.INDIGO, sketch.BLUE, sketch.VERMILION], float)
    low, high = corners.min(0) - 1, corners.max(0) + 1
    assert (colours >= low).all()
    assert (colours <= high).all()
    # No green and no yellow: nothing is greener than paper and the blue ink allow.
    assert (colours[:, 1] <= np.maximum(colours[:, 0], colours[:, 2]) + 1).all()


def test_things_in_the_style_are_still_recognised():
    scenes = sketch.scenes(60, 1, sketch.HELD_OUT)
    printed = [sketch.stylise(scene, world.SIZE_PX) for scene in scenes]
    names = [scene.things[0].thing for scene in scenes]
    mine = [float(yardstick.thing_scores([p], n)[0]) for p, n in zip(printed, names)]
    others = [float(yardstick.thing_scores([p], n)[0]) for p, n in zip(printed, names[1:] + names[:1])]
    # Three standard errors of a coin above it.
    assert np.mean(np.array(mine) > np.array(others)) > 0.5 + 3 * (0.25 / len(mine)) ** 0.5


def test_captions_name_thing_and_place():
    for drawn, scene in zip(sketch.pictures(3), sketch.scenes(3, 0, sketch.TRAINED)):
        assert drawn.caption == sketch.caption(scene)
        assert scene.things[0].thing in drawn.caption
        assert drawn.pixels.shape == (sketch.PICTURE_PX, sketch.PICTURE_PX, 3)
