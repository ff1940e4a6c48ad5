"""The A1111 text and tsuika's own JSON, there and back."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from tsuika.generation.png_info import GenerationInfo, _fields, from_text, quote, read, to_text, write_png

FULL = GenerationInfo(
    prompt="ついか犬, (beach:1.2), <lora:ついか犬 v1:0.8>\nsecond line",
    negative="blurry, 低画質",
    steps=28,
    sampler="DPM++ 2M Karras",
    cfg=6.5,
    seed=12345678901,
    size_px=(512, 768),
    model_hash="0123456789",
    model="base: v2, 改",
    vae_hash="abcdef0123",
    vae="my vae.safetensors",
    clip_skip=2,
    rng="CPU",
    lora_hashes={"ついか犬 v1": "a1b2c3d4e5f6", "other": "000011112222"},
    ti_hashes={"emb": "ffff00001111"},
    version="tsuika 0.1.0",
)


def test_the_text_is_in_a1111s_order() -> None:
    *prompt, last = to_text(FULL).split("\n")
    assert prompt == [*FULL.prompt.split("\n"), f"Negative prompt: {FULL.negative}"]
    assert last == (
        "Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 12345678901, Size: 512x768, "
        'Model hash: 0123456789, Model: "base: v2, 改", VAE hash: abcdef0123, VAE: my vae.safetensors, Clip skip: 2, '
        'RNG: CPU, Lora hashes: "ついか犬 v1: a1b2c3d4e5f6, other: 000011112222", TI hashes: "emb: ffff00001111", '
        "Version: tsuika 0.1.0"
    )
    assert "Hypernet" not in last


def test_a_reader_of_quoted_or_comma_free_values_finds_every_field() -> None:
    last = to_text(FULL).rsplit("\n", 1)[1]
    found = dict(re.findall(r'([A-Z][A-Za-z ]*): ("(?:[^"\\]|\\.)*"|[^,"]*)(?:, |$)', last))
    assert len(found) == 15
    assert json.loads(found["Model"]) == FULL.model
    assert json.loads(found["Lora hashes"]) == "ついか犬 v1: a1b2c3d4e5f6, other: 000011112222"


def test_round_trip() -> None:
    assert from_text(to_text(FULL)) == FULL
    assert from_text(to_text(GenerationInfo("cat", steps=1))) == GenerationInfo("cat", steps=1)


def test_round_trip_of_anything() -> None:
    rng = random.Random(0)
    letters = 'ab ,:"\\犬ァ\n()<>-é\u2028\t'

    def text(least: int = 0) -> str:
        return "".join(rng.choice(letters) for _ in range(rng.randint(least, 12)))

    for _ in range(1000):
        info = replace(
            FULL,
            prompt=text().strip(),
            negative=text().strip(),
            seed=rng.randint(-1, 2**63),
            cfg=rng.choice([1.0, 7.0, 3.25, 0.1]),
            sampler=rng.choice(["Euler a", "DDIM", "DPM++ 2M Karras", "UniPC"]),
            model=text(1),
            vae=rng.choice([None, text(1)]),
            extra={"Hires upscale": text(1)},
        )
        if not info.prompt:
            info = replace(info, prompt="x")  # a text that begins with a line break loses it
        assert from_text(to_text(info)) == info


@pytest.mark.parametrize(
    "value", ["plain", "a, b", "a: b", "a\nb", '"quoted"', " space ", "犬", 'in"side', "back\\slash"]
)
def test_quoting(value: str) -> None:
    written = quote(value)
    assert _fields(f"One: 1, Key: {written}, Two: 2") == {"One": "1", "Key": value, "Two": "2"}
    assert (written == value) == (
        not any(mark in value for mark in ",:\n") and value == value.strip() and value[0] != '"'
    )


def test_png_keeps_japanese(tmp_path: Path) -> None:
    path = tmp_path / "絵" / "犬.png"
    info = replace(FULL, prompt=f"  {FULL.prompt} \n")
    write_png(path, Image.new("RGB", (8, 8), "red"), info, {"loras": [{"name": "ついか犬 v1", "strength": 0.8}]})
    assert b"iTXt" in path.read_bytes()
    found, own = read(path)
    assert found == FULL  # the text's ends are trimmed ...
    assert own["prompt"] == info.prompt  # ... our own keeps them
    assert own["loras"][0]["name"] == "ついか犬 v1"
    with Image.open(path) as picture:
        assert picture.text["parameters"] == to_text(info)
        assert picture.getpixel((0, 0)) == (255, 0, 0)
    assert [entry.name for entry in path.parent.iterdir()] == ["犬.png"]


def test_png_that_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    write_png(path, Image.new("RGB", (4, 4)), None)
    assert read(path) == (None, {})


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_png(path, Image.new("RGB", (4, 4), "blue"), FULL)
    before = path.read_bytes()
    with pytest.raises(OSError, match="mode"):
        write_png(path, Image.new("HSV", (4, 4)), FULL)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_another_programs_text_is_read_as_far_as_it_goes() -> None:
    text = "a cat\nNegative prompt: dog\nSteps: many, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Hires steps: 9"
    assert from_text(text) == GenerationInfo(
        "a cat", "dog", sampler="Euler a", cfg=7.0, rng=None, extra={"Steps": "many", "Hires steps": "9"}
    )
    only = "a tale: once, upon: a time"
    assert from_text(only) == GenerationInfo(only, rng=None)


def test_a_jpeg_keeps_it_in_its_exif_comment(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x8769] = {0x9286: b"UNICODE\0" + to_text(FULL).encode("utf-16-be")}
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    assert read(path) == (FULL, {})


def test_any_text_and_any_json_is_survived(tmp_path: Path) -> None:
    rng = random.Random(1)
    for number in range(200):
        text = "".join(rng.choice('Steps: 1,"Size\\x\n{}犬\0') for _ in range(rng.randint(0, 40)))
        assert from_text(text).prompt is not None
        path = tmp_path / f"{number}.png"
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("tsuika", text.replace("\0", ""))
        Image.new("RGB", (1, 1)).save(path, pnginfo=chunks)
        assert read(path) == (None, {})
