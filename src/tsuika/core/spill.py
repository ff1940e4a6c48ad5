"""Tensors that are rarely needed, out of memory: in a temporary file that is mapped."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

LEAST_BYTES: Final = 1 << 28  # below, memory is not worth a file
_ALIGNED: Final = 64  # bytes, as torch's own memory is


def spilled(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same numbers, on the CPU, in a file of the system's temporary folder (TMPDIR) that no other program sees: its pages
    come into memory when they are read. As they are, where they are small, the disk is full, or the system (Windows) cannot
    take a mapped file's name away."""
    places, size = [], 0
    for tensor in tensors:
        places.append(size)
        size += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
    if size < LEAST_BYTES or os.name == "nt":
        return list(tensors)
    try:
        with tempfile.TemporaryDirectory(prefix="tsuika-") as folder:
            path = Path(folder) / "spilled"
            with path.open("wb") as stream:
                for place, tensor in zip(places, tensors, strict=True):
                    stream.seek(place)
                    stream.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
                stream.truncate(size)
            storage = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size)
    except OSError:
        return list(tensors)
    made = []
    for place, tensor in zip(places, tensors, strict=True):
        part = torch.empty(0, dtype=torch.uint8).set_(storage, place, (tensor.nbytes,))  # type: ignore[call-overload]
        made.append(part.view(tensor.dtype).view(tensor.shape))
    return made
