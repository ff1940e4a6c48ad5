"""OneTrainer's configurations, presets and concepts as a recipe. Expected values follow from its own code:
github.com/Nerogar/OneTrainer, `TrainConfig.py`, `ConceptConfig.py`, `create.py`, `NamedParameterGroup.py`, `EMAModule.py`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from tsuika import config

# As a preset has it: what differs from the defaults.
PRESET: dict[str, Any] = {
    "base_model_name": "author/sdxl",
    "batch_size": 4,
    "layer_filter_preset": "attn-mlp",
    "learning_rate": 0.0003,
    "model_type": "STABLE_DIFFUSION_XL_10_BASE",
    "output_model_destination": "models\\kuma.safetensors",
    "resolution": "1024",
    "training_method": "LORA",
    "unet": {"weight_dtype": "FLOAT_16"},
    "text_encoder": {"train": False, "weight_dtype": "FLOAT_16"},
    "text_encoder_2": {"train": False},
}
CONCEPTS: list[dict[str, Any]] = [
    {
        "__version": 2,
        "name": "kuma",
        "path": "photos",
        "enabled": True,
        "type": "STANDARD",
        "balancing": 5.0,
        "balancing_strategy": "REPEATS",
        "loss_weight": 0.5,
        "image_variations": 3,
        "image": {"enable_crop_jitter": False, "enable_random_flip": True, "enable_random_rotate": True}
        | {"random_rotate_max_angle": 10.0, "enable_resolution_override": True, "resolution_override": "768"},
        "text": {"prompt_source": "sample", "enable_tag_shuffling": True, "keep_tags_count": 2, "tag_delimiter": ","},
    },
    {"path": "more", "balancing": 0.5, "image_variations": 3, "image": {}, "text": {"prompt_source": "filename"}},
    {"path": "held", "type": "VALIDATION", "image": {}, "text": {}},
    {"path": "off", "enabled": False, "image": {"enable_random_hue": True}, "text": {}},
]


def load(tmp_path: Path, **changed: Any) -> tuple[config.Recipe, str]:
    (tmp_path / "config.json").write_text(json.dumps(PRESET | changed))
    recipe = config.load(tmp_path / "config.json")
    return recipe, " ".join(one.message for one in recipe.remarks)


def test_a_preset_means_what_it_means_there(tmp_path: Path) -> None:
    recipe, told = load(tmp_path)
    method, train = recipe.method.model_dump(), recipe.train
    assert (recipe.base.model, recipe.output.name, recipe.data.size_px) == ("author/sdxl", "kuma", 1024)
    # Alpha is 1 there, whatever the rank; nothing is averaged, weighed, warmed up or dropped unless asked for.
    assert {key: method[key] for key in ("name", "rank", "alpha", "text_encoder", "adapter")} == {
        "name": "lora",
        "rank": 16,
        "alpha": 1.0,
        "text_encoder": False,
        "adapter": "lora",
    }
    assert (train.learning_rate, train.batch_size, train.schedule, train.ema) == (0.0003, 4, "constant", 0)
    assert (train.min_snr_gamma, train.weight_decay, train.precision, train.timesteps) == (0, 0.01, "fp16", "uniform")
    assert recipe.data.caption_dropout == 0 and recipe.output.dtype == "fp32"
    # Only the images say how many steps these are.
    for lost in ("OneTrainer", "epochs = 100", "learning_rate_warmup_steps = 200"):
        assert lost in told
    assert "weight_dtype" not in told and "text_encoder" not in told


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        # The network's own rate stands above the common one; text encoders have the common one.
        (
            {
                "unet": {"learning_rate": 1e-4},
                "text_encoder": {"train": True},
                "text_encoder_2": {"learning_rate": 1e-5},
            },
            {"train.learning_rate": 1e-4, "method.text_learning_rate": 3e-4, "method.text_learning_rate_2": 1e-5},
        ),
        # The root of what a step sees.
        (
            {"learning_rate_scaler": "BOTH", "gradient_accumulation_steps": 4},
            {"train.learning_rate": 0.0003 * math.sqrt(16), "train.accumulate": 4},
        ),
        (
            {"learning_rate_scaler": "GRADIENT_ACCUMULATION", "gradient_accumulation_steps": 4},
            {"train.learning_rate": 0.0006},
        ),
        # An average every fifth step.
        ({"ema": "GPU", "ema_decay": 0.99, "ema_update_step_interval": 5}, {"train.ema": 0.99**0.2}),
        (
            {"learning_rate_warmup_steps": 0.1, "learning_rate_scheduler": "COSINE"},
            {"train.warmup": 0.1, "train.schedule": "cosine"},
        ),
        ({"learning_rate_scheduler": "COSINE_WITH_HARD_RESTARTS"}, {"train.schedule": "cosine"}),
        ({"loss_weight_fn": "MIN_SNR_GAMMA", "loss_weight_strength": 3.0}, {"train.min_snr_gamma": 3.0}),
        ({"timestep_distribution": "LOGIT_NORMAL"}, {"train.timesteps": "logit-normal"}),
        (
            {"min_noising_strength": 0.1, "max_noising_strength": 0.8},
            {"train.min_timestep": 100, "train.max_timestep": 800},
        ),
        ({"clip_grad_norm": 0.5, "train_dtype": "BFLOAT_16"}, {"train.clip_norm": 0.5, "train.precision": "bf16"}),
        (
            {"rescale_noise_scheduler_to_zero_terminal_snr": True},
            {"base.prediction": "v", "base.zero_terminal_snr": "on"},
        ),
        ({"force_v_prediction": True}, {"base.prediction": "v", "base.zero_terminal_snr": "auto"}),
        ({"text_encoder_layer_skip": 1, "model_type": "STABLE_DIFFUSION_15"}, {"base.clip_skip": 2}),
        # Nothing there is no clipping.
        ({"clip_grad_norm": None}, {"train.clip_norm": 0}),
        ({"masked_training": True, "unmasked_weight": 0.2}, {"data.masks": "auto", "data.mask_outside": 0.2}),
        ({"resolution": "512x768"}, {"data.size_px": 640}),
        ({"lora_decompose": True, "peft_type": "LORA"}, {"method.adapter": "dora"}),
        ({"peft_type": "LOKR", "lokr_dim": 8}, {"method.adapter": "lokr", "method.rank": 8}),
        (
            {"optimizer": {"optimizer": "PRODIGY", "weight_decay": None}},
            {"train.optimizer": "prodigy", "train.weight_decay": 0},
        ),
        (
            {"optimizer": {"optimizer": "ADAMW_8BIT", "weight_decay": 0.1}},
            {"train.optimizer": "adamw8bit", "train.weight_decay": 0.1},
        ),
        ({"unet": {"weight_dtype": "NFLOAT_4"}}, {"base.quantize": "nf4"}),
        ({"unet": {"weight_dtype": "FLOAT_8"}}, {"base.quantize": "fp8"}),
        ({"layer_filter_preset": "full"}, {"method.targets": "attention-ff-conv"}),
        (
            {"lora_model_name": "a.safetensors"},
            {"method.start": "a.safetensors", "method.rank": 0, "method.targets": ""},
        ),
        (
            {"training_method": "FINE_TUNE", "unet": {"weight_dtype": "BFLOAT_16"}},
            {"method.name": "dreambooth", "method.weights": "bf16"},
        ),
        # Files of older versions.
        (
            {
                "optimizer": "ADAFACTOR",
                "min_snr_gamma": 4,
                "train_text_encoder": True,
                "text_encoder": {},
                "unet_learning_rate": 1e-5,
            },
            {
                "train.optimizer": "adafactor",
                "train.min_snr_gamma": 4,
                "method.text_encoder": True,
                "train.learning_rate": 1e-5,
            },
        ),
    ],
)
def test_numbers_stay_what_they_are(changed: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    recipe, _told = load(tmp_path, **changed)
    found = recipe.model_dump()
    for key, value in expected.items():
        table, _dot, name = key.partition(".")
        assert found[table][name] == (pytest.approx(value) if isinstance(value, float) else value), key


@pytest.mark.parametrize(
    ("changed", "lost"),
    [
        ({"learning_rate_scheduler": "REX"}, "learning_rate_scheduler = REX"),
        # Soft restarts come up again, even one.
        ({"learning_rate_scheduler": "COSINE_WITH_RESTARTS"}, "learning_rate_scheduler = COSINE_WITH_RESTARTS"),
        ({"learning_rate_min_factor": 0.1}, "learning_rate_min_factor = 0.1"),
        ({"loss_weight_fn": "DEBIASED_ESTIMATION"}, "loss_weight_fn = DEBIASED_ESTIMATION"),
        ({"mae_strength": 1.0, "mse_strength": 0.0}, "mse_strength = 0.0"),
        ({"huber_strength": 0.5}, "huber_strength = 0.5"),
        ({"training_method": "FINE_TUNE"}, "layer_filter_preset = attn-mlp"),
        ({"multi_gpu": True}, "multi_gpu = True"),
        ({"timestep_distribution": "SIGMOID", "noising_weight": 7.7}, "timestep_distribution = SIGMOID 7.7"),
        ({"timestep_shift": 3.0}, "timestep_shift = 3.0"),
        # Two sizes, not a width and a height.
        ({"resolution": "512,768"}, "resolution = 512,768"),
        ({"model_type": "FLUX_DEV_1"}, "model_type = FLUX_DEV_1"),
        ({"training_method": "FINE_TUNE_VAE"}, "training_method = FINE_TUNE_VAE"),
        ({"peft_type": "OFT_2"}, "peft_type = OFT_2"),
        ({"optimizer": {"optimizer": "LION", "weight_decay": 0.1}}, "optimizer = LION, weight_decay = 0.1"),
        ({"optimizer": {"beta3": 0.9}}, "optimizer_args: beta3 = 0.9"),
        ({"text_encoder": {"train": True}, "text_encoder_2": {"train": False}}, "text_encoder_2.train = no"),
        ({"text_encoder": {"train": True, "stop_training_after": 5}}, "text_encoder.stop_training_after = 5 EPOCH"),
        ({"unet": {"weight_dtype": "GGUF"}}, "unet.weight_dtype = gguf"),
        ({"text_encoder": {"weight_dtype": "INT_8"}}, "text_encoder.weight_dtype = int_8"),
        ({"concept_file_name": "gone/concepts.json"}, "concept_file_name = gone/concepts.json"),
        ({"masked_training": True, "normalize_masked_area_loss": True}, "normalize_masked_area_loss = True"),
        ({"layer_filter_preset": "custom", "layer_filter": "(", "layer_filter_regex": True}, "layer_filter = ("),
    ],
)
def test_what_has_no_counterpart_is_named(changed: dict[str, Any], lost: str, tmp_path: Path) -> None:
    assert lost in load(tmp_path, **changed)[1]


def test_concepts_become_sets(tmp_path: Path) -> None:
    (tmp_path / "training_concepts").mkdir()
    (tmp_path / "training_concepts" / "concepts.json").write_text(json.dumps(CONCEPTS))
    (tmp_path / "presets").mkdir()
    # The name is from OneTrainer's own folder on.
    recipe, told = load(tmp_path / "presets", concept_file_name="training_concepts/concepts.json")
    photos, more = recipe.data.each().values()
    assert (photos.images, photos.repeats, photos.weight, photos.flip, photos.rotate_deg) == (
        "photos",
        5,
        0.5,
        True,
        10,
    )
    assert (photos.size_px, photos.shuffle_tags, photos.keep_tokens, photos.variants) == (768, True, 2, 3)
    assert (more.images, more.repeats, more.size_px, more.shuffle_tags) == ("more", 1, 1024, False)
    for lost in ("concepts[1].balancing = 0.5 REPEATS", "prompt_source = filename", "VALIDATION (held)"):
        assert lost in told
    assert "off" not in told and "hue" not in told
    # The file of concepts alone, and one folder alone.
    assert len(config.load(tmp_path / "training_concepts" / "concepts.json").data.sets) == 2
    one, _told = load(tmp_path, concepts=CONCEPTS[:1], samples=[{"prompt": "a bear", "width": 512, "seed": 3}])
    assert (one.data.images, one.data.repeats, one.data.sets) == ("photos", 5, ())
    assert one.preview.prompts == ("a bear --w 512 --d 3",)


def test_an_embedding(tmp_path: Path) -> None:
    embedding = {"placeholder": "<kuma>", "token_count": 4, "initial_embedding_text": "bear"}
    recipe, told = load(tmp_path, training_method="EMBEDDING", embedding=embedding, preserve_embedding_norm=True)
    method = recipe.method.model_dump()
    assert (method["name"], method["vectors"], method["init"]) == ("textual-inversion", 4, "bear")
    assert (recipe.data.trigger, recipe.train.optimizer, recipe.train.learning_rate) == ("<kuma>", "adamw", 0.0003)
    assert "preserve_embedding_norm = True" in told


def test_a_file_that_it_has_trained_holds_its_configuration(tmp_path: Path) -> None:
    import numpy as np

    header = {"ot_config": json.dumps(PRESET | {"concept_file_name": "x.json"}), "ss_base_model_version": "sdxl_"}
    save_file({"lora_unet_a.lora_down.weight": np.ones((1, 1))}, tmp_path / "a.safetensors", header)
    recipe = config.load(tmp_path / "a.safetensors")
    assert recipe.method.model_dump()["rank"] == 16 and recipe.base.model == "author/sdxl"


@pytest.mark.parametrize(
    "name", ["training_method", "learning_rate", "concepts", "optimizer", "embedding", "resolution", "ema_decay"]
)
@pytest.mark.parametrize("value", [None, [], {}, "x", 10**400, -1, [[1]], {"a": {"b": [{}]}}, True])
def test_values_of_any_type_give_a_recipe_or_the_usual_error(name: str, value: Any, tmp_path: Path) -> None:
    from tsuika.core.errors import RecipeError

    try:
        load(tmp_path, **{name: value})
    except RecipeError as error:
        assert error.code in ("RC002", "RC003")
