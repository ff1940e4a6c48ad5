"""LoRA: low-rank updates beside frozen layers (Hu et al. 2021), through peft's own layers.

Also DoRA, LoHa, LoKr and OFT where peft has them. Knows a model only through `core.types.Model`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from tsuika.core.config import Lora as Config
from tsuika.core.errors import ModelError, RecipeError
from tsuika.core.types import Artifact, Model, ParamGroup, Role, canonical

UNET_ROLES: tuple[Role, ...] = ("unet.attn", "unet.ff")
TEXT_ROLES: tuple[Role, ...] = ("text.attn", "text.ff")

# peft's parameter dictionaries of a layer -> the part's name in an Artifact (LyCORIS' and kohya's names).
PARTS: dict[str, dict[str, str]] = {
    "lora": {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight"},
    "dora": {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight", "lora_magnitude_vector": "dora_scale"},
    "loha": {
        "hada_w1_a": "hada_w1_a", "hada_w1_b": "hada_w1_b", "hada_w2_a": "hada_w2_a", "hada_w2_b": "hada_w2_b",
        "hada_t1": "hada_t1", "hada_t2": "hada_t2",
    },
    "lokr": {
        "lokr_w1": "lokr_w1", "lokr_w1_a": "lokr_w1_a", "lokr_w1_b": "lokr_w1_b", "lokr_w2": "lokr_w2",
        "lokr_w2_a": "lokr_w2_a", "lokr_w2_b": "lokr_w2_b", "lokr_t2": "lokr_t2",
    },
    "oft": {"oft_R": "oft_R"},
}  # fmt: skip


@dataclass
class Slot:
    """One adapted layer."""

    component: str
    path: str  # canonical
    layer: Any  # peft's layer: tensors live in dictionaries keyed by adapter name
    rank: int
    alpha: float  # effective: the layer's scale is alpha / rank
    base_scale: float

    @property
    def key(self) -> str:
        return f"{self.component}.{self.path}"


@dataclass
class LoraAttachment:
    """LoRA layers on a model. See `core.types.Attachment`."""

    model: Model
    adapter: str  # peft's name for this set of layers, unique on the model
    kind: str
    slots: list[Slot]
    trains: frozenset[Role]
    learning_rate: float = 0.0
    text_learning_rate: float = 0.0
    metadata: dict[str, str] = field(default_factory=dict)

    def _parameters(self, slot: Slot) -> Iterator[tuple[str, nn.Parameter]]:
        for attribute, part in PARTS[self.kind].items():
            holder = getattr(slot.layer, attribute, None)
            if holder is None or self.adapter not in holder:
                continue
            held = holder[self.adapter]
            yield part, held if isinstance(held, nn.Parameter) else held.weight

    def param_groups(self) -> list[ParamGroup]:
        """UNet and text encoders, each at its own rate."""
        groups: dict[str, list[nn.Parameter]] = {}
        for slot in self.slots:
            name = "text" if slot.component.startswith("text_encoder") else "unet"
            groups.setdefault(name, []).extend(param for _, param in self._parameters(slot))
        rates = {"unet": self.learning_rate, "text": self.text_learning_rate}
        return [ParamGroup(name, params, rates[name]) for name, params in groups.items()]

    def tensors(self) -> dict[str, Tensor]:
        """Every trained tensor by its artifact name, live."""
        return {f"{slot.key}.{part}": param.data for slot in self.slots for part, param in self._parameters(slot)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors in; names must match exactly."""
        mine = self.tensors()
        if mine.keys() != tensors.keys():
            raise KeyError(sorted(mine.keys() ^ tensors.keys())[:3])
        for name, target in mine.items():
            target.copy_(tensors[name].reshape(target.shape))

    def set_strength(self, strength: float) -> None:
        """Scale every layer's update; 0 takes the layers out of the sum, so the base's bits come out."""
        for slot in self.slots:
            if hasattr(slot.layer, "scaling"):
                slot.layer.scaling[self.adapter] = slot.base_scale * strength
            names = [name for name in slot.layer.active_adapters if name != self.adapter]
            slot.layer._active_adapter = [*names, self.adapter] if strength else names  # peft has no per-layer switch
        if strength not in (0.0, 1.0) and self.kind in ("dora", "oft"):
            raise RecipeError("RC002", key="strength", found=strength, why=f"{self.kind} works at strength 0 or 1 only")

    def detach(self) -> None:
        """Remove this set of layers; the last one to go puts the base's own modules back."""
        for slot in self.slots:
            slot.layer.delete_adapter(self.adapter)
            if not slot.layer._all_available_adapter_names():
                parent, _, leaf = slot.path.rpartition(".")
                owner = self.model.module(slot.component, parent) if parent else self.model.components[slot.component]
                setattr(owner, leaf, slot.layer.get_base_layer())
        self.slots = []

    def artifact(self) -> Artifact:
        """Tensors (copies, float32, CPU) with each layer's effective alpha."""
        tensors = {name: value.detach().to("cpu", torch.float32, copy=True) for name, value in self.tensors().items()}
        for slot in self.slots:
            if self.kind != "oft":
                tensors[f"{slot.key}.alpha"] = torch.tensor(slot.alpha, dtype=torch.float32)
        return Artifact("lora", self.model.facts.family, tensors, {"adapter": self.kind, **self.metadata})


def _fresh_name(model: Model) -> str:
    taken = {
        name
        for component in model.components.values()
        for module in component.modules()
        if isinstance(module, BaseTunerLayer)
        for name in module._all_available_adapter_names()
    }
    return next(f"tsuika{i}" for i in range(len(taken) + 1) if f"tsuika{i}" not in taken)


def _inject(
    model: Model, kind: str, ranks: Mapping[str, Mapping[str, tuple[int, float]]], dropout: float
) -> tuple[str, list[Slot]]:
    """Put peft layers at component -> canonical path -> (rank, effective alpha); returns the adapter's name and slots."""
    name, slots = _fresh_name(model), []
    for component, wanted in ranks.items():
        root = model.components[component]
        real = {id(module): path for path, module in root.named_modules()}
        by_rank: dict[int, list[str]] = {}
        for path, (rank, _) in wanted.items():
            by_rank.setdefault(rank, []).append(real[id(model.module(component, path))])
        for rank, targets in by_rank.items():  # peft's own rank patterns cost a regex per pair of layers
            inject_adapter_in_model(_peft_config(kind, rank, targets, dropout), root, name)
        root.requires_grad_(False)
        for path, (rank, alpha) in wanted.items():
            layer = model.module(component, path)
            if not isinstance(layer, BaseTunerLayer):
                raise TypeError(f"peft left {component}.{path} unchanged")
            slot = Slot(component, path, layer, rank, alpha, alpha / rank)
            if hasattr(layer, "scaling"):
                layer.scaling[name] = slot.base_scale
            slots.append(slot)
    return name, slots


def _peft_config(kind: str, rank: int, targets: list[str], dropout: float) -> Any:
    if kind in ("lora", "dora"):
        return LoraConfig(
            r=rank, lora_alpha=rank, target_modules=targets, lora_dropout=dropout, use_dora=kind == "dora"
        )
    if kind == "oft":
        return OFTConfig(r=0, oft_block_size=rank, target_modules=targets, module_dropout=dropout)
    config = LoHaConfig if kind == "loha" else LoKrConfig
    return config(r=rank, alpha=rank, target_modules=targets, module_dropout=dropout)


def _plan(model: Model, config: Config) -> tuple[dict[str, dict[str, tuple[int, float]]], frozenset[Role]]:
    roles: list[Role] = [
        *UNET_ROLES,
        *(("unet.conv",) if config.conv else ()),
        *(TEXT_ROLES if config.text_encoder else ()),
    ]
    ranks: dict[str, dict[str, tuple[int, float]]] = {}
    for role in roles:
        for component, paths in model.targets(role).items():
            for path in paths:
                module = model.module(component, path)
                kernel = module.kernel_size if isinstance(module, nn.Conv2d) else (1, 1)
                rank = (config.conv_rank or config.rank) if tuple(kernel) != (1, 1) else config.rank
                alpha = config.alpha * rank / config.rank if config.alpha else float(rank)
                if config.rank_stabilized:
                    alpha *= math.sqrt(rank)
                ranks.setdefault(component, {})[path] = (rank, alpha)
    return ranks, frozenset(roles)


def attach(model: Model, config: Config, generator: torch.Generator) -> LoraAttachment:
    """LoRA on attention and feed-forward layers (and convolutions, text encoders, as configured); changes no output yet.

    Down-projections are Kaiming-uniform (as peft and kohya have it) from `generator`, up-projections zero.
    """
    ranks, roles = _plan(model, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        adapter, slots = _inject(model, config.adapter, ranks, config.dropout)
    attachment = LoraAttachment(model, adapter, config.adapter, slots, roles)
    for slot in slots:
        for _, param in attachment._parameters(slot):
            param.data = param.data.float()  # trained weights are masters in full precision
            param.requires_grad_(True)
    attachment.text_learning_rate = config.text_learning_rate
    return attachment


def restore(model: Model, artifact: Artifact) -> LoraAttachment:
    """Attach a LoRA that came from a file, at strength 1, frozen.

    Raises:
        ModelError: MD004, a layer is missing on this model or has another shape.
    """
    kind = artifact.metadata.get("adapter") or _kind_of(artifact)
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in artifact.tensors.items():
        for part in (*PARTS[kind].values(), "alpha"):
            if name.endswith(f".{part}"):
                layers.setdefault(name.removesuffix(f".{part}"), {})[part] = tensor
    ranks: dict[str, dict[str, tuple[int, float]]] = {}
    for key, parts in layers.items():
        component, _, path = key.partition(".")
        rank = _rank_of(kind, parts)
        alpha = float(parts["alpha"]) if "alpha" in parts else float(rank)
        try:
            module = model.module(component, path)
            fits = kind != "lora" or _fits(module, parts)
        except KeyError:
            fits = False
        if not fits:
            raise ModelError(
                "MD004", where=key, artifact="This LoRA", found=artifact.family or "another model",
                expected=model.facts.title,
            )  # fmt: skip
        ranks.setdefault(component, {})[canonical(component, path)] = (rank, alpha)
    with torch.random.fork_rng(devices=[]):
        adapter, slots = _inject(model, kind, ranks, 0.0)
    attachment = LoraAttachment(model, adapter, kind, slots, frozenset(), metadata=dict(artifact.metadata))
    attachment.load({name: value for name, value in artifact.tensors.items() if not name.endswith(".alpha")})
    for slot in slots:
        for _, param in attachment._parameters(slot):
            param.requires_grad_(False)
    return attachment


def _kind_of(artifact: Artifact) -> str:
    names = " ".join(artifact.tensors)
    for kind, mark in (("dora", ".dora_scale"), ("loha", ".hada_"), ("lokr", ".lokr_"), ("oft", ".oft_")):
        if mark in names:
            return kind
    return "lora"


def _rank_of(kind: str, parts: Mapping[str, Tensor]) -> int:
    if kind in ("lora", "dora"):
        return int(parts["lora_down.weight"].shape[0])
    if kind == "loha":
        return int(parts["hada_w1_b"].shape[0])
    if kind == "oft":
        size = int(parts["oft_R"].shape[-1])
        return round((1 + math.sqrt(1 + 8 * size)) / 2)
    factor = next((parts[name] for name in ("lokr_w2_b", "lokr_w1_b") if name in parts), None)
    return int(factor.shape[0]) if factor is not None else max(parts["lokr_w2"].shape)


def _fits(module: nn.Module, parts: Mapping[str, Tensor]) -> bool:
    base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    weight = getattr(base, "weight", None)
    if weight is None or not {"lora_down.weight", "lora_up.weight"} <= parts.keys():
        return False
    down, up = parts["lora_down.weight"], parts["lora_up.weight"]
    return bool(
        down.shape[1] == weight.shape[1] and up.shape[0] == weight.shape[0] and down[0].numel() == weight[0].numel()
    )
