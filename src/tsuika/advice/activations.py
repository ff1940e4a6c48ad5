"""What a training step keeps in memory and how much it computes, from a UNet's shapes alone: no weights, no arithmetic.

The UNet is built on the meta device and run once; what autograd keeps for the backward pass is counted, and so are the
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

from tsuika.methods.method import Backward

if TYPE_CHECKING:
    from torch import Tensor, nn

_ADAPTED: Final = re.compile(
    r".*\.attentions\.\d+\.(proj_in|proj_out|transformer_blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)))"
)


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
    """What `count` says of the families' UNets and the embedded one, per image of their native size.

    Going through the real ones takes a minute; `activations.json` is what `python bench/activations.py` prints.
    """
    rows = json.loads(files(__package__).joinpath("activations.json").read_text(encoding="utf-8"))
    return {name: Step(**row) for name, row in rows.items()}


def count(config: Mapping[str, Any], size_px: int, latent_factor: int = 8) -> Step:
    """Go through a UNet of this config, as diffusers writes it, with one image."""
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet: nn.Module = UNet2DConditionModel.from_config(dict(config))
    unet.to(torch.bfloat16)
    kept: dict[Backward, float] = {}
    thrifty: dict[Backward, float] = {}
    flop = 0.0
    for trained in ("text", "adapter", "all"):
        for name, module in unet.named_modules():
            for leaf, param in module.named_parameters(recurse=False):
                adapted = trained == "adapter" and leaf == "weight" and _ADAPTED.fullmatch(name)
                param.requires_grad_(trained == "all" or bool(adapted))
        kept[trained], thrifty[trained], flop = _once(unet, config, size_px // latent_factor)
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


def _once(unet: Any, config: Mapping[str, Any], side: int) -> tuple[float, float, float]:
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

    def leave(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        units.append((held() - before[id(module)], output.numel() * output.element_size()))

    hooks = []
    for module in unet.modules():
        if type(module).__name__ in ("ResnetBlock2D", "BasicTransformerBlock"):  # diffusers checkpoints these
            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    text = empty(1, 77, int(config["cross_attention_dim"])).requires_grad_(True)
    more: dict[str, Any] = {}
    if config.get("addition_embed_type") == "text_time":
        sizes = 6 * int(config["addition_time_embed_dim"])
        pooled = int(config["projection_class_embeddings_input_dim"]) - sizes
        more = {"added_cond_kwargs": {"text_embeds": empty(1, pooled), "time_ids": empty(1, 6)}}
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
        unet(empty(1, 4, side, side), torch.zeros(1, device="meta"), encoder_hidden_states=text, **more)
    for hook in hooks:
        hook.remove()
    total = held()
    inside = [kept for kept, _ in units]
    highest = total - sum(inside) + sum(size for _, size in units) + max(inside, default=0)
    return float(total), float(min(total, highest)), float(counter.get_total_flops()) + sum(attended)
