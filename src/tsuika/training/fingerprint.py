"""What tells one model from another: a hash over all of its numbers."""

from __future__ import annotations

import hashlib
from typing import Final

import torch
from torch import Tensor

from tsuika.core.types import Model, model_tensors

# Numbers that are summed at once, for the memory that this takes.
_CHUNK: Final = 1 << 22


def fingerprint(model: Model) -> str:
    """A hash over every number of a model, on whatever device; two sums of a tensor's bits stand for it."""
    digest = hashlib.sha256()
    for name, value in sorted(model_tensors(model).items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} {_sums(value)}".encode())
    return digest.hexdigest()


def _sums(value: Tensor) -> tuple[int, int]:
    """The sum of a tensor's bits as whole numbers, plain and by place; exact, as they wrap around."""
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
    flat = value.detach().contiguous().view(-1).view(bits)
    places = torch.arange(1, min(_CHUNK, len(flat)) + 1, device=value.device)
    plain = placed = 0
    for first in range(0, len(flat), _CHUNK):
        part = flat[first : first + _CHUNK].to(torch.int64)
        plain += int(part.sum())
        placed += int((part * places[: len(part)]).sum()) * (first + 1)
    return plain, placed
