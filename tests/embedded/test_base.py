"""The embedded base as it ships: it loads as any other, draws what it is asked, and its judges can judge."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import tsuika
from base.vae import fresh_pictures, psnr
from tsuika.api import models
from tsuika.embedded import yardstick
from tsuika.embedded.things import KNOWN, NEW
from tsuika.embedded.world import BACKGROUNDS, World, article, draw, where
from tsuika.generation import pipeline

FOLDER = Path(yardstick.__file__).parent


@pytest.fixture(scope="module")
def model() -> object:
    return tsuika.load("embedded", precision="fp32")


def test_it_is_small_and_in_half_precision() -> None:
    files = [*FOLDER.glob("base/**/*.safetensors"), FOLDER / "yardstick.safetensors"]
    assert len(files) == 6  # with the decoders of two more VAEs
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 64 * 2**20
    for path in files:
        with safe_open(path, "pt") as file:
            assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118


def test_diffusers_loads_it_and_draws_with_it() -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(FOLDER / "base")
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a cat on the beach", num_inference_steps=2, output_type="np").images[0]
    assert picture.shape == (64, 64, 3) and np.isfinite(picture).all()
    names = safe_open(FOLDER / "base/text_encoder/model.safetensors", "pt").keys()
    assert all(name.startswith("text_model.") for name in names)  # as every other program expects


def test_the_vae_keeps_fresh_pictures(model) -> None:
    """The aim is 27 dB; the card has the figure over many pictures."""
    _, pixels = fresh_pictures(seed=4242, count=48)
    with torch.no_grad():
        latents = model.encode_images(pixels)
        quality = psnr(model.decode_latents(latents), pixels)
    assert quality > 26
    assert 0.7 < float(latents.std()) < 1.4  # unit variance, or the noise schedule is wrong for it


def test_samples_have_the_background_that_was_asked_for(model) -> None:
    """Far above chance (1 in 22), by a judge that has never seen a sample."""
    asked = ["snow", "night", "beach", "red", "blue", "yellow", "meadow", "black"]
    prompts = [f"{article('cat')} {where(name)}" for name in asked]
    pictures = [
        np.asarray(p)
        for p in pipeline.to_images(pipeline.sample(model, prompts, steps=10, defaults=models.defaults_of(model)))
    ]
    scores = [float(yardstick.background_scores([p], name)[0]) for p, name in zip(pictures, asked)]
    assert np.mean(np.array(scores) > 0.5) >= 0.75


def test_the_yardstick_tells_things_apart_with_the_background_held_equal() -> None:
    """On things that it never saw in training: same thing elsewhere is nearer than another thing on the same ground."""
    things, rng = NEW, np.random.default_rng(1)
    world, nearer = World(things=things), []
    for _ in range(60):
        first, second = rng.choice(len(things), 2, replace=False)
        here, there = rng.choice(BACKGROUNDS, 2, replace=False)
        wanted = [(first, here), (first, there), (second, here)]
        unit = yardstick.directions(
            [draw(world.picture(rng, thing=things[i].name, background=str(b))) for i, b in wanted]
        )
        nearer.append(float(unit[0] @ unit[1]) > float(unit[0] @ unit[2]))
    assert np.mean(nearer) > 0.9


def test_the_yardstick_sees_known_things_and_backgrounds() -> None:
    rng, world = np.random.default_rng(2), World(pairs=0)
    pictures = [world.picture(rng) for _ in range(40)]
    drawn = [draw(picture) for picture in pictures]
    others = [KNOWN[rng.integers(len(KNOWN))].name for _ in pictures]
    seen = [
        float(yardstick.thing_scores([p], q.things[0].thing)[0]) > float(yardstick.thing_scores([p], other)[0])
        for p, q, other in zip(drawn, pictures, others)
        if other != q.things[0].thing
    ]
    ground = [float(yardstick.background_scores([p], q.background)[0]) > 0.5 for p, q in zip(drawn, pictures)]
    assert np.mean(seen) > 0.95 and np.mean(ground) > 0.85


def test_the_base_says_how_it_was_made() -> None:
    said = json.loads((FOLDER / "base/tsuika.json").read_text(encoding="utf-8"))
    assert said["made"]["unet_steps"] == said["made"]["plan"]["unet_steps"]  # the training ran to its end
    assert said["sampler"] in pipeline.SAMPLERS
    assert len(KNOWN) >= 64
