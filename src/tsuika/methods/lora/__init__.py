"""LoRA: low-rank updates beside frozen layers (Hu et al. 2021), also DoRA, LoHa and LoKr. Settings and use; no torch here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ValidationInfo, field_validator, model_validator

from tsuika.core.errors import FormatError, RecipeError
from tsuika.core.section import Place, everyday, expert
from tsuika.core.sections import Data
from tsuika.core.texts import _, listed
from tsuika.core.types import Artifact, Facts, Model, Role, canonical
from tsuika.diffusion import adapters
from tsuika.methods.guidance import FROZEN, YEH, Claim, Guidance
from tsuika.methods.lora import targets
from tsuika.methods.method import TEXT_RATE, TEXT_RATE_2, TRAINS_TEXT, Method, MethodSection, Outline, text_rates
from tsuika.methods.uses import Result, Use, by_node, by_tag, in_diffusers, in_sd_scripts, in_tsuika

if TYPE_CHECKING:
    from torch import Tensor

# peft's parameter dictionaries of a layer -> the part's name in an Artifact.
PARTS: Final[dict[str, dict[str, str]]] = {
    "lora": {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight"},
    "dora": {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight", "lora_magnitude_vector": "dora_scale"},
    "loha": {name: name for name in adapters.LOHA},
    "lokr": {name: name for name in adapters.LOKR},
}

Layers = dict[tuple[str, str], dict[str, "Tensor"]]


class Lora(MethodSection):
    """Low-rank adaptation (Hu et al. 2021) and its relatives, through peft."""

    name: Literal["lora"] = "lora"
    adapter: Literal["lora", "dora", "loha", "lokr"] = expert(
        "lora", "Kind of adapter; only `lora` loads in every program"
    )
    start: Place = expert(
        "",
        "A LoRA file to go on training from; its kind, scale and layers are kept, and its rank unless a larger one is set; "
        "empty = start from nothing",
    )
    rank: int = everyday(
        16, "Rank (dim): how much can be learned, and the file's size; 0 = that of `method.start`", ge=0, le=1024
    )
    alpha: float = expert(
        0.0,
        "Alpha: the scale is alpha / rank; 0 = same as rank; one number for all ranks keeps the best learning rate",
        ge=0,
    )
    rank_stabilized: bool = expert(False, "rsLoRA: scale by alpha / sqrt(rank) (Kalajdzievski 2023)")
    targets: str = expert(
        "",
        "Layers that are adapted: `attention`, `attention-ff` (with feed-forward layers), `attention-ff-conv` (with "
        "convolutions), or a regular expression of their whole names, as peft's target_modules; empty = attention-ff",
    )
    rank_pattern: tuple[str, ...] = expert(
        (), "Other ranks, as PATTERN=RANK by ends of layer names (regular expressions, as in peft); the first that fits"
    )
    alpha_pattern: tuple[str, ...] = expert((), "Other alphas, as PATTERN=ALPHA in the same way")
    conv: bool = expert(False, "Adapt convolutions as well (LoCon)")
    conv_rank: int = expert(0, "Rank of 3x3 convolutions; 0 = same as rank", ge=0, le=1024)
    text_encoder: bool = TRAINS_TEXT
    text_learning_rate: float = TEXT_RATE
    text_learning_rate_2: float = TEXT_RATE_2
    lora_plus_ratio: float = expert(
        1.0,
        "LoRA+: learning rate of the up matrices by that of the down matrices (Hayou et al. 2024); 1 = the same",
        ge=1,
        le=1000,
    )
    dropout: float = expert(0.0, "Dropout inside the adapter", ge=0, lt=1)

    @classmethod
    def said_by(cls, given: Mapping[str, Any]) -> Collection[str]:
        """What is adapted, where a file or `targets` say it."""
        return ("method.conv",) if given.get("start") or given.get("targets") else ()

    @model_validator(mode="before")
    @classmethod
    def _without_rank(cls, values: Any) -> Any:
        """Where a file to start from is given and no rank, the rank is the file's."""
        return {"rank": 0, **values} if isinstance(values, dict) and values.get("start") else values

    @field_validator("rank")
    @classmethod
    def _has_rank(cls, value: int, info: ValidationInfo) -> int:
        if value == 0 and not info.data.get("start"):
            raise ValueError(_("It must be at least 1; 0 is for a training that goes on from a file (method.start)."))
        return value

    @field_validator("targets")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        if value and value not in targets.ROLES and (why := targets.fault_of(value)) is not None:
            raise ValueError(why)
        return value

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _are_patterns(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for entry in value:
            if (why := targets.fault_of_number(entry, whole=info.field_name == "rank_pattern")) is not None:
                raise ValueError(why)
        return value

    @field_validator("conv")
    @classmethod
    def _says_nothing_twice(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("targets", "") not in ("", *targets.ROLES):
            raise ValueError(_("The regular expression in `method.targets` says which convolutions are adapted."))
        return value

    @property
    def start_file(self) -> str:
        return self.start

    def started(self, start: Artifact) -> Lora:
        layers = layers_of(start)
        if (kind := trainable_kind(layers)) is None:
            why = _(
                "Training goes on from plain LoRA, DoRA, LoHa or LoKr, and this is {kind}. To make a plain LoRA of it: "
                "{do}",
                kind=adapters.adapter(start.tensors),
                do=f"tsuika convert {self.start} --to diffusers --lossy",
            )
            raise RecipeError("RC002", key="method.start", found=self.start, why=why)
        for name in ("targets", "rank_pattern", "alpha_pattern", "rank_stabilized"):
            if asked := getattr(self, name):
                why = _(
                    "The training goes on from {file}, with the layers, ranks and scales of that file.", file=self.start
                )
                raise RecipeError("RC002", key=f"method.{name}", found=asked, why=why)
        sides = {component.partition("_")[0] for component, _path in layers}
        ranks: dict[bool, list[int]] = {False: [], True: []}
        for (_component, path), parts in layers.items():
            ranks[is_convolution(path)].append(rank_of(parts))
        alphas = [float(parts.get("alpha", rank_of(parts))) for parts in layers.values()]
        held: dict[str, list[Any]] = {
            "adapter": [kind],
            "rank": ranks[False] or ranks[True],
            "alpha": alphas,
            "conv": [bool(ranks[True])],
            "conv_rank": ranks[True] or [0],
            "text_encoder": ["text" in sides],
        }
        larger = {}
        for name, values in held.items():
            asked, silent = getattr(self, name), 0 if name == "rank" else type(self).model_fields[name].default
            # More rows of one that has some, which are nothing at first.
            if name in ("rank", "conv_rank") and kind in ("lora", "dora") and asked > max(values) > 0:
                larger[name] = asked
                continue
            # What is not trained of a file stays as it is.
            if asked not in (silent, *values) or (name == "text_encoder" and not asked and "unet" not in sides):
                why = _(
                    "The training goes on from {file}, where it is {values}. Leave it as in the file; a smaller rank: {do}",
                    file=self.start,
                    values=listed(
                        f"{value:g}" if isinstance(value, float) else str(value) for value in sorted({*values})
                    ),
                    do=f"tsuika resize {self.start} --rank N",
                )
                raise RecipeError("RC002", key=f"method.{name}", found=asked, why=why)
        usual = {name: Counter(values).most_common(1)[0][0] for name, values in held.items()}
        # Their scale, alpha / rank, stays the file's.
        usual["alpha"] = usual["alpha"] * larger.get("rank", usual["rank"]) / usual["rank"]
        usual |= larger
        return self.model_copy(update={**usual, "text_encoder": self.text_encoder})

    @property
    def network(self) -> Mapping[str, Any]:
        """Rank, alpha (as rank where none is set) and dropout."""
        return {"rank": self.rank, "alpha": self.alpha or self.rank, "dropout": self.dropout}

    @property
    def some_unused(self) -> bool:
        """SDXL reads text before the last layer, and a whole adapter can drop out."""
        return self.text_encoder or self.dropout > 0

    def fits_quantized(self, kind: str) -> bool:
        """DoRA asks for the length of the base's weights, which torchao does not give for NF4."""
        return self.adapter != "dora" or kind != "nf4"

    def check(self, facts: Facts) -> None:
        """Files for SD3 have q, k and v as one layer, which LoKr's products cannot be put together in; and it has no convolutions."""
        if facts.attention == "joint" and self.adapter == "lokr":
            why = _("Programs keep q, k and v of {family} as one layer, which LoKr cannot be.", family=facts.title)
            raise RecipeError("RC002", key="method.adapter", found=self.adapter, why=why)
        if facts.attention == "joint" and "unet.conv" in self.roles:
            key, found = ("conv", self.conv) if self.conv else ("targets", self.targets)
            why = _("{family} has no convolutions that could be adapted.", family=facts.title)
            raise RecipeError("RC002", key=f"method.{key}", found=found, why=why)

    @property
    def roles(self) -> tuple[Role, ...]:
        """Of the layers that may be adapted."""
        return targets.roles(self)


def rates_of(settings: Lora, model: Model) -> tuple[float, float]:
    """Learning rates of the text encoders. Raises RecipeError (RC002): a rate that means nothing for this model or kind."""
    if settings.lora_plus_ratio != 1 and settings.adapter not in ("lora", "dora"):
        why = _("LoRA+ is for the adapters lora and dora, whose up matrices begin at zero.")
        raise RecipeError("RC002", key="method.lora_plus_ratio", found=settings.lora_plus_ratio, why=why)
    return text_rates(model, settings.text_learning_rate, settings.text_learning_rate_2)


def outline(settings: Lora, data: Data, model: Model) -> Outline:
    """Of plain LoRA; the relatives have about as many numbers."""
    shapes: dict[str, tuple[int, ...]] = {}
    rates_of(settings, model)
    for name, one in targets.adapted(settings, model).items():
        shapes[f"{name}.lora_down.weight"] = (one.rank, *one.shape[1:])
        shapes[f"{name}.lora_up.weight"] = (one.shape[0], one.rank, *(1 for _size in one.shape[2:]))
        shapes[f"{name}.alpha"] = ()
    return Outline(shapes, {"adapter": "lora"})


def layers_of(artifact: Artifact) -> Layers:
    """The artifact's tensors by (component, canonical path), then by part. Raises FormatError: FM001, a tensor is no
    part of an adapter, or a layer is not whole."""
    layers: Layers = {}
    for name, tensor in artifact.tensors.items():
        if (split := adapters.split_name(name)) is None:
            raise FormatError("FM001", where=name, found=name.rpartition(".")[2], expected=", ".join(adapters.PARTS))
        component, _dot, path = split[0].partition(".")
        layers.setdefault((component, canonical(component, path)), {})[split[1]] = tensor
    for (component, path), parts in layers.items():
        if adapters.kind_of(parts) is None:
            kind = adapters.nearest_kind(parts)
            found, expected = _("a layer of {parts}", parts=", ".join(parts)), f"{kind.name}: {', '.join(kind.parts)}"
            raise FormatError("FM001", where=f"{component}.{path}", found=found, expected=expected)
    return layers


def peft_kind(layers: Layers) -> str | None:
    """The kind of adapter as which peft can hold all of these layers; None where it is none, or DoRA or a Tucker form.
    peft has no magnitudes of inputs, and no strength between for any."""
    kinds = {found.name for parts in layers.values() if (found := adapters.kind_of(parts)) is not None}
    kind = kinds.pop() if len(kinds) == 1 else ""
    known = {*PARTS.get(kind, {}).values(), "alpha"}
    return kind if kind in PARTS and all(parts.keys() <= known for parts in layers.values()) else None


def trainable_kind(layers: Layers) -> str | None:
    """The kind of adapter as which peft can train all of these layers; None where it can not."""

    def is_dora(parts: Mapping[str, Tensor]) -> bool:
        needs = {"lora_down.weight", "lora_up.weight", "dora_scale"}
        scale, up = parts.get("dora_scale"), parts.get("lora_up.weight")
        is_of_outputs = scale is not None and up is not None and len(scale) == scale.numel() == len(up)
        return needs <= parts.keys() <= {*needs, "alpha"} and is_of_outputs

    return "dora" if all(map(is_dora, layers.values())) else peft_kind(layers)


def is_convolution(path: str) -> bool:
    """Whether a layer is one of the role `unet.conv`, by its canonical path."""
    return "resnets" in path or "samplers" in path


def rank_of(parts: Mapping[str, Tensor]) -> int:
    """The rank of a layer that peft can hold."""
    factor = adapters.inner_factor(parts)
    return max(parts["lokr_w2"].shape) if factor is None else len(factor)


def describe(artifact: Artifact) -> dict[str, Any]:
    """Kinds, layers, ranks and alphas, for people."""
    layers = adapters.by_layer(artifact.tensors)
    paths = [layer.partition(".")[::2] for layer in layers]
    factors = [factor for parts in layers.values() if (factor := adapters.inner_factor(parts)) is not None]
    alphas = [float(parts["alpha"]) for parts in layers.values() if "alpha" in parts]
    # Of those that are bundled in its file
    words = json.loads(artifact.metadata.get("bundled_words", "[]"))
    return {
        **({"words": words} if words else {}),
        "adapter": adapters.adapter(artifact.tensors),
        "layers": len(layers),
        "targets": dict(Counter(component for component, _path in paths)),
        "convolutions": sum(is_convolution(path) for _component, path in paths),
        "rank": _counted(map(len, factors)),
        "alpha": _counted(alphas),
    }


def _counted(values: Iterable[float]) -> dict[str, int]:
    """`{"16": 264}`: each value, how often."""
    return {f"{value:g}": number for value, number in sorted(Counter(values).items())}


def uses(result: Result) -> Iterator[Use]:
    """Every program loads plain LoRA in kohya's layout."""
    if (file := result.first(".safetensors")) is None:
        return
    yield from in_tsuika(result, "--lora", file)
    strength = _("The number after the last colon is the strength; try 0.6 to 1.")
    forge = "Forge" if result.is_joint else "A1111 / Forge"
    yield by_tag(forge, file, "models/Lora/", f"{result.prompt} <lora:{file.stem}:1>", strength)
    no_tag = _("In ComfyUI the prompt has no `<lora:…>` tag.")
    yield by_node(file, "models/loras/", "Load LoRA", result.prompt, no_tag)
    if result.is_joint:
        # It passes over kohya's names of SD3 with a warning, and draws as without the file.
        if (folder := result.first("")) is not None:
            yield from in_diffusers(result, [f"pipe.load_lora_weights({json.dumps(str(folder))})"])
    elif not result.on_embedded:
        where, name = json.dumps(str(file.parent)), json.dumps(file.name)
        yield from in_diffusers(result, [f"pipe.load_lora_weights({where}, weight_name={name})"])
        yield from in_sd_scripts(result, ["--network_module", "networks.lora", "--network_weights", str(file)])


GUIDANCE: Final = Guidance(
    place=1,
    steps=800,
    growth=0.45,
    embedded_growth=0.3,
    goals=("character",),
    # Alpha stays: with it the best learning rate is that of rank 16 (bench/guard/settings.py ranks).
    sizes=({"method.rank": 16}, *({"method.rank": rank, "method.alpha": 16} for rank in (8, 4, 2, 1))),
    said_for={
        "": Claim(
            _(
                "In a public comparison of adapters, LoRA reaches a likeness of 0.70-0.74 and training all weights 0.58 (DINO;"
                " differences under 0.05 are noise)."
            ),
            "huggingface/peft, method_comparison/image-gen (one concept, one seed)",
        ),
        "style": Claim(_("LoRA and its relatives learn styles in a comparison of 234 trained models."), YEH),
    },
    frugal=FROZEN,
)

METHOD: Final = Method(
    settings=Lora,
    title=_("LoRA"),
    module="tsuika.methods.lora.layers",
    images=(15, 50),
    flag="lora",
    tag="lora",
    splits_strength=True,
    png_hashes="Lora hashes",
    backward="adapter",
    outline=outline,
    describe=describe,
    uses=uses,
    guidance=GUIDANCE,
)
