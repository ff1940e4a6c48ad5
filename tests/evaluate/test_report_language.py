"""Which language a report opens in: the run's, else the browser's."""

from __future__ import annotations

import re

import pytest
from test_report import BARE

from tsuika.cli import screen
from tsuika.evaluate import report


@pytest.mark.parametrize(
    ("language", "opens", "browser"), [("en", "en", False), ("ja", "ja", False), (None, "en", True)]
)
def test_the_page_says_what_it_opens_in(language: str | None, opens: str, browser: bool) -> None:
    page = report.render(BARE, language)  # type: ignore[arg-type]
    head = re.search(r"<html[^>]*>", page)
    assert head is not None and f'lang="{opens}"' in head[0] and ('data-language="browser"' in head[0]) == browser


@pytest.mark.parametrize(
    ("wish", "environment", "said", "page"),
    [
        ("ja", "en_US.UTF-8", "ja", "ja"),
        ("en", "ja_JP.UTF-8", "en", "en"),
        ("auto", "ja_JP.UTF-8", "ja", "ja"),
        ("auto", "en_US.UTF-8", "en", "en"),
        ("auto", "", "en", None),
        ("auto", "C.UTF-8", "en", None),
    ],
)
def test_only_a_language_that_was_asked_for_is_the_pages(
    wish: str, environment: str, said: str, page: str | None
) -> None:
    try:
        screen.use_language(wish, environment)
        assert (screen.language(), screen.page_language()) == (said, page)
    finally:
        screen.use_language("en", "")
