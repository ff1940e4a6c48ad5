"""The report: self-contained, safe with any words, the same in both languages, honest with numbers it lacks."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import ExifTags, Image
from reports import BARE, NASTY, Page, full, image

from tsuika import pages
from tsuika.core.errors import ImageError
from tsuika.core.texts import _, languages
from tsuika.evaluation import near_copies, report, scores
from tsuika.pages import chart


@pytest.mark.parametrize("data", [full(), BARE], ids=["full", "bare"])
def test_the_page_asks_the_network_for_nothing(data):
    page = Page(report.render(data))
    for tag, name, value in page.attributes:
        if name in ("src", "href", "srcset", "action", "data", "poster"):
            assert value.startswith("data:image/"), (tag, name, value)
    html = report.render(data)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"https?:|fetch\(|XMLHttp|WebSocket|import\(", re.sub(r"base64,[^\"]*", "", html))
    assert "default-src 'none'" in html
    assert page.tags.count("script") == 1


@pytest.mark.parametrize("language", languages())
def test_a_language_shows_its_own_words_only(language):
    text = Page(report.render(full(), language), language).text
    japanese = re.findall(r"[\u3040-\u30ff]", text.replace("日本語", ""))
    assert bool(japanese) == (language == "ja")
    for words in (
        _("Before / after"),
        _("Measured"),
        _("Your files"),
        _("Training loss"),
        _("Settings"),
        _("without the trigger word"),
        _("all steps done"),
    ):
        assert words.to(language) in text


def test_words_of_users_cannot_become_markup():
    nasty = full(
        title=NASTY,
        trigger=NASTY,
        example_prompt=NASTY,
        command=NASTY,
        recipe_toml=NASTY,
        base=NASTY,
        device=NASTY,
        family=NASTY,
        made_with=NASTY,
        seconds={f"{NASTY}": 1.0},
        warnings=(report.Notice("XX001", {"en": NASTY}),),
        left_out=(report.LeftOutRow(NASTY, NASTY),),
        images=(report.TrainingImage(NASTY, NASTY, image()),),
        before_after=(report.BeforeAfter(NASTY, (1,), (image(),), (image(),)),),
        scores=(report.Score(NASTY, (0.5,), (0.5,)),),
        artifacts=(report.WrittenFile("artifacts/<b>.safetensors", NASTY, 1, NASTY),),
    )
    page = Page(report.render(nasty))
    assert page.tags.count("script") == 1
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert NASTY.replace("  ", " ") in page.text


def test_report_json_holds_plain_values_only():
    data = full(scores=(report.Score("likeness", (0.5,), (float("nan"),)),), losses=(0.5, float("inf")))
    values = json.loads(data.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert values["range"] == {"safe": None, "balanced": None, "likeness": None}
    assert values["guard"] is None
    assert [set(file) >= {"path", "format", "sha256"} for file in values["artifacts"]] == [True, True]
    assert values["scores"]["likeness"]["after"]["mean"] is None
    assert values["scores"]["likeness"]["verdict"] == "unknown"
    assert json.loads(BARE.to_json())["final_loss"] is None


def test_pictures_come_back_out_of_their_data_uris(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 48, 3), np.uint8))
    kind, coded = report.data_uri(noise, 160).split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(coded))) as back:
        assert np.array_equal(np.asarray(back), np.asarray(noise))
    path = tmp_path / "large.png"
    image(size=(900, 300)).save(path)
    _, coded = report.data_uri(path, 160).split(",")
    with Image.open(io.BytesIO(base64.b64decode(coded))) as back:
        assert back.width == 160
        assert abs(back.height - 160 / 3) < 1
    with pytest.raises(ImageError, match="gone"):
        report.data_uri(tmp_path / "gone.png", 160)


def test_training_pictures_are_shown_and_scored_as_they_were_trained_on(tmp_path):
    """Turned by EXIF, on white, 16 bits scaled; EXIF that cannot be read is passed over."""
    turned, clear, deep, odd = (tmp_path / name for name in ("turned.jpg", "clear.png", "deep.png", "odd.png"))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image(size=(64, 32)).save(turned, exif=exif)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(clear)
    Image.fromarray(np.full((8, 8), 0x8080, np.uint16)).save(deep)
    image().save(odd, exif=b"Exif\0\0nonsense, and no TIFF")
    for read in (lambda path: np.asarray(near_copies.opened(path)), scores.pixels):
        assert read(turned).shape == (64, 32, 3)
        assert (read(clear) == 255).all()
        assert (read(deep) == 128).all()
        assert read(odd).shape == (64, 64, 3)


@pytest.mark.parametrize("count", [1, 2, 40, 601, 5000])
def test_smoothing_keeps_a_constant_and_calms_noise(count):
    assert np.allclose(chart.smoothed([0.4] * count), 0.4)
    noise = np.random.default_rng(1).normal(1, 0.1, count)
    if count > 100:
        assert np.std(chart.smoothed(noise)) < 0.4 * np.std(noise)
    with_gap = [0.4] * count + [float("nan")] + [0.4] * count
    assert np.allclose(chart.smoothed(with_gap), 0.4)


def _points(path):
    return [tuple(map(float, pair.split())) for pair in re.findall(r"[ML]([\d. ]+)", path)]


@pytest.mark.parametrize("count", [1, 2, 40, 601, 20_000])
def test_the_curve_stays_in_its_frame_and_runs_to_the_right(count):
    losses = np.random.default_rng(2).exponential(0.3, count)
    losses[count // 2] = 50  # a spike
    drawn = chart.curve(losses.tolist(), best_step=max(1, count // 3))
    for path in (drawn.raw, drawn.smooth):
        xs, ys = zip(*_points(path))
        assert list(xs) == sorted(xs)
        assert min(ys) >= 0
        assert max(ys) <= 300
        assert xs[0] <= 2  # within one bin of the ends
        assert count == 1 or xs[-1] >= 998
        assert len(xs) <= 2 * chart.CURVE_POINTS + 2
    assert all(0 <= at <= 100 for at, _ in (*drawn.x_ticks, *drawn.y_ticks))
    assert 0 <= drawn.best <= 100
    labels = [float(label) for _, label in drawn.y_ticks]
    assert len(labels) >= 2
    heights = [at for at, _ in drawn.y_ticks]
    assert np.corrcoef(labels, heights)[0, 1] == pytest.approx(-1, abs=1e-2)  # labels are rounded


def test_a_curve_has_gaps_where_losses_were_not_finite_and_none_without_losses():
    assert chart.curve([]) is None
    assert chart.curve([float("nan")] * 3) is None
    assert chart.curve([0.5, float("nan"), 0.4, 0.3]).raw.count("M") == 2
    for losses in ((), (float("nan"),), (0.5,), (0.5, 0.5)):
        Page(report.render(replace(BARE, losses=losses)))


def test_verdicts_need_more_than_the_seeds_explain():
    score = report.Score
    assert score("likeness", (0.10, 0.12, 0.11), (0.8, 0.81, 0.82)).verdict == "up"
    assert score("likeness", (0.8, 0.81, 0.82), (0.10, 0.12, 0.11)).verdict == "down"
    assert score("likeness", (0.1, 0.6, 0.9), (0.2, 0.7, 0.95)).verdict == "same"
    assert score("likeness", (0.5, 0.5), (0.5, 0.5)).verdict == "same"
    assert score("likeness", (0.1,), (0.9,)).verdict == "unknown"


@pytest.mark.parametrize("method", ["lora", "bitfit:METHOD"])
def test_where_no_other_program_reads_it_the_page_says_so_and_names_no_folders(method):
    page = report.render(full(method=method, base="embedded"), "en")
    assert ("No other program is known to read" in page) == (method != "lora")
    assert ("the folders named below" in page) == (method == "lora")


def test_every_file_must_have_been_read_back_for_the_self_check():
    checked = full()
    assert report.largest_error(checked.artifacts) == 3e-4
    assert "0.03%" in Page(report.render(checked)).text
    unchecked = replace(checked.artifacts[0], largest_relative_error=None)
    assert report.largest_error((unchecked, checked.artifacts[1])) is None
    page = Page(report.render(full(artifacts=(unchecked, checked.artifacts[1])))).text
    assert _("These files were not read back and compared.") in page


def test_text_to_paste_is_copied_as_it_is():
    sentence = "tsuika train --out a-b\n  'x  y' <lora:a:1>"
    page = Page(str(pages.unbroken(sentence)))
    assert "".join(page.words) == sentence


def test_write_puts_both_files_into_the_run(tmp_path):
    report.write(full(), tmp_path)
    numbers, page = tmp_path / "report.json", tmp_path / "report.html"
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.html"}
    assert json.loads(numbers.read_text(encoding="utf-8"))["steps_done"] == 40
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_several_sets_are_shown_each_with_its_words_and_images() -> None:
    rows = [("cats", "zuzu", "cat", 60), ("houses", "kiki", "", 2)]
    sets = tuple(report.ImageSet(*row) for row in rows)
    images = tuple(
        report.TrainingImage(f"{name}/{i}.png", f"{word} {i}", image(), name)
        for name, word, _of, n in rows
        for i in range(n)
    )
    data = full(images=images, sets=sets)
    page = Page(report.render(data, "en"))
    for words in ("zuzu, kiki", "houses", "60 images", "2 images", "and 36 more"):
        assert words in page.text
    assert data.to_dict()["sets"][1] == {"name": "houses", "trigger": "kiki", "class_word": "", "images": 2}
    assert full().to_dict()["sets"] == [] and full().triggers == "tsuipi"
