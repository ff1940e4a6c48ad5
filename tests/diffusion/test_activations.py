"""The activations of hypernetworks against torch's own table, which A1111 takes whole."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from tsuika.diffusion.activations import ACTIVATIONS, activation
from tsuika.methods.hypernetwork import Hypernetwork
from tsuika.methods.hypernetwork.nets import Net


def _of_torch() -> dict[str, type[nn.Module]]:
    """A1111's rule: every class of torch.nn.modules.activation by its name in lower case, and `swish`."""
    module = nn.modules.activation
    own = {
        name.lower(): one
        for name, one in inspect.getmembers(module, inspect.isclass)
        if one.__module__ == module.__name__
    }
    return own | {"swish": nn.Hardswish}


def _can_be_used(kind: type[nn.Module]) -> bool:
    """Whether a net of A1111 can hold it: made without arguments, without weights of its own, shape kept element by element."""
    try:
        made = kind()
        x = torch.randn(2, 3, 8)
        whole = made.eval()(x)
        # one by one: functions over an axis, such as softmax, see other numbers
        pieces = [(whole[..., :4], made(x[..., :4])), (whole[:1], made(x[:1])), (whole[:, :1], made(x[:, :1]))]
        return not list(made.parameters()) and all(torch.allclose(part, alone, atol=1e-6) for part, alone in pieces)
    except (TypeError, RuntimeError):
        return False


@pytest.mark.filterwarnings("ignore:Implicit dimension")
def test_all_of_torchs_that_a_net_can_hold() -> None:
    usable = {name: kind for name, kind in _of_torch().items() if _can_be_used(kind)}
    assert usable.keys() == ACTIVATIONS.keys()
    assert all(type(activation(name)) is kind for name, kind in usable.items())


@pytest.mark.parametrize("name", ["gelu", "silu", "softplus", "selu", "hardtanh"])
def test_a_net_computes_with_it(name: str) -> None:
    torch.manual_seed(0)
    net = Net(6, Hypernetwork.model_construct(layer_structure=(1, 2, 1), activation=name, activate_output=True))
    x = torch.randn(3, 6)
    first, second = (layer for layer in net.linear if isinstance(layer, nn.Linear))
    function = _of_torch()[name]()
    torch.testing.assert_close(net(x), function(second(function(first(x)))))
