"""Files that are damaged, foreign or dangerous, other VAEs, and the markers of what a file predicts."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from family_files import VAE, single_file_tensors, tiny_geometry, write_folder, write_single
from safetensors.torch import load_file, save_file

from tsuika.core.errors import ModelError, NetworkError
from tsuika.families import SD1, SDXL, StableDiffusion, load, load_vae, peek, sources

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sd1(words: Path) -> StableDiffusion:
    return SD1.tiny(5, words)


@pytest.fixture(scope="module")
def sd1_file(sd1: StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_single(sd1, tmp_path_factory.mktemp("file") / "sd1.safetensors")


def refused(path: Path, code: str, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        peek(path)
    assert caught.value.code == code
    for word in words:
        assert word in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- damaged


def test_damaged_safetensors(sd1_file: Path, tmp_path: Path) -> None:
    whole = sd1_file.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    cases = {
        "empty": (b"", "0 bytes"),
        "cut in the data": (whole[:-1000], f"{len(whole):,}"),
        "cut in the header": (whole[: length // 2], "header"),
        "wrong header length": (struct.pack("<Q", 1 << 60) + whole[8:], "header"),
        "header that ends early": (struct.pack("<Q", length - 20) + whole[8:], "header"),
        "longer than it should be": (whole + b"more", f"{len(whole):,}"),
    }
    for name, (content, word) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        refused(path, "MD003", word)


def test_damaged_ckpt(sd1: StableDiffusion, tmp_path: Path) -> None:
    path = write_single(sd1, tmp_path / "model.ckpt")
    path.write_bytes(path.read_bytes()[:-5000])
    refused(path, "MD003")


def test_missing(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.safetensors", "MD001")
    with pytest.raises(ModelError) as caught:
        load("models/typo.safetensors", device=CPU, dtype=torch.float32)
    assert caught.value.code == "MD001"
    with pytest.raises(ModelError) as caught:
        load("embedded", device=CPU, dtype=torch.float32)
    assert caught.value.code == "MD001"


# ------------------------------------------------------------------------------------------------------------- foreign

LORA = "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"
UNET_IN = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ({LORA: (4, 320, 1, 1)}, "a LoRA"),
        ({"unet.down_blocks.0.attentions.0.proj_in.lora_A.weight": (4, 320)}, "a LoRA"),
        ({"encoder.conv_in.weight": (128, 3, 3, 3), "decoder.conv_in.weight": (512, 4, 3, 3)}, "a VAE"),
        ({"emb_params": (2, 768)}, "embedding"),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "embedding"),
        ({"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, "ControlNet"),
        ({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (3, 3)}, "Flux"),
        ({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (3, 3)}, "Stable Diffusion 3"),
        ({UNET_IN: (320, 4, 3, 3), "conditioner.embedders.0.model.ln_final.weight": (9,)}, "refiner"),
        ({UNET_IN: (320, 8, 3, 3), "cond_stage_model.transformer.text_model.x": (1,)}, "8 input channels"),
        ({UNET_IN: (320, 4, 3, 3)}, "without a text encoder"),
        ({"down_blocks.0.resnets.0.conv1.weight": (3, 3)}, "UNet alone"),
        ({"text_model.embeddings.token_embedding.weight": (3, 3)}, "text encoder alone"),
        ({"layer.0": (3,), "layer.1": (3,)}, "layer.0, layer.1"),
    ],
)
def test_foreign_tensors_are_named(tmp_path: Path, tensors: dict[str, tuple[int, ...]], found: str) -> None:
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", "MD002", found)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\n <html>", "web page"),
        (b'{"error": "Repository not found"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "LFS"),
        (b"\x89PNG\r\n\x1a\n0000", "PNG"),
        (b"\x01\x02\x03\x04\x05\x06\x07\x08\x09", "01 02 03"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, found: str) -> None:
    for suffix in ("safetensors", "ckpt"):
        path = tmp_path / f"model.{suffix}"
        path.write_bytes(content)
        refused(path, "MD002", found)


def test_foreign_folders_are_named(sd1: StableDiffusion, tmp_path: Path) -> None:
    refused(tmp_path, "MD002", "empty folder")
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, "MD002", "LoRA")
    folder = write_folder(sd1, tmp_path / "model", old_style=True)
    refused(folder / "vae", "MD002", "AutoencoderKL")
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "in_channels": 8}))
    refused(folder, "MD002", "8 input channels")
    (folder / "unet" / "config.json").write_text('{"in_channels": 4')
    refused(folder, "MD003", "JSON")


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("scheduler/scheduler_config.json", {"_class_name": "EDMDPMSolverMultistepScheduler"}),
        ("vae/config.json", {"latents_mean": [-1.6, 1.1, -1.1, 0.6]}),
    ],
)
def test_folders_made_for_edm_are_named(file: str, change: dict[str, object], words: Path, tmp_path: Path) -> None:
    """An SDXL by its networks, but its pictures come out as rubbish with this noise and these latents."""
    folder = write_folder(SDXL.tiny(0, words), tmp_path / "model", old_style=True)
    assert peek(folder).facts.family == "sdxl"
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**config, **change}))
    refused(folder, "MD002", "EDM")


FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


@pytest.mark.parametrize(
    "change", [FLOW, {"prediction_type": "flow_prediction"}, {"use_flow_sigmas": True, "prediction_type": "epsilon"}]
)
def test_a_folder_trained_by_rectified_flow_is_known(change: dict[str, object], words: Path, tmp_path: Path) -> None:
    """Taken for epsilon it would be trained to the end, into rubbish."""
    folder = write_folder(SDXL.tiny(0, words), tmp_path / "model", old_style=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(change))
    assert peek(folder).prediction == "flow"


# ------------------------------------------------------------------------------------------------------------- wrapped


def average(name: str) -> str:
    return f"model_ema.{name.removeprefix('model.').replace('.', '')}" if name.startswith("model.") else name


@pytest.mark.parametrize(
    "wrap",
    [
        lambda table: {"state_dict": {"state_dict": table}, "epoch": 3},
        lambda table: {"model": {f"module.{name}": tensor for name, tensor in table.items()}},
        lambda table: {"state_dict": {average(name): tensor for name, tensor in table.items()}},
    ],
    ids=["nested twice", "module. in model", "EMA only"],
)
def test_a_checkpoint_in_a_wrapper_is_the_same_model(
    wrap: Callable[[dict[str, torch.Tensor]], object], sd1: StableDiffusion, tmp_path: Path
) -> None:
    torch.save(wrap(single_file_tensors(sd1)), tmp_path / "model.ckpt")
    found = peek(tmp_path / "model.ckpt", geometry=tiny_geometry(sd1))
    assert found.facts.family == "sd1"
    read = found.unet().tensors(found.unet().empty())
    assert all(torch.equal(read[name], tensor) for name, tensor in sd1.unet.state_dict().items())
    assert {part.component for part in found.text_encoders()} == {"text_encoder"}


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"])
def test_a_base_with_one_broken_value_is_refused_by_name(part: str, sd1: StableDiffusion, tmp_path: Path) -> None:
    folder = write_folder(sd1, tmp_path / "model", old_style=True)
    file = folder / f"{part}.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[7]
    tensors[name].view(-1)[-1] = torch.nan
    save_file(tensors, file)
    found = peek(folder)
    with pytest.raises(ModelError) as caught:
        for one in (found.unet(), *found.text_encoders()):
            one.tensors(one.empty())
        found.load_vae("builtin", CPU)
    assert (caught.value.code, caught.value.where) == ("MD011", str(file))
    assert f"`{name}`" in str(caught.value) and "1 of its" in str(caught.value)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("unet", {"block_out_channels": "x"}),
        ("unet", {"layers_per_block": 10**9}),
        ("vae", {"scaling_factor": None}),
        ("text_encoder", {"num_hidden_layers": 10**30}),
        ("text_encoder", {"hidden_size": -1}),
        ("text_encoder", {"layer_norm_eps": []}),
    ],
)
def test_a_config_that_no_network_has_is_damaged(
    part: str, change: dict[str, object], sd1: StableDiffusion, tmp_path: Path
) -> None:
    folder = write_folder(sd1, tmp_path / "model", old_style=True)
    file = folder / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ModelError) as caught:
        load(str(folder), device=CPU, dtype=torch.float32)
    assert caught.value.code == "MD003"


# ----------------------------------------------------------------------------------------------------------- dangerous


class Attack:
    """A pickle that leaves a file behind when it is run."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, (f"echo attacked > '{self.witness}'",))


def test_the_attack_would_work(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    pickle.loads(pickle.dumps(Attack(witness)))
    assert witness.exists()


@pytest.mark.parametrize("layout", ["zip", "legacy", "bare"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, layout: str) -> None:
    witness, path = tmp_path / "witness", tmp_path / "model.ckpt"
    content = {"state_dict": {"weight": torch.zeros(2)}, "attack": Attack(witness)}
    if layout == "bare":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")
    refused(path, "MD005", *([] if layout == "bare" else ["system"]))
    with pytest.raises(ModelError) as caught:
        load(str(path), device=CPU, dtype=torch.float32)
    assert caught.value.code == "MD005"
    assert not witness.exists()


def test_a_pickled_part_of_a_folder_is_refused_too(sd1: StableDiffusion, tmp_path: Path) -> None:
    folder, witness = write_folder(sd1, tmp_path / "model", old_style=True), tmp_path / "witness"
    (folder / "text_encoder" / "model.safetensors").unlink()
    torch.save({"x": Attack(witness)}, folder / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(ModelError) as caught:
        load(str(folder), device=CPU, dtype=torch.float32)
    assert caught.value.code == "MD005"
    assert not witness.exists()


def test_a_zip_that_is_no_torch_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.ckpt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path / "model.ckpt", "MD003")


# ---------------------------------------------------------------------------------------------------------- prediction


def header_file(path: Path, family: str, metadata: dict[str, str] | None = None, spread: float = 0.0) -> Path:
    """A file that has only what detection looks at."""
    texts = {
        "sd1": ["cond_stage_model.transformer.text_model.x"],
        "sd2": ["cond_stage_model.model.x"],
        "sdxl": ["conditioner.embedders.0.transformer.text_model.x", "conditioner.embedders.1.model.x"],
    }
    tensors = {name: torch.zeros(1) for name in texts[family]} | {UNET_IN: torch.zeros(1, 4, 3, 3)}
    if spread:
        bias = torch.tensor([-1.0, 1.0]) * spread
        tensors["model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"] = bias
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_prediction_from_yaml_and_metadata(tmp_path: Path, family: str) -> None:
    path = header_file(tmp_path / "m.safetensors", family)
    assert (peek(path).facts.family, peek(path).prediction) == (family, "epsilon")
    for value, expected in (("v", "v_prediction"), ("epsilon", "epsilon")):
        header_file(path, family, {"modelspec.prediction_type": value})
        assert peek(path).prediction == expected
    yaml = tmp_path / "m.yaml"
    yaml.write_text('model:\n  params:\n    parameterization: "v"\n')
    assert (peek(path).prediction, peek(path).why_prediction) == ("v_prediction", "m.yaml")
    yaml.write_text("model:\n  params:\n    linear_start: 0.00085\n")
    assert peek(path).prediction == "epsilon"
    for scaling, expected in (("VScaling", "v_prediction"), ("EpsScaling", "epsilon")):
        yaml.write_text(f"target: sgm.modules.diffusionmodules.denoiser_scaling.{scaling}\n")
        assert peek(path).prediction == expected
    yaml.write_text("target: sgm.modules.diffusionmodules.denoiser_scaling.RFScaling\n")
    assert (peek(path).prediction, peek(path).why_prediction) == ("flow", "m.yaml")
    yaml.unlink()
    header_file(path, family, {"modelspec.prediction_type": "flow"})
    assert peek(path).prediction == "flow"
    header_file(path, family, {"modelspec.prediction_type": "x0"})
    refused(path, "MD002", "'x0'")


def test_prediction_of_sd2_from_the_spread_of_a_bias(tmp_path: Path) -> None:
    assert peek(header_file(tmp_path / "v.safetensors", "sd2", spread=0.2)).prediction == "v_prediction"
    assert peek(header_file(tmp_path / "e.safetensors", "sd2", spread=0.03)).prediction == "epsilon"
    assert peek(header_file(tmp_path / "x.safetensors", "sd1", spread=0.2)).prediction == "epsilon"


def test_prediction_of_sdxl_from_empty_tensors(words: Path, tmp_path: Path) -> None:
    model = SDXL.tiny(1, words)
    path = write_single(model, tmp_path / "v.safetensors", v_pred=torch.zeros(0), ztsnr=torch.zeros(0))
    found = peek(path)
    assert (found.prediction, found.zero_terminal_snr) == ("v_prediction", True)
    geometry = tiny_geometry(model)
    again = load(str(path), tokenizer=str(words), device=CPU, dtype=torch.float32, geometry=geometry)
    assert again.prediction == again.scheduler_config["prediction_type"] == "v_prediction"
    assert again.scheduler_config["rescale_betas_zero_snr"] is True


def test_prediction_of_a_folder(sd1: StableDiffusion, tmp_path: Path) -> None:
    folder = write_folder(sd1, tmp_path / "model", old_style=True)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**sd1.scheduler_config, "prediction_type": "v_prediction"}))
    assert peek(folder).prediction == "v_prediction"
    assert load("embedded", embedded_path=folder, device=CPU, dtype=torch.float32).prediction == "v_prediction"
    file.write_text(json.dumps({**sd1.scheduler_config, "prediction_type": "sample"}))
    refused(folder, "MD002", "sample")


# ----------------------------------------------------------------------------------------------------------------- VAE


def as_single(path: Path, words: Path, model: StableDiffusion, vae: str) -> StableDiffusion:
    geometry = tiny_geometry(model)
    return load(str(path), tokenizer=str(words), vae=vae, device=CPU, dtype=torch.float32, geometry=geometry)


def test_another_vae_from_every_layout(sd1: StableDiffusion, sd1_file: Path, words: Path, tmp_path: Path) -> None:
    other = SDXL.tiny(9, words)  # the same VAE geometry, another latent scale
    ldm_names = {k.removeprefix(VAE): v for k, v in single_file_tensors(other).items() if k.startswith(VAE)}
    save_file(ldm_names, tmp_path / "bare.safetensors")
    save_file({VAE + name: tensor for name, tensor in ldm_names.items()}, tmp_path / "prefixed.safetensors")
    torch.save({"state_dict": ldm_names}, tmp_path / "vae.vae.pt")
    other.vae.save_pretrained(tmp_path / "vae")  # type: ignore[operator]
    shutil.copy(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", tmp_path / "diffusers.safetensors")
    pixels = torch.rand(1, 3, 16, 16)
    expected = other.encode_images(pixels) / other.latent_scale
    for name in ("bare.safetensors", "prefixed.safetensors", "vae.vae.pt", "diffusers.safetensors", "vae"):
        model = as_single(sd1_file, words, sd1, str(tmp_path / name))
        assert model.latent_scale == sd1.latent_scale
        torch.testing.assert_close(model.encode_images(pixels) / model.latent_scale, expected)


def test_a_vae_that_is_not_there_is_called_a_vae(sd1: StableDiffusion) -> None:
    with pytest.raises(ModelError) as caught:
        load_vae(sd1, "no/such.vae.safetensors")
    assert caught.value.code == "MD009"


def test_a_vae_of_other_latents_is_refused(sd1: StableDiffusion, sd1_file: Path, words: Path, tmp_path: Path) -> None:
    save_file(
        {"decoder.conv_in.weight": torch.zeros(8, 16, 3, 3), "post_quant_conv.weight": torch.zeros(16, 16, 1, 1)},
        tmp_path / "flux.safetensors",
    )
    with pytest.raises(ModelError, match="16 latent channels") as caught:
        as_single(sd1_file, words, sd1, str(tmp_path / "flux.safetensors"))
    assert caught.value.code == "MD004"
    save_file({LORA: torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match="a LoRA"):
        as_single(sd1_file, words, sd1, str(tmp_path / "lora.safetensors"))


# ------------------------------------------------------------------------------------------------- tokenizers, the hub


def test_no_network_is_one_clear_error(sd1_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*args: object, **kwargs: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nand no cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    for spec, word in ((str(sd1_file), "base.tokenizer"), ("someone/some-model", "no connection")):
        with pytest.raises(NetworkError) as caught:
            load(spec, device=CPU, dtype=torch.float32)
        assert (caught.value.code, caught.value.exit_status) == ("NW001", 7)
        assert word in str(caught.value)


def test_a_hub_that_accepts_and_never_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A misspelt folder looks like a name on the hub: it is said that there is none, and soon."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(sources, "ANSWER_S", 0.3)
        began = time.monotonic()
        with pytest.raises(NetworkError) as caught:
            load("runs/mycatt", device=CPU, dtype=torch.float32)
    assert time.monotonic() - began < 8
    assert "no file or folder of this name" in str(caught.value)
