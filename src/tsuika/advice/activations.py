"""What a training step keeps in memory and how much it computes, from a network's shapes alone: no weights, no arithmetic.

The network is built on the meta device and run once; what autograd keeps for the backward pass is counted, and so are the
floating-point operations. A real network of Stable Diffusion takes many seconds to go through, so those are in `known`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from tsuika.core.types import Conditioning
from tsuika.families.network import Network
from tsuika.methods.method import Backward

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Step:
    """A training step on one image."""

    kept_bytes: Mapping[Backward, float]  # for the backward pass, at two bytes a number
    checkpointed_bytes: Mapping[Backward, float]  # the same with gradient checkpointing, at its highest
    forward_flop: float
    size_px: int

    def at(self, size_px: int) -> Step:
        """Of an image of another size: everything but attention's weights grows with the area."""
        factor = (size_px / self.size_px) ** 2
        kept, thrifty = (
            {key: value * factor for key, value in table.items()}
            for table in (self.kept_bytes, self.checkpointed_bytes)
        )
        return Step(kept, thrifty, self.forward_flop * factor, size_px)


TIMES: Final[Mapping[Backward, float]] = {"text": 2.08, "adapter": 2.17, "all": 3.0}  # forward and backward, by forward


@cache
def known() -> Mapping[str, Step]:
    """What `count` says of the families' networks and the embedded one, per image of their native size.

    Going through the real ones takes a minute; `activations.json` is what `python bench/activations.py` prints.
    """
    rows = json.loads(files(__package__).joinpath("activations.json").read_text(encoding="utf-8"))
    return {name: Step(**row) for name, row in rows.items()}


def count(network: Network, config: Mapping[str, Any], size_px: int, latent_factor: int = 8) -> Step:
    """Go through a network of this config, as diffusers writes it, with one image."""
    import torch
    from torch import nn

    with torch.device("meta"):
        unet = network.build(config)
    # Not by diffusers' own `to`, which warns where there is nothing to warn of.
    nn.Module.to(unet, torch.bfloat16)
    is_adapted = re.compile(f"{network.roles['unet.attn']}|{network.roles['unet.ff']}").fullmatch
    kept: dict[Backward, float] = {}
    thrifty: dict[Backward, float] = {}
    flop = 0.0
    for trained in ("text", "adapter", "all"):
        for name, module in unet.named_modules():
            for leaf, param in module.named_parameters(recurse=False):
                adapted = trained == "adapter" and leaf == "weight" and is_adapted(name)
                param.requires_grad_(trained == "all" or bool(adapted))
        kept[trained], thrifty[trained], flop = _once(network, unet, config, size_px // latent_factor)
    return Step(kept, thrifty, flop, size_px)


@contextmanager
def _instead(attend: Callable[..., Tensor]) -> Iterator[None]:
    from torch.nn import functional

    own = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = own


def _once(network: Network, unet: Any, config: Mapping[str, Any], side: int) -> tuple[float, float, float]:
    """Bytes kept, bytes at the highest with checkpointing, and FLOP, of one forward pass."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.bfloat16, device="meta")

    own = {param.untyped_storage()._cdata for param in unet.parameters()}
    seen: dict[int, Any] = {}  # holds the storages, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage
        return tensor

    def held() -> int:
        return sum(storage.nbytes() for storage in seen.values())

    units: list[tuple[int, int]] = []  # what each part that can be checkpointed keeps, and its input
    before: dict[int, int] = {}

    def enter(module: nn.Module, _: Any) -> None:
        before[id(module)] = held()

    def leave(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        # A block of two streams gives two, the text's None in the last.
        given = [one for one in (output if isinstance(output, tuple) else (output,)) if one is not None]
        units.append((held() - before[id(module)], sum(one.numel() * one.element_size() for one in given)))

    hooks = []
    for module in unet.modules():
        if type(module).__name__ in network.checkpointed:
            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    cond = Conditioning(**{name: empty(1, *shape) for name, shape in network.reads(config).items()})
    cond.tokens_BSD.requires_grad_(True)
    attended: list[float] = []

    class Attention(torch.autograd.Function):
        """Keeps what the fused kernels keep: on the meta device torch would write out every attention matrix."""

        @staticmethod
        def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            attended.append(4.0 * query.numel() * key.shape[-2])  # two products, two operations each
            output = torch.empty_like(query)
            ctx.save_for_backward(query, key, value, output)
            return output

    def attend(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        result: Tensor = Attention.apply(query, key, value)  # type: ignore[no-untyped-call]
        return result

    counter = FlopCounterMode(display=False)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), counter, _instead(attend):
        latents = empty(1, int(config["in_channels"]), side, side)
        network.denoise(unet, latents, torch.zeros(1, device="meta"), cond)
    for hook in hooks:
        hook.remove()
    total = held()
    inside = [kept for kept, _ in units]
    highest = total - sum(inside) + sum(size for _, size in units) + max(inside, default=0)
    return float(total), float(min(total, highest)), float(counter.get_total_flops()) + sum(attended)
