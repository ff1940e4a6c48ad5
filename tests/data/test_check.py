"""Planted faults are found in any set, clean pictures are left alone, and originals stay as they are."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tsuika.core.errors import ImageError, RecipeError, TsuikaError
from tsuika.core.events import Phase, Progress, drained
from tsuika.core.sections import Data
from tsuika.data import check as checks
from tsuika.data.check import count_fit
from tsuika.data.check_fix import LIST, clean
from tsuika.data.check_report import Finding, FoundSoFar, Report
from tsuika.data.faults import FAULTS
from tsuika.data.quality import bars, measure
from tsuika.data.scan import scan
from tsuika.embedded import mascot, sketch, world


def textured(seed: int, size: tuple[int, int] = (320, 320)) -> Image.Image:
    """Photo-like: shading, soft shapes of all sizes, texture to the last pixel; no clipping."""
    rng = np.random.default_rng(seed)
    width, height = size
    pixels = rng.normal(0, 10, (height, width, 3))
    for cells in (2, 4, 9, 20, 60, 150):
        layer = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        pixels += (np.asarray(layer, np.float64) - 127) / cells**0.35
    return Image.fromarray(np.clip(pixels * 0.6 + 120, 4, 250).astype(np.uint8))


def world_pictures(count: int) -> list[Image.Image]:
    rng, made = np.random.default_rng(7), world.World()
    return [Image.fromarray(world.draw(made.picture(rng), 128)) for _ in range(count)]


SETS = {
    "photo-like": lambda: [textured(seed) for seed in range(6)],
    "mascot": lambda: [Image.fromarray(one.pixels) for one in mascot.pictures(6)],
    "sketch": lambda: [Image.fromarray(one.pixels) for one in sketch.pictures(6)],
    "world": lambda: world_pictures(6),
}


def write(folder: Path, images: Iterable[Image.Image]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
    return folder


def check(folder: Path, data: Data, **options: object) -> Report:
    return drained(checks.check(folder, data, **options))  # type: ignore[arg-type]


def look(folder: Path, **data: object) -> Report:
    return check(folder, Data(**data), size_px=64, step_px=8, tokenize=str.split, tokenizer="words", workers=2)  # type: ignore[arg-type]


def named(report: Report, code: str) -> set[str]:
    return {name for finding in report.findings if finding.code == code for name in finding.pictures}


def prints(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.*")
    }


@pytest.mark.parametrize("kind", SETS)
def test_clean_sets_have_no_fault_of_the_pixels(kind: str, tmp_path: Path) -> None:
    report = look(write(tmp_path / "set", SETS[kind]()))
    pixels = {"blurred", "upscaled", "overexposed", "underexposed", "bars", "near-duplicate"}
    assert [finding for finding in report.findings if finding.code in pixels] == []
    assert len(report.usable) == report.different == 6


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("sigma", [2, 4])
def test_a_blurred_copy_is_found_among_sharp_pictures(kind: str, sigma: float, tmp_path: Path) -> None:
    images = SETS[kind]()
    images[3] = images[3].filter(ImageFilter.GaussianBlur(sigma))
    report = look(write(tmp_path / "set", images))
    assert named(report, "blurred") == {"3.png"}
    assert "3.png" in report.to_look_at


@pytest.mark.parametrize("kind", SETS)
def test_a_picture_that_moved_is_found(kind: str, tmp_path: Path) -> None:
    images = SETS[kind]()
    pixels = np.asarray(images[4], np.float32)
    images[4] = Image.fromarray(np.mean([np.roll(pixels, (i, i), (0, 1)) for i in range(9)], axis=0).astype(np.uint8))
    report = look(write(tmp_path / "set", images))
    assert named(report, "upscaled") | named(report, "blurred") == {"4.png"}


def test_the_report_is_the_same_however_many_threads(tmp_path: Path) -> None:
    images = world_pictures(8)
    folder = write(tmp_path / "set", [*images, *(image.resize((100, 100)) for image in images[:4])])
    phases = [event.name for event in checks.check(folder, Data(), size_px=64) if isinstance(event, Phase)]
    assert phases == ["pictures", "compare-pictures"]
    alone, together = (check(folder, Data(), size_px=64, step_px=8, workers=workers) for workers in (1, 3))
    assert alone == together and len(alone.duplicates) == 4


def test_a_set_that_is_soft_throughout_is_as_it_is(tmp_path: Path) -> None:
    images = [textured(seed).filter(ImageFilter.GaussianBlur(2)) for seed in range(6)]
    assert named(look(write(tmp_path / "set", images)), "blurred") == set()


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("how", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.NEAREST])
def test_an_enlarged_picture_is_found(kind: str, how: Image.Resampling, tmp_path: Path) -> None:
    images = SETS[kind]()
    width, height = images[1].size
    images[1] = images[1].resize((width // 2, height // 2), Image.Resampling.LANCZOS).resize((width, height), how)
    report = look(write(tmp_path / "set", images))
    assert named(report, "upscaled") | named(report, "blurred") == {"1.png"}
    found = {picture.name: picture.detail_px for picture in report.pictures}
    assert found["1.png"] < 0.9 * width
    assert all(px > 0.7 * width for name, px in found.items() if name != "1.png")


@pytest.mark.parametrize("how", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])
def test_a_set_that_is_enlarged_throughout_is_found_by_its_rhythm(how: Image.Resampling, tmp_path: Path) -> None:
    made = []
    for seed in range(5):  # noise of all sizes, none of it interpolated
        noise = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (320, 320, 3), np.uint8))
        layers = [np.asarray(noise.filter(ImageFilter.GaussianBlur(sigma)), np.float32) - 128 for sigma in (1, 2, 8)]
        made.append(Image.fromarray(np.clip(128 + layers[0] + 2 * layers[1] + 8 * layers[2], 0, 255).astype(np.uint8)))
    shrunk = [image.resize((260, 260), Image.Resampling.LANCZOS) for image in made]
    assert named(look(write(tmp_path / "shrunk", shrunk)), "upscaled") == set()
    large = [image.resize((480, 480), how) for image in made]
    assert len(named(look(write(tmp_path / "large", large)), "upscaled")) == 5


def test_exposure_of_photographs_not_of_drawings(tmp_path: Path) -> None:
    images = [textured(seed) for seed in range(8)]
    images[2] = images[2].point(lambda value: min(255, round(value * 2.4)))
    images[5] = images[5].point(lambda value: value // 5)
    report = look(write(tmp_path / "photos", images))
    assert named(report, "overexposed") == {"2.png"}
    assert named(report, "underexposed") == {"5.png"}
    flat = [Image.fromarray(one.pixels) for one in mascot.pictures(6)]
    report = look(write(tmp_path / "drawings", flat))
    assert named(report, "overexposed") | named(report, "underexposed") == set()
    assert "drawn" in report.not_judged


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [textured(seed) for seed in range(4)])
    stream = io.BytesIO()
    textured(9).save(stream, "JPEG")
    content = stream.getvalue()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "zeros.jpg").write_bytes(content[: len(content) // 2] + bytes(len(content) // 2))
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.png").write_bytes(b"<html>")
    textured(1, (20, 20)).save(folder / "tiny.png")
    textured(2, (400, 60)).save(folder / "wide.png")
    report = look(folder)
    assert named(report, "damaged") | named(report, "empty-tail") == {"cut.jpg", "zeros.jpg"}
    assert named(report, "empty") == {"empty.png"}
    assert named(report, "not-a-picture") == {"page.png"}
    assert named(report, "too-small") == {"tiny.png"}
    assert named(report, "odd-aspect") == {"wide.png"}
    assert {name for name in prints(folder) if name.endswith("g")} == {picture.name for picture in report.pictures}


def test_the_best_of_near_duplicates_is_kept(tmp_path: Path) -> None:
    image = textured(3, (400, 320))
    folder = write(tmp_path / "set", [textured(seed) for seed in range(4)])
    image.resize((200, 160), Image.Resampling.LANCZOS).save(folder / "a small.png")
    image.save(folder / "b large.png")
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).crop((20, 20, 380, 300)).save(folder / "c turned.jpg", quality=60)
    report = look(folder)
    assert report.duplicates == (("b large.png", "a small.png", "c turned.jpg"),)
    assert report.different == 5


@pytest.mark.parametrize("box", [(0, 40, 320, 280), (40, 0, 280, 320), (30, 30, 290, 290)])
def test_bars_are_measured_to_the_pixel(box: tuple[int, int, int, int]) -> None:
    whole = Image.new("RGB", (320, 320), (10, 10, 10))
    whole.paste(textured(5).crop(box), box[:2])
    assert bars(np.asarray(whole.convert("L"))) == (box[0], box[1], 320 - box[2], 320 - box[3])
    assert not any(measure(textured(5)).bars)


def test_captions(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [textured(seed) for seed in range(8)])
    words = ["red", "blue", "green", "yellow", "blue"]
    for number, word in enumerate(words):
        (folder / f"{number}.txt").write_text(f"tsuipi holding a {word} umbrella", encoding="utf-8")
    (folder / "5.txt").write_text(" \n", encoding="utf-8")
    (folder / "6.txt").write_bytes("tsuipi holding a umbrella, 犬".encode("cp932"))
    (folder / "7.txt").write_text("holding a umbrella " + "word " * 90, encoding="utf-8")
    report = look(folder, trigger="tsuipi")
    assert named(report, "caption-empty") == {"5.png"}
    assert named(report, "caption-encoding") == named(report, "caption-foreign") == {"6.png"}
    assert named(report, "caption-long") == {"7.png"}
    assert named(report, "caption-identical") == {"1.png", "4.png"}
    assert named(report, "trigger-missing") == {"7.png"}
    assert set(report.captions.common) == {"holding", "umbrella"}
    assert (report.captions.from_files, report.captions.with_trigger) == (
        7,
        7,
    )  # the empty one is called by the trigger


def test_words_that_are_torn_are_named_with_their_pieces(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [textured(seed) for seed in range(4)])
    for number in range(4):
        (folder / f"{number}.txt").write_text(f"tsuipi frobnicator {number}", encoding="utf-8")
    pieces = {"tsuipi": ["tsu", "ip", "i</w>"], "frobnicator": ["fro", "bni", "cator</w>"]}
    report = check(
        folder, Data(trigger="tsuipi"), size_px=64, step_px=8, tokenize=lambda text: pieces.get(text, [text])
    )
    assert report.captions.torn == {"tsuipi": ("tsu", "ip", "i"), "frobnicator": ("fro", "bni", "cator")}
    (torn,) = (finding for finding in report.findings if finding.code == "caption-torn")
    assert "frobnicator (fro|bni|cator)" in torn.why
    assert "tsuipi" not in torn.why


def test_one_caption_for_all_is_one_finding(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [textured(seed) for seed in range(5)])
    for number in range(5):
        (folder / f"{number}.txt").write_text("a photo of tsuipi", encoding="utf-8")
    codes = [finding.code for finding in look(folder).findings]
    assert "caption-all-identical" in codes
    assert "caption-identical" not in codes


def test_one_background_behind_all_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    made = [world.World().picture(rng) for _ in range(8)]
    same = [world.Picture("snow", one.things, 1) for one in made]
    report = look(write(tmp_path / "same", [Image.fromarray(world.draw(one, 128)) for one in same]))
    assert len(named(report, "same-background")) >= 6
    other = [world.Picture(name, one.things, i) for i, (name, one) in enumerate(zip(world.BACKGROUNDS, made))]
    spread = look(write(tmp_path / "other", [Image.fromarray(world.draw(one, 128)) for one in other]))
    assert named(spread, "same-background") == set()
    assert spread.variety.backgrounds > report.variety.backgrounds
    assert spread.variety.palette > report.variety.palette


def test_a_cleaned_copy_leaves_the_originals_alone(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [textured(seed) for seed in range(4)])
    (folder / "sub").mkdir()
    textured(0).resize((200, 200)).save(folder / "sub" / "again.png")
    (folder / "0.txt").write_bytes("ついか".encode("cp932"))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    exif = Image.Exif()
    exif[0x0112] = 6
    textured(6, (300, 240)).save(folder / "1.jpg", exif=exif)
    (folder / "1.txt").write_text("one", encoding="utf-8")
    whole = Image.new("RGB", (320, 320))
    whole.paste(textured(8).crop((0, 60, 320, 260)), (0, 60))
    whole.save(folder / "sub" / "bars.png")
    before, report = prints(folder), look(folder)
    cleaned = clean(report, tmp_path / "out")
    assert prints(folder) == before
    assert {(left.name, left.code, left.instead) for left in cleaned.left_out} == {
        ("broken.png", "damaged", ""),
        ("sub/again.png", "near-duplicate", "0.png"),
    }
    assert {(one.name, one.changes) for one in cleaned.mended} == {
        ("1.jpg", ("turned",)),
        ("sub/bars.png", ("cropped",)),
    }
    assert cleaned.recoded == ("0.png",)
    assert (tmp_path / "out" / "0.txt").read_text(encoding="utf-8") == "ついか\n"
    assert (tmp_path / "out" / "2.png").read_bytes() == (folder / "2.png").read_bytes()
    again = look(tmp_path / "out")
    assert {picture.caption for picture in again.pictures if picture.name.startswith("1")} == {"one"}
    sizes = {picture.name: (picture.width, picture.height) for picture in again.pictures}
    assert (240, 300) in sizes.values()
    assert sizes["sub/bars.png"] == (320, 200)
    fixed = {"near-duplicate", "bars", "damaged", "caption-encoding"}
    assert [finding for finding in again.findings if finding.code in fixed] == []
    assert (tmp_path / "out" / LIST).read_text(encoding="utf-8").count("\n") == 3


def test_a_copy_of_a_picture_whose_exif_cannot_be_read_is_whole(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [textured(seed) for seed in range(3)])
    textured(7).save(folder / "odd.png", exif=b"Exif\0\0nonsense, and no TIFF")
    cleaned = clean(look(folder), tmp_path / "out")
    assert (cleaned.kept, cleaned.mended) == (4, ())
    assert (tmp_path / "out" / "odd.png").read_bytes() == (folder / "odd.png").read_bytes()


@pytest.mark.parametrize(
    ("out", "inside"), [("copy", "10_sks dog/"), ("10_sks dog-checked", "10_sks dog/"), ("10_sks dog", "")]
)
def test_a_copy_keeps_the_repeats_and_words_of_a_folders_name(out: str, inside: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "10_sks dog", [textured(seed) for seed in range(2)])
    clean(look(folder), tmp_path / "made" / out)
    copy = scan(tmp_path / "made" / out, Data())
    assert {sample.name: (sample.repeats, sample.caption) for sample in copy.samples} == {
        f"{inside}{number}.png": (10, "sks dog") for number in range(2)
    }


def test_a_copy_that_is_cut_short_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a set would look like a whole one. A kill leaves the temporary folder at most, under another name."""
    folder = write(tmp_path / "in", [textured(seed) for seed in range(4)])
    report, copied = look(folder), list[str]()

    def copyfile(source: Path, target: Path) -> None:
        copied.append(source.name)
        if len(copied) > 2:
            raise OSError(28, "no space")
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr("shutil.copyfile", copyfile)
    with pytest.raises(TsuikaError):
        clean(report, tmp_path / "out")
    assert len(copied) > 2 and [one.name for one in tmp_path.iterdir()] == ["in"]


def test_where_a_copy_may_not_go(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [textured(seed) for seed in range(2)])
    report = look(folder)
    for place in (folder, folder / "inside", tmp_path):
        with pytest.raises(RecipeError, match="DS005"):
            clean(report, place)
    listed = clean(report, tmp_path / "list.tsv")
    assert (tmp_path / "list.tsv").is_file()
    assert listed.kept == 0


def test_an_empty_folder_and_none_at_all(tmp_path: Path) -> None:
    report = look(tmp_path)
    assert [finding.code for finding in report.findings] == ["nothing-found"]
    assert report.usable == ()
    assert json.loads(json.dumps(report.to_dict()))["usable"] == 0
    with pytest.raises(ImageError, match="DS001"):
        look(tmp_path / "missing")


def test_texts_of_a_finding_hold_its_numbers_in_every_language() -> None:
    found = Finding("same-background", "note", ("a.png", "b.png"), {"different": 3})
    assert "2 of 3" in found.why and "3枚中2枚" in found.why.to("ja")
    assert found.what == "the same background" and found.what.to("ja") == "同じ背景"
    assert not any("{" in fault.what for fault in FAULTS.values())


@pytest.mark.parametrize(("count", "fit"), [(2, "few"), (3, "right"), (5, "right"), (6, "many")])
def test_a_number_of_images_fits_a_range(count: int, fit: str) -> None:
    assert count_fit(count, 3, 5) == fit


def test_photographs_and_their_faults(photos: Path) -> None:
    """Four of them were padded with black bars by whoever published them; nothing else is barred or doubled."""
    report = check(photos, Data(), size_px=512)
    assert named(report, "bars") == {"cat2/00.jpg", "cat2/01.jpg", "cat2/04.jpg", "dog8/02.jpg"}
    assert named(report, "near-duplicate") | named(report, "blurred") == set()


def halftone(image: Image.Image, pitch_px: float, angle: float = 0.3) -> Image.Image:
    """Black dots on white, the larger the darker the image is there."""
    grey = np.asarray(image.convert("L"), np.float32) / 255
    down, across = np.mgrid[: grey.shape[0], : grey.shape[1]] * (2 * np.pi / pitch_px)
    turned = (
        np.cos(across * np.cos(angle) + down * np.sin(angle)),
        np.cos(down * np.cos(angle) - across * np.sin(angle)),
    )
    return Image.fromarray(np.where(grey > 0.5 - sum(turned) / 4, 255, 0).astype(np.uint8)).convert("RGB")


def test_crisp_halftone_is_not_called_enlarged(tmp_path: Path) -> None:
    """Dots in a square grid, and in a turned one; what is enlarged is still found."""
    images = [textured(seed, (384, 384)) for seed in range(4)]
    printed = [
        halftone(images[0], 6, 0.0),
        halftone(images[1], 10, 0.0),
        halftone(images[2], 5),
        halftone(images[3], 12),
    ]
    enlarged = images[3].resize((192, 192)).resize((384, 384), Image.Resampling.BICUBIC)
    report = look(write(tmp_path / "set", [*images, *printed, enlarged]))
    assert named(report, "upscaled") | named(report, "blurred") == {"8.png"}


def test_long_captions_are_told_by_the_bases_own_limit(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [textured(seed) for seed in range(3)])
    for number, words in enumerate((30, 31, 95)):
        (folder / f"{number}.txt").write_text("word " * words)
    found = check(folder, Data(), size_px=64, step_px=8, tokenize=str.split, room=30)
    (long,) = (one for one in found.findings if one.code == "caption-long")
    assert long.pictures == ("1.png", "2.png") and long.level == "note"
    assert "95 tokens" in long.why and "reads 30" in long.why


def test_a_cleaned_copy_keeps_every_caption_and_no_garbage(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [textured(seed) for seed in range(8)])
    originals = {
        "0.txt": "a woman’s hat, 45°".encode("cp1252"),
        "1.txt": "빨간 모자를 쓴 소녀".encode("cp949"),
        "2.txt": b"\xff\x81 \x82\x00\x01",
        "3.txt": b"one\n\ntwo, three\r\nfour\n",
        "4.txt": b" \n",
        "4.caption": b"from the other file",
        "5.txt": b"used",
        "5.caption": b"\xe9t\xe9 kept as it is",
        "6.png.txt": b"by its full name",
        "metadata.jsonl": b'{"file_name": "7.png", "text": "from a table"}\n',
        "0-masklabel.png": (folder / "0.png").read_bytes(),
    }
    for name, content in originals.items():
        (folder / name).write_bytes(content)
    report = look(folder)
    assert "a woman’s hat, 45°" in next(one for one in report.findings if one.code == "caption-encoding").why
    assert named(report, "mask") == {"0-masklabel.png"} and report.total == len(report.usable) == 8
    before = prints(folder)
    done = clean(report, tmp_path / "copy")
    written = {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir() if path.suffix != ".png"}
    assert {
        name: content.decode() for name, content in written.items() if name not in ("2.txt", "5.caption", LIST)
    } == {
        "0.txt": "a woman’s hat, 45°\n",
        "1.txt": "빨간 모자를 쓴 소녀\n",
        "3.txt": "one\ntwo, three\nfour\n",
        "4.txt": "from the other file\n",
        "4.caption": "from the other file",
        "5.txt": "used\n",
        "6.txt": "by its full name\n",
        "7.txt": "from a table\n",
    }
    assert written["2.txt"] == originals["2.txt"] and written["5.caption"] == originals["5.caption"]
    assert (tmp_path / "copy" / "0-masklabel.png").read_bytes() == originals["0-masklabel.png"]
    assert set(done.recoded) == {"0.png", "1.png"} and prints(folder) == before
    again = look(tmp_path / "copy")
    assert [one.alternatives or one.caption for one in again.usable] == [
        one.alternatives or one.caption for one in report.usable
    ]


def test_what_is_found_is_told_while_images_are_read(tmp_path: Path) -> None:
    pictures = [textured(seed) for seed in range(12)]
    pictures[1] = pictures[1].filter(ImageFilter.GaussianBlur(6))
    folder = write(tmp_path / "set", pictures)
    (folder / "0.png").write_bytes(b"no image")
    run = checks.check(folder, Data(), size_px=256, workers=1)
    told: list[tuple[int, dict[str, tuple[str, ...]]]] = []
    read = 0
    while True:
        try:
            event = next(run)
        except StopIteration as end:
            report: Report = end.value
            break
        if isinstance(event, Progress) and event.phase == "pictures":
            read = event.done
        elif isinstance(event, FoundSoFar):
            assert all(one["what"]["ja"] != one["what"]["en"] for one in event.findings)
            told.append((read, {one["code"]: one["pictures"] for one in event.findings}))
    assert [count for count, _found in told] == [4, 5, 7, 9, 12]
    assert told[0][1]["not-a-picture"] == ("0.png",)
    # Of three images nobody can tell which is blurred; of the next there are enough.
    assert ["blurred" in found for _count, found in told] == [False, True, True, True, True]
    assert told[-1][1]["blurred"] == ("1.png",)
    last = {one.code: one.pictures for one in report.findings}
    assert told[-1][1] == {code: last[code] for code in told[-1][1]}
