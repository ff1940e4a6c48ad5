"""LoRA files of other programs' layouts: peft's own adapters in peft's own words, and the real files of other people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lora_samples as samples
import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tsuika.core.errors import FormatError, ModelError
from tsuika.core.types import Artifact, canonical
from tsuika.diffusion import adapters
from tsuika.formats import bundled, find, for_method, layouts

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"
REAL = Path(__file__).parents[3] / "shared" / "data" / "files"
needs_real_files = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real files are not here: {REAL}")


def factors(
    layer: str, down: str = "lora_down.weight", up: str = "lora_up.weight", width: int = 768
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(layer))
    return {
        f"{layer}{'' if down.startswith('_') else '.'}{part}": torch.randn(shape, generator=generator)
        for part, shape in ((down, (4, width)), (up, (8, 4)))
    }


def read(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> Artifact:
    save_file(tensors, path, metadata)
    return find(path).read(path)


SPELLINGS = {
    "onetrainer": [
        (f"unet.{LAYER}", f"unet.{LAYER}"),
        (f"text_encoder.{TEXT}", f"text_encoder.{TEXT}"),
        (f"text_encoder_2.{TEXT}", f"text_encoder_2.{TEXT}"),
        (f"clip_g.{TEXT}", f"text_encoder_2.{TEXT}"),
    ],
    "comfyui": [
        ("diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k", f"unet.{LAYER}"),
        (f"text_encoders.clip_l.transformer.{TEXT}", f"text_encoder.{TEXT}"),
        (f"text_encoders.clip_h.transformer.{TEXT}", f"text_encoder.{TEXT}"),
        (f"text_encoders.clip_g.transformer.{TEXT}", f"text_encoder_2.{TEXT}"),
    ],
    "peft": [
        (f"base_model.model.{LAYER}", f"unet.{LAYER}"),
        (f"base_model.model.{TEXT}", f"text_encoder.{TEXT}"),
        (f"base_model.model.{TEXT.removeprefix('text_model.')}", f"text_encoder.{TEXT}"),
    ],
    "kohya": [(f"lycoris_{LAYER.replace('.', '_')}", f"unet.{LAYER}")],
}


@pytest.mark.parametrize(("layout", "key", "layer"), [(name, *row) for name, rows in SPELLINGS.items() for row in rows])
def test_every_layout_is_read_in_every_container(layout: str, key: str, layer: str, tmp_path: Path) -> None:
    given = factors(key)
    expected = {f"{layer}.{part}": given[f"{key}.{part}"] for part in ("lora_down.weight", "lora_up.weight")}
    files = [tmp_path / name for name in ("a.safetensors", "a.bin", "a.pt", "a.ckpt")]
    save_file(given, files[0])
    torch.save(given, files[1])
    torch.save({"state_dict": given}, files[2], _use_new_zipfile_serialization=False)
    torch.save({key: nn.Parameter(value) for key, value in given.items()}, files[3])
    for file in files:
        assert find(file).name == layout
        got = find(file).read(file)
        assert got.tensors.keys() == expected.keys()
        assert all(torch.equal(got.tensors[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ("lora_A.weight", "lora_B.weight"),
        ("lora_A.default.weight", "lora_B.default.weight"),
        ("lora_A.mine.weight", "lora_B.mine.weight"),
        ("lora_A", "lora_B"),
        ("lora.down.weight", "lora.up.weight"),
        ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
        ("_lora.down.weight", "_lora.up.weight"),
    ],
)
@pytest.mark.parametrize("prefix", ["unet.", "diffusion_model.", "base_model.model."])
def test_every_spelling_of_a_part_under_every_prefix(prefix: str, down: str, up: str, tmp_path: Path) -> None:
    given = factors(f"{prefix}{LAYER}", down, up)
    got = read(given, tmp_path / "a.safetensors")
    assert list(got.tensors) == [f"unet.{LAYER}.lora_down.weight", f"unet.{LAYER}.lora_up.weight"]
    assert [torch.equal(a, b) for a, b in zip(got.tensors.values(), given.values(), strict=True)] == [True, True]


FOREIGN = {
    "FLUX": [
        "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight",
        "lora_unet_double_blocks_0_img_mlp_0.lora_up.weight",
    ],
    "AuraFlow": ["transformer.joint_transformer_blocks.0.attn.to_q.lora_A.weight"],
    "Wan": ["diffusion_model.blocks.0.cross_attn.k.lora_A.weight", "lora_unet_blocks_0_self_attn_q.lora_down.weight"],
    "PixArt": [
        "base_model.model.transformer_blocks.0.attn1.to_q.lora_A.weight",
        "lora_transformer_transformer_blocks_0_attn1_to_k.lora_down.weight",
    ],
    "AnimateDiff": ["down_blocks.0.motion_modules.0.temporal_transformer.proj_in.lora_A.weight"],
    "language model": ["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"],
    "Stable Cascade": ["lora_prior_unet_down_blocks_0_0_channelwise_0.lora_down.weight"],
    "does not know": ["lora_unet_mid_block_attentions_0_proj_in.vera_lambda_b"],
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in FOREIGN.items() for key in keys])
def test_what_is_foreign_is_named(name: str, key: str, tmp_path: Path) -> None:
    other = key.replace("lora_A", "lora_B").replace("lora_down", "lora_up")
    save_file({key: torch.ones(4, 8)} | ({other: torch.ones(8, 4)} if other != key else {}), tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match=f"FM001(?s:.*){name}"):
        find(tmp_path / "a.safetensors")


# ------------------------------------------------------------------------------------------------------- peft's folders


class Toy(nn.Module):
    """Layers under names that a UNet and a text encoder have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in, self.conv_out = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.time_embedding = nn.ModuleDict({"linear_1": nn.Linear(6, 10), "linear_2": nn.Linear(10, 6)})

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv_in(x)
        steps = self.time_embedding["linear_2"](torch.tanh(self.time_embedding["linear_1"](hidden.mean((2, 3)))))
        return self.conv_out(hidden + steps[:, :, None, None])


ALL = ["conv_in", "conv_out", "linear_1", "linear_2"]
CONFIGS: dict[str, Any] = {
    "plain": LoraConfig(r=3, lora_alpha=7, target_modules=ALL),
    "rslora": LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=ALL),
    "dora": LoraConfig(r=3, lora_alpha=5, use_dora=True, target_modules=ALL),
    "patterns": LoraConfig(
        r=2,
        lora_alpha=4,
        rank_pattern={"conv_in": 3},
        alpha_pattern={"^time_embedding.linear_1": 9},
        target_modules=ALL,
    ),
    "bias": LoraConfig(r=2, lora_alpha=4, lora_bias=True, target_modules=["linear_1", "linear_2"]),
    "loha": LoHaConfig(r=3, alpha=5, target_modules=ALL, use_effective_conv2d=True),
    "lokr": LoKrConfig(r=2, alpha=5, target_modules=ALL),
    "lokr, whole factors": LoKrConfig(r=64, alpha=16, target_modules=["linear_1", "linear_2"]),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("is_safe", [True, False])
def test_pefts_folder_does_what_peft_does(name: str, is_safe: bool, tmp_path: Path) -> None:
    """peft merges its own adapter into the weights; we read what it saved and change the same weights."""
    torch.manual_seed(len(name))
    base = Toy()
    own = {key: value.clone() for key, value in base.state_dict().items()}
    model = get_peft_model(base, CONFIGS[name])
    for key, param in model.named_parameters():
        if param.requires_grad:
            param.data = param.data + torch.randn_like(param) * (0.01 if "magnitude" in key else 0.3)
    model.save_pretrained(tmp_path / "lora", safe_serialization=is_safe)
    if not is_safe:
        # peft writes safetensors alone today; older ones wrote this.
        (file,) = (tmp_path / "lora").glob("adapter_model.*")
        torch.save(load_file(file), tmp_path / "lora" / "adapter_model.bin") if file.suffix == ".safetensors" else None
        (tmp_path / "lora" / "adapter_model.safetensors").unlink(missing_ok=True)
    expected = model.merge_and_unload().state_dict()
    got = find(tmp_path / "lora").read(tmp_path / "lora")
    assert find(tmp_path / "lora").name == "peft"
    assert "unread_keys" not in got.metadata
    layers = adapters.by_layer(got.tensors)
    assert layers
    for layer, parts in layers.items():
        path = layer.removeprefix("unet.")
        made = adapters.changed(parts, own[f"{path}.weight"])
        torch.testing.assert_close(made, expected[f"{path}.weight"], rtol=1e-4, atol=1e-5)
        if (bias := adapters.bias_change(parts)) is not None:
            torch.testing.assert_close(own[f"{path}.bias"] + bias, expected[f"{path}.bias"])
    if not is_safe:
        return
    # the file in the folder, given by itself
    file = tmp_path / "lora" / "adapter_model.safetensors"
    assert all(torch.equal(value, got.tensors[key]) for key, value in find(file).read(file).tensors.items())


def test_a_folder_for_each_component_and_the_second_text_encoder_by_its_width(tmp_path: Path) -> None:
    for component, layer, width in (("unet", LAYER, 2048), ("text_encoder_2", TEXT, 1280)):
        folder = tmp_path / "both" / component
        folder.mkdir(parents=True)
        save_file(
            factors(f"base_model.model.{layer}", "lora_A.weight", "lora_B.weight", width),
            folder / "adapter_model.safetensors",
        )
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 2}))
    got = find(tmp_path / "both").read(tmp_path / "both")
    assert {name: float(value) for name, value in got.tensors.items() if name.endswith("alpha")} == {
        f"unet.{LAYER}.alpha": 2,
        f"text_encoder_2.{TEXT}.alpha": 2,
    }
    assert got.family == "sdxl"
    alone = find(tmp_path / "both" / "text_encoder_2").read(tmp_path / "both" / "text_encoder_2")
    assert all(name.startswith("text_encoder_2.") for name in alone.tensors)


@pytest.mark.parametrize("kind", ["VERA", "OFT", "BOFT", "IA3", "ADALORA"])
def test_pefts_other_adapters_are_named(kind: str, tmp_path: Path) -> None:
    save_file(
        factors(f"base_model.model.{LAYER}", "lora_A.weight", "lora_B.weight"), tmp_path / "adapter_model.safetensors"
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
    with pytest.raises(FormatError, match=f"FM001(?s:.*){kind}"):
        find(tmp_path).read(tmp_path)


# -------------------------------------------------------------------------------------------------------- words inside


def test_words_in_a_lora_are_found_and_are_no_unknown_keys(tmp_path: Path) -> None:
    lora = factors("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k")
    one, two = torch.randn(2, 768), torch.randn(3, 768)
    path = tmp_path / "a.safetensors"
    got = read(lora | {"bundle_emb.cat.string_to_param.*": one, "bundle_emb.my.dog.clip_l": two}, path)
    assert json.loads(got.metadata["bundled_words"]) == ["cat", "my.dog"]
    assert "unread_keys" not in got.metadata
    found = {name: value for word in bundled(path, "sd1") for name, value in word.tensors.items()}
    assert found.keys() == {"cat.text_encoder", "my.dog.text_encoder"}
    assert torch.equal(found["cat.text_encoder"], one)
    assert torch.equal(found["my.dog.text_encoder"], two)
    xl = {"bundle_emb.cat.clip_l": one, "bundle_emb.cat.clip_g": torch.randn(2, 1280)}
    read(lora | xl, path)
    (word,) = bundled(path, "sdxl")
    assert word.family == "sdxl"
    assert set(word.tensors) == {"cat.text_encoder", "cat.text_encoder_2"}
    save_file({"emb_params": one}, path)
    assert bundled(path, "sd1") == ()


# -------------------------------------------------------------------------------------------- magnitudes and scales


@pytest.mark.parametrize("shape", [(7,), (3, 1), (1, 5), (), (2, 4), (0,)])
def test_magnitudes_that_fit_no_side_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    key = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    with pytest.raises(ModelError, match="MD003"):
        read(factors(key) | {f"{key}.dora_scale": torch.ones(shape)}, tmp_path / "a.safetensors")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_factors_that_are_no_decimal_numbers_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    """Of quantized files without their scales; the imaginary part of others was dropped."""
    layer = f"lora_unet_{LAYER.replace('.', '_')}"
    tensors = factors(layer, width=768) | {f"{layer}.alpha": torch.tensor(4, dtype=torch.int64)}
    assert read(dict(tensors), tmp_path / "a.safetensors").tensors
    tensors[f"{layer}.lora_up.weight"] = tensors[f"{layer}.lora_up.weight"].to(dtype)
    with pytest.raises(ModelError, match="MD003"):
        read(tensors, tmp_path / "b.safetensors")


@pytest.mark.parametrize("alpha", [0.0, -2.0])
def test_an_alpha_that_peft_does_not_take_goes_into_the_factors(alpha: float, tmp_path: Path) -> None:
    """Its header was refused when the new file was read back, as if that were damaged."""
    layer = f"lora_unet_{LAYER.replace('.', '_')}"
    plain = factors(layer, width=768)
    artifact = read(plain | {f"{layer}.alpha": torch.tensor(alpha)}, tmp_path / "a.safetensors")
    layouts_of = {one.name: one for one in for_method("lora")}
    layouts_of["diffusers"].write(artifact, tmp_path / "b.safetensors", dtype=torch.float32)
    written = load_file(tmp_path / "b.safetensors")
    (down,) = (one for name, one in written.items() if "lora_A" in name)
    (up,) = (one for name, one in written.items() if "lora_B" in name)
    wanted = alpha / 4 * plain[f"{layer}.lora_up.weight"] @ plain[f"{layer}.lora_down.weight"]
    torch.testing.assert_close(up @ down, wanted)
    assert find(tmp_path / "b.safetensors").read(tmp_path / "b.safetensors").tensors


@pytest.mark.parametrize("alpha", [math.nan, math.inf, 1e30])
def test_an_alpha_that_destroys_images_is_refused_where_it_is_used(alpha: float, tmp_path: Path) -> None:
    key = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    with pytest.raises(ModelError, match=r"MD011(?s:.*)alpha"):
        read(factors(key) | {f"{key}.alpha": torch.tensor(alpha)}, tmp_path / "a.safetensors")
    unused = {f"{key}.lokr_w1": torch.ones(2, 2), f"{key}.lokr_w2": torch.ones(4, 384)}
    got = read(unused | {f"{key}.alpha": torch.tensor(alpha)}, tmp_path / "a.safetensors")
    (parts,) = adapters.by_layer(got.tensors).values()
    assert adapters.scale_of(parts) == 1


# ---------------------------------------------------------------------------------------------------------- real files


def _real(name: str) -> Artifact:
    return find(REAL / name).read(REAL / name)


def _unet_layers() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for (component, path), module in samples.targets(samples.build(samples.SD1, samples.CLIP_L)).items():
        shapes[f"{component}.{canonical(component, path)}"] = tuple(module.weight.shape)
    return shapes


@needs_real_files
def test_the_first_lora_layout_has_its_layers_in_the_order_of_its_program() -> None:
    """Every layer has the shape of the model's own, and ΔW is up @ down of its number, at scale 1 (its own `collapse_lora`)."""
    got = _real("analog_svd_rank4.safetensors")
    layers, raw = adapters.by_layer(got.tensors), load_file(REAL / "analog_svd_rank4.safetensors")
    assert (got.family, len(layers)) == ("sd1", 144 + 48)
    shapes = _unet_layers()
    for layer, parts in layers.items():
        assert adapters.fits(parts, shapes[layer]), layer
    for layer, number in (
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "unet:0"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj", "unet:4"),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0", "unet:143"),
        ("unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "unet:54"),
        ("text_encoder.text_model.encoder.layers.0.self_attn.k_proj", "text_encoder:0"),
        ("text_encoder.text_model.encoder.layers.11.self_attn.q_proj", "text_encoder:46"),
    ):
        expected = raw[f"{number}:up"].float() @ raw[f"{number}:down"].float()
        change = adapters.own_change(layers[layer], torch.float32)
        assert change is not None
        torch.testing.assert_close(change, expected)


@needs_real_files
@pytest.mark.parametrize(
    ("name", "family"),
    [("catundchat_lora.bin", "sd1"), ("wellch4n_lora.safetensors", "sd1"), ("vfph55_lora.safetensors", "sd2")],
)
def test_real_loras_of_diffusers_are_read_whole(name: str, family: str) -> None:
    """All 128 attention layers, each up @ down of the two tensors that its keys name."""
    file = REAL / name
    raw = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    got = _real(name)
    layers = adapters.by_layer(got.tensors)
    assert (got.family, len(layers)) == (family, 128)
    assert "unread_keys" not in got.metadata
    keys = dict(_by_their_keys(raw))
    assert keys.keys() == layers.keys()
    for number, (layer, key) in enumerate(keys.items()):
        change = adapters.own_change(layers[layer], torch.float32) if number % 8 == 0 else None
        if change is not None:
            expected = raw[key].float() @ raw[key.replace("up.weight", "down.weight")].float()
            torch.testing.assert_close(change, expected)


def _by_their_keys(raw: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    for key in raw:
        if key.endswith("up.weight"):
            path = (
                key.removeprefix("unet.").replace(".processor", "").removesuffix(".up.weight").removesuffix("lora")[:-1]
            )
            path = f"{path}.0" if path.endswith("to_out") else path
            yield f"unet.{path}", key


@needs_real_files
@pytest.mark.parametrize("name", ["fastai_learned_embeds.bin", "soejrd_learned_embeds.bin"])
def test_real_words_are_read(name: str) -> None:
    raw = torch.load(REAL / name, map_location="cpu", weights_only=True)
    ((word, vector),) = raw.items()
    got = _real(name)
    assert (got.method, got.family) == ("textual-inversion", "sd1")
    assert torch.equal(got.tensors[f"{word}.text_encoder"][0], vector.detach())


@pytest.mark.parametrize("count", [128, 144])
def test_the_oldest_files_are_a_bare_list_in_the_order_of_those_that_name_their_layers(count: int) -> None:
    """Up and down in turn: layer n of the UNet is 2 n and 2 n + 1. With 144 the feed-forward layers are there, too."""
    ups = {n: 2560 if count == 144 and n % 9 == 4 else 320 for n in range(count)}
    shapes = {(n, way): (ups[n], 4) if way == "up" else (4, 320) for n in range(count) for way in ("up", "down")}
    named = {f"unet:{n}:{way}": shape for (n, way), shape in shapes.items()}
    bare = {str(2 * n + (way == "down")): shape for (n, way), shape in shapes.items()}
    ours, theirs = (layouts.layout_of(keys) for keys in (named, bare))
    assert ours is theirs is not None and ours.name == "cloneofsimo"
    found = theirs.names(bare)
    assert len(set(found.values())) == 2 * count
    for n, way in shapes:
        name = found[str(2 * n + (way == "down"))]
        assert name == ours.names(named)[f"unet:{n}:{way}"] and name[2] == f"lora_{way}.weight"


@pytest.mark.parametrize("numbers", [[0], range(127), range(1, 129)])
def test_a_numbered_file_with_other_layers_is_none_of_ours(numbers: Iterable[int]) -> None:
    keys = {f"unet:{n}:{way}": (320, 4) for n in numbers for way in ("up", "down")}
    assert layouts.layout_of(keys) is None
