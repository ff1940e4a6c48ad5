"""As much of `torchvision.transforms` as the peers' scripts ask for, on images that have the right size already."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from PIL import Image

SPENT = [0.0]  # processor seconds in here


class InterpolationMode(Enum):
    """By the names that the scripts look up."""

    BILINEAR = Image.Resampling.BILINEAR
    BICUBIC = Image.Resampling.BICUBIC
    LANCZOS = Image.Resampling.LANCZOS


class Compose:
    """One after the other."""

    def __init__(self, parts: Sequence[Callable[[Any], Any]]) -> None:
        self.parts = parts

    def __call__(self, value: Any) -> Any:
        began = time.process_time()
        for part in self.parts:
            value = part(value)
        SPENT[0] += time.process_time() - began
        return value


class Resize:
    """Of the shorter side, as every crop after it: nothing is left to do on images of that size."""

    def __init__(self, size: int, interpolation: Any = None) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        if image.size != (self.size, self.size):
            raise ValueError(f"{image.size}: this stand-in takes images of {self.size} x {self.size} only")
        return image


CenterCrop = RandomCrop = Resize


class Lambda:
    """A function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, value: Any) -> Any:
        return self.function(value)


class RandomHorizontalFlip:
    """Flips with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, image: Image.Image) -> Image.Image:
        is_flipped = float(torch.rand(())) < self.p
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if is_flipped else image


class ToTensor:
    """C x H x W in 0..1."""

    def __call__(self, image: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)


class Normalize:
    """To the range that one half as mean and deviation give."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = mean[0], std[0]

    def __call__(self, value: torch.Tensor) -> torch.Tensor:
        return value.sub_(self.mean).div_(self.std)
