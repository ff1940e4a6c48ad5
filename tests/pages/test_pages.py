"""A page holds every language and opens in one of them, or in its reader's."""

from __future__ import annotations

import pytest
from jinja2 import Environment
from markupsafe import Markup
from PIL import Image

from tsuika import pages
from tsuika.core.texts import _, languages


@pytest.fixture
def environment() -> Environment:
    return pages.template("tsuika.pages", "base.html.j2").environment


def test_a_text_stands_in_every_language_and_is_escaped() -> None:
    text = _("{low} … {high}", low="<b>", high="`x`")
    assert pages.spans(text) == Markup(
        '<span class="t" lang="en">&lt;b&gt; … <code>x</code></span><span class="t" lang="ja">&lt;b&gt;〜<code>x</code></span>'
    )


def test_sentences_by_language_fall_back_to_english() -> None:
    assert pages.spans({"en": "Yes"}).count("Yes") == len(languages())


def test_texts_in_a_template_become_spans_except_where_they_cannot_switch(environment: Environment) -> None:
    shown = environment.from_string('{{ _("{seconds} s", seconds=3) }}|{{ _("{seconds} s", seconds=3) | plain }}')
    assert shown.render(language="ja").split("|") == [str(pages.spans(_("{seconds} s", seconds=3))), "3秒"]
    assert shown.render(language=None).endswith("|3 s")


@pytest.mark.parametrize(
    ("language", "opened"), [("ja", '<html lang="ja">'), (None, '<html lang="en" data-language="browser">')]
)
def test_a_page_opens_in_a_language_or_in_its_readers(
    environment: Environment, language: str | None, opened: str
) -> None:
    page = environment.get_template("base.html.j2").render(language=language)
    assert opened in page
    for lang, name in (("en", "English"), ("ja", "日本語")):
        assert f'<button type="button" data-lang="{lang}" lang="{lang}">{name}</button>' in page
        assert f"html[lang={lang}] .t:not([lang={lang}])" in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("seconds", "en", "ja"),
    [
        (3.14, "3.1 s", "3.1秒"),
        (42, "42 s", "42秒"),
        (59.9, "1 min 0 s", "1分0秒"),
        (192, "3 min 12 s", "3分12秒"),
        (7320, "2 h 2 min", "2時間2分"),
    ],
)
def test_durations_read_well(seconds: float, en: str, ja: str) -> None:
    assert pages.in_languages(pages.duration(seconds)) == {"en": en, "ja": ja}


@pytest.mark.parametrize(
    ("count", "words"), [(999, "999 B"), (1_840_220, "1.8 MB"), (999_999, "1.0 MB"), (6_500_000_000, "6.5 GB")]
)
def test_sizes_read_well(count: int, words: str) -> None:
    assert pages.size(count) == words


def test_sentences_follow_each_other_as_a_language_sets_them() -> None:
    said = pages.sentences(_("{seconds} s", seconds=1), "x", None, "")
    assert (said, said.to("ja")) == ("1 s x", "1秒x")


def test_small_images_are_lossless() -> None:
    image = Image.new("RGB", (300, 150))
    assert pages.data_uri(image, 128).startswith("data:image/png;base64,")
    assert pages.data_uri(image, 256).startswith("data:image/webp;base64,")
    assert image.size == (300, 150)
