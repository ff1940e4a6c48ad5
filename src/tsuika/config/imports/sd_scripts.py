"""kohya's programs: sd-scripts' dataset and training TOML, its command lines, and the JSON that kohya_ss saves.

Names, meanings and defaults: github.com/kohya-ss/sd-scripts, `docs/config_README-en.md`, `library/train_util.py`,
`networks/lora.py` and the training scripts; github.com/bmaltais/kohya_ss; github.com/KohakuBlueleaf/LyCORIS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tsuika.config.imports.command import Command
from tsuika.config.imports.taking import (
    Imported,
    Read,
    Rule,
    Tables,
    Taking,
    flag,
    number,
    one_of,
    pairs,
    positive,
    side,
    tables,
    where,
)
from tsuika.core.texts import Text, _

SCRIPTS: Final = re.compile(
    r"(sdxl_|sd3_)?train_network|(sdxl_)?train_textual_inversion|train_db|fine_tune|sdxl_train|sd3_train"
)
_OPTIMIZERS: Final = {
    **{name: name for name in ("adamw", "adamw8bit", "adafactor", "prodigy")},
    "adamwschedulefree": "schedule-free",
    "radamschedulefree": "schedule-free",
    # As tsuika writes them.
    "schedule-free": "schedule-free",
    "riemannian": "riemannian",
}
_LOSSES: Final = {"l2": "l2", "huber": "huber", "smooth_l1": "smooth-l1"}
_PRECISIONS: Final = {"no": "fp32", "fp16": "fp16", "bf16": "bf16", "float": "fp32", "fp32": "fp32"}

_RULES: Final[Mapping[str, Rule]] = {
    "pretrained_model_name_or_path": Rule("base.model"),
    "vae": Rule("base.vae"),
    "v_parameterization": Rule("base.prediction", where("v")),
    "zero_terminal_snr": Rule("base.zero_terminal_snr", where("on")),
    "train_data_dir": Rule("data.images"),
    "image_dir": Rule("data.images"),
    "reg_data_dir": Rule("data.reg_images"),
    "prior_loss_weight": Rule("data.reg_weight", number),
    "resolution": Rule("data.size_px", side),
    "max_resolution": Rule("data.size_px", side),
    "enable_bucket": Rule("data.buckets", flag),
    "num_repeats": Rule("data.repeats", number),
    "dataset_repeats": Rule("data.repeats", number),
    "class_tokens": Rule("data.class_word"),
    "caption_prefix": Rule("data.caption_prefix"),
    "caption_suffix": Rule("data.caption_suffix"),
    "caption_tag_dropout_rate": Rule("data.tag_dropout", number),
    "keep_tokens_separator": Rule("data.keep_separator"),
    "secondary_separator": Rule("data.secondary_separator"),
    "conditioning_data_dir": Rule("data.masks"),
    "alpha_mask": Rule("data.alpha_mask", flag),
    "shuffle_caption": Rule("data.shuffle_tags", flag),
    "keep_tokens": Rule("data.keep_tokens", number),
    "caption_dropout_rate": Rule("data.caption_dropout", number),
    "enable_wildcard": Rule(
        "data.caption_lines",
        lambda value: "alternatives" if flag(value) else "first",
        also=Rule("data.caption_wildcards", flag),
    ),
    "flip_aug": Rule("data.flip", flag),
    "max_train_steps": Rule("train.steps", positive),
    "train_batch_size": Rule("train.batch_size", positive),
    "batch_size": Rule("train.batch_size", positive),
    "gradient_accumulation_steps": Rule("train.accumulate", positive),
    "learning_rate": Rule("train.learning_rate", positive),
    "unet_lr": Rule("train.learning_rate", positive),
    "max_grad_norm": Rule("train.clip_norm", number),
    "min_snr_gamma": Rule("train.min_snr_gamma", number),
    "noise_offset": Rule("train.noise_offset", number),
    "ip_noise_gamma": Rule("train.ip_noise_gamma", number),
    "loss_type": Rule("train.loss", one_of(_LOSSES)),
    "huber_schedule": Rule("train.huber_schedule"),
    "huber_c": Rule("train.huber_c", number),
    "multires_noise_iterations": Rule("train.multires_noise", number),
    "multires_noise_discount": Rule("train.multires_noise_discount", number),
    "min_timestep": Rule("train.min_timestep", number),
    "max_timestep": Rule("train.max_timestep", number),
    "mixed_precision": Rule("train.precision", one_of(_PRECISIONS)),
    "gradient_checkpointing": Rule("train.gradient_checkpointing", flag),
    "fp8_base": Rule("base.quantize", where("fp8")),
    "fp8_base_unet": Rule("base.quantize", where("fp8")),
    "torch_compile": Rule("train.compile", flag),
    "seed": Rule("train.seed", number),
    "save_every_n_steps": Rule("train.checkpoint_every", number),
    "scale_weight_norms": Rule("regularize.max_norm", number),
    "sample_every_n_steps": Rule("preview.every", number),
    "output_name": Rule("output.name"),
    "save_precision": Rule("output.dtype", one_of(_PRECISIONS)),
}
# Only Stable Diffusion 1.x counts it as tsuika does.
_SKIP: Final[Mapping[str, Rule]] = {"clip_skip": Rule("base.clip_skip", positive)}
_TEXT: Final[Mapping[str, Rule]] = {
    "learning_rate_te": Rule("method.text_learning_rate", positive),
    "learning_rate_te1": Rule("method.text_learning_rate", positive),
    "learning_rate_te2": Rule("method.text_learning_rate_2", positive),
}
_LORA: Final[Mapping[str, Rule]] = {
    "network_weights": Rule("method.start"),
    "lora_network_weights": Rule("method.start"),
    "network_dim": Rule("method.rank", positive),
    "network_alpha": Rule("method.alpha", number),
    "network_dropout": Rule("method.dropout", number),
    "text_encoder_lr": Rule("method.text_learning_rate", lambda value: number(_both(value)[0])),
}
_WORDS: Final[Mapping[str, Rule]] = {
    "token_string": Rule("data.trigger"),
    "init_word": Rule("method.init"),
    "num_vectors_per_token": Rule("method.vectors", positive),
    "use_object_template": Rule("data.template", where("object")),
    "use_style_template": Rule("data.template", where("style")),
}
_SPREAD: Final = Rule("train.timesteps", one_of({"uniform": "uniform", "logit_normal": "logit-normal"}))
# Of SD3 alone, and what they are where nothing is said.
_OF_FLOWS: Final = {
    "logit_mean": 0,
    "logit_std": 1,
    "mode_scale": 1.29,
    "training_shift": 1,
    "weighting_scheme": "uniform",
}
# What the scripts do where nothing is said.
_DATA: Final[Mapping[str, Any]] = {
    "data.caption_lines": "first",
    "data.buckets": False,
    "data.keep_tokens": 0,
    "data.caption_dropout": 0.0,
}
USUAL: Final[Mapping[str, Any]] = {
    "train.learning_rate": 2e-6,
    "train.batch_size": 1,
    "train.schedule": "constant",
    "train.warmup": 0.0,
    "train.ema": 0.0,
    "train.min_snr_gamma": 0.0,
    "train.precision": "fp32",
    "output.dtype": "fp32",
}
_STEPS: Final = 1600
# They decide nothing of the result, tsuika sees to it by itself, or they are looked at on their own.
_NEUTRAL: Final = re.compile(
    r"output_dir|logging_dir|log_.*|wandb.*|.*_data_loader_workers|max_data_loader_n_workers|num_cpu_threads.*|xformers|sdpa"
    r"|mem_eff_attn|num_(processes|machines)|gpu_ids|multi_gpu|main_process_port|dynamo_.*|extra_accelerate.*|huggingface_.*"
    r"|save_(model_as|last_n.*|state.*|every_n_epochs)|cache_.*|sdxl_(cache.*|no_half_vae)|no_half_vae|vae_batch_size|lowram"
    r"|highvram|caption_extension|bucket_(reso_steps|no_upscale)|(min|max)_bucket_reso|max_token_length|no_token_padding"
    r"|v2|sdxl|sdxl_checkbox|flux1_checkbox|sd3_checkbox|model_list|training_comment|metadata_(?!file).*|network_module"
    r"|network_args|network_train_unet_only|LoRA_type|lr_warmup.*|lr_scheduler(_num_cycles|_power)?|optimizer(_type|_args)?"
    r"|use_8bit_adam|dataset_config|folders|is_reg|config_file|subsets|datasets|train_text_encoder|stop_text_encoder_training"
    r"|sample_sampler|.*resume.*|persistent_.*|console_.*|additional_parameters|unit|factor|LyCORIS_preset|masked_loss"
    r"|dim_from_weights|sample_prompts|noise_offset_type|.*seed_fixed|deterministic|dora_wd|conv_alpha|conv_dim|algo"
)
_MARKS: Final = frozenset(
    (
        "pretrained_model_name_or_path",
        "train_data_dir",
        "network_module",
        "network_dim",
        "train_batch_size",
        "LoRA_type",
    )
) | {"max_train_steps", "dataset_config", "token_string"}
_KINDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "networks.lora": {},
    "networks.lora_sd3": {},
    "networks.loha": {"method.adapter": "loha"},
    "networks.lokr": {"method.adapter": "lokr"},
    "lycoris.kohya": {"method.conv": True},
    "standard": {},
    "kohya locon": {"method.conv": True},
    "lycoris/locon": {"method.conv": True},
    "lycoris/loha": {"method.adapter": "loha", "method.conv": True},
    "lycoris/lokr": {"method.adapter": "lokr", "method.conv": True},
}
# kohya's LoRA has an alpha of its own for these.
_CONVOLUTIONS: Final = r"conv[12]|(?:down|up)samplers\.0\.conv"


def is_dataset(content: Any) -> bool:
    """Whether it is sd-scripts' `--dataset_config`."""
    return isinstance(content, Mapping) and isinstance(content.get("datasets"), list)


def is_training(content: Any) -> bool:
    """Whether it is a training configuration of sd-scripts or kohya_ss."""
    return isinstance(content, Mapping) and bool(_MARKS & _flat(content).keys())


def dataset(content: Tables, _read: Read) -> Imported:
    """A set for every folder of images, with its dataset's regularization images."""
    shared = Taking()
    general = content.get("general", {})
    shared.take(general if isinstance(general, Mapping) else {}, _RULES, _NEUTRAL)
    sets: list[Tables] = []
    for place, one in enumerate(tables(content["datasets"])):
        own = Taking()
        own.take(one, _RULES, _NEUTRAL)
        subsets = tables(one.get("subsets"))
        reg = [str(subset.get("image_dir", "")) for subset in subsets if subset.get("is_reg")]
        shared.lost += [f"datasets[{place}]: image_dir = {folder}" for folder in reg[1:]]
        for subset in (subset for subset in subsets if not subset.get("is_reg")):
            inner = Taking({**own.settings, **({"data.reg_images": reg[0]} if reg else {})})
            inner.take(subset, _RULES, _NEUTRAL)
            sets.append(inner.settings)
            shared.lost += inner.lost
        shared.lost += own.lost
    shared.divide(sets)
    return shared.done(_("a dataset configuration of sd-scripts (kohya)"), _DATA)


def configuration(content: Tables, read: Read) -> Imported:
    """A training configuration of sd-scripts (`--config_file`), or one that kohya_ss has saved."""
    values = _flat(content)
    is_gui = "LoRA_type" in values or "model_list" in values
    kind = _("a configuration of kohya_ss") if is_gui else _("a training configuration of sd-scripts (kohya)")
    return training(values, read, kind, silent={**USUAL, "train.schedule": "cosine"} if is_gui else USUAL)


def command(given: Command, read: Read) -> Imported:
    """A command that starts one of sd-scripts' training scripts."""
    values = dict(given.values)
    if name := str(values.get("config_file") or ""):
        # The command line stands above the file.
        content = read(name if name.endswith(".toml") else f"{name}.toml")
        values = {**(_flat(content) if isinstance(content, Mapping) else {}), **values}
    # The scripts pass "no" on to accelerate, so its own `--mixed_precision` has no effect.
    return training(values, read, given.kind("sd-scripts (kohya)"), command=given)


def training(
    values: dict[str, Any], read: Read, kind: Text, *, silent: Tables = USUAL, command: Command | None = None
) -> Imported:
    """Settings by sd-scripts' names.

    Args:
        values: by name, as numbers or text.
        read: opens the dataset that they name.
        kind: what the file is.
        silent: what the program does where they are silent.
        command: where they come from a command line.
    """
    script = command.script if command else ""
    taking = Taking(lost=[*command.lost] if command else [])
    usual: dict[str, Any] = {**silent, **_DATA} if silent else {}
    is_xl = script.startswith("sdxl") or flag(values.get("sdxl"))
    is_3 = script.startswith("sd3") or flag(values.get("sd3_checkbox"))
    is_later = is_xl or is_3 or flag(values.get("v2"))
    words = dict(pairs(values.get("network_args")))
    rules, method, trains_text = {**_RULES, **_TEXT, **({} if is_later else _SKIP)}, "dreambooth", False
    if values.get("token_string") or "textual_inversion" in script:
        rules, method = {**rules, **_WORDS}, "textual-inversion"
        usual |= {"data.template": "none"} if silent else {}
    elif values.get("network_module") or values.get("LoRA_type") or "algo" in words or "network" in script:
        rules, method = {**rules, **_LORA}, "lora"
        trains_text = not flag(values.get("network_train_unet_only")) and number(values.get("text_encoder_lr", 1)) != 0
        trains_text = trains_text and not flag(values.get("cache_text_encoder_outputs"))
        taking.settings |= {"method.text_encoder": trains_text, **_adapter(values, words, taking)}
        # A file to go on from decides both.
        usual |= {"method.rank": 4, "method.alpha": 1} if silent and not _start(values) else {}
    elif script == "train_db" or flag(values.get("train_text_encoder")):
        trains_text = (number(values.get("stop_text_encoder_training")) or 0) >= 0
        taking.settings["method.text_encoder"] = trains_text
    taking.settings["method.name"] = method
    if (number(values.get("stop_text_encoder_training")) or 0) > 0:
        taking.lose("stop_text_encoder_training", values["stop_text_encoder_training"])
    idle = {*_without_effect(values, is_3=is_3), *({"clip_skip"} if is_xl else ())}
    if is_3:
        rules["weighting_scheme"] = _SPREAD
        usual |= {"train.timesteps": "uniform"} if silent else {}
    # The UNet's own rate stands above the common one.
    taking.take({name: values[name] for name in sorted(values, key="unet_lr".__eq__)}, rules, _NEUTRAL, idle)
    if silent and trains_text:
        usual["method.text_learning_rate"] = positive(values.get("learning_rate")) or usual["train.learning_rate"]
    _rate(values, taking, usual)
    _previews(values, taking)
    if command:
        taking.scale("train.batch_size", command.processes, usual)
    if name := str(values.get("dataset_config") or ""):
        _add_dataset(name, read, taking)
    return taking.done(kind, usual)


def _add_dataset(name: str, read: Read, taking: Taking) -> None:
    content = read(name)
    if not is_dataset(content):
        taking.lose("dataset_config", name)
        return
    found = dataset(content, read)
    taking.settings |= found.settings
    taking.lost += found.lost


def _flat(content: Tables) -> dict[str, Any]:
    """Without sections, whose names mean nothing to sd-scripts."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= value if isinstance(value, Mapping) else {key: value}
    return found


def _both(value: Any) -> list[Any]:
    """A rate of each text encoder: one for all, or a list."""
    return value if isinstance(value, list) and value else [value]


def _start(values: Tables) -> Any:
    return values.get("network_weights") or values.get("lora_network_weights")


def _without_effect(values: Tables, *, is_3: bool) -> Iterator[str]:
    """Settings that another makes idle; kohya_ss writes many such into every file."""
    if str(values.get("loss_type")) not in ("huber", "smooth_l1"):
        yield from ("huber_schedule", "huber_c", "huber_scale")
    elif number(values.get("huber_scale")) == 1:
        yield "huber_scale"
    is_original = str(values.get("noise_offset_type", "")).casefold() == "original"
    if is_original or not number(values.get("multires_noise_iterations")):
        yield from ("multires_noise_iterations", "multires_noise_discount")
    if values.get("dataset_config"):
        yield from ("train_data_dir", "reg_data_dir", "in_json")
    if positive(values.get("max_train_epochs")):
        yield "max_train_steps"
    # kohya_ss writes SD3's for all models.
    yield from () if is_3 else _OF_FLOWS
    yield from (name for name, usual in _OF_FLOWS.items() if number(values.get(name)) == usual)
    if flag(values.get("dim_from_weights")):
        yield from ("network_dim", "network_alpha")


def _adapter(values: Tables, words: Mapping[str, str], taking: Taking) -> dict[str, Any]:
    """What kind of LoRA, and of which layers."""
    found: dict[str, Any] = {}
    for name in ("network_module", "LoRA_type"):
        kind = str(values.get(name) or "").casefold()
        if kind and kind not in _KINDS:
            taking.lose(name, values[name])
        found |= _KINDS.get(kind, {})
    algo = str(words.get("algo", "lora")).casefold()
    if algo in ("loha", "lokr"):
        found["method.adapter"] = algo
    elif algo not in ("lora", "locon"):
        taking.lose("algo", algo)
    if flag(words.get("dora_wd", values.get("dora_wd", ""))) and "method.adapter" not in found:
        found["method.adapter"] = "dora"
    found |= _convolutions(values, words, taking, has_conv=bool(found.get("method.conv")))
    if ratio := positive(words.get("loraplus_lr_ratio")):
        found["method.lora_plus_ratio"] = ratio
    if len(rates := _both(values.get("text_encoder_lr"))) > 1:
        found["method.text_learning_rate_2"] = number(rates[1]) or 0.0
        # SD3's third is T5, which is not trained.
        taking.lose("text_encoder_lr", rates[2:])
    known = ("algo", "conv_dim", "dora_wd", "conv_alpha", "loraplus_lr_ratio", "preset")
    for name, value in words.items():
        if name not in known:
            taking.lose(name, value)
    return found


def _convolutions(values: Tables, words: Mapping[str, str], taking: Taking, *, has_conv: bool) -> dict[str, Any]:
    """3x3 convolutions: kohya's LoRA has them with a rank of their own, whose alpha is 1; LyCORIS always, as all others."""
    is_lycoris = "lycoris" in f"{values.get('network_module')} {values.get('LoRA_type')}".casefold()
    rank = positive(words.get("conv_dim", values.get("conv_dim") if has_conv else None))
    preset = str(words.get("preset") or (values.get("LyCORIS_preset") if is_lycoris else "") or "full")
    if preset not in ("full", "attn-mlp"):
        taking.lose("preset", preset)
    if preset == "attn-mlp":
        return {"method.conv": False}
    if not rank:
        return {}
    found: dict[str, Any] = {"method.conv": True, "method.conv_rank": rank}
    of_all = number(values.get("network_alpha", 1)) or number(values.get("network_dim")) or 4
    alpha = number(words.get("conv_alpha", values.get("conv_alpha"))) or (of_all if is_lycoris else 1)
    # tsuika's own alpha of them has the same scale as all others.
    if alpha * (number(values.get("network_dim")) or 4) != of_all * rank and not _start(values):
        found["method.alpha_pattern"] = (f"{_CONVOLUTIONS}={alpha}",)
    return found


def _rate(values: Tables, taking: Taking, usual: dict[str, Any]) -> None:
    """Optimizer, schedule, warm-up, and how many steps; epochs only images can tell."""
    arguments = dict(pairs(values.get("optimizer_args")))
    decay = arguments.pop("weight_decay", None)
    name = next((name for name in ("optimizer_type", "optimizer") if values.get(name)), "")
    kind = values.get(name) or ("AdamW8bit" if flag(values.get("use_8bit_adam")) else "AdamW")
    if str(kind).casefold() == "adafactor":
        # sd-scripts' defaults; tsuika has none of the three.
        arguments = {"relative_step": "True", "scale_parameter": "True", **arguments}
        arguments = {key: value for key, value in arguments.items() if value != "False"}
    if name or usual or arguments:
        taking.optimize(name, kind, _OPTIMIZERS, decay, arguments, **({} if usual else {"betas": ""}))
    elif number(decay) is not None:
        taking.settings["train.weight_decay"] = number(decay)
    if schedule := values.get("lr_scheduler"):
        cycles, power = (values.get(f"lr_scheduler_{key}") or 1 for key in ("num_cycles", "power"))
        taking.schedule("lr_scheduler", schedule, cycles=cycles, power=power)
    has_epochs = any(positive(values.get(key)) for key in ("max_train_epochs", "epoch"))
    if usual and not has_epochs:
        usual["train.steps"] = _STEPS
    steps = taking.settings.get("train.steps", usual.get("train.steps"))
    share = number(values.get("lr_warmup"))
    if str(values.get("lr_scheduler")).casefold() == "constant":
        taking.settings["train.warmup"] = 0.0
    elif share:
        taking.settings["train.warmup"] = min(share / 100, 0.99)
    else:
        taking.lose("lr_warmup", values.get("lr_warmup") if share is None else None)
        taking.warm_up("lr_warmup_steps", values.get("lr_warmup_steps"), steps)


def _previews(values: Tables, taking: Taking) -> None:
    """kohya_ss has the prompts themselves, sd-scripts the name of their file."""
    if prompts := str(values.get("sample_prompts") or "").strip():
        is_file = prompts.endswith(".txt") and "\n" not in prompts
        lines = [line.strip() for line in prompts.splitlines() if line.strip() and not line.strip().startswith("#")]
        taking.settings |= {"preview.file": prompts} if is_file else {"preview.prompts": lines}
