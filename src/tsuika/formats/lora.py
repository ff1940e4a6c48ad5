"""The layers of a LoRA by canonical name, of every kind: which tensors make one, and which family they are of.

A tensor's name is `<component>.<module path>.<part>`; the parts are kohya's and LyCORIS' own.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsuika.core.errors import FormatError
from tsuika.core.safetensors import damaged
from tsuika.core.texts import Text, _, _n
from tsuika.core.types import Artifact
from tsuika.core.weights import Weights
from tsuika.diffusion.lora_parts import PARTS, adapter
from tsuika.families import FAMILIES, Family
from tsuika.formats import common

if TYPE_CHECKING:
    from torch import Tensor

Key = tuple[str, str]  # component, canonical module path
Parts = Mapping[str, "Tensor"]

METHOD: Final = "lora"
COMPONENTS: Final = ("unet", *dict.fromkeys(tower.component for family in FAMILIES for tower in family.towers))


def split_name(name: str) -> tuple[str, str, str] | None:
    """`unet.mid_block.attentions.0.proj_in.alpha` to (component, path, part); None if it is not a canonical name."""
    component, _dot, rest = name.partition(".")
    for part in PARTS:
        path = rest.removesuffix(f".{part}")
        if component in COMPONENTS and path != rest and path:
            return component, path, part
    return None


def layers(artifact: Artifact, format_name: str) -> dict[Key, dict[str, Tensor]]:
    """The artifact's tensors by (component, path), then by part, sorted.

    Raises:
        FormatError: not a LoRA, or with tensors that are no part of one (FM002).
    """
    if artifact.method != METHOD:
        raise common.of_another_method(artifact.method, format_name, _("LoRA"))
    result: dict[Key, dict[str, Tensor]] = {}
    for name, tensor in sorted(artifact.tensors.items()):
        if (split := split_name(name)) is None:
            why = _("`{name}` is no part that this format knows (OFT, for instance, is not).", name=name)
            do = _("Train with adapter lora, loha, lokr or dora.")
            raise FormatError("FM002", format=format_name, why=why, do=do)
        component, path, part = split
        result.setdefault((component, path), {})[part] = tensor
    for key, parts in result.items():
        if not is_whole(parts):
            why = _incomplete(".".join(key), parts)
            raise FormatError("FM002", format=format_name, why=why, do=_("Give whole layers."))
    return result


def is_whole(parts: Iterable[str]) -> bool:
    """Whether these parts of a layer make an update, none of them missing and none twice."""
    names = set(parts)
    if any(name.startswith("hada_") for name in names):
        factors = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
        return factors <= names and len({"hada_t1", "hada_t2"} & names) != 1
    if any(name.startswith("lokr_") for name in names):  # each of the two factors whole, or as a product
        halves = [{f"lokr_w{n}_a", f"lokr_w{n}_b"} & names for n in (1, 2)]
        is_split = [f"lokr_w{n}" not in names for n in (1, 2)]
        complete = all(len(two) == (2 if split else 0) for two, split in zip(halves, is_split, strict=True))
        return complete and (is_split[1] or "lokr_t2" not in names)
    return {"lora_down.weight", "lora_up.weight"} <= names


def _incomplete(layer: str, parts: Iterable[str]) -> Text:
    return _("`{layer}` has only {parts}.", layer=layer, parts=", ".join(parts))


def most_common(values: Iterable[float]) -> float:
    """The most frequent of the values, a whole number if it is one; 0 where there are none."""
    counted = Counter(values).most_common(1)
    value = counted[0][0] if counted else 0
    return int(value) if float(value).is_integer() else value


# -------------------------------------------------------------------------------------------------------------- reading


def renamed(
    weights: Weights, split_key: Callable[[str], tuple[str, str, str] | None], program: str
) -> tuple[dict[str, Tensor], list[str]]:
    """A file's tensors by canonical name, and the keys that were not understood.

    `split_key` makes (component, path, part) of a key, None if it is none of the layout; `program` is for errors.

    Raises:
        FormatError: nothing is understood (FM001), or two keys are one tensor (MD003).
    """
    keys: dict[str, str] = {}
    unread: list[str] = []
    for key in weights.shapes:
        if (split := split_key(key)) is None:
            unread.append(key)
            continue
        if (first := keys.setdefault(".".join(split), key)) != key:
            raise damaged(weights.path, _("`{one}` and `{other}`, two names of one tensor", one=first, other=key))
    if keys:
        return {name: weights.tensor(key) for name, key in keys.items()}, sorted(unread)
    found = _("no tensors")
    if unread:
        found = _n("{count} tensor, `{key}`", "{count} tensors such as `{key}`", len(unread), key=unread[0])
    expected = _("a LoRA for SD1.x, SD2.x or SDXL with {program} names", program=program)
    raise FormatError("FM001", where=weights.path, found=found, expected=expected)


def check_shapes(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse what no program could apply.

    Raises:
        FormatError: MD003, a matrix is not one, an alpha is not one number, down and up do not fit together, or a part
            of a layer is missing.
    """
    held: dict[str, list[str]] = {}
    for component, layer, part in filter(None, map(split_name, tensors)):
        if part not in ("alpha", "dora_scale"):
            held.setdefault(f"{component}.{layer}", []).append(part)
    for name, tensor in tensors.items():
        if name.endswith(".alpha"):
            fits = tensor.numel() == 1
        else:
            fits = name.endswith(".dora_scale") or tensor.ndim in (2, 3, 4, 5)
        if name.endswith(".lora_down.weight"):
            up = tensors.get(f"{name.removesuffix('lora_down.weight')}lora_up.weight")
            fits = fits and up is not None and up.ndim >= 2 and up.shape[1:].numel() == tensor.shape[0] > 0
        if not fits:
            why = _("`{name}` has the shape {shape}, which fits nothing", name=name, shape=tuple(tensor.shape))
            raise damaged(path, why)
    for layer, parts in held.items():
        if not is_whole(parts):
            raise damaged(path, _incomplete(layer, parts))


def artifact_of(
    tensors: dict[str, Tensor], named: Family | None, metadata: Mapping[str, str], unread: list[str]
) -> Artifact:
    """What was read from a file.

    `named` is the family that the file's header names; with None shapes tell.
    """
    family, evidence = (named, "metadata") if named else _guess_family(tensors)
    notes = {common.FAMILY_FROM: evidence, "adapter": adapter(tensors)}
    if unread:
        notes[common.UNREAD] = json.dumps(unread)
    return Artifact(METHOD, family.name, tensors, {**metadata, **notes})


def _guess_family(tensors: Mapping[str, Tensor]) -> tuple[Family, str]:
    """The family and where it shows ("shapes" or "default").

    Each piece of evidence leaves some families; one that would leave none (of no published size) is passed over.
    """
    left = list(FAMILIES)
    for could_be in _evidence(tensors):
        left = [family for family in left if could_be(family)] or left
    return (left[0], "shapes") if len(left) == 1 else (FAMILIES[0], "default")


def _evidence(tensors: Mapping[str, Tensor]) -> Iterator[Callable[[Family], bool]]:
    """What tensors demand of a family, the strongest first: its text encoders, widths, depth, kind of projections."""
    components = {name.partition(".")[0] for name in tensors} - {"unet"}
    yield lambda family: components <= set(family.facts.text_encoders)
    for name, tensor in tensors.items():
        if re.search(r"\.attn2\.to_[kv]\.(lora_down\.weight|hada_w1_b)$", name):
            yield lambda family, width=tensor.shape[1]: family.context_width == width  # type: ignore[misc]
    if any(re.search(r"\.transformer_blocks\.[1-9]", name) for name in tensors):
        yield lambda family: family.depth > 1
    for name, tensor in tensors.items():
        component = name.partition(".")[0]
        if component != "unet" and name.endswith("q_proj.lora_down.weight"):
            yield lambda family, component=component, width=tensor.shape[1]: (  # type: ignore[misc]
                component in family.facts.text_encoders and family.text_width(component) == width
            )
        if name.endswith(".proj_in.lora_down.weight"):
            yield lambda family, is_linear=tensor.ndim == 2: family.has_linear_projections == is_linear  # type: ignore[misc]
