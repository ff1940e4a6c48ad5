"""Several folders in one run: what each says for itself, its buckets, captions and weights, and what is held out of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d

from tsuika import config
from tsuika.core.errors import ImageError, RecipeError
from tsuika.core.events import drained
from tsuika.core.sections import Data
from tsuika.data.bank import Bank, fill
from tsuika.data.bucket import assign, assign_sets
from tsuika.data.manifest import Manifest
from tsuika.data.scan import scan, scan_sets
from tsuika.data.split import split

CPU = torch.device("cpu")


def images(folder: Path, count: int, seed: int = 0, size: tuple[int, int] = (48, 48)) -> Path:
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def bank_of(manifest: Manifest, data: Data) -> Bank:
    buckets = assign_sets(manifest, data, size_px=32, step_px=8)
    options = {"vae": "v", "scale": 1.0, "folder": None, "device": CPU}
    return drained(fill(buckets, data, lambda pixels: avg_pool2d(pixels, 4), **options))  # type: ignore[arg-type]


def test_a_set_inherits_what_it_does_not_say(tmp_path: Path) -> None:
    cat, dog = images(tmp_path / "a" / "cat", 2), images(tmp_path / "b" / "cat", 3, 1)
    (dog / "1.txt").write_text("asleep", encoding="utf-8")
    sets = [
        {"images": str(cat)},
        {"images": str(dog), "trigger": "rex", "class_word": "dog", "size_px": 64, "repeats": 2},
    ]
    shared = {"trigger": "tama", "class_word": "cat", "caption_prefix": "photo,", "caption_dropout": 0.0}
    data = Data(**shared, sets=sets, min_size_px=8)
    assert [*data.each()] == ["cat", "cat-2"] and data.triggers == ("tama", "rex") and data.first.class_word == "cat"
    manifest, _data = scan_sets(data, size_px=32)
    told = {sample.name: (sample.caption, sample.repeats, sample.set) for sample in manifest.samples}
    assert told["cat/0.png"] == ("photo, tama cat", 1, "cat") and told["cat-2/0.png"] == ("photo, rex dog", 2, "cat-2")
    assert told["cat-2/1.png"][0] == "rex, photo, asleep"
    assert Manifest.from_dict(manifest.to_dict()) == manifest
    bank = bank_of(manifest, data)
    assert {(one.width, one.height) for one in bank.buckets} == {(32, 32), (64, 64)}
    counts: Counter[str] = Counter()
    for step in range(bank.round_steps):
        batch = bank.batch(step, 2, 0)
        counts.update(batch.names)
        assert {name.split("/")[0] for name in batch.names} == {"cat" if batch.latents_BCHW.shape[-1] == 8 else "cat-2"}
    assert counts == {sample.name: 2 * sample.repeats for sample in manifest.samples}


def test_sets_of_one_size_share_batches_and_keep_what_is_theirs(tmp_path: Path) -> None:
    one, two = images(tmp_path / "one", 3), images(tmp_path / "two", 3, 1)
    for i in range(3):
        Image.new("L", (48, 48)).save(two / f"{i}-mask.png")
    sets = [
        {"images": str(one), "weight": 0.5, "caption_dropout": 1.0},
        {"images": str(two), "masks": "auto", "mask_outside": 0.25},
    ]
    data = Data(trigger="x", caption_dropout=0.0, sets=sets, min_size_px=8)
    batch = bank_of(scan_sets(data, size_px=32)[0], data).batch(0, 6, 0)
    assert batch.mask_B1HW is not None and {name.split("/")[0] for name in batch.names} == {"one", "two"}
    for name, caption, weight, mask in zip(batch.names, batch.captions, batch.weight_B, batch.mask_B1HW, strict=True):
        own = name.startswith("one")
        assert (caption, float(weight), float(mask.unique())) == (("", 0.5, 1.0) if own else ("x", 1.0, 0.25))


def test_one_folder_is_the_short_form_to_the_bit(tmp_path: Path) -> None:
    folder = images(tmp_path / "one", 5)
    (folder / "reg").mkdir()
    Image.new("RGB", (48, 48)).save(folder / "reg" / "a.png")
    short = Data(images=str(folder), trigger="x", flip=True, min_size_px=8)
    long = Data(trigger="x", flip=True, sets=[{"images": str(folder)}], min_size_px=8)
    (manifest, data), (other, more) = (scan_sets(one, size_px=32) for one in (short, long))
    plain = scan(folder, short, size_px=32)
    assert manifest == other == plain and data.first.reg_images == more.first.reg_images == str(folder / "reg")
    buckets = assign(plain, size_px=32, step_px=8)
    assert assign_sets(plain, data, size_px=32, step_px=8) == assign_sets(plain, more, size_px=32, step_px=8) == buckets
    first, second = bank_of(manifest, data), bank_of(other, more)
    for step in range(7):
        a, b = (bank.batch(step, 3, 1) for bank in (first, second))
        assert torch.equal(a.latents_BCHW, b.latents_BCHW) and (a.names, a.captions) == (b.names, b.captions)


def test_images_are_held_out_in_every_set() -> None:
    names = {f"large/{i}": "large" for i in range(30)} | {f"small/{i}": "small" for i in range(10)} | {"lone/0": "lone"}
    groups = [(name,) for name in names]
    for seed in range(5):
        held = split(groups, seed, count=8, sets=names)
        assert Counter(names[name] for name in held.parts[0]) == {"large": 6, "small": 2}
        folds = split(groups, seed, folds=4, sets=names)
        of_small = [sum(names[name] == "small" for name in part) for part in folds.parts]
        assert sorted(of_small) == [2, 2, 3, 3] and max(map(len, folds.parts)) - min(map(len, folds.parts)) <= 2
        # Whatever the number of parts that are held out, every set gives its share.
        dealt = split(groups, seed, folds=len(groups), sets=names)
        first = Counter(names[part[0]] for part in dealt.parts[:8])
        assert first["large"] in (5, 6) and first["small"] in (2, 3)
        alone = dict.fromkeys(names, "")
        for options in ({"count": 8}, {"folds": 4}, {}):
            assert split(groups, seed, sets=alone, **options) == split(groups, seed, **options)


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ({"sets": [{"images": "a", "steps": 3}]}, "no setting `steps`"),
        ({"sets": [{"trigger": "a"}]}, "does not say where"),
        ({"sets": [{"images": "a", "repeats": 0}]}, "Set 1, repeats: It must be at least 1"),
        ({"sets": [{"images": "a", "mask_outside": 0.5}]}, "without masks"),
        ({"sets": ["a"]}, "a table for each set"),
        ({"images": "b", "sets": [{"images": "a"}]}, "exclude each other"),
    ],
)
def test_what_sets_cannot_be_is_said(tables: dict[str, object], why: str) -> None:
    with pytest.raises(RecipeError) as refused:
        config.build({"data": tables})
    assert refused.value.code == "RC002" and why in str(refused.value)


def test_a_recipe_with_sets_is_read_again_as_it_was_written(tmp_path: Path) -> None:
    sets = [{"images": "a b", "trigger": "x"}, {"images": "c", "flip": True}]
    recipe = config.build({"data": {"sets": sets, "cache": False}, "train": {"steps": 7}})
    file = tmp_path / "recipe.toml"
    for comments in (True, False):
        file.write_text(config.dump(recipe, comments=comments), encoding="utf-8")
        assert config.load(file) == recipe
    assert "[[data.sets]]" in config.dump(recipe)


def test_a_set_without_usable_images_is_named(tmp_path: Path) -> None:
    data = Data(sets=[{"images": str(images(tmp_path / "full", 2))}, {"images": str(tmp_path / "bare")}], min_size_px=8)
    (tmp_path / "bare").mkdir()
    with pytest.raises(ImageError) as error:
        scan_sets(data, size_px=32, report=tmp_path / "list.json")
    assert error.value.code == "DS002" and str(error.value.where) == str(tmp_path / "bare")


def test_datasets_of_sd_scripts_are_sets(tmp_path: Path) -> None:
    file = tmp_path / "dataset.toml"
    file.write_text(
        """
        [general]
        shuffle_caption = true
        [[datasets]]
        resolution = 512
        batch_size = 4
          [[datasets.subsets]]
          image_dir = "a"
          class_tokens = "sks girl"
          num_repeats = 10
          [[datasets.subsets]]
          image_dir = "b"
          conditioning_data_dir = "b masks"
          [[datasets.subsets]]
          image_dir = "reg"
          is_reg = true
        [[datasets]]
        resolution = [768, 768]
        batch_size = 2
          [[datasets.subsets]]
          image_dir = "c"
          caption_prefix = "anime,"
        """,
        encoding="utf-8",
    )
    recipe = config.load(file)
    assert recipe.data.shuffle_tags and recipe.train.batch_size == 4
    each = recipe.data.each()
    assert {name: (one.size_px, one.reg_images, one.masks) for name, one in each.items()} == {
        "a": (512, "reg", ""),
        "b": (512, "reg", "b masks"),
        "c": (768, "", ""),
    }
    assert (each["a"].class_word, each["a"].repeats, each["c"].caption_prefix) == ("sks girl", 10, "anime,")
    assert "train.batch_size = 2" in recipe.remarks[0].message
