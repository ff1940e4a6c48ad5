"""`Network`: the kinds of networks that denoise, each with its names, roles, sizes, and how it is asked. UNets here; a family
of another kind describes its own (`sd3.py`). Knows no files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tsuika.core.types import Conditioning, Role
from tsuika.diffusion import ldm

if TYPE_CHECKING:
    from torch import Tensor, nn

Config = Mapping[str, Any]

# Roles by canonical module path. attn + ff together are what kohya's sd-scripts target by default (every Linear and 1x1
# convolution of Transformer2DModel, CLIPAttention and CLIPMLP); conv adds ResnetBlock2D, Downsample2D, Upsample2D.
TEXT_ROLES: Final[Mapping[Role, str]] = {
    "text.attn": r"text_model\.encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj",
    "text.ff": r"text_model\.encoder\.layers\.\d+\.mlp\.fc[12]",
    "text.tokens": r"text_model\.embeddings\.token_embedding|encoder\.embed_tokens",
}
UNET_ROLES: Final[Mapping[Role, str]] = {
    "unet.attn": r".*\.attentions\.\d+\.(proj_in|proj_out|transformer_blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0))",
    "unet.ff": r".*\.transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)",
    "unet.conv": r".*\.(resnets\.\d+\.(conv1|conv2|time_emb_proj|conv_shortcut)|(down|up)samplers\.0\.conv)",
}


@dataclass(frozen=True)
class Network:
    """A kind of network that denoises."""

    part: str  # its folder in diffusers' layout, and what its keys in peft's layout begin with
    class_name: str  # in diffusers
    roles: Mapping[Role, str]  # patterns of canonical module paths
    build: Callable[[Config], nn.Module]
    place: Callable[[str, Config], ldm.Place]  # a tensor's name, config -> its place in a single file; KeyError: none
    # Of every single file with it, behind the prefix; the first takes the latents: its second side is their channels.
    marks: tuple[str, ...]
    denoise: Callable[[Any, Tensor, Tensor, Conditioning], Tensor]  # (network, noisy latents, times, conditioning)
    size_step: Callable[[Config], int]  # sides in latents must be multiples of this
    size_limit: Callable[[Config], int | None]  # of a side in latents
    reads: Callable[
        [Config], Mapping[str, tuple[int, ...]]
    ]  # shapes of what it reads beside the latents, for one image
    middle: Callable[[Config], int]  # the width that most of its layers have
    checkpointed: tuple[str, ...]  # classes of its modules that diffusers checkpoints
    # Whether a training in float16 is known to end in numbers that are not finite.
    overflows_in_fp16: Callable[[Config], bool] = lambda _config: False
    joins_streams: bool = False  # attention is over text and image together, and none to the text alone


def refuse_absurd(config: Config) -> None:
    """Raise ValueError where a network of these sizes would be made without end: a config is a text, from anywhere."""
    for name, value in config.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        most = 256 if name in _LAYERS else 1_000_000
        if len(numbers) > 64 or any(isinstance(one, int) and abs(one) > most for one in numbers):
            raise ValueError(name)


_LAYERS: Final = ("num_hidden_layers", "layers_per_block", "transformer_layers_per_block", "num_layers")


def build_unet(config: Config) -> nn.Module:
    """A UNet of this config, with the initial weights that the current torch context gives."""
    from diffusers import UNet2DConditionModel

    refuse_absurd(config)
    model: nn.Module = UNet2DConditionModel.from_config(dict(config))
    return model


def _denoise(unet: Any, noisy_BCHW: Tensor, t_B: Tensor, cond: Conditioning) -> Tensor:
    dtype = noisy_BCHW.dtype
    added: dict[str, Any] = {}
    if cond.mask_BS is not None:
        added["encoder_attention_mask"] = cond.mask_BS
    if cond.pooled_BP is not None and cond.time_ids_B6 is not None:
        added["added_cond_kwargs"] = {"text_embeds": cond.pooled_BP.to(dtype), "time_ids": cond.time_ids_B6}
    out: Tensor = unet(noisy_BCHW, t_B, cond.tokens_BSD.to(dtype), return_dict=False, **added)[0]
    return out


def _reads(config: Config) -> dict[str, tuple[int, ...]]:
    text: dict[str, tuple[int, ...]] = {"tokens_BSD": (77, int(config["cross_attention_dim"]))}
    if config.get("addition_embed_type") != "text_time":
        return text
    pooled = int(config["projection_class_embeddings_input_dim"]) - 6 * int(config["addition_time_embed_dim"])
    return {**text, "pooled_BP": (pooled,), "time_ids_B6": (6,)}


UNET: Final = Network(
    part="unet",
    class_name="UNet2DConditionModel",
    roles=UNET_ROLES,
    build=build_unet,
    place=ldm.unet_place,
    marks=("input_blocks.0.0.weight",),
    denoise=_denoise,
    # Every level but the last halves the side.
    size_step=lambda config: int(2 ** (len(config["block_out_channels"]) - 1)),
    size_limit=lambda config: None,
    reads=_reads,
    middle=lambda config: int(config["block_out_channels"][1]),
    checkpointed=("ResnetBlock2D", "BasicTransformerBlock"),
)
