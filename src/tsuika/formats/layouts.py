"""The layouts of LoRA files: under which keys each program keeps which tensor of which layer. Names and shapes only.
One table serves recognition and reading. A layout is what its keys begin with; what stands between, a layer's path in
diffusers' (HF) or in the original (LDM) names, and the endings are read in every spelling, whatever the layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tsuika.core.texts import Text, _
from tsuika.diffusion.adapters import PARTS
from tsuika.families import FAMILIES
from tsuika.families.network import UNET
from tsuika.formats.kohya import dotted

Shapes = Mapping[str, tuple[int, ...]]
Name = tuple[str, str, str]  # (component, canonical path, part)

_TOWERS: Final = tuple(dict.fromkeys(tower.component for family in FAMILIES for tower in family.towers))
_FIRST, _SECOND = _TOWERS[0], _TOWERS[1]

# peft's name of a DoRA's magnitudes, which it holds in shapes of its own: (out) or (1, out, 1, 1)
MAGNITUDE: Final = "lora_magnitude_vector"
_OWN: Final = "|".join(re.escape(part) for part in sorted(PARTS, key=len, reverse=True))
# A key's end in every spelling; in peft's the name of the adapter may stand in between.
_END: Final = re.compile(
    rf"(?P<path>.+?)(?:\.(?P<own>{_OWN})"
    r"|\.lora_(?P<factor>[AB])(?:\.\w+)??(?:\.(?P<what>weight|bias))?"
    r"|(?:\.lora|\.lora_linear_layer|_lora)\.(?P<way>down|up)\.weight"
    rf"|\.(?P<magnitude>{MAGNITUDE})(?:\.\w+)??(?:\.weight)?"
    r"|\.(?P<factors>hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2)\.\w+)"
)
# In some key of every LoRA; other weights have endings such as `weight`, too.
_MARK: Final = re.compile(
    r"lora_(down|up|mid)\.|\.lora_[AB]\b|[._]lora\.(down|up)\.|\.lora_linear_layer\.|\.(hada|lokr|oft|boft|ia3|vera|glora)_"
    r"|\.(diff|diff_b|w_norm|b_norm|on_input)$|\.[ab][12]\.weight$|\.lora_magnitude_vector"
)
_WAYS: Final = {"A": "lora_down", "B": "lora_up", "down": "lora_down", "up": "lora_up"}


def split_end(key: str) -> tuple[str, str] | None:
    """What stands before a key's ending, and the part that the ending means; None if it is none of a LoRA."""
    if (match := _END.fullmatch(key)) is None:
        return None
    if match["magnitude"]:
        return match["path"], MAGNITUDE
    if way := match["factor"] or match["way"]:
        part = f"{_WAYS[way]}.{match['what'] or 'weight'}"
        return (match["path"], part) if part in PARTS else None
    return match["path"], match["own"] or match["factors"]


def _canonical(component: str, path: str) -> str | None:
    """A layer's path in any spelling, its canonical one; None if no Stable Diffusion has such a layer."""
    path = path.replace(".processor", "")
    if component == "unet":
        path = re.sub(r"\.to_out$", ".to_out.0", path)
    else:
        path = re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", path)
    return dotted(component, path.replace(".", "_"))


@dataclass(frozen=True)
class Layout:
    """How a program names the tensors of a LoRA: the name as `tsuika inspect` says it; what keys begin with, and the
    component that this means (the first under which a key is understood counts); what must be in one of its keys, too;
    and for layouts that go by numbers, the names of all keys."""

    name: str
    prefixes: tuple[tuple[str, str], ...]
    mark: re.Pattern[str] = _MARK
    resolve: Callable[[Shapes], dict[str, Name]] | None = None

    def split(self, key: str) -> Name | None:
        """A key as (component, canonical path, part); None if it is none of this layout."""
        for prefix, component in self.prefixes:
            if key.startswith(prefix) and (ends := split_end(key.removeprefix(prefix))) is not None:
                path = _canonical(component, ends[0])
                if path is not None:
                    return component, path, ends[1]
        return None

    def is_of(self, shapes: Shapes) -> bool:
        """Whether some key is of this layout."""
        if self.resolve:
            return bool(self.resolve(shapes))
        return any(self.mark.search(key) and self.split(key) for key in shapes)

    def names(self, shapes: Shapes) -> dict[str, Name]:
        """The names of all keys that are understood."""
        if self.resolve:
            return self.resolve(shapes)
        found = {key: name for key in shapes if (name := self.split(key)) is not None}
        return dict(_second_tower(found, shapes))


def _second_tower(found: Mapping[str, Name], shapes: Shapes) -> Iterator[tuple[str, Name]]:
    """The names, with a text encoder that only a layer's width tells to be SDXL's second called so."""
    widths = {row.text_width(_SECOND) for row in FAMILIES if _SECOND in row.facts.text_encoders}
    names = set(found.values())
    is_second = not any(component == _SECOND for component, _path, _part in names) and any(
        shapes[key][-1] in widths
        for key, (component, path, part) in found.items()
        if component == _FIRST and path.endswith("q_proj") and part == "lora_down.weight"
    )
    for key, (component, path, part) in found.items():
        yield key, (_SECOND if is_second and component == _FIRST else component, path, part)


# cloneofsimo's order of layers: diffusers' of 2022, in which the middle block was made last and the feed-forward
# layer stood before the attention to the text; of a CLIP layer it is transformers'.
_BLOCKS: Final = (
    *(f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)),
    *(f"up_blocks.{i}.attentions.{j}" for i in range(1, 4) for j in range(3)),
    "mid_block.attentions.0",
)
_ATTENTION: Final = ("to_q", "to_k", "to_v", "to_out.0")
_CLIP: Final = ("k_proj", "v_proj", "q_proj", "out_proj")
_NUMBERED: Final = re.compile(r"(unet|text_encoder):(\d+):(up|down)")


def _places(shapes: Shapes) -> dict[str, tuple[str, int, str]]:
    """Keys of this layout as (component, number of the layer, up or down). The oldest files are a bare list of one
    component, up and down in turn."""
    if shapes and all(str(n) in shapes for n in range(len(shapes))):
        widths = {row.geometry("epsilon").unet["block_out_channels"][0] for row in FAMILIES if row.network is UNET}
        component = "unet" if shapes["0"][:1] and shapes["0"][0] in widths else _FIRST
        return {key: (component, int(key) // 2, ("up", "down")[int(key) % 2]) for key in shapes}
    found = {key: match for key in shapes if (match := _NUMBERED.fullmatch(key))}
    return {key: (match[1], int(match[2]), match[3]) for key, match in found.items()}


def _numbered(shapes: Shapes) -> dict[str, Name]:
    places = _places(shapes)
    by_place = {place: shapes[key] for key, place in places.items()}
    order = {component: _order(component, by_place) for component in ("unet", _FIRST)}
    return {
        key: (component, order[component][number], f"{_WAYS[way]}.weight")
        for key, (component, number, way) in places.items()
        if number < len(order[component])
    }


def _order(component: str, shapes: Mapping[tuple[str, int, str], tuple[int, ...]]) -> list[str]:
    """The paths of a component's layers in the file's order; empty where it is not that of a Stable Diffusion."""
    numbers = {number for holder, number, _way in shapes if holder == component}
    if numbers != set(range(len(numbers))):
        return []
    if component != "unet":
        return [f"text_model.encoder.layers.{n // 4}.self_attn.{_CLIP[n % 4]}" for n in range(len(numbers))]
    block = [f"{kind}.{leaf}" for kind in ("attn1", "attn2") for leaf in _ATTENTION]
    # GEGLU's layer has eight times as many outputs as inputs. Later diffusers had it behind both attentions.
    for place in (4, 8):
        up, down = shapes.get(("unet", place, "up"), ()), shapes.get(("unet", place, "down"), ())
        if len(up) > 1 and len(down) > 1 and up[0] == 8 * down[1]:
            block.insert(place, "ff.net.0.proj")
            break
    if len(numbers) != len(_BLOCKS) * len(block):
        return []
    return [f"{holder}.transformer_blocks.0.{leaf}" for holder in _BLOCKS for leaf in block]


_KOHYA: Final = (
    ("lora_unet_", "unet"),
    *((f"{tower.kohya}_", tower.component) for family in FAMILIES for tower in family.towers),
)
_HUB: Final = (
    *((f"{part}.", "unet") for part in dict.fromkeys(row.network.part for row in FAMILIES)),
    *((f"{tower}.", tower) for tower in _TOWERS),
)
_COMFY_TOWERS: Final = {"clip_l": _FIRST, "clip_h": _FIRST, "clip_g": _SECOND, "t5xxl": "text_encoder_3"}

# The two last: LyCORIS used by itself, OneTrainer's first files of SD3.
KOHYA: Final = Layout("kohya", (*_KOHYA, ("lycoris_", "unet"), ("lora_transformer_", "unet")))
DIFFUSERS: Final = Layout(
    "diffusers",
    # the oldest files hold the UNet alone
    (*_HUB, ("", "unet")),
    re.compile(r"\.lora_[AB]\b|[._]lora\.(down|up)\.|\.lora_linear_layer\."),
)
LAYOUTS: Final = (
    KOHYA,
    DIFFUSERS,
    Layout("peft", tuple(("base_model.model.", component) for component in ("unet", _FIRST))),
    Layout("onetrainer", (*_HUB, *((f"{name}.", tower) for name, tower in _COMFY_TOWERS.items()))),
    Layout(
        "comfyui",
        (
            ("diffusion_model.", "unet"),
            *((f"text_encoders.{name}.transformer.", tower) for name, tower in _COMFY_TOWERS.items()),
        ),
    ),
    Layout("cloneofsimo", (), resolve=_numbered),
)


def layout_of(shapes: Shapes) -> Layout | None:
    """The layout of a LoRA's keys; None where none of them is of a LoRA for a Stable Diffusion."""
    if any(map(_RELATIVE.search, shapes)):
        return None
    return next((layout for layout in LAYOUTS if layout.is_of(shapes)), None)


# Of transformers whose first blocks have the same names as SD3's.
_RELATIVE: Final = re.compile(
    r"single_transformer_blocks|(double|single)_blocks|[._](img|txt)_(mlp|mod)[._]"
    r"|(^|transformer[._])transformer_blocks[._]\d+[._]attn1"
)
# Other models by a piece of a LoRA's key. The first match names it.
_FOREIGN: Final = (
    (r"single_transformer_blocks|double_blocks|single_blocks", _("FLUX or a relative of it")),
    (r"lora_prior_|(^|[._])prior[._]", _("Stable Cascade")),
    (r"(double|single)_stream_blocks", _("HiDream")),
    (r"joint_transformer_blocks", _("AuraFlow")),
    (r"[._]img_in\b|[._](img|txt)_(mlp|mod)|attn2?[._]add_[kqv]_proj", _("a relative of Stable Diffusion 3")),
    (r"motion_modules", _("AnimateDiff (motion)")),
    (r"lllite_|lora_controlnet|input_hint_block", _("a ControlNet")),
    (r"ip_adapter|image_proj", _("an IP-Adapter")),
    (r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn|ffn)", _("Wan (video)")),
    (
        r"adaln_single|(^|[._])transformer_blocks[._]\d+[._]attn[12]|^(lora_)?transformer[._]",
        _("PixArt or another diffusion transformer"),
    ),
    (r"noise_refiner|context_refiner|(^|[._])layers[._]\d+[._]attention[._]", _("Lumina or a relative of it")),
    (r"(^|\.)layers\.\d+\.(self_attn|mlp)\.", _("a language model")),
)


def is_lora(shapes: Iterable[str]) -> bool:
    """Whether these are keys of a LoRA, of whatever model."""
    return any(_MARK.search(key) or _NUMBERED.fullmatch(key) for key in shapes)


def is_layer(key: str) -> bool:
    """Whether a key begins as that of a layer of a Stable Diffusion, whatever it ends in."""
    for layout in LAYOUTS:
        for prefix, component in layout.prefixes:
            pieces = key.removeprefix(prefix).split(".") if key.startswith(prefix) else []
            if any(_canonical(component, ".".join(pieces[:n])) for n in range(1, len(pieces))):
                return True
    return False


def model_of(keys: Iterable[str]) -> Text | None:
    """What other model the keys of a LoRA are for, for people; None where nothing tells."""
    keys = [ends[0] if (ends := split_end(key)) else key for key in keys]
    # A piece of a Stable Diffusion's own path is no sign: its transformer blocks are in attentions.
    keys = [key for key in keys if not re.search(r"attentions[._]\d|(in|out)put_blocks|text_model", key)]
    return next((name for pattern, name in _FOREIGN if any(re.search(pattern, key) for key in keys)), None)
