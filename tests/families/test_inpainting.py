"""Inpainting bases: recognised, given what they take in the field's order, trained by random masks, drawn under a whole one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import tsuika
from tiny_models import single_file_tensors, tiny, write_folder, write_tokenizer
from tsuika import config, families, formats
from tsuika.core.errors import FormatError
from tsuika.core.events import Event, Warned
from tsuika.core.rundir import RunDir
from tsuika.core.seeds import generator
from tsuika.diffusion.objective import objective
from tsuika.families import Geometry, StableDiffusion, inpainting
from tsuika.generation import pipeline
from tsuika.generation.encode import encode

FAMILIES = ("sd1", "sd2", "sdxl")


def made(family: str, channels: int = 9) -> StableDiffusion:
    """A tiny model whose UNet takes so many channels."""
    kind = families.family(family)

    def geometry(vocabulary: int, longest: int) -> Geometry:
        small = kind.tiny_geometry(vocabulary, longest)
        return replace(small, unet={**small.unet, "in_channels": channels})

    words = Path(str(tiny(family).tokenizers["tokenizer"].name_or_path))
    return replace(kind, tiny_geometry=geometry).tiny(3, words, prediction="epsilon")


def single_file(model: StableDiffusion, path: Path) -> Geometry:
    """The model as a file; its sizes but for the input channels, which the file says."""
    save_file(single_file_tensors(model), path)
    text = {name: encoder.config.to_dict() for name, encoder in model.text_encoders.items()}
    unet = {**dict(model.unet.config), "in_channels": 4}  # type: ignore[arg-type]
    return Geometry(unet, dict(model.vae.config), text, 64)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_and_a_file_are_recognised(family: str, tmp_path: Path) -> None:
    model = made(family)
    folder = write_folder(model, tmp_path / "folder", old_style=True)
    sizes = single_file(model, file := tmp_path / "model.safetensors")
    for found in (families.peek(folder), families.peek(file, geometry=sizes)):
        assert found.facts.family == family and found.inpaints and found.geometry.unet["in_channels"] == 9
    loaded = families.load(
        str(file),
        tokenizer=str(write_tokenizer(tmp_path / "words")),
        device=torch.device("cpu"),
        dtype=torch.float32,
        geometry=sizes,
    )
    assert loaded.inpaints and torch.equal(loaded.unet.conv_in.weight, model.unet.conv_in.weight)  # type: ignore[union-attr]
    assert not tiny(family).inpaints
    assert tsuika.inspect(folder).result.inpaints


@pytest.mark.parametrize("channels", [5, 8])
def test_depth_and_editing_models_stay_refused(channels: int, tmp_path: Path) -> None:
    model = made("sd1", channels)
    folder = write_folder(model, tmp_path / "folder", old_style=True)
    single_file(model, file := tmp_path / "model.safetensors")
    for path in (folder, file):
        with pytest.raises(FormatError) as refused:
            families.peek(path)
        assert refused.value.code == "MD002" and f"{channels} input channels" in str(refused.value)


def test_masks_cover_everything_in_a_quarter_and_else_any_part() -> None:
    masks = [inpainting.random_mask((48, 64), generator(0, "test", i)) for i in range(400)]
    shares = [float(mask.mean()) for mask in masks]
    assert all(mask.shape == (1, 1, 48, 64) and set(mask.unique().tolist()) <= {0.0, 1.0} for mask in masks)
    whole = sum(share == 1 for share in shares) / len(shares)
    # Four standard errors of a quarter of 400.
    assert abs(whole - 0.25) < 4 * (0.25 * 0.75 / 400) ** 0.5
    parts = [share for share in shares if share < 1]
    assert min(parts) > 0 and min(parts) < 0.1 and max(parts) > 0.6
    # Both shapes: an ellipse leaves out the corners of the box around it, a rectangle nothing.
    boxes = []
    for mask in (mask for mask, share in zip(masks, shares, strict=True) if share < 1):
        rows, columns = (mask[0, 0].any(dim=side).sum() for side in (0, 1))
        boxes.append(float(mask.sum() / (rows * columns)))
    assert any(box == 1 for box in boxes) and any(box < 0.85 for box in boxes)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_it_is_trained_on_is_what_diffusers_gives_it(family: str) -> None:
    """Mask and masked latents against `prepare_mask_latents` and the image processors of diffusers' own pipeline."""
    model = made(family)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        latents = inpainting.training_latents(model, pixels)
        again = inpainting.training_latents(model, pixels)
    assert latents.shape == (inpainting.MASKS, 9, 64 // model.latent_factor, 64 // model.latent_factor)
    assert torch.equal(latents, again) and len({row[4].sum().item() for row in latents}) > 1
    digest = hashlib.sha256(pixels.numpy().data).hexdigest()
    made_by = pipe(model)
    for number, row in enumerate(latents):
        mask = inpainting.random_mask((64, 64), generator(0, f"inpainting/{digest}", number))
        masked = pixels * (mask < 0.5)
        with torch.no_grad():
            theirs = made_by.prepare_mask_latents(
                mask, masked, 1, 64, 64, torch.float32, torch.device("cpu"), None, False
            )
            whole = model.encode_images(pixels)
        assert torch.equal(row[4:5], theirs[0][0])
        torch.testing.assert_close(row[5:], theirs[1][0])
        torch.testing.assert_close(row[:4], whole[0])


def pipe(model: StableDiffusion) -> Any:
    """diffusers' own pipeline, that takes the posterior's mean as tsuika does."""
    scheduler = diffusers.EulerDiscreteScheduler.from_config(model.scheduler_config, timestep_spacing="linspace")
    parts = {"vae": model.vae, "unet": model.unet, "scheduler": scheduler, **model.text_encoders, **model.tokenizers}
    if "text_encoder_2" in parts:
        found = diffusers.StableDiffusionXLInpaintPipeline(**parts, add_watermarker=False)
    else:
        found = diffusers.StableDiffusionInpaintPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )

    def encoded(image: torch.Tensor, generator: object) -> torch.Tensor:
        # The tiny VAE's norms have a channel each, and make of a grey image what rounding, and so the layout, leaves of it.
        return model.vae.encode(image.contiguous() + 0).latent_dist.mean * model.latent_scale  # type: ignore[operator, no-any-return]

    found._encode_vae_image = encoded
    found.set_progress_bar_config(disable=True)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_alone_is_drawn_as_diffusers_draws_it_under_a_whole_mask(family: str) -> None:
    model, side = made(family), 64
    with torch.no_grad():
        cond, uncond = encode(model, "the red cat", size_px=(side, side)), encode(model, "dog", size_px=(side, side))
        mine = pipeline.sample_latents(
            model,
            pipeline.make_scheduler(model, "Euler"),
            ((3, cond),),
            ((3, uncond),),
            [torch.Generator().manual_seed(5)],
            steps=3,
            cfg=4.0,
            size_px=(side, side),
        )
    theirs = pipe(model)(
        prompt="the red cat",
        negative_prompt="dog",
        image=Image.new("RGB", (side, side), "red"),
        mask_image=Image.new("L", (side, side), 255),
        width=side,
        height=side,
        num_inference_steps=3,
        guidance_scale=4.0,
        strength=1.0,
        output_type="latent",
        generator=torch.Generator().manual_seed(5),
    ).images
    torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow"])
def test_only_latents_get_noise_and_only_they_are_the_target(prediction: Any) -> None:
    trained = objective(prediction, {}, "cpu")
    latents, noise, t = torch.randn(2, 9, 4, 4), torch.randn(2, 4, 4, 4), torch.tensor([500, 20])
    noisy = trained.add_noise(latents, noise, t)
    assert torch.equal(noisy[:, :4], trained.add_noise(latents[:, :4], noise, t)) and torch.equal(
        noisy[:, 4:], latents[:, 4:]
    )
    assert torch.equal(trained.target(latents, noise, t), trained.target(latents[:, :4], noise, t))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and six images."""
    folder = tmp_path_factory.mktemp("inpainting")
    write_folder(made("sd1"), folder / "base", old_style=True)
    (folder / "pictures").mkdir()
    for i in range(6):
        colours = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(colours).resize((64, 64)).save(folder / "pictures" / f"{i}.png")
    return folder


def train(place: Path, out: Path, method: str, steps: int, **settings: Any) -> list[Event]:
    given = {
        "base.model": str(place / "base"),
        "data.images": str(place / "pictures"),
        "data.trigger": "zuzu",
        "data.class_word": "cat",
        "method.name": method,
        "train.steps": steps,
        "train.batch_size": 2,
        "train.device": "cpu",
        "train.precision": "fp32",
        "preview.num": 1,
        "preview.steps": 1,
        **settings,
    }
    return list(tsuika.train(config.build(config.override({}, given)), out))


def test_a_lora_is_trained_under_guard_and_its_file_is_like_any(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    events = train(place, tmp_path / "run", "lora", 12, **{"method.rank": 2, "train.learning_rate": 1e-3})
    assert "TR035" in [one.code for one in events if isinstance(one, Warned)]
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["guard"]["curve"] and report["stopped_by"] in ("steps", "guard")
    kept = list((tmp_path / "cache").rglob("*.safetensors"))
    # Eight masks of each image, with what is behind them.
    assert {tuple(load_file(path)["latents_VCHW"].shape[:2]) for path in kept} == {(8, 9)}
    file = RunDir(tmp_path / "run").artifacts / "run.safetensors"
    artifact = formats.find(file).read(file)
    assert artifact.method == "lora" and artifact.family == "sd1"
    assert not any("conv_in" in name for name in artifact.tensors)
    drawn = tsuika.generate(
        "a zuzu", tmp_path / "out.png", base=str(place / "base"), lora=(str(file),), steps=1, device="cpu"
    )
    codes = [one.code for one in drawn if isinstance(one, Warned)]
    assert "GN009" in codes and drawn.result.images[0].is_file()


@pytest.mark.parametrize("method", ["textual-inversion", "dreambooth", "hypernetwork"])
def test_the_other_methods_train_on_it_too(
    method: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    more = {"method.init": "cat"} if method == "textual-inversion" else {}
    train(place, tmp_path / "run", method, 1, **{"guard.mode": "off", "preview.num": 0}, **more)
    artifacts = RunDir(tmp_path / "run").artifacts
    if method == "dreambooth":
        for path in (artifacts / "run.safetensors", artifacts / "run"):
            assert families.peek(path).inpaints
        index = json.loads((artifacts / "run" / "model_index.json").read_text(encoding="utf-8"))
        assert index["_class_name"] == "StableDiffusionInpaintPipeline"
        diffusers.StableDiffusionInpaintPipeline.from_pretrained(artifacts / "run")
    else:
        assert any(artifacts.iterdir())
