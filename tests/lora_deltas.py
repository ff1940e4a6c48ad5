"""What a LoRA does to a weight."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tsuika.core.types import Artifact
from tsuika.diffusion.adapters import own_change
from tsuika.formats import lora, relative_errors


def delta(artifact: Artifact) -> Iterator[tuple[str, str, torch.Tensor]]:
    """(component, canonical path, ΔW in fp32), sorted; ValueError for DoRA, whose effect depends on the base."""
    for (component, path), parts in lora.layers(artifact, "ΔW").items():
        if "dora_scale" in parts:
            raise ValueError(f"{component}.{path} is DoRA: its effect depends on the base's weights")
        yield component, path, own_change(parts, torch.float32)


def largest_relative_error(a: Artifact, b: Artifact) -> float:
    return max(relative_errors(a, b).values(), default=0.0)
