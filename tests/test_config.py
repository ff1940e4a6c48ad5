"""The recipe: round trip, nearest-key errors, complete help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from tsuika import config
from tsuika.config import Recipe
from tsuika.core.errors import RecipeError
from tsuika.embedded.defaults import training
from tsuika.methods import METHODS


def test_load_of_dump_is_the_same_recipe(tmp_path: Path) -> None:
    tables = {
        "data": {"trigger": "ツイピ", "flip": True},
        "method": {"rank": 7},
        "preview": {"prompts": ["a # b", '"c"']},
    }
    recipe = config.build(tables)
    file = tmp_path / "r.toml"
    for comments in (True, False):
        file.write_text(config.dump(recipe, comments=comments), encoding="utf-8")
        assert config.load(file) == recipe


def test_every_setting_has_a_help_of_its_own_in_both_languages() -> None:
    settings = list(config.settings())
    fields = [
        section.annotation for name, section in config.Recipe.model_fields.items() if name not in ("version", "method")
    ]
    leaves = sum(len(section.model_fields) for section in fields)  # type: ignore[union-attr]
    sections = [method.settings for method in METHODS.values()]
    own = sum(len(section.model_fields) - 1 for section in sections)  # `method.name` is chosen by the command
    assert len(settings) == leaves + own
    for method in METHODS:  # two methods may have the same setting
        seen = [s for s in settings if s.method in ("", method)]
        assert (
            len({s.key for s in seen})
            == len({s.help.text for s in seen})
            == len({s.help.text.to("ja") for s in seen})
            == len(seen)
        )
    assert all(not s.help.text.to("ja").isascii() for s in settings)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("train.stepz", "train.steps"), ("train.lerning_rate", "train.learning_rate"), ("rank", "method.rank")],
)
def test_an_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    with pytest.raises(RecipeError) as caught:
        config.build(config.override({}, {key: 1}))
    assert caught.value.code == "RC001" and nearest in caught.value.part("do")
    assert caught.value.exit_status == 2


def at(recipe: Recipe, dotted: str) -> Any:
    part, _, leaf = dotted.partition(".")
    return getattr(getattr(recipe, part), leaf)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_brings_its_own_defaults_and_the_recipe_overrules_them(name: str) -> None:
    section = METHODS[name].settings
    recipe = config.build({"base": {"model": "a.safetensors"}, "method": {"name": name}})
    assert type(recipe.method) is section
    for dotted, value in section.defaults.items():
        assert at(recipe, dotted) == value != at(Recipe(), dotted), "else it need not be said"
    assert config.build({"method": {"name": name}, "train": {"steps": 7}}).train.steps == 7


@pytest.mark.parametrize("name", training())
@pytest.mark.parametrize("base", [{}, {"base": {"model": "embedded"}}, {"base": {"vae": "builtin"}}])
def test_the_embedded_base_brings_its_own_defaults(name: str, base: dict[str, Any]) -> None:
    """README's plain line trains at the rate that was measured for these weights, unless the recipe says otherwise."""
    own = training()[name]
    recipe = config.build({"method": {"name": name}, **base})
    assert {key: at(recipe, key) for key in own} == own
    assert "train.learning_rate" in own and own["train.steps"] <= 300
    said = config.build({"method": {"name": name}, "train": {"learning_rate": 1e-5, "steps": 7}, **base})
    assert (said.train.learning_rate, said.train.steps, said.train.batch_size) == (1e-5, 7, own["train.batch_size"])
    # The complete recipe of a run is the same again.
    assert config.build(tomlkit.parse(config.dump(recipe)).unwrap()) == recipe


def test_a_setting_of_another_method_and_an_unknown_method_are_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        config.build({"method": {"name": "hypernetwork", "rank": 4}})
    assert caught.value.code == "RC042" and "method.rank" in caught.value.part("what")
    assert caught.value.part("why") == "It is a setting of LoRA."
    assert "method.layer_structure" in caught.value.part("do") and "rank" not in caught.value.part("do")
    with pytest.raises(RecipeError) as caught:
        config.build({"method": {"name": "loar"}})
    assert caught.value.code == "RC002" and "dreambooth" in caught.value.part("why")


@pytest.mark.parametrize(
    "text",
    [
        *("train.steps=0", "train.steps=many", "data.crop=0.1", "method.adapter=loha2"),
        # An infinite number is none, and true is not 1.
        *("train.min_snr_gamma=inf", "train.weight_decay=1e400", "preview.cfg=inf", "method.alpha=-inf"),
        *("train.learning_rate=true", "train.noise_offset=true", "train.steps=true", "method.dropout=false"),
    ],
)
def test_a_bad_value_names_the_key(text: str) -> None:
    key, value = config.parse_assignment(text)
    with pytest.raises(RecipeError) as caught:
        config.build(config.override({}, {key: value}))
    assert caught.value.code == "RC002" and key in caught.value.part("what")


def test_one_fold_is_refused_in_both_languages() -> None:
    assert [config.build({"guard": {"folds": folds}}).guard.folds for folds in (0, 2, 50)] == [0, 2, 50]
    with pytest.raises(RecipeError) as caught:
        config.build({"guard": {"folds": 1}}, where="r.toml")
    assert (caught.value.code, caught.value.where) == ("RC002", "r.toml")
    assert "0, or 2 to 50" in caught.value.part("why") and "2〜50" in caught.value.part("why", "ja")


def test_assignments_are_toml_or_text() -> None:
    assert config.parse_assignment("train.steps=4_00") == ("train.steps", 400)
    assert config.parse_assignment("data.trigger=sks dog") == ("data.trigger", "sks dog")
    assert config.parse_assignment('preview.prompts=["a", "b"]') == ("preview.prompts", ["a", "b"])
    assert config.override({"train": {"steps": 1}}, {"train.steps": 2, "output.name": "x"}) == {
        "train": {"steps": 2},
        "output": {"name": "x"},
    }
    with pytest.raises(RecipeError):
        config.parse_assignment("train.steps")


def test_not_toml_is_a_clear_error(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("steps = = 3")
    with pytest.raises(RecipeError) as caught:
        config.load(bad)
    assert caught.value.code == "RC003" and str(bad) in str(caught.value)


def test_the_core_needs_no_torch() -> None:
    code = "import sys, tsuika.config, tsuika.core.errors, tsuika.core.events, tsuika.core.types; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"train.huber_c": 0.2}, "no effect with train.loss"),
        ({"train.huber_schedule": "constant"}, "no effect with train.loss"),
        ({"train.multires_noise_discount": 0.5}, "no effect with train.multires_noise"),
        ({"train.min_timestep": 500, "train.max_timestep": 500}, "greater than train.min_timestep"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object], why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        Recipe.of("lora", settings=settings)


def test_defaults_of_the_embedded_base_do_not_contradict_what_is_given() -> None:
    for more, conv in (({}, True), ({"start": "a.safetensors"}, False), ({"targets": "attention"}, False)):
        given = {f"method.{key}": value for key, value in more.items()}
        assert Recipe.of("lora", settings=given).method.model_dump()["conv"] is conv


@pytest.mark.parametrize("key", ["nope", "train.nope", "xyz.abc"])
def test_where_nothing_is_near_nothing_is_proposed(key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        config.build(config.override({}, {key: 1}))
    assert caught.value.part("do") == "All settings: tsuika settings"


@pytest.mark.parametrize("word", ["  ", "a\nb", "a\x07", "\u3000"])
@pytest.mark.parametrize("key", ["data.trigger", "data.class_word"])
def test_a_word_is_one_line_and_more_than_spaces(key: str, word: str) -> None:
    with pytest.raises(RecipeError, match="RC002"):
        config.build(config.override({}, {key: word}))


def test_a_hypernetwork_has_widths_that_its_files_can_have() -> None:
    with pytest.raises(RecipeError, match="RC002"):
        config.build({"method": {"name": "hypernetwork", "layer_structure": [1, 1e9, 1]}})


def test_the_home_is_filled_in_wherever_a_recipe_names_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    keys = ("base.model", "base.vae", "base.tokenizer", "data.images", "data.masks", "data.reg_images", "preview.file")
    built = config.build(config.override({}, {**dict.fromkeys(keys, "~/x"), "method.start": "~/x"}))
    assert {at(built, key) for key in (*keys, "method.start")} == {str(tmp_path / "x")}
    sets = config.build({"data": {"sets": [{"images": "~/x"}, {"images": "~/y"}]}})
    assert sets.data.folders == (str(tmp_path / "x"), str(tmp_path / "y"))
    assert config.build({"data": {"images": "~nobody-of-this-name/x"}}).data.images == "~nobody-of-this-name/x"


def test_json_that_says_a_thing_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "kohya.json"
    file.write_text('{"LoRA_type": "Standard", "network_dim": 4, "network_dim": 8}')
    with pytest.raises(RecipeError, match=r"RC003(?s:.*)network_dim"):
        config.load(file)
