"""Hypernetworks: small networks before attention's keys and values, as A1111 has them. Settings and use; no torch here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, ClassVar, Final, Literal

from pydantic import ValidationInfo, field_validator

from tsuika.core.errors import RecipeError
from tsuika.core.section import everyday, expert
from tsuika.core.sections import Data
from tsuika.core.texts import _
from tsuika.core.types import Activation, Artifact, Facts, Model
from tsuika.diffusion.activations import WIDEST
from tsuika.methods.guidance import FROZEN, Claim, Guidance
from tsuika.methods.layers import Layers, weight_shapes
from tsuika.methods.method import Method, MethodSection, Outline
from tsuika.methods.uses import Result, Use, by_node, by_tag, in_tsuika


class Hypernetwork(MethodSection):
    """Small networks before the keys and values of attention, in the structure of the A1111 web UI."""

    defaults: ClassVar[Mapping[str, Any]] = {"train.steps": 4000}

    name: Literal["hypernetwork"] = "hypernetwork"
    sizes: Literal["cross", "all"] = everyday(
        "cross", "Layers it acts on: `cross` = cross-attention (to the text) only, `all` = self-attention as well"
    )
    layer_structure: tuple[float, ...] = everyday(
        (1.0, 2.0, 1.0), "Widths of the layers as multiples of the input's width; they begin and end with 1"
    )
    activation: Activation = everyday("linear", "Activation function between the layers")
    activate_output: bool = expert(
        False, "Activation after the last layer, too; ComfyUI needs it if `layer_norm` is on"
    )
    layer_norm: bool = expert(
        False, "Layer normalization after each layer; for the same images in ComfyUI, set `activate_output` as well"
    )
    dropout: tuple[float, ...] = expert(
        (),
        "Dropout after each layer, one number for each of the layer structure, the first 0; none = off. Never in the written file",
    )
    init: Literal["Normal", "KaimingUniform", "KaimingNormal", "XavierUniform", "XavierNormal"] = expert(
        "Normal", "Initialization of the weights"
    )
    zero_last: bool = expert(True, "Start the last layer at zero, so that training starts exactly at the base model")

    def check(self, facts: Facts) -> None:
        """See `refuse_joint`."""
        refuse_joint(facts)

    @field_validator("layer_structure")
    @classmethod
    def _ends_in_one(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) < 2 or value[0] != 1 or value[-1] != 1 or min(value) <= 0:
            raise ValueError(_("It must begin and end with 1, with numbers above 0 between, e.g. [1, 2, 1]."))
        if max(value) >= WIDEST:
            raise ValueError(_("Its numbers must be below {most}.", most=WIDEST))
        return value

    @field_validator("dropout")
    @classmethod
    def _one_for_each_width(cls, value: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        count = len(info.data.get("layer_structure", value))
        if value and (len(value) != count or value[0] != 0 or min(value) < 0 or max(value) >= 1):
            raise ValueError(
                _("It must be {count} numbers from 0 to below 1, the first 0, e.g. [0, 0.1, 0].", count=count)
            )
        return value


def refuse_joint(facts: Facts) -> None:
    """Raises RecipeError: the family's attention is none that a hypernetwork is for (RC002)."""
    if facts.attention == "joint":
        why = _(
            "No program applies a hypernetwork to {family}: all of them do so in cross-attention, which it does not have. "
            "LoRA, Textual Inversion and DreamBooth work.",
            family=facts.title,
        )
        raise RecipeError("RC002", key="method.name", found="hypernetwork", why=why)


def changed(layers: Layers, artifact: Artifact) -> frozenset[str]:
    """Every layer that makes keys or values from a width that the nets are for."""
    keys = {".".join(name.split(".")[:2]) for name in artifact.tensors}
    return frozenset().union(*(layers.attention.get(key, frozenset()) for key in keys))


def header(settings: Hypernetwork) -> dict[str, str]:
    """A1111's header fields, as JSON."""
    fields = {
        "layer_structure": list(settings.layer_structure),
        "activation_func": settings.activation,
        "is_layer_norm": settings.layer_norm,
        "weight_initialization": settings.init,
        "activate_output": settings.activate_output,
        "use_dropout": False,
        "dropout_structure": [0.0] * len(settings.layer_structure),
        "last_layer_dropout": False,
    }
    return {name: json.dumps(value) for name, value in fields.items()}


def outline(settings: Hypernetwork, data: Data, model: Model) -> Outline:
    """Nets without normalization, which adds little."""
    widths = {
        shape[1]
        for name, shape in weight_shapes(model, ["unet.attn"]).items()
        if name.endswith(".to_k") and (settings.sizes == "all" or name.endswith(".attn2.to_k"))
    }
    # An activation takes a place in the numbering.
    per_layer = 1 + (settings.activation != "linear")
    shapes: dict[str, tuple[int, ...]] = {}
    for width in sorted(widths):
        sides = [int(width * multiple) for multiple in settings.layer_structure]
        for side in "kv":
            for number, (inside, out) in enumerate(pairwise(sides)):
                shapes[f"{width}.{side}.linear.{number * per_layer}.weight"] = (out, inside)
                shapes[f"{width}.{side}.linear.{number * per_layer}.bias"] = (out,)
    return Outline(shapes, header(settings.model_copy(update={"layer_norm": False})))


def describe(artifact: Artifact) -> dict[str, Any]:
    """Widths and structure of the nets, for people."""
    fields = ("layer_structure", "activation_func", "is_layer_norm", "activate_output")
    return {
        "widths": sorted({int(name.partition(".")[0]) for name in artifact.tensors}),
        **{name: json.loads(artifact.metadata[name]) for name in fields if name in artifact.metadata},
    }


def uses(result: Result) -> Iterator[Use]:
    """A1111 and ComfyUI; Forge lists hypernetworks and does not apply them, diffusers has no loader."""
    if (file := result.first(".pt")) is None:
        return
    yield from in_tsuika(result, "--hypernetwork", file)
    forge = _("The number is the strength. Forge lists hypernetworks but does not apply them.")
    yield by_tag("A1111", file, "models/hypernetworks/", f"{result.prompt} <hypernet:{file.stem}:1>", forge)
    yield by_node(file, "models/hypernetworks/", "HypernetworkLoader", result.prompt)


GUIDANCE: Final = Guidance(
    place=4,
    steps=3800,
    growth=0.46,
    embedded_growth=0.25,
    goals=("style",),
    said_for={
        "": Claim(
            _("Its makers report that it works with image sets of varied size; they give no numbers."),
            "NovelAI, Improvements on Stable Diffusion, 2022",
        )
    },
    said_against=Claim(_("No controlled comparison with LoRA has been published.")),
    unsupported=_("Forge lists hypernetworks but does not apply them; diffusers has no loader."),
    frugal=FROZEN,
)

METHOD: Final = Method(
    settings=Hypernetwork,
    title=_("Hypernetwork"),
    module="tsuika.methods.hypernetwork.nets",
    images=(200, 5000),
    flag="hypernetwork",
    tag="hypernet",
    layers=changed,
    backward="text",
    outline=outline,
    describe=describe,
    uses=uses,
    guidance=GUIDANCE,
)
