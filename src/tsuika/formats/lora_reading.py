"""LoRA files of every layout (`layouts.py`) read as artifacts: `.safetensors`, torch files, diffusers' and peft's folders."""

from __future__ import annotations

import json
import re
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import finite
from tsuika.core.errors import FormatError, ModelError
from tsuika.core.safetensors import damaged
from tsuika.core.texts import _, _n
from tsuika.core.types import Artifact
from tsuika.core.weights import Weights, is_pickle, open_safetensors, open_weights, read_json
from tsuika.diffusion import adapters
from tsuika.families import FAMILIES, Family
from tsuika.formats import common, embedding, fused, layouts, lora
from tsuika.formats.kohya import facts_from, named_family
from tsuika.formats.layouts import Layout, Shapes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DIFFUSERS_FILE: Final = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for
# Of a folder, the first that is there: diffusers' and peft's, as they are called today and as they were.
_FILES: Final = (DIFFUSERS_FILE, "pytorch_lora_weights.bin", "adapter_model.safetensors", "adapter_model.bin")
_PEFT_CONFIG: Final = "adapter_config.json"
# In the header of diffusers' files: peft's settings of each component, as JSON.
SETTINGS: Final = "lora_adapter_metadata"
OF_THE_FILE: Final = ("format", SETTINGS, "family", "method")  # what a header says of its own file alone
# peft's kinds whose tensors are those of a kind that we have.
_PEFT_TYPES: Final = ("LORA", "LOHA", "LOKR")
_EXPECTED: Final = _("a LoRA for SD 1.x, SD 2.x, SDXL or SD 3.x")
# OneTrainer's and A1111's words inside a LoRA; cloneofsimo's are marked in the header.
_BUNDLED: Final = re.compile(r"bundle_emb\.(?P<word>.+)\.(?P<which>string_to_param\.[^.]+|emb_params|clip_[lg])")
_MARKED: Final = "<embed>"
_SECOND: Final = {"clip_g": embedding.COMPONENTS[1]}

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class OpenedLora:
    """The tensors of a LoRA's files, and peft's settings by component; under "" those of all."""

    weights: Weights
    settings: Mapping[str, Settings] = field(default_factory=dict)

    @property
    def words(self) -> dict[str, dict[str, str]]:
        """The words bundled in it: word -> component -> key."""
        found: dict[str, dict[str, str]] = {}
        for key in self.weights.shapes:
            if match := _BUNDLED.fullmatch(key):
                component = _SECOND.get(match["which"], embedding.COMPONENTS[0])
                found.setdefault(match["word"], {})[component] = key
            elif self.weights.metadata.get(key) == _MARKED:
                found[key] = {embedding.COMPONENTS[0]: key}
        return found


def layout_in(path: Path) -> Layout | None:
    """The layout of a file's or folder's LoRA, from headers alone (of torch files, without running anything). None
    where it holds none for a Stable Diffusion, or cannot be opened."""
    shapes = _shapes(path)
    return layouts.layout_of(shapes) if shapes else None


def foreign(path: Path) -> FormatError | None:
    """The error for a LoRA that no Stable Diffusion can take, which names what it is for; None where it is no LoRA."""
    shapes = _shapes(path)
    if not shapes or not layouts.is_lora(shapes) or layouts.layout_of(shapes):
        return None
    return _foreign(path, shapes)


def _foreign(path: Path, shapes: Shapes) -> FormatError:
    key = min(shapes, default="")
    if not shapes:
        found = _("no tensors")
    elif (model := layouts.model_of(shapes)) is not None:
        found = _("a LoRA for another kind of model: {model} (`{key}`)", model=model, key=key)
    elif any(layouts.is_layer(key) for key in shapes):
        found = _("a LoRA of a kind that tsuika does not know (`{key}`)", key=key)
    else:
        found = _n("{count} tensor, `{key}`", "{count} tensors such as `{key}`", len(shapes), key=key)
    return FormatError("FM001", where=path, found=found, expected=_EXPECTED)


@dataclass(frozen=True)
class LoraFile:
    """A layout that is read, and not written where a subclass does not say how. See `core.types.Format`."""

    layout: Layout
    method: str = lora.METHOD
    suffix: str = ""

    @property
    def name(self) -> str:
        return self.layout.name

    def sniff(self, path: Path) -> bool:
        """Whether the keys are of this layout."""
        return layout_in(path) is self.layout

    def read(self, path: Path) -> Artifact:
        return read(path)

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """Refuses. Raises FormatError: always (FM002)."""
        why = _("This layout is read only.")
        raise FormatError("FM002", format=self.name, why=why, do=common.ANOTHER_FORMAT)


def _place(path: Path) -> list[tuple[str, Path]]:
    """The files that a path stands for, with the component that each is for; "" for all."""
    if not path.is_dir():
        return [("", path)]
    if file := next((path / name for name in _FILES if (path / name).is_file()), None):
        return [("", file)]
    # One folder of peft's for each component, as its examples save them.
    parts = [(name, path / name) for name in lora.COMPONENTS if (path / name / _PEFT_CONFIG).is_file()]
    return [(name, file) for name, folder in parts for _all, file in _place(folder)]


def _shapes(path: Path) -> Shapes | None:
    try:
        if not (files := _place(path)) or not files[0][1].is_file():
            return None
        return _joined([(name, _open(file)) for name, file in files]).shapes
    except ModelError:
        return None


def _open(file: Path) -> Weights:
    return open_weights(file) if file.is_file() and is_pickle(file) else open_safetensors(file)


def _joined(files: list[tuple[str, Weights]]) -> Weights:
    """Several components' files as one; peft's keys do not say which they are of."""
    if len(files) == 1:
        return files[0][1]
    owners: dict[str, tuple[Weights, str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for component, weights in files:
        for key, shape in weights.shapes.items():
            name = f"{component}.{key.removeprefix('base_model.model.')}"
            shapes[name] = shape
            owners[name] = weights, key
    metadata = dict(ChainMap(*(dict(weights.metadata) for _component, weights in files)))
    return Weights(files[0][1].path, shapes, metadata, lambda name: owners[name][0].raw(owners[name][1]))


def opened(path: Path) -> OpenedLora:
    """The LoRA at `path`. Raises ModelError: not there (FM004), damaged (MD003), a pickle with code in it (MD005);
    FormatError: of a kind of peft's that is none of ours (FM001)."""
    files = _place(path) or [("", path / DIFFUSERS_FILE)]
    weights = _joined([(name, _open(file)) for name, file in files])
    settings = dict(_peft_settings(files)) or dict(_header_settings(weights))
    return OpenedLora(weights, settings)


def _peft_settings(files: list[tuple[str, Path]]) -> Iterator[tuple[str, Settings]]:
    for component, file in files:
        if not file.name.startswith("adapter_model") or not (config := file.with_name(_PEFT_CONFIG)).is_file():
            continue
        settings = read_json(config)
        kind = str(settings.get("peft_type", "LORA"))
        if kind not in _PEFT_TYPES:
            found = _("peft's adapter {kind}", kind=kind)
            expected = _("one of {names}", names=", ".join(_PEFT_TYPES))
            raise FormatError("FM001", where=config, found=found, expected=expected)
        yield component, settings


def _header_settings(weights: Weights) -> dict[str, dict[str, Any]]:
    try:
        flat = json.loads(weights.metadata.get(SETTINGS, "{}"))
    except (json.JSONDecodeError, RecursionError):
        flat = None
    if not isinstance(flat, dict):
        raise damaged(weights.path, _("`{field}` in the header is not a table", field=SETTINGS))
    result: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        component, _dot, name = key.partition(".")
        result.setdefault(component, {})[name] = value
    return result


def read(path: Path) -> Artifact:
    """The artifact, tensors in the file's dtype; keys not understood are listed in metadata `unread_keys`. Metadata:
    everything in the header as it is, and the facts (`common.run_facts`) under their own names. An `alpha` is there
    where the file or peft's settings say one; without it the scale is 1, as in every program. Raises ModelError:
    damaged (MD003, MD011), a pickle with code in it (MD005); FormatError: nothing in it is understood (FM001)."""
    source = opened(path)
    weights, words = source.weights, source.words
    if (layout := layouts.layout_of(weights.shapes)) is None:
        raise _foreign(path, weights.shapes)
    keys: dict[str, str] = {}
    names = layout.names(weights.shapes)
    for key, name in names.items():
        if (first := keys.setdefault(".".join(name), key)) != key:
            raise damaged(weights.path, _("`{one}` and `{other}`, two names of one tensor", one=first, other=key))
    tensors = {name: weights.raw(key) if name.endswith(".alpha") else weights.tensor(key) for name, key in keys.items()}
    for held in [held for held in tensors if held.endswith(layouts.MAGNITUDE)]:
        layer, magnitude = held.removesuffix(f".{layouts.MAGNITUDE}"), tensors.pop(held)
        down = tensors.get(f"{layer}.lora_down.weight", magnitude)
        tensors[f"{layer}.dora_scale"] = magnitude.reshape(-1, *[1] * max(down.ndim - 1, 1))
    layers = adapters.by_layer(tensors)
    for layer, parts in layers.items():
        tensors |= {f"{layer}.{part}": tensor for part, tensor in _whole(weights.path, layer, parts).items()}
    for layer, parts in layers.items():
        tensors |= dict(_scaled(weights.path, layer, parts, source.settings))
    tensors = {
        f"{name}.{part}": tensor
        for layer, parts in adapters.by_layer(tensors).items()
        for name, own in fused.split(layer, parts).items()
        for part, tensor in own.items()
    }
    of_words = {key for held in words.values() for key in held.values()}
    unread = sorted(weights.shapes.keys() - names.keys() - of_words)
    metadata = {key: text for key, text in weights.metadata.items() if key not in OF_THE_FILE and text != _MARKED}
    notes = {common.UNREAD: json.dumps(unread)} if unread else {}
    if words:
        notes[common.BUNDLED] = json.dumps(list(words), ensure_ascii=False)
    named = named_family(weights.metadata)
    family, evidence = (named, "metadata") if named else _guess_family(adapters.by_layer(tensors))
    notes |= {common.FAMILY_FROM: evidence, "adapter": adapters.adapter(tensors)}
    return Artifact(lora.METHOD, family.name, tensors, {**metadata, **facts_from(weights.metadata), **notes})


def bundled(path: Path, family: str) -> Iterator[Artifact]:
    """The words bundled in a LoRA for `family`, an artifact each; none where it is no LoRA. Raises ModelError: as
    `read`."""
    if layout_in(path) is None:
        return
    source = opened(path)
    for word, keys in source.words.items():
        vectors = {component: source.weights.tensor(key) for component, key in keys.items()}
        yield embedding.join(path, {word: vectors}, {"family": family})


def _whole(path: Path, layer: str, parts: adapters.Parts) -> dict[str, Tensor]:
    """The parts of a layer that have another shape in files than in artifacts; refuses what no program could apply.
    Raises FormatError: a part is missing or does not fit another (MD003), or an alpha destroys images (MD011)."""
    made: dict[str, Tensor] = {}
    if adapters.kind_of(parts) is None:
        raise damaged(path, lora.incomplete(layer, parts))
    if "alpha" in parts:
        if parts["alpha"].numel() != 1:
            raise _unfit(path, f"{layer}.alpha", parts["alpha"])
        made["alpha"] = parts["alpha"].reshape(())
        if adapters.inner_factor(parts) is not None:
            finite.check_alpha(path, f"{layer}.alpha", float(parts["alpha"]))
    if wrong := next((name for name, one in parts.items() if name != "alpha" and not one.is_floating_point()), ""):
        number = str(parts[wrong].dtype).removeprefix("torch.")
        raise damaged(path, _("`{name}` of the number type {dtype}", name=f"{layer}.{wrong}", dtype=number))
    shape = adapters.implied_shape(parts)
    if shape is not None and not all(shape):
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in parts.items())
        raise damaged(path, _("`{layer}`, whose parts do not fit together: {shapes}", layer=layer, shapes=shapes))
    scale = parts.get("dora_scale")
    if scale is not None and shape is not None:
        is_of_outputs = scale.numel() == shape[0] and (scale.ndim == 1 or len(scale) == shape[0])
        is_of_inputs = scale.ndim > 1 and len(scale) == 1 and scale.numel() and shape[1] % scale.numel() == 0
        if not is_of_outputs and not is_of_inputs:
            raise _unfit(path, f"{layer}.dora_scale", scale)
    return made


def _unfit(path: Path, name: str, tensor: Tensor) -> FormatError:
    return damaged(path, _("`{name}` has the shape {shape}, which fits nothing", name=name, shape=tuple(tensor.shape)))


def _scaled(
    path: Path, layer: str, parts: adapters.Parts, settings: Mapping[str, Settings]
) -> Iterator[tuple[str, Tensor]]:
    """What peft's settings say of a layer's scale, where its tensors do not: an alpha, or for LoKr without rank a factor."""
    import torch

    component, _dot, module_path = layer.partition(".")
    own = settings.get(component, settings.get(""))
    kind, inner = adapters.kind_of(parts), adapters.inner_factor(parts)
    if own is None or "alpha" in parts or kind is None or kind.name not in ("lora", "loha", "lokr"):
        return
    rank = len(inner) if inner is not None else _number(path, own, "r", module_path, "rank_pattern", 1)
    alpha = _number(path, own, "lora_alpha" if kind.name == "lora" else "alpha", module_path, "alpha_pattern", rank)
    if own.get("use_rslora") is True:
        alpha *= rank**0.5
    finite.check_alpha(path, f"{layer}.alpha", alpha)
    if inner is None:
        yield f"{layer}.lokr_w1", parts["lokr_w1"].float() * (alpha / rank)
    else:
        yield f"{layer}.alpha", torch.tensor(alpha, dtype=torch.float32)


def _number(path: Path, settings: Settings, name: str, module_path: str, patterns: str, default: float) -> float:
    value: Any = settings.get(name, default)
    table = settings.get(patterns) or {}
    if not isinstance(table, dict):
        raise damaged(path, _("`{field}` in the header is not a table", field=patterns))
    for pattern, own in table.items():
        # peft takes regular expressions; running a foreign one is a risk, and writers only put paths there.
        plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
        if not re.fullmatch(r"[\w.]+", plain):
            found = _("the regular expression `{pattern}`", pattern=pattern)
            expected = _("layer paths in `{field}`", field=patterns)
            raise FormatError("FM001", where=path, found=found, expected=expected)
        if module_path == plain or module_path.endswith(f".{plain}"):
            value = own
            break
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise damaged(path, _("{value} as `{field}` in the settings", value=repr(value), field=name))
    return float(value)


def _guess_family(layers: Mapping[str, adapters.Parts]) -> tuple[Family, str]:
    """The family and where it shows ("shapes" or "default"). Each piece of evidence leaves some families; one that
    would leave none (of no published size) is passed over."""
    left = list(FAMILIES)
    for could_be in _evidence(layers):
        left = [family for family in left if could_be(family)] or left
    return (left[0], "shapes") if len(left) == 1 else (FAMILIES[0], "default")


def _evidence(layers: Mapping[str, adapters.Parts]) -> Iterator[Callable[[Family], bool]]:
    """What layers demand of a family, the strongest first: its text encoders, widths, depth, kind of projections."""
    components = {layer.partition(".")[0] for layer in layers} - {"unet"}
    if any(layer.startswith("unet.") for layer in layers):
        joins = any(
            re.match(r"unet\.(transformer_blocks|norm_out|proj_out|context_embedder)\.", layer) for layer in layers
        )
        yield lambda family: family.network.joins_streams == joins
    yield lambda family: components <= set(family.facts.text_encoders)
    inputs = {
        layer: shape[1] for layer, parts in layers.items() if (shape := adapters.implied_shape(parts)) is not None
    }
    for layer, width in inputs.items():
        if re.search(r"\.attn2\.to_[kv]$", layer):
            yield lambda family, width=width: family.context_width == width  # type: ignore[misc]
    if any(re.search(r"\.transformer_blocks\.[1-9]", layer) for layer in layers):
        yield lambda family: family.depth > 1
    for layer, parts in layers.items():
        component = layer.partition(".")[0]
        if component != "unet" and layer.endswith("q_proj") and layer in inputs:
            yield lambda family, component=component, width=inputs[layer]: (  # type: ignore[misc]
                component in family.facts.text_encoders and family.text_width(component) == width
            )
        if layer.endswith(".proj_in") and (down := parts.get("lora_down.weight")) is not None:
            yield lambda family, is_linear=down.ndim == 2: family.has_linear_projections == is_linear  # type: ignore[misc]
    # Of text encoders alone nothing tells SDXL from SD3, which has the same two.
    yield lambda family: not family.network.joins_streams
