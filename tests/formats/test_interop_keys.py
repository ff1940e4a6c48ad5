"""Every name and shape of our checkpoints at the real models' size, against layouts built from the original configs.

The references walk the networks as their published code builds them (CompVis and Stability AI's `openaimodel.py` and
`model.py`, open_clip's `transformer.py`) and use none of our tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tsuika import families
from tsuika.core.types import Artifact, canonical
from tsuika.families.common import build_text, build_vae
from tsuika.families.network import build_unet
from tsuika.formats.checkpoint import rows

Named = Iterator[tuple[str, tuple[int, ...]]]


def layer(name: str, *shape: int, bias: bool = True) -> Named:
    """A weight of this shape, and as many biases as it has outputs."""
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def resnet(name: str, inside: int, out: int, time: int) -> Named:
    yield from layer(f"{name}.in_layers.0", inside)
    yield from layer(f"{name}.in_layers.2", out, inside, 3, 3)
    yield from layer(f"{name}.emb_layers.1", out, time)
    yield from layer(f"{name}.out_layers.0", out)
    yield from layer(f"{name}.out_layers.3", out, out, 3, 3)
    if inside != out:
        yield from layer(f"{name}.skip_connection", out, inside, 1, 1)


def transformer(name: str, width: int, depth: int, text: int, kernel: tuple[int, ...]) -> Named:
    yield from layer(f"{name}.norm", width)
    yield from layer(f"{name}.proj_in", width, width, *kernel)
    yield from layer(f"{name}.proj_out", width, width, *kernel)
    for i in range(depth):
        block = f"{name}.transformer_blocks.{i}"
        for attention, reads in (("attn1", width), ("attn2", text)):
            yield from layer(f"{block}.{attention}.to_q", width, width, bias=False)
            yield from layer(f"{block}.{attention}.to_k", width, reads, bias=False)
            yield from layer(f"{block}.{attention}.to_v", width, reads, bias=False)
            yield from layer(f"{block}.{attention}.to_out.0", width, width)
        yield from layer(f"{block}.ff.net.0.proj", 8 * width, width)  # GEGLU: value and gate
        yield from layer(f"{block}.ff.net.2", width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            yield from layer(f"{block}.{norm}", width)


def unet(multiples: tuple[int, ...], depths: tuple[int, ...], text: int, *, linear: bool, pooled: int = 0) -> Named:
    """`depths`: transformer blocks of each level, 0 where it has no attention; the middle is as deep as the last that has."""
    base, time, kernel = 320, 1280, () if linear else (1, 1)
    yield from layer("time_embed.0", time, base)
    yield from layer("time_embed.2", time, time)
    if pooled:
        yield from layer("label_emb.0.0", time, pooled)
        yield from layer("label_emb.0.2", time, time)
    yield from layer("input_blocks.0.0", base, 4, 3, 3)
    width, skips, number = base, [base], 1
    for level, (multiple, depth) in enumerate(zip(multiples, depths, strict=True)):
        for _ in range(2):
            yield from resnet(f"input_blocks.{number}.0", width, multiple * base, time)
            width = multiple * base
            if depth:
                yield from transformer(f"input_blocks.{number}.1", width, depth, text, kernel)
            skips.append(width)
            number += 1
        if level < len(multiples) - 1:
            yield from layer(f"input_blocks.{number}.0.op", width, width, 3, 3)
            skips.append(width)
            number += 1
    yield from resnet("middle_block.0", width, width, time)
    yield from transformer("middle_block.1", width, max(depths), text, kernel)
    yield from resnet("middle_block.2", width, width, time)
    number = 0
    for level in reversed(range(len(multiples))):
        for j in range(3):
            yield from resnet(f"output_blocks.{number}.0", width + skips.pop(), multiples[level] * base, time)
            width = multiples[level] * base
            if depths[level]:
                yield from transformer(f"output_blocks.{number}.1", width, depths[level], text, kernel)
            if level and j == 2:
                yield from layer(f"output_blocks.{number}.{2 if depths[level] else 1}.conv", width, width, 3, 3)
            number += 1
    yield from layer("out.0", width)
    yield from layer("out.2", 4, width, 3, 3)


def vae_resnet(name: str, inside: int, out: int) -> Named:
    yield from layer(f"{name}.norm1", inside)
    yield from layer(f"{name}.conv1", out, inside, 3, 3)
    yield from layer(f"{name}.norm2", out)
    yield from layer(f"{name}.conv2", out, out, 3, 3)
    if inside != out:
        yield from layer(f"{name}.nin_shortcut", out, inside, 1, 1)


def vae_middle(name: str, width: int) -> Named:
    yield from vae_resnet(f"{name}.block_1", width, width)
    yield from layer(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from layer(f"{name}.attn_1.{part}", width, width, 1, 1)
    yield from vae_resnet(f"{name}.block_2", width, width)


def vae() -> Named:
    widths = (128, 256, 512, 512)
    yield from layer("encoder.conv_in", 128, 3, 3, 3)
    width = 128
    for level, out in enumerate(widths):
        for j in range(2):
            yield from vae_resnet(f"encoder.down.{level}.block.{j}", width, out)
            width = out
        if level < 3:
            yield from layer(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    yield from vae_middle("encoder.mid", width)
    yield from layer("encoder.norm_out", width)
    yield from layer("encoder.conv_out", 8, width, 3, 3)  # mean and log variance of 4 channels
    yield from layer("decoder.conv_in", width, 4, 3, 3)
    yield from vae_middle("decoder.mid", width)
    for level in reversed(range(4)):
        for j in range(3):
            yield from vae_resnet(f"decoder.up.{level}.block.{j}", width, widths[level])
            width = widths[level]
        if level:
            yield from layer(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    yield from layer("decoder.norm_out", width)
    yield from layer("decoder.conv_out", 3, width, 3, 3)
    yield from layer("quant_conv", 8, 8, 1, 1)
    yield from layer("post_quant_conv", 4, 4, 1, 1)


def clip_l() -> Named:
    yield "text_model.embeddings.token_embedding.weight", (49408, 768)
    yield "text_model.embeddings.position_embedding.weight", (77, 768)
    for i in range(12):
        name = f"text_model.encoder.layers.{i}"
        for part in ("q", "k", "v", "out"):
            yield from layer(f"{name}.self_attn.{part}_proj", 768, 768)
        yield from layer(f"{name}.mlp.fc1", 3072, 768)
        yield from layer(f"{name}.mlp.fc2", 768, 3072)
        yield from layer(f"{name}.layer_norm1", 768)
        yield from layer(f"{name}.layer_norm2", 768)
    yield from layer("text_model.final_layer_norm", 768)


def open_clip(width: int, depth: int) -> Named:
    yield "token_embedding.weight", (49408, width)
    yield "positional_embedding", (77, width)
    for i in range(depth):
        name = f"transformer.resblocks.{i}"
        yield f"{name}.attn.in_proj_weight", (3 * width, width)
        yield f"{name}.attn.in_proj_bias", (3 * width,)
        yield from layer(f"{name}.attn.out_proj", width, width)
        yield from layer(f"{name}.mlp.c_fc", 4 * width, width)
        yield from layer(f"{name}.mlp.c_proj", width, 4 * width)
        yield from layer(f"{name}.ln_1", width)
        yield from layer(f"{name}.ln_2", width)
    yield from layer("ln_final", width)
    yield "text_projection", (width, width)
    yield "logit_scale", ()


UNET, VAE = "model.diffusion_model.", "first_stage_model."
ORIGINAL: dict[str, dict[str, Any]] = {  # v1-inference.yaml, v2-inference.yaml, sd_xl_base.yaml
    "sd1": {
        UNET: lambda: unet((1, 2, 4, 4), (1, 1, 1, 0), 768, linear=False),
        VAE: vae,
        "cond_stage_model.transformer.": clip_l,
    },
    "sd2": {
        UNET: lambda: unet((1, 2, 4, 4), (1, 1, 1, 0), 1024, linear=True),
        VAE: vae,
        "cond_stage_model.model.": lambda: open_clip(1024, 24),
    },
    "sdxl": {
        UNET: lambda: unet((1, 2, 4), (0, 2, 10), 2048, linear=True, pooled=2816),
        VAE: vae,
        "conditioner.embedders.0.transformer.": clip_l,
        "conditioner.embedders.1.model.": lambda: open_clip(1280, 32),
    },
}
TOTAL = {"sd1": 1130, "sd2": 686 + 248 + 294, "sdxl": 2514}  # as published


@pytest.mark.parametrize("family", sorted(ORIGINAL))
def test_a_checkpoint_has_every_tensor_of_the_original_and_no_other(family: str) -> None:
    kind = families.family(family)
    geometry = kind.geometry("epsilon")
    with torch.device("meta"):
        parts: dict[str, Any] = {"unet": build_unet(geometry.unet), "vae": build_vae(geometry.vae)}
        for tower in kind.towers:
            parts[tower.component] = build_text(geometry.text[tower.component], projected=tower.projected)
    tensors = {
        f"{part}.{canonical(part, name)}": value
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }
    metadata = {f"{part}_config": json.dumps(dict(parts[part].config)) for part in ("unet", "vae")}
    found = {name: row.shape for name, row in rows(Artifact("dreambooth", family, tensors, metadata)).items()}
    original = {prefix + name: shape for prefix, walk in ORIGINAL[family].items() for name, shape in walk()}
    assert found == original
    assert len(found) == TOTAL[family]
