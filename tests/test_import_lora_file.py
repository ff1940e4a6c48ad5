"""The settings that made a LoRA file, out of its header. Names and forms: github.com/kohya-ss/sd-scripts, `train_network.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from tsuika import config
from tsuika.core.errors import FormatError, RecipeError

HEADER: dict[str, Any] = {
    "ss_network_module": "networks.lora",
    "ss_network_dim": 8,
    "ss_network_alpha": 4.0,
    "ss_network_args": json.dumps({"conv_dim": "4", "conv_alpha": "1"}),
    "ss_network_dropout": None,
    "ss_learning_rate": 0.0001,
    "ss_unet_lr": 0.0002,
    "ss_text_encoder_lr": None,
    "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1,betas=(0.9, 0.95))",
    "ss_lr_scheduler": "cosine",
    "ss_lr_warmup_steps": 100,
    "ss_max_train_steps": 1000,
    "ss_steps": "500",
    "ss_num_epochs": 5,
    "ss_total_batch_size": 8,
    "ss_gradient_accumulation_steps": 4,
    "ss_resolution": "(512, 768)",
    "ss_mixed_precision": "bf16",
    "ss_min_snr_gamma": 5.0,
    "ss_noise_offset": 0.05,
    "ss_seed": 42,
    "ss_clip_skip": 2,
    "ss_zero_terminal_snr": False,
    "ss_debiased_estimation": True,
    "ss_ip_noise_gamma": None,
    "ss_base_model_version": "sd_v1",
    "ss_v2": False,
    "ss_sd_model_name": "base.safetensors",
    "ss_output_name": "kuma",
    "ss_dataset_dirs": json.dumps({"10_sks bear": {"n_repeats": 10, "img_count": 12}}),
    "ss_datasets": json.dumps(
        [
            {"resolution": [512, 768], "enable_bucket": True, "num_train_images": 120, "tag_frequency": {}}
            | {
                "subsets": [
                    {"num_repeats": 10, "shuffle_caption": True, "keep_tokens": 1, "flip_aug": False, "image_dir": "x"}
                ]
            }
        ]
    ),
}


def load(tmp_path: Path, header: dict[str, Any], *names: str) -> tuple[config.Recipe, str]:
    tensors = {name: np.ones((1, 1), np.float32) for name in names or ("lora_unet_a.lora_down.weight",)}
    save_file(tensors, tmp_path / "a.safetensors", {key: str(value) for key, value in header.items()})
    recipe = config.load(tmp_path / "a.safetensors")
    return recipe, " ".join(one.message for one in recipe.remarks)


def test_a_header_of_sd_scripts(tmp_path: Path) -> None:
    recipe, told = load(tmp_path, HEADER, "lora_unet_a.alpha", "lora_te_a.alpha")
    data, train, method = recipe.data, recipe.train, recipe.method.model_dump()
    assert (method["rank"], method["alpha"], method["conv_rank"], method["text_encoder"]) == (8, 4, 4, True)
    # The text encoder has the common rate; a scale of 1/4 is not the 4/8 of all others.
    assert (train.learning_rate, method["text_learning_rate"]) == (2e-4, 1e-4)
    assert method["alpha_pattern"][0].endswith("=1")
    assert (train.steps, train.warmup, train.schedule) == (1000, 0.1, "cosine")
    assert (train.batch_size, train.accumulate, data.size_px) == (2, 4, 640)
    assert (train.optimizer, train.weight_decay, train.precision, train.seed) == ("adamw8bit", 0.1, "bf16", 42)
    assert train.optimizer_args == ("betas=0.9,0.95",)
    assert (train.min_snr_gamma, train.noise_offset, train.ema, recipe.base.clip_skip) == (5, 0.05, 0, 2)
    assert (data.buckets, data.repeats, data.shuffle_tags, data.keep_tokens) == (True, 10, True, 1)
    # What only the machine knew is not taken over.
    assert (recipe.base.model, data.images, recipe.output.name) == (config.EMBEDDED, "", "kuma")
    for lost in ("sd_model_name = base.safetensors", "10_sks bear", "debiased_estimation_loss"):
        assert lost in told


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"ss_base_model_version": "sd_v2_v", "ss_v2": "True"}, {"base.prediction": "v", "base.clip_skip": 1}),
        ({"ss_base_model_version": "sdxl_base_v1-0", "modelspec.prediction_type": "v"}, {"base.prediction": "v"}),
        ({"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "lokr"}'}, {"method.adapter": "lokr"}),
        ({"ss_network_args": '{"dora_wd": "True"}'}, {"method.adapter": "dora"}),
        ({"ss_optimizer": "prodigyopt.prodigy.Prodigy"}, {"train.optimizer": "prodigy", "train.weight_decay": 0}),
        ({"ss_text_encoder_lr": "[5e-05, 1e-05]"}, {"method.text_encoder": False, "method.text_learning_rate_2": 1e-5}),
        ({"ss_loss_type": "huber", "ss_huber_c": "0.2"}, {"train.loss": "huber", "train.huber_c": 0.2}),
        ({"ss_zero_terminal_snr": "True"}, {"base.zero_terminal_snr": "on"}),
    ],
)
def test_what_a_header_says(header: dict[str, str], expected: dict[str, Any], tmp_path: Path) -> None:
    found = load(tmp_path, HEADER | header)[0].model_dump()
    for key, value in expected.items():
        table, _dot, name = key.partition(".")
        assert found[table][name] == value, key


def test_our_own_file_gives_back_its_recipe(tmp_path: Path) -> None:
    """What a run writes is what a run reads; where a header is silent tsuika's own defaults hold."""
    import torch

    from tsuika import formats
    from tsuika.core.types import Artifact
    from tsuika.formats.provenance import KEY

    given = config.Recipe.of(
        "lora",
        settings={"train.steps": 1000, "train.batch_size": 3, "train.accumulate": 2, "train.learning_rate": 3e-4}
        | {
            "train.optimizer": "schedule-free",
            "train.optimizer_args": ["betas=0.9,0.95", "r=0.5"],
            "train.warmup": 0.1,
            "train.schedule": "linear",
            "train.min_snr_gamma": 2,
        }
        | {
            "train.noise_offset": 0.1,
            "train.ip_noise_gamma": 0.2,
            "train.seed": 7,
            "method.rank": 2,
            "method.alpha": 1,
            "regularize.max_norm": 0.5,
        }
        | {"train.precision": "bf16", "train.gradient_checkpointing": True, "base.model": "x"},
    )
    facts = formats.run_facts(given.train, **given.method.network, max_norm=0.5, name="kuma")
    layer = "unet.mid_block.attentions.0.proj_in"
    parts = {"lora_down.weight": torch.ones(2, 4), "lora_up.weight": torch.ones(4, 2), "alpha": torch.tensor(1.0)}
    artifact = Artifact("lora", "sd1", {f"{layer}.{part}": one for part, one in parts.items()}, {**facts, KEY: "{}"})
    formats.LORA[0].write(artifact, tmp_path / "own.safetensors", dtype=torch.float32)
    with safe_open(tmp_path / "own.safetensors", "pt") as file:
        # As sd-scripts counts: all images of a step.
        assert file.metadata()["ss_total_batch_size"] == "6"
    found = config.Recipe.of(file=tmp_path / "own.safetensors", base="x")
    assert found.train == given.train and found.regularize == given.regularize
    assert found.method.network == given.method.network and found.output.name == "kuma"


@pytest.mark.parametrize(
    "header", [{}, {"format": "pt"}, {"ss_steps": "3"}, {"ot_config": "[" * 10_000}, {"ot_config": "{}"}]
)
def test_a_file_that_says_nothing_is_refused(header: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="RC003"):
        load(tmp_path, header)


def test_damaged_files_and_hostile_headers(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(FormatError):
        config.load(tmp_path / "b.safetensors")
    hostile = ["[" * 10_000, "9" * 5000, "{}", "[{}]", '[{"subsets": [{"resolution": {}}]}]', "nan", "-1", "(" * 5000]
    for key in (
        "ss_network_args",
        "ss_datasets",
        "ss_dataset_dirs",
        "ss_optimizer",
        "ss_resolution",
        "ss_total_batch_size",
    ):
        for value in hostile:
            try:
                load(tmp_path, HEADER | {key: value})
            except RecipeError as error:
                assert error.code == "RC002"
