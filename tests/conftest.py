"""What every test may use: one thread (two would fight), no network, and lines that nothing wraps."""

from __future__ import annotations

import gc
import os

os.environ["COLUMNS"] = "300"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

from tsuika.cli import language


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where tiny models are: cpu, cuda, or standin (tests/standin.py)")


def pytest_configure(config: pytest.Config) -> None:
    if (name := config.getoption("--device")) != "cpu":
        import standin
        import tiny_models

        if name == standin.NAME:
            standin.register()
        tiny_models.DEVICE = name


@pytest.fixture(autouse=True)
def no_language_of_an_earlier_test() -> None:
    """The command line keeps its language for the process; here a process runs many."""
    language.use(None)


@pytest.fixture(autouse=True, scope="module")
def nothing_old_is_swept() -> None:
    """Every training ends in a sweep of memory; half a million things of imported libraries need not be looked at then."""
    gc.collect()
    gc.freeze()
