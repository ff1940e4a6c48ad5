"""LoRA files of SD3: kohya's, where q, k and v are one layer and two norms are turned, and PEFT's. References: the weights of
the original layout that diffusers' converter gives back, diffusers' own loader, and plain matrix products."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tiny_models import outputs, single_file_tensors, tiny, write_folder
from tsuika import formats
from tsuika.core.errors import FormatError, RecipeError
from tsuika.core.seeds import generator
from tsuika.core.types import Artifact
from tsuika.formats import fused, lora_reading
from tsuika.formats.kohya_lora import KohyaLora
from tsuika.formats.peft_lora import PeftLora
from tsuika.methods import METHODS
from tsuika.methods.lora import Lora

PREFIX = "model.diffusion_model."


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 4


def every_linear(model: Any, alpha: float = 2.0, rank: int = 3) -> Artifact:
    """A LoRA on every Linear of the transformer's blocks and its last layers, adaLN included, and on both CLIPs."""
    tensors: dict[str, Tensor] = {}
    paths = [path for path, module in model.unet.named_modules() if isinstance(module, torch.nn.Linear)]
    layers = [("unet", path) for path in paths if path.startswith(("transformer_blocks", "norm_out", "proj_out"))]
    layers += [(name, path) for name, found in model.targets("text.attn").items() for path in found[:2]]
    for seed, (component, path) in enumerate(layers):
        out, inner = model.module(component, path).weight.shape
        tensors[f"{component}.{path}.lora_down.weight"] = drawn((rank, inner), 2 * seed)
        tensors[f"{component}.{path}.lora_up.weight"] = drawn((out, rank), 2 * seed + 1)
        tensors[f"{component}.{path}.alpha"] = torch.tensor(alpha)
    return Artifact("lora", "sd3", tensors, {"prediction": "flow", **model.file_facts})


def deltas(artifact: Artifact, layer: str) -> Tensor:
    up, down = (artifact.tensors[f"{layer}.lora_{way}.weight"] for way in ("up", "down"))
    return up @ down * (float(artifact.tensors[f"{layer}.alpha"]) / len(down))


def test_kohyas_file_changes_the_original_weights_as_the_artifact_does_diffusers(tmp_path: Path) -> None:
    """Of every layer, the turned norms and the last block's among them: W + ΔW in the original layout, taken back by
    diffusers' converter, is W + ΔW."""
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    model = tiny("sd3")
    made, path = every_linear(model), tmp_path / "made.safetensors"
    KohyaLora().write(made, path, dtype=torch.float32)
    assert formats.find(path).name == "kohya"
    file, weights = load_file(path), single_file_tensors(model)
    used = set()
    for name in [name for name in weights if name.startswith(PREFIX) and name.endswith(".weight")]:
        key = "lora_unet_" + name.removeprefix(PREFIX).removesuffix(".weight").replace(".", "_")
        if (down := file.get(f"{key}.lora_down.weight")) is not None:
            used |= {f"{key}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha")}
            weights[name] = weights[name] + file[f"{key}.lora_up.weight"] @ down * (file[f"{key}.alpha"] / len(down))
    assert {name for name in file if name.startswith("lora_unet_")} == used
    assert "lora_unet_joint_blocks_0_x_block_attn2_qkv.alpha" in used
    assert "lora_unet_joint_blocks_2_context_block_adaLN_modulation_1.alpha" in used
    changed, own = convert_sd3_transformer_checkpoint_to_diffusers(weights), model.unet.state_dict()
    for name in {n.rpartition(".lora_down")[0] for n in made.tensors if n.startswith("unet.") and "lora_down" in n}:
        weight = f"{name.removeprefix('unet.')}.weight"
        torch.testing.assert_close(changed[weight], own[weight] + deltas(made, name), rtol=1e-5, atol=1e-6)


def test_kohyas_file_comes_back_with_its_ranks(tmp_path: Path) -> None:
    model = tiny("sd3")
    made, path = every_linear(model), tmp_path / "made.safetensors"
    KohyaLora().write(made, path, dtype=torch.float32)
    again = formats.find(path).read(path)
    assert again.family == "sd3"
    assert {name: value.shape for name, value in again.tensors.items()} == {n: v.shape for n, v in made.tensors.items()}
    assert max(formats.relative_errors(made, again).values()) < 1e-6
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert header["modelspec.architecture"] == "stable-diffusion-3-5-medium/lora"
    assert header["ss_t5xxl_max_token_length"] == "20"
    assert header["modelspec.prediction_type"] == "flow"


def test_without_a_header_the_layers_tell_the_family(tmp_path: Path) -> None:
    made = every_linear(tiny("sd3"))
    for number, format_ in enumerate((KohyaLora(), PeftLora())):
        path = tmp_path / f"{number}.safetensors"
        format_.write(made, path, dtype=torch.float32)
        save_file(load_file(path), tmp_path / f"bare-{number}.safetensors")
        bare = lora_reading.read(tmp_path / f"bare-{number}.safetensors")
        assert (bare.family, bare.metadata["family_from"]) == ("sd3", "shapes")


def test_layers_of_t5_are_read_and_applied(tmp_path: Path) -> None:
    """sd-scripts and OneTrainer train it as `lora_te3`; what it then says is the reference, with W + ΔW put into a copy."""
    model, names = tiny("sd3"), {"layer.0.SelfAttention.q": (16, 96), "layer.1.DenseReluDense.wo": (96, 32)}
    file, grown = {}, tiny("sd3")
    for seed, (name, (out, inner)) in enumerate(names.items()):
        up, down, key = drawn((out, 2), 2 * seed), drawn((2, inner), 2 * seed + 1), name.replace(".", "_")
        parts = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(1.0)}
        file |= {f"lora_te3_encoder_block_1_{key}.{part}": value for part, value in parts.items()}
        grown.module("text_encoder_3", f"encoder.block.1.{name}").weight.data += up @ down / 2
    save_file(file, tmp_path / "t5.safetensors")
    artifact = formats.find(tmp_path / "t5.safetensors").read(tmp_path / "t5.safetensors")
    assert artifact.family == "sd3"
    before = outputs(model)
    attachment = METHODS["lora"].restore(model, artifact)
    torch.testing.assert_close(outputs(model), outputs(grown))
    assert not torch.equal(outputs(model), before)
    attachment.detach()


def test_onetrainers_first_names_are_the_same_lora(tmp_path: Path) -> None:
    """`lora_transformer_` and diffusers' names, with q, k and v apart."""
    model = tiny("sd3")
    whole = every_linear(model)
    held = {name: value for name, value in whole.tensors.items() if name.startswith("unet.transformer_blocks.")}
    made, prefix = Artifact("lora", "sd3", held, whole.metadata), "lora_transformer_"
    file = {}
    for name, value in made.tensors.items():
        layer, part = re.fullmatch(r"unet\.(.+?)\.(lora_\w+\.weight|alpha)", name).groups()  # type: ignore[union-attr]
        file[f"{prefix}{layer.replace('.', '_')}.{part}"] = value.clone()
    save_file(file, tmp_path / "old.safetensors")
    again = formats.find(tmp_path / "old.safetensors").read(tmp_path / "old.safetensors")
    assert again.family == "sd3"
    assert max(formats.relative_errors(made, again).values()) < 1e-6


def test_a_part_of_the_three_is_zero_in_the_others(tmp_path: Path) -> None:
    whole = every_linear(tiny("sd3"), alpha=3.0)
    kept = {
        name: value for name, value in whole.tensors.items() if ".attn.to_v." in name or ".attn.add_q_proj." in name
    }
    uneven = {name: value * 2 if name.endswith("1.attn.to_v.alpha") else value for name, value in kept.items()}
    made, path = Artifact("lora", "sd3", uneven, {}), tmp_path / "made.safetensors"
    KohyaLora().write(made, path, dtype=torch.float32)
    again = lora_reading.read(path)
    for layer in {name.rpartition(".lora_down")[0] for name in again.tensors if "lora_down" in name}:
        expected = deltas(made, layer) if f"{layer}.alpha" in uneven else torch.zeros(())
        torch.testing.assert_close(deltas(again, layer), expected.expand_as(deltas(again, layer)))


def test_diffusers_loads_the_folder_to_what_was_trained(tmp_path: Path) -> None:
    """And nothing is left to the header, which ComfyUI does not read: rank and alpha are one number."""
    from diffusers import StableDiffusion3Pipeline

    model = tiny("sd3")
    folder = write_folder(model, tmp_path / "base", old_style=True)
    made = every_linear(model)
    PeftLora().write(made, tmp_path / "made", dtype=torch.float32)
    file = tmp_path / "made" / lora_reading.DIFFUSERS_FILE
    with safe_open(file, "pt") as opened:
        keys, settings = list(opened.keys()), json.loads(opened.metadata()["lora_adapter_metadata"])
    assert all("lora" in key for key in keys)
    assert {key.partition(".")[0] for key in keys} == {"transformer", "text_encoder", "text_encoder_2"}
    assert settings["transformer.r"] == settings["transformer.lora_alpha"] and not settings["transformer.alpha_pattern"]
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, local_files_only=True)
    pipe.load_lora_weights(tmp_path / "made", weight_name="pytorch_lora_weights.safetensors")
    attachment = METHODS["lora"].restore(model, made)
    noisy, t = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([400.0])
    with torch.no_grad():
        cond = model.encode_text(["a cat"])
        told: dict[str, Any] = {"device": "cpu", "do_classifier_free_guidance": False, "max_sequence_length": 20}
        tokens, _none, pooled, _no = pipe.encode_prompt("a cat", "a cat", "a cat", **told)
        torch.testing.assert_close(cond.tokens_BSD, tokens, rtol=1e-4, atol=1e-5)
        theirs = pipe.transformer(noisy, tokens, pooled, t).sample
        torch.testing.assert_close(model.denoise(noisy, t, cond), theirs, rtol=1e-4, atol=1e-5)
    attachment.detach()


def test_other_adapters_stand_in_one_layer_or_are_refused(tmp_path: Path) -> None:
    model, facts = tiny("sd3"), tiny("sd3").facts
    for adapter in ("loha", "dora"):
        attachment = METHODS["lora"].attach(model, Lora(adapter=adapter, rank=2), generator(0, "init"))  # type: ignore[arg-type]
        for tensor in attachment.tensors().values():
            tensor.add_(0.1)
        said, path = outputs(model), tmp_path / f"{adapter}.safetensors"
        KohyaLora().write(attachment.artifact(), path, dtype=torch.float32)
        attachment.detach()
        back = METHODS["lora"].restore(model, formats.find(path).read(path))
        torch.testing.assert_close(outputs(model), said, rtol=1e-4, atol=1e-4)
        back.detach()
    with pytest.raises(RecipeError, match="LoKr"):
        Lora(adapter="lokr").check(facts)
    attachment = METHODS["lora"].attach(model, Lora(adapter="lokr", rank=2), generator(0, "init"))
    with pytest.raises(FormatError, match="FM002"):
        KohyaLora().write(attachment.artifact(), tmp_path / "lokr.safetensors", dtype=torch.float32)
    attachment.detach()


@pytest.mark.parametrize("rows", [3, 4])
def test_a_kronecker_product_over_three_layers_is_cut(rows: int) -> None:
    """Exactly in its first factor, or where that has no three equal parts as the matrix itself."""
    parts = {"lokr_w1": drawn((rows, 2), 1), "lokr_w2": drawn((6, 4), 2)}
    whole = torch.kron(parts["lokr_w1"], parts["lokr_w2"])
    cut = fused.split("unet.joint_blocks.0.x_block.attn.qkv", parts)
    assert list(cut) == [f"unet.transformer_blocks.0.attn.to_{x}" for x in "qkv"]
    for third, made in zip(whole.chunk(3), cut.values(), strict=True):
        found = made["diff"] if "diff" in made else torch.kron(made["lokr_w1"], made["lokr_w2"])
        torch.testing.assert_close(found, third)


@pytest.mark.parametrize("given", ["qkv", "qv", "k"])
def test_whole_matrices_stand_below_one_another_with_zeros_for_those_that_are_not_there(given: str) -> None:
    parts = {x: {"diff": drawn((6, 4), n), "diff_b": drawn((6,), 10 + n)} for n, x in enumerate("qkv")}
    made = fused.join({("unet", f"transformer_blocks.0.attn.to_{x}"): parts[x] for x in given}, "kohya")
    ((key, whole),) = made.items()
    assert key == ("unet", "joint_blocks.0.x_block.attn.qkv") and set(whole) == {"diff", "diff_b"}
    for name, tensor in whole.items():
        for x, third in zip("qkv", tensor.chunk(3), strict=True):
            torch.testing.assert_close(third, parts[x][name] if x in given else torch.zeros_like(third))


@pytest.mark.parametrize("rows", [2, 3, 4])
def test_a_kronecker_product_over_a_norm_is_turned(rows: int) -> None:
    """Its halves in the other order, whether or not the first factor has halves."""
    parts = {"lokr_w1": drawn((rows, 1), 1), "lokr_w2": drawn((6, 3 * rows), 2)}
    first, second = torch.kron(parts["lokr_w1"], parts["lokr_w2"]).chunk(2)
    ((name, made),) = fused.split("unet.final_layer.adaLN_modulation.1", parts).items()
    found = made["diff"] if "diff" in made else torch.kron(made["lokr_w1"], made["lokr_w2"])
    torch.testing.assert_close(found, torch.cat([second, first]))
    assert name == "unet.norm_out.linear"


def test_relatives_with_the_same_names_are_none_of_ours(tmp_path: Path) -> None:
    """FLUX's first blocks and Qwen's are called as SD3's."""
    block, down = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight", torch.zeros(2, 4)
    for other in (
        "transformer.single_transformer_blocks.0.attn.to_q",
        "transformer.transformer_blocks.0.img_mlp.net.2",
    ):
        save_file({block: down, f"{other}.lora_A.weight": down.clone()}, tmp_path / "x.safetensors")
        with pytest.raises(FormatError, match="another kind of model"):
            formats.find(tmp_path / "x.safetensors")
