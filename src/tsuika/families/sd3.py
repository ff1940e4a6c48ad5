"""Stable Diffusion 3-medium, 3.5-medium and 3.5-large (and its turbo): a transformer over image and text together (MMDiT),
trained by rectified flow; CLIP-L, CLIP-bigG and, where it is there, T5. Sources: Esser et al. 2024; Stability-AI/sd3.5
`mmditx.py`, `sd3_impls.py`, `sd3_infer.py`; diffusers `scripts/convert_sd3_to_diffusers.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tsuika.core.types import Conditioning
from tsuika.core.weights import UNET_PREFIX
from tsuika.diffusion import ldm
from tsuika.families import common
from tsuika.families.common import Family, Geometry, Names, Shapes, TextTower
from tsuika.families.model import Read, StableDiffusion
from tsuika.families.network import Config, Network, refuse_absurd

if TYPE_CHECKING:
    from torch import Tensor, nn

_SCALE: Final = 1.5305  # Stability-AI/sd3.5 `SD3LatentFormat`
_SHIFT: Final = 0.0609  # the same
# Tokens that T5 reads, in training as in drawing: what diffusers, kohya and Forge draw with. Nothing masks the padding, so
# that another number is another prompt.
T5_TOKENS: Final = 256
_CLIP_WIDTHS: Final = 2048  # of CLIP-L and CLIP-bigG: what their pooled outputs make together
# The two CLIPs of SDXL. L's projection is in no single file: the unit matrix stands for it.
_TEXT_L: Final = common.clip_config(768, 12, 12, act="quick_gelu", projection=768, pad=49407)
_TEXT_G: Final = common.clip_config(1280, 32, 20, act="gelu", projection=1280, pad=0)
# google/t5-v1_1-xxl
_TEXT_T5: Final[Config] = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "dropout_rate": 0.1,
    "tie_word_embeddings": False,
    "is_encoder_decoder": False,
    "use_cache": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


@dataclass(frozen=True)
class Size:
    """One of the published sizes."""

    title: str
    architecture: str  # in modelspec
    blocks: int  # also the number of heads, which are 64 wide
    side: int  # of the grid that positions are kept for
    dual: int = 0  # first blocks that have a second attention, over the image alone
    qk_norm: str | None = "rms_norm"

    @property
    def config(self) -> Config:
        """As diffusers writes it."""
        return {
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": self.blocks,
            "attention_head_dim": 64,
            "num_attention_heads": self.blocks,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 64 * self.blocks,
            "pooled_projection_dim": _CLIP_WIDTHS,
            "pos_embed_max_size": self.side,
            "dual_attention_layers": list(range(self.dual)),
            "qk_norm": self.qk_norm,
        }


# Large and turbo are the same in everything that a file says.
MEDIUM, MEDIUM_35, LARGE_35 = SIZES = (
    Size("Stable Diffusion 3-medium", "stable-diffusion-3-medium", 24, 192, qk_norm=None),
    Size("Stable Diffusion 3.5-medium", "stable-diffusion-3-5-medium", 24, 384, dual=13),
    Size("Stable Diffusion 3.5-large", "stable-diffusion-3-5-large", 38, 192),
)


def build(config: Config) -> nn.Module:
    """A transformer of this config, with the initial weights that the current torch context gives."""
    from diffusers import SD3Transformer2DModel

    refuse_absurd(config)
    model: nn.Module = SD3Transformer2DModel.from_config(dict(config))
    return model


def _denoise(transformer: Any, noisy_BCHW: Tensor, t_B: Tensor, cond: Conditioning) -> Tensor:
    """Tokens are never masked, so rows that were filled up are asked without what fills them."""
    import torch

    assert cond.pooled_BP is not None
    tokens_BSD, pooled_BP = cond.tokens_BSD.to(noisy_BCHW.dtype), cond.pooled_BP.to(noisy_BCHW.dtype)
    if cond.mask_BS is None:
        out_BCHW: Tensor = transformer(noisy_BCHW, tokens_BSD, pooled_BP, t_B, return_dict=False)[0]
        return out_BCHW
    lengths = [int(count) for count in cond.mask_BS.sum(dim=1).tolist()]
    made: dict[int, Tensor] = {}
    for length in sorted(set(lengths)):
        rows = [row for row, own in enumerate(lengths) if own == length]
        given = noisy_BCHW[rows], tokens_BSD[rows, :length], pooled_BP[rows], t_B[rows]
        made |= dict(zip(rows, transformer(*given, return_dict=False)[0], strict=True))
    return torch.stack([made[row] for row in range(len(lengths))])


# Both streams; of the last block the text side ends in its keys and values.
MMDIT: Final = Network(
    part="transformer",
    class_name="SD3Transformer2DModel",
    roles={
        "unet.attn": r"transformer_blocks\.\d+\.(attn2?\.to_(q|k|v|out\.0)|attn\.(add_[qkv]_proj|to_add_out))",
        "unet.ff": r"transformer_blocks\.\d+\.ff(_context)?\.net\.(0\.proj|2)",
        # It has no convolutions but the one that takes the latents.
        "unet.conv": r"(?!)",
    },
    build=build,
    place=ldm.mmdit_place,
    marks=("x_embedder.proj.weight", "joint_blocks.0.context_block.attn.qkv.weight"),
    denoise=_denoise,
    size_step=lambda config: int(config["patch_size"]),
    size_limit=lambda config: int(config["pos_embed_max_size"]) * int(config["patch_size"]),
    reads=lambda config: {
        "tokens_BSD": (77 + T5_TOKENS, int(config["joint_attention_dim"])),
        "pooled_BP": (int(config["pooled_projection_dim"]),),
    },
    middle=lambda config: int(config["caption_projection_dim"]),
    checkpointed=("JointTransformerBlock",),
    # SD3-medium's keys and queries have no norm (huggingface/diffusers#8599).
    overflows_in_fp16=lambda config: not config.get("qk_norm"),
    joins_streams=True,
)


def _join_text(model: StableDiffusion, read: Mapping[str, Read]) -> Conditioning:
    """Both CLIPs' penultimate states, unnormed, side by side and filled up with zeros to T5's width; behind them along the
    tokens T5's last states, or as many zeros. Pooled is both CLIPs'. Source: diffusers `encode_prompt`."""
    import torch
    from torch.nn import functional

    *clips, t5 = (read.get(tower.component) for tower in model.family.towers)
    states = [one[0] for one in clips if one is not None]
    pooled = [one[1] for one in clips if one is not None and one[1] is not None]
    clip_BSD = torch.cat(states, dim=-1)
    width = int(model.unet.config.joint_attention_dim)  # type: ignore[union-attr, arg-type]
    clip_BSD = functional.pad(clip_BSD, (0, width - clip_BSD.shape[-1]))
    t5_BSD = clip_BSD.new_zeros(len(clip_BSD), T5_TOKENS, width) if t5 is None else t5[0].to(clip_BSD.dtype)
    return Conditioning(torch.cat([clip_BSD, t5_BSD], dim=1), torch.cat(pooled, dim=-1))


def _t5_tokens(model: StableDiffusion) -> int:
    """How many tokens T5 reads; zeros for as many stand where it is missing."""
    return (
        T5_TOKENS
        if "text_encoder_3" not in model.text_encoders
        else int(model.tokenizers["tokenizer_3"].model_max_length)
    )


def _vae_config() -> Config:
    more = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": _SHIFT}
    return common.vae_config(1024, _SCALE, **more)


_TEXT: Final = {"text_encoder": _TEXT_L, "text_encoder_2": _TEXT_G, "text_encoder_3": _TEXT_T5}


def geometry_of(size: Size) -> Geometry:
    """A published size."""
    return Geometry(size.config, _vae_config(), _TEXT, native_size_px=1024)


def size_of(shapes: Shapes) -> Geometry | None:
    """The size of a single file with tensors of these names and shapes."""
    names = {name.removeprefix(UNET_PREFIX) for name in shapes if name.startswith(UNET_PREFIX)}
    blocks = len({found[1] for name in names if (found := re.match(r"joint_blocks\.(\d+)\.", name))})
    has_norm = "joint_blocks.0.context_block.attn.ln_k.weight" in names
    dual = len({name for name in names if name.endswith(".x_block.attn2.qkv.weight")})
    width = shapes[f"{UNET_PREFIX}x_embedder.proj.weight"][0]
    for size in SIZES:
        if (size.blocks, 64 * size.blocks, size.dual, size.qk_norm is not None) == (blocks, width, dual, has_norm):
            return geometry_of(size)
    return None


def _size_title(config: Config) -> str | None:
    """Large's turbo is called large."""
    said = {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
    return next((size.title for size in SIZES if all(said.get(key) == one for key, one in size.config.items())), None)


def _file_facts(model: StableDiffusion) -> Mapping[str, str]:
    """Names as kohya's `sai_model_spec.py` has them."""
    size = next((one for one in SIZES if one.title == _size_title(model.unet.config)), MEDIUM_35)  # type: ignore[arg-type]
    return {"architecture": size.architecture, "t5_tokens": str(_t5_tokens(model))}


def _tiny(vocabulary: int, max_tokens: int) -> Geometry:
    sizes = {
        "sample_size": 8,
        "num_layers": 3,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 96,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 80,
        "pos_embed_max_size": 12,
        "dual_attention_layers": [0],
    }
    t5 = {"vocab_size": 100, "d_model": 96, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    text = {
        "text_encoder": common.tiny_clip(_TEXT_L, vocabulary, max_tokens),
        "text_encoder_2": common.tiny_clip(_TEXT_G, vocabulary, max_tokens, width=48),
        "text_encoder_3": {**_TEXT_T5, **t5},
    }
    vae = {**_vae_config(), "block_out_channels": [8, 8, 16, 16], "norm_num_groups": 8, "sample_size": 64}
    return Geometry({**MEDIUM_35.config, **sizes}, vae, text, native_size_px=64)


_PREFIX: Final = "text_encoders."
SD3: Final = Family(
    name="sd3",
    title="Stable Diffusion 3.x",
    short_title="SD 3.x",
    prediction="flow",
    names=Names(
        kohya_version={"epsilon": "sd3_medium"},
        modelspec={"epsilon": "stable-diffusion-3-medium"},
        beginnings=("sd3", "stable-diffusion-3"),
        implementation="https://github.com/Stability-AI/sd3.5",
        sd_scripts=(),
        model_index={
            "_class_name": "StableDiffusion3Pipeline",
            "image_encoder": [None, None],
            "feature_extractor": [None, None],
        },
        hub_pattern=r"diffusion-3|sd-?3",
        has_ldm_lora=True,
    ),
    towers=(
        TextTower(
            "text_encoder",
            "clip",
            f"{_PREFIX}clip_l.transformer.",
            kohya="lora_te1",
            embedding="clip_l",
            projected=True,
            unit_projection=True,
        ),
        TextTower(
            "text_encoder_2",
            "clip",
            f"{_PREFIX}clip_g.transformer.",
            kohya="lora_te2",
            embedding="clip_g",
            projected=True,
            padding="!",
        ),
        TextTower(
            "text_encoder_3",
            "t5",
            f"{_PREFIX}t5xxl.transformer.",
            kohya="lora_te3",
            embedding="t5xxl",
            padding="<pad>",
            tokens=T5_TOKENS,
            optional=True,
        ),
    ),
    penultimate=True,
    geometry=lambda prediction: geometry_of(MEDIUM_35),
    tiny_geometry=_tiny,
    network=MMDIT,
    flow_shift=3.0,  # Stability-AI/sd3.5 `sd3_infer.py`, and every program
    join_text=_join_text,
    sizes_of=size_of,
    size_title=_size_title,
    file_facts=_file_facts,
)
