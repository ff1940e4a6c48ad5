"""kohya's names of a LoRA's layers, and its header. A name is the module path with '.' as '_', behind a prefix of the component.
The UNet of SD1 and SD2 goes by its diffusers (HF) names, that of SDXL by the original (LDM) ones; reading takes both for
every family and any number of blocks. The header is facts of a run as `ss_*` and `modelspec.*` fields."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Final

from tsuika import families
from tsuika.core.types import Artifact
from tsuika.diffusion import ldm
from tsuika.diffusion.adapters import adapter, inner_factor
from tsuika.families import FAMILIES, Family
from tsuika.formats import common, fused, lora
from tsuika.formats.lora import most_common

_UNET: Final = "lora_unet"
# Module paths as templates; `#` stands for a number. What kohya trains, and LyCORIS beside it.
_ATTENTION: Final = (
    "norm",
    "proj_in",
    "proj_out",
    *(f"transformer_blocks.#.norm{n}" for n in (1, 2, 3)),
    "transformer_blocks.#.ff.net.0.proj",
    "transformer_blocks.#.ff.net.2",
    *(f"transformer_blocks.#.attn{n}.to_{x}" for n in (1, 2) for x in ("q", "k", "v", "out.0")),
)
_RESNET: Final = tuple(ldm.RESNET)
_OUTSIDE: Final = ldm.UNET_ENDS
_HF: Final = (
    *(f"{block}.attentions.#.{leaf}" for block in ("down_blocks.#", "mid_block", "up_blocks.#") for leaf in _ATTENTION),
    *(f"{block}.resnets.#.{leaf}" for block in ("down_blocks.#", "mid_block", "up_blocks.#") for leaf in _RESNET),
    "down_blocks.#.downsamplers.0.conv",
    "up_blocks.#.upsamplers.0.conv",
    *_OUTSIDE,
)
_LDM: Final = (
    *(f"{block}.1.{leaf}" for block in ("input_blocks.#", "middle_block", "output_blocks.#") for leaf in _ATTENTION),
    *(
        f"{block}.{ldm.RESNET[leaf]}"
        for block in ("input_blocks.#.0", "middle_block.0", "middle_block.2", "output_blocks.#.0")
        for leaf in _RESNET
    ),
    "input_blocks.#.0.op",
    "output_blocks.#.1.conv",
    "output_blocks.#.2.conv",
    *_OUTSIDE.values(),
)
# SD3's: its original names, by which every program goes, and diffusers' by which some files go.
_MMDIT: Final = (*fused.ORIGINAL, *(f"transformer_blocks.#.{leaf}" for leaf in ldm.MMDIT_BLOCK), *ldm.MMDIT_ENDS)
_T5: Final = (
    *(f"encoder.block.#.layer.0.SelfAttention.{x}" for x in "qkvo"),
    *(f"encoder.block.#.layer.1.DenseReluDense.{x}" for x in ("wi_0", "wi_1", "wo")),
)
_CLIP: Final = (
    *(f"text_model.encoder.layers.#.self_attn.{x}_proj" for x in ("q", "k", "v", "out")),
    *(f"text_model.encoder.layers.#.mlp.fc{n}" for n in (1, 2)),
    *(f"text_model.encoder.layers.#.layer_norm{n}" for n in (1, 2)),
    "text_model.final_layer_norm",
    "text_projection",
)
# written through transformers 5
_FLAT_CLIP: Final = tuple(name.removeprefix("text_model.") for name in _CLIP[:-1])
_NUMBER: Final = r"(0|[1-9]\d{0,2})"
_PER_BLOCK: Final = 3  # LDM blocks per HF block: two resnets (three going up) and a resampler, SD1 to SDXL alike
# With an attention before each upsampler, as every upsampling block of SDXL has it.
_CONFIG: Final = {"layers_per_block": _PER_BLOCK - 1, "up_block_types": ["CrossAttnUpBlock2D"] * 1000}


@functools.cache
def _patterns(is_unet: bool) -> tuple[tuple[re.Pattern[str], str], ...]:
    def compiled(template: str) -> tuple[re.Pattern[str], str]:
        pieces = (_NUMBER if piece == "#" else re.escape(piece) for piece in template.split("."))
        return re.compile("_".join(pieces)), template

    return tuple(map(compiled, (*_HF, *_LDM, *_MMDIT) if is_unet else (*_CLIP, *_FLAT_CLIP, *_T5)))


@functools.lru_cache(maxsize=1 << 14)
def dotted(component: str, underscored: str) -> str | None:
    """The canonical module path behind an underscored name in HF or LDM spelling; None if there is none. Exact: every
    name fits at most one template, so `to_out_0` or `time_emb_proj` are never split wrongly. SD3's original names stay,
    as a layer of theirs may be three (`fused`)."""
    for pattern, template in _patterns(component == "unet"):
        if match := pattern.fullmatch(underscored):
            numbers = iter(match.groups())
            path = ".".join(next(numbers) if piece == "#" else piece for piece in template.split("."))
            if template in _LDM:
                return _hf_from_ldm(path)
            return f"text_model.{path}" if template in _FLAT_CLIP else path
    return None


def _hf_from_ldm(path: str) -> str | None:
    """The HF path of a layer in the original layout: the one that `ldm.unet_place` puts there."""
    for hf, there in _OUTSIDE.items():
        if there == path:
            return hf
    block, number, rest = path.split(".", 2)
    n = int(number)
    if block == "middle_block":
        hf = f"mid_block.attentions.0.{rest}" if n == 1 else f"mid_block.resnets.{n // 2}.{rest}"
    else:
        way, (i, j) = ("down", divmod(n - 1, _PER_BLOCK)) if block == "input_blocks" else ("up", divmod(n, _PER_BLOCK))
        slot, leaf = rest.split(".", 1)
        is_sampler, is_last = leaf in ("op", "conv"), j == _PER_BLOCK - 1
        if n - (way == "down") < 0 or (is_sampler and not is_last) or (way == "down" and is_last and not is_sampler):
            return None
        kind = f"attentions.{j}" if slot == "1" else f"resnets.{j}"
        hf = f"{way}_blocks.{i}." + (f"{way}samplers.0.conv" if is_sampler else f"{kind}.{leaf}")
    for name in _RESNET:
        hf = re.sub(rf"\.{re.escape(ldm.RESNET[name])}$", f".{name}", hf)
    return hf


def _ldm_from_hf(path: str) -> str | None:
    try:
        return ldm.unet_place(f"{path}.weight", _CONFIG).name.removesuffix(".weight")
    except KeyError:
        return None


def layer_name(family_name: str, component: str, path: str) -> str | None:
    """kohya's name of a layer, without the part: `lora_unet_mid_block_attentions_0_proj_in`; None if it has none."""
    kind = families.family(family_name)
    prefixes = {"unet": _UNET} | {tower.component: tower.kohya for tower in kind.towers}
    is_ldm = component == "unet" and kind.names.has_ldm_lora and not kind.network.joins_streams
    there = _ldm_from_hf(path) if is_ldm else path
    if component not in prefixes or there is None or dotted(component, there.replace(".", "_")) != path:
        return None
    return f"{prefixes[component]}_{there.replace('.', '_')}"


# fact -> header key, where the text is the same; facts of a run: `common.run_facts`
_FACTS: Final = (
    {
        "name": "ss_output_name",
        "trigger": "modelspec.trigger_phrase",
        "started_at": "ss_training_started_at",
        "finished_at": "ss_training_finished_at",
        "base_name": "ss_sd_model_name",
        "base_sha256": "ss_new_sd_model_hash",
        "base_legacy_hash": "ss_sd_model_hash",
        "vae_sha256": "ss_new_vae_hash",
        "t5_tokens": "ss_t5xxl_max_token_length",
        "dropout": "ss_network_dropout",
        "pictures": "ss_num_train_images",
        "max_steps": "ss_max_train_steps",
        "epochs": "ss_num_epochs",
        "total_batch_size": "ss_total_batch_size",
        "batch_size_per_device": "ss_batch_size_per_device",
        "accumulate": "ss_gradient_accumulation_steps",
        "unet_learning_rate": "ss_unet_lr",
        "text_learning_rate": "ss_text_encoder_lr",
        "schedule": "ss_lr_scheduler",
        "warmup_steps": "ss_lr_warmup_steps",
        "clip_norm": "ss_max_grad_norm",
        "max_norm": "ss_scale_weight_norms",
        "caption_dropout": "ss_caption_dropout_rate",
        "precision": "ss_mixed_precision",
        "comment": "ss_training_comment",
    }
    | {name: f"modelspec.{name}" for name in ("description", "author", "license", "tags", "date")}
    | {
        name: f"ss_{name}"
        for name in (
            *("vae_name", "steps", "learning_rate", "optimizer", "min_snr_gamma", "noise_offset", "ip_noise_gamma"),
            *("gradient_checkpointing", "cache_latents", "clip_skip", "zero_terminal_snr", "max_token_length"),
            *("seed", "tag_frequency", "bucket_info", "dataset_dirs"),
        )
    }
)
_TABLES: Final = ("tag_frequency", "bucket_info", "dataset_dirs")
# the same, but written in another way than read
_READ_ONLY: Final = {
    "rank": "ss_network_dim",
    "alpha": "ss_network_alpha",
    "title": "modelspec.title",
    "resolution": "modelspec.resolution",
}


def header_metadata(artifact: Artifact, layers: Mapping[lora.Key, lora.Parts]) -> dict[str, str]:
    """The `ss_*` and `modelspec.*` fields, without hashes: strings only, nothing looked up, sorted. What the artifact
    brought from another file under such names stays, unless it is known better here."""
    facts, family = artifact.metadata, families.family(artifact.family)
    prediction = common.prediction_of(facts)
    ranks: dict[bool, list[float]] = {True: [], False: []}
    alphas: dict[bool, list[float]] = {True: [], False: []}
    for parts in layers.values():
        inner = inner_factor(parts)
        is_3x3 = inner is not None and inner.ndim == 4 and inner.shape[2:].numel() > 1
        if inner is not None:
            ranks[is_3x3].append(inner.shape[0])
            alphas[is_3x3].append(float(parts.get("alpha", len(inner))))
    kind = adapter(artifact.tensors)
    kinds = kind.split("+")
    args: dict[str, str] = {} if kind == "lora" else {"algo": kinds[0].replace("dora", "lora")}
    if "dora" in kinds:
        args["dora_wd"] = "True"
    if ranks[True]:
        args |= {"conv_dim": str(most_common(ranks[True])), "conv_alpha": str(most_common(alphas[True]))}
    kept = {key: text for key, text in facts.items() if key.startswith(("ss_", "ssmd_", "modelspec.", "tsuika."))}
    made = {key: _text(fact, facts[fact]) for fact, key in _FACTS.items() if facts.get(fact)}
    architecture = facts.get("architecture") or family.names.modelspec.get(
        prediction, family.names.modelspec["epsilon"]
    )
    pixels = family.geometry(prediction).native_size_px
    width, _x, height = facts.get("resolution", f"{pixels}x{pixels}").partition("x")
    made |= {
        "ss_v2": str("--v2" in family.names.sd_scripts),
        "ss_base_model_version": family.names.kohya_version.get(prediction, family.names.kohya_version["epsilon"]),
        "ss_network_module": "networks.lora" if kind == "lora" else "lycoris.kohya",
        "ss_network_dim": facts.get("rank") or str(most_common(ranks[False] or ranks[True])),
        "ss_network_alpha": facts.get("alpha") or str(most_common(alphas[False] or alphas[True])),
        "ss_network_args": json.dumps(args),
        "ss_resolution": f"({width}, {height or width})",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": family.names.implementation if family.names.has_ldm_lora else "diffusers",
        "modelspec.title": _text("title", facts.get("title") or facts.get("name") or "LoRA"),
        "modelspec.resolution": f"{width}x{height or width}",
        "modelspec.prediction_type": common.PREDICTION_TYPES[prediction],
    }
    if clip_skip := facts.get("clip_skip"):
        made["modelspec.encoder_layer"] = clip_skip
    return dict(sorted((kept | made).items()))


def _text(fact: str, text: str) -> str:
    # A1111 parses every value that begins with a brace as JSON.
    return f" {text}" if text.startswith("{") and fact not in _TABLES else text


def facts_from(metadata: Mapping[str, str]) -> dict[str, str]:
    """The facts of a run that a header names."""
    known = {**_FACTS, **_READ_ONLY}
    found = {fact: metadata[key] for fact, key in known.items() if metadata.get(key, "None") != "None"}
    if "resolution" not in found and (size := re.fullmatch(r"\((\d+), ?(\d+)\)", metadata.get("ss_resolution", ""))):
        found["resolution"] = f"{size[1]}x{size[2]}"
    if kind := metadata.get("modelspec.prediction_type"):
        found["prediction"] = {"v": "v_prediction", "f": "flow"}.get(kind[:1].lower(), "epsilon")
    elif metadata.get("ss_base_model_version", "").endswith("_v"):
        found["prediction"] = "v_prediction"
    return found


def named_family(metadata: Mapping[str, str]) -> Family | None:
    """The family that the header names; the newest that fits, as old trainers left `ss_v2` and the like behind."""
    if own := next((family for family in FAMILIES if family.name == metadata.get("family")), None):
        return own
    names = metadata.get("ss_base_model_version", ""), metadata.get("modelspec.architecture", "")
    is_v2 = metadata.get("ss_v2") == "True"
    for family in reversed(FAMILIES):
        if any(name.startswith(family.names.beginnings) for name in names):
            return family
        if is_v2 and "--v2" in family.names.sd_scripts:
            return family
    return None
