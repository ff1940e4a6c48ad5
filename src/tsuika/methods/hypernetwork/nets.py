"""Hypernetworks: small residual networks before the keys and values of attention, as the A1111 web UI has them.

For each width of what attention reads (text: 768 on SD1) there is one pair of networks, shared by all layers that read
this width: `to_k` sees x + net_k(x) * strength, `to_v` sees x + net_v(x) * strength. Several hypernetworks work one after
another, in the order of attaching. The attention processors call the former processor with an attention whose `to_k` and
`to_v` read through the nets, so LoRA may wrap these layers before or after. The nets are a submodule of the UNet, once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from tsuika.core.errors import FormatError, RecipeError
from tsuika.core.texts import _
from tsuika.core.types import Artifact, Model, ParamGroup, Role, Update
from tsuika.diffusion.activations import activation
from tsuika.methods.common import copies, copy_in, incompatible
from tsuika.methods.hypernetwork import Hypernetwork as Config
from tsuika.methods.hypernetwork import header, refuse_joint

Side = Literal["k", "v"]
SIDES: Final[tuple[Side, ...]] = ("k", "v")

_STD: Final = 0.01  # of A1111's "Normal", and of its LayerNorm weights whatever the rest is
_NAME: Final = re.compile(r"(\d+)\.([kv])\.(linear\.\d+\.(?:weight|bias))")


class Net(nn.Module):
    """One network of (..., width) to (..., width): `linear` in A1111's order of modules, without dropout. Dropout
    changes no index, so parameters have the names of the written file; `drops` holds it by the index of the module that
    it follows, not as a submodule: `HypernetworkAttachment.place` puts it beside the nets."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.linear = nn.Sequential()
        self.drops: dict[int, nn.Dropout] = {}
        sizes = [int(width * multiple) for multiple in config.layer_structure]
        for i, (inside, out) in enumerate(pairwise(sizes), start=1):
            self.linear.append(nn.Linear(inside, out))
            if config.activation != "linear" and (i < len(sizes) - 1 or config.activate_output):
                self.linear.append(activation(config.activation))
            if config.layer_norm:
                self.linear.append(nn.LayerNorm(out))
            if config.dropout and config.dropout[i] > 0:
                self.drops[len(self.linear) - 1] = nn.Dropout(config.dropout[i])

    def forward(self, x: Tensor) -> Tensor:
        for i, module in enumerate(self.linear):
            x = module(x)
            if i in self.drops:
                x = self.drops[i](x)
        return x

    def last(self) -> list[nn.Parameter]:
        """The parameters that the output is proportional to (or an activation of something that is)."""
        return list([module for module in self.linear if isinstance(module, nn.Linear | nn.LayerNorm)][-1].parameters())

    def start(self, kind: str, *, zero_last: bool) -> None:
        """Initial weights of A1111's kinds; biases 0. With `zero_last` the net's output is 0."""
        draw: Callable[[Tensor], object] = {
            "Normal": lambda w: nn.init.normal_(w, std=_STD),
            "XavierUniform": nn.init.xavier_uniform_,
            "XavierNormal": nn.init.xavier_normal_,
            # A1111 asks for the gain of leaky ReLU where that is the activation; at its slope of 0 that is ReLU's.
            "KaimingUniform": lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"),
            "KaimingNormal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
        }[kind]
        layers = [module for module in self.linear if isinstance(module, nn.Linear | nn.LayerNorm)]
        for layer in layers:
            nn.init.zeros_(layer.bias)
            if isinstance(layer, nn.Linear):
                draw(layer.weight)
            else:
                nn.init.normal_(layer.weight, std=_STD)
        if zero_last:
            last = [layer for layer in layers if isinstance(layer, nn.Linear)][-1]
            nn.init.zeros_(last.weight)


class _Reading:
    """An attention as its processor sees it: keys and values are read through nets, the rest is the attention's."""

    def __init__(self, attention: Any, sets: list[HypernetworkAttachment]) -> None:
        self._attention, self._sets = attention, sets

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attention, name)

    def to_k(self, x: Tensor) -> Any:
        return self._attention.to_k(self._through("k", x))

    def to_v(self, x: Tensor) -> Any:
        return self._attention.to_v(self._through("v", x))

    def _through(self, side: Side, x: Tensor) -> Tensor:
        for one in self._sets:
            x = one.through(side, x)
        return x


class _Processor:
    """A diffusers attention processor: the former one, reading through every hypernetwork on this attention."""

    def __init__(self, former: Any) -> None:
        self.former = former
        self.sets: list[HypernetworkAttachment] = []

    def __call__(self, attention: Any, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = self.former(_Reading(attention, self.sets), *args, **kwargs)
        return result


@dataclass(eq=False)
class HypernetworkAttachment:
    """A hypernetwork on a model. See `core.types.Attachment`."""

    model: Model
    config: Config
    nets: dict[tuple[int, Side], Net]
    trains: frozenset[Role] = frozenset()
    metadata: dict[str, str] = field(default_factory=dict)
    strength: float = 1.0
    _attentions: list[Any] = field(default_factory=list)
    _home: str = ""  # the UNet's submodule that holds the nets

    def through(self, side: Side, x: Tensor) -> Tensor:
        """What keys or values see instead of x (..., width), in x's dtype; the nets count in float32 or autocast's."""
        net = self.nets.get((x.shape[-1], side)) if self.strength else None
        return x if net is None else x + (net(x.float()) * self.strength).to(x.dtype)

    def place(self) -> None:
        """Put the nets before every attention that reads one of their widths."""
        widths = {width for width, _ in self.nets}
        for attention, width, _reads_text in _attentions(self.model):
            if width not in widths:
                continue
            if not isinstance(attention.processor, _Processor):
                attention.set_processor(_Processor(attention.processor))
            attention.processor.sets.append(self)
            self._attentions.append(attention)
        unet = self.model.unet
        names = (f"hypernetwork_{i}" for i in range(len(unet._modules) + 1))
        self._home = next(name for name in names if not hasattr(unet, name))
        drops = [drop for net in self.nets.values() for drop in net.drops.values()]
        unet.add_module(self._home, nn.ModuleList([*self.nets.values(), *drops]))

    def param_groups(self) -> list[ParamGroup]:
        return [ParamGroup("unet", [param for net in self.nets.values() for param in net.parameters()], 0.0)]

    def updates(self) -> list[Update]:
        """Each net by its last layer: at zero it adds nothing, and the layers before can still learn. Raises
        RecipeError: RC013, a sigmoid comes after the last layer."""
        if any(isinstance(net.linear[-1], nn.Sigmoid) for net in self.nets.values()):
            raise RecipeError("RC013")
        return [Update("network", net.last()) for net in self.nets.values()]

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{width}.{side}.{name}": param.data
            for (width, side), net in self.nets.items()
            for name, param in net.named_parameters()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        copy_in(self.tensors(), tensors)

    def set_strength(self, strength: float) -> None:
        """Scale what the nets add; 0 does not ask them."""
        self.strength = strength

    def detach(self) -> None:
        """Take this hypernetwork off; the last one to go puts the attentions' own processors back."""
        for attention in self._attentions:
            processor = attention.processor
            processor.sets.remove(self)
            if not processor.sets:
                attention.set_processor(processor.former)
        self._attentions = []
        if self._home:
            delattr(self.model.unet, self._home)
            self._home = ""

    def artifact(self) -> Artifact:
        """Tensors (copies, float32, CPU) without dropout, and A1111's header fields."""
        return Artifact(
            "hypernetwork", self.model.facts.family, copies(self.tensors()), {**header(self.config), **self.metadata}
        )


def _attentions(model: Model) -> Iterator[tuple[Any, int, bool]]:
    """(attention, width of what its keys read, whether it attends to the text), in the UNet's order."""
    for path in model.targets("unet.attn")["unet"]:
        if path.endswith(".to_k"):
            attention: Any = model.module("unet", path.removesuffix(".to_k"))
            yield attention, attention.to_k.weight.shape[1], path.endswith(".attn2.to_k")


def _nets(widths: Iterable[int], config: Config) -> dict[tuple[int, Side], Net]:
    return {(width, side): Net(width, config) for width in sorted(widths) for side in SIDES}


def attach(model: Model, config: Config, generator: torch.Generator) -> HypernetworkAttachment:
    """Fresh nets for the width of the text (`sizes` "cross"), or for every width that attention reads ("all"). With
    `zero_last` they add nothing yet; without, they start as A1111's do, near the base. Raises RecipeError: RC002, with
    the last layer at zero the activated output is not zero, or would never learn."""
    refuse_joint(model.facts)
    if config.zero_last and config.activate_output and config.activation in ("relu", "sigmoid"):
        why = {
            "sigmoid": _(
                "sigmoid(0) is 0.5, so training would not start at the base. Set method.zero_last = "
                "false or choose another activation."
            ),
            "relu": _(
                "ReLU has no gradient at 0, so the last layer would stay at zero for ever. Set "
                "method.zero_last = false or choose another activation."
            ),
        }[config.activation]
        raise RecipeError("RC002", key="method.activate_output", found=True, why=why)
    widths = {width for _, width, reads_text in _attentions(model) if reads_text or config.sizes == "all"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        nets = _nets(widths, config)
        for net in nets.values():
            net.start(config.init, zero_last=config.zero_last)
            net.to(model.device)
    attachment = HypernetworkAttachment(model, config, nets, frozenset({"unet.attn"}))
    attachment.place()
    return attachment


def restore(model: Model, artifact: Artifact) -> HypernetworkAttachment:
    """Attach a hypernetwork that came from a file, at strength 1, frozen; widths that this model has not are left out.
    Raises ModelError: MD004, it is of another family, or the model has none of its widths; FormatError: FM001, no
    hypernetwork, or tensors that are not of the structure in its header; RecipeError: RC002, the family cannot have one."""
    refuse_joint(model.facts)
    try:
        field_of = {name: json.loads(artifact.metadata[name]) for name in header(Config())}
        # Not checked again: what a file may hold is more than what is trained here.
        config = Config.model_construct(
            layer_structure=tuple(field_of["layer_structure"]),
            activation=field_of["activation_func"],
            layer_norm=field_of["is_layer_norm"],
            activate_output=field_of["activate_output"],
        )
    except (KeyError, ValueError) as error:
        fields = _("A1111's header fields")
        raise FormatError("FM001", where=artifact.method, found=str(error), expected=fields) from None
    by_width: dict[int, dict[str, Tensor]] = {}
    for name, tensor in artifact.tensors.items():
        if (match := _NAME.fullmatch(name)) is None:
            names = _("names like 768.k.linear.0.weight")
            raise FormatError("FM001", where=artifact.method, found=name, expected=names)
        by_width.setdefault(int(match[1]), {})[name] = tensor
    fitting = by_width.keys() & {width for _, width, _ in _attentions(model)}
    if artifact.family not in (model.facts.family, "") or not fitting:  # some files do not say; then their widths do
        this = _("This hypernetwork")
        raise incompatible(f"widths {', '.join(map(str, sorted(by_width)))}", this, artifact, model)
    with torch.random.fork_rng(devices=[]):
        nets = _nets(fitting, config)
    attachment = HypernetworkAttachment(model, config, nets, metadata=dict(artifact.metadata))
    given = {name: tensor for width in fitting for name, tensor in by_width[width].items()}
    shapes = {name: tuple(value.shape) for name, value in attachment.tensors().items()}
    for name in sorted(shapes.keys() | given.keys()):
        found = tuple(given[name].shape) if name in given else None
        if found != shapes.get(name):
            shape, structure = shapes.get(name), list(config.layer_structure)
            expected = _("{shape}, by layer_structure {structure}", shape=shape, structure=structure)
            raise FormatError("FM001", where=name, found=found, expected=expected)
    attachment.load(given)
    for net in nets.values():
        net.to(model.device).requires_grad_(False)
    attachment.place()
    return attachment
