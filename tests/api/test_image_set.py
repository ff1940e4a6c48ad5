"""An image set: originals untouched, every change undone to the byte, names kept apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tsuika.api.image_set import ImageSet


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with what is in it, without what undo keeps."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "undo" not in path.relative_to(folder).parts
    }


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    folder = tmp_path / "originals"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "more/a.png")):
        Image.new("RGB", (60, 40), (number * 60, 10, 20)).save(folder / name)
    (folder / "a.txt").write_text("a red thing\n", encoding="utf-8")
    (folder / "more/a.caption").write_bytes("赤い物".encode("cp932"))
    (folder / ".hidden.png").write_bytes(b"x")
    return folder


@pytest.fixture
def images(tmp_path: Path, originals: Path) -> ImageSet:
    found = ImageSet(tmp_path / "project")
    assert [*found.add_folder(originals)] == [(1, 3), (2, 3), (3, 3)]
    return found


def masked(images: ImageSet, name: str) -> None:
    """Give an image a mask: its right half, at half of its size."""
    mask = Image.new("L", (30, 20))
    mask.paste(255, (15, 0, 30, 20))
    mask.save(images.root.parent / "mask.png")
    images.write_masks({name: images.root.parent / "mask.png"})


CHANGES: dict[str, Callable[[ImageSet], object]] = {
    "leave out": lambda images: images.leave_out(["a.png", "more/a.png"]),
    "leave out and put back": lambda images: (images.leave_out(["a.png"]), images.put_back(["a.png"])),
    "crop": lambda images: images.crop({"a.png": (5, 0, 5, 0), "b.png": (0, 4, 0, 4)}),
    "captions": lambda images: images.write_captions({"a.png": "new", "b.png": "new, too", "more/a.png": ""}),
    "add to all": lambda images: images.write_captions(images.added_to_all("sks")),
    "masks": lambda images: (
        masked(images, "a.png"),
        images.write_masks({"a.png": None, "b.png": images.folder / "a.png"}),
    ),
    "crop and leave out what has a mask": lambda images: (
        masked(images, "a.png"),
        images.crop({"a.png": (5, 0, 5, 0)}),
        images.leave_out(["a.png"]),
    ),
    "crop what has a caption in another encoding": lambda images: images.crop({"more/a.png": (1, 1, 1, 1)}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_undo_gives_back_every_byte_and_originals_never_change(change: str, images: ImageSet, originals: Path) -> None:
    before, theirs = tree(images.root), tree(originals)
    CHANGES[change](images)
    while images.last_change() is not None:
        images.undo()
    assert tree(images.root) == before
    assert tree(originals) == theirs


def test_a_change_is_told_in_every_language_and_after_a_restart(images: ImageSet) -> None:
    images.leave_out(["a.png", "b.png"])
    said = ImageSet(images.root).last_change()
    assert said is not None
    assert (said.to("en"), said.to("ja")) == ("2 images left out", "2枚を除外")


def test_a_change_that_was_cut_off_is_undone(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(images.root)
    monkeypatch.setattr("tsuika.api.image_set.link_or_copy", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        images.leave_out(["a.png"])
    ImageSet(images.root).undo()
    assert tree(images.root) == before


def test_what_is_left_out_goes_with_its_caption_and_is_not_trained_on(images: ImageSet) -> None:
    images.leave_out(["a.png"])
    assert not (images.folder / "a.png").exists()
    assert not (images.folder / "a.txt").exists()
    one = next(one for one in images.images() if one.name == "a.png")
    assert (one.left_out, one.caption) == (True, "a red thing")


def test_a_crop_takes_the_bars_and_keeps_the_caption(images: ImageSet) -> None:
    images.crop({"a.png": (5, 2, 7, 3)})
    assert Image.open(images.folder / "a.png").size == (48, 35)
    assert next(one for one in images.images() if one.name == "a.png").caption == "a red thing"


def test_captions_are_read_and_written_as_training_reads_them(images: ImageSet) -> None:
    assert next(one.caption for one in images.images() if one.name == "more/a.png") == "赤い物"
    images.write_captions({"more/a.png": "  a  blue thing \n\n another"})
    assert (images.folder / "more/a.txt").read_text(encoding="utf-8") == "a blue thing\nanother\n"
    assert images.added_to_all("blue")["more/a.png"] == "a blue thing\nblue, another"


def test_captions_are_found_wherever_training_finds_them(tmp_path: Path) -> None:
    folder = tmp_path / "table"
    folder.mkdir()
    for name in ("a.png", "b.png", "odd"):
        Image.new("RGB", (8, 8), "red").save(folder / name, format="PNG")
    (folder / "metadata.csv").write_text("file_name,caption\na.png,from a table\n")
    (folder / "b.png.txt").write_text("after the full name")
    images = ImageSet(tmp_path / "project")
    assert [*images.add_folder(folder)][-1] == (3, 3)
    assert {one.name: one.caption for one in images.images()} == {
        "a.png": "from a table",
        "b.png": "after the full name",
        "odd.png": "",
    }


def test_bulk_changes_are_shown_before_they_are_made(images: ImageSet) -> None:
    before = tree(images.root)
    assert images.replaced("red", "green") == {"a.png": "a green thing"}
    assert images.replaced("", "x") == {}
    assert images.added_to_all("sks") == {"a.png": "sks, a red thing", "b.png": "sks", "more/a.png": "sks, 赤い物"}
    images.write_captions({"b.png": "sks dog"})
    assert "b.png" not in images.added_to_all("SKS", front=False)
    assert tree(images.root).keys() - before.keys() == {"images/b.txt"}


def test_two_images_never_share_a_caption_file(images: ImageSet, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "other.jpg")
    assert images.add(tmp_path / "other.jpg", "a.jpg") == "a-2.jpg"
    assert images.add(tmp_path / "other.jpg", "a-2.jpg") == "a-2.jpg"


def test_only_so_many_changes_are_kept(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsuika.api.image_set.KEPT_CHANGES", 4)
    for number in range(9):
        images.write_captions({"b.png": str(number)})
    assert len([*(images.root / "undo").glob("*/change.json")]) == 4


def test_a_mask_belongs_to_its_image_and_is_none(images: ImageSet) -> None:
    masked(images, "more/a.png")
    found = {one.name: one for one in images.images()}
    assert {name: one.mask for name, one in found.items()} == {
        "a.png": "",
        "b.png": "",
        "more/a.png": "more/a-mask.png",
    }
    mask = images.path(found["more/a.png"].mask_key)
    assert mask == images.folder / "more/a-mask.png"
    # The bar on the left is the image's, whatever the size of its mask.
    images.crop({"more/a.png": (20, 0, 0, 0)})
    with Image.open(mask) as cropped:
        assert cropped.size == (40, 40)
        assert [cropped.convert("L").getpixel((x, 20)) for x in (2, 38)] == [0, 255]
    images.leave_out(["more/a.png"])
    assert [(one.left_out, one.mask) for one in images.images() if one.mask] == [(True, "more/a-mask.png")]
    assert not mask.exists()
    images.write_masks({"more/a.png": None})
    assert not any(one.mask for one in images.images())
