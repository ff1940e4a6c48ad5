"""What each program is told: its own folder, its own syntax, and only what it can do."""

from __future__ import annotations

from typing import Any

import pytest

from tsuika.methods import METHODS
from tsuika.methods.uses import Result, Use

FILES = {
    "lora": ("artifacts/hero.safetensors", "artifacts/hero"),
    "textual-inversion": ("artifacts/hero.safetensors", "artifacts/hero.pt"),
    "dreambooth": ("artifacts/hero.safetensors", "artifacts/hero"),
    "hypernetwork": ("artifacts/hero.pt", "artifacts/hero.safetensors"),
}


def told(method: str, **changes: Any) -> dict[str, Use]:
    plain = {
        "family": "sd1",
        "base": "some/base",
        "trigger": "zuzu",
        "prompt": "a Zuzu cat",
        "paths": FILES.get(method, ("artifacts/hero.safetensors",)),
    }
    return {use.program: use for use in METHODS[method].uses(Result(method, **{**plain, **changes}))}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_told_with_words_in_both_languages(method: str) -> None:
    programs = told(method)
    assert "tsuika" in programs
    for use in programs.values():
        for text in filter(None, (use.how, use.note)):
            assert text.to("ja") != text
        assert bool(use.file) == bool(use.folder) and use.file in use.how and use.folder in use.how
    if "diffusers" in programs:
        compile(programs["diffusers"].paste, "diffusers", "exec")


def test_a_lora() -> None:
    programs = told("lora")
    assert programs["A1111 / Forge"].folder == "models/Lora/"
    assert programs["A1111 / Forge"].paste.endswith("<lora:hero:1>")
    assert programs["ComfyUI"].folder == "models/loras/"
    assert "<lora" not in programs["ComfyUI"].paste  # ComfyUI would read it as words of the prompt
    assert "--base some/base" in programs["tsuika"].paste
    assert not {"diffusers", "sd-scripts"} & told("lora", base="embedded").keys()  # neither can load that base


def test_of_sd3_only_what_applies_it_is_named() -> None:
    """diffusers passes over kohya's names with a warning, and has no loader of words; A1111 fails on the file."""
    lora = told("lora", family="sd3")
    assert lora.keys() == {"tsuika", "Forge", "ComfyUI", "diffusers"}
    assert 'load_lora_weights("artifacts/hero")' in lora["diffusers"].paste
    assert "StableDiffusion3Pipeline" in lora["diffusers"].paste
    assert told("textual-inversion", family="sd3").keys() == {"tsuika", "A1111 / Forge", "ComfyUI"}
    assert told("dreambooth", family="sd3").keys() == {"tsuika", "Forge", "ComfyUI", "diffusers"}


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("lora", "--network_weights artifacts/hero.safetensors"),
        ("textual-inversion", "--textual_inversion_embeddings artifacts/hero.safetensors"),
        ("dreambooth", "--ckpt artifacts/hero.safetensors"),
    ],
)
def test_sd_scripts(method: str, option: str) -> None:
    plain, sdxl = (
        told(method, family=family, base="/bases/my base.safetensors")["sd-scripts"] for family in ("sd1", "sdxl")
    )
    assert option in plain.paste and "--sdxl" not in plain.paste and "--sdxl" in sdxl.paste
    if method != "dreambooth":
        assert "--ckpt '/bases/my base.safetensors'" in plain.paste
    assert "--v2" in told(method, family="sd2")["sd-scripts"].paste


def test_a_new_word_is_called_by_its_files_name() -> None:
    programs = told("textual-inversion")
    assert programs["A1111 / Forge"].paste == "a hero cat" and programs["A1111 / Forge"].folder == "embeddings/"
    assert programs["ComfyUI"].paste == "a embedding:hero cat"
    assert "--embedding artifacts/hero.safetensors" in programs["tsuika"].paste
    sdxl = told("textual-inversion", family="sdxl")["diffusers"].paste
    compile(sdxl, "diffusers", "exec")
    assert "clip_l" in sdxl and "tokenizer_2" in sdxl


def test_a_checkpoint_is_the_base() -> None:
    programs = told("dreambooth")
    assert "--base artifacts/hero " in programs["tsuika"].paste and "some/base" not in programs["tsuika"].paste
    assert programs["ComfyUI"].file == "hero.safetensors"


def test_forge_is_not_promised_a_hypernetwork() -> None:
    programs = told("hypernetwork")
    assert programs.keys() == {"tsuika", "A1111", "ComfyUI"}
    assert programs["A1111"].file == programs["ComfyUI"].file == "hero.pt"
    assert programs["A1111"].paste.endswith("<hypernet:hero:1>")


@pytest.mark.parametrize("method", METHODS)
def test_without_files_nothing_is_said(method: str) -> None:
    assert told(method, paths=()) == {}


def test_programs() -> None:
    for method in ("textual-inversion", "dreambooth"):
        assert {"tsuika", "A1111", "Forge", "ComfyUI", "diffusers"} <= {*METHODS[method].programs("sd1")}
    assert METHODS["hypernetwork"].programs("sd1") == ("tsuika", "A1111", "ComfyUI")
    assert METHODS["lora"].programs("sdxl") == ("tsuika", "A1111", "Forge", "ComfyUI", "diffusers", "sd-scripts")
    assert METHODS["lora"].programs("sd3") == ("tsuika", "Forge", "ComfyUI", "diffusers")
