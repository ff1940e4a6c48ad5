"""The embedded world: a pure function of its seed, with a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from tsuika.embedded.things import KNOWN, NEW
from tsuika.embedded.world import (
    BACKGROUNDS,
    PLAIN,
    SCENES,
    Picture,
    Placed,
    World,
    draw,
    draw_background,
    glyph,
    thing_mask,
)


def test_the_same_seed_draws_the_same_picture_and_another_seed_another() -> None:
    world = World()
    first, again, other = (world.picture(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert np.array_equal(draw(first), draw(again)) and not np.array_equal(draw(first), draw(other))


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_a_picture_differs_from_its_background_only_under_the_mask(background: str) -> None:
    picture = Picture(background, (Placed("penguin", 0.5, 0.4, 0.55, 7),), 3)
    changed = (draw(picture) != draw_background(background, 3)).any(axis=2)
    mask = thing_mask(picture)
    assert not changed[mask == 0].any()
    assert changed[mask == 1].mean() > 0.9
    assert mask.min() >= 0 and mask.max() <= 1


def test_every_thing_has_a_glyph_of_its_own_name() -> None:
    things = (*KNOWN, *NEW)
    assert len(KNOWN) >= 64 and len(NEW) >= 30
    assert len({thing.name for thing in things}) == len(things)
    assert all(np.asarray(glyph(thing.name))[..., 3].any() for thing in things)
    words = [word for thing in KNOWN for word in thing.words]
    assert len({*words}) == len(words)
    pixels = {np.asarray(glyph(thing.name)).tobytes() for thing in things}
    assert len(pixels) == len(things)


def test_captions_name_what_is_there() -> None:
    world, rng = World(), np.random.default_rng(5)
    for _ in range(200):
        picture = world.picture(rng)
        caption = world.caption(picture, rng)
        words = [next(thing for thing in KNOWN if thing.name == placed.thing) for placed in picture.things]
        assert all(any(word in caption for word in (*thing.words, thing.kind)) for thing in words)
        grounds = SCENES.get(picture.background, (picture.background,))
        named = any(ground.removeprefix("on ") in caption or ground in caption for ground in grounds)
        assert named or caption.count(" ") <= 8  # a few captions leave the background out


def test_things_stay_inside_the_frame_and_backgrounds_come_evenly() -> None:
    world, rng = World(), np.random.default_rng(6)
    pictures = [world.picture(rng) for _ in range(2000)]
    for picture in pictures:
        for placed in picture.things:
            assert 0.15 < placed.x < 0.85 and 0.3 < placed.y < 0.75 and 0.3 < placed.size < 1
    plain = sum(picture.background in PLAIN for picture in pictures) / len(pictures)
    assert abs(plain - 0.5) < 0.05


def test_an_unknown_background_or_thing_is_an_error() -> None:
    with pytest.raises(KeyError):
        draw_background("moon", 0)
    with pytest.raises(KeyError):
        glyph("no such thing")
