"""Proximal steps: a penalty on the size of an update, applied after the optimizer's step.

The proximal point of f at x with step h is argmin_z |z - x|² / 2 + h f(z) (Parikh & Boyd 2014, "Proximal Algorithms").
Unlike a gradient inside Adam it is not divided by the root of Adam's second moment, and it reaches zero. Pure functions
of tensors in float32. Shapes: n vectors of D numbers, R ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kept_by_l2(dose: float) -> float:
    """What the proximal point of dose * |x|² / 2 leaves of x: a share of 0..1, for x alone or any x of a sum.

    Shrinking a factor of a LoRA so is the very point of dose * ‖ΔW‖²_F / 2 among all matrices; of a network it is the last layer.
    """
    return 1 / (1 + dose)


def kept_by_group(norm: Tensor, threshold: float) -> Tensor:
    """What the proximal point of threshold * |x| leaves of groups x with these norms: a share of 0..1 (group lasso)."""
    beyond = (norm - threshold).clamp(min=0)
    return torch.where(beyond > 0, beyond / norm, 0.0)


def kept_in_ball(norm: Tensor, largest: float) -> Tensor:
    """What the nearest point of the ball |x| <= largest has of an x with this norm: exactly 1 inside."""
    return torch.where(norm > largest, largest / norm, 1.0)


def towards(value: Tensor, start: Tensor, kept: Tensor | float) -> Tensor:
    """start + kept * (value - start); `value` to the bit where `kept` is 1, `start` where it is 0."""
    return torch.lerp(value, start, 1 - kept)


def soft_threshold(value: Tensor, start: Tensor, threshold: float) -> Tensor:
    """The proximal point of threshold * |value - start|_1: exactly `start` within the threshold of it."""
    away = value - start
    return torch.where(away.abs() <= threshold, start, value - away.sign() * threshold)


def low_rank_norm(up: Tensor, down: Tensor, scale: float) -> Tensor:
    """‖scale * up @ down‖_F without the product, from the two Gram matrices: O(R² (out + in)), 0-dimensional.

    ‖UD‖² = trace(UᵀU · DDᵀ). `up` is (out, R), `down` (R, in), both with the axes of a kernel behind.
    """
    up, down = up.flatten(1), down.flatten(1)
    square = ((up.mT @ up) * (down @ down.mT)).sum()
    return abs(scale) * square.clamp(min=0).sqrt()


def along_sphere(value_nD: Tensor, start_nD: Tensor, kept: float) -> Tensor:
    """Each vector turned along the great circle to its start, to `kept` of the angle between them; lengths stay.

    With `kept_by_l2` the proximal point of dose * angle² / 2 on the sphere. A vector within float32's resolution of its
    start, or of the opposite, from which every way is as far, stays where it is.
    """
    length_n1 = value_nD.norm(dim=-1, keepdim=True)
    start_nD = start_nD / start_nD.norm(dim=-1, keepdim=True)
    cosine_n1 = (value_nD * start_nD).sum(-1, keepdim=True) / length_n1
    aside_nD = value_nD / length_n1 - cosine_n1 * start_nD  # at right angles to the start
    sine_n1 = aside_nD.norm(dim=-1, keepdim=True)
    angle_n1 = kept * torch.atan2(sine_n1, cosine_n1)
    turned_nD = angle_n1.cos() * start_nD + angle_n1.sin() * aside_nD / sine_n1
    return torch.where(sine_n1 > torch.finfo(value_nD.dtype).eps, turned_nD * length_n1, value_nD)
