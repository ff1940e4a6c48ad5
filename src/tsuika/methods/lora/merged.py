"""Adapters of any kind laid on a base by changing its weights, as A1111 and ComfyUI do it; for use, not for training. A
layer keeps what the base had, and all that lies on it: its weight is made anew whenever one of them comes, goes or gets
another strength, in the order of attaching. Where nothing acts, the base's own parameter stands there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from tsuika.core.texts import _
from tsuika.core.types import Artifact, Model, ParamGroup, Role, Update
from tsuika.diffusion import adapters
from tsuika.methods.common import copies, copy_in, incompatible
from tsuika.methods.lora import Layers

_ATTRIBUTE: Final = "_tsuika_merged"  # the attribute of a module that holds what lies on it


@dataclass
class _Stack:
    weight: nn.Parameter
    bias: nn.Parameter | None
    on_it: list[tuple[MergedAttachment, adapters.Parts]] = field(default_factory=list)


@dataclass(eq=False)
class MergedAttachment:
    """A LoRA or a relative of it on a model's weights. See `core.types.Attachment`."""

    model: Model
    modules: dict[tuple[str, str], nn.Module]
    layers: Layers
    metadata: dict[str, str]
    strength: float = 1.0
    trains: frozenset[Role] = frozenset()

    def param_groups(self) -> list[ParamGroup]:
        return []

    def updates(self) -> list[Update]:
        return []

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{component}.{path}.{part}": tensor
            for (component, path), parts in self.layers.items()
            for part, tensor in parts.items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        copy_in(self.tensors(), tensors)
        self._renew()

    def set_strength(self, strength: float) -> None:
        """W + strength * (W' - W), with W' the weight with the adapter as trained; 0 is the base's own parameter."""
        self.strength = strength
        self._renew()

    def detach(self) -> None:
        """Take this adapter off; any order will do."""
        for module in self.modules.values():
            stack: _Stack = getattr(module, _ATTRIBUTE)
            stack.on_it = [one for one in stack.on_it if one[0] is not self]
            _renew(module)
        self.modules = {}

    def artifact(self) -> Artifact:
        kind = {"adapter": adapters.adapter(self.tensors())}
        return Artifact("lora", self.model.facts.family, copies(self.tensors()), {**self.metadata, **kind})

    def _renew(self) -> None:
        for module in self.modules.values():
            _renew(module)


def merge(
    model: Model, modules: dict[tuple[str, str], nn.Module], layers: Layers, artifact: Artifact
) -> MergedAttachment:
    """Lay an adapter on the weights of these modules, at strength 1. Raises ModelError: MD004, a layer is for a weight
    of another shape, or for a bias where none is."""
    for key, parts in layers.items():
        module = modules[key]
        if not adapters.fits(parts, tuple(module.weight.shape)):  # type: ignore[arg-type]
            raise incompatible(".".join(key), _("This LoRA"), artifact, model)
    attachment = MergedAttachment(model, modules, layers, dict(artifact.metadata))
    for key, parts in layers.items():
        module = modules[key]
        if not hasattr(module, _ATTRIBUTE):
            setattr(module, _ATTRIBUTE, _Stack(module._parameters["weight"], module._parameters.get("bias")))  # type: ignore[arg-type]
        getattr(module, _ATTRIBUTE).on_it.append((attachment, parts))
    attachment._renew()
    return attachment


def _renew(module: Any) -> None:
    stack: _Stack = getattr(module, _ATTRIBUTE)
    acting = [(one.strength, parts) for one, parts in stack.on_it if one.strength]
    module._parameters["weight"] = _with(stack.weight, acting)
    if "bias" in module._parameters:
        module._parameters["bias"] = _with_bias(stack.bias, acting, stack.weight)
    if not stack.on_it:
        delattr(module, _ATTRIBUTE)


@torch.no_grad()
def _with(base: nn.Parameter, acting: Iterable[tuple[float, adapters.Parts]]) -> nn.Parameter:
    weight = base.float()
    acting = [(strength, parts) for strength, parts in acting if adapters.changes_weight(parts)]
    for strength, parts in acting:
        weight = adapters.changed(parts, weight, strength)
    return nn.Parameter(weight.to(base.dtype), requires_grad=False) if acting else base


@torch.no_grad()
def _with_bias(
    base: nn.Parameter | None, acting: Iterable[tuple[float, adapters.Parts]], weight: Tensor
) -> nn.Parameter | None:
    changes = [
        strength * change.to(weight.device, torch.float32).flatten()
        for strength, parts in acting
        if (change := adapters.bias_change(parts)) is not None
    ]
    if not changes:
        return base
    total = sum(changes) if base is None else base.float() + sum(changes)
    return nn.Parameter(total.to(weight.dtype), requires_grad=False)  # type: ignore[union-attr]
