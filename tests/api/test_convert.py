"""The file tools end to end on tiny models: what is written does what was read, and what cannot be is refused."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path += [str(Path(__file__).parents[1] / part) for part in ("", "families")]
from family_files import single_file_tensors, tiny_geometry, write_folder, write_single, write_tokenizer

import tiny_models
import tsuika
from lora_deltas import delta
from tsuika import families, formats
from tsuika.cli import screen
from tsuika.cli.main import app
from tsuika.core.errors import FormatError, ModelError, RecipeError
from tsuika.core.types import Artifact, model_tensors
from tsuika.diffusion import adapters
from tsuika.families import FAMILIES, StableDiffusion
from tsuika.formats.kohya_lora import KohyaLora
from tsuika.formats.lowrank.merging import Share, apply
from tsuika.formats.peft_lora import PeftLora

TOKENS = 12


@pytest.fixture(scope="module")
def models() -> dict[str, StableDiffusion]:
    return {name: tiny_models.tiny(name) for name in ("sd1", "sdxl")}


@pytest.fixture
def small(models, monkeypatch) -> None:
    """Single files carry no sizes: let these families be of the tiny ones'."""
    rows = tuple(
        replace(row, geometry=lambda prediction, row=row: tiny_geometry(models[row.facts.family]))
        if row.facts.family in models
        else row
        for row in FAMILIES
    )
    monkeypatch.setattr(families, "FAMILIES", rows)


def lora(model: StableDiffusion, *, rank: int = 3, seed: int = 0, dora: bool = False) -> Artifact:
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for role in ("unet.attn", "unet.conv", "text.ff"):
        for component, paths in model.targets(role).items():
            for path in paths[::5]:
                out, *inner = model.module(component, path).weight.shape
                ones, name = [1] * (len(inner) - 1), f"{component}.{path}"
                tensors[f"{name}.lora_down.weight"] = torch.randn(rank, *inner, generator=generator)
                tensors[f"{name}.lora_up.weight"] = 0.1 * torch.randn(out, rank, *ones, generator=generator)
                tensors[f"{name}.alpha"] = torch.tensor(1.5)
                if dora:
                    tensors[f"{name}.dora_scale"] = 1 + torch.rand(out, 1, *ones, generator=generator)
    return Artifact("lora", model.facts.family, tensors, {"trigger": "zwx", "steps": "7"})


def written(model: StableDiffusion, path: Path, **more: object) -> Path:
    KohyaLora().write(lora(model, **more), path, dtype=torch.float32)
    return path


def deltas(path: Path) -> dict[tuple[str, str], Tensor]:
    return {(component, name): update.double() for component, name, update in delta(formats.find(path).read(path))}


def assert_same(ours: dict, theirs: dict, tolerance: float = 1e-6) -> None:
    assert ours.keys() == theirs.keys()
    for key, update in ours.items():
        assert float((update - theirs[key]).norm()) <= tolerance * float(theirs[key].norm()), key


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_lora_goes_to_diffusers_and_back(models, family, tmp_path) -> None:
    file = written(models[family], tmp_path / "a.safetensors")
    there = tsuika.convert(file, "diffusers", tmp_path / "folder").result
    back = tsuika.convert(tmp_path / "folder", "a1111", tmp_path / "b.safetensors").result
    assert (there.source, there.format, back.source, back.format) == ("kohya", "diffusers", "diffusers", "kohya")
    assert there.dtype == "fp32"
    assert_same(deltas(tmp_path / "b.safetensors"), deltas(file))
    with safe_open(tmp_path / "b.safetensors", "pt") as opened:
        assert opened.metadata()["modelspec.trigger_phrase"] == "zwx"


def test_half_precision_is_asked_for_and_too_large_numbers_are_refused(models, tmp_path) -> None:
    file = written(models["sd1"], tmp_path / "a.safetensors")
    done = tsuika.convert(file, "kohya", tmp_path / "half.safetensors", dtype="fp16").result
    assert 0 < done.largest_relative_error < 2e-3
    assert {tensor.dtype for tensor in load_file(tmp_path / "half.safetensors").values()} == {torch.float16}
    large = lora(models["sd1"])
    large.tensors[min(name for name in large.tensors if name.endswith("up.weight"))][0] = 1e5
    KohyaLora().write(large, tmp_path / "large.safetensors", dtype=torch.float32)
    with pytest.raises(FormatError, match="too large"):
        _ = tsuika.convert(tmp_path / "large.safetensors", "kohya", tmp_path / "no.safetensors", dtype="fp16").result
    assert not (tmp_path / "no.safetensors").exists()


def test_nothing_is_overwritten_unasked_and_the_original_never(models, tmp_path) -> None:
    file = written(models["sd1"], tmp_path / "a.safetensors")
    before = file.read_bytes()
    other = written(models["sd1"], tmp_path / "b.safetensors", seed=1)
    with pytest.raises(RecipeError, match="RC007"):
        _ = tsuika.convert(file, "kohya", other).result
    for attempt in (
        lambda: tsuika.convert(file, "kohya", file, overwrite=True).result,
        lambda: tsuika.merge([str(file), str(other)], other, overwrite=True).result,
    ):
        with pytest.raises(RecipeError, match="RC007") as own:
            attempt()
        assert "--overwrite" not in own.value.part("do")
    _ = tsuika.convert(file, "kohya", other, overwrite=True).result
    assert_same(deltas(other), deltas(file))
    assert file.read_bytes() == before
    with pytest.raises(RecipeError, match="RC005"):
        _ = tsuika.convert(file, "kohya", tmp_path / "a.pt").result
    with pytest.raises(FormatError, match="kohya, diffusers"):
        _ = tsuika.convert(file, "native", tmp_path / "c.safetensors").result
    with pytest.raises(FormatError, match="FM004"):
        _ = tsuika.convert(tmp_path / "none", "kohya", tmp_path / "c.safetensors").result


def test_a_base_that_is_read_is_never_replaced(models, tmp_path) -> None:
    file, base = written(models["sd1"], tmp_path / "a.safetensors"), tmp_path / "base.safetensors"
    base.write_bytes(b"a base")
    for attempt in (
        lambda: tsuika.merge([str(file)], base, into=str(base), overwrite=True).result,
        lambda: tsuika.extract(str(file), str(base), base, overwrite=True).result,
        lambda: tsuika.extract(str(base), str(file), base, overwrite=True).result,
        lambda: tsuika.convert(file, "kohya", base, lossy=True, base=str(base), overwrite=True).result,
    ):
        with pytest.raises(RecipeError, match="RC007"):
            attempt()
    assert base.read_bytes() == b"a base"


def test_dora_becomes_a_plain_lora_only_if_asked(models, tmp_path) -> None:
    """Merged into the base it was made for, the plain LoRA gives the weights that the DoRA gives."""
    model = models["sd1"]
    file = written(model, tmp_path / "dora.safetensors", dora=True)
    base = write_folder(model, tmp_path / "base", old_style=False)
    with pytest.raises(FormatError, match="--base"):
        _ = tsuika.convert(file, "diffusers", tmp_path / "no", lossy=True).result
    done = tsuika.convert(file, "diffusers", tmp_path / "plain", lossy=True, rank=10_000, base=str(base)).result
    assert "plain LoRA" in done.notes[0].message
    plain = PeftLora().read(tmp_path / "plain")
    assert not any(name.endswith("dora_scale") for name in plain.tensors)
    own, made = model_tensors(model), lora(model, dora=True)
    for component, path, update in delta(plain):
        weight = own[f"{component}.{path}.weight"].double()
        parts = {
            part: made.tensors[f"{component}.{path}.{part}"].double()
            for part in ("lora_down.weight", "lora_up.weight", "dora_scale")
        }
        low = 1.5 / 3 * parts["lora_up.weight"].flatten(1) @ parts["lora_down.weight"].flatten(1)
        direction = weight.flatten(1) + low
        dense = parts["dora_scale"].reshape(-1, 1) * direction / direction.norm(dim=1, keepdim=True)
        expected = dense - weight.flatten(1)
        assert float((update.flatten(1).double() - expected).norm() / expected.norm()) < 1.1e-3


def test_a_loha_with_magnitudes_becomes_a_plain_lora(models, tmp_path) -> None:
    """DoRA's magnitudes on another kind of update: the base is needed as with DoRA, and then enough."""
    model, name = models["sd1"], "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    weight = model.module("unet", name).weight
    (out, inside), draw = weight.shape, torch.Generator().manual_seed(0)
    shapes = {
        "hada_w1_a": (out, 2),
        "hada_w1_b": (2, inside),
        "hada_w2_a": (out, 2),
        "hada_w2_b": (2, inside),
        "dora_scale": (out, 1),
    }
    parts = {part: torch.rand(shape, generator=draw) for part, shape in shapes.items()}
    key = f"lora_unet_{name.replace('.', '_')}"
    save_file({f"{key}.{part}": value for part, value in parts.items()}, tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match="--base"):
        _ = tsuika.convert(tmp_path / "a.safetensors", "kohya", tmp_path / "b.safetensors", lossy=True).result
    base = str(write_folder(model, tmp_path / "base", old_style=False))
    _ = tsuika.convert(
        tmp_path / "a.safetensors", "kohya", tmp_path / "b.safetensors", lossy=True, rank=1000, base=base
    ).result
    (change,) = deltas(tmp_path / "b.safetensors").values()
    laid = weight + (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    expected = (parts["dora_scale"] * laid / laid.norm(dim=1, keepdim=True) - weight).double()
    assert float((change - expected).norm() / expected.norm()) < 1.1e-3


def test_unread_keys_are_left_out_only_if_asked(models, tmp_path) -> None:
    tensors = load_file(written(models["sd1"], tmp_path / "a.safetensors")) | {"stranger.weight": torch.ones(2)}
    save_file(tensors, tmp_path / "odd.safetensors", {"ss_base_model_version": "sd_v1"})
    with pytest.raises(FormatError, match="--lossy"):
        _ = tsuika.convert(tmp_path / "odd.safetensors", "kohya", tmp_path / "b.safetensors").result
    done = tsuika.convert(tmp_path / "odd.safetensors", "kohya", tmp_path / "b.safetensors", lossy=True).result
    assert "stranger.weight" in done.notes[0].message
    assert "stranger.weight" not in load_file(tmp_path / "b.safetensors")


def test_embeddings_go_between_all_layouts(tmp_path) -> None:
    vectors = torch.randn(3, 768, generator=torch.Generator().manual_seed(1))
    file = tmp_path / "zwx.safetensors"
    save_file({"emb_params": vectors}, file)
    _ = tsuika.convert(file, "a1111", tmp_path / "zwx.pt").result
    _ = tsuika.convert(tmp_path / "zwx.pt", "diffusers", tmp_path / "folder").result
    _ = tsuika.convert(tmp_path / "folder", "kohya", tmp_path / "again.safetensors").result
    assert torch.equal(load_file(tmp_path / "again.safetensors")["emb_params"], vectors)
    both = {"clip_l": torch.randn(2, 768), "clip_g": torch.randn(2, 1280)}
    save_file(both, tmp_path / "xl.safetensors")
    assert tsuika.convert(tmp_path / "xl.safetensors", "a1111", tmp_path / "xl.pt").result.family == "sdxl"
    assert torch.equal(torch.load(tmp_path / "xl.pt", weights_only=True)["clip_g"], both["clip_g"])


def hypernetwork(path: Path) -> Path:
    def net() -> dict[str, Tensor]:
        shapes = {"linear.0": (1536, 768), "linear.2": (768, 1536)}
        return {
            f"{name}.{part}": torch.randn(shape if part == "weight" else shape[:1])
            for name, shape in shapes.items()
            for part in ("weight", "bias")
        }

    fields = {
        "step": 9,
        "name": "h",
        "layer_structure": [1, 2, 1],
        "activation_func": "relu",
        "is_layer_norm": False,
        "activate_output": True,
        "weight_initialization": "Normal",
        "use_dropout": False,
    }
    torch.save({768: (net(), net()), **fields}, path)
    return path


def test_hypernetworks_go_to_our_layout_and_back(tmp_path) -> None:
    file = hypernetwork(tmp_path / "h.pt")
    _ = tsuika.convert(file, "native", tmp_path / "h.safetensors").result
    _ = tsuika.convert(tmp_path / "h.safetensors", "a1111", tmp_path / "again.pt").result
    ours, theirs = (torch.load(path, weights_only=True)[768] for path in (tmp_path / "again.pt", file))
    assert all(torch.equal(a[name], b[name]) for a, b in zip(ours, theirs, strict=True) for name in b)
    assert {"kind": "hypernetwork", "widths": [768], "activation_func": "relu"}.items() <= tsuika.inspect(
        file
    ).result.to_dict().items()


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_checkpoint_goes_to_a_folder_and_back(models, family, small, tmp_path) -> None:
    model = models[family]
    tokenizer = write_tokenizer(tmp_path / "words", max_tokens=TOKENS)
    file = write_single(model, tmp_path / "a.safetensors")
    done = tsuika.convert(file, "diffusers", tmp_path / "folder", tokenizer=str(tokenizer)).result
    assert (done.kind, done.dtype) == ("base model", "fp32")
    _ = tsuika.convert(tmp_path / "folder", "single-file", tmp_path / "b.safetensors").result
    ours, theirs = load_file(tmp_path / "b.safetensors"), single_file_tensors(model)
    extra = {"alphas_cumprod"}
    assert ours.keys() == theirs.keys() - extra
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if not name.endswith("logit_scale"))


def test_a_torch_checkpoint_becomes_safetensors_as_it_is(models, small, tmp_path) -> None:
    file = write_single(models["sd1"], tmp_path / "a.ckpt")
    file.with_suffix(".yaml").write_text('model:\n  params:\n    parameterization: "v"\n', encoding="utf-8")
    _ = tsuika.convert(file, "single-file", tmp_path / "b.safetensors").result
    ours, theirs = load_file(tmp_path / "b.safetensors"), single_file_tensors(models["sd1"])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    told = tsuika.inspect(tmp_path / "b.safetensors").result
    assert (told.prediction, told.why_prediction) == ("v_prediction", "b.yaml")
    _ = tsuika.convert(file, "single-file", tmp_path / "half.safetensors", dtype="bf16").result
    assert {t.dtype for t in load_file(tmp_path / "half.safetensors").values()} == {torch.bfloat16}


def test_a_yaml_beside_the_output_is_asked_for_and_never_left_to_speak_for_another_model(
    models, small, tmp_path
) -> None:
    """It says what a model predicts, to us as to every program, so it belongs to the file of its name."""
    folder = write_folder(models["sd1"], tmp_path / "base", old_style=True)
    file, out, v = write_single(models["sd1"], tmp_path / "a.ckpt"), tmp_path / "b.safetensors", "parameterization: v\n"
    for source in (folder, file):
        out.unlink(missing_ok=True)
        out.with_suffix(".yaml").write_text(v, encoding="utf-8")
        with pytest.raises(RecipeError, match="RC007"):
            _ = tsuika.convert(source, "single-file", out).result
        assert out.with_suffix(".yaml").read_text(encoding="utf-8") == v and not out.exists()
        _ = tsuika.convert(source, "single-file", out, overwrite=True).result
        assert tsuika.inspect(out).result.prediction == "epsilon"
    # Its own, beside the copy, is shared; one that would have to change is the original's.
    file.with_suffix(".yaml").write_text(v, encoding="utf-8")
    _ = tsuika.convert(file, "single-file", tmp_path / "a.safetensors").result
    assert file.with_suffix(".yaml").read_text(encoding="utf-8") == v
    lora_file = written(models["sd1"], tmp_path / "lora.safetensors")
    with pytest.raises(RecipeError, match="RC007"):
        _ = tsuika.merge([str(lora_file)], tmp_path / "a.safetensors", into=str(file), overwrite=True).result


def test_a_vae_loses_its_prefix_and_becomes_a_folder(models, tmp_path) -> None:
    prefix = "first_stage_model."
    inside = {name: t for name, t in single_file_tensors(models["sdxl"]).items() if name.startswith(prefix)}
    torch.save({"state_dict": inside}, tmp_path / "a.vae.pt")
    _ = tsuika.convert(tmp_path / "a.vae.pt", "single-file", tmp_path / "b.safetensors").result
    plain = load_file(tmp_path / "b.safetensors")
    assert plain.keys() == {name.removeprefix(prefix) for name in inside}
    assert all(torch.equal(plain[name.removeprefix(prefix)], tensor) for name, tensor in inside.items())
    folder = write_folder(models["sdxl"], tmp_path / "base", old_style=True)
    done = tsuika.convert(tmp_path / "b.safetensors", "diffusers", tmp_path / "vae", base=str(folder)).result
    assert not done.notes
    assert json.loads((tmp_path / "vae" / "config.json").read_text())["scaling_factor"] == 0.13025
    assert tsuika.convert(tmp_path / "b.safetensors", "diffusers", tmp_path / "other").result.notes
    told = tsuika.inspect(tmp_path / "vae").result
    assert (told.kind, told.latent_scale, told.latent_channels) == ("vae", 0.13025, 4)


class Payload:
    """Writes a file when unpickled by a careless reader."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_nothing_of_it_runs(suffix, zipped, tmp_path) -> None:
    mark, file = tmp_path / "ran", tmp_path / f"evil{suffix}"
    content = {"state_dict": {"linear.0.weight": torch.zeros(2)}, "x": Payload(mark)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    for attempt in (
        lambda: tsuika.inspect(file).result,
        lambda: tsuika.convert(file, "kohya", tmp_path / "out.safetensors").result,
    ):
        with pytest.raises(ModelError) as refused:
            attempt()
        assert (refused.value.exit_status, refused.value.code) == (4, "MD005")
    assert not mark.exists()
    torch.load(file.rename(tmp_path / "plain.pt"), weights_only=False)
    assert mark.exists(), "the payload does not work, so the test shows nothing"


def test_a_hostile_pickle_gives_exit_status_4_on_the_command_line(tmp_path, capsys) -> None:
    mark, file = tmp_path / "ran", tmp_path / "evil.pt"
    file.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(SystemExit) as left:
        screen.run(app, ["--lang", "en", "inspect", str(file)])
    assert left.value.code == 4
    assert "MD005" in capsys.readouterr().err
    assert not mark.exists()


def test_inspecting_tells_what_people_ask(models, tmp_path) -> None:
    file = written(models["sdxl"], tmp_path / "a.safetensors")
    told = tsuika.inspect(file).result.to_dict()
    assert {
        "kind": "lora",
        "family": "sdxl",
        "format": "kohya",
        "adapter": "lora",
        "trigger": "zwx",
        "steps": "7",
        "rank": {"3": told["layers"]},
        "alpha": {"1.5": told["layers"]},
        "dtype": "float32",
    }.items() <= told.items()
    assert told["targets"].keys() == {"unet", "text_encoder", "text_encoder_2"}
    with safe_open(file, "pt") as opened:
        assert told["autov3"] == opened.metadata()["sshs_model_hash"][:12]
    assert told["autov2"] == told["sha256"][:10]
    save_file({"emb_params": torch.full((2, 768), 2.0)}, tmp_path / "zwx.safetensors")
    word = tsuika.inspect(tmp_path / "zwx.safetensors").result.to_dict()
    assert {"words": ["zwx"], "vectors": 2, "widths": {"text_encoder": 768}}.items() <= word.items()
    assert word["norms"]["text_encoder"] == pytest.approx([2 * 768**0.5] * 2, rel=1e-4)
    base = tsuika.inspect(write_folder(models["sdxl"], tmp_path / "base", old_style=True)).result
    assert (base.family, base.layout, base.vae) == ("sdxl", "folder", True)
    assert base.text_encoders == ("text_encoder", "text_encoder_2")
    with pytest.raises(ModelError, match="FM004"):
        _ = tsuika.inspect(tmp_path / "none").result


def test_a_merge_file_does_the_sum(models, tmp_path) -> None:
    first = written(models["sd1"], tmp_path / "one.safetensors", rank=2)
    second = written(models["sd1"], tmp_path / "two.safetensors", rank=4, seed=1)
    done = tsuika.merge([f"{first}:0.5", f"{second}:-2"], tmp_path / "sum.safetensors").result
    ours, theirs = deltas(first), deltas(second)
    assert_same(deltas(tmp_path / "sum.safetensors"), {key: 0.5 * ours[key] - 2 * theirs[key] for key in ours})
    assert done.largest_relative_error < 1e-6
    _ = tsuika.merge([f"{first}:0.5", f"{second}:-2"], tmp_path / "two-ranks.safetensors", rank=2).result
    told = tsuika.inspect(tmp_path / "two-ranks.safetensors").result.to_dict()
    assert told["rank"].keys() == {"2"}
    assert told["name"] == told["metadata"]["modelspec.title"] == "two-ranks"


def test_a_lora_merged_into_a_base_comes_out_again(models, small, tmp_path) -> None:
    """merge --into, and extract, are each other's inverse; both checked against the weights themselves."""
    model = models["sd1"]
    base = write_folder(model, tmp_path / "base", old_style=True)
    file = written(model, tmp_path / "a.safetensors", rank=2)
    out = tmp_path / "tuned.safetensors"
    told = tsuika.merge([f"{file}:0.5"], out, into=str(base), dtype="fp32").result
    updates = deltas(file)
    assert told.weights_changed == len(updates)
    merged = families.peek(out).weights()
    for name, weight in model_tensors(model).items():
        if name.startswith("vae."):
            continue
        key = tuple(name.removesuffix(".weight").split(".", 1))
        expected = weight.double() + (0.5 * updates[key].reshape(weight.shape) if key in updates else 0)
        torch.testing.assert_close(merged[name].double(), expected, rtol=0, atol=1e-6)
    held = tsuika.extract(str(out), str(base), tmp_path / "back.safetensors", rank=2, conv_rank=2, dtype="fp32").result
    assert held.energy_held == pytest.approx(1, abs=1e-6)
    assert_same(deltas(tmp_path / "back.safetensors"), {key: 0.5 * update for key, update in updates.items()}, 1e-4)
    without = tsuika.extract(str(out), str(base), tmp_path / "less.safetensors", rank=2, dtype="fp32").result
    assert without.energy_held < 0.999
    assert without.left_out and not without.to_dict()["left_out"].startswith("0 ")


def test_resizing_tells_its_error_and_refuses_nonsense(models, tmp_path) -> None:
    file = written(models["sd1"], tmp_path / "a.safetensors", rank=4)
    done = tsuika.resize(file, tmp_path / "b.safetensors", rank=1).result
    for key, update in deltas(file).items():
        values = torch.linalg.svdvals(update.flatten(1))
        assert done.errors[".".join(key)] == pytest.approx(float(values[1:].norm() / values.norm()), abs=1e-5)
    _ = tsuika.resize(file, tmp_path / "c.safetensors", energy=1.0).result
    assert_same(deltas(tmp_path / "c.safetensors"), deltas(file))
    for wrong in ({}, {"energy": 1.5}):
        with pytest.raises(RecipeError):
            _ = tsuika.resize(file, tmp_path / "d.safetensors", **wrong).result


def test_words_in_a_lora_get_files_of_their_own_when_asked(models, tmp_path) -> None:
    file = written(models["sd1"], tmp_path / "a.safetensors")
    vectors = torch.randn(2, 768)
    save_file(load_file(file) | {"bundle_emb.my/cat.string_to_param.*": vectors}, file)
    before = file.read_bytes()
    assert tsuika.inspect(file).result.details["words"] == ["my/cat"]
    tools = {
        "merge": lambda **more: tsuika.merge(
            [str(file), f"{file}:0.5"], tmp_path / "merge" / "out.safetensors", **more
        ),
        "resize": lambda **more: tsuika.resize(file, tmp_path / "resize" / "out.safetensors", rank=2, **more),
        "convert": lambda **more: tsuika.convert(file, "kohya", tmp_path / "convert" / "out.safetensors", **more),
    }
    for name, tool in tools.items():
        (tmp_path / name).mkdir()
        with pytest.raises(FormatError, match=r"FM002(?s:.*)my/cat(?s:.*)--lossy"):
            _ = tool().result
        assert not list((tmp_path / name).iterdir())
        done = tool(lossy=True).result
        assert done.words == (tmp_path / name / "my_cat.safetensors",)
        word = formats.find(done.words[0]).read(done.words[0])
        assert (word.method, word.family) == ("textual-inversion", "sd1")
        torch.testing.assert_close(word.tensors["my/cat.text_encoder"], vectors)
        assert not formats.bundled(done.out, "sd1")
        with pytest.raises(RecipeError, match="RC007"):
            _ = tool(lossy=True).result
    assert file.read_bytes() == before


def test_what_is_a_sum_is_merged_and_resized_of_every_kind(models, tmp_path) -> None:
    """Norms, biases and whole differences add up; in a base, all of them are what their definitions say."""
    model, path = models["sd1"], tmp_path / "a.safetensors"
    names = {
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0": ("diff", "diff_b"),
        "unet.mid_block.attentions.0.norm": ("w_norm", "b_norm"),
        "text_encoder.text_model.encoder.layers.0.layer_norm1": ("w_norm", "b_norm"),
    }
    own = model_tensors(model)
    tensors = {
        f"{layer}.{part}": torch.randn_like(own[f"{layer}.{'bias' if part.endswith(('_b', 'b_norm')) else 'weight'}"])
        for layer, parts in names.items()
        for part in parts
    }
    KohyaLora().write(Artifact("lora", "sd1", tensors), path, dtype=torch.float32)
    for done in (
        tsuika.merge([str(path), f"{path}:0.5"], tmp_path / "m.safetensors").result,
        tsuika.resize(path, tmp_path / "r.safetensors", rank=1000).result,
    ):
        times = 1.5 if done.out.name == "m.safetensors" else 1
        layers = adapters.by_layer(formats.find(done.out).read(done.out).tensors)
        for layer, parts in names.items():
            expected = own[f"{layer}.weight"] + times * tensors[f"{layer}.{parts[0]}"]
            torch.testing.assert_close(
                adapters.changed(layers[layer], own[f"{layer}.weight"]), expected, rtol=1e-4, atol=1e-4
            )
            bias = adapters.bias_change(layers[layer])
            assert bias is not None
            torch.testing.assert_close(bias, times * tensors[f"{layer}.{parts[1]}"])
    laid = dict(apply(own, [Share(formats.find(path).read(path), 0.5)]))
    for layer, parts in names.items():
        torch.testing.assert_close(
            laid[f"{layer}.weight"], own[f"{layer}.weight"] + 0.5 * tensors[f"{layer}.{parts[0]}"]
        )
        torch.testing.assert_close(laid[f"{layer}.bias"], own[f"{layer}.bias"] + 0.5 * tensors[f"{layer}.{parts[1]}"])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_loras_in_eight_bits_are_merged(models, dtype, tmp_path) -> None:
    plain = {name: value for name, value in lora(models["sd1"]).tensors.items() if not name.endswith("alpha")}
    small = {name: value.to(dtype) for name, value in plain.items() if name.startswith("unet.")}
    # OneTrainer's names are the canonical ones.
    save_file(small, tmp_path / "a.safetensors")
    _ = tsuika.merge([str(tmp_path / "a.safetensors")], tmp_path / "b.safetensors", dtype="fp32").result
    rounded = Artifact("lora", "sd1", {name: value.float() for name, value in small.items()})
    expected = {(component, name): update.double() for component, name, update in delta(rounded)}
    assert_same(deltas(tmp_path / "b.safetensors"), expected)
    assert tsuika.inspect(tmp_path / "a.safetensors").result.kind == "lora"
    assert tsuika.resize(tmp_path / "a.safetensors", tmp_path / "c.safetensors", rank=1).result.ranks == (1, 1)


def test_what_would_have_no_effect_is_said(tmp_path: Path) -> None:
    # Said before it is read.
    lora_file, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    lora_file.touch()
    for run, key in (
        (lambda: tsuika.merge(lora_file, out, tokenizer="x"), "tokenizer"),
        (lambda: tsuika.merge(lora_file, out, into="x", rank=4), "rank"),
        (lambda: tsuika.merge(lora_file, out, rank=0), "rank"),
        (lambda: tsuika.resize(lora_file, out, rank=-1), "rank"),
        (lambda: tsuika.convert(lora_file, "kohya", out, rank=4), "rank"),
    ):
        with pytest.raises(RecipeError, match=f"RC002.*`{key}`"):
            _ = run().result
    assert not out.exists()


def test_a_lora_of_another_family_is_named_by_its_file(models, tmp_path) -> None:
    one, other = (
        written(models["sd1"], tmp_path / "one.safetensors"),
        written(models["sdxl"], tmp_path / "two.safetensors"),
    )
    with pytest.raises(ModelError, match="MD004") as unlike:
        _ = tsuika.merge([str(one), str(other)], tmp_path / "out.safetensors").result
    assert unlike.value.where == str(other) and "two.safetensors" in unlike.value.part("what")
