"""Fixtures of more than one test file here."""

import pytest
from search_runs import Runs

from tsuika.api import training


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Stands in for the trainings of a search."""
    pytest.importorskip("optuna", reason="the search needs optuna")
    stand_in = Runs()
    monkeypatch.setattr(training, "train", stand_in.train)
    monkeypatch.setattr(training, "resume", stand_in.resume)
    return stand_in
