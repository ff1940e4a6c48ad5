"""Buckets and augmentation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tsuika.core.errors import RecipeError
from tsuika.core.sections import Data
from tsuika.data.augment import LUMA, Transform, recolour, render, variants
from tsuika.data.bucket import assign, enlarged, nearest, sizes
from tsuika.data.manifest import Manifest, Sample


def sample(width: int, height: int, name: str = "x", **rest: object) -> Sample:
    return Sample(Path(name), name, "", width, height, 1, rest.get("sha256", name))  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "step", "aspect"), [(512, 64, 2.0), (1024, 64, 3.0), (64, 16, 2.0), (96, 8, 4.0)])
def test_sizes(size: int, step: int, aspect: float) -> None:
    found = sizes(size, step, aspect)
    assert (size, size) in found and len(set(found)) == len(found)
    for width, height in found:
        assert width % step == height % step == 0
        assert width * height <= size * size
        assert max(width / height, height / width) <= aspect
        assert (height, width) in found
        # no taller one fits: the area is used
        assert (width * (height + step) > size * size) or ((width + step) * height > size * size)
    assert sizes(size, step, 1.0) == ((size, size),)


def test_size_must_suit_the_model() -> None:
    for size in (500, 32, 0):
        with pytest.raises(RecipeError) as caught:
            sizes(size, 64)
        assert caught.value.code == "RC002"


def test_every_picture_is_in_its_nearest_bucket() -> None:
    random = np.random.default_rng(0)
    pictures = tuple(sample(*map(int, random.integers(50, 3000, 2)), name=f"{i}") for i in range(200))
    buckets = assign(Manifest(pictures), size_px=512, step_px=64)
    assert sorted(p.name for b in buckets for p in b.samples) == sorted(p.name for p in pictures)
    choices = sizes(512, 64)
    for bucket in buckets:
        for picture in bucket.samples:
            aspect = math.log(picture.width / picture.height)
            best = min(abs(math.log(w / h) - aspect) for w, h in choices)
            assert abs(math.log(bucket.width / bucket.height) - aspect) == pytest.approx(best)
    (square,) = assign(Manifest(pictures), size_px=512, step_px=64, buckets=False)
    assert square.size == (512, 512) and len(square.samples) == 200
    assert nearest(100, 100, choices) == (512, 512)


def test_enlarged() -> None:
    buckets = assign(Manifest((sample(512, 512, "a"), sample(256, 300, "b"))), size_px=512, step_px=64)
    ((name, factor),) = enlarged(buckets).items()
    assert name == "b" and factor > 1.5
    assert enlarged(buckets, crop=0.8).keys() == {"a", "b"}


def ramp(width: int, height: int) -> Image.Image:
    """Red tells x, green tells y."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.dstack([x, y, np.full_like(x, 128)]).round().astype(np.uint8))


def test_plain_covers_and_centres() -> None:
    found = render(ramp(200, 100), Transform(), (32, 32))
    assert found.shape == (3, 32, 32) and found.dtype == torch.float32
    assert found.abs().max() <= 1
    red = (found[0] + 1) * 127.5
    expected = np.interp(50 + (np.arange(32) + 0.5) * 100 / 32 - 0.5, np.arange(200), np.linspace(0, 255, 200))
    assert np.abs(red.mean(0).numpy() - expected)[1:-1].max() < 2
    green = (found[1] + 1) * 127.5
    assert green.min() < 4 and green.max() > 251  # nothing cut above and below
    white, black = Image.new("RGB", (9, 9), "white"), Image.new("RGB", (9, 9))
    assert (render(white, Transform(), (4, 4)) == 1).all() and (render(black, Transform(), (4, 4)) == -1).all()
    same = ramp(16, 24)
    assert torch.equal(render(same, Transform(), (16, 24)).permute(1, 2, 0), torch.tensor(np.array(same)) / 127.5 - 1)


def test_flip_is_the_exact_mirror() -> None:
    image = ramp(70, 50)
    mirrored = render(image, Transform(flip=True), (32, 24))
    assert torch.equal(mirrored, render(image, Transform(), (32, 24)).flip(-1))


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0)])
def test_crop_shows_the_said_part(x: float, y: float) -> None:
    found = (render(ramp(256, 256), Transform(scale=0.5, x=x, y=y), (64, 64)) + 1) / 2
    assert found[0].mean().item() == pytest.approx(0.25 + 0.5 * x, abs=0.01)
    assert found[1].mean().item() == pytest.approx(0.25 + 0.5 * y, abs=0.01)
    assert (found[0].max() - found[0].min()).item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("angle", [-45.0, -7.0, 0.01, 3.0, 45.0])
@pytest.mark.parametrize("size", [(64, 64), (300, 80), (700, 900), (90, 400)])
def test_rotation_never_shows_a_corner(angle: float, size: tuple[int, int]) -> None:
    white = Image.new("RGB", size, "white")
    for x, y, scale in ((0.5, 0.5, 1.0), (0.0, 1.0, 0.8), (1.0, 0.0, 0.5)):
        found = render(white, Transform(angle_deg=angle, x=x, y=y, scale=scale), (48, 32))
        assert found.shape == (3, 32, 48) and (found == 1).all()


def test_rotation_turns_counterclockwise_by_the_angle() -> None:
    for side in (200, 400):
        found = (render(ramp(side, side), Transform(angle_deg=20), (64, 64)) + 1) / 2
        red = found[0].numpy()
        gy, gx = np.gradient(red[8:-8, 8:-8])
        # Red rises to the right; turned by 20° counterclockwise it rises to the right and up.
        assert math.degrees(math.atan2(-gy.mean(), gx.mean())) == pytest.approx(20, abs=1)
        assert found[:2].mean().item() == pytest.approx(0.5, abs=0.01)


def test_colour() -> None:
    pixels = np.random.default_rng(0).uniform(0.3, 0.6, (6, 5, 3)).astype(np.float32)
    luma = pixels @ LUMA
    assert np.allclose(recolour(pixels, Transform(brightness=1.2)), pixels * 1.2, atol=1e-6)
    assert np.allclose(recolour(pixels, Transform(contrast=0.5)), (pixels + luma.mean()) / 2, atol=1e-6)
    grey = recolour(pixels, Transform(saturation=0))
    assert np.allclose(grey, luma[..., None], atol=1e-6)
    assert np.allclose(recolour(pixels, Transform()), pixels, atol=1e-6)
    assert recolour(pixels, Transform(brightness=9)).max() == 1
    image = Image.fromarray((pixels * 255).astype(np.uint8))
    assert render(image, Transform(brightness=1.5), (5, 6)).mean() > render(image, Transform(), (5, 6)).mean()


FULL = Data(flip=True, crop=0.7, rotate_deg=10, colour=0.2, variants=16)


def test_variants_are_a_function_of_seed_and_picture() -> None:
    a, b = sample(64, 64, sha256="aa"), sample(64, 64, sha256="bb")
    assert variants(a, FULL, 1) == variants(a, FULL, 1)
    assert variants(a, FULL, 1)[1:] != variants(a, FULL, 2)[1:]
    assert variants(a, FULL, 1)[1:] != variants(b, FULL, 1)[1:]
    drawn = variants(a, FULL, 1)
    assert len(set(drawn)) == 16 and drawn[0] == Transform()
    assert sum(item.flip for item in drawn) == 8
    assert variants(a, FULL.model_copy(update={"variants": 4}), 1) == drawn[:4]
    for item in drawn:
        assert 0.7 <= item.scale <= 1 and abs(item.angle_deg) <= 10 and 0 <= item.x <= 1
        assert all(0.8 <= value <= 1.2 for value in (item.brightness, item.contrast, item.saturation))


def test_settings_do_not_move_each_other() -> None:
    a = sample(64, 64, sha256="aa")
    without = variants(a, FULL.model_copy(update={"colour": 0.0}), 1)
    for one, other in zip(variants(a, FULL, 1), without, strict=True):
        assert (one.scale, one.x, one.y, one.angle_deg) == (other.scale, other.x, other.y, other.angle_deg)


def test_nothing_to_vary_needs_no_variants() -> None:
    a = sample(64, 64)
    assert variants(a, Data(), 0) == (Transform(),)
    assert variants(a, Data(flip=True), 0) == (Transform(), Transform(flip=True))
    assert variants(a, Data(flip=True, variants=1), 0) == (Transform(),)
