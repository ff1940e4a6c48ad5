"""Settings of other programs as a recipe: sd-scripts' dataset and training TOML, kohya_ss' JSON. Knows no files.

An importer says what a file is, takes over what has a counterpart, and names what has none. Names and meanings:
github.com/kohya-ss/sd-scripts, `docs/config_README-en.md` and `library/train_util.py`; github.com/bmaltais/kohya_ss.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tsuika.core.texts import Text, _

Tables = Mapping[str, Any]


@dataclass(frozen=True)
class Imported:
    """A recipe's settings by dotted key, what the file is, and its settings that have no counterpart."""

    settings: dict[str, Any]
    kind: Text
    lost: tuple[str, ...]
    dataset: str = ""  # another file, which describes the images


class _Rule(NamedTuple):
    """Where a setting goes, and what becomes of its value; None: there is no counterpart for this value."""

    key: str
    value: Callable[[Any], Any] = lambda value: value


def _number(value: Any) -> float | int | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and abs(number) < 1e9 else number if math.isfinite(number) else None


def _positive(value: Any) -> float | int | None:
    return _number(value) or None


def _side(value: Any) -> int | None:
    """`512`, `"512,768"` or `[512, 768]` as the side of a square of the same area, a multiple of 64."""
    parts = re.split(r"[,x]", value) if isinstance(value, str) else value if isinstance(value, list) else [value]
    sides = [side for side in map(_number, parts) if side and 0 < side < _LARGEST_PX]
    if not sides or len(sides) != len(parts):
        return None
    return max(64, round(math.sqrt(sides[0] * sides[-1]) / 64) * 64)


def _one_of(names: Mapping[str, str]) -> Callable[[Any], str | None]:
    return lambda value: names.get(str(value).casefold())


def _are_two(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


_LARGEST_PX: Final = 1 << 20
_OPTIMIZERS: Final = {
    **{name: name for name in ("adamw", "adamw8bit", "adafactor", "prodigy")},
    "adamwschedulefree": "schedule-free",
    "radamschedulefree": "schedule-free",
}
_SCHEDULES: Final = {"cosine": "cosine", "linear": "linear", "constant": "constant", "constant_with_warmup": "constant"}
_LOSSES: Final = {"l2": "l2", "huber": "huber", "smooth_l1": "smooth-l1"}
_PRECISIONS: Final = {"no": "fp32", "fp16": "fp16", "bf16": "bf16", "float": "fp32", "fp32": "fp32"}

_RULES: Final[Mapping[str, _Rule]] = {
    "pretrained_model_name_or_path": _Rule("base.model"),
    "vae": _Rule("base.vae"),
    "train_data_dir": _Rule("data.images"),
    "image_dir": _Rule("data.images"),
    "reg_data_dir": _Rule("data.reg_images"),
    "prior_loss_weight": _Rule("data.reg_weight", _number),
    "resolution": _Rule("data.size_px", _side),
    "max_resolution": _Rule("data.size_px", _side),
    "enable_bucket": _Rule("data.buckets", bool),
    "num_repeats": _Rule("data.repeats", _number),
    "dataset_repeats": _Rule("data.repeats", _number),
    "class_tokens": _Rule("data.class_word"),
    "shuffle_caption": _Rule("data.shuffle_tags", bool),
    "keep_tokens": _Rule("data.keep_tokens", _number),
    "caption_dropout_rate": _Rule("data.caption_dropout", _number),
    "enable_wildcard": _Rule("data.caption_lines", lambda value: "alternatives" if value else "first"),
    "flip_aug": _Rule("data.flip", bool),
    "max_train_steps": _Rule("train.steps", _positive),
    "train_batch_size": _Rule("train.batch_size", _positive),
    "batch_size": _Rule("train.batch_size", _positive),
    "gradient_accumulation_steps": _Rule("train.accumulate", _positive),
    "learning_rate": _Rule("train.learning_rate", _positive),
    "unet_lr": _Rule("train.learning_rate", _positive),
    "optimizer_type": _Rule("train.optimizer", _one_of(_OPTIMIZERS)),
    "optimizer": _Rule("train.optimizer", _one_of(_OPTIMIZERS)),
    "lr_scheduler": _Rule("train.schedule", _one_of(_SCHEDULES)),
    "max_grad_norm": _Rule("train.clip_norm", _number),
    "min_snr_gamma": _Rule("train.min_snr_gamma", _number),
    "noise_offset": _Rule("train.noise_offset", _number),
    "loss_type": _Rule("train.loss", _one_of(_LOSSES)),
    "huber_schedule": _Rule("train.huber_schedule"),
    "huber_c": _Rule("train.huber_c", _number),
    "multires_noise_iterations": _Rule("train.multires_noise", _number),
    "multires_noise_discount": _Rule("train.multires_noise_discount", _number),
    "min_timestep": _Rule("train.min_timestep", _number),
    "max_timestep": _Rule("train.max_timestep", _number),
    "mixed_precision": _Rule("train.precision", _one_of(_PRECISIONS)),
    "gradient_checkpointing": _Rule("train.gradient_checkpointing", bool),
    "torch_compile": _Rule("train.compile", bool),
    "seed": _Rule("train.seed", _number),
    "save_every_n_steps": _Rule("train.checkpoint_every", _number),
    "scale_weight_norms": _Rule("regularize.max_norm", _number),
    "sample_every_n_steps": _Rule("preview.every", _number),
    "output_name": _Rule("output.name"),
    "save_precision": _Rule("output.dtype", _one_of(_PRECISIONS)),
}
_LORA: Final[Mapping[str, _Rule]] = {
    "network_weights": _Rule("method.start"),
    "lora_network_weights": _Rule("method.start"),
    "network_dim": _Rule("method.rank", _positive),
    "network_alpha": _Rule("method.alpha", _number),
    "network_dropout": _Rule("method.dropout", _number),
    "conv_dim": _Rule("method.conv_rank", _positive),
    "text_encoder_lr": _Rule(
        "method.text_learning_rate", lambda value: _number(value[0] if _are_two(value) else value)
    ),
}
_WORDS: Final[Mapping[str, _Rule]] = {
    "token_string": _Rule("data.trigger"),
    "init_word": _Rule("method.init"),
    "num_vectors_per_token": _Rule("method.vectors", _positive),
}
# They decide nothing of the result, or tsuika sees to it by itself.
_NEUTRAL: Final = re.compile(
    r"output_dir|logging_dir|log_.*|wandb.*|.*_data_loader_workers|max_data_loader_n_workers|num_cpu_threads.*|xformers|sdpa"
    r"|mem_eff_attn|num_(processes|machines)|gpu_ids|multi_gpu|main_process_port|dynamo_.*|extra_accelerate.*|huggingface_.*"
    r"|save_(model_as|last_n.*|state.*|every_n_epochs)|cache_.*|sdxl_(cache.*|no_half_vae)|no_half_vae|vae_batch_size|lowram"
    r"|highvram|caption_extension|bucket_(reso_steps|no_upscale)|(min|max)_bucket_reso|max_token_length|no_token_padding"
    r"|v2|v_parameterization|sdxl|sdxl_checkbox|flux1_checkbox|sd3_checkbox|model_list|training_comment|metadata_.*|network_module"
    r"|network_args|network_train_unet_only|LoRA_type|lr_warmup.*|optimizer_args|dataset_config|folders|is_reg|config_file"
    r"|sample_sampler|.*resume.*|persistent_.*|console_.*|additional_parameters|unit|factor|LyCORIS_preset"
    r"|dim_from_weights|sample_prompts|noise_offset_type|.*seed_fixed|deterministic|dora_wd|conv_alpha|conv_dim|algo"
)
_MARKS: Final = frozenset(
    {
        "pretrained_model_name_or_path",
        "train_data_dir",
        "network_module",
        "network_dim",
        "train_batch_size",
        "LoRA_type",
    }
    | {"max_train_steps", "dataset_config", "token_string"}
)
_KINDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "standard": {},
    "kohya locon": {"method.conv": True},
    "lycoris/locon": {"method.conv": True},
    "lycoris/loha": {"method.adapter": "loha"},
    "lycoris/lokr": {"method.adapter": "lokr"},
}


def find(tables: Tables) -> Callable[[Tables], Imported] | None:
    """What imports a file with these tables; None: it is no other program's."""
    if isinstance(tables.get("datasets"), list):
        return _dataset
    return _training if _MARKS & _flat(tables).keys() else None


def _flat(tables: Tables) -> dict[str, Any]:
    """Without sections, whose names mean nothing to sd-scripts."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        found |= value if isinstance(value, Mapping) else {key: value}
    return found


@dataclass
class _Taking:
    settings: dict[str, Any] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    def take(self, values: Tables, rules: Mapping[str, _Rule]) -> None:
        for name, value in values.items():
            if isinstance(value, (Mapping, list)) and name in ("subsets", "datasets"):
                continue
            taken = rules[name].value(value) if name in rules and value not in ("", None) else None
            if taken is not None:
                self.settings[rules[name].key] = taken
            elif value and str(value) not in ("0", "0.0", "0,0", "None"):
                self.lost += [f"{name} = {value}"] if name in rules or not _NEUTRAL.fullmatch(name) else []


def _dataset(tables: Tables) -> Imported:
    """sd-scripts' `--dataset_config`: of several datasets and folders only the first, and the regularization images."""
    taking = _Taking()
    datasets = [one for one in tables["datasets"] if isinstance(one, Mapping)]
    taking.settings["data.caption_lines"] = "first"
    general = tables.get("general", {})
    taking.take(general if isinstance(general, Mapping) else {}, _RULES)
    for dataset in datasets[:1]:
        taking.take(dataset, _RULES)
        has_images = False
        for place, subset in enumerate(dataset.get("subsets", [])):
            if subset.get("is_reg"):
                taking.settings.setdefault("data.reg_images", subset.get("image_dir", ""))
            elif has_images:
                taking.lost.append(f"datasets[0].subsets[{place}] ({subset.get('image_dir', '')})")
            else:
                has_images = True
                taking.take(subset, _RULES)
    taking.lost += [f"datasets[{number}]" for number in range(1, len(datasets))]
    kind = _("a dataset configuration of sd-scripts (kohya)")
    return Imported(taking.settings, kind, tuple(taking.lost))


def _training(tables: Tables) -> Imported:
    """A training configuration of sd-scripts (`--config_file`), or one that kohya_ss has saved."""
    values = _flat(tables)
    is_gui = "LoRA_type" in values or "model_list" in values
    taking = _Taking()
    words = dict(_pairs(values.get("network_args")))
    rules, method = dict(_RULES), "dreambooth"
    if values.get("token_string"):
        rules, method = {**rules, **_WORDS}, "textual-inversion"
    elif values.get("network_module") or values.get("LoRA_type") or "algo" in words:
        rules, method = {**rules, **_LORA}, "lora"
        taking.settings |= _adapter(values, words, taking.lost)
    taking.settings["method.name"] = method
    if not values.get("dataset_config"):
        taking.settings["data.caption_lines"] = "alternatives" if values.get("enable_wildcard") else "first"
    # The UNet's own rate stands above the common one.
    order = sorted(values.keys() - _without_effect(values), key=lambda name: (name == "unet_lr", [*values].index(name)))
    taking.take({name: values[name] for name in order}, rules)
    _rate(values, taking)
    if prompts := str(values.get("sample_prompts") or "").strip():
        # kohya_ss has the prompts themselves, sd-scripts the name of their file.
        is_file = prompts.endswith(".txt") and "\n" not in prompts
        lines = [line.strip() for line in prompts.splitlines() if line.strip() and not line.strip().startswith("#")]
        taking.settings |= {"preview.file": prompts} if is_file else {"preview.prompts": lines}
    kind = _("a configuration of kohya_ss") if is_gui else _("a training configuration of sd-scripts (kohya)")
    return Imported(taking.settings, kind, tuple(taking.lost), str(values.get("dataset_config") or ""))


def _without_effect(values: Tables) -> set[str]:
    """Settings that kohya_ss writes into every file, where another makes them idle."""
    idle = set() if values.get("loss_type") in ("huber", "smooth_l1") else {"huber_schedule", "huber_c", "huber_scale"}
    is_original = str(values.get("noise_offset_type", "")).casefold() == "original"
    if is_original or not _number(values.get("multires_noise_iterations")):
        idle |= {"multires_noise_iterations", "multires_noise_discount"}
    return idle | ({"huber_scale"} if _number(values.get("huber_scale")) == 1 else set())


def _adapter(values: Tables, words: Mapping[str, str], lost: list[str]) -> dict[str, Any]:
    """What kind of LoRA, and of which parts."""
    trains_text = not values.get("network_train_unet_only") and _number(values.get("text_encoder_lr", 1)) != 0
    found: dict[str, Any] = {"method.text_encoder": trains_text and not values.get("cache_text_encoder_outputs")}
    kind = str(values.get("LoRA_type", "standard")).casefold()
    algo = str(words.get("algo", "lora")).casefold()
    if kind not in _KINDS:
        lost.append(f"LoRA_type = {values['LoRA_type']}")
    found |= _KINDS.get(kind, {})
    if algo in ("loha", "lokr"):
        found["method.adapter"] = algo
    elif algo not in ("lora", "locon"):
        lost.append(f"algo = {algo}")
    if str(words.get("dora_wd", values.get("dora_wd", ""))).casefold() == "true" and "method.adapter" not in found:
        found["method.adapter"] = "dora"
    if conv := _positive(words.get("conv_dim")):
        found |= {"method.conv": True, "method.conv_rank": conv}
    if ratio := _positive(words.get("loraplus_lr_ratio")):
        found["method.lora_plus_ratio"] = ratio
    rates = values.get("text_encoder_lr")
    if isinstance(rates, list) and _are_two(rates):
        found["method.text_learning_rate_2"] = _number(rates[1]) or 0.0
    known = ("algo", "conv_dim", "dora_wd", "conv_alpha", "loraplus_lr_ratio")
    lost += [f"{name} = {value}" for name, value in words.items() if name not in known]
    return found


def _rate(values: Tables, taking: _Taking) -> None:
    """Warm-up as a share of the steps, weight decay from the optimizer's arguments, epochs that only images can tell."""
    steps = taking.settings.get("train.steps", 0)
    warmup = _number(values.get("lr_warmup_steps"))
    if share := _number(values.get("lr_warmup")):
        taking.settings["train.warmup"] = min(share / 100, 0.99)
    elif warmup and (warmup < 1 or steps):
        taking.settings["train.warmup"] = warmup if warmup < 1 else min(warmup / steps, 0.99)
    elif warmup:
        taking.lost.append(f"lr_warmup_steps = {warmup}")
    for name in ("lr_warmup", "lr_warmup_steps"):
        if (value := values.get(name)) not in (None, "") and _number(value) is None:
            taking.lost.append(f"{name} = {value}")
    for name, value in _pairs(values.get("optimizer_args")):
        if name == "weight_decay" and (decay := _number(value)) is not None:
            taking.settings["train.weight_decay"] = decay
        else:
            taking.lost.append(f"optimizer_args: {name} = {value}")


def _pairs(arguments: Any) -> Iterator[tuple[str, str]]:
    """`["a=1", "b=2"]`, or as one text."""
    listed = arguments.split() if isinstance(arguments, str) else arguments if isinstance(arguments, list) else []
    for one in listed:
        name, equals, value = str(one).partition("=")
        if equals:
            yield name.strip(), value.strip().strip("\"'")
