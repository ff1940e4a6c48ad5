"""What tests of pictures share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def photos() -> Path:
    folder = next(
        (up / "shared" / "data" / "photos" for up in Path(__file__).parents if (up / "shared").is_dir()), None
    )
    if folder is None or not folder.is_dir():
        pytest.skip("needs the photographs")
    return folder
