import itertools

import numpy as np
import pytest

from base import hands as makers
from base import scenes, sources
from tsuika.embedded import hands, world


def test_every_hand_draws_every_thing_in_its_own_way() -> None:
    known, new = hands.known_things(), hands.new_things()
    assert known == scenes.NAMES and len(new) == len(makers.UNSEEN_THINGS) and not set(known) & set(new)
    assert {hand.name for hand in hands.HANDS} == {hand.name for hand in (*sources.HANDS, sources.UNSEEN_HAND)}
    assert sources.UNSEEN_HAND.name == hands.UNSEEN
    for thing in (*known, *new):
        drawn = [np.asarray(hands.glyph(hand.name, thing)) for hand in hands.HANDS]
        for cell in drawn:
            assert cell.shape == (hands.GLYPH_PX, hands.GLYPH_PX, 4)
            assert (cell[..., 3] > 128).mean() > 0.08
        for one, other in itertools.combinations(drawn, 2):
            assert np.abs(one.astype(float) - other).mean() > 2, thing


def test_a_picture_of_the_world_takes_a_hand() -> None:
    picture = world.Picture("snow", (world.Placed("cat", 0.7),), 1)
    drawn = [world.draw(picture, source=hands.source(hand.name)) for hand in hands.HANDS]
    assert len({pixels.tobytes() for pixels in drawn}) == len(hands.HANDS)


@pytest.mark.parametrize(("hand", "thing"), [("nobody", "cat"), ("flat", "no such thing")])
def test_an_unknown_hand_or_thing_is_an_error(hand: str, thing: str) -> None:
    with pytest.raises(KeyError):
        hands.glyph(hand, thing)
