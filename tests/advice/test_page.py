"""The documentation's tables are what the advisor says today."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))
import advice_table  # noqa: E402


@pytest.mark.parametrize(("lang", "page"), [("en", "advise.md"), ("ja", "advise.ja.md")])
def test_the_page_shows_what_is_advised(lang: str, page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert "\n".join(advice_table.lines(lang)) in text, "write it again: python scripts/advice_table.py"
