"""What is true of Stable Diffusion 3 alone. References: diffusers' own pipeline, converter and scheduler on the same weights,
and the numbers of the published models."""

from __future__ import annotations

import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from family_files import single_file_tensors, write_folder, write_single
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from tsuika import config
from tsuika.cli.main import app
from tsuika.core.errors import ModelError, TsuikaError
from tsuika.core.events import Event, Warned
from tsuika.core.seeds import generator
from tsuika.core.types import Overrides
from tsuika.diffusion.objective import objective
from tsuika.families import SD3, StableDiffusion, load, peek
from tsuika.families.common import Geometry
from tsuika.families.sd3 import LARGE_35, MEDIUM, MEDIUM_35, build, geometry_of, size_of
from tsuika.generation.pipeline import defaults_for, sample
from tsuika.methods import METHODS
from tsuika.methods.lora import Lora
from tsuika.training.preparation import Inputs, read_inputs

sys.path.append(str(Path(__file__).parents[1]))
from tiny_models import draw_pictures

CPU = torch.device("cpu")
PROMPT = "a cat, dog"
SIZES = {MEDIUM.title: MEDIUM, MEDIUM_35.title: MEDIUM_35, LARGE_35.title: LARGE_35}


@pytest.fixture(scope="module")
def sd3(words: Path) -> StableDiffusion:
    """A tiny model; not to be changed."""
    return SD3.tiny(3, words)


def without_t5(model: StableDiffusion) -> StableDiffusion:
    """The same model, two of its text encoders left."""
    two = {name: encoder for name, encoder in model.text_encoders.items() if name != "text_encoder_3"}
    return replace(model, text_encoders=two)


# ------------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize(
    ("title", "parameters", "diffusers", "original"),
    [
        (MEDIUM.title, 2_028_328_000, 683, 491),
        (MEDIUM_35.title, 2_243_171_520, 909, 665),
        (LARGE_35.title, 8_056_627_520, 1227, 923),
    ],
)
def test_sizes_are_the_published_ones(title: str, parameters: int, diffusers: int, original: int) -> None:
    size = SIZES[title]
    with torch.device("meta"):
        network = build(size.config)
    own = network.state_dict()
    assert sum(one.numel() for one in network.parameters()) == parameters
    names = {f"model.diffusion_model.{SD3.network.place(name, size.config).name}" for name in own}
    assert (len(own), len(names)) == (diffusers, original)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in own.items():
        place = SD3.network.place(name, size.config)
        three = 3 if place.third is not None else 1
        shapes[f"model.diffusion_model.{place.name}"] = (three * tensor.shape[0], *tensor.shape[1:])
    found = size_of(shapes)
    assert found is not None
    assert found.unet == size.config
    # Every weight that has a role and no twin: what kohya and diffusers adapt in both streams.
    attention = {path for path in dict(network.named_modules()) if _plays("unet.attn", path)}
    assert len(attention) == 8 * size.blocks - 1 + 4 * size.dual


def _plays(role: str, path: str) -> bool:
    import re

    return re.fullmatch(SD3.network.roles[role], path) is not None  # type: ignore[index]


def test_a_size_that_was_never_published_is_named(sd3: StableDiffusion, tmp_path: Path) -> None:
    path = write_single(sd3, tmp_path / "small.safetensors")
    with pytest.raises(ModelError, match="of another model size") as caught:
        _ = peek(path).geometry
    assert caught.value.code == "MD003"


def test_sizes_are_called_as_sd_scripts_call_them(sd3: StableDiffusion) -> None:
    """`sai_model_spec.py`: "stable-diffusion-3-" and what `analyze_state_dict_state` of `sd3_utils.py` found."""
    for size, found in ((MEDIUM, "medium"), (MEDIUM_35, "5-medium"), (LARGE_35, "5-large")):
        with torch.device("meta"):
            network = build(size.config)
        assert replace(sd3, unet=network).file_facts["architecture"] == f"stable-diffusion-3-{found}"


@pytest.mark.parametrize("channels", [4, 32])
def test_a_network_of_other_latents_is_named(sd3: StableDiffusion, channels: int, tmp_path: Path) -> None:
    first = {"model.diffusion_model.x_embedder.proj.weight": torch.zeros(16, channels, 2, 2)}
    save_file(single_file_tensors(sd3) | first, tmp_path / "other.safetensors")
    with pytest.raises(TsuikaError, match=f"{channels} input channels.*where 16 are expected") as caught:
        peek(tmp_path / "other.safetensors")
    assert caught.value.code == "MD002"


def test_text_encoders_are_the_published_ones() -> None:
    geometry = geometry_of(MEDIUM_35)
    with torch.device("meta"):
        built = {t.component: t.build(geometry.text[t.component]) for t in SD3.towers}
    numbers = {name: sum(one.numel() for one in encoder.parameters()) for name, encoder in built.items()}
    assert numbers == {"text_encoder": 123_650_304, "text_encoder_2": 694_659_840, "text_encoder_3": 4_762_310_656}


def test_the_map_is_diffusers_own(sd3: StableDiffusion) -> None:
    """Thirds of q, k and v, and the swapped halves of the two last norms."""
    from diffusers.loaders.single_file_utils import (
        convert_ldm_vae_checkpoint,
        convert_sd3_transformer_checkpoint_to_diffusers,
    )

    tensors = single_file_tensors(sd3)
    assert tensors["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"].shape == (48, 16)
    theirs = convert_sd3_transformer_checkpoint_to_diffusers(dict(tensors))
    own = sd3.unet.state_dict()
    assert theirs.keys() == own.keys()
    assert all(torch.equal(theirs[name], own[name]) for name in own)
    vae = convert_ldm_vae_checkpoint(tensors, dict(sd3.vae.config))  # type: ignore[arg-type]
    assert all(torch.equal(vae[name], tensor) for name, tensor in sd3.vae.state_dict().items())


# ------------------------------------------------------------------------------------------------------- text


def test_without_t5_zeros_stand_for_it(sd3: StableDiffusion, tmp_path: Path) -> None:
    from diffusers import StableDiffusion3Pipeline

    folder = write_folder(without_t5(sd3), tmp_path / "model", old_style=True)
    found = peek(folder)
    assert [tower.component for tower in found.towers] == ["text_encoder", "text_encoder_2"]
    model = load(str(folder), device=CPU, dtype=torch.float32)
    absent = {"text_encoder_3": None, "tokenizer_3": None}
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, local_files_only=True, **absent)
    theirs = pipe.encode_prompt(PROMPT, PROMPT, PROMPT, device=CPU, do_classifier_free_guidance=False)
    ours = model.encode_text([PROMPT])
    assert ours.tokens_BSD.shape[1] == 12 + 256
    torch.testing.assert_close(ours.tokens_BSD, theirs[0])
    torch.testing.assert_close(ours.pooled_BP, theirs[2])
    path = write_single(model, tmp_path / "two.safetensors")
    assert [tower.component for tower in peek(path).towers] == ["text_encoder", "text_encoder_2"]


def test_t5_reads_256_tokens_whatever_its_tokenizer_allows(sd3: StableDiffusion, tmp_path: Path) -> None:
    """diffusers' pipeline allows 512, and reads 256 where nothing else is said."""
    import json

    from diffusers import StableDiffusion3Pipeline

    folder = write_folder(sd3, tmp_path / "model", old_style=True)
    said = folder / "tokenizer_3" / "tokenizer_config.json"
    said.write_text(json.dumps(json.loads(said.read_text()) | {"model_max_length": 512}))
    ours = load(str(folder), device=CPU, dtype=torch.float32).encode_text([PROMPT])
    assert ours.tokens_BSD.shape[1] == 12 + 256
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, local_files_only=True)
    theirs = pipe.encode_prompt(PROMPT, PROMPT, PROMPT, device=CPU, do_classifier_free_guidance=False)
    torch.testing.assert_close(ours.tokens_BSD, theirs[0])


def test_the_projection_that_no_file_holds_is_the_unit_matrix(
    sd3: StableDiffusion, words: Path, tmp_path: Path
) -> None:
    """So that CLIP-L's pooled output is its state at the end token behind the last norm, as in ComfyUI and sd-scripts."""
    missing = "text_encoders.clip_l.transformer.text_projection.weight"
    save_file(
        {name: one for name, one in single_file_tensors(sd3).items() if name != missing}, tmp_path / "a.safetensors"
    )
    settings = {"tokenizer": str(words), "device": CPU, "dtype": torch.float32, "geometry": tiny(sd3)}
    model = load(str(tmp_path / "a.safetensors"), **settings)
    ids = model.token_ids(["a cat"], "text_encoder", 12)
    states = model.text_encoders["text_encoder"](ids).last_hidden_state
    end = ids[0].tolist().index(model.tokenizers["tokenizer"].eos_token_id)
    pooled = model.encode_text(["a cat"]).pooled_BP
    assert pooled is not None
    torch.testing.assert_close(pooled[0, : states.shape[-1]], states[0, end])


def test_a_file_without_clip_says_what_is_missing(sd3: StableDiffusion, tmp_path: Path) -> None:
    tensors = {name: value for name, value in single_file_tensors(sd3).items() if not name.startswith("text_encoders.")}
    save_file(tensors, tmp_path / "bare.safetensors")
    with pytest.raises(TsuikaError, match="without text encoders") as caught:
        peek(tmp_path / "bare.safetensors")
    assert caught.value.code == "MD002"


@pytest.mark.parametrize(
    "kept", [("shared.weight",), ("encoder.embed_tokens.weight",), ("shared.weight", "encoder.embed_tokens.weight")]
)
def test_the_vocabulary_of_t5_under_either_name(
    sd3: StableDiffusion, words: Path, tmp_path: Path, kept: tuple[str, ...]
) -> None:
    prefix = "text_encoders.t5xxl.transformer."
    tensors = single_file_tensors(sd3)
    table = tensors.pop(f"{prefix}shared.weight")
    del tensors[f"{prefix}encoder.embed_tokens.weight"]
    save_file(tensors | {f"{prefix}{name}": table.clone() for name in kept}, tmp_path / "t5.safetensors")
    model = load(
        str(tmp_path / "t5.safetensors"), tokenizer=str(words), device=CPU, dtype=torch.float32, geometry=tiny(sd3)
    )
    t5 = model.text_encoders["text_encoder_3"]
    assert t5.shared.weight is t5.encoder.embed_tokens.weight  # type: ignore[union-attr]
    assert torch.equal(model.encode_text([PROMPT]).tokens_BSD, sd3.encode_text([PROMPT]).tokens_BSD)


def tiny(model: StableDiffusion):  # type: ignore[no-untyped-def]
    from family_files import tiny_geometry

    return tiny_geometry(model)


def test_t5_of_8_bits_is_read_and_does_not_overflow_in_half(sd3: StableDiffusion, words: Path, tmp_path: Path) -> None:
    """As transformers loads it: `wo` in float32 in float16, and nothing of it in bfloat16."""
    tensors = {
        name: value.to(torch.float8_e4m3fn) if ".t5xxl." in name else value.half()
        for name, value in single_file_tensors(sd3).items()
    }
    save_file(tensors, tmp_path / "t5.safetensors")
    settings = {"tokenizer": str(words), "device": CPU, "geometry": tiny(sd3)}
    for dtype, wide in ((torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)):
        model = load(str(tmp_path / "t5.safetensors"), dtype=dtype, **settings)
        t5 = model.text_encoders["text_encoder_3"].state_dict()
        assert {value.dtype for name, value in t5.items() if name.endswith(".wo.weight")} == {wide}
        assert {value.dtype for name, value in t5.items() if not name.endswith(".wo.weight")} == {dtype}
        cond = model.encode_text([PROMPT])
        assert cond.tokens_BSD.dtype == dtype
        assert cond.tokens_BSD.isfinite().all()


# ------------------------------------------------------------------------------------------------------- drawing


def test_a_drawn_image_is_the_pipelines(sd3: StableDiffusion, tmp_path: Path) -> None:
    from diffusers import StableDiffusion3Pipeline

    folder = write_folder(sd3, tmp_path / "model", old_style=True)
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 16, 8, 6, generator=torch.Generator().manual_seed(7))
    told = {"num_inference_steps": 3, "guidance_scale": 4.0, "height": 64, "width": 48, "max_sequence_length": 20}
    theirs = pipe(PROMPT, negative_prompt="", latents=noise, output_type="pt", **told).images
    ours = sample(sd3, PROMPT, seed=7, steps=3, cfg=4.0, size_px=(48, 64))
    torch.testing.assert_close((ours + 1) / 2, theirs, rtol=0, atol=2e-4)
    assert pipe.scheduler.config.shift == 3.0


def test_the_vae_shifts_its_latents(sd3: StableDiffusion) -> None:
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    mean = sd3.vae.encode(pixels).latent_dist.mean  # type: ignore[operator]
    latents = sd3.encode_images(pixels)
    assert torch.equal(latents, (mean - 0.0609) * 1.5305)
    decoded = sd3.vae.decode(latents / 1.5305 + 0.0609).sample.clamp(-1, 1)  # type: ignore[operator]
    assert torch.equal(sd3.decode_latents(latents), decoded)


def test_sides_are_refused_that_the_network_cuts_or_has_no_place_for(sd3: StableDiffusion) -> None:
    assert (sd3.size_step_px, sd3.size_limit_px) == (16, 12 * 16)
    for size in ((72, 64), (208, 64)):
        with pytest.raises(TsuikaError) as caught:
            sample(sd3, PROMPT, steps=1, cfg=1, size_px=size)
        assert caught.value.code == "RC002"


def test_a_sampler_without_a_form_for_flow_is_refused(sd3: StableDiffusion) -> None:
    with pytest.raises(TsuikaError, match="Euler") as caught:
        sample(sd3, PROMPT, steps=1, cfg=1, sampler="Euler a")
    assert caught.value.code == "RC002"


def test_turbo_is_drawn_by_euler_in_four_steps_without_guidance(sd3: StableDiffusion, tmp_path: Path) -> None:
    """Its files are those of 3.5-large but for the name; the sampler of other turbos has no form for flow."""
    folder = write_folder(sd3, tmp_path / "stable-diffusion-3.5-large-turbo", old_style=True)
    defaults = defaults_for(turbo := load(str(folder), device=CPU, dtype=torch.float32))
    assert (defaults.sampler, defaults.steps, defaults.cfg) == ("Euler", 4, 1.0)
    usual = sample(sd3, PROMPT, seed=7, steps=4, cfg=1, sampler="Euler", size_px=(64, 64))
    torch.testing.assert_close(sample(turbo, PROMPT, seed=7, defaults=defaults, size_px=(64, 64)), usual)


def test_a_vae_with_the_shapes_of_this_one_and_other_latents_is_refused(sd3: StableDiffusion, tmp_path: Path) -> None:
    """FLUX's VAE has the same tensors, another scale and another shift."""
    import json

    sd3.vae.save_pretrained(tmp_path / "vae")  # type: ignore[operator]
    settings = {"device": CPU, "dtype": torch.float32, "vae": str(tmp_path / "vae")}
    folder = write_folder(sd3, tmp_path / "model", old_style=True)
    load(str(folder), **settings)
    settings_file = tmp_path / "vae" / "config.json"
    said = json.loads(settings_file.read_text()) | {"scaling_factor": 0.3611, "shift_factor": 0.1159}
    settings_file.write_text(json.dumps(said))
    with pytest.raises(ModelError, match=r"0\.1159") as caught:
        load(str(folder), **settings)
    assert caught.value.code == "MD004"
    # A file by itself has no convolutions by which the other families' are known.
    tensors = {
        n.removeprefix("first_stage_model."): t for n, t in single_file_tensors(sd3).items() if n.startswith("first")
    }
    assert not any("quant_conv" in name for name in tensors)
    save_file(tensors, tmp_path / "vae.safetensors")
    load(str(folder), **settings | {"vae": str(tmp_path / "vae.safetensors")})


def test_another_prediction_than_flow_is_refused(sd3: StableDiffusion, tmp_path: Path) -> None:
    folder = write_folder(sd3, tmp_path / "model", old_style=True)
    with pytest.raises(TsuikaError, match="trained by flow") as caught:
        load(str(folder), device=CPU, dtype=torch.float32, overrides=Overrides(prediction="epsilon"))
    assert caught.value.code == "RC002"


# ------------------------------------------------------------------------------------------------------- training


def test_noise_times_and_target_are_those_of_diffusers_script(sd3: StableDiffusion) -> None:
    """examples/dreambooth/train_dreambooth_lora_sd3.py: logit-normal places in a schedule of shift 3; zt = (1 - s) x + s e;
    e - x as the target (`--precondition_outputs 0`), every time with weight 1."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

    ours = objective(sd3.prediction, sd3.scheduler_config, "cpu")
    schedule = FlowMatchEulerDiscreteScheduler.from_config(sd3.scheduler_config)
    torch.manual_seed(0)
    u = compute_density_for_timestep_sampling("logit_normal", 20_000, logit_mean=0.0, logit_std=1.0)
    theirs = schedule.timesteps[(u * 1000).long()]
    mine = ours.times((torch.arange(20_000) + 0.5) / 20_000)
    places = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    torch.testing.assert_close(mine.quantile(places), theirs.quantile(places), rtol=0, atol=6)
    x, e, t = torch.randn(3, 16, 4, 4), torch.randn(3, 16, 4, 4), schedule.timesteps[[3, 500, 990]]
    s = schedule.sigmas[[3, 500, 990]].view(-1, 1, 1, 1)
    torch.testing.assert_close(ours.add_noise(x, e, t), (1.0 - s) * x + s * e)
    assert torch.equal(ours.target(x, e, t), e - x)
    weights = compute_loss_weighting_for_sd3("logit_normal", s)
    assert torch.equal(ours.weight(t, 5.0), weights.flatten())


def test_nothing_learns_of_the_text_behind_the_last_block(sd3: StableDiffusion, words: Path) -> None:
    """Its query of the text is computed and thrown away: no fault of a LoRA if it stays at zero there."""
    model = SD3.tiny(3, words)
    attachment = METHODS["lora"].attach(model, Lora(rank=2), generator(0, "init"))
    cond = model.encode_text([PROMPT])
    model.denoise(torch.randn(1, 16, 8, 8), torch.tensor([400.0]), cond).pow(2).mean().backward()
    still = {
        slot.path
        for slot in attachment.slots  # type: ignore[attr-defined]
        if not slot.layer.lora_B[attachment.adapter].weight.grad.any()  # type: ignore[attr-defined]
    }
    assert still == {"transformer_blocks.2.attn.add_q_proj"}


def prepared(base: Path, images: Path, precision: str) -> tuple[Inputs, set[str]]:
    """What a training run in this precision begins with, and the codes of its warnings."""
    recipe = config.build({"base": {"model": str(base)}, "data": {"images": str(images), "trigger": "zuzu"}})
    accelerator, found = SimpleNamespace(mixed_precision=precision, device=CPU), list[Inputs]()

    def run() -> Generator[Event, None, None]:
        found.append((yield from read_inputs(recipe, base, accelerator)))  # type: ignore[arg-type]

    codes = {event.code for event in run() if isinstance(event, Warned)}
    return found[0], codes


def test_no_image_is_trained_at_a_side_that_the_network_cuts(sd3: StableDiffusion, tmp_path: Path) -> None:
    """An odd number of latents is not refused by it: the last are left out."""
    base, images = write_folder(sd3, tmp_path / "base", old_style=True), tmp_path / "images"
    images.mkdir()
    for width in (72, 88, 104, 120):
        Image.new("RGB", (width, 96), "teal").save(images / f"{width}.png")
    inputs, _codes = prepared(base, images, "no")
    sides = {side for bucket in inputs.buckets for side in (bucket.width, bucket.height)}
    assert len(inputs.buckets) > 1 and not any(side % 16 for side in sides)
    noisy = torch.zeros(1, 16, 9, 8)
    assert sd3.denoise(noisy, torch.tensor([400.0]), sd3.encode_text([PROMPT])).shape[2:] == (8, 8)


def test_float16_is_warned_of_where_keys_and_queries_have_no_norm(
    sd3: StableDiffusion, words: Path, tmp_path: Path
) -> None:
    draw_pictures(tmp_path / "images")
    plain = replace(SD3, tiny_geometry=lambda *sizes: _without_norm(SD3.tiny_geometry(*sizes))).tiny(3, words)
    for name, model in (("medium", plain), ("medium-3.5", sd3)):
        base = write_folder(model, tmp_path / name, old_style=True)
        warned = {
            precision: "TR037" in prepared(base, tmp_path / "images", precision)[1] for precision in ("fp16", "bf16")
        }
        assert warned == {"fp16": model is plain, "bf16": False}


def _without_norm(geometry: Geometry) -> Geometry:
    return replace(geometry, unet={**geometry.unet, "qk_norm": None, "dual_attention_layers": []})


@pytest.mark.slow
def test_the_whole_way_by_the_command_line(sd3: StableDiffusion, tmp_path: Path) -> None:
    """A run with the guard, its files, a drawing with one of them, words, a DreamBooth of a single file, a conversion."""
    base, images, run = write_folder(sd3, tmp_path / "base", old_style=True), tmp_path / "images", tmp_path / "run"
    draw_pictures(images)

    def tsuika(*words: object) -> str:
        result = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    def trained(method: str, out: Path, *settings: str, model: Path = base) -> Path:
        more = [word for setting in settings for word in ("--set", setting)]
        tsuika(
            "train", method, "--images", images, "--base", model, "--trigger", "zuzu", "--out", out, "--steps", 2, *more
        )
        return next((out / "artifacts").glob("*.safetensors"))

    def drawn(out: Path, *words: object) -> None:
        size = ("--steps", 2, "--size", "64x64")
        tsuika("generate", "--base", base, "--prompt", "a (zuzu:1.2)", *size, "--out", tmp_path / out, *words)

    lora = trained("lora", run, "method.rank=2", "method.text_encoder=true")
    assert (lora.with_suffix("") / "pytorch_lora_weights.safetensors").is_file()
    drawn(tmp_path / "a.png", "--lora", f"{lora}:0.7")
    drawn(tmp_path / "b.png", "--embedding", trained("textual-inversion", tmp_path / "words"))
    tsuika("convert", base, "--to", "single-file", "--out", tmp_path / "one.safetensors")
    thrift = ("train.optimizer=adafactor", "method.weights=bf16", f"base.tokenizer={base}")
    whole = trained("dreambooth", tmp_path / "whole", *thrift, model=tmp_path / "one.safetensors")
    assert "SD 3.x" in tsuika("inspect", whole)
    tsuika("convert", whole, "--to", "diffusers", "--tokenizer", base, "--out", tmp_path / "two")
    assert (tmp_path / "two" / "transformer" / "config.json").is_file()
