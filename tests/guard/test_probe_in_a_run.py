"""A run that is measured on the way is the run that is not, to the bit; and what is measured is what will be written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator

import small_methods
from tiny_models import picture_batch, shallow
from tsuika.core.seeds import generator
from tsuika.guard.probe import Probe, ProbedImage
from tsuika.guard.reading import Reading
from tsuika.methods import METHODS
from tsuika.training.fit import Fit
from tsuika.training.loop import conditioner, fit


def start(method: str, optimizer: str = "adamw", ema: float = 0.9) -> Fit:
    train = {"steps": 4, "batch_size": 2, "precision": "fp32", "device": "cpu", "learning_rate": 1e-2, "ema": ema}
    keys = {f"train.{name}": value for name, value in {**train, "optimizer": optimizer}.items()}
    recipe = small_methods.recipe(method, **keys)
    model: Any = shallow("sd1")
    attachment = METHODS[method].attach(model, recipe.method, generator(0, "init"))
    source = conditioner(model, attachment, lambda _: (64, 64))
    captions = ("a zuzu cat", "zuzu")
    return Fit(
        model,
        attachment,
        recipe,
        Accelerator(mixed_precision="no", cpu=True),
        lambda number: picture_batch(number, 2, captions),
        source,
    )


def probe_of(run: Fit) -> Probe:
    held = [ProbedImage("a", torch.randn(4, 8, 8, generator=generator(1, "held")), "a zuzu cat", (64, 64))]
    return Probe(run.model, run.attachment, held, [], controls=())


CASES = [*((method, "adamw") for method in METHODS), ("lora", "schedule-free")]


@pytest.mark.parametrize(("method", "optimizer"), CASES)
def test_looking_changes_nothing(method: str, optimizer: str) -> None:
    if optimizer == "schedule-free":
        pytest.importorskip("schedulefree")
    plain, watched = start(method, optimizer), start(method, optimizer)
    probe = probe_of(watched)
    for _ in fit(plain):
        pass
    for _ in fit(watched):
        with watched.written_weights():
            probe.measure(train=False)
    others = plain.attachment.tensors()
    assert all(torch.equal(value, others[name]) for name, value in watched.attachment.tensors().items())
    assert all(torch.equal(value, plain.average[name]) for name, value in watched.average.items())


def test_the_averaged_weights_are_measured() -> None:
    run = start("lora")
    probe = probe_of(run)
    for _ in fit(run):
        pass
    live = probe.measure()
    with run.written_weights():
        averaged = probe.measure()
    run.attachment.load(run.average)
    assert probe.measure() == averaged != live
    assert isinstance(averaged, Reading)
