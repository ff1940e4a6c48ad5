"""Whole models as files: the original layout's key sets, diffusers' own loaders, v-prediction's markers, no harm done.

The independent references are diffusers' `from_pretrained` and `from_single_file`, and `family_files`, which writes the
original layout its own way.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tiny_models import FAMILY_NAMES, outputs, tiny
from tsuika import families, formats
from tsuika.core.errors import FormatError
from tsuika.core.seeds import generator
from tsuika.core.types import Artifact, canonical, model_tensors, own_tensors
from tsuika.families import FAMILIES, StableDiffusion
from tsuika.formats.checkpoint import DiffusersFolder, SingleFile, copy_yaml, header_metadata, rows
from tsuika.methods.dreambooth import DreamBooth
from tsuika.methods.dreambooth import weights as dreambooth

sys.path.append(str(Path(__file__).parents[1] / "families"))
from family_files import single_file_tensors, write_single

by_family = pytest.mark.parametrize("family", FAMILY_NAMES)


def trained(model: StableDiffusion) -> Artifact:
    """The artifact of a model whose weights have moved, with the attachment left on."""
    attachment = dreambooth.attach(model, DreamBooth(text_encoder=True), generator(0, "init"))
    for value in attachment.tensors().values():
        value.mul_(1.05)
    return attachment.artifact()


def predicting(family: str, prediction: str, *, zero_snr: bool = False) -> Artifact:
    model = tiny(family)
    model.prediction = prediction  # type: ignore[assignment]
    model.scheduler_config |= {"prediction_type": prediction, "rescale_betas_zero_snr": zero_snr}
    return trained(model)


def single(artifact: Artifact, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    SingleFile().write(artifact, folder / "made.safetensors", dtype=dtype)
    return folder / "made.safetensors"


@by_family
def test_the_layout_is_the_original_one(family: str, tmp_path: Path) -> None:
    """Names, shapes and numbers against a writer of its own (but for what nothing computes with)."""
    model = tiny(family)
    found = load_file(single(trained(model), tmp_path))
    expected = {name: value for name, value in single_file_tensors(model).items() if name != "alphas_cumprod"}
    assert found.keys() == expected.keys()
    made = re.compile(r".*(logit_scale|cond_stage_model\.model\.text_projection)")
    assert all(torch.equal(found[name], value) for name, value in expected.items() if not made.fullmatch(name))


@by_family
def test_tsuika_reads_back_what_it_wrote(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    artifact = trained(model)
    words = tmp_path / "made-diffusers"
    for format_ in reversed(formats.for_method("dreambooth")):
        path = tmp_path / f"made-{format_.name}{format_.suffix}"
        format_.write(artifact, path, dtype=torch.float32)
        again = families.read_back(path, model, dtype=torch.float32)
        assert model_tensors(again).keys() == artifact.tensors.keys()
        assert all(torch.equal(value, artifact.tensors[name]) for name, value in model_tensors(again).items())
        assert torch.equal(outputs(again), outputs(model))
        pixels = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
        assert torch.equal(again.encode_images(pixels), model.encode_images(pixels))
        base = families.load(str(path), tokenizer=str(words), device=torch.device("cpu"), dtype=torch.float32)
        assert torch.equal(outputs(base), outputs(model))
        if format_.suffix:
            assert not any(known.sniff(path) for known in formats.FORMATS)


def pipeline_outputs(pipe: Any, model: StableDiffusion) -> Tensor:
    """`tiny_models.outputs` through diffusers' parts, with its own tokenizers and prompt encoding."""
    shape = (2, model.facts.latent_channels, 8, 8)
    noisy_BCHW = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    prompts = ["a cat", "a dog"]
    told: dict[str, Any] = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    if model.facts.family == "sd3":
        told |= {"prompt_2": prompts, "prompt_3": prompts}
        told["max_sequence_length"] = model.tokenizers["tokenizer_3"].model_max_length
    with torch.no_grad():
        encoded = pipe.encode_prompt(prompts, **told)
        tokens_BSD, added = encoded[0], {}
        if model.facts.family == "sdxl":
            side = model.native_size_px
            ids = torch.tensor([[side, side, 0, 0, side, side]] * 2, dtype=torch.float32)
            added = {"added_cond_kwargs": {"text_embeds": encoded[2], "time_ids": ids}}
        if model.facts.family == "sd3":
            out = pipe.transformer(noisy_BCHW, tokens_BSD, encoded[2], torch.tensor([5, 600]), return_dict=False)[0]
            return torch.cat([out.flatten(), tokens_BSD.flatten()])
        out = pipe.unet(noisy_BCHW, torch.tensor([5, 600]), tokens_BSD, return_dict=False, **added)[0]
    return torch.cat([out.flatten(), tokens_BSD.flatten()])


def pipeline_class(family: str) -> Any:
    import diffusers

    own = {"sdxl": diffusers.StableDiffusionXLPipeline, "sd3": diffusers.StableDiffusion3Pipeline}
    return own.get(family, diffusers.StableDiffusionPipeline)


@by_family
def test_diffusers_loads_both_files_to_the_same_model(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    artifact = trained(model)
    folder = tmp_path / "folder"
    DiffusersFolder().write(artifact, folder, dtype=torch.float32)
    said = outputs(model)
    pipe = pipeline_class(family).from_pretrained(folder, local_files_only=True)
    torch.testing.assert_close(pipeline_outputs(pipe, model), said, rtol=1e-5, atol=1e-5)
    if model.prediction == "flow":
        assert pipe.scheduler.config.shift == 3.0
    else:
        assert pipe.scheduler.config.prediction_type == model.prediction
    assert pipe.vae.config.scaling_factor == model.latent_scale
    file = single(artifact, tmp_path)
    pipe = pipeline_class(family).from_single_file(str(file), config=str(folder), local_files_only=True)
    if family == "sd3":
        # diffusers leaves T5 as if it were to be trained, with dropout.
        pipe.text_encoder_3.eval()
    torch.testing.assert_close(pipeline_outputs(pipe, model), said, rtol=1e-5, atol=1e-5)
    for name in ("unet", "vae"):
        loaded = getattr(pipe, model.family.network.part if name == "unet" else name).state_dict()
        own = model.components[name].state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in own.items())


@by_family
def test_the_folder_names_text_encoders_as_transformers_4_does(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    folder = tmp_path / "made"
    DiffusersFolder().write(trained(model), folder, dtype=torch.float16)
    for tower in model.family.towers:
        with safe_open(folder / tower.component / "model.safetensors", "pt") as file:
            names = set(file.keys())
        assert names == {canonical(tower.component, name) for name in own_tensors(model.text_encoders[tower.component])}
        if tower.is_t5:
            assert {p.name for p in (folder / tower.tokenizer).iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
            continue
        assert all(name.startswith("text_model.") or name == "text_projection.weight" for name in names)
        assert {p.name for p in (folder / tower.tokenizer).iterdir()} >= {
            "vocab.json",
            "merges.txt",
            "tokenizer_config.json",
        }
    assert not list(tmp_path.glob(".*"))
    DiffusersFolder().write(trained(tiny(family)), folder, dtype=torch.float16)  # a model is replaced by a model


def test_sd2_keeps_the_bases_own_unused_tensors(tmp_path: Path) -> None:
    original = tiny("sd2")
    prefix = "cond_stage_model.model."
    mine = {
        f"{prefix}text_projection": torch.full((32, 32), 0.5),
        f"{prefix}logit_scale": torch.tensor(3.0),
        f"{prefix}transformer.resblocks.3.ln_1.bias": torch.full((32,), 0.25),
    }
    base = write_single(original, tmp_path / "base.safetensors", **mine)
    model = families.read_back(base, original, dtype=torch.float32)
    artifact = trained(model)
    assert not list(SingleFile().notes(artifact))
    found = load_file(single(artifact, tmp_path))
    assert all(torch.equal(found[name], value) for name, value in mine.items())
    made_up = trained(original)
    assert len(list(SingleFile().notes(made_up))) == 1
    found = load_file(single(made_up, tmp_path))
    block = f"{prefix}transformer.resblocks"
    assert torch.equal(found[f"{block}.3.mlp.c_fc.weight"], found[f"{block}.2.mlp.c_fc.weight"])


@pytest.mark.parametrize(
    ("family", "markers"), [("sd1", set()), ("sd2", set()), ("sdxl", {"v_pred", "ztsnr"})], ids=FAMILY_NAMES[:3]
)
def test_v_prediction_is_marked_for_every_program(family: str, markers: set[str], tmp_path: Path) -> None:
    artifact = predicting(family, "v_prediction", zero_snr=True)
    path = single(artifact, tmp_path)
    with safe_open(path, "pt") as file:
        names, metadata = set(file.keys()), file.metadata()
        assert all(file.get_tensor(name).numel() == 0 for name in markers)
    assert names - rows(artifact).keys() == markers
    assert metadata["modelspec.prediction_type"] == "v"
    text = path.with_suffix(".yaml").read_text(encoding="utf-8")
    assert re.search(r'^\s+parameterization: "v"$', text, re.MULTILINE) or "denoiser_scaling.VScaling" in text
    found = families.peek(path)
    assert found.prediction == "v_prediction"
    assert found.zero_terminal_snr == bool(markers)
    path.with_suffix(".yaml").unlink()
    assert families.peek(path).prediction == "v_prediction"


def test_the_yaml_is_the_configuration_that_the_original_programs_read(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    for family in (row.name for row in families.FAMILIES if row.original_config):
        artifact = predicting(family, "v_prediction")
        path = single(artifact, tmp_path)
        model = yaml.safe_load(path.with_suffix(".yaml").read_text(encoding="utf-8"))["model"]
        network = model["params"]["network_config" if family == "sdxl" else "unet_config"]["params"]
        unet = json.loads(artifact.metadata["unet_config"])
        assert network["context_dim"] == unet["cross_attention_dim"]
        assert [network["model_channels"] * m for m in network["channel_mult"]] == unet["block_out_channels"]
        assert model["params"]["scale_factor"] == float(artifact.metadata["latent_scale"])


# Of `UNetModel.__init__` in Stability AI's generative-models at 45c443b, which A1111 1.10.1 pins. It asserts that
# `use_spatial_transformer` is set where there is a `context_dim`; run against it, 1,680 names and shapes are SDXL's.
SGM_UNET = {
    *(
        "in_channels",
        "model_channels",
        "out_channels",
        "num_res_blocks",
        "attention_resolutions",
        "dropout",
        "channel_mult",
        "conv_resample",
    ),
    *("dims", "num_classes", "use_checkpoint", "use_fp16", "num_heads", "num_head_channels", "num_heads_upsample"),
    *(
        "use_scale_shift_norm",
        "resblock_updown",
        "use_new_attention_order",
        "use_spatial_transformer",
        "transformer_depth",
    ),
    *("context_dim", "n_embed", "legacy", "disable_self_attentions", "num_attention_blocks"),
    *(
        "disable_middle_self_attn",
        "use_linear_in_transformer",
        "spatial_transformer_attn_type",
        "adm_in_channels",
        "use_fairscale_checkpoint",
        "offload_to_cpu",
        "transformer_depth_middle",
    ),
}


def test_a1111_can_build_sdxl_from_the_yaml(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    path = single(predicting("sdxl", "v_prediction"), tmp_path)
    model = yaml.safe_load(path.with_suffix(".yaml").read_text(encoding="utf-8"))["model"]
    network = model["params"]["network_config"]["params"]
    assert network.keys() <= SGM_UNET
    assert network["use_spatial_transformer"] is True and network["context_dim"]


@pytest.mark.parametrize("family", FAMILY_NAMES[:3])
def test_epsilon_needs_no_marker(family: str, tmp_path: Path) -> None:
    path = single(predicting(family, "epsilon"), tmp_path)
    assert families.peek(path).prediction == "epsilon"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("make", [SingleFile, DiffusersFolder])
def test_numbers_too_large_for_the_format_leave_nothing_behind(make: Callable[[], Any], tmp_path: Path) -> None:
    artifact = predicting("sd1", "v_prediction")
    artifact.tensors["unet.conv_in.bias"][0] = 1e6
    with pytest.raises(FormatError) as caught:
        make().write(artifact, tmp_path / f"made{make.suffix}", dtype=torch.float16)  # type: ignore[attr-defined]
    assert caught.value.code == "FM002"
    assert not list(tmp_path.iterdir())


def test_the_same_model_makes_the_same_bytes(tmp_path: Path) -> None:
    artifact = trained(tiny("sdxl"))
    one = single(artifact, tmp_path, torch.float16).read_bytes()
    assert single(artifact, tmp_path, torch.float16).read_bytes() == one


def test_other_methods_are_refused(tmp_path: Path) -> None:
    for format_ in formats.CHECKPOINTS:
        with pytest.raises(FormatError):
            format_.write(Artifact("lora", "sd1", {}), tmp_path / "made", dtype=torch.float16)
        with pytest.raises(FormatError):
            format_.read(tmp_path / "made")


@pytest.mark.parametrize("name", [row.name for row in FAMILIES])
def test_a_file_says_of_itself_what_the_model_spec_asks_for(name: str) -> None:
    """ModelSpec 1.0.1: four fields of every file, and of a model for images its size."""
    facts = {"native_size_px": "640", "name": "mine", "trigger": "zuzu"}
    made = header_metadata(Artifact("dreambooth", name, {}, facts))
    said = {key.removeprefix("modelspec."): text for key, text in made.items() if key.startswith("modelspec.")}
    assert said["sai_model_spec"] == "1.0.1" and said["architecture"] and said["implementation"]
    assert (said["title"], said["resolution"], said["trigger_phrase"]) == ("mine", "640x640", "zuzu")
    own = header_metadata(Artifact("dreambooth", name, {}, {**facts, "title": "theirs", "resolution": "512x768"}))
    assert (own["modelspec.title"], own["modelspec.resolution"]) == ("theirs", "512x768")


def test_a_copy_has_the_yaml_of_its_original_and_no_other(tmp_path: Path) -> None:
    source, out = tmp_path / "a" / "model.safetensors", tmp_path / "b.safetensors"
    source.parent.mkdir()
    assert not copy_yaml(source, out) and not out.with_suffix(".yaml").exists()
    out.with_suffix(".yaml").write_text("of another model")
    assert not copy_yaml(source, out) and not out.with_suffix(".yaml").exists()
    source.with_suffix(".yaml").write_text("v")
    assert copy_yaml(source, out) and out.with_suffix(".yaml").read_text() == "v"
    assert not copy_yaml(source, source.with_suffix(".ckpt")) and source.with_suffix(".yaml").read_text() == "v"
