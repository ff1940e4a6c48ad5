"""Files that are damaged, foreign or dangerous, other VAEs, and the markers of what a file predicts."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from family_files import (
    END,
    START,
    VAE,
    single_file_tensors,
    tiny_geometry,
    write_folder,
    write_single,
    write_tokenizer,
)
from safetensors.torch import save_file

from tsuika.core.errors import ModelError, NetworkError
from tsuika.families import SD1, SD2, SDXL, Family, StableDiffusion, load, load_vae, peek

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
        ({UNET_IN: (320, 9, 3, 3), "cond_stage_model.transformer.text_model.x": (1,)}, "9 input channels"),
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
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "in_channels": 9}))
    refused(folder, "MD002", "9 input channels")
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
        {"decoder.conv_in.weight": torch.zeros(1), "post_quant_conv.weight": torch.zeros(16, 16, 1, 1)},
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
    for spec, word in ((str(sd1_file), "base.tokenizer"), ("someone/some-model", "no connection")):
        with pytest.raises(NetworkError) as caught:
            load(spec, device=CPU, dtype=torch.float32)
        assert (caught.value.code, caught.value.exit_status) == ("NW001", 7)
        assert word in str(caught.value)


def test_a_hub_model_is_loaded_from_its_snapshot(
    sd1: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    folder = write_folder(sd1, tmp_path / "snapshot", old_style=True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **wanted: str(folder))
    model = load("someone/some-model", device=CPU, dtype=torch.float32)
    assert model.source == "someone/some-model"


@pytest.mark.parametrize("kind", [SD1, SD2], ids=["sd1", "sd2"])
@pytest.mark.parametrize("pad", ["!", END])
def test_a_foreign_tokenizer_does_not_bring_its_padding(kind: Family, pad: str, tmp_path: Path) -> None:
    """Each tower fills up as its own family does, whoever's folder it is; and a character stays one in a prompt."""
    model = kind.tiny(0, write_tokenizer(tmp_path / "words", pad=pad))
    vocabulary = model.tokenizers["tokenizer"].get_vocab()
    *words, last = model.token_ids(["cat!"], "text_encoder", 8)[0].tolist()
    assert words[:4] == [vocabulary[word] for word in (START, "cat</w>", "!</w>", END)]
    assert last == vocabulary[kind.towers[0].padding or END]


def test_tokenizer_folders_with_subfolders(sd1: StableDiffusion, sd1_file: Path, words: Path, tmp_path: Path) -> None:
    shutil.copytree(words, tmp_path / "tokenizer")
    model = as_single(sd1_file, tmp_path, sd1, "builtin")
    assert len(model.tokenizers["tokenizer"]) == len(sd1.tokenizers["tokenizer"])
    with pytest.raises(ModelError, match="no tokenizer"):
        as_single(sd1_file, sd1_file.parent, sd1, "builtin")


# -------------------------------------------------------------------------------------------------------- older writers


def test_an_sd1_file_without_the_text_model_level(sd1: StableDiffusion, words: Path, tmp_path: Path) -> None:
    prefix = "cond_stage_model.transformer."
    tensors = {
        name.replace(f"{prefix}text_model.", prefix): tensor for name, tensor in single_file_tensors(sd1).items()
    }
    save_file(tensors, tmp_path / "flat.safetensors")
    again = as_single(tmp_path / "flat.safetensors", words, sd1, "builtin")
    torch.testing.assert_close(again.encode_text(["cat"]).tokens_BSD, sd1.encode_text(["cat"]).tokens_BSD)


def test_linear_and_1x1_convolution_are_one_another(words: Path, tmp_path: Path) -> None:
    model = SD2.tiny(2, words)
    tensors = single_file_tensors(model)
    for name in [n for n in tensors if n.endswith("proj_in.weight")]:
        tensors[name] = tensors[name][:, :, None, None].clone()
    save_file(tensors, tmp_path / "conv.safetensors")
    again = as_single(tmp_path / "conv.safetensors", words, model, "builtin")
    for component, module in model.components.items():
        found = again.components[component].state_dict()
        assert all(torch.equal(tensor, found[name]) for name, tensor in module.state_dict().items())
