"""The tensors of which a layer of a LoRA is made, by kohya's and LyCORIS' names; a tensor's name ends in its part's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

LOHA: Final = tuple(f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2"))
LOKR: Final = tuple(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))
PARTS: Final = ("lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale", *LOHA, *LOKR)


def adapter(names: Iterable[str]) -> str:
    """Which kind of adapter these tensors are: "lora", "dora", "loha" or "lokr"."""
    text = "\n".join(names)
    return "loha" if ".hada_" in text else "lokr" if ".lokr_" in text else "dora" if ".dora_scale" in text else "lora"


def inner_factor(parts: Mapping[str, Tensor]) -> Tensor | None:
    """The factor whose first axis is the layer's rank; None where it has none (LoKr of two full factors)."""
    names = ("lora_down.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
    return next((parts[name] for name in names if name in parts), None)
