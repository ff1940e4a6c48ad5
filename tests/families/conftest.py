from __future__ import annotations

from pathlib import Path

import pytest
from family_files import write_tokenizers

from tsuika.families import FAMILIES, Family, StableDiffusion


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a very small CLIP tokenizer."""
    return write_tokenizers(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session", params=FAMILIES, ids=lambda family: family.facts.family)
def kind(request: pytest.FixtureRequest) -> Family:
    """Every family in turn."""
    found: Family = request.param
    return found


@pytest.fixture(scope="session")
def tiny(kind: Family, words: Path) -> StableDiffusion:
    """A tiny model of the family; not to be changed."""
    return kind.tiny(3, words)
