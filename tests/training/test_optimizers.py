"""Optimizers by name, by address, and with settings of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tsuika import config
from tsuika.core.errors import RecipeError
from tsuika.core.types import ParamGroup
from tsuika.training import optim


def built(**settings: Any) -> torch.optim.Optimizer:
    train = config.Recipe.of("lora", settings={f"train.{key}": value for key, value in settings.items()}).train
    return optim.build(train, [ParamGroup("unet", [nn.Parameter(torch.ones(3, 3))], 0.0)])


def test_its_settings_are_pythons_literals() -> None:
    defaults = built(optimizer_args=["betas=0.8,0.95", "amsgrad=True", "eps=1e-6"]).defaults
    assert (defaults["betas"], defaults["amsgrad"], defaults["eps"]) == ((0.8, 0.95), True, 1e-6)


def test_an_optimizer_by_its_address_steps_as_made_by_hand() -> None:
    """Against torch's own class, rate and decay from the recipe's settings."""
    ours = built(
        optimizer_class="torch.optim:NAdam",
        optimizer_args=["momentum_decay=0.01"],
        weight_decay=0.1,
        learning_rate=0.02,
    )
    weight = nn.Parameter(torch.ones(3, 3))
    theirs = torch.optim.NAdam([weight], lr=0.02, weight_decay=0.1, momentum_decay=0.01)
    for _ in range(3):
        for optimizer in (ours, theirs):
            for param in optimizer.param_groups[0]["params"]:
                param.grad = param.detach() * 2
            optimizer.step()
    assert torch.equal(ours.param_groups[0]["params"][0], weight) and not torch.equal(weight, torch.ones(3, 3))


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"optimizer_class": "torch.optim:Nothing"}, "Nothing"),
        ({"optimizer_class": "no_such_package:Lion"}, "no_such_package"),
        ({"optimizer_class": "torch.nn:Linear"}, "not an optimizer"),
        ({"optimizer_class": "torch.optim:LBFGS"}, "fails at a step"),
        ({"optimizer_class": "torch.optim:SparseAdam"}, "dense gradients"),
        ({"optimizer_class": "torch.optim.NAdam"}, "package.module:Class"),
        ({"optimizer_class": "torch.optim:NAdam", "optimizer": "prodigy"}, "train.optimizer"),
        ({"optimizer_args": ["betas"]}, "name=value"),
        ({"optimizer_args": ["beta=0.9"]}, "betas"),
        ({"optimizer_args": ["lr=1"]}, "train.learning_rate"),
        ({"optimizer_args": ["weight_decay=1"]}, "train.weight_decay"),
        ({"optimizer_args": ["betas=2,3"]}, "beta"),
        ({"optimizer_args": ["betas=0.9,"]}, "range"),
        ({"optimizer_args": ["eps=small"]}, "eps"),
        ({"optimizer": "riemannian", "optimizer_args": ["betas=1,2"]}, "memory"),
    ],
)
def test_what_cannot_be_is_told_before_images_are_read(settings: dict[str, Any], found: str) -> None:
    with pytest.raises(RecipeError, match="RC002") as caught:
        method = "textual-inversion" if "optimizer" in settings else "lora"
        train = config.Recipe.of(method, settings={f"train.{key}": value for key, value in settings.items()}).train
        optim.check(train, torch.device("cpu"))
    assert found in str(caught.value)
