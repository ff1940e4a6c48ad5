"""Trained parameters in the place of the base's own, for methods that change weights rather than add layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tsuika.core.types import canonical


@dataclass(frozen=True)
class Slot:
    """One parameter: its place in the model, what the base had there, and what stands there instead."""

    component: str
    path: str  # canonical
    owner: nn.Module
    leaf: str
    base: nn.Parameter
    trained: nn.Parameter
    twins: tuple[tuple[nn.Module, str], ...] = ()  # where the same parameter stands once more

    @property
    def key(self) -> str:
        return f"{self.component}.{self.path}"

    def put(self, param: nn.Parameter) -> None:
        """Let the model compute with `param`, or with a copy of it where the trained one is on another device."""
        if param.device != self.trained.device:
            param = nn.Parameter(param.detach().to(self.trained.device), requires_grad=False)
        for owner, leaf in ((self.owner, self.leaf), *self.twins):
            owner._parameters[leaf] = param


def own_parameters(component: str, root: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(canonical path, owning module, leaf name) of a component's parameters, without those of adapters around them; one
    that has two names is there under the first."""
    seen: set[int] = set()

    def walk(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module, str]]:
        while isinstance(inner := getattr(module, "base_layer", None), nn.Module):  # a wrapper, as peft's layers are
            module = inner
        for leaf, param in module._parameters.items():
            if param is not None and id(param) not in seen:
                seen.add(id(param))
                yield canonical(component, f"{path}{leaf}"), module, leaf
        for name, child in module.named_children():
            yield from walk(child, f"{path}{name}.")

    return walk(root, "")


def twins(root: nn.Module) -> dict[int, tuple[tuple[nn.Module, str], ...]]:
    """Of parameters that stand in several places (T5's vocabulary) the places behind the first, by the parameter's id."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in root.modules():
        for leaf, param in module._parameters.items():
            places.setdefault(id(param), []).append((module, leaf))
    return {number: tuple(found[1:]) for number, found in places.items() if len(found) > 1}


def own_buffers(component: str, root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(canonical path, numbers) of what a component keeps beside its parameters and writes with them."""
    names = root.state_dict().keys()
    yield from ((canonical(component, name), value) for name, value in root.named_buffers() if name in names)


def keep_dtype(slots: Iterable[Slot]) -> list[RemovableHandle]:
    """Have layers compute in the base's dtype where their trained weights have another one (in autocast this is its
    task); the hooks, to be removed when the slots are given up."""
    handles = []
    for slot in slots:
        if slot.trained.dtype != slot.base.dtype:
            cast = _Cast(slot)
            handles.append(slot.owner.register_forward_pre_hook(cast.before))
            handles.append(slot.owner.register_forward_hook(cast.after, always_call=True))
    return handles


@dataclass
class _Cast:
    """One parameter in the base's dtype, for the time of a forward pass."""

    slot: Slot
    _now: Tensor | None = field(default=None)

    def before(self, owner: nn.Module, args: Any) -> None:
        parameters: dict[str, Any] = owner._parameters
        is_trained = parameters[self.slot.leaf] is self.slot.trained
        if is_trained and not torch.is_autocast_enabled(self.slot.trained.device.type):
            self._now = parameters[self.slot.leaf] = self.slot.trained.to(self.slot.base.dtype)

    def after(self, owner: nn.Module, args: Any, output: Any) -> None:
        if self._now is not None:
            self.slot.put(self.slot.trained)
            self._now = None
