import numpy as np

from tsuika.embedded import gadget, world, yardstick
from tsuika.embedded.things import KNOWN, NEW


def test_doll_is_none_of_the_things_and_clearly_itself():
    assert not any(gadget.TRIGGER in thing.words for thing in (*KNOWN, *NEW))
    mine = [drawn.pixels for drawn in gadget.held_out(22)]
    training = [drawn.pixels for drawn in gadget.pictures()]
    likeness = yardstick.likeness(mine, training)
    for thing in KNOWN:
        scene = world.Picture("white", (world.Placed(thing.name, 0.7),), 0)
        assert float(yardstick.likeness([world.draw(scene)], training)[0]) < float(likeness.mean()), thing.name


def test_training_pictures_are_five_on_different_backgrounds_and_prompts_use_others():
    drawn = gadget.pictures()
    assert len(drawn) == 5
    assert len({d.background for d in drawn}) == 5
    assert {d.background for d in gadget.held_out()} == set(world.BACKGROUNDS)
    for prompt in gadget.TEST_PROMPTS:
        assert prompt.background not in gadget.TRAINED_BACKGROUNDS
        assert (gadget.TRIGGER in prompt.text) == (not prompt.thing)
        assert prompt.thing in {"", *(thing.name for thing in KNOWN)}
        assert prompt.thing in prompt.text


def test_pictures_follow_from_their_seed_and_held_out_ones_are_others():
    first, again, other = gadget.pictures(5, 1), gadget.pictures(5, 1), gadget.held_out(5, 1)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first, again))
    assert not any(np.array_equal(a.pixels, b.pixels) for a, b in zip(first, other))
