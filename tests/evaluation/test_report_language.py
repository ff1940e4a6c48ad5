"""Which language a report opens in: the run's, else the browser's."""

from __future__ import annotations

import re

import pytest
from reports import BARE

from tsuika.evaluation import report


@pytest.mark.parametrize(
    ("language", "opens", "browser"), [("en", "en", False), ("ja", "ja", False), (None, "en", True)]
)
def test_the_page_says_what_it_opens_in(language: str | None, opens: str, browser: bool) -> None:
    page = report.render(BARE, language)  # type: ignore[arg-type]
    head = re.search(r"<html[^>]*>", page)
    assert head is not None and f'lang="{opens}"' in head[0] and ('data-language="browser"' in head[0]) == browser
