"""The page of all messages is the catalogue's own, in every language, with an anchor for each code."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tsuika.core.messages import MESSAGES

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_the_page_of_messages_is_current(lang: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    sys.modules.pop("troubleshooting", None)
    import troubleshooting

    text = troubleshooting.PAGES[lang].read_text(encoding="utf-8")
    assert text == troubleshooting.page(lang), "python scripts/troubleshooting.py"
    assert re.findall(r"^### (\w+)$", text, re.MULTILINE) == sorted(
        MESSAGES, key=lambda code: (list(troubleshooting.SECTIONS).index(code[:2]), code)
    )
