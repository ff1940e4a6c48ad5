"""Settings of kohya's programs as a recipe: what has a counterpart is taken over, what has none is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tsuika import config
from tsuika.core.errors import RecipeError

DATASET = """
[general]
shuffle_caption = true
keep_tokens = 1
caption_extension = '.txt'
enable_wildcard = true
caption_suffix = 'hd'
keep_tokens_separator = '|||'
secondary_separator = ';;;'
caption_tag_dropout_rate = 0.1
[[datasets]]
resolution = [512, 768]
batch_size = 2
keep_tokens = 2
  [[datasets.subsets]]
  image_dir = 'photos'
  class_tokens = 'sks dog'
  num_repeats = 5
  color_aug = true
  [[datasets.subsets]]
  image_dir = 'more'
  [[datasets.subsets]]
  is_reg = true
  image_dir = 'dogs'
"""
TRAINING = """
[model]
pretrained_model_name_or_path = "base.safetensors"
v2 = false
[network]
network_module = "networks.lora"
network_dim = 8
network_alpha = 4
network_args = ["conv_dim=4", "conv_alpha=1", "rank_dropout=0.1"]
network_train_unet_only = true
[optimizer]
optimizer_type = "AdamW8bit"
optimizer_args = ["weight_decay=0.1", "betas=0.9,0.95"]
learning_rate = 2e-4
unet_lr = 1e-4
lr_scheduler = "cosine"
lr_warmup_steps = 100
max_train_steps = 1000
[saving]
output_name = "kuma"
output_dir = "out"
mixed_precision = "bf16"
save_precision = "float"
clip_skip = 2
dataset_config = "dataset.toml"
"""


def remark(recipe: config.Recipe) -> str:
    return " ".join(one.message for one in recipe.remarks)


def test_a_dataset_and_a_training_configuration(tmp_path: Path) -> None:
    (tmp_path / "dataset.toml").write_text(DATASET)
    (tmp_path / "train.toml").write_text(TRAINING)
    recipe = config.load(tmp_path / "train.toml")
    data, train, method = recipe.data, recipe.train, recipe.method.model_dump()
    photos, more = data.each().values()
    assert (photos.images, photos.reg_images, photos.class_word, photos.repeats) == ("photos", "dogs", "sks dog", 5)
    assert (more.images, more.reg_images, more.class_word, more.repeats) == ("more", "dogs", "", 1)
    assert photos.keep_tokens == more.keep_tokens == 2
    data = photos
    assert (data.size_px, data.shuffle_tags, data.keep_tokens, data.caption_lines) == (640, True, 2, "alternatives")
    assert data.caption_wildcards and (data.caption_suffix, data.keep_separator, data.tag_dropout) == ("hd", "|||", 0.1)
    assert data.secondary_separator == ";;;"
    assert (train.steps, train.batch_size, train.learning_rate, train.warmup) == (1000, 2, 1e-4, 0.1)
    assert (train.optimizer, train.optimizer_args, train.weight_decay, train.precision, train.schedule) == (
        "adamw8bit",
        ("betas=0.9,0.95",),
        0.1,
        "bf16",
        "cosine",
    )
    assert {key: method[key] for key in ("name", "rank", "alpha", "conv", "conv_rank", "text_encoder")} == {
        "name": "lora",
        "rank": 8,
        "alpha": 4,
        "conv": True,
        "conv_rank": 4,
        "text_encoder": False,
    }
    assert (recipe.base.model, recipe.output.name, recipe.output.dtype) == ("base.safetensors", "kuma", "fp32")
    told = remark(recipe)
    assert recipe.base.clip_skip == 2
    for lost in ("rank_dropout = 0.1", "color_aug", "sd-scripts"):
        assert lost in told
    for neutral in ("output_dir", "caption_extension", "v2", "enable_wildcard"):
        assert neutral not in told
    # The whole recipe, as a run writes it, is one of ours: nothing is imported twice.
    (tmp_path / "recipe.toml").write_text(config.dump(recipe))
    again = config.load(tmp_path / "recipe.toml")
    assert config.dump(again) == config.dump(recipe) and not again.remarks


def test_flags_and_settings_stand_above_what_is_imported(tmp_path: Path) -> None:
    (tmp_path / "dataset.toml").write_text(DATASET)
    recipe = config.Recipe.of(
        "dreambooth", file=tmp_path / "dataset.toml", images="mine", settings={"train.batch_size": 1}
    )
    assert (recipe.method.name, recipe.data.images, recipe.train.batch_size) == ("dreambooth", "mine", 1)
    assert recipe.remarks


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"LoRA_type": "LyCORIS/LoHa", "network_dim": 4}, {"name": "lora", "adapter": "loha", "rank": 4}),
        ({"LoRA_type": "Kohya LoCon", "conv_dim": 16}, {"conv": True, "conv_rank": 16}),
        ({"network_module": "lycoris.kohya", "network_args": ["algo=lokr"]}, {"adapter": "lokr"}),
        ({"token_string": "kuma", "init_word": "bear", "num_vectors_per_token": 3}, {"init": "bear", "vectors": 3}),
        ({"pretrained_model_name_or_path": "x", "train_data_dir": "y"}, {"name": "dreambooth"}),
    ],
)
def test_each_method(table: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "preset.json"
    gui = {
        "max_resolution": "512,512",
        "lr_warmup": 10,
        "epoch": 8,
        "model_list": "custom",
        "color_aug": False,
        "vae": "",
    }
    path.write_text(json.dumps(gui | table))
    recipe = config.load(path)
    method = recipe.method.model_dump()
    assert {key: method[key] for key in expected} == expected
    assert recipe.train.warmup == 0.1 and recipe.data.size_px == 512
    assert "kohya_ss" in remark(recipe) and "epoch = 8" in remark(recipe) and "color_aug" not in remark(recipe)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", 'network_module = "networks.lora"\nsurprise = 3'),
        ("a.toml", "[[datasets]]\nsurprise = 3\n[[datasets.subsets]]\nimage_dir = 'x'"),
        ("a.toml", "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'x'\nmetadata_file = 'surprise = 3'"),
        ("a.json", '{"LoRA_type": "Standard", "surprise": 3}'),
        ("a.json", '{"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15", "surprise": 3}'),
        ("a.json", '[{"path": "x", "text": {"surprise": 3}}]'),
        ("a.sh", "python train_network.py --surprise 3"),
        ("a.txt", "python train_dreambooth.py --surprise 3"),
    ],
)
def test_nothing_unknown_is_silent(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert "surprise = 3" in remark(config.load(tmp_path / name))


@pytest.mark.parametrize("name", ["a" * 5000, "nul\x00", "/", "..", "*", "~", "/dev/zero"])
def test_names_of_files_that_are_none(name: str, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps({"LoRA_type": "Standard", "dataset_config": name}))
    with pytest.raises(RecipeError, match="RC003"):
        config.load(tmp_path / "train.json")


def test_where_kohya_is_silent_its_own_defaults_hold(tmp_path: Path) -> None:
    (tmp_path / "train.toml").write_text('network_module = "networks.lora"\nlearning_rate = 1e-4\nunet_lr = 2e-4\n')
    recipe = config.load(tmp_path / "train.toml")
    data, train, method = recipe.data, recipe.train, recipe.method.model_dump()
    assert (method["rank"], method["alpha"], method["text_encoder"]) == (4, 1, True)
    assert (train.learning_rate, method["text_learning_rate"]) == (2e-4, 1e-4)
    assert (train.steps, train.batch_size, train.schedule, train.warmup) == (1600, 1, "constant", 0)
    assert (train.min_snr_gamma, train.ema, train.weight_decay, train.precision) == (0, 0, 0.01, "fp32")
    assert (data.caption_dropout, data.keep_tokens, data.buckets, data.caption_lines) == (0, 0, False, "first")
    # Those are none of the file.s own.
    assert "; 6 settings come from it" in remark(recipe)
    assert train.optimizer_args == ("betas=0.9,0.999",)


def test_what_is_no_settings_is_refused(tmp_path: Path) -> None:
    for number, text in enumerate(('{"a": 1}', "[1]", "{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}")):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        with pytest.raises(RecipeError) as caught:
            config.load(path)
        assert caught.value.code == "RC003"
    path = tmp_path / "train.toml"
    path.write_text('max_train_steps = 10\ndataset_config = "train.toml"\n')
    assert config.load(path).train.steps == 10
    path.write_text('max_train_steps = 10\nlearning_rate = "fast"\ndataset_config = "gone.toml"\n')
    with pytest.raises(RecipeError, match="RC003"):
        config.load(path)


def test_what_kohya_says_of_losses_noise_rates_and_starts(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "network_module": "networks.lora",
        "network_weights": "first.safetensors",
        "dim_from_weights": True,
        "network_args": ["loraplus_lr_ratio=16"],
        "text_encoder_lr": [5e-5, 1e-5],
        "loss_type": "smooth_l1",
        "huber_schedule": "exponential",
        "huber_c": 0.2,
        "multires_noise_iterations": 6,
        "multires_noise_discount": 0.4,
        "min_timestep": 100,
        "max_timestep": 900,
    }
    (tmp_path / "train.json").write_text(json.dumps(values))
    recipe = config.load(tmp_path / "train.json")
    train, method = recipe.train, recipe.method.model_dump()
    assert (train.loss, train.huber_schedule, train.huber_c) == ("smooth-l1", "exponential", 0.2)
    assert (train.multires_noise, train.multires_noise_discount) == (6, 0.4)
    assert (train.min_timestep, train.max_timestep) == (100, 900)
    assert (method["start"], method["rank"], method["lora_plus_ratio"]) == ("first.safetensors", 0, 16)
    assert (method["text_learning_rate"], method["text_learning_rate_2"]) == (5e-5, 1e-5)
    assert "Without a counterpart" not in remark(recipe)
    # kohya_ss writes what has no effect, too.
    idle = {**values, "loss_type": "l2", "huber_scale": 1, "multires_noise_iterations": 0}
    (tmp_path / "idle.json").write_text(json.dumps(idle))
    recipe = config.load(tmp_path / "idle.json")
    assert recipe.train.loss == "l2" and not recipe.train.multires_noise and "huber" not in remark(recipe)
