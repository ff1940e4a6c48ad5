"""Pages on paper: white, whatever theme the screen has, and with nothing folded away."""

from __future__ import annotations

from pathlib import Path

import pytest

import tsuika

PAGES = sorted(
    path for path in Path(tsuika.__file__).parent.rglob("*.html.j2") if "<!doctype html>" in path.read_text("utf-8")
)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_paper_is_white_and_nothing_is_folded(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.count("prefers-color-scheme: dark") == text.count("screen and (prefers-color-scheme: dark)") > 0
    printed = text[text.index("@media print") : text.index("</style>")]
    assert "--paper: #fff;" in printed and "break-after: avoid" in printed
    parts = [text, *(other.read_text("utf-8") for other in page.parent.glob(f"{page.stem.split('.')[0]}_*.html.j2"))]
    assert not any("<details" in part for part in parts) or "beforeprint" in text


def test_there_are_pages() -> None:
    assert len(PAGES) >= 3
