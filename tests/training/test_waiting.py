"""How often a device is waited for in a step: counted on the stand-in (`pytest --device standin`)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import standin
import tiny_models

sys.path.append(str(Path(__file__).parents[1] / "methods"))
from test_method_contract import run, start

from tsuika.methods import METHODS

on_standin = pytest.mark.skipif(tiny_models.DEVICE != standin.NAME, reason="needs --device standin")


@on_standin
@pytest.mark.parametrize("method", METHODS)
def test_a_step_waits_for_the_device_once(method: str) -> None:
    training = start(method, "sd1", steps=5, accumulate=2)
    # Captions are encoded, and the optimizer's state made.
    run(training, 3)
    standin.COUNTS.clear()
    run(training, 2)
    assert standin.COUNTS["synchronisations"] == 2, standin.COUNTS
    # Of each micro-batch the images, and times and noise, which are drawn on the CPU so that every machine draws the same; for a
    # new word the text's tokens.
    assert standin.COUNTS["copies"] <= 2 * 2 * 4, standin.COUNTS
