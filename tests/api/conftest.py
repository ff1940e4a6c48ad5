"""Fixtures of more than one test file here."""

import pytest
from search_runs import Runs

from tsuika.api import training


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Stands in for the trainings of a search."""
    pytest.importorskip("optuna", reason="the search needs optuna")
    stand_in = Runs()
    # The folder of images that the recipe names.
    here = tmp_path_factory.mktemp("here")
    (here / "pictures").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(training, "train", stand_in.train)
    monkeypatch.setattr(training, "resume", stand_in.resume)
    return stand_in
