"""The layers of a model with nothing on it, so that artifacts can be asked which of them they change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tsuika.core.types import canonical

if TYPE_CHECKING:
    from tsuika.core.types import Artifact, Model, Role


@dataclass(frozen=True)
class Layers:
    """Layers by `<component>.<canonical path>`."""

    paths: frozenset[str]
    attention: Mapping[str, frozenset[str]]  # "768.k" -> every to_k (or to_v) that reads this width

    @staticmethod
    def of(model: Model) -> Layers:
        """Those of this model."""
        paths = {
            f"{component}.{canonical(component, path)}"
            for component, module in model.components.items()
            for path, _ in module.named_modules()
            if path
        }
        attention: dict[str, frozenset[str]] = {}
        for path in model.targets("unet.attn").get("unet", []):
            if path.endswith(("to_k", "to_v")):
                key = f"{model.module('unet', path).in_features}.{path[-1]}"
                attention[key] = attention.get(key, frozenset()) | {f"unet.{path}"}
        return Layers(frozenset(paths), attention)

    def named(self, artifact: Artifact) -> frozenset[str]:
        """The layers that the artifact's tensors are named after."""
        return frozenset(filter(None, map(self._layer, artifact.tensors)))

    def _layer(self, tensor: str) -> str:
        while tensor and tensor not in self.paths:
            tensor = tensor.rpartition(".")[0]
        return tensor


def weight_shapes(model: Model, roles: Iterable[Role]) -> dict[str, tuple[int, ...]]:
    """`<component>.<canonical path>` of the layers that play these roles -> the weight's shape."""
    found = {}
    for role in roles:
        for component, paths in model.targets(role).items():
            for path in paths:
                weight: Any = model.module(component, path).weight
                found[f"{component}.{canonical(component, path)}"] = tuple(weight.shape)
    return found
