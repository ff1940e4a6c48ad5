"""Lone VAEs: every spelling is read, the plain original one is written, diffusers opens what comes out."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from tsuika.core.errors import ModelError
from tsuika.core.types import Artifact
from tsuika.diffusion import ldm
from tsuika.formats.vae_file import CONFIG, VaeFile, VaeFolder

SMALL = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [8, 8, 16],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "norm_num_groups": 8,
    "sample_size": 64,
}


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL.from_config(SMALL)


def original(vae: AutoencoderKL, prefix: str = "") -> dict[str, torch.Tensor]:
    """As LDM has it: attention is 1x1 convolutions."""
    tensors = {}
    for name, value in vae.state_dict().items():
        place = ldm.vae_place(name, vae.config).name
        is_matrix = "attn_1" in place and value.ndim == 2
        tensors[prefix + place] = (value[:, :, None, None] if is_matrix else value).contiguous()
    return tensors


def same(artifact: Artifact, vae: AutoencoderKL) -> bool:
    own = vae.state_dict()
    return artifact.tensors.keys() == own.keys() and all(torch.equal(artifact.tensors[k], own[k]) for k in own)


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_the_original_layout_is_read_with_and_without_prefix(vae, prefix, tmp_path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(original(vae, prefix) | {f"{prefix}loss.logvar": torch.zeros(1)}, path)
    assert VaeFile().sniff(path)
    found = VaeFile().read(path)
    assert same(found, vae)
    config = json.loads(found.metadata[CONFIG])
    assert {key: config[key] for key in SMALL if key in config} == {key: SMALL[key] for key in SMALL if key in config}


def test_torch_files_and_diffusers_names_are_read(vae, tmp_path) -> None:
    torch.save({"state_dict": original(vae)}, tmp_path / "a.vae.pt")
    assert same(VaeFile().read(tmp_path / "a.vae.pt"), vae)
    old = {
        name.replace(".to_q.", ".query.").replace(".to_out.0.", ".proj_attn."): t
        for name, t in vae.state_dict().items()
    }
    save_file(old, tmp_path / "hf.safetensors")
    assert same(VaeFile().read(tmp_path / "hf.safetensors"), vae)


def test_what_is_written_has_the_original_keys_and_shapes_and_nothing_else(vae, tmp_path) -> None:
    made = Artifact("vae", "", dict(vae.state_dict()), {CONFIG: json.dumps(dict(vae.config))})
    VaeFile().write(made, tmp_path / "a.safetensors", dtype=torch.float32)
    back, expected = load_file(tmp_path / "a.safetensors"), original(vae)
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[name], expected[name]) for name in expected)
    assert same(VaeFile().read(tmp_path / "a.safetensors"), vae)


def test_diffusers_opens_the_folder(vae, tmp_path) -> None:
    save_file(original(vae), tmp_path / "a.safetensors")
    VaeFolder().write(VaeFile().read(tmp_path / "a.safetensors"), tmp_path / "vae", dtype=torch.float32)
    assert VaeFolder().sniff(tmp_path / "vae")
    opened = AutoencoderKL.from_pretrained(tmp_path / "vae").state_dict()
    assert all(torch.equal(opened[name], value) for name, value in vae.state_dict().items())
    assert same(VaeFolder().read(tmp_path / "vae"), vae)


def test_a_checkpoint_is_no_vae_and_a_torn_one_is_refused(vae, tmp_path) -> None:
    whole = original(vae, "first_stage_model.") | {"model.diffusion_model.out.2.bias": torch.zeros(4)}
    save_file(whole, tmp_path / "whole.safetensors")
    assert not VaeFile().sniff(tmp_path / "whole.safetensors")
    torn = original(vae)
    del torn["decoder.norm_out.bias"]
    save_file(torn, tmp_path / "torn.safetensors")
    with pytest.raises(ModelError, match="MD003"):
        VaeFile().read(tmp_path / "torn.safetensors")
    save_file(original(vae) | {"stranger": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(ModelError, match="stranger"):
        VaeFile().read(tmp_path / "more.safetensors")
