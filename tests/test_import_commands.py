"""Command lines of sd-scripts and diffusers as a recipe. Expected values follow from the scripts' own code:
github.com/kohya-ss/sd-scripts, github.com/huggingface/diffusers (`examples/`)."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from tsuika import config
from tsuika.config.imports.taking import Taking
from tsuika.core.errors import RecipeError

KOHYA = r"""#!/bin/bash
# accelerate launch old.py --network_dim 1
export MODEL=base.safetensors
DIR="my images"
accelerate launch --num_cpu_threads_per_process 1 --mixed_precision fp16 "./sd-scripts/train_network.py" \
  --pretrained_model_name_or_path=$MODEL --train_data_dir "${DIR}/bear" \
  --network_module networks.lora --network_dim=8 \
  --network_args "conv_dim=4" "conv_alpha=2" --v2 \
  --learning_rate 1e-4 --unet_lr 2e-4 --text_encoder_lr 5e-5 \
  --optimizer_type AdamW8bit --optimizer_args weight_decay=0.05 "betas=0.9,0.99" \
  --lr_scheduler cosine_with_restarts --lr_warmup_steps=0.1 --min_snr_gamma 5 \
  --max_train_steps 1000 --resolution=512,768 --enable_bucket --clip_skip=2 \
  --output_dir "$HOME/out" --logging_dir=$LOGS --sample_prompts "$PROMPTS/a.txt" --ip_noise_gamma=0.1 && echo done
"""
WINDOWS = """@echo off
set MODEL=C:\\models\\base.safetensors
rem train_network.py --network_dim 1
accelerate launch ^
  sdxl_train_network.py ^
  --pretrained_model_name_or_path="%MODEL%" ^
  --train_data_dir="C:\\my images\\bear" --network_module=networks.lora ^
  --network_alpha=4 --max_train_epochs 10 --max_train_steps=99
pause
"""
POWERSHELL = """$model = "base.safetensors"
accelerate launch `
  --num_processes 2 `
  train_network.py `
  --pretrained_model_name_or_path $model `
  --network_module networks.lora --train_batch_size=3 --network_train_unet_only
"""
DIFFUSERS = r"""
export MODEL_NAME="author/model"
accelerate launch --mixed_precision="fp16" train_dreambooth_lora.py \
  --pretrained_model_name_or_path=$MODEL_NAME  \
  --instance_data_dir="dog" --class_data_dir=dogs --with_prior_preservation --prior_loss_weight=0.5 \
  --instance_prompt="a photo of sks dog" --class_prompt="a photo of dog" \
  --resolution=512 --train_batch_size=2 --gradient_accumulation_steps=4 --scale_lr \
  --learning_rate=1e-4 --lr_scheduler="cosine" --lr_warmup_steps=40 --max_train_steps=400 \
  --rank=8 --train_text_encoder --use_8bit_adam --validation_prompt "a sks dog" --num_class_images=200
"""


def load(tmp_path: Path, name: str, text: str) -> tuple[config.Recipe, str]:
    (tmp_path / name).write_text(text)
    recipe = config.load(tmp_path / name)
    return recipe, " ".join(one.message for one in recipe.remarks)


def test_a_shell_script_of_sd_scripts(tmp_path: Path) -> None:
    recipe, told = load(tmp_path, "train.sh", KOHYA)
    method, train = recipe.method.model_dump(), recipe.train
    assert (recipe.base.model, recipe.data.images, recipe.data.size_px) == ("base.safetensors", "my images/bear", 640)
    assert (method["rank"], method["conv"], method["conv_rank"], method["text_encoder"]) == (8, True, 4, True)
    # Alpha is 1 where nothing is said, and that of 3x3 convolutions is another.
    pattern, _equals, alpha = method["alpha_pattern"][0].rpartition("=")
    ends = ("resnets.0.conv1", "downsamplers.0.conv", "resnets.0.conv_shortcut", "resnets.0.time_emb_proj")
    fits = [bool(re.fullmatch(rf"(?:.*\.)?(?:{pattern})", f"unet.down_blocks.0.{end}")) for end in ends]
    assert (method["alpha"], alpha, fits) == (1, "2", [True, True, False, False])
    assert (train.learning_rate, method["text_learning_rate"]) == (2e-4, 5e-5)
    # One restart is none; a share is a share; accelerate's precision is overruled by the script's "no".
    assert (train.schedule, train.warmup, train.precision, train.min_snr_gamma) == ("cosine", 0.1, "fp32", 5)
    assert (train.optimizer, train.weight_decay, train.steps, train.batch_size) == ("adamw8bit", 0.05, 1000, 1)
    assert (train.ema, recipe.data.caption_dropout, recipe.data.keep_tokens, recipe.data.buckets) == (0, 0, 0, True)
    for lost in ("sd-scripts", "train_network.py", "clip_skip = 2", "sample_prompts = $PROMPTS/a.txt"):
        assert lost in told
    assert train.ip_noise_gamma == 0.1
    assert train.optimizer_args == ("betas=0.9,0.99",) and "network_dim = 1" not in told


def test_schedules_of_the_same_shape() -> None:
    """By diffusers' own: one restart is a cosine, a polynomial of the first power a line (that ends at 1e-7)."""
    import torch
    from diffusers.optimization import get_scheduler

    def rates(name: str) -> list[float]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-2)
        scheduler = get_scheduler(name, optimizer, num_warmup_steps=5, num_training_steps=40, num_cycles=1)
        found = []
        for _step in range(40):
            found.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        return found

    for there, here in (("cosine_with_restarts", "cosine"), ("polynomial", "linear")):
        taking = Taking()
        taking.schedule("lr_scheduler", there)
        assert taking.settings["train.schedule"] == here
        assert rates(there) == pytest.approx(rates(here) if here == "linear" else _cosine(), abs=1e-6)


def _cosine() -> list[float]:
    """After 5 steps of warm-up of 40."""
    return [1e-2 * (n / 5 if n < 5 else 0.5 * (1 + math.cos(math.pi * (n - 5) / 35))) for n in range(40)]


def test_batch_files_and_powershell(tmp_path: Path) -> None:
    recipe, told = load(tmp_path, "train.bat", WINDOWS)
    assert (recipe.base.model, recipe.data.images) == ("C:\\models\\base.safetensors", "C:\\my images\\bear")
    method = recipe.method.model_dump()
    assert (method["rank"], method["alpha"], method["text_encoder"], method["text_learning_rate"]) == (4, 4, True, 2e-6)
    # Epochs overrule steps in sd-scripts.
    assert recipe.train.steps != 99 and "max_train_epochs = 10" in told
    recipe, _told = load(tmp_path, "train.ps1", POWERSHELL)
    assert (recipe.base.model, recipe.train.batch_size) == ("base.safetensors", 6)
    assert recipe.method.model_dump()["text_encoder"] is False
    # As one line in a text file, in another shell's words, or inside of another command.
    for text in (POWERSHELL, "cd x && python train_network.py --network_module networks.lora --seed 3; echo"):
        assert load(tmp_path, "train.txt", text)[0].method.name == "lora"
    # As manuals break lines, without a mark.
    assert (
        load(tmp_path, "train.txt", "python train_network.py\n    --network_module networks.lora\n  --seed 3")[
            0
        ].train.seed
        == 3
    )


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            "train_db.py --learning_rate 1e-6",
            {"method.name": "dreambooth", "method.text_encoder": True, "method.text_learning_rate": 1e-6},
        ),
        ("train_db.py --stop_text_encoder_training=-1", {"method.text_encoder": False}),
        (
            "sdxl_train.py --train_text_encoder --learning_rate_te2 1e-7",
            {"method.text_encoder": True, "method.text_learning_rate_2": 1e-7},
        ),
        (
            "fine_tune.py --v2 --v_parameterization",
            {"base.prediction": "v", "method.text_encoder": False, "train.steps": 1600},
        ),
        ("train_network.py --clip_skip 2 --network_module networks.lora", {"base.clip_skip": 2}),
        ("sd3_train_network.py --weighting_scheme logit_normal", {"train.timesteps": "logit-normal"}),
        ("sd3_train_network.py --logit_std 1", {"train.timesteps": "uniform"}),
        (
            "train_network.py --network_module lycoris.kohya --network_args preset=attn-mlp conv_dim=4",
            {"method.conv": False},
        ),
        (
            "train_network.py --network_module lycoris.kohya --network_args algo=loha",
            {"method.adapter": "loha", "method.conv": True},
        ),
        ("train_network.py --network_module networks.lora --lr_scheduler polynomial", {"train.schedule": "linear"}),
        (
            "train_network.py --network_module networks.lora --lr_scheduler constant_with_warmup --lr_warmup_steps 160",
            {"train.warmup": 0.1, "train.schedule": "constant"},
        ),
        (
            "train_network.py --network_module networks.lora --optimizer_type prodigy",
            {"train.optimizer": "prodigy", "train.weight_decay": 0},
        ),
        (
            "train_textual_inversion.py --token_string kuma --init_word bear --num_vectors_per_token 4 --use_style_template",
            {
                "method.name": "textual-inversion",
                "data.trigger": "kuma",
                "method.init": "bear",
                "method.vectors": 4,
                "data.template": "style",
                "train.optimizer": "adamw",
            },
        ),
        # diffusers: alpha is the rank; 500 steps of warm-up unless the rate is constant; a step's images.
        (
            "train_text_to_image_lora.py --max_train_steps 1000",
            {
                "method.name": "lora",
                "method.rank": 4,
                "method.alpha": 0,
                "train.warmup": 0,
                "train.batch_size": 16,
                "train.learning_rate": 1e-4,
                "data.buckets": False,
                "data.size_px": 512,
            },
        ),
        (
            "train_text_to_image_lora_sdxl.py --lr_scheduler cosine --max_train_steps 1000",
            {"train.warmup": 0.5, "data.size_px": 1024},
        ),
        (
            "train_text_to_image.py --use_ema --snr_gamma 5 --prediction_type v_prediction",
            {"method.name": "dreambooth", "train.ema": 0.9999, "train.min_snr_gamma": 5, "base.prediction": "v"},
        ),
        (
            "train_dreambooth.py --train_text_encoder --offset_noise",
            {
                "train.learning_rate": 5e-6,
                "method.text_learning_rate": 5e-6,
                "train.noise_offset": 0.1,
                "train.batch_size": 4,
            },
        ),
        (
            "train_dreambooth_lora_sdxl.py --use_dora --train_text_encoder --optimizer Prodigy --learning_rate 1",
            {
                "method.adapter": "dora",
                "method.text_learning_rate": 5e-6,
                "train.optimizer": "prodigy",
                "train.weight_decay": 1e-4,
            },
        ),
        (
            "train_dreambooth_lora_sd3.py --seed 0",
            {
                "train.timesteps": "logit-normal",
                "train.learning_rate": 1e-4,
                "train.seed": 0,
                "train.weight_decay": 1e-4,
            },
        ),
        (
            "textual_inversion.py --placeholder_token '<cat-toy>' --initializer_token toy --learnable_property style "
            "--num_vectors 2 --scale_lr --gradient_accumulation_steps 4 --train_batch_size 1",
            {
                "data.trigger": "<cat-toy>",
                "method.init": "toy",
                "method.vectors": 2,
                "data.template": "style",
                "train.steps": 5000,
                "train.learning_rate": 4e-4,
                "data.repeats": 100,
                "train.optimizer": "adamw",
            },
        ),
    ],
)
def test_each_script_has_defaults_of_its_own(command: str, expected: dict[str, object], tmp_path: Path) -> None:
    found = load(tmp_path, "train.sh", f"accelerate launch {command}")[0].model_dump()
    for key, value in expected.items():
        table, _dot, name = key.partition(".")
        assert found[table][name] == (pytest.approx(value) if isinstance(value, float) else value), key


@pytest.mark.parametrize(
    ("command", "lost"),
    [
        (
            "train_network.py --lr_scheduler cosine_with_restarts --lr_scheduler_num_cycles 3",
            "lr_scheduler = cosine_with_restarts",
        ),
        ("train_network.py --lr_scheduler cosine_with_min_lr", "lr_scheduler = cosine_with_min_lr"),
        ("train_network.py --network_module networks.oft", "network_module = networks.oft"),
        (
            "sd3_train_network.py --text_encoder_lr 1e-5 2e-5 3e-5 --weighting_scheme mode",
            "['3e-5'], weighting_scheme = mode",
        ),
        ("train_network.py --network_module lycoris.kohya --network_args preset=ia3", "preset = ia3"),
        (
            "train_network.py --optimizer_type Lion --debiased_estimation_loss",
            "optimizer_type = Lion, debiased_estimation_loss = True",
        ),
        ("train_network.py --optimizer_type adafactor", "relative_step = True"),
        ("train_network.py --train_data_dir=$1", "train_data_dir = $1"),
        ('train_network.py --network_module networks.lora "$@"', "train_network.py = $@"),
        ("train_network.py --network_module x # --seed 3", "# = # --seed 3"),
        ("train_network.py --network_module x; python train_db.py --output_name second", "train_db.py second"),
        ("--use_deepspeed train_network.py --network_module x", "accelerate launch --use_deepspeed = True"),
        ("train_text_to_image_lora.py --dataset_name=lambdalabs/x", "dataset_name = lambdalabs/x"),
        ("train_text_to_image_lora.py", "num_train_epochs = 100"),
        (
            "train_dreambooth.py --class_prompt dog --with_prior_preservation --instance_prompt 'sks cat'",
            "class_prompt = dog",
        ),
        ("train_dreambooth_sd3.py --weighting_scheme mode --logit_mean 1", "logit_mean = 1, weighting_scheme = mode"),
        ("train_text_to_image.py --adam_beta2 0.99 --dream_detail_preservation=2", "dream_detail_preservation = 2"),
    ],
)
def test_what_has_no_counterpart_is_named(command: str, lost: str, tmp_path: Path) -> None:
    told = load(tmp_path, "train.sh", f"accelerate launch {command}\n")[1]
    assert all(one in told for one in lost.split(", "))


def test_a_flag_without_its_number_is_not_1(tmp_path: Path) -> None:
    command = "accelerate launch train_network.py --network_dim 4 --min_snr_gamma --learning_rate"
    recipe, remarks = load(tmp_path, "a.sh", command)
    assert recipe.train.learning_rate < 1e-3 and recipe.train.min_snr_gamma != 1
    assert "learning_rate = True" in remarks and "min_snr_gamma = True" in remarks


def test_a_command_of_diffusers(tmp_path: Path) -> None:
    recipe, told = load(tmp_path, "train.sh", DIFFUSERS)
    data, train, method = recipe.data, recipe.train, recipe.method.model_dump()
    assert (recipe.base.model, data.images, data.reg_images, data.reg_weight) == ("author/model", "dog", "dogs", 0.5)
    assert (data.caption_prefix, data.trigger, data.class_word) == ("a photo of", "sks", "dog")
    # The rate times the images of a step.
    assert (train.learning_rate, method["text_learning_rate"]) == pytest.approx((1e-4 * 2 * 4, 1e-4 * 2 * 4))
    assert (train.batch_size, train.accumulate, train.warmup, train.precision) == (2, 4, 0.1, "fp16")
    assert (train.optimizer, train.weight_decay, recipe.preview.prompts) == ("adamw8bit", 0.01, ("a sks dog",))
    assert "num_class_images = 200" in told and "lr_warmup_steps" not in told
    # The projections of attention alone, of network and text encoder.
    pattern = re.compile(rf"(?:\w+\.)?(?:{method['targets']})")
    block, layer = "unet.down_blocks.0.attentions.0", "text.text_model.encoder.layers.0"
    of_blocks = (
        "proj_in",
        "transformer_blocks.0.attn1.to_q",
        "transformer_blocks.0.attn2.to_out.0",
        "transformer_blocks.0.ff.net.2",
    )
    names = [*(f"{block}.{name}" for name in of_blocks), f"{layer}.self_attn.out_proj", f"{layer}.mlp.fc1"]
    assert [bool(pattern.fullmatch(name)) for name in names] == [False, True, True, False, True, False]


def test_a_command_with_files_of_settings(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('network_dim = 8\nnetwork_module = "networks.lora"\ndataset_config = "d.toml"\n')
    (tmp_path / "d.toml").write_text("[[datasets]]\nbatch_size = 3\n[[datasets.subsets]]\nimage_dir = 'photos'\n")
    command = "python sdxl_train_network.py --config_file a --train_data_dir idle > log.txt --network_dim 2 2>&1 | tee log.txt"
    recipe, _told = load(tmp_path, "train.sh", command)
    assert (recipe.method.model_dump()["rank"], recipe.data.images, recipe.train.batch_size) == (2, "photos", 3)


@pytest.mark.parametrize(
    "text", ["", "echo hello", "python other.py --a 1", 'python train_network.py --a "b', "\x00", "A=$A$A\n" * 40]
)
def test_other_scripts_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, "train.sh", text)
    assert caught.value.code == "RC003"


def test_variables_that_grow_stay_small(tmp_path: Path) -> None:
    lines = ["A0=aaaaaaaaaa", *(f"A{n + 1}=$A{n}$A{n}" for n in range(60))]
    text = "\n".join([*lines, "python train_network.py --network_module networks.lora --output_dir $A60"])
    assert load(tmp_path, "train.sh", text)[0].method.name == "lora"
