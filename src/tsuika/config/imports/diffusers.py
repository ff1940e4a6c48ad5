"""Command lines of diffusers' example scripts: LoRA, DreamBooth, fine-tuning and Textual Inversion.

Names, meanings and defaults: github.com/huggingface/diffusers, `examples/{text_to_image,dreambooth,textual_inversion}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tsuika.config.imports.command import Command
from tsuika.config.imports.taking import Imported, Read, Rule, Taking, flag, number, one_of, positive, side, where

SCRIPTS: Final = re.compile(
    r"train_text_to_image(_lora)?(_sdxl)?|train_dreambooth(_lora)?(_sdxl|_sd3)?|textual_inversion(_sdxl)?"
)
_PRECISIONS: Final = {"no": "fp32", "fp16": "fp16", "bf16": "bf16", "fp32": "fp32"}
_RULES: Final[Mapping[str, Rule]] = {
    "pretrained_model_name_or_path": Rule("base.model"),
    "pretrained_vae_model_name_or_path": Rule("base.vae"),
    "prediction_type": Rule("base.prediction", one_of({"epsilon": "epsilon", "v_prediction": "v"})),
    "instance_data_dir": Rule("data.images"),
    "train_data_dir": Rule("data.images"),
    "class_data_dir": Rule("data.reg_images"),
    "prior_loss_weight": Rule("data.reg_weight", number),
    "resolution": Rule("data.size_px", side),
    "random_flip": Rule("data.flip", flag),
    "repeats": Rule("data.repeats", positive),
    "proportion_empty_prompts": Rule("data.caption_dropout", number),
    "learnable_property": Rule("data.template", one_of({"object": "object", "style": "style"})),
    "placeholder_token": Rule("data.trigger"),
    "initializer_token": Rule("method.init"),
    "num_vectors": Rule("method.vectors", positive),
    "rank": Rule("method.rank", positive),
    "lora_dropout": Rule("method.dropout", number),
    "use_dora": Rule("method.adapter", where("dora")),
    "train_text_encoder": Rule("method.text_encoder", flag),
    "text_encoder_lr": Rule("method.text_learning_rate", positive),
    "max_train_steps": Rule("train.steps", positive),
    "train_batch_size": Rule("train.batch_size", positive),
    "gradient_accumulation_steps": Rule("train.accumulate", positive),
    "learning_rate": Rule("train.learning_rate", positive),
    "max_grad_norm": Rule("train.clip_norm", number),
    "snr_gamma": Rule("train.min_snr_gamma", number),
    "noise_offset": Rule("train.noise_offset", number),
    "input_perturbation": Rule("train.ip_noise_gamma", number),
    "offset_noise": Rule("train.noise_offset", where(0.1)),
    "use_ema": Rule("train.ema", where(0.9999)),
    "mixed_precision": Rule("train.precision", one_of(_PRECISIONS)),
    "gradient_checkpointing": Rule("train.gradient_checkpointing", flag),
    "seed": Rule("train.seed", number),
    "checkpointing_steps": Rule("train.checkpoint_every", number),
    "validation_prompt": Rule("preview.prompts", lambda value: [str(value)]),
    "validation_prompts": Rule("preview.prompts", lambda value: value if isinstance(value, list) else [str(value)]),
    "num_validation_images": Rule("preview.num", number),
    "validation_steps": Rule("preview.every", number),
}
_NEUTRAL: Final = re.compile(
    r"output_dir|logging_dir|cache_dir|report_to|allow_tf32|enable_.*|set_grads_to_none|dataloader_num_workers|local_rank"
    r"|checkpoints_total_limit|resume_from_checkpoint|push_to_hub|hub_.*|tracker_project_name|save_(as_full_pipeline|steps)"
    r"|no_safe_serialization|output_kohya_format|upcast_before_saving|cache_latents|pre_compute_text_embeddings|validation_epochs"
    r"|sample_batch_size|prior_generation_precision|validation_scheduler|image_interpolation_mode|debug_loss|(offload|foreach)_ema"
    r"|image_column|center_crop|skip_save_text_encoder|with_prior_preservation|(instance|class)_prompt|lr_.*|optimizer|use_8bit_adam"
    r"|adam_(weight_decay|beta[12]|epsilon)|scale_lr|weighting_scheme|logit_(mean|std)|lora_(layers|blocks)"
)
# What all of the scripts do where nothing is said; they draw a square from each image.
_ALL: Final[Mapping[str, Any]] = {
    "data.buckets": False,
    "data.size_px": 512,
    "data.caption_dropout": 0.0,
    "train.accumulate": 1,
    "train.ema": 0.0,
    "train.min_snr_gamma": 0.0,
    "train.learning_rate": 1e-4,
    "train.warmup": 0.0,
    "train.schedule": "constant",
}
_WARMUP: Final = 500
# As they are here anyway.
_USUAL: Final = {"caption_column": ("text",)}
_OF_WORDS: Final = {"data.template": "object", "data.repeats": 100, "train.steps": 5000, "train.precision": "fp32"}


def command(given: Command, _read: Read) -> Imported:
    """A command that starts one of the scripts."""
    values, script = given.values, given.script
    is_xl, is_3, is_words = script.endswith("_sdxl"), script.endswith("_sd3"), script.startswith("textual")
    is_lora, is_dreambooth = "_lora" in script, "dreambooth" in script
    is_newer = is_dreambooth and (is_xl or is_3)
    silent: dict[str, Any] = {**_ALL, "train.batch_size": 4 if is_dreambooth else 16}
    silent |= {"data.size_px": 1024} if is_xl and not is_words else {}
    silent |= _OF_WORDS if is_words else {}
    silent |= {"train.timesteps": "logit-normal"} if is_3 else {"train.timesteps": "uniform"}
    if is_dreambooth and not is_newer:
        silent["train.learning_rate"] = 5e-4 if is_lora else 5e-6
    taking = Taking(lost=[*given.lost])
    name = "textual-inversion" if is_words else "lora" if is_lora else "dreambooth"
    taking.settings["method.name"] = name
    if is_lora:
        # alpha is the rank.
        silent |= {"method.rank": 4, "method.alpha": 0.0}
        _targets(values, taking, is_3=is_3)
    has_class = flag(values.get("with_prior_preservation"))
    idle: tuple[str, ...] = () if has_class else ("class_data_dir", "prior_loss_weight", "num_class_images")
    # Their steps stand above epochs.
    idle = (*idle, "num_train_epochs") if positive(values.get("max_train_steps")) else idle
    idle += tuple(name for name, usual in _USUAL.items() if str(values.get(name)) in usual)
    # Textual Inversion passes its own "no" on to accelerate.
    launched = {"mixed_precision": given.precision} if given.precision and not is_words else {}
    taking.take({**launched, **values}, _RULES, _NEUTRAL, idle)
    if not flag(values.get("center_crop")):
        # They cut at random then, and tsuika from the middle.
        taking.lose("center_crop", "off")
    if "train.steps" not in {**silent, **taking.settings} and "num_train_epochs" not in values:
        taking.lose("num_train_epochs", 1 if is_dreambooth else 100)
    _captions(values, taking, has_class=has_class)
    _spread(values, taking, is_3=is_3)
    _rate(given, taking, silent, decay=1e-4 if is_newer else 1e-2)
    if taking.settings.get("method.text_encoder"):
        own = 5e-6 if is_newer else taking.settings.get("train.learning_rate", silent["train.learning_rate"])
        silent["method.text_learning_rate"] = own
    return taking.done(given.kind("diffusers"), silent)


def _targets(values: Mapping[str, Any], taking: Taking, *, is_3: bool) -> None:
    """The scripts adapt the projections of attention alone; SD3's may name layers by the ends of their names."""
    ends = r"to_(?:q|k|v|out\.0|add_out)|add_[qkv]_proj"
    pattern = rf"attn\.(?:{ends})" if is_3 else rf"attn[12]\.(?:{ends})"
    if layers := str(values.get("lora_layers") or ""):
        pattern = "|".join(re.escape(one.strip()) for one in layers.split(",") if one.strip())
    blocks = ""
    if numbers := re.findall(r"\d+", str(values.get("lora_blocks") or "")):
        blocks = rf"transformer_blocks\.(?:{'|'.join(numbers)})\."
    text = r"|text.*\.self_attn\.\w+_proj" if flag(values.get("train_text_encoder")) else ""
    taking.settings["method.targets"] = rf"unet\.(?:.*\.)?{blocks}(?:{pattern}){text}"


def _captions(values: Mapping[str, Any], taking: Taking, *, has_class: bool) -> None:
    """DreamBooth's prompts: `a photo of sks dog` for the images, and `a photo of dog` for those of the class."""
    own, shared = (str(values.get(f"{name}_prompt") or "").split() for name in ("instance", "class"))
    more = len(own) - len(shared)
    cut = next((n for n in range(len(shared)) if own[:n] == shared[:n] and own[n + more :] == shared[n:]), None)
    if has_class and more > 0 and cut is not None:
        prefix, word, kind = own[:cut], own[cut : cut + more], shared[cut:]
        found = {"caption_prefix": prefix, "trigger": word, "class_word": kind}
        taking.settings |= {f"data.{key}": " ".join(words) for key, words in found.items() if words}
        return
    taking.settings |= {"data.trigger": " ".join(own)} if own else {}
    taking.lose("class_prompt", " ".join(shared) if has_class else None)


def _spread(values: Mapping[str, Any], taking: Taking, *, is_3: bool) -> None:
    """How SD3's timesteps are spread; a mean and a width of their own have no counterpart."""
    scheme = values.get("weighting_scheme", "logit_normal")
    if is_3 and scheme != "logit_normal":
        taking.settings["train.timesteps"] = "uniform"
        taking.lose("weighting_scheme", scheme)
    for name, usual in (("logit_mean", 0), ("logit_std", 1)):
        taking.lose(name, values.get(name) if number(values.get(name, usual)) != usual else None)


def _rate(given: Command, taking: Taking, silent: Mapping[str, Any], *, decay: float) -> None:
    """Optimizer, schedule, warm-up, and what is multiplied by the number of images that a step sees."""
    values, settings = given.values, taking.settings
    kinds = {"adamw": "adamw8bit" if flag(values.get("use_8bit_adam")) else "adamw", "prodigy": "prodigy"}
    betas = ",".join(str(values.get(f"adam_beta{i}", usual)) for i, usual in ((1, 0.9), (2, 0.999)))
    arguments = {"betas": betas, **({"eps": values["adam_epsilon"]} if values.get("adam_epsilon") else {})}
    taking.optimize(
        "optimizer", values.get("optimizer", "adamw"), kinds, values.get("adam_weight_decay", decay), arguments
    )
    taking.scale("train.batch_size", given.processes, silent)
    if flag(values.get("scale_lr")):
        for name in ("train.batch_size", "train.accumulate"):
            taking.scale("train.learning_rate", settings.get(name, silent[name]), silent)
    name = values.get("lr_scheduler", "constant")
    taking.schedule("lr_scheduler", name, cycles=values.get("lr_num_cycles", 1), power=values.get("lr_power", 1))
    # As diffusers has it, "constant" ignores a warm-up, and 500 steps are the usual one.
    if str(name).casefold() != "constant":
        steps = settings.get("train.steps", silent.get("train.steps"))
        taking.warm_up("lr_warmup_steps", values.get("lr_warmup_steps", _WARMUP), steps)
