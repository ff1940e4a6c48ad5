"""Layers of a LoRA for SD3 as its original layout has them, which kohya's and ComfyUI's files follow: q, k and v are one layer
there, and two norms have their halves the other way round. Exact in both directions: ΔW is the same. Sources:
Stability-AI/sd3.5 `mmditx.py`; kohya `lora_sd3.py`; ComfyUI `mmdit_to_diffusers`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from tsuika.core.errors import FormatError
from tsuika.core.texts import Text, _
from tsuika.diffusion import adapters, ldm
from tsuika.formats import lora

if TYPE_CHECKING:
    from torch import Tensor

Rows = Callable[["Tensor"], "Tensor"]

# Layer in the original layout -> those of diffusers, in their order there; blocks' layers without the block.
_IN_BLOCK: Final[dict[str, tuple[str, ...]]] = {}
for _hf, _there in ldm.MMDIT_BLOCK.items():
    _IN_BLOCK[_there] = (*_IN_BLOCK.get(_there, ()), _hf)
_ENDS: Final = {there: hf for hf, there in ldm.MMDIT_ENDS.items()}
ORIGINAL: Final = (*(f"joint_blocks.#.{name}" for name in _IN_BLOCK), *_ENDS)
# Norms that hold scale and shift in diffusers, shift and scale in the original: always, or in the last block alone,
# whose norm has two rows for each input and not six.
_TURNED: Final = ("norm_out.linear", "norm1_context.linear")
# What has outputs as its first axis.
_OUTER: Final = ("lora_up.weight", "lora_up.bias", "hada_w1_a", "hada_w2_a", "diff", "diff_b")


def is_original(path: str) -> bool:
    """Whether a layer of the denoising network is called as in the original layout, where it has another name."""
    return path.startswith("joint_blocks.") or path in _ENDS


def split(layer: str, parts: adapters.Parts) -> dict[str, adapters.Parts]:
    """A layer in original names (`<component>.joint_blocks.0...`) as those of diffusers; any other as it is. Raises
    FormatError: of a kind that is not cut into rows (FM001)."""
    component, _dot, path = layer.partition(".")
    if component != "unet" or not is_original(path):
        return {layer: parts}
    found = re.fullmatch(r"joint_blocks\.(\d+)\.(.+)", path)
    names = [f"transformer_blocks.{found[1]}.{hf}" for hf in _IN_BLOCK[found[2]]] if found else [_ENDS[path]]
    if len(names) == 1:
        shape = adapters.implied_shape(parts)
        turned = _is_turned(names[0], shape)
        return {f"{component}.{names[0]}": _by_rows(layer, parts, ldm.halves_swapped, 2) if turned else parts}
    cut = [_by_rows(layer, parts, lambda rows, n=n: rows.chunk(3)[n].clone(), 3) for n in range(3)]  # type: ignore[misc]
    return {f"{component}.{name}": third for name, third in zip(names, _trimmed(cut), strict=True)}


def _is_turned(path: str, shape: tuple[int, int] | None) -> bool:
    return path.endswith(_TURNED) and shape is not None and shape[0] == 2 * shape[1]


def _by_rows(layer: str, parts: adapters.Parts, rows: Rows, pieces: int) -> dict[str, Tensor]:
    """The parts of a layer that has these rows of another's outputs. Raises FormatError: FM001."""
    made = dict(parts)
    # Of a Kronecker product rows are cut in its first factor.
    first = next((name for name in ("lokr_w1", "lokr_w1_a") if name in parts), None)
    kind = adapters.kind_of(parts)
    name = kind.name if kind else ""
    if (first and len(parts[first]) % pieces) or name not in ("lora", "loha", "lokr", "full", "bias"):
        if name != "lokr":
            raise _unlike(layer, name)
        import torch

        dense = adapters.own_change(parts, torch.float32)
        assert dense is not None
        made = {"diff": dense} | {part: value for part, value in parts.items() if part in ("diff_b", "dora_scale")}
        first = None
    for part in (*_OUTER, *([first] if first else [])):
        if part in made:
            made[part] = rows(made[part])
    scale = made.get("dora_scale")
    if scale is not None:
        if scale.ndim > 1 and len(scale) == 1:
            raise _unlike(layer, "dora")
        made["dora_scale"] = rows(scale)
    return made


def _unlike(layer: str, kind: str) -> FormatError:
    found = _("`{layer}` of kind {kind} over several layers at once", layer=layer, kind=kind)
    return FormatError("FM001", where=layer, found=found, expected="lora, loha, lokr, full")


def _trimmed(thirds: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The thirds of a layer that was made of three: each without the ranks that are the others', whose columns are zero."""
    import torch

    ups = [parts.get("lora_up.weight") for parts in thirds]
    if any(up is None or up.ndim != 2 for up in ups) or "lora_mid.weight" in thirds[0]:
        return [dict(parts) for parts in thirds]
    used = [up.ne(0).any(dim=0) for up in ups if up is not None]
    free = ~torch.stack(used).any(dim=0)
    made = []
    for parts, own in zip(thirds, used, strict=True):
        # One that learnt nothing has what is left.
        kept = own if bool(own.any()) else free
        if bool(kept.all()) or not bool(kept.any()):
            made.append(dict(parts))
            continue
        trimmed = dict(parts)
        trimmed["lora_up.weight"] = parts["lora_up.weight"][:, kept].contiguous()
        trimmed["lora_down.weight"] = parts["lora_down.weight"][kept].contiguous()
        if "alpha" in parts:
            trimmed["alpha"] = torch.as_tensor(parts["alpha"]).float() * (int(kept.sum()) / len(kept))
        made.append(trimmed)
    return made


def join(layers: Mapping[lora.Key, adapters.Parts], format_name: str) -> dict[lora.Key, adapters.Parts]:
    """Layers in diffusers' names as those of the original layout; text encoders' as they are. Raises FormatError: of a
    kind that cannot stand in one layer with others (FM002)."""
    made: dict[lora.Key, adapters.Parts] = {}
    fused: dict[str, dict[int, adapters.Parts]] = {}
    for (component, path), parts in layers.items():
        there = _original(path) if component == "unet" else None
        if there is None:
            made[component, path] = parts
        elif there[1] is None:
            turned = _is_turned(path, adapters.implied_shape(parts))
            made[component, there[0]] = _by_rows(path, parts, ldm.halves_swapped, 2) if turned else parts
        else:
            fused.setdefault(there[0], {})[there[1]] = parts
    for path, thirds in fused.items():
        made["unet", path] = _stacked(path, thirds, format_name)
    return made


def _original(path: str) -> tuple[str, int | None] | None:
    """The layer of the original layout, and which third of it a layer of diffusers' is; None where it has none."""
    if path in ldm.MMDIT_ENDS:
        return ldm.MMDIT_ENDS[path], None
    found = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", path)
    if found is None or found[2] not in ldm.MMDIT_BLOCK:
        return None
    there = ldm.MMDIT_BLOCK[found[2]]
    names = _IN_BLOCK[there]
    return f"joint_blocks.{found[1]}.{there}", names.index(found[2]) if len(names) > 1 else None


def _stacked(path: str, thirds: Mapping[int, adapters.Parts], format_name: str) -> dict[str, Tensor]:
    import torch

    given = [thirds[number] for number in sorted(thirds)]
    kinds = {kind.name for parts in given if (kind := adapters.kind_of(parts)) is not None}
    names = {name for parts in given for name in parts}
    if len(kinds) != 1 or not kinds <= {"lora", "loha", "full"} or {"lora_mid.weight", "hada_t1"} & names:
        raise _refused(path, kinds, format_name, _("Train with adapter lora, loha or dora."))
    if "dora_scale" in names and (len(given) < 3 or any("dora_scale" not in parts for parts in given)):
        raise _refused(path, {"dora"}, format_name, _("Give all of q, k and v."))
    made: dict[str, Tensor] = {}
    scales = [adapters.scale_of(parts) for parts in given]
    outs = next(shape[0] for parts in given if (shape := adapters.implied_shape(parts)) is not None)
    name = kinds.pop()
    if name == "full":
        made["diff"] = torch.cat([_third(thirds, n, "diff", outs) for n in range(3)])
    else:
        pairs = [("lora_up.weight", "lora_down.weight")]
        if name == "loha":
            pairs = [("hada_w1_a", "hada_w1_b"), ("hada_w2_a", "hada_w2_b")]
        even = len(set(scales)) == 1
        for outer, inner in pairs:
            blocks = [parts[outer].detach().float() for parts in given]
            if not even and outer == pairs[0][0]:
                blocks = [block * scale for block, scale in zip(blocks, scales, strict=True)]
            made[outer] = _diagonal(blocks, sorted(thirds), outs)
            made[inner] = torch.cat([parts[inner].detach().float() for parts in given])
        rank = len(made[pairs[0][1]])
        made["alpha"] = torch.tensor(float(rank) * (scales[0] if even else 1.0))
    for part in ("diff_b", "dora_scale"):
        if part in names:
            made[part] = torch.cat([_third(thirds, n, part, outs) for n in range(3)])
    return made


def _diagonal(blocks: Sequence[Tensor], thirds: Sequence[int], outs: int) -> Tensor:
    """(3 * outs, all ranks): each third's factor in its own rows and columns, zeros elsewhere."""
    import torch

    whole = torch.zeros(3 * outs, sum(block.shape[1] for block in blocks))
    column = 0
    for block, third in zip(blocks, thirds, strict=True):
        whole[third * outs : (third + 1) * outs, column : column + block.shape[1]] = block
        column += block.shape[1]
    return whole


def _third(thirds: Mapping[int, adapters.Parts], number: int, part: str, outs: int) -> Tensor:
    """A part of one third, zeros where it is not there."""
    import torch

    own = thirds.get(number, {}).get(part)
    like = next(parts[part] for parts in thirds.values() if part in parts)
    return torch.zeros(outs, *like.shape[1:]) if own is None else own.detach().float()


def _refused(path: str, kinds: set[str], format_name: str, do: Text) -> FormatError:
    why = _(
        "q, k and v are one layer there (`{layer}`), which these cannot be: {kinds}.",
        layer=path,
        kinds=", ".join(sorted(kinds)) or "none",
    )
    return FormatError("FM002", format=format_name, why=why, do=do)
