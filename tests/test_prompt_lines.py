"""Prompts with options in kohya's form, for previews, `generate` and `evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tiny_models import shallow
from tsuika.api import previews as api
from tsuika.api.previews import lines as preview_lines
from tsuika.api.previews import with_file
from tsuika.config import Recipe, load, prompt_lines
from tsuika.config.prompt_lines import PromptLine
from tsuika.core.errors import RecipeError
from tsuika.core.rundir import RunDir
from tsuika.core.sections import Data, Preview
from tsuika.data.manifest import Manifest, Sample
from tsuika.data.subjects import subjects_of
from tsuika.evaluation.prompts import asked
from tsuika.generation.png_info import read as read_png


def test_a_line_of_kohyas() -> None:
    text = "a cat, (sitting:1.2) -- on a mat --n low quality, bad--hands --w 512 --h 768 --d 42 --l 7.5 --s 25 --ss Euler a"
    assert prompt_lines.parse(text) == PromptLine(
        "a cat, (sitting:1.2) -- on a mat",
        text,
        negative="low quality, bad--hands",
        width=512,
        height=768,
        seed=42,
        cfg=7.5,
        steps=25,
        sampler="Euler a",
    )
    assert prompt_lines.parse("plain --D 3").seed == 3 and prompt_lines.parse("--n nothing else").prompt == ""


@pytest.mark.parametrize("text", ["a cat --ar 16:9", "a cat --w wide --h 8", "a cat --s", "a cat --w 512", "a --l x"])
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(RecipeError) as error:
        prompt_lines.parse(text)
    assert error.value.code == "RC002" and text in str(error.value)


def test_a_file_becomes_part_of_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(
        "# scenes\n\na {trigger} cat --d 5 --n {trigger} hat\na {trigger} cat --w 64 --h 64\n", encoding="utf-8"
    )
    keys = {"preview.prompts": ["a hat"], "preview.file": str(file), "data.trigger": "zuzu"}
    recipe = with_file(Recipe.of("lora", settings=keys))
    assert recipe.preview.file == "" and len(recipe.preview.prompts) == 3
    lines = preview_lines(recipe)
    assert [*lines] == ["a hat", "a zuzu cat", "a zuzu cat --w 64 --h 64"]
    assert (lines["a zuzu cat"].seed, lines["a zuzu cat"].negative) == (5, "zuzu hat")
    assert [one.size_px for one in lines.values()] == [None, None, (64, 64)]
    # `evaluate` draws the same prompts, all alike.
    own = asked(subjects_of(Data(trigger="zuzu", class_word="cat")), Preview(), [[]], embedded=False, own=file)
    assert [one.text for one in own if one.group == "subject"] == ["a zuzu cat"]
    file.write_text("# nothing\n", encoding="utf-8")
    for missing in (file, tmp_path / "none.txt"):
        with pytest.raises(RecipeError) as error:
            with_file(Recipe.of("lora", settings={"preview.file": str(missing)}))
        assert error.value.code == "RC002" and error.value.where == str(missing)


def test_kohyas_settings_name_prompts_or_their_file(tmp_path: Path) -> None:
    for value, prompts, file in (("a cat --d 1\n# no\na dog", ("a cat --d 1", "a dog"), ""), ("p.txt", (), "p.txt")):
        settings = {"network_module": "networks.lora", "sample_prompts": value}
        (tmp_path / "train.json").write_text(json.dumps(settings))
        preview = load(tmp_path / "train.json").preview
        assert (preview.prompts, preview.file) == (prompts, file)


def test_previews_are_drawn_as_their_lines_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Any, ...]] = []

    def sample(_model: object, prompts: list[str], **how: Any) -> torch.Tensor:
        drawn.append((*prompts, how["negative"], how["seed"], how["steps"], how["cfg"], how["size_px"]))
        return torch.zeros(len(prompts) * how["num"], 3, 8, 8)

    monkeypatch.setattr(api.pipeline, "sample", sample)
    prompts = ["a cat --n hat --d 9 --s 3 --l 2 --w 64 --h 96", "a dog", "a hen"]
    keys = {"preview.prompts": prompts, "preview.negative": "blur", "preview.cfg": 5.0, "preview.num": 1}
    recipe, samples = Recipe.of("lora", settings=keys), RunDir(tmp_path)
    samples.samples.mkdir()
    caption = Sample(Path("a.png"), "a.png", "a zuzu", 8, 8, 1, "")
    model = shallow("sd1")
    prepared = SimpleNamespace(recipe=recipe, model=model, folder=samples, manifest=Manifest((caption,)))
    events = list(api.draw(prepared, 3))  # type: ignore[arg-type]
    most, usual = max(5.0, api.defaults_of(model).cfg), api.defaults_of(model).steps
    assert drawn == [
        ("a cat", "hat", 9, 3, 2.0, (64, 96)),
        # What is drawn in the same way is drawn together.
        ("a dog", "a hen", "blur", 1, usual, 5.0, None),
        ("a zuzu", "", 1, usual, most, None),
    ]
    shown = [(event.prompt, event.seed) for event in events]
    assert shown == [("a cat", 9), ("a dog", 1), ("a hen", 1), ("a zuzu", 1)]
    info, _own = read_png(tmp_path / events[0].path)
    assert info is not None and (info.negative, info.steps, info.cfg) == ("hat", 3, 2.0)
