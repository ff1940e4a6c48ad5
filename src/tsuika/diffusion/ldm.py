"""The original (LDM, CompVis) key layout of single files: where each tensor of a diffusers model lies in it, by its name
alone. Sources: CompVis/stable-diffusion `openaimodel.py` and `model.py` (UNet, VAE), mlfoundations/open_clip
`transformer.py` (text towers of SD2 and SDXL), Stability-AI/sd3.5 `mmditx.py` (SD3), against diffusers' module names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from torch import Tensor

# In the header of a file that tsuika wrote: the parts' configs as JSON. Other files are of their family's one true size.
CONFIGS = "tsuika.configs"


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: the name without the component's prefix, and how it is packed there."""

    name: str
    third: int | None = None  # open_clip fuses q, k, v along the first axis
    transposed: bool = False  # open_clip's text_projection is a bare matrix, input first
    swapped: bool = False  # the halves of the first axis: shift and scale there, scale and shift in diffusers

    def under(self, prefix: str) -> Place:
        """The same place with a component's prefix."""
        return replace(self, name=prefix + self.name)


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_VAE_MIDDLE = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # diffusers before 0.14
_OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def _resnet(rest: str) -> str:
    part, _, end = rest.partition(".")
    return f"{RESNET[part]}.{end}"


def unet_place(name: str, config: Mapping[str, Any]) -> Place:
    """Where the UNet's tensor `name` (as in `UNet2DConditionModel.state_dict()`) lies; of that model's config
    `layers_per_block` must be one number. Raises KeyError: the layout has no place for such a tensor."""
    stem, _, end = name.rpartition(".")
    if stem in UNET_ENDS:
        return Place(f"{UNET_ENDS[stem]}.{end}")
    layers = int(config["layers_per_block"])
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        kind, j, rest = found[1], int(found[2]), found[3]
        return Place(
            f"middle_block.{2 * j}.{_resnet(rest)}" if kind == "resnets" else f"middle_block.{2 * j + 1}.{rest}"
        )
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    if found is None:
        raise KeyError(name)
    way, i, kind, j, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if kind == "downsamplers":
        return Place(f"input_blocks.{(layers + 1) * (i + 1)}.0.op.{rest.removeprefix('conv.')}")
    if kind == "upsamplers":  # comes after the resnet and, where there is one, the attention
        slot = 2 if "CrossAttn" in config["up_block_types"][i] else 1
        return Place(f"output_blocks.{(layers + 1) * i + layers}.{slot}.{rest}")
    block = f"input_blocks.{(layers + 1) * i + j + 1}" if way == "down" else f"output_blocks.{(layers + 1) * i + j}"
    return Place(f"{block}.0.{_resnet(rest)}" if kind == "resnets" else f"{block}.1.{rest}")


# The pieces of a UNet tensor's name, with the numbers behind them.
_PIECE = re.compile(
    r"(input_blocks|output_blocks)(\d{1,2})(\d)|(label_emb)(\d)(\d)"
    r"|(middle_block|time_embed|in_layers|out_layers|emb_layers|transformer_blocks|net|to_out|out)(\d+)"
    r"|(norm[123]?|attn[12]|proj(?:_in|_out)?|to_[qkv]|ff|skip_connection|op|conv|weight|bias)"
)


def averaged(name: str) -> str | None:
    """The UNet's tensor of which `model_ema.…` is the running average; None where it is none. Source: CompVis `ema.py`
    (`LitEma`), which takes the dots out of the names that it keeps."""
    rest = name.removeprefix("model_ema.diffusion_model")
    pieces: list[str] = []
    while rest and rest != name:
        if (found := _PIECE.match(rest)) is None:
            return None
        pieces += filter(None, found.groups())
        rest = rest[found.end() :]
    return ".".join(["model.diffusion_model", *pieces]) if pieces else None


def current_vae_name(name: str) -> str:
    """A tensor of a diffusers VAE, with any prefix, as `AutoencoderKL` calls it today."""
    if found := re.fullmatch(r"(.+attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)", name):
        return f"{found[1]}.{_OLD_VAE_ATTENTION[found[2]]}.{found[3]}"
    return name


def vae_place(name: str, config: Mapping[str, Any]) -> Place:
    """Where the VAE's tensor `name` (as in `AutoencoderKL.state_dict()`) lies."""
    if name.startswith(("quant_conv.", "post_quant_conv.")):
        return Place(name)
    side, _, rest = name.partition(".")
    for hf, ldm in _VAE_MIDDLE.items():
        if rest.startswith(f"{hf}."):
            stem, _, end = rest.removeprefix(f"{hf}.").rpartition(".")
            part = _VAE_ATTENTION[stem] if "attn" in ldm else stem
            return Place(f"{side}.{ldm}.{part}.{end}")
    if found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", rest):
        way, i, kind, j, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        level = i if way == "down" else len(config["block_out_channels"]) - 1 - i  # LDM counts up from the finest
        part = (
            f"block.{j}.{rest.replace('conv_shortcut', 'nin_shortcut')}" if kind == "resnets" else f"{way}sample.{rest}"
        )
        return Place(f"{side}.{way}.{level}.{part}")
    return Place(f"{side}.{rest.replace('conv_norm_out', 'norm_out')}")


def open_clip_place(name: str) -> Place:
    """Where a canonical CLIP text tensor lies in an open_clip tower. Raises KeyError: the layout has no place for such
    a tensor."""
    if name == "text_projection.weight":
        return Place("text_projection", transposed=True)
    rest = name.removeprefix("text_model.")
    if rest in _OPEN_CLIP:
        return Place(_OPEN_CLIP[rest])
    found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", rest)
    if found is None:
        raise KeyError(name)
    block, part, end = f"transformer.resblocks.{found[1]}", found[2], found[3]
    if part in _OPEN_CLIP_LAYER:
        return Place(f"{block}.{_OPEN_CLIP_LAYER[part]}.{end}")
    return Place(f"{block}.attn.in_proj_{end}", third=("q", "k", "v").index(part.removeprefix("self_attn.")[0]))


MMDIT_ENDS: Final = {
    "pos_embed.proj": "x_embedder.proj",
    "context_embedder": "context_embedder",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
MMDIT_BLOCK: Final = {
    **{f"attn.to_{x}": "x_block.attn.qkv" for x in "qkv"},
    **{f"attn.add_{x}_proj": "context_block.attn.qkv" for x in "qkv"},
    **{f"attn2.to_{x}": "x_block.attn2.qkv" for x in "qkv"},
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    **{f"attn.norm_{x}": f"x_block.attn.ln_{x}" for x in "qk"},
    **{f"attn.norm_added_{x}": f"context_block.attn.ln_{x}" for x in "qk"},
    **{f"attn2.norm_{x}": f"x_block.attn2.ln_{x}" for x in "qk"},
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}


def mmdit_place(name: str, config: Mapping[str, Any]) -> Place:
    """Where SD3's tensor `name` (as in `SD3Transformer2DModel.state_dict()`) lies; of that model's config `num_layers`
    must be there. Raises KeyError: the layout has no place for such a tensor."""
    if name == "pos_embed.pos_embed":
        return Place("pos_embed")
    stem, _, end = name.rpartition(".")
    if stem in MMDIT_ENDS:
        return Place(f"{MMDIT_ENDS[stem]}.{end}", swapped=stem == "norm_out.linear")
    found = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", stem)
    if found is None:
        raise KeyError(name)
    layer, there = found[2], MMDIT_BLOCK[found[2]]
    third = "qkv".index(layer.removesuffix("_proj")[-1]) if there.endswith(".qkv") else None
    # The last block only reads the text, so its norm has a scale and a shift alone.
    is_last = layer == "norm1_context.linear" and int(found[1]) == int(config["num_layers"]) - 1
    return Place(f"joint_blocks.{found[1]}.{there}.{end}", third, swapped=is_last)


def halves_swapped(tensor: Tensor) -> Tensor:
    """The tensor with the halves of its first axis in the other order."""
    import torch

    return torch.cat(tensor.chunk(2)[::-1])


def take(tensor: Tensor, place: Place, shape: tuple[int, ...]) -> Tensor:
    """The diffusers tensor of `shape` out of what lies at `place`; 1x1 convolutions and Linear are one another. Raises
    ValueError: the stored tensor cannot have this shape; its message is the shape found."""
    if place.third is not None:
        tensor = tensor.chunk(3)[place.third].clone()
    if place.swapped:
        tensor = halves_swapped(tensor)
    if place.transposed:
        tensor = tensor.T.contiguous()
    if tuple(tensor.shape) != shape:
        if _bare(tuple(tensor.shape)) != _bare(shape):
            raise ValueError("x".join(map(str, tensor.shape)))
        tensor = tensor.reshape(shape)
    return tensor


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
