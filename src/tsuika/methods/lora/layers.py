"""LoRA: low-rank updates beside frozen layers (Hu et al. 2021), through peft's own layers. Also DoRA, LoHa and LoKr
where peft has them. Knows a model only through `core.types.Model`."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from tsuika.core.errors import FormatError, RecipeError
from tsuika.core.texts import _
from tsuika.core.types import Artifact, Model, ParamGroup, Role, Update
from tsuika.diffusion import adapters
from tsuika.methods.common import by_side, copies, copy_in, incompatible
from tsuika.methods.layers import weight_shapes
from tsuika.methods.lora import PARTS, Layers, is_convolution, layers_of, peft_kind, rank_of, rates_of, trainable_kind
from tsuika.methods.lora import Lora as Config
from tsuika.methods.lora.merged import MergedAttachment, merge
from tsuika.methods.lora.targets import adapted

# Of the parts of a layer one of these is zero at the start, as peft has it.
BEGIN_AT_ZERO = ("lora_up.weight", "hada_w2_b", "lokr_w1", "lokr_w1_a")


@dataclass
class AdaptedLayer:
    """One adapted layer."""

    component: str
    path: str  # canonical
    layer: Any  # peft's layer: tensors live in dictionaries keyed by adapter name
    rank: int
    alpha: float  # effective: the layer's scale is alpha / rank
    base_scale: float
    magnitude: Tensor | None = None  # DoRA: of the base's weight

    @property
    def key(self) -> str:
        return f"{self.component}.{self.path}"


@dataclass
class LoraAttachment:
    """LoRA layers on a model. See `core.types.Attachment`."""

    model: Model
    adapter: str  # peft's name for this set of layers, unique on the model
    kind: str
    slots: list[AdaptedLayer]
    trains: frozenset[Role]
    text_rates: tuple[float, float] = (0.0, 0.0)
    up_ratio: float = 1.0  # LoRA+: the rate of what begins at zero, as a multiple
    metadata: dict[str, str] = field(default_factory=dict)

    def _parameters(self, slot: AdaptedLayer) -> Iterator[tuple[str, nn.Parameter]]:
        for attribute, part in PARTS[self.kind].items():
            holder = getattr(slot.layer, attribute, None)
            if holder is None or self.adapter not in holder:
                continue
            held = holder[self.adapter]
            yield part, held if isinstance(held, nn.Parameter) else held.weight

    def param_groups(self) -> list[ParamGroup]:
        every = [(slot.component, part, p) for slot in self._trained for part, p in self._parameters(slot)]
        # As peft.optimizers.create_loraplus_optimizer divides them.
        raised = {id(p) for _, part, p in every if self.up_ratio != 1 and (part == "lora_up.weight" or p.ndim == 1)}
        plain, ups = ([(c, p) for c, _, p in every if (id(p) in raised) == is_up] for is_up in (False, True))
        groups = by_side(plain, self.text_rates)
        return [*groups, *(replace(group, factor=self.up_ratio) for group in by_side(ups, self.text_rates))]

    @property
    def _trained(self) -> list[AdaptedLayer]:
        """All slots, but not a file's text layers where none is trained."""
        trains_text = any(role.startswith("text.") for role in self.trains)
        return [slot for slot in self.slots if trains_text or not slot.component.startswith("text_encoder")]

    def updates(self) -> list[Update]:
        """Each layer by the factor that begins at zero: there it is the base's, and the other factor can still learn.
        Any factor scales the product; this one alone, since the other is random at the start and no update at all."""
        return [self._update(slot, dict(self._parameters(slot))) for slot in self._trained]

    def _update(self, slot: AdaptedLayer, parts: Mapping[str, nn.Parameter]) -> Update:
        zero = next(parts[name] for name in BEGIN_AT_ZERO if name in parts)
        if self.kind == "lora":
            return Update("factors", [zero], down=parts["lora_down.weight"], scale=slot.base_scale)
        if slot.magnitude is not None:
            return Update("adapter", [zero, parts["dora_scale"]], [torch.zeros_like(zero), slot.magnitude])
        return Update("adapter", [zero])

    def tensors(self) -> dict[str, Tensor]:
        return {f"{slot.key}.{part}": param.data for slot in self.slots for part, param in self._parameters(slot)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        copy_in(self.tensors(), tensors)

    def set_strength(self, strength: float) -> None:
        """Scale every layer's update; 0 takes the layers out of the sum, so the base's bits come out. Raises
        RecipeError: RC002, DoRA knows no strength between."""
        if strength not in (0.0, 1.0) and self.kind == "dora":
            why = _("{kind} works at strength 0 or 1 only", kind=self.kind)
            raise RecipeError("RC002", key="strength", found=strength, why=why)
        for slot in self.slots:
            if hasattr(slot.layer, "scaling"):
                slot.layer.scaling[self.adapter] = slot.base_scale * strength
            active = [name for name in slot.layer.active_adapters if name != self.adapter]
            if strength:
                active.append(self.adapter)
            if len(active) > 1:  # in one order, whatever was switched last: sums keep their bits
                active = [name for name in slot.layer._all_available_adapter_names() if name in active]
            slot.layer._active_adapter = active  # peft has no per-layer switch

    def detach(self) -> None:
        """Remove this set of layers; the last one to go puts the base's own modules back. Any order of sets will do."""
        for slot in self.slots:
            layer = slot.layer
            # Switched off first, or peft would switch another set on and let it train.
            layer._active_adapter = [name for name in layer.active_adapters if name != self.adapter]
            layer.delete_adapter(self.adapter)
            if layer._all_available_adapter_names():
                continue
            parent, _, leaf = slot.path.rpartition(".")
            owner = self.model.module(slot.component, parent) if parent else self.model.components[slot.component]
            while getattr(owner, leaf) is not layer:  # a set of another kind wraps this one
                owner, leaf = getattr(owner, leaf), "base_layer"
            setattr(owner, leaf, layer.base_layer)
        self.slots = []

    def artifact(self) -> Artifact:
        tensors = copies(self.tensors())
        for slot in self.slots:
            # peft has (out) and, for convolutions, (1, out, 1, 1), which means inputs elsewhere.
            if self.kind == "dora":
                ones = [1] * (slot.layer.get_base_layer().weight.ndim - 1)
                tensors[f"{slot.key}.dora_scale"] = tensors[f"{slot.key}.dora_scale"].reshape(-1, *ones)
            tensors[f"{slot.key}.alpha"] = torch.tensor(slot.alpha, dtype=torch.float32)
        return Artifact("lora", self.model.facts.family, tensors, {"adapter": self.kind, **self.metadata})


def _peft_layers(root: nn.Module) -> list[Any]:
    return [module for module in root.modules() if isinstance(module, BaseTunerLayer)]


def _fresh_name(model: Model) -> str:
    layers = [layer for component in model.components.values() for layer in _peft_layers(component)]
    taken = {name for layer in layers for name in layer._all_available_adapter_names()}
    return next(f"tsuika{i}" for i in range(len(taken) + 1) if f"tsuika{i}" not in taken)


def _inject(
    model: Model, kind: str, ranks: Mapping[str, Mapping[str, tuple[int, float]]], dropout: float
) -> tuple[str, list[AdaptedLayer]]:
    """Put peft layers at component -> canonical path -> (rank, effective alpha); returns the adapter's name and slots."""
    name, slots = _fresh_name(model), []
    for component, wanted in ranks.items():
        root = model.components[component]
        active = [(layer, list(layer.active_adapters)) for layer in _peft_layers(root)]
        training = [param for param in root.parameters() if param.requires_grad]
        real = {id(module): path for path, module in root.named_modules()}
        by_rank: dict[int, list[str]] = {}
        for path, (rank, _alpha) in wanted.items():
            by_rank.setdefault(rank, []).append(real[id(model.module(component, path))])
        for rank, targets in by_rank.items():  # peft's own rank patterns cost a regex per pair of layers
            with warnings.catch_warnings():
                # Of quantised layers that they cannot be merged; nothing merges them.
                warnings.filterwarnings("ignore", "TorchaoLoraLinear")
                inject_adapter_in_model(_peft_config(kind, rank, targets, dropout), root, name)
        del root.peft_config  # peft's note of the last call
        root.requires_grad_(False)
        for param in training:
            param.requires_grad_(True)
        for layer, names in active:  # peft has switched off what was there
            layer._active_adapter = [*names, name] if name in layer._all_available_adapter_names() else names
        for path, (rank, alpha) in wanted.items():
            layer = model.module(component, path)
            if not isinstance(layer, BaseTunerLayer):
                raise TypeError(f"peft left {component}.{path} unchanged")
            slot = AdaptedLayer(component, path, layer, rank, alpha, alpha / rank)
            _scale(slot, name)
            if kind == "dora":
                slot.magnitude = layer.lora_magnitude_vector[name].weight.detach().float().clone()
            if isinstance(base := layer.get_base_layer(), nn.Conv2d):
                slot.layer.groups = base.groups  # peft's LoRA asks it of what it wraps, be that another kind's layer
            slots.append(slot)
    return name, slots


def _scale(slot: AdaptedLayer, adapter: str) -> None:
    """Set a layer's scale by the parts that it has. LoKr of two whole factors has no rank: every program takes 1."""
    whole = all(adapter in getattr(slot.layer, factor, ()) for factor in ("lokr_w1", "lokr_w2"))
    slot.base_scale = 1.0 if whole else slot.alpha / slot.rank
    if hasattr(slot.layer, "scaling"):
        slot.layer.scaling[adapter] = slot.base_scale


def _peft_config(kind: str, rank: int, targets: list[str], dropout: float) -> Any:
    if kind in ("lora", "dora"):
        return LoraConfig(
            r=rank, lora_alpha=rank, target_modules=targets, lora_dropout=dropout, use_dora=kind == "dora"
        )
    config = LoHaConfig if kind == "loha" else LoKrConfig
    return config(r=rank, alpha=rank, target_modules=targets, module_dropout=dropout)


def attach(model: Model, config: Config, generator: torch.Generator) -> LoraAttachment:
    """LoRA on attention and feed-forward layers (and convolutions, text encoders, as configured); changes no output
    yet. Down-projections are Kaiming-uniform (as peft and kohya have it) from `generator`, up-projections zero."""
    ranks: dict[str, dict[str, tuple[int, float]]] = {}
    layers = adapted(config, model)
    rates = rates_of(config, model)
    for name, one in layers.items():
        component, _dot, path = name.partition(".")
        ranks.setdefault(component, {})[path] = (one.rank, one.alpha)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        adapter, slots = _inject(model, config.adapter, ranks, config.dropout)
    attachment = LoraAttachment(model, adapter, config.adapter, slots, _roles_of(model, layers, config.roles))
    return _trainable(attachment, config, rates)


def _roles_of(model: Model, layers: Collection[str], among: Iterable[Role]) -> frozenset[Role]:
    return frozenset(role for role in among if not weight_shapes(model, [role]).keys().isdisjoint(layers))


def _trainable(attachment: LoraAttachment, config: Config, rates: tuple[float, float]) -> LoraAttachment:
    attachment.text_rates, attachment.up_ratio = rates, config.lora_plus_ratio
    trained = attachment._trained
    for slot in attachment.slots:
        for _part, param in attachment._parameters(slot):
            param.data = param.data.float()  # trained weights are masters in full precision
            param.requires_grad_(slot in trained)
    return attachment


def go_on(model: Model, config: Config, start: Artifact, generator: torch.Generator) -> LoraAttachment:
    """Attach what a file held for training, at strength 1: all of its layers, of which those of the text encoders stay
    as they are unless `config` trains them; of a larger rank where it says so (`_grown`). Raises ModelError: as `restore`;
    FormatError: FM001, of a kind that cannot be trained."""
    layers = layers_of(start)
    if (kind := trainable_kind(layers)) is None:
        found, expected = adapters.adapter(start.tensors), ", ".join(PARTS)
        raise FormatError("FM001", where=config.start, found=found, expected=expected)
    rates = rates_of(config, model)
    sides = ("unet.", "text.") if config.text_encoder else ("unet.",)
    roles = [role for role in get_args(Role) if role.startswith(sides)]
    if kind in ("lora", "dora"):
        layers = _grown(layers, config, generator)
    attachment = _held(model, start, layers, kind, config.dropout)
    attachment.trains = _roles_of(model, {".".join(key) for key in layers}, roles)
    attachment = _trainable(attachment, config, rates)
    _load(attachment, layers)
    return attachment


def _grown(layers: Layers, config: Config, generator: torch.Generator) -> Layers:
    """Layers of plain LoRA or DoRA at the rank of the settings, where that is above all of the file's: new rows of the
    down-projections are as at a new start, and zeros in the up-projections take nothing from them yet; the scale stays."""
    most = dict.fromkeys((False, True), 0)
    for (_component, path), parts in layers.items():
        most[is_convolution(path)] = max(most[is_convolution(path)], rank_of(parts))
    found: Layers = {}
    for (component, path), parts in layers.items():
        rank, wanted = rank_of(parts), config.conv_rank if is_convolution(path) else config.rank
        if wanted > most[is_convolution(path)]:
            down, up = parts["lora_down.weight"].float(), parts["lora_up.weight"].float()
            bound = down[0].numel() ** -0.5  # Kaiming-uniform, as peft has it
            new = torch.rand(wanted - rank, *down.shape[1:], generator=generator) * 2 * bound - bound
            zeros = torch.zeros(up.shape[0], wanted - rank, *up.shape[2:])
            alpha = float(parts.get("alpha", rank)) * wanted / rank
            larger = {"lora_down.weight": torch.cat([down, new]), "lora_up.weight": torch.cat([up, zeros], dim=1)}
            parts = {**parts, **larger, "alpha": torch.tensor(alpha)}
        found[component, path] = dict(parts)
    return found


def restore(model: Model, artifact: Artifact) -> LoraAttachment | MergedAttachment:
    """Attach a LoRA or a relative of it that came from a file, at strength 1, frozen. What peft can hold stands beside
    the base's layers, all else is laid on their weights. Raises ModelError: MD004, a layer is missing on this model or
    has another shape; FormatError: FM001, a tensor is no part of an adapter, or a layer is not whole."""
    layers = layers_of(artifact)
    if (kind := peft_kind(layers)) is None:
        return merge(model, {key: _module(model, *key, artifact) for key in layers}, layers, artifact)
    attachment = _held(model, artifact, layers, kind, 0.0)
    attachment.metadata = dict(artifact.metadata)
    _load(attachment, layers)
    return attachment


def _held(model: Model, artifact: Artifact, layers: Layers, kind: str, dropout: float) -> LoraAttachment:
    """Layers of peft's with room for a file's tensors, not yet loaded. Raises ModelError: as `restore`."""
    modules = {key: _module(model, *key, artifact) for key in layers}
    ranks: dict[str, dict[str, tuple[int, float]]] = {}
    for (component, path), parts in layers.items():
        weight: Any = modules[component, path].weight
        if adapters.implied_shape(parts) != (len(weight), weight.numel() // len(weight)):
            raise incompatible(f"{component}.{path}", _("This LoRA"), artifact, model)
        rank = rank_of(parts)
        ranks.setdefault(component, {})[path] = (rank, float(parts["alpha"]) if "alpha" in parts else float(rank))
    with torch.random.fork_rng(devices=[]):
        adapter, slots = _inject(model, kind, ranks, dropout)
    if kind in ("loha", "lokr"):
        for slot in slots:
            _place(slot, adapter, kind, layers[slot.component, slot.path])
            _scale(slot, adapter)
    return LoraAttachment(model, adapter, kind, slots, frozenset())


def _load(attachment: LoraAttachment, layers: Layers) -> None:
    held = {(*layer, part): value for layer, parts in layers.items() for part, value in parts.items()}
    attachment.load({".".join(name): value for name, value in held.items() if name[-1] != "alpha"})


def _module(model: Model, component: str, path: str, artifact: Artifact) -> nn.Module:
    """The base's own module at a path, under what peft has laid around it."""
    try:
        module = model.module(component, path)
    except (KeyError, IndexError):
        raise incompatible(f"{component}.{path}", _("This LoRA"), artifact, model) from None
    while isinstance(module, BaseTunerLayer):
        module = module.get_base_layer()
    if getattr(module, "weight", None) is None:
        raise incompatible(f"{component}.{path}", _("This LoRA"), artifact, model)
    return module


def _place(slot: AdaptedLayer, adapter: str, kind: str, parts: Mapping[str, Tensor]) -> None:
    """Make room for a file's own tensors where peft has guessed others: LoHa and LoKr can be split in several ways."""
    weight = slot.layer.get_base_layer().weight
    for attribute, part in PARTS[kind].items():
        holder = getattr(slot.layer, attribute)
        if adapter in holder:
            del holder[adapter]
        if part in parts:
            empty = torch.empty(parts[part].shape, device=weight.device, dtype=weight.dtype)
            holder[adapter] = nn.Parameter(empty, requires_grad=False)
