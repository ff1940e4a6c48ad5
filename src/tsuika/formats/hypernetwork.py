"""Hypernetworks: A1111's `.pt`, which A1111 and ComfyUI apply, and our `.safetensors` without a pickle. An artifact's
names are those of the exported net, without dropout; its metadata holds every header field of A1111. ComfyUI leaves
dropout on when it generates, so no file of ours has any: a foreign net's modules are numbered anew."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import safetensors
from tsuika.core.errors import FormatError
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.core.weights import is_pickle, load_pickle, save_pickle
from tsuika.diffusion.activations import ACTIVATIONS, WIDEST
from tsuika.families import FAMILIES
from tsuika.formats import common, provenance
from tsuika.formats.native import Native

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_DEFAULTS: Final[dict[str, Any]] = {  # what A1111 assumes where a file does not say
    "layer_structure": [1, 2, 1],
    "activation_func": "linear",
    "is_layer_norm": False,
    "weight_initialization": "Normal",
    "activate_output": True,
}
METHOD: Final = "hypernetwork"
_NAME: Final = re.compile(r"(\d+)\.([kv])\.linear\.(\d+)\.(weight|bias)")
_PICKLED: Final = re.compile(rb"linear(\.\d+|1)\.(weight|bias)")  # in the pickle's head; strings in it are plain
_HEAD_BYTES: Final = 1 << 16
_EXPECTED: Final = _("a hypernetwork in A1111's layout")

Net = dict[str, "Tensor"]  # `linear.0.weight` -> tensor, in the order of the modules


class A1111Hypernetwork:
    """The `.pt`: a pickled dictionary of header fields and, by width, a pair of state dicts. See `core.types.Format`."""

    name = "a1111"
    method = METHOD
    suffix = ".pt"

    def sniff(self, path: Path) -> bool:
        """Whether a pickle's head has a name of such a net; nothing is unpickled."""
        if not path.is_file() or not is_pickle(path):
            return False
        with path.open("rb") as stream:
            return _PICKLED.search(stream.read(_HEAD_BYTES)) is not None

    def read(self, path: Path) -> Artifact:
        """The artifact. What A1111 assumes is filled in where the header is silent. Raises FormatError also for an
        unknown activation, or nets that do not fit the header (FM001)."""
        content = load_pickle(path)
        if not isinstance(content, dict):
            raise _no_hypernetwork(path, _("a pickled {kind}", kind=type(content).__name__))
        header = _header(path, content)
        tensors: dict[str, Tensor] = {}
        for width, pair in content.items():
            if not isinstance(width, int):
                continue
            if not isinstance(pair, tuple | list) or len(pair) < 2:
                raise _no_hypernetwork(path, f"`{width}`: {type(pair).__name__}")
            for side, state in zip("kv", pair, strict=False):
                net = _in_order(path, f"{width}.{side}", state)
                tensors |= _numbered(path, f"{width}.{side}", net, width, header)
        if not tensors:
            raise _no_hypernetwork(path, _("no networks under whole-number keys"))
        family, evidence = _family(tensors, str(content.get("optional_info")))
        metadata = {name: json.dumps(value) for name, value in header.items()} | {common.FAMILY_FROM: evidence}
        facts = {
            "steps": content.get("step"),
            "name": content.get("name"),
            "base_name": content.get("sd_checkpoint_name"),
            provenance.KEY: content.get(provenance.KEY),
        }
        metadata |= common.facts_of(facts)
        return Artifact(self.method, family, tensors, metadata)

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """Write whole or not at all, with every field: those that are left out mean different things to A1111 and
        ComfyUI; ComfyUI goes by the order of the tensors."""
        header, nets = _checked(artifact, self.name)
        states = {key: safetensors.cast(net, dtype, self.name) for key, net in nets.items()}
        facts = artifact.metadata
        content: dict[Any, Any] = {
            "step": common.whole_number(facts.get("steps")),
            "name": facts.get("name", path.stem),
            **header,
            "sd_checkpoint": facts.get("base_sha256", "")[:10] or None,
            "sd_checkpoint_name": facts.get("base_name"),
            "optional_info": f"tsuika {artifact.family}",
            **provenance.carried(facts),
        }
        for width in sorted({int(key.partition(".")[0]) for key in nets}):
            content[width] = (states[f"{width}.k"], states[f"{width}.v"])
        save_pickle(content, path)


def _complete(artifact: Artifact, where: str) -> Artifact:
    header, _nets = _checked(artifact, where)
    metadata = artifact.metadata | {name: json.dumps(value) for name, value in header.items()}
    if artifact.family:
        return replace(artifact, metadata=metadata)
    family, evidence = _family(artifact.tensors, "")
    return replace(artifact, family=family, metadata=metadata | {common.FAMILY_FROM: evidence})


NATIVE: Final = Native(METHOD, is_marked=False, check=_complete)


def _header(where: object, fields: Mapping[Any, Any]) -> dict[str, Any]:
    """A1111's header fields as they hold for a net without dropout, in plain Python types."""
    found = {name: default if fields.get(name) is None else fields[name] for name, default in _DEFAULTS.items()}
    structure, activation = found["layer_structure"], common.described(found["activation_func"]).lower()
    if activation != "linear" and activation not in ACTIVATIONS:
        known = ", ".join(("linear", *ACTIVATIONS))
        expected = _("an activation that A1111 knows: {names}", names=known)
        found_name = _("the activation `{name}`", name=activation)
        raise FormatError("FM001", where=where, found=found_name, expected=expected)
    if not isinstance(structure, tuple | list) or len(structure) < 2 or not all(map(_is_width, structure)):
        expected = _("a list of at least two finite numbers above 0")
        raise FormatError("FM001", where=where, found=f"layer_structure {structure!r:.200}", expected=expected)
    if structure[0] != 1 or structure[-1] != 1:
        expected = _("a list that begins and ends with 1: what a hypernetwork makes is added to what it reads")
        raise FormatError("FM001", where=where, found=f"layer_structure {structure!r:.200}", expected=expected)
    for name in ("is_layer_norm", "activate_output"):
        if not isinstance(found[name], bool | int):
            expected = _("a value that is true or false")
            raise FormatError("FM001", where=where, found=f"{name} {common.described(found[name])}", expected=expected)
    return {
        "layer_structure": list(structure),
        "activation_func": activation,
        "is_layer_norm": bool(found["is_layer_norm"]),
        "weight_initialization": common.described(found["weight_initialization"]),
        "activate_output": bool(found["activate_output"]),
        "use_dropout": False,
        "dropout_structure": [0.0] * len(structure),
        "last_layer_dropout": False,
    }


def _is_width(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < WIDEST


def _layout(width: int, header: Mapping[str, Any]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(index, shape of the weight) of every module with weights: Linear [activation] [LayerNorm], layer by layer."""
    sizes = [int(width * multiple) for multiple in header["layer_structure"]]
    index = 0
    for i, (inside, out) in enumerate(pairwise(sizes), start=1):
        yield index, (out, inside)
        index += 1
        if header["activation_func"] != "linear" and (i < len(sizes) - 1 or header["activate_output"]):
            index += 1
        if header["is_layer_norm"]:
            yield index, (out,)
            index += 1


def _in_order(where: object, key: str, state: Any) -> list[tuple[int, str, Tensor]]:
    """(index, "weight" or "bias", tensor) of a state dict, sorted, weights first; also for the names before Nov 2022."""
    import torch

    if not isinstance(state, Mapping):
        raise _no_hypernetwork(where, f"`{key}`: {type(state).__name__}")
    net = []
    for name, tensor in state.items():
        match = re.fullmatch(r"linear\.?(\d+)\.(weight|bias)", str(name))
        if match is None or not isinstance(tensor, torch.Tensor):
            raise _no_hypernetwork(where, f"`{key}.{name}`")
        net.append((int(match[1]), match[2], tensor))
    return sorted(net, key=lambda entry: (entry[0], entry[1] == "bias"))


def _numbered(
    where: object, key: str, net: list[tuple[int, str, Tensor]], width: int, header: Mapping[str, Any]
) -> Net:
    """A net under its exported names `<key>.linear.{i}...`: dropout in a foreign file only shifts the numbers."""
    layout = list(_layout(width, header))
    required = [
        (index, part, shape if part == "weight" else shape[:1])
        for index, shape in layout
        for part in ("weight", "bias")
    ]
    found = [tuple(tensor.shape) for _index, _part, tensor in net]
    if [(part, shape) for _index, part, shape in required] != [(n[1], s) for n, s in zip(net, found, strict=True)]:
        expected = ", ".join(f"{part} {list(shape)}" for _index, part, shape in required)
        has = ", ".join(f"{n[1]} {list(s)}" for n, s in zip(net, found, strict=True))
        expected = f"{expected} (layer_structure {header['layer_structure']})"
        raise FormatError("FM001", where=where, found=f"`{key}`: {has}", expected=expected)
    return {
        f"{key}.linear.{index}.{part}": tensor
        for (index, part, _shape), (_i, _p, tensor) in zip(required, net, strict=True)
    }


def _checked(artifact: Artifact, format_name: str) -> tuple[dict[str, Any], dict[str, Net]]:
    """Header fields and nets by `<width>.<k|v>`, if the artifact is what its header says."""
    if artifact.method != METHOD:
        raise common.of_another_method(artifact.method, format_name, _("hypernetworks"))
    try:
        header = _header(format_name, {name: json.loads(artifact.metadata[name]) for name in _DEFAULTS})
    except (KeyError, ValueError, RecursionError) as error:
        raise FormatError("FM001", where=format_name, found=str(error), expected=_("A1111's header fields")) from None
    states: dict[str, dict[str, Tensor]] = {}
    for name, tensor in artifact.tensors.items():
        if (match := _NAME.fullmatch(name)) is None:
            expected = _("names like 768.k.linear.0.weight")
            raise FormatError("FM001", where=format_name, found=f"`{name}`", expected=expected)
        key = f"{match[1]}.{match[2]}"
        states.setdefault(key, {})[name.removeprefix(f"{key}.")] = tensor
    nets: dict[str, Net] = {}
    for width in {key.partition(".")[0] for key in states}:
        for side in "kv":
            key = f"{width}.{side}"
            numbered = _numbered(format_name, key, _in_order(format_name, key, states.get(key, {})), int(width), header)
            nets[key] = {name.removeprefix(f"{key}."): tensor for name, tensor in numbered.items()}
            if unmatched := nets[key].keys() ^ states[key].keys():
                raise _no_hypernetwork(format_name, f"`{key}.{min(unmatched)}`")
    return header, nets


def _family(tensors: Mapping[str, Tensor], info: str) -> tuple[str, str]:
    """The family and where it shows: our note, the width of the text, or nothing (the first family is assumed)."""
    widths = {int(name.partition(".")[0]) for name in tensors}
    for family in FAMILIES:
        if info == f"tsuika {family.name}":
            return family.name, "metadata"
    for family in FAMILIES:
        if family.context_width in widths:
            return family.name, "shapes"
    return FAMILIES[0].name, "default"


def _no_hypernetwork(where: object, found: str) -> FormatError:
    return FormatError("FM001", where=where, found=found, expected=_EXPECTED)
