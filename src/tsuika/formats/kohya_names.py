"""kohya's names of a LoRA's layers: the module path with '.' as '_', behind a prefix of the component. The UNet of SD1
and SD2 goes by its diffusers (HF) names, that of SDXL by the original (LDM) ones: `lora_unet_input_blocks_4_1_...`.
Reading takes both for every family and any number of blocks."""

from __future__ import annotations

import functools
import re
from typing import Final

from tsuika.diffusion import ldm
from tsuika.families import family

_UNET: Final = "lora_unet"
# Module paths as templates; `#` stands for a number. What kohya trains, and LyCORIS beside it.
_ATTENTION: Final = (
    "norm",
    "proj_in",
    "proj_out",
    *(f"transformer_blocks.#.norm{n}" for n in (1, 2, 3)),
    "transformer_blocks.#.ff.net.0.proj",
    "transformer_blocks.#.ff.net.2",
    *(f"transformer_blocks.#.attn{n}.to_{x}" for n in (1, 2) for x in ("q", "k", "v", "out.0")),
)
_RESNET: Final = tuple(ldm.RESNET)
_OUTSIDE: Final = ldm.UNET_ENDS
_HF: Final = (
    *(f"{block}.attentions.#.{leaf}" for block in ("down_blocks.#", "mid_block", "up_blocks.#") for leaf in _ATTENTION),
    *(f"{block}.resnets.#.{leaf}" for block in ("down_blocks.#", "mid_block", "up_blocks.#") for leaf in _RESNET),
    "down_blocks.#.downsamplers.0.conv",
    "up_blocks.#.upsamplers.0.conv",
    *_OUTSIDE,
)
_LDM: Final = (
    *(f"{block}.1.{leaf}" for block in ("input_blocks.#", "middle_block", "output_blocks.#") for leaf in _ATTENTION),
    *(
        f"{block}.{ldm.RESNET[leaf]}"
        for block in ("input_blocks.#.0", "middle_block.0", "middle_block.2", "output_blocks.#.0")
        for leaf in _RESNET
    ),
    "input_blocks.#.0.op",
    "output_blocks.#.1.conv",
    "output_blocks.#.2.conv",
    *_OUTSIDE.values(),
)
_CLIP: Final = (
    *(f"text_model.encoder.layers.#.self_attn.{x}_proj" for x in ("q", "k", "v", "out")),
    *(f"text_model.encoder.layers.#.mlp.fc{n}" for n in (1, 2)),
    *(f"text_model.encoder.layers.#.layer_norm{n}" for n in (1, 2)),
    "text_model.final_layer_norm",
    "text_projection",
)
# written through transformers 5
_FLAT_CLIP: Final = tuple(name.removeprefix("text_model.") for name in _CLIP[:-1])
_NUMBER: Final = r"(0|[1-9]\d{0,2})"
_PER_BLOCK: Final = 3  # LDM blocks per HF block: two resnets (three going up) and a resampler, SD1 to SDXL alike
# With an attention before each upsampler, as every upsampling block of SDXL has it.
_CONFIG: Final = {"layers_per_block": _PER_BLOCK - 1, "up_block_types": ["CrossAttnUpBlock2D"] * 1000}


@functools.cache
def _patterns(is_unet: bool) -> tuple[tuple[re.Pattern[str], str], ...]:
    def compiled(template: str) -> tuple[re.Pattern[str], str]:
        pieces = (_NUMBER if piece == "#" else re.escape(piece) for piece in template.split("."))
        return re.compile("_".join(pieces)), template

    return tuple(map(compiled, (*_HF, *_LDM) if is_unet else (*_CLIP, *_FLAT_CLIP)))


@functools.lru_cache(maxsize=1 << 14)
def dotted(component: str, underscored: str) -> str | None:
    """The canonical module path behind an underscored name in HF or LDM spelling; None if there is none. Exact: every
    name fits at most one template, so `to_out_0` or `time_emb_proj` are never split wrongly."""
    for pattern, template in _patterns(component == "unet"):
        if match := pattern.fullmatch(underscored):
            numbers = iter(match.groups())
            path = ".".join(next(numbers) if piece == "#" else piece for piece in template.split("."))
            if template in _LDM:
                return _hf_from_ldm(path)
            return f"text_model.{path}" if template in _FLAT_CLIP else path
    return None


def _hf_from_ldm(path: str) -> str | None:
    """The HF path of a layer in the original layout: the one that `ldm.unet_place` puts there."""
    for hf, there in _OUTSIDE.items():
        if there == path:
            return hf
    block, number, rest = path.split(".", 2)
    n = int(number)
    if block == "middle_block":
        hf = f"mid_block.attentions.0.{rest}" if n == 1 else f"mid_block.resnets.{n // 2}.{rest}"
    else:
        way, (i, j) = ("down", divmod(n - 1, _PER_BLOCK)) if block == "input_blocks" else ("up", divmod(n, _PER_BLOCK))
        slot, leaf = rest.split(".", 1)
        is_sampler, is_last = leaf in ("op", "conv"), j == _PER_BLOCK - 1
        if n - (way == "down") < 0 or (is_sampler and not is_last) or (way == "down" and is_last and not is_sampler):
            return None
        kind = f"attentions.{j}" if slot == "1" else f"resnets.{j}"
        hf = f"{way}_blocks.{i}." + (f"{way}samplers.0.conv" if is_sampler else f"{kind}.{leaf}")
    for name in _RESNET:
        hf = re.sub(rf"\.{re.escape(ldm.RESNET[name])}$", f".{name}", hf)
    return hf


def _ldm_from_hf(path: str) -> str | None:
    try:
        return ldm.unet_place(f"{path}.weight", _CONFIG).name.removesuffix(".weight")
    except KeyError:
        return None


def layer_name(family_name: str, component: str, path: str) -> str | None:
    """kohya's name of a layer, without the part: `lora_unet_mid_block_attentions_0_proj_in`; None if it has none."""
    kind = family(family_name)
    prefixes = {"unet": _UNET} | {tower.component: tower.kohya for tower in kind.towers}
    there = _ldm_from_hf(path) if component == "unet" and kind.names.has_ldm_lora else path
    if component not in prefixes or there is None or dotted(component, there.replace(".", "_")) != path:
        return None
    return f"{prefixes[component]}_{there.replace('.', '_')}"
