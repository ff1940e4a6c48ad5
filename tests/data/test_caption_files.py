"""Where captions stand in the folders of other programs, and which images are no subjects there."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from tsuika.core.sections import Data
from tsuika.data.manifest import Manifest
from tsuika.data.scan import scan


def draw(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (9 * number, 80, 40)).save(folder / name)
    return folder


def captions(folder: Path, **data: object) -> dict[str, tuple[str, ...]]:
    return {sample.name: sample.captions for sample in scan(folder, Data(**data)).samples}  # type: ignore[arg-type]


def noted(manifest: Manifest, code: str) -> list[str]:
    return [note.name for note in manifest.notes if note.code == code]


def aside(manifest: Manifest) -> dict[str, str]:
    return {left.name: left.reason for left in manifest.aside}


FILES = {
    "a.png.txt": b"a cat",
    "a.json": json.dumps({"caption": "a cat", "id": 3}).encode(),
    "captions/a.txt": b"a cat",
    "metadata.jsonl": b'{"file_name": "a.png", "text": "a cat"}\n{"file_name": "b.png", "text": "a dog"}\n',
    "metadata.csv": b"file_name,caption\na.png,a cat\n",
    "list.csv": b"a.png,a cat\nb.png,a dog\n",
    "table.tsv": b"image\tprompt\n./a.png\ta cat\n",
    "meta_cap.json": b'{"a": {"caption": "a cat"}, "b": {"caption": "a dog"}}',
    "meta_lat.json": b'{"a": {"caption": "a cat", "train_resolution": [64, 64]}}',
    "captions.json": b'{"a.png": "a cat"}',
    "data.json": b'[{"image": "a.png", "prompt": "a cat"}]',
    "prompts.json": b'{"images": [{"file_name": "a.png", "text": "a cat"}]}',
    "a.txt": "a cat".encode("utf-16"),
}


@pytest.mark.parametrize("name", FILES)
def test_captions_of_other_programs_are_read(name: str, tmp_path: Path) -> None:
    draw(tmp_path, "a.png", "b.png")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(FILES[name])
    manifest = scan(tmp_path, Data(trigger="sks"))
    assert manifest.samples[0].caption == "sks, a cat"
    assert not noted(manifest, "caption-not-read") and not noted(manifest, "caption-orphan")


def test_several_places_the_nearest_and_most_particular_first(tmp_path: Path) -> None:
    draw(tmp_path, "train/a.png", "train/b.png", "train/c.png", "train/d.png", "train/e.png")
    (tmp_path / "metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": f"train/{stem}.png", "text": f"far {stem}"}) + "\n" for stem in "abcde")
    )
    (tmp_path / "train/metadata.csv").write_text("file_name,text\nb.png,near b\nc.png,near c\n")
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions/c.txt").write_text("beside c")
    (tmp_path / "train/d.txt").write_text(" \n")
    (tmp_path / "train/d.caption").write_text("filled d")
    (tmp_path / "train/e.txt").write_text("own e")
    found = captions(tmp_path)
    assert {name[6]: texts[0] for name, texts in found.items()} == {
        "a": "far a",
        "b": "near b",
        "c": "beside c",
        "d": "filled d",
        "e": "own e",
    }


def test_names_that_differ_in_case_alone_belong_together_where_nothing_else_does(tmp_path: Path) -> None:
    draw(tmp_path, "IMG_1.JPG", "b.png", "B.png")
    (tmp_path / "img_1.TXT").write_text("one")
    (tmp_path / "b.txt").write_text("small b")
    assert captions(tmp_path, trigger="sks") == {
        "IMG_1.JPG": ("sks, one",),
        "b.png": ("sks, small b",),
        "B.png": ("sks",),
    }


def test_tags_follow_captions_and_lists_are_alternatives(tmp_path: Path) -> None:
    draw(tmp_path, "1/a.png", "1/b.png", "1/c.png", "1/d.png")
    (tmp_path / "meta_lat.json").write_text(
        json.dumps(
            {
                "1/a": {"caption": "a cat\na small cat", "tags": "cat, grass"},
                str(tmp_path / "1/b.png"): {"tags": "dog, sea"},
            }
        )
    )
    (tmp_path / "1/c.json").write_text(json.dumps({"captions": ["one", "two"]}))
    (tmp_path / "1/d.json").write_text(json.dumps({"tag_string": "1girl red_hair", "score": 3}))
    assert captions(tmp_path) == {
        "1/a.png": ("a cat, cat, grass", "a small cat, cat, grass"),
        "1/b.png": ("dog, sea",),
        "1/c.png": ("one", "two"),
        "1/d.png": ("1girl, red_hair",),
    }


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    draw(tmp_path, "a.png")
    for name in ("a.json", "data.parquet", "odd.csv", "a.yaml", "gone.txt", "README.txt", "film.mp4", "more.zip"):
        (tmp_path / name).write_bytes(b'{"width": 3}')
    manifest = scan(tmp_path, Data(trigger="sks"))
    assert noted(manifest, "caption-not-read") == ["a.yaml", "data.parquet", "odd.csv", "a.png"]
    assert noted(manifest, "caption-orphan") == ["gone.txt"]
    assert noted(manifest, "not-read") == ["film.mp4", "more.zip"]
    (tmp_path / "a.txt").write_bytes(b"x" * (1 << 20 | 1))
    assert noted(scan(tmp_path, Data(trigger="sks")), "caption-unreadable") == ["a.png"]


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100000,
        b'{"a": ' * 9000,
        b'{"a.png": ' + b"9" * 5000 + b"}",
        b'{"a.png": 3}',
        b"null",
        b"\x00" * 99,
        b"\xff\xfe",
        b"file_name,text\n" + b"x" * 200000 + b",y\n",
        b"file_name\n\n",
        b'{"file_name": {"a": [null]}, "text": [[]]}',
    ],
)
def test_odd_tables_are_nobodys_captions(content: bytes, tmp_path: Path) -> None:
    draw(tmp_path, "a.png")
    for name in ("a.json", "metadata.jsonl", "list.csv", "x.tsv", "meta_cap.json"):
        (tmp_path / name).write_bytes(content)
    manifest = scan(tmp_path, Data(trigger="sks"))
    assert [sample.caption for sample in manifest.samples] == ["sks"]
    assert {note.code for note in manifest.notes} <= {"caption-not-read", "caption-unreadable", "caption-empty"}
    assert len(noted(manifest, "caption-not-read")) >= 4


def test_masks_and_conditions_are_not_subjects(tmp_path: Path) -> None:
    draw(
        tmp_path,
        *(
            "0.png",
            "0-masklabel.png",
            "0-condlabel.png",
            "b.jpg",
            "b-mask.png",
            "c.png",
            "mask_c.png",
            "carnival mask.png",
        ),
        *("masks/b.png", "masks/c.png.png", "venice/masks/red.png"),
    )
    manifest = scan(tmp_path, Data(trigger="sks"))
    assert [sample.name for sample in manifest.samples] == [
        "0.png",
        "b.jpg",
        "c.png",
        "carnival mask.png",
        "venice/masks/red.png",
    ]
    assert set(aside(manifest).values()) == {"mask", "condition"} and aside(manifest)["0-condlabel.png"] == "condition"
    assert not manifest.quarantined
    assert len(scan(tmp_path / "masks", Data(trigger="sks"))) == 2
    codes = [remark.code for remark in manifest.remarks()]
    assert codes.count("DS010") == 1 and codes.count("DS006") == 1


def test_a_kohya_project(tmp_path: Path) -> None:
    draw(
        tmp_path,
        *("img/10_sks dog/a.png", "img/10_sks dog/b.png", "reg/1_dog/r.png", "model/last.png", "model/sample/x.png"),
        *("log/curve.png", "more/last_000100_00_20240101120000_42.png", "@eaDir/a.png/thumb.jpg", "regular/z.png"),
    )
    (tmp_path / "model/last.safetensors").write_bytes(b"")
    manifest = scan(tmp_path, Data())
    assert [sample.name for sample in manifest.samples] == [
        "img/10_sks dog/a.png",
        "img/10_sks dog/b.png",
        "regular/z.png",
    ]
    assert aside(manifest) == {
        "reg/1_dog/r.png": "regularization",
        **dict.fromkeys(("model/last.png", "model/sample/x.png", "log/curve.png"), "sample"),
        "more/last_000100_00_20240101120000_42.png": "sample",
    }
    assert manifest.regularization == str(tmp_path / "reg")
    assert noted(manifest, "system-folder") == ["@eaDir"]
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict()))) == manifest
    assert len(scan(tmp_path / "reg", Data())) == len(scan(tmp_path / "model/sample", Data())) == 1


def test_regularization_images_named_by_the_recipe_are_no_subjects(tmp_path: Path) -> None:
    draw(tmp_path, "a.png", "others/b.png")
    manifest = scan(tmp_path, Data(reg_images=str(tmp_path / "others")))
    assert [sample.name for sample in manifest.samples] == ["a.png"]
    assert aside(manifest) == {"others/b.png": "regularization"} and not manifest.regularization


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes in folders")
def test_a_caption_that_is_no_file_is_said(tmp_path: Path) -> None:
    draw(tmp_path, "a.png", "b.png", "c.png")
    os.mkfifo(tmp_path / "a.txt")
    (tmp_path / "b.txt").mkdir()
    (tmp_path / "c.txt").symlink_to("/dev/zero")
    manifest = scan(tmp_path, Data(trigger="sks"))
    assert noted(manifest, "caption-unreadable") == ["a.png", "b.png", "c.png"]
