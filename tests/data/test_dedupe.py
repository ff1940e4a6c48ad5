"""Copies are found however they were made, different pictures are not joined, and the split never leaks."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tsuika.core.events import drained
from tsuika.data.dedupe import BATCH, Thumbnail, Windows, groups, join, pair_events
from tsuika.data.manifest import Manifest, Sample
from tsuika.data.split import Split, split
from tsuika.embedded import world

Change = Callable[[Image.Image, random.Random], Image.Image]


def scene(seed: int, size: tuple[int, int] = (220, 180)) -> Image.Image:
    """Photo-like: smooth shading, soft shapes of all sizes, texture; hardly a pixel is clipped."""
    rng = np.random.default_rng(seed)
    width, height = size
    pixels = np.zeros((height, width, 3))
    for cells in (2, 3, 5, 9, 17, 40):
        layer = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        pixels += (np.asarray(layer, np.float64) - 127) / cells**0.7
    return Image.fromarray(np.clip(pixels * 0.5 + 110, 0, 255).astype(np.uint8))


def crop(area: float) -> Change:
    def cut(image: Image.Image, draw: random.Random) -> Image.Image:
        aspect = draw.uniform(max(area, 0.8), min(1 / area, 1.25)) ** 0.5
        w, h = min(1.0, area**0.5 * aspect), min(1.0, area**0.5 / aspect)
        x, y = draw.uniform(0, 1 - w), draw.uniform(0, 1 - h)
        width, height = image.size
        return image.crop((round(x * width), round(y * height), round((x + w) * width), round((y + h) * height)))

    return cut


def jpeg(image: Image.Image, _: random.Random) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=40)
    return Image.open(stream).convert("RGB")


def mirror(image: Image.Image, _: random.Random) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


CHANGES: dict[str, Change] = {
    "exact": lambda image, _: image.copy(),
    "jpeg": jpeg,
    "smaller": lambda image, _: image.resize((image.width // 2, image.height // 2)),
    "squashed": lambda image, _: image.resize((image.width, image.height * 17 // 20)),
    "mirrored": mirror,
    "crop 80 %": crop(0.8),
    "crop 60 %": crop(0.6),
    "crop 60 % mirrored": lambda image, draw: mirror(crop(0.6)(image, draw), draw),
    "brighter": lambda image, _: ImageEnhance.Brightness(image).enhance(1.3),
    "darker": lambda image, _: ImageEnhance.Brightness(image).enhance(0.6),
    "crop 65 % brighter jpeg": lambda image, draw: jpeg(
        ImageEnhance.Brightness(crop(0.65)(image, draw)).enhance(1.15), draw
    ),
}


def write(folder: Path, images: dict[str, Image.Image]) -> Manifest:
    samples = []
    for name, image in images.items():
        path = folder / f"{name}.png"
        image.save(path)
        samples.append(Sample(path, path.name, "", *image.size, repeats=1, sha256=str(hash(path.read_bytes()))))
    return Manifest(tuple(samples))


def drawn(count: int) -> list[Image.Image]:
    rng, made = np.random.default_rng(3), world.World()
    return [Image.fromarray(world.draw(made.picture(rng), 128)) for _ in range(count)]


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_joined_with_its_picture(change: str, tmp_path: Path) -> None:
    draw = random.Random(change)
    images: dict[str, Image.Image] = {}
    for i, image in enumerate([scene(1), scene(2, (150, 240)), drawn(1)[0]]):
        images[f"{i}"] = image
        images[f"{i} copy"] = CHANGES[change](image, draw)
    found = groups(write(tmp_path, images))
    assert found == tuple((f"{i}.png", f"{i} copy.png") for i in range(3))


def test_different_pictures_stay_apart() -> None:
    images = [*(scene(seed) for seed in range(12)), *drawn(12)]
    assert [one for one in drained(pair_events([Thumbnail(image) for image in images])) if one[2].same] == []


def test_real_photographs_of_one_subject_stay_apart_and_their_copies_do_not(photos: Path) -> None:
    """Among them a burst before one wall, and pictures with the same black bars."""
    images = [Image.open(path).convert("RGB") for path in sorted(photos.glob("*/*.jpg"))]
    assert [one[:2] for one in drained(pair_events([Thumbnail(image) for image in images])) if one[2].same] == []
    draw = random.Random(0)
    for number, image in enumerate(images[::5]):
        change = list(CHANGES.values())[number % len(CHANGES)]
        ((_, _, likeness),) = drained(pair_events([Thumbnail(image), Thumbnail(change(image, draw))]))
        assert likeness.same, (number, likeness)


def test_flat_pictures_are_joined_only_with_their_own_copies(tmp_path: Path) -> None:
    images = {
        name: Image.new("RGB", (64, 64), colour)
        for name, colour in (("red", "red"), ("red again", "red"), ("blue", "blue"))
    }
    assert groups(write(tmp_path, images)) == (("red.png", "red again.png"), ("blue.png",))


def test_windows_reach_every_crop() -> None:
    boxes = Windows().boxes_N4
    draw = random.Random(2)
    for _ in range(200):
        area = draw.uniform(0.6, 1)
        w = draw.uniform(area, 1)
        h = area / w
        x, y = draw.uniform(0, 1 - w), draw.uniform(0, 1 - h)
        assert np.abs(boxes - (x, y, x + w, y + h)).max(1).min() < 0.08
    assert ((boxes >= 0) & (boxes <= 1 + 1e-9)).all()


def test_chains_are_one_group() -> None:
    assert join(6, [(0, 3), (4, 3), (1, 2)]) == [[0, 3, 4], [1, 2], [5]]
    assert join(3, []) == [[0], [1], [2]] and join(0, []) == []


def test_no_copy_ever_stands_on_the_other_side(tmp_path: Path) -> None:
    """Ten pictures, each with altered copies; whatever the seed and the kind of split."""
    draw, images, owner = random.Random(0), {}, {}
    for i in range(10):
        original = scene(100 + i)
        for name, change in draw.sample(list(CHANGES.items()), i % 3):
            images[f"{i} {name}".replace("%", "")] = change(original, draw)
        images[f"{i}"] = original
    manifest = write(tmp_path, images)
    owner = {name: name.split()[0].removesuffix(".png") for name in (sample.name for sample in manifest.samples)}
    found = groups(manifest)
    assert len(found) == 10
    for seed in range(20):
        for folds in (0, 2, 3, 10, 40):
            made = split(found, seed, folds=folds)
            for fold, part in enumerate(made.parts):
                kept = made.inside(fold)
                inside, outside = ({owner[name] for name in some} for some in (kept, part))
                assert outside and inside and not inside & outside
                assert len(part) + len(kept) == len(manifest)
                assert set(made.train_probe(3, fold)) <= set(kept)
            if made.kind == "folds":
                assert sorted(name for part in made.parts for name in part) == sorted(images_names(manifest))


def images_names(manifest: Manifest) -> list[str]:
    return [sample.name for sample in manifest.samples]


@pytest.mark.parametrize(
    ("different", "kind", "parts"),
    [
        (1, "none", 0),
        (2, "none", 0),
        (3, "folds", 3),
        (4, "hold-out", 1),
        (9, "hold-out", 1),
        (10, "hold-out", 1),
        (60, "hold-out", 1),
    ],
)
def test_the_kind_of_split_hangs_on_the_number_of_different_pictures(different: int, kind: str, parts: int) -> None:
    singles = [(f"{i}",) for i in range(different)]
    made = split(singles, 0)
    assert (made.kind, len(made.parts)) == (kind, parts)
    if kind == "hold-out":
        count = max(2, round(0.15 * different))
        assert len(made.parts[0]) == count == len(made.train_probe(count))
    copies = [*singles[:-1], tuple(f"{different - 1} {copy}" for copy in range(30))]  # copies are no new pictures
    assert split(copies, 0).kind == kind


def test_the_split_hangs_on_names_and_seed_only_and_survives_json(tmp_path: Path) -> None:
    some = [(f"{i}", f"{i} copy") if i % 3 == 0 else (f"{i}",) for i in range(20)]
    made = split(some, 7)
    assert {name for part in split(some[::-1], 7).parts for name in part} == set(made.parts[0])
    assert len({split(some, seed).parts for seed in range(10)}) > 5
    made.write(tmp_path / "split.json")
    assert Split.read(tmp_path / "split.json") == made
    assert len(split(some, 7, count=5).held_out_probe()) == 5 and made.train_probe(4) == Split.read(
        tmp_path / "split.json"
    ).train_probe(4)


@pytest.mark.parametrize("copies", [1, 2, 3, 7])
@pytest.mark.parametrize("folds", [0, 2, 12])
def test_copies_are_no_more_witnesses(copies: int, folds: int) -> None:
    """However many copies there are: as many different pictures are held out, and each is measured once."""
    made = split([tuple(f"{i} {copy}" for copy in range(copies)) for i in range(12)], 3, folds=folds, count=4)
    for fold, part in enumerate(made.parts):
        out = {name.split()[0] for name in part}
        seen = [name.split()[0] for name in made.held_out_probe(fold)]
        assert len(seen) == len(set(seen)) and set(seen) == out and len(part) == copies * len(out)
        assert len(out) == (12 // folds if folds else 4)
        twins = [name.split()[0] for name in made.train_probe(4, fold)]
        assert len(twins) == len(set(twins)) == 4 and not out & set(twins)


def test_wrong_groups_are_refused() -> None:
    for wrong, folds in ((("a", "b"), 1), (("a", "a"), 0)):
        with pytest.raises(ValueError, match="folds of"):
            split([(name,) for name in wrong], 0, folds=folds)


def test_pairs_are_the_same_however_many_threads() -> None:
    draw = random.Random(4)
    images = [change(scene(seed), draw) for seed in range(2) for change in CHANGES.values()] + drawn(8)
    looks = [Thumbnail(image) for image in images]
    alone = drained(pair_events(looks, workers=1))
    assert len(alone) > BATCH
    assert drained(pair_events(looks, workers=3)) == alone
    counts = [(event.done, event.total) for event in pair_events(looks)]
    assert counts == sorted(counts) and counts[-1] == (2 * len(looks), 2 * len(looks))
    assert drained(pair_events([], workers=3)) == []
    *_, last = pair_events(looks[:1])
    assert (last.done, last.total) == (2, 2)
