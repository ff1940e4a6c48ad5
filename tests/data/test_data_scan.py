"""Folders of every kind, and captions."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

from tsuika.config import build
from tsuika.core.errors import ImageError, RecipeError
from tsuika.core.sections import Data
from tsuika.data import caption
from tsuika.data.faults import FAULTS
from tsuika.data.folder import kohya_folder, natural_key
from tsuika.data.manifest import LeftOut, Manifest, Note, Sample
from tsuika.data.scan import scan, scan_events

CONFIG = Data(trigger="sks", class_word="dog")


def draw(path: Path, size: tuple[int, int] = (64, 64), colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_recursive_natural_order_and_names(tmp_path: Path) -> None:
    for name in ("10.png", "2.png", "b/1.PNG", "あ/写真.png", "noextension.png", ".hidden.png", ".git/x.png"):
        draw(tmp_path / name)
    (tmp_path / "noextension.png").rename(tmp_path / "noextension")
    (tmp_path / "notes.md").write_text("no picture")
    draw(tmp_path / unicodedata.normalize("NFD", "が.png"))
    names = [sample.name for sample in scan(tmp_path, CONFIG).samples]
    assert names == ["2.png", "10.png", "b/1.PNG", "noextension", "あ/写真.png", unicodedata.normalize("NFC", "が.png")]
    assert natural_key("IMG_9.jpg") < natural_key("img_10.jpg")


def test_links_in_loops_and_dangling(tmp_path: Path) -> None:
    draw(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "moved").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    for name in ("pipe", "a/1.txt"):
        os.mkfifo(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    manifest = scan(tmp_path, CONFIG)
    assert [sample.name for sample in manifest.samples] == ["a/1.png"]
    assert {left.path.name: left.reason for left in manifest.quarantined} == {
        "gone.png": "unreadable",
        "moved": "unreadable",
        "pipe.png": "unreadable",
    }


def test_pictures_of_one_name_are_told_apart_whatever_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One name composed in two ways, and names that are no UTF-8; each keeps its own caption."""
    files = {("が", "NFC"): "a", ("が", "NFD"): "b"}
    for (name, form), text in files.items():
        path = draw(tmp_path / unicodedata.normalize(form, f"{name}.png"))  # type: ignore[arg-type]
        path.with_suffix(".txt").write_text(text)
    for byte in (b"\x83", b"\x84"):
        draw(tmp_path / "x.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/" + byte + b".png"))
        (tmp_path / "y.png").write_bytes(b"")
        (tmp_path / "y.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/z" + byte + b".png"))
    first, real = scan(tmp_path, Data(trigger="sks")), os.scandir
    names = [sample.name for sample in first.samples]
    assert len(set(names)) == 4 and {"が.png", "\N{REPLACEMENT CHARACTER}.png"} <= set(names)
    assert len({left.name for left in first.quarantined}) == 2
    for name in (*names, *(left.name for left in first.quarantined)):
        name.encode("utf-8")
    for sample in first.samples:
        text = sample.path.with_suffix(".txt")
        assert sample.caption == ("sks, " + text.read_text() if text.exists() else "sks")

    @contextmanager
    def backwards(folder: Path) -> Iterator[list[os.DirEntry[str]]]:
        with real(folder) as listing:
            yield list(listing)[::-1]

    monkeypatch.setattr(os, "scandir", backwards)
    assert scan(tmp_path, Data(trigger="sks")) == first


def test_folders_nested_deeper_than_any_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    depth = sys.getrecursionlimit() + 50
    for _ in range(depth):
        Path("d").mkdir()
        os.chdir("d")
    draw(Path("deep.png"))
    (sample,) = scan(tmp_path, CONFIG).samples
    Path("deep.png").unlink()
    # What clears up after tests would walk down by recursion.
    for _ in range(depth):
        os.chdir("..")
        Path("d").rmdir()
    assert sample.name == "d/" * depth + "deep.png"


def test_links_that_lead_nowhere_at_all_are_left_out(tmp_path: Path) -> None:
    draw(tmp_path / "1.png")
    for name in ("2.png", "1.txt", "folder"):
        (tmp_path / name).symlink_to(tmp_path / name)
    manifest = scan(tmp_path, CONFIG)
    assert [sample.name for sample in manifest.samples] == ["1.png"]
    assert {left.name: left.reason for left in manifest.quarantined} == dict.fromkeys(
        ("2.png", "1.txt", "folder"), "unreadable"
    )


def test_own_outputs_are_passed_over_and_said(tmp_path: Path) -> None:
    draw(tmp_path / "1.png")
    draw(tmp_path / "run" / "samples" / "x.png")
    draw(tmp_path / "cache" / "x.png")
    for mark in ("run/events.jsonl", "run/recipe.toml", "cache/CACHEDIR.TAG"):
        (tmp_path / mark).write_text("")
    manifest = scan(tmp_path, CONFIG)
    assert len(manifest) == 1
    assert [(note.name, note.code) for note in manifest.notes] == [("cache", "own-output"), ("run", "own-output")]
    assert len(scan(tmp_path / "run" / "samples", CONFIG)) == 1  # asked for by name


def test_quarantine_goes_on_and_reports(tmp_path: Path) -> None:
    folder, path = tmp_path / "写真", tmp_path / "out" / "left.json"
    draw(folder / "good.png")
    draw(folder / "small.png", (200, 20))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("hello")
    (folder / "logo.svg").write_text("<svg/>")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:-40])
    manifest = scan(folder, CONFIG, size_px=64, report=path)
    seen = [(event.done, event.total) for event in scan_events(folder, CONFIG, size_px=64)]
    reasons = {left.path.name: left.reason for left in manifest.quarantined}
    assert reasons == {
        "small.png": "too-small",
        "empty.jpg": "empty",
        "text.jpg": "not-a-picture",
        "logo.svg": "unsupported",
        "cut.png": "damaged",
    }
    assert set(reasons.values()) <= set(FAULTS)
    assert seen == [(i, 5) for i in range(1, 6)]
    assert Manifest.read(path) == manifest
    small = next(left for left in manifest.quarantined if left.reason == "too-small")
    assert "200x20" in small.words and "32" in small.words
    assert len(scan(folder, Data(min_size_px=20), size_px=64)) == 2

    with pytest.raises(ImageError) as caught:
        scan(folder, CONFIG, size_px=64, needed=2, report=path)
    assert caught.value.code == "DS002" and caught.value.exit_status == 3
    text = caught.value.describe()
    assert "1 of 6" in text and str(path) in text and "empty file (1)" in text
    assert "6枚中1枚" in caught.value.describe("ja")


def test_no_folder_and_no_pictures(tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", draw(tmp_path / "file.png")):
        with pytest.raises(ImageError) as caught:
            scan(place, CONFIG)
        assert caught.value.code == "DS001"
    (tmp_path / "file.png").unlink()
    with pytest.raises(ImageError) as caught:
        scan(tmp_path, CONFIG)
    assert caught.value.code == "DS002" and "No images" in str(caught.value)


def test_manifest_json_survives_names_that_are_no_unicode(tmp_path: Path) -> None:
    draw(tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\x83\x65.png"))
    manifest = scan(tmp_path, CONFIG)
    manifest.write(tmp_path / "manifest.json")
    json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert Manifest.read(tmp_path / "manifest.json") == manifest
    manifest.samples[0].name.encode("utf-8")


def test_kohya_folders(tmp_path: Path) -> None:
    for name in ("10_sks dog/a.png", "3_cat/deep/b.png", "0_none/c.png", "2024_summer/d.png", "plain/e.png"):
        draw(tmp_path / name)
    manifest = scan(tmp_path, Data(repeats=2))
    found = {sample.name: (sample.repeats, sample.caption) for sample in manifest.samples}
    assert found == {
        "3_cat/deep/b.png": (6, "cat"),
        "10_sks dog/a.png": (20, "sks dog"),
        "2024_summer/d.png": (2, ""),
        "plain/e.png": (2, ""),
    }
    assert [left.reason for left in manifest.quarantined] == ["no-repeats"]
    assert {note.name for note in manifest.notes if note.code == "caption-none"} == {"2024_summer/d.png", "plain/e.png"}
    assert kohya_folder(("1_a", "5_ＡＢ")) == (5, "ＡＢ")
    assert kohya_folder(("a_5", "x5_y")) is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("赤い帽子, 犬".encode(), "赤い帽子, 犬"),
        (b"\xef\xbb\xbf" + "赤い帽子".encode(), "赤い帽子"),
        ("赤い帽子, ソ表".encode("cp932"), "赤い帽子, ソ表"),
        ("赤い".encode("utf-16"), "赤い"),
        (unicodedata.normalize("NFD", "がぎ é").encode(), unicodedata.normalize("NFC", "がぎ é")),
        (b"red hat\r\nblue  sky\n\n", "red hat, blue sky"),
        (b"A dog.\nIt sits,\nquietly", "A dog. It sits, quietly"),
    ],
)
def test_caption_files(tmp_path: Path, content: bytes, expected: str) -> None:
    draw(tmp_path / "犬.png")
    (tmp_path / "犬.TXT").write_bytes(content)
    sample = scan(tmp_path, Data(caption_lines="join")).samples[0]
    assert (sample.caption, sample.caption_source) == (expected, "file")


def test_caption_rules(tmp_path: Path) -> None:
    for stem in "abcde":
        draw(tmp_path / f"{stem}.png")
    (tmp_path / "a.txt").write_text("a photo of SKS running")
    (tmp_path / "b.caption").write_text("a dog that asks")
    (tmp_path / "c.txt").write_text("sks from txt")
    (tmp_path / "c.caption").write_text("sks from caption")
    (tmp_path / "d.txt").write_text(" \n")
    (tmp_path / "e.txt").write_bytes(b"\xff\x81 \x82")
    manifest = scan(tmp_path, CONFIG)
    assert [(sample.caption, sample.caption_source) for sample in manifest.samples] == [
        ("a photo of SKS running", "file"),
        ("sks, a dog that asks", "file+trigger"),
        ("sks from txt", "file"),
        ("sks dog", "built"),
        ("sks dog", "built"),
    ]
    assert [(note.name, note.code) for note in manifest.notes] == [
        ("c.png", "caption-both"),
        ("d.png", "caption-empty"),
        ("e.png", "caption-unreadable"),
    ]


def test_has_word() -> None:
    assert caption.has_word("a sks, dog", "SKS") and caption.has_word("sksの犬", "sks")
    assert not caption.has_word("tasks", "sks") and not caption.has_word("sks1", "sks")
    assert caption.has_word("赤いミクさん", "ミク")
    assert caption.has_word("x c++ (a)", "c++ (a)")


def test_shuffle_keeps_the_front_and_loses_nothing() -> None:
    text = "sks, " + ", ".join(f"t{i}" for i in range(8))
    seen = set()
    for seed in range(50):
        shuffled = caption.change_tags(text, Data(shuffle_tags=True, keep_tokens=2), gen(seed))
        assert shuffled.startswith("sks, t0, ")
        assert sorted(shuffled.split(", ")) == sorted(text.split(", "))
        assert shuffled == caption.change_tags(text, Data(shuffle_tags=True, keep_tokens=2), gen(seed))
        seen.add(shuffled)
    assert len(seen) > 40
    assert caption.change_tags("one", Data(shuffle_tags=True, keep_tokens=5), gen()) == "one"


def test_tags_are_left_out_but_none_that_is_kept() -> None:
    config, count = Data(trigger="sks", tag_dropout=0.3, keep_tokens=1), 400
    drawn = [caption.change_tags("photo, a, b, a sks dog, c", config, gen(seed)).split(", ") for seed in range(count)]
    assert all(tags[0] == "photo" and "a sks dog" in tags for tags in drawn)
    for tag in "abc":
        left_out = sum(tag not in tags for tags in drawn)
        assert abs(left_out - 0.3 * count) < 4 * (count * 0.3 * 0.7) ** 0.5


def test_what_stands_before_and_behind_the_separators_is_kept() -> None:
    config = Data(keep_separator="|||", shuffle_tags=True, tag_dropout=0.5, keep_tokens=0)
    drawn = {caption.change_tags("sks, girl ||| a, b, c ||| best", config, gen(seed)) for seed in range(40)}
    assert all(text.startswith("sks, girl") and text.endswith("best") and "|" not in text for text in drawn)
    assert len(drawn) > 8
    # kohya: in a caption without it, the first tags count.
    counted = Data(keep_separator="|||", shuffle_tags=True, keep_tokens=1)
    assert all(caption.change_tags("sks, a, b", counted, gen(seed)).startswith("sks, ") for seed in range(10))
    assert caption.plain("sks ||| a, b", config) == "sks, a, b" and caption.plain("a | b", config) == "a | b"


def test_a_caption_with_wildcards_is_several() -> None:
    config = Data(trigger="sks", caption_wildcards=True, caption_prefix="photo of", caption_suffix="at noon")
    found, _source = caption.complete(["a {red|blue} sks {cat|dog}", "sks | x"], config)
    kinds = [f"photo of a {colour} sks {kind} at noon" for colour in ("red", "blue") for kind in ("cat", "dog")]
    assert found == (*kinds, "photo of sks | x at noon")
    many = caption.expanded("{a|b|c}" * 30)
    assert len(many) == caption.MOST_EXPANDED and len(set(many)) > 200 and many == caption.expanded("{a|b|c}" * 30)
    plain, _source = caption.complete(["a {red|blue} sks"], Data(trigger="sks"))
    assert plain == ("a {red|blue} sks",)


def test_dropout_share() -> None:
    stream = gen()
    dropped = sum(caption.drop("x", 0.2, stream) == "" for _ in range(2000))
    assert abs(dropped - 400) < 5 * (2000 * 0.2 * 0.8) ** 0.5
    assert caption.drop("x", 0, gen()) == "x" and caption.drop("x", 1, gen()) == ""
    plain, shuffled = Data(caption_dropout=0.5), Data(caption_dropout=0.5, shuffle_tags=True)
    one = Sample(Path("a.png"), "a.png", "a, b", 8, 8, 1, "", caption_source="file")
    for seed in range(30):  # the shuffle does not move the dropout
        assert (caption.vary(one, plain, gen(seed)) == "") == (caption.vary(one, shuffled, gen(seed)) == "")


def test_what_was_left_out_is_told_in_both_languages() -> None:
    left = tuple(LeftOut(Path("b/a.svg"), reason, "12 px", "b/a.svg") for reason in FAULTS)
    told = list(Manifest((), left, tuple(Note("b.png", reason, "") for reason in FAULTS)).remarks())
    assert [one.code for one in told] == ["DS006"] * len(FAULTS) + ["DS007"] * len(FAULTS)
    for one, fault in zip(told, 2 * [*FAULTS.values()]):
        for lang in ("en", "ja"):
            assert fault.what.to(lang) in one.words(lang)
            assert ("12 px" in one.words(lang)) == (one.code == "DS006")


def test_tags_that_belong_together_stay_together_and_are_read_with_commas() -> None:
    """Against sd-scripts' way of it, written out again: split by commas, shuffle, drop, then its separator becomes a comma."""
    line = "zuzu, red hat;;;long hair, cat ;;; dog, night"
    config = Data(secondary_separator=";;;", shuffle_tags=True, tag_dropout=0.3, keep_tokens=1, trigger="zuzu")
    seen = set()
    for seed in range(60):
        drawn = caption.change_tags(line, config, gen(seed))
        tags = drawn.split(", ")
        assert tags[0] == "zuzu" and ";" not in drawn
        for first, second in (("red hat", "long hair"), ("cat", "dog")):
            assert (first in tags) == (second in tags)
            assert first not in tags or tags[tags.index(first) + 1] == second
        seen.add(drawn)
    assert len(seen) > 5
    assert caption.plain(line, config) == "zuzu, red hat, long hair, cat, dog, night"
    # Without shuffling, too.
    sample = Sample(Path("a.png"), "a.png", "x", 1, 1, 1, "", caption_source="file", alternatives=(line,))
    kept = Data(secondary_separator=";;;", caption_dropout=0.0)
    assert caption.vary(sample, kept, gen(1)) == caption.plain(line, kept)


@pytest.mark.parametrize("separator", [",", " ", "|||", ";,;"])
def test_a_separator_that_separates_nothing_of_its_own_is_refused(separator: str) -> None:
    with pytest.raises(RecipeError) as refused:
        build({"data": {"keep_separator": "|||", "secondary_separator": separator}})
    assert refused.value.code == "RC002" and "keep_separator" in str(refused.value)


@pytest.mark.skipif(sys.platform == "win32", reason="no such names")
def test_a_name_stands_in_one_line(tmp_path: Path) -> None:
    draw(tmp_path / "a\nb\x1b[31m.png")
    (sample,) = scan(tmp_path, CONFIG).samples
    assert sample.name == r"a\u000ab\u001b[31m.png" and sample.path.exists()


def test_every_cause_of_a_group_is_said(tmp_path: Path) -> None:
    """Of images of one kind that cannot be used only the first one's cause was told."""
    draw(tmp_path / "a.png")
    for name in ("b.svg", "c.psd", "d.psd"):
        (tmp_path / name).write_text("x")
    (remark,) = scan(tmp_path, CONFIG).remarks()
    assert all(remark.message.count(f"{suffix} files") == 1 for suffix in (".svg", ".psd"))
