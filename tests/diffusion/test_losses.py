"""Losses against kohya's formulas, written down from its sd-scripts (`get_huber_threshold_if_needed`, `conditional_loss`)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tsuika.diffusion.losses import errors, thresholds
from tsuika.diffusion.objective import alphas_cumprod_T, objective

C = 0.1


def kohya(kind: str, schedule: str, output: Tensor, target: Tensor, t_B: Tensor) -> list[float]:
    """Number by number."""
    alphas, found = alphas_cumprod_T({}), []
    for row, t in enumerate(t_B.tolist()):
        if schedule == "exponential":
            c = math.exp(math.log(C) / 1000 * t)
        elif schedule == "snr":
            sigma = math.sqrt((1 - float(alphas[t])) / float(alphas[t]))
            c = (1 - C) / (1 + sigma) ** 2 + C
        else:
            c = C
        factor = 2 * c if kind == "huber" else 2
        differences = (output[row] - target[row]).flatten().tolist()
        found.append(sum(factor * (math.sqrt(d * d + c * c) - c) for d in differences) / len(differences))
    return found


@pytest.mark.parametrize("kind", ["huber", "smooth-l1"])
@pytest.mark.parametrize("schedule", ["snr", "exponential", "constant"])
def test_huber_is_kohyas(kind: Any, schedule: Any) -> None:
    source = torch.Generator().manual_seed(0)
    output, target = torch.randn(2, 4, 2, 3, 3, generator=source).unbind()
    t_B = torch.tensor([0, 300, 700, 999])
    threshold_B = thresholds(objective("epsilon", {}, "cpu"), schedule, C, t_B)
    assert errors(kind, output, target, threshold_B).tolist() == pytest.approx(
        kohya(kind, schedule, output, target, t_B), rel=1e-4
    )
    near = target + 1e-3 * C * output
    whole = errors(kind, near, target, threshold_B) * (1 if kind == "huber" else threshold_B)
    torch.testing.assert_close(
        whole, functional.mse_loss(near, target, reduction="none").mean((1, 2, 3)), rtol=0.05, atol=0
    )


def test_l2_is_the_squared_error_and_pure_noise_has_a_threshold() -> None:
    output, target = torch.randn(2, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0)).unbind()
    assert torch.equal(errors("l2", output, target), (output - target).pow(2).flatten(1).mean(1))
    zero_snr = objective("v_prediction", {"rescale_betas_zero_snr": True}, "cpu")
    assert thresholds(zero_snr, "snr", C, torch.tensor([999])).tolist() == pytest.approx([C])
    with pytest.raises(ValueError, match="noise schedule"):
        thresholds(objective("flow", {}, "cpu"), "snr", C, torch.tensor([999.0]))
