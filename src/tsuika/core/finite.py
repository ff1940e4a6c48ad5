"""One check for all weights that come in: a value that is NaN or infinite makes every image black, and nothing says why."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsuika.core.errors import FormatError
from tsuika.core.texts import _

if TYPE_CHECKING:
    from torch import Tensor

# The largest number of half precision, in which such files are kept; what trainers write is below 1e4.
MAX_ALPHA: Final = 65504.0


def is_finite(tensor: Tensor) -> bool:
    """Whether no value of a tensor, of any number type, is NaN or infinite."""
    import torch

    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
        return True
    if tensor.is_complex() or tensor.dtype.itemsize == 1:
        # Torch has no comparisons for them.
        tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor.float()
    # NaN goes through both. Ten times as fast as `isfinite`, and without a copy.
    return all(math.isfinite(end) for end in torch.stack(torch.aminmax(tensor)).tolist())


def checked(path: Path, name: str, tensor: Tensor) -> Tensor:
    """The tensor called `name` of the file `path`, if all its values are finite; in a number type that torch computes
    in. Numbers of 8 bits become half precision, which holds every one of them. Raises FormatError: some are not
    (MD011)."""
    import torch

    check(path, name, tensor)
    return tensor.to(torch.float16) if tensor.is_floating_point() and tensor.dtype.itemsize == 1 else tensor


def check(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse a tensor with values that are not finite. Raises FormatError: there are some (MD011)."""
    import torch

    if is_finite(tensor):
        return
    bad = int((~torch.isfinite(tensor.float())).sum())
    raise _refusal(path, name, _("{bad} of its {total} values are NaN or infinite.", bad=bad, total=tensor.numel()))


def check_alpha(path: Path, name: str, alpha: float) -> None:
    """Refuse the alpha of a layer where it is used and can only destroy images: not finite, or beyond half precision.
    Where nothing is divided by a rank (LoKr of two full factors) it is not used, and may be anything. Raises
    FormatError: it cannot be meant (MD011)."""
    if not math.isfinite(alpha) or abs(alpha) > MAX_ALPHA:
        raise _refusal(path, name, _("Its value is {alpha}; trainers write 1 to a few hundred.", alpha=f"{alpha:g}"))


def _refusal(path: Path, name: str, why: str) -> FormatError:
    return FormatError("MD011", where=path, tensor=name, why=why)
