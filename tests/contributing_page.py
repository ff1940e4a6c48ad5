"""The files that docs/contributing.md is made of."""

from __future__ import annotations

import re
from pathlib import Path

_PAGE = Path(__file__).parents[1] / "docs" / "contributing.md"


def files() -> dict[str, str]:
    """Name -> text of every block with a title."""
    text = _PAGE.read_text(encoding="utf-8")
    return dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', text, re.DOTALL | re.MULTILINE))
