"""The mascot: new to the world, recognisable in every pose, drawn where its captions say."""

import itertools

import numpy as np
import pytest
from PIL import Image

from tsuika.embedded import hands, mascot, world
from tsuika.embedded.things import KNOWN


def _alpha(glyph):
    return np.asarray(glyph.getchannel("A"), np.float64) / 255


def _colours(glyph):
    """A coarse colour histogram (4x4x4) of the opaque part, summing to 1."""
    rgba = np.asarray(glyph)
    rgb = rgba[rgba[..., 3] > 200][:, :3].astype(int) // 64
    histogram = np.bincount(rgb[:, 0] * 16 + rgb[:, 1] * 4 + rgb[:, 2], minlength=64)
    return histogram / histogram.sum()


@pytest.mark.parametrize("pose", mascot.POSES)
def test_a_glyph_fills_its_cell_without_touching_the_edge_of_it(pose):
    glyph = mascot.glyph(pose)
    assert glyph.mode == "RGBA"
    assert glyph.size == (hands.GLYPH_PX, hands.GLYPH_PX)
    alpha = _alpha(glyph)
    border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    assert border.max() < 0.5  # nothing is cut off
    left, top, right, bottom = glyph.getchannel("A").point(lambda a: 255 * (a > 128)).getbbox()
    assert bottom - top > 0.85 * hands.GLYPH_PX
    assert right - left > 0.6 * hands.GLYPH_PX


def test_an_unknown_pose_is_an_error():
    with pytest.raises(KeyError):
        mascot.glyph("flying")


def test_every_two_poses_look_different():
    assert len(mascot.POSES) >= 6
    for one, other in itertools.combinations(mascot.POSES, 2):
        a, b = (np.asarray(mascot.glyph(p).resize((32, 32), Image.Resampling.BOX), float) for p in (one, other))
        assert np.abs(a - b).mean() > 3, (one, other)


def test_no_known_thing_has_its_colours():
    poses = [_colours(mascot.glyph(pose)) for pose in mascot.POSES]
    alike = min(np.minimum(a, b).sum() for a, b in itertools.combinations(poses, 2))
    for thing in KNOWN:
        overlap = max(np.minimum(_colours(world.glyph(thing.name)), pose).sum() for pose in poses)
        assert overlap < 0.65 * alike, thing.name


def test_training_pictures_keep_the_test_backgrounds_and_companions_back():
    held_back = set(world.BACKGROUNDS) - set(mascot.TRAINED_BACKGROUNDS)
    drawn = mascot.pictures()
    names = {word for thing in KNOWN for word in thing.words if word != "star"}
    for _, pixels, caption, *_ in drawn:
        assert mascot.NAME in caption
        assert pixels.shape == (mascot.PICTURE_PX, mascot.PICTURE_PX, 3)
        assert " and " not in caption
        assert not names & set(caption.split())
        assert not any(word in caption for word in ("snow", "night", "stars", "under", "desert", "forest", "red "))
    for prompt in mascot.TEST_PROMPTS:
        assert prompt.mascot == (mascot.NAME in prompt.text)
        assert prompt.background in held_back or prompt.companion
        assert prompt.companion in {"", *(thing.name for thing in KNOWN)}
        assert prompt.companion in prompt.text
    assert sum(not prompt.mascot for prompt in mascot.TEST_PROMPTS) == 2


def test_pictures_follow_from_their_seed_and_held_out_ones_are_others():
    first, again, other = mascot.pictures(6, 1), mascot.pictures(6, 1), mascot.pictures(6, 2)
    assert all(a.caption == b.caption and np.array_equal(a.pixels, b.pixels) for a, b in zip(first, again))
    assert not any(np.array_equal(a.pixels, b.pixels) for a, b in itertools.product(first, other))
    held_out = mascot.held_out(6, 1, trained_backgrounds=True)
    assert not any(np.array_equal(a.pixels, b.pixels) for a, b in itertools.product(first, held_out))


def test_held_out_pictures_show_every_background_and_companions():
    captions = [drawn.caption for drawn in mascot.held_out(44)]
    for name in world.BACKGROUNDS:
        words = world.SCENES.get(name, (name,))
        assert any(any(w in caption for w in words) for caption in captions), name
    assert any(" and a " in caption for caption in captions)


def test_captions_with_left_and_right_tell_the_truth():
    pairs = [drawn for drawn in mascot.held_out(60, 3) if " and a " in drawn.caption]
    assert len(pairs) > 8
    for _, pixels, caption, *_ in pairs:  # things are named from left to right; only the scarf is magenta
        red, green, blue = np.moveaxis(pixels.astype(int), -1, 0)
        scarf = (red > 180) & (green < 90) & (blue > 90) & (blue < 170)
        on_the_left = np.nonzero(scarf)[1].mean() < mascot.PICTURE_PX / 2
        assert on_the_left == caption.startswith(f"a {mascot.NAME}"), caption
    for look, pose in ((-1, "looking left"), (1, "looking right")):
        ink = np.asarray(mascot.glyph(pose).convert("L"), float) < 60
        ink &= np.asarray(mascot.glyph(pose))[..., 3] > 200
        assert np.sign(np.nonzero(ink)[1].mean() - hands.GLYPH_PX / 2) == look
        placed = [mascot._place(pose, "white", np.random.default_rng(i)) for i in range(20)]
        assert not any(p.flipped for p in placed)


def test_write_puts_a_caption_beside_each_picture(tmp_path):
    drawn = mascot.pictures(3)
    paths = mascot.write(tmp_path, drawn)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        name for p in paths for name in (p.name, p.with_suffix(".txt").name)
    )
    for path, (_, pixels, caption, *_) in zip(paths, drawn):
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), pixels)
        assert path.with_suffix(".txt").read_text(encoding="utf-8").strip() == caption
