"""The end check on pictures whose truth is known, and its section of the report."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from reports import BARE

from tsuika.core.texts import _, languages
from tsuika.embedded import mascot, yardstick
from tsuika.evaluation import memorization, near_copies
from tsuika.evaluation.report import BeforeAfter, TrainingImage, render
from tsuika.guard.memorization import Memorization, Recall


def images(drawn: Sequence[mascot.Illustration], side: int = 64) -> list[Image.Image]:
    return [Image.fromarray(one.pixels).resize((side, side), Image.Resampling.BOX) for one in drawn]


TRAINING = [TrainingImage(f"{i}.png", f"a picture {i}", one) for i, one in enumerate(images(mascot.pictures(8), 128))]
FRESH = images(mascot.held_out(40, trained_backgrounds=True))


def row(after: Sequence[Image.Image], before: Sequence[Image.Image], prompt: str = "a tsuipi") -> BeforeAfter:
    return BeforeAfter(prompt, tuple(range(len(after))), tuple(before), tuple(after))


def found(rows: Sequence[BeforeAfter], **more: object) -> memorization.MemorizationCheck:
    checked = memorization.find(rows, TRAINING, **more)  # type: ignore[arg-type]
    assert checked is not None
    return checked


@pytest.mark.parametrize(
    "alter",
    [
        lambda image: image,
        ImageOps.mirror,
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
        lambda image: image.resize((24, 24)).resize((64, 64), Image.Resampling.BICUBIC),
    ],
)
def test_a_copy_is_found_with_its_picture_and_stands_first(alter) -> None:
    copy = alter(images(mascot.pictures(8))[5])
    checked = found([row([*FRESH[:3], copy], FRESH[4:8])])
    worst = checked.pairs[0]
    assert worst.drawing is copy and worst.image_name == "5.png" and worst.resemblance.similarity > 0.9
    assert worst.copies and checked.copies == 1
    assert worst.resemblance.base is not None and worst.resemblance.base < 0.9


def test_an_equal_picture_is_1() -> None:
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    assert float(memorization.similarity([pixels], [pixels])) == pytest.approx(1)
    flat = Image.new("RGB", (64, 64), "white")
    assert float(memorization.similarity([flat], [flat])) == 0


def test_fresh_true_pictures_are_hardly_ever_taken_for_copies() -> None:
    """The subject learnt to perfection, and nothing copied."""
    assert found([row(FRESH, FRESH)]).copies <= len(FRESH) // 20


def test_where_the_result_is_the_base_nothing_is_in_excess() -> None:
    checked = found([row(FRESH[:6], FRESH[:6])], encode=yardstick.directions, encoder="embedded")
    assert {pair.resemblance.excess for pair in checked.pairs} == {0.0}
    assert {pair.likeness.excess for pair in checked.pairs if pair.likeness} == {0.0}


def test_every_drawing_has_a_pair_and_the_same_again_gives_the_same() -> None:
    rows = [row(FRESH[:3], FRESH[3:6]), row(FRESH[6:8], FRESH[8:10], "a picture 2")]
    checked = found(rows, captions=["a picture 2"], encode=yardstick.directions, encoder="embedded")
    assert sorted((pair.prompt, pair.seed) for pair in checked.pairs) == [
        *(("a picture 2", seed) for seed in (0, 1)),
        *(("a tsuipi", seed) for seed in (0, 1, 2)),
    ]
    assert [pair.of_training for pair in checked.pairs] == [pair.prompt == "a picture 2" for pair in checked.pairs]
    again = found(rows, captions=["a picture 2"], encode=yardstick.directions, encoder="embedded")
    assert again.to_dict() == checked.to_dict()
    told = json.loads(json.dumps(checked.to_dict(), allow_nan=False))
    assert told["drawings"] == 5 and told["asked_captions"] and told["encoder"] == "embedded"


def test_nothing_to_compare() -> None:
    assert memorization.find([], TRAINING) is None and memorization.find([row(FRESH[:1], FRESH[:1])], []) is None


def test_pictures_of_another_shape_are_compared_as_they_are_trained_on(tmp_path: Path) -> None:
    """The middle of a wide picture, from a file; what is transparent is white, whatever colour it hides."""
    cutout = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    cutout.paste(Image.new("RGBA", (50, 70), "teal"), (30, 40))
    wide = Image.new("RGBA", (256, 128), "orange")
    wide.paste(cutout, (64, 0))
    wide.save(tmp_path / "wide.png")
    square = Image.new("RGB", (128, 128), "white")
    square.paste(cutout, mask=cutout)
    checked = memorization.find(
        [row([square.resize((64, 64))], FRESH[:1])],
        [TrainingImage("wide.png", "", tmp_path / "wide.png"), *TRAINING[:3]],
    )
    assert checked is not None and checked.pairs[0].image_name == "wide.png" and checked.pairs[0].copies


TITLE = _("Does it copy its training images?")


def section(checked: memorization.MemorizationCheck | None, language: str = "en") -> str:
    """The part of the page that is about it; empty where there is none."""
    page = render(replace(BARE, lookalikes=checked), language)
    if TITLE not in page:
        return ""
    found = page[page.rindex("<section", 0, page.index(TITLE)) :]
    return found[: found.index("</section>") + len("</section>")]


def test_the_section_says_it_in_both_languages_and_asks_for_nothing() -> None:
    nasty = '<script>alert("x")</script>'
    checked = found([row([*FRESH[:7], *images(mascot.pictures(8))[1:3]], FRESH[:9], nasty)])
    assert (checked.copies, len(checked.pairs)) == (2, 9)
    page = section(checked)
    for language in languages():
        for words in (
            TITLE,
            checked.verdict,
            _("No encoder knows what this base draws, so pixels alone were compared."),
        ):
            assert words.to(language) in page
    assert "2 of the 9 drawings" in page and "No training caption was drawn" in page
    assert nasty not in page and page.count("<figure>") == 12
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("<div") == page.count("</div>") and page.count("<span") == page.count("</span>")
    clean = section(found([row(FRESH[:2], FRESH[:2], "a picture 2")], captions=["a picture 2"]))
    assert "None of the 2 drawings" in clean and "drawings of training captions" in clean
    assert ' class="copy"' not in clean


def test_what_is_no_copy_is_hardly_ever_said_to_copy() -> None:
    """At the false rate of one drawing: 1 % of results at most, at any number of drawings, and no more than it takes."""
    rng = np.random.default_rng(0)
    for drawings in (1, 9, 24, 40, 200, 1000):
        copied = rng.binomial(drawings, near_copies.FALSE_RATE, 20_000)
        false = np.mean([near_copies.are_copies(int(count), drawings) for count in copied])
        assert false <= near_copies.FALSE_VERDICTS + 3.09 * np.sqrt(near_copies.FALSE_VERDICTS / 20_000)
    assert near_copies.are_copies(4, 40) and not near_copies.are_copies(3, 40) and near_copies.are_copies(2, 9)
    assert "may be chance" in found([row([*FRESH[:8], images(mascot.pictures(8))[1]], FRESH[:9])]).verdict


def test_a_second_take_of_each_image_hides_no_copy() -> None:
    """With the takes grouped it is found as if there were one; ungrouped, most coarse copies are not."""
    copies = [one.resize((16, 16)).resize((64, 64), Image.Resampling.BICUBIC) for one in images(mascot.pictures(8))]
    rows = [row(copies, FRESH[:8])]
    takes = [replace(one, source=ImageOps.fit(one.source.crop((2, 2, 126, 126)), (128, 128))) for one in TRAINING]
    both = [*TRAINING, *takes]
    blind, seen = (memorization.find(rows, both, groups=groups) for groups in (None, [*range(8), *range(8)]))
    assert blind is not None and seen is not None
    assert blind.copies < seen.copies == found(rows).copies


def test_the_report_holds_it_on_the_page_and_in_numbers() -> None:
    checked = found([row(FRESH[:2], FRESH[:2])])
    told = json.loads(replace(BARE, lookalikes=checked).to_json())["lookalikes"]
    assert told == json.loads(json.dumps(checked.to_dict())) and json.loads(BARE.to_json())["lookalikes"] is None
    assert section(checked) and not section(None)


@pytest.mark.parametrize(("cosine", "recalled"), [(0.9, 1), (0.5, 0)])
def test_what_comes_out_of_noise_is_told(cosine: float, recalled: int) -> None:
    leaks = Memorization((Recall("a", "a", cosine, 0.4, 0.1), Recall("b", "a", 0.4, 0.4, 0.0)))
    checked = found([row(FRESH[:2], FRESH[:2])], memorization=leaks)
    says = "1 of the 2 training captions" if recalled else "None of the 2 training captions"
    assert says in checked.verdict and says in section(checked)
    assert checked.to_dict()["from_noise"]["recalled"] == recalled


def test_the_encoders_numbers_stand_beside_and_decide_nothing() -> None:
    """An encoder to which everything is the same picture makes no copies."""
    blind = lambda pictures: torch.ones(len(pictures), 1)  # noqa: E731
    checked = found([row(FRESH[:3], FRESH[3:6])], encode=blind, encoder="blind")
    assert checked.copies == 0 and all(pair.likeness and pair.likeness.similarity == 1 for pair in checked.pairs)
    assert "what the encoder of the embedded base sees" in section(checked)
