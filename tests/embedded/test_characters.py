import itertools

import numpy as np
import pytest

from base import characters
from tsuika.embedded import hands, world
from tsuika.embedded.things import KNOWN, NEW

EVERY = [(trigger, pose) for trigger in characters.CHARACTERS for pose in characters.POSES]


@pytest.mark.parametrize(("trigger", "pose"), EVERY)
def test_a_glyph_fills_its_cell_without_being_cut_off(trigger: str, pose: str) -> None:
    alpha = np.asarray(characters.glyph(trigger, pose))[..., 3]
    assert alpha.shape == (hands.GLYPH_PX, hands.GLYPH_PX)
    assert max(alpha[0].max(), alpha[-1].max(), alpha[:, 0].max(), alpha[:, -1].max()) < 128
    assert (alpha > 128).any(axis=1).mean() > 0.85


def test_every_two_look_different_and_their_sides_differ() -> None:
    drawn = {key: np.asarray(characters.glyph(*key).resize((32, 32)), float) for key in EVERY}
    for one, other in itertools.combinations(drawn.values(), 2):
        assert np.abs(one - other).mean() > 2
    for one in drawn.values():
        assert np.abs(one - one[:, ::-1]).mean() > 10


@pytest.mark.parametrize("trigger", characters.CHARACTERS)
def test_pictures_follow_from_their_seed_and_held_out_ones_are_others(trigger: str) -> None:
    assert not any(trigger in thing.words for thing in (*KNOWN, *NEW))
    first, again, other = characters.pictures(trigger, 4), characters.pictures(trigger, 4), characters.held_out(trigger)
    assert all(np.array_equal(a.pixels, b.pixels) and trigger in a.caption for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a.pixels, b.pixels) for a, b in itertools.product(first, other))
    assert {one.background for one in other} == set(world.BACKGROUNDS)
    assert {one.background for one in first} <= set(characters.TRAINED_BACKGROUNDS)
