"""OneTrainer's configurations, presets and concepts (JSON), also the configuration inside of a file that it has trained.

Names, meanings and defaults: github.com/Nerogar/OneTrainer, `modules/util/config`, `modules/util/enum`, `modules/modelSetup`
and `training_presets`. A file holds only what differs from the defaults, or everything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PureWindowsPath
from typing import Any, Final

from tsuika.config.imports.onetrainer_concepts import add_to, square
from tsuika.config.imports.taking import (
    Imported,
    Read,
    Rule,
    Tables,
    Taking,
    dotted,
    flag,
    number,
    one_of,
    positive,
    tables,
    where,
)
from tsuika.core.errors import RecipeError
from tsuika.core.texts import _

_METHODS: Final = {"lora": "lora", "fine_tune": "dreambooth", "embedding": "textual-inversion"}
_FAMILY: Final = re.compile(r"STABLE_DIFFUSION_(15|2[01](_BASE)?|XL_10_BASE|3|35)")
_QUANTIZED: Final = {"float_8": "fp8", "int_8": "int8", "nfloat_4": "nf4"}
_DTYPES: Final = {"float_16": "fp16", "bfloat_16": "bf16", "float_32": "fp32", "tfloat_32": "fp32"}
_OPTIMIZERS: Final = {
    **{name: name for name in ("adamw", "adafactor", "prodigy")},
    "adamw_8bit": "adamw8bit",
    "schedule_free_adamw": "schedule-free",
}
# What an optimizer has besides its rate and decay.
_OWN: Final = (
    *("beta1", "beta2", "beta3", "eps", "amsgrad"),
    *("d0", "d_coef", "decouple", "growth_rate", "safeguard_warmup", "use_bias_correction"),
)
# By their names in files of older versions.
_OLDER: Final = {
    "optimizer": "optimizer.optimizer",
    "lora_layers": "layer_filter",
    "lora_layer_preset": "layer_filter_preset",
    "lora_layers_regex": "layer_filter_regex",
    **{f"train_{part}": f"{part}.train" for part in ("unet", "text_encoder", "text_encoder_2")},
    **{f"{part}_learning_rate": f"{part}.learning_rate" for part in ("unet", "text_encoder", "text_encoder_2")},
}


def _timestep(value: Any) -> int | None:
    share = number(value)
    return int(1000 * share) if share is not None and 0 <= share <= 1 else None


_RULES: Final[Mapping[str, Rule]] = {
    "training_method": Rule("method.name", one_of(_METHODS)),
    "base_model_name": Rule("base.model"),
    "vae.model_name": Rule("base.vae"),
    "force_v_prediction": Rule("base.prediction", where("v")),
    "force_epsilon_prediction": Rule("base.prediction", where("epsilon")),
    "resolution": Rule("data.size_px", square),
    "aspect_ratio_bucketing": Rule("data.buckets", flag),
    "text_encoder.dropout_probability": Rule("data.caption_dropout", number),
    "learning_rate": Rule("train.learning_rate", positive),
    "batch_size": Rule("train.batch_size", positive),
    "gradient_accumulation_steps": Rule("train.accumulate", positive),
    "clip_grad_norm": Rule("train.clip_norm", number),
    "train_dtype": Rule("train.precision", one_of(_DTYPES)),
    "unet.gradient_checkpointing": Rule("train.gradient_checkpointing", flag),
    "offset_noise_weight": Rule("train.noise_offset", number),
    "min_noising_strength": Rule("train.min_timestep", _timestep),
    "max_noising_strength": Rule("train.max_timestep", _timestep),
    "compile": Rule("train.compile", flag),
    "output_dtype": Rule("output.dtype", one_of(_DTYPES)),
    "output_model_destination": Rule("output.name", lambda value: PureWindowsPath(str(value)).stem or None),
}
_OF_METHOD: Final[Mapping[str, Mapping[str, Rule]]] = {
    "lora": {
        "lora_model_name": Rule("method.start"),
        "lora_rank": Rule("method.rank", positive),
        "lora_alpha": Rule("method.alpha", number),
        "dropout_probability": Rule("method.dropout", number),
        "lora_decompose": Rule("method.adapter", where("dora")),
        "peft_type": Rule("method.adapter", one_of({"lora": "lora", "loha": "loha", "lokr": "lokr"})),
    },
    "textual-inversion": {
        "embedding.placeholder": Rule("data.trigger"),
        "embedding.token_count": Rule("method.vectors", positive),
        "embedding.initial_embedding_text": Rule("method.init"),
        "embedding_learning_rate": Rule("train.learning_rate", positive),
    },
    "dreambooth": {"unet.weight_dtype": Rule("method.weights", one_of({"float_32": "fp32", "bfloat_16": "bf16"}))},
}
_DEFAULTS: Final[Mapping[str, Any]] = {
    "training_method": "FINE_TUNE",
    "model_type": "STABLE_DIFFUSION_15",
    "learning_rate": 3e-6,
    "learning_rate_scheduler": "CONSTANT",
    "learning_rate_warmup_steps": 200,
    "learning_rate_cycles": 1,
    "epochs": 100,
    "batch_size": 1,
    "ema": "OFF",
    "ema_decay": 0.999,
    "ema_update_step_interval": 5,
    "train_dtype": "FLOAT_16",
    "output_dtype": "FLOAT_32",
    "loss_weight_fn": "CONSTANT",
    "loss_weight_strength": 5.0,
    "timestep_distribution": "UNIFORM",
    "unmasked_weight": 0.1,
    "optimizer.optimizer": "ADAMW",
    "unet.gradient_checkpointing": True,
    "text_encoder.train": True,
    "text_encoder.stop_training_after": 30,
    "text_encoder.stop_training_after_unit": "EPOCH",
    "text_encoder_2.train": True,
    "text_encoder.dropout_probability": 0.0,
    "lora_rank": 16,
    "lora_alpha": 1.0,
    "embedding.initial_embedding_text": "*",
}
# They decide nothing of the result, are of models that tsuika has not, or are looked at on their own.
_NEUTRAL: Final = re.compile(
    # Of the machine, of files beside the result, of what is shown meanwhile, and of networks that tsuika has not.
    r"(.*\.)?__version|(debug|tensorboard|dataloader|backup|rolling|save|sample|validate)_.*|.*_dir|(cloud|secrets|quantization)\..*"
    r"|(prior|transformer|unconditional_transformer|text_encoder_[34]|effnet_encoder|decoder\w*)\..*|optimizer(_defaults)?\..*"
    r"|tensorboard|validation|offline_mode|continue_last_backup|prevent_overwrites|include_train_config|device_indexes"
    r"|(fused|async)_gradient.*|gradient_reduce_precision|(enable_)?async_offloading|(train|temp)_device|fallback_train_dtype|only_cache"
    r"|enable_autocast_cache|enable_activation_offloading|layer_offload_fraction|attention_mechanism|latent_caching|clear_cache.*|frames"
    r"|output_model_format|samples(_to_tensorboard)?|non_ema_sampling|scheduler_params|custom_learning_rate_scheduler"
    r"|bundle_additional_embeddings|text_encoder_[34]_layer_skip|text_encoder(_2)?_sequence_length|optimizer_defaults"
    r"|(unet|text_encoder(_2)?|vae)\.(offload_fraction|activation_offloading|include|train_embedding|attention_mask|guidance_scale)"
    # Looked at on their own.
    r"|(unet|text_encoder(_2)?|vae)\.(train|learning_rate|weight_dtype|gradient_checkpointing|stop_training_after.*|model_name)"
    r"|weight_dtype|(lora|embedding)_weight_dtype|gradient_checkpointing|model_type|concepts|concept_file_name|loss_scaler|huber_delta"
    r"|learning_rate(_scheduler|_warmup_steps|_cycles|_scaler)|ema(_decay|_update_step_interval)?|(mse|mae|vb_loss)_strength"
    r"|loss_weight_(fn|strength)|min_snr_gamma|timestep_(distribution|shift)|noising_(weight|bias)|rescale_noise.*|text_encoder_layer_skip"
    r"|masked_training|unmasked_.*|normalize_masked_area_loss|masked_prior_preservation_weight|layer_filter.*|additional_embeddings"
    r"|(oft|lokr)_.*|lora_(rank|alpha|model_name|decompose.*)|peft_type|dropout_probability|embedding\..*|embedding_learning_rate"
    r"|preserve_embedding_norm"
)
_PRESETS: Final[Mapping[str, str]] = {
    "attn-mlp": r"unet\..*attentions.*",
    "attn-only": r"unet\..*attn.*",
    "blocks": r"unet\..*transformer_block.*",
}


def is_configuration(content: Any) -> bool:
    """Whether it is a configuration or a preset."""
    return isinstance(content, Mapping) and {"training_method", "model_type"} <= content.keys()


def configuration(content: Tables, read: Read) -> Imported:
    """A configuration, with the concepts that it holds or names."""
    given, taking = _flat(content), Taking()
    values = {**_DEFAULTS, **given}
    if values.get("lora_model_name"):
        # That file has a rank, an alpha and layers.
        values |= {"lora_rank": given.get("lora_rank"), "lora_alpha": given.get("lora_alpha")}
    method = _METHODS.get(str(values["training_method"]).casefold(), "")
    is_3, is_xl = (f"STABLE_DIFFUSION_{name}" in str(values["model_type"]) for name in ("3", "XL"))
    if is_3:
        values |= {
            name.replace("transformer.", "unet."): one for name, one in given.items() if name.startswith("transformer.")
        }
    if not _FAMILY.fullmatch(str(values["model_type"])):
        taking.lose("model_type", values["model_type"])
    if method == "lora" and flag(values.get("lora_decompose")):
        values.pop("peft_type", None)
        taking.lose("lora_decompose_output_axis", values.get("lora_decompose_output_axis"))
    if str(values.get("peft_type")).casefold() == "lokr":
        values["lora_rank"] = values.get("lokr_dim", values["lora_rank"])
        for name in ("decompose_both", "use_tucker", "weight_decompose", "full_matrix"):
            taking.lose(f"lokr_{name}", values.get(f"lokr_{name}"))
        factor = values.get("lokr_decompose_factor", -1)
        taking.lose("lokr_decompose_factor", factor if number(factor) != -1 else None)
    taking.take(values, {**_RULES, **_OF_METHOD.get(method, {})}, _NEUTRAL)
    if own := positive(values.get("unet.learning_rate")) if method != "textual-inversion" else None:
        taking.settings["train.learning_rate"] = own
    if (older := values.get("gradient_checkpointing")) is not None:
        taking.settings["train.gradient_checkpointing"] = flag(older)
    _parts(values, taking, method, has_two=is_3 or is_xl)
    if is_3 and taking.settings.get("method.text_encoder") and flag(values.get("text_encoder_3.train", True)):
        taking.lose("text_encoder_3.train", "yes")
    _rate(values, taking)
    _loss(values, taking)
    if not values.get("lora_model_name"):
        _layers(values, taking, method, is_3=is_3)
    _images(content, values, read, taking)
    return taking.done(_("a configuration of OneTrainer"), {"data.caption_lines": "alternatives"})


def _flat(content: Tables) -> dict[str, Any]:
    """Tables inside of tables as dotted names, and today's names for older ones."""
    found: dict[str, Any] = {}
    for name, value in dotted(content).items():
        older = re.sub("^optimizer_(?!defaults)", "optimizer.", name)
        found[_OLDER.get(older, older)] = value
    return found


def _parts(values: Tables, taking: Taking, method: str, *, has_two: bool) -> None:
    """What is trained, and in which precision it is stored."""
    trains_text = method in ("lora", "dreambooth") and flag(values["text_encoder.train"])
    if not flag(values.get("unet.train", True)) and method != "textual-inversion":
        taking.lose("unet.train", "no")
    for name in ("unet", *(("text_encoder",) if trains_text else ())):
        if (unit := str(values.get(f"{name}.stop_training_after_unit", "NEVER"))) != "NEVER":
            taking.lose(f"{name}.stop_training_after", f"{values.get(f'{name}.stop_training_after')} {unit}")
    for name in (*(() if method == "dreambooth" else ("unet",)), "text_encoder", "text_encoder_2"):
        # Weights that are not trained may be stored in less; quantized they are others.
        dtype = str(values.get(f"{name}.weight_dtype", "NONE")).casefold()
        if name == "unet" and dtype in _QUANTIZED:
            taking.settings["base.quantize"] = _QUANTIZED[dtype]
            continue
        taking.lose(f"{name}.weight_dtype", dtype if dtype not in (*_DTYPES, "none") else None)
    for name in ("lora_weight_dtype", "embedding_weight_dtype"):
        taking.lose(name, values[name] if one_of(_DTYPES)(values.get(name, "FLOAT_32")) != "fp32" else None)
    if method == "textual-inversion":
        taking.lose("preserve_embedding_norm", values.get("preserve_embedding_norm"))
        for name in ("model_name", "is_output_embedding"):
            taking.lose(f"embedding.{name}", values.get(f"embedding.{name}"))
    taking.lose("additional_embeddings", len(tables(values.get("additional_embeddings"))))
    if method not in ("lora", "dreambooth"):
        return
    taking.settings["method.text_encoder"] = trains_text
    if has_two and flag(values["text_encoder_2.train"]) != trains_text:
        taking.lose("text_encoder_2.train", "yes" if not trains_text else "no")
    if trains_text:
        rates = [positive(values.get(f"text_encoder{end}.learning_rate")) for end in ("", "_2" if has_two else "")]
        first, second = (rate or positive(values["learning_rate"]) or 0.0 for rate in rates)
        taking.settings["method.text_learning_rate"] = first
        taking.settings |= {"method.text_learning_rate_2": second} if second != first else {}


def _rate(values: Tables, taking: Taking) -> None:
    """Optimizer, schedule, warm-up, average, and what is multiplied by the number of images that a step sees."""
    settings = taking.settings
    name = str(values["optimizer.optimizer"])
    decay = values.get("optimizer.weight_decay", 0.01 if name.casefold().startswith("schedule_free") else None)
    given = {key: value for key in _OWN if (value := values.get(f"optimizer.{key}")) not in (None, "", False)}
    if given.keys() & {"beta1", "beta2"}:
        given["betas"] = f"{given.pop('beta1', 0.9)},{given.pop('beta2', 0.999)}"
    # Adafactor's own are not taken over: tsuika's finds no rate by itself.
    arguments = {} if name == "ADAFACTOR" else {key: str(value) for key, value in given.items()}
    taking.optimize("optimizer", name, _OPTIMIZERS, decay, arguments)
    for key in ("relative_step", "scale_parameter", "warmup_init", "cautious", "fused_back_pass"):
        taking.lose(f"optimizer.{key}", values.get(f"optimizer.{key}"))
    schedule = str(values["learning_rate_scheduler"])
    # With soft restarts the rate comes up again.
    cycles = 0 if schedule == "COSINE_WITH_RESTARTS" else values["learning_rate_cycles"]
    taking.schedule("learning_rate_scheduler", schedule, cycles=cycles)
    warmup = values["learning_rate_warmup_steps"]
    taking.warm_up("learning_rate_warmup_steps", 0.99 if number(warmup) == 1 else warmup, None)
    scaler = str(values.get("learning_rate_scaler", "NONE"))
    images = {"BATCH": "train.batch_size", "GRADIENT_ACCUMULATION": "train.accumulate"}
    for kind, key in images.items():
        if scaler.removeprefix("GLOBAL_") in (kind, "BOTH") and (count := number(settings.get(key, 1))) and count > 0:
            for rate in ("train.learning_rate", "method.text_learning_rate", "method.text_learning_rate_2"):
                taking.scale(rate, count**0.5, {})
    if values.get("clip_grad_norm", 1) is None:
        settings["train.clip_norm"] = 0.0
    taking.lose("loss_scaler", values.get("loss_scaler") if values.get("loss_scaler") != "NONE" else None)
    decayed, interval = number(values["ema_decay"]), number(values["ema_update_step_interval"])
    settings["train.ema"] = 0.0
    if str(values["ema"]) != "OFF" and decayed is not None and decayed >= 0 and interval and interval >= 1:
        # An average that moves only now and then moves less at each step.
        settings["train.ema"] = decayed ** (1 / interval)


def _loss(values: Tables, taking: Taking) -> None:
    """Loss, its weights, timesteps and noise."""
    settings = taking.settings
    for name, usual in (("mse_strength", 1), ("mae_strength", 0)):
        taking.lose(name, f"{values[name]} " if number(values.get(name, usual)) != usual else None)
    weight = str(values["loss_weight_fn"])
    settings["train.min_snr_gamma"] = number(values["loss_weight_strength"]) if weight == "MIN_SNR_GAMMA" else 0.0
    if older := positive(values.get("min_snr_gamma")):
        settings["train.min_snr_gamma"] = older
    taking.lose("loss_weight_fn", weight if weight not in ("MIN_SNR_GAMMA", "CONSTANT") else None)
    spread = str(values["timestep_distribution"])
    found = {"UNIFORM": "uniform", "LOGIT_NORMAL": "logit-normal"}.get(spread)
    bent = [values.get(name) for name in ("noising_weight", "noising_bias") if number(values.get(name))]
    if found is None or (bent and spread == "LOGIT_NORMAL"):
        taking.lose("timestep_distribution", " ".join(map(str, [spread, *bent])))
    else:
        settings["train.timesteps"] = found
    taking.lose(
        "timestep_shift", values.get("timestep_shift") if number(values.get("timestep_shift", 1)) != 1 else None
    )
    if flag(values.get("rescale_noise_scheduler_to_zero_terminal_snr")):
        settings |= {"base.zero_terminal_snr": "on", "base.prediction": "v"}
    if skipped := number(values.get("text_encoder_layer_skip")):
        if str(values["model_type"]) == "STABLE_DIFFUSION_15":
            settings["base.clip_skip"] = skipped + 1
        else:
            taking.lose("text_encoder_layer_skip", skipped)
    if flag(values.get("masked_training")):
        settings |= {"data.masks": "auto", "data.mask_outside": number(values["unmasked_weight"]) or 0.0}
        for name in ("normalize_masked_area_loss", "masked_prior_preservation_weight"):
            taking.lose(name, values.get(name))


def _layers(values: Tables, taking: Taking, method: str, *, is_3: bool) -> None:
    """Layers of the network by parts of their names; of text encoders all are adapted. A preset sets the filter."""
    custom = str(values.get("layer_filter") or "")
    preset = str(values.get("layer_filter_preset", "custom" if custom else "full"))
    if method != "lora":
        taking.lose("layer_filter_preset", preset if preset != "full" else None)
        return
    if preset in _PRESETS:
        pattern = _PRESETS[preset]
    elif preset != "full" and custom.strip():
        parts = [one.strip() for one in custom.split(",") if one.strip()]
        pattern = (
            rf"unet\..*(?:{'|'.join(parts if flag(values.get('layer_filter_regex')) else map(re.escape, parts))}).*"
        )
        try:
            re.compile(pattern)
        except re.error:
            taking.lose("layer_filter", custom)
            return
    else:
        taking.settings["method.targets"] = "attention-ff" if is_3 else "attention-ff-conv"
        # All of its layers, and some are not adapted here.
        others = "x_embedder, norm_out, proj_out" if is_3 else "conv_in, conv_out, time_embedding"
        taking.lose("layer_filter_preset", f"full ({others}, …)")
        return
    text = "|text.*" if taking.settings.get("method.text_encoder") else ""
    taking.settings["method.targets"] = pattern + text


def _images(content: Tables, values: Tables, read: Read, taking: Taking) -> None:
    """Concepts and prompts, in the file or beside it."""
    if tables(content.get("concepts")):
        add_to(content["concepts"], taking)
    elif name := str(values.get("concept_file_name") or ""):
        # OneTrainer's own folder, where it lies, is not the file's.
        try:
            add_to(read(name), taking)
        except RecipeError:
            taking.lose("concept_file_name", name)
    prompts = [one for one in tables(content.get("samples")) if flag(one.get("enabled", True)) and one.get("prompt")]
    if prompts:
        taking.settings["preview.prompts"] = [*map(_prompt, prompts)]
    else:
        taking.lose("sample_definition_file_name", values.get("sample_definition_file_name"))
    if (every := positive(values.get("sample_after"))) and values.get("sample_after_unit") == "STEP":
        taking.settings["preview.every"] = every


def _prompt(sample: Tables) -> str:
    """With kohya's options behind it."""
    options = {"n": "negative_prompt", "w": "width", "h": "height", "s": "diffusion_steps", "l": "cfg_scale"}
    options |= {} if flag(sample.get("random_seed")) else {"d": "seed"}
    return " ".join([str(sample["prompt"]), *(f"--{o} {sample[key]}" for o, key in options.items() if sample.get(key))])
