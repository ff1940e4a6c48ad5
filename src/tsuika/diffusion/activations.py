"""The activation functions of hypernetworks by A1111's names, which are those of torch's own classes in lower case. Its
table is torch.nn.modules.activation, with `swish` for Hardswish beside. Left out is what makes another shape of its
input, has weights of its own, or needs arguments: A1111 cannot build or load such a net either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import nn

# Name -> torch's class.
ACTIVATIONS: Final = {"relu": "ReLU", "leakyrelu": "LeakyReLU", "elu": "ELU", "swish": "Hardswish"} | {
    name.lower(): name
    for name in (
        *("Tanh", "Sigmoid", "Softsign", "Mish", "CELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh"),
        *("LogSigmoid", "ReLU6", "RReLU", "SELU", "SiLU", "Softplus", "Softshrink", "Tanhshrink"),
    )
}
# Multiples of the width that a layer can have; a layer of a thousand times 768 would take 2 GB.
WIDEST: Final = 1000


def activation(name: str) -> nn.Module:
    """The activation of this name."""
    from torch import nn

    made: nn.Module = getattr(nn, ACTIVATIONS[name])()
    return made
