"""Pages on paper: white, whatever theme the screen has, and with nothing folded away."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tsuika

PAGES = sorted(Path(tsuika.__file__).parent.rglob("*.html.j2"))
SHELLS = [path for path in PAGES if "<!doctype html>" in path.read_text("utf-8")]


@pytest.mark.parametrize("page", SHELLS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_paper_is_white_and_nothing_is_folded(page: Path) -> None:
    text = page.read_text("utf-8")
    printed = text[text.index("@media print") : text.index("</style>")]
    assert "--paper: #fff;" in printed and "break-after: avoid" in printed
    assert page.parent.name != "pages" or "beforeprint" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_only_screens_are_dark(page: Path) -> None:
    text = page.read_text("utf-8")
    assert not re.search(r"(?<!screen and )\(prefers-color-scheme: dark\)", text)
