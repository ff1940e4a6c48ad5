"""kohya's names at full geometry, against references that do not use our tables."""

from __future__ import annotations

import itertools

import lora_samples as samples
import pytest
import torch
from safetensors import safe_open

from tsuika.core.types import Artifact
from tsuika.formats import kohya, lora
from tsuika.formats.kohya import dotted, header_metadata, layer_name
from tsuika.formats.kohya_lora import KohyaLora

FULL = {
    "sd1": (samples.SD1, samples.CLIP_L),
    "sd2": (samples.SD2, samples.CLIP_H),
    "sdxl": (samples.SDXL, samples.CLIP_L, samples.CLIP_G),
}
TRANSFORMER = [f"attn{n}_to_{x}" for n in (1, 2) for x in ("q", "k", "v", "out_0")] + ["ff_net_0_proj", "ff_net_2"]
RESNET_HF = ["conv1", "conv2", "time_emb_proj"]
RESNET_LDM = ["in_layers_2", "out_layers_3", "emb_layers_1"]


def transformer(prefix: str, depth: int) -> set[str]:
    blocks = {f"{prefix}_transformer_blocks_{i}_{leaf}" for i in range(depth) for leaf in TRANSFORMER}
    return blocks | {f"{prefix}_proj_in", f"{prefix}_proj_out"}


def clip(prefix: str, depth: int) -> set[str]:
    leaves = [f"self_attn_{x}_proj" for x in ("q", "k", "v", "out")] + ["mlp_fc1", "mlp_fc2"]
    return {f"{prefix}_text_model_encoder_layers_{i}_{leaf}" for i in range(depth) for leaf in leaves}


def sd1_unet(conv: bool) -> set[str]:
    """SD1 and SD2 as published: 4 levels of 2 (down) and 3 (up) resnets, attention on the upper three."""
    names: set[str] = set()
    for level in range(4):
        for way, count, has_attention in (("down", 2, level < 3), ("up", 3, level > 0)):
            for j in range(count):
                if has_attention:
                    names |= transformer(f"{way}_blocks_{level}_attentions_{j}", 1)
                if conv:
                    names |= {f"{way}_blocks_{level}_resnets_{j}_{leaf}" for leaf in RESNET_HF}
        if conv and level < 3:
            names |= {f"down_blocks_{level}_downsamplers_0_conv", f"up_blocks_{level}_upsamplers_0_conv"}
    names |= transformer("mid_block_attentions_0", 1)
    if conv:
        names |= {f"mid_block_resnets_{j}_{leaf}" for j in (0, 1) for leaf in RESNET_HF}
        # a shortcut wherever the width changes: twice going down, everywhere going up
        names |= {f"down_blocks_{level}_resnets_0_conv_shortcut" for level in (1, 2)}
        names |= {f"up_blocks_{level}_resnets_{j}_conv_shortcut" for level in range(4) for j in range(3)}
    return {f"lora_unet_{name}" for name in names}


def sdxl_unet(conv: bool) -> set[str]:
    """By walking SDXL's original config the way the original UNet numbers its blocks."""
    multipliers, resnets, depths, attends = (1, 2, 4), 2, (0, 2, 10), {2, 4}
    names: set[str] = set()
    rest: set[str] = set()
    number, factor, width = 1, 1, 1
    widths = [1]
    for level, multiplier in enumerate(multipliers):
        for _ in range(resnets):
            rest |= {f"input_blocks_{number}_0_{leaf}" for leaf in RESNET_LDM}
            if width != multiplier:
                rest.add(f"input_blocks_{number}_0_skip_connection")
            width = multiplier
            widths.append(width)
            if factor in attends:
                names |= transformer(f"input_blocks_{number}_1", depths[level])
            number += 1
        if level < len(multipliers) - 1:
            rest.add(f"input_blocks_{number}_0_op")
            widths.append(width)
            number, factor = number + 1, factor * 2
    names |= transformer("middle_block_1", depths[-1])
    rest |= {f"middle_block_{n}_{leaf}" for n in (0, 2) for leaf in RESNET_LDM}
    number = 0
    for level in reversed(range(len(multipliers))):
        for j in range(resnets + 1):
            rest |= {f"output_blocks_{number}_0_{leaf}" for leaf in RESNET_LDM}
            assert width + widths.pop() != multipliers[level]  # what comes in is never as wide as what goes out
            rest.add(f"output_blocks_{number}_0_skip_connection")
            width = multipliers[level]
            place = 1
            if factor in attends:
                names |= transformer(f"output_blocks_{number}_1", depths[level])
                place = 2
            if level and j == resnets:
                rest.add(f"output_blocks_{number}_{place}_conv")
                factor //= 2
            number += 1
    return {f"lora_unet_{name}" for name in (names | rest if conv else names)}


def expected(family: str, conv: bool) -> set[str]:
    if family == "sdxl":
        return sdxl_unet(conv) | clip("lora_te1", 12) | clip("lora_te2", 32)
    return sd1_unet(conv) | clip("lora_te", 12 if family == "sd1" else 23)


@pytest.fixture(scope="module", params=sorted(FULL))
def full(request: pytest.FixtureRequest) -> tuple[str, dict[str, torch.nn.Module]]:
    return request.param, samples.build(*FULL[request.param])


@pytest.mark.parametrize("conv", [False, True])
def test_names_at_full_geometry_are_kohyas(full: tuple[str, dict[str, torch.nn.Module]], conv: bool) -> None:
    family, models = full
    names = [layer_name(family, component, path) for component, path in samples.targets(models, conv)]
    assert None not in names
    assert len(names) == len(set(names))
    assert set(names) == expected(family, conv)


COUNTS = {("sd1", False): 792, ("sd2", False): 990, ("sdxl", False): 2958, ("sd1", True): 1050}


@pytest.mark.parametrize(("family", "conv"), sorted(COUNTS))
def test_a_written_file_has_the_documented_number_of_tensors(family, conv, tmp_path) -> None:
    layers = samples.targets(samples.build(*FULL[family]), conv)
    path = tmp_path / "full.safetensors"
    KohyaLora().write(samples.artifact(family, layers, zeros=True), path, dtype=torch.float16)
    with safe_open(path, "pt") as file:
        keys = set(file.keys())
        proj_in = next(key for key in sorted(keys) if key.endswith("proj_in.lora_down.weight"))
        assert len(file.get_slice(proj_in).get_shape()) == (4 if family == "sd1" else 2)
    assert len(keys) == COUNTS[family, conv]
    parts = ("alpha", "lora_down.weight", "lora_up.weight")
    assert keys == {f"{name}.{part}" for name in expected(family, conv) for part in parts}


def test_every_underscored_name_has_one_reading() -> None:
    """All templates filled with several numbers: no string comes out twice, and each is read back as itself."""
    seen: dict[str, str] = {}
    for template in (*kohya._HF, *kohya._LDM):
        for numbers in itertools.product((0, 1, 2, 11), repeat=template.count("#")):
            path = template
            for number in numbers:
                path = path.replace("#", str(number), 1)
            name = path.replace(".", "_")
            assert name not in seen, (path, seen.get(name))
            seen[name] = path
            if template in kohya._HF:
                assert dotted("unet", name) == path


@pytest.mark.parametrize("geometry", [samples.SD1, samples.SDXL, samples.EMBEDDED, *samples.TINY.values()])
def test_both_spellings_of_every_layer_are_read(geometry) -> None:
    """HF and original names, standard geometry or not, lead to the same layer."""
    for component, path in samples.targets(samples.build(geometry), conv=True):
        assert dotted(component, path.replace(".", "_")) == path
        name = layer_name("sdxl", component, path)
        assert name is not None
        assert dotted(component, name.removeprefix("lora_unet_")) == path


@pytest.mark.parametrize(
    "name",
    [
        "input_blocks_0_0_op",
        "input_blocks_3_0_in_layers_2",
        "input_blocks_4_0_op",
        "output_blocks_1_2_conv",
        "down_blocks_0_attentions_0_proj",
        "down_blocks_01_attentions_0_proj_in",
        "middle_block_3_in_layers_2",
        "double_blocks_0_img_attn_proj",
        "down_blocks_0_attentions_0_transformer_blocks_0_ff_net_1",
        "",
    ],
)
def test_a_name_that_no_unet_has_is_not_read(name: str) -> None:
    assert dotted("unet", name) is None


@pytest.mark.parametrize(
    ("shapes", "module"),
    [
        ({"lora_down.weight": (2, 8), "lora_up.weight": (8, 2)}, "networks.lora"),
        ({"lora_down.weight": (2, 8), "lora_up.weight": (8, 2), "dora_scale": (8, 1)}, "lycoris.kohya"),
        ({"hada_w1_a": (8, 2), "hada_w1_b": (2, 8), "hada_w2_a": (8, 2), "hada_w2_b": (2, 8)}, "lycoris.kohya"),
    ],
)
def test_the_header_names_the_module_that_can_train_such_layers(
    shapes: dict[str, tuple[int, ...]], module: str
) -> None:
    """kohya's own makes plain LoRA alone; all else is LyCORIS'."""
    layer = "unet.mid_block.attentions.0.proj_in"
    artifact = Artifact("lora", "sd1", {f"{layer}.{part}": torch.ones(shape) for part, shape in shapes.items()})
    made = header_metadata(artifact, lora.layers(artifact, "kohya"))
    assert (made["ss_network_module"], made["ss_network_dim"]) == (module, "2")
