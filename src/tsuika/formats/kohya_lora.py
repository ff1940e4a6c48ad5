"""The kohya layout: the LoRA `.safetensors` that ComfyUI, Forge, A1111, kohya sd-scripts and diffusers all load.

A key is `<prefix>_<module path, '.' as '_'>.<part>`. The UNet of SD1 and SD2 goes by its diffusers (HF) names, that of
SDXL by the original (LDM) ones: `lora_unet_input_blocks_4_1_...`. Reading takes both for every family.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core.errors import FormatError
from tsuika.core.types import Artifact
from tsuika.core.words import Words
from tsuika.formats import common, container

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_PREFIXES: Final = {  # family -> component -> prefix
    "sd1": {"unet": "lora_unet", "text_encoder": "lora_te"},
    "sd2": {"unet": "lora_unet", "text_encoder": "lora_te"},
    "sdxl": {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"},
}
_COMPONENTS: Final = {
    "lora_unet": "unet",
    "lora_te": "text_encoder",
    "lora_te1": "text_encoder",
    "lora_te2": "text_encoder_2",
}

# Module paths as templates; `#` stands for a number.
_ATTENTION: Final = (
    "proj_in",
    "proj_out",
    "transformer_blocks.#.ff.net.0.proj",
    "transformer_blocks.#.ff.net.2",
    *(f"transformer_blocks.#.attn{n}.to_{x}" for n in (1, 2) for x in ("q", "k", "v", "out.0")),
)
_RESNET: Final = {  # HF -> LDM
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE: Final = {  # HF -> LDM; kohya never trains them, LyCORIS can
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
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
        f"{block}.{leaf}"
        for block in ("input_blocks.#.0", "middle_block.0", "middle_block.2", "output_blocks.#.0")
        for leaf in _RESNET.values()
    ),
    "input_blocks.#.0.op",
    "output_blocks.#.1.conv",
    "output_blocks.#.2.conv",
    *_OUTSIDE.values(),
)
_CLIP: Final = (
    *(f"text_model.encoder.layers.#.self_attn.{x}_proj" for x in ("q", "k", "v", "out")),
    *(f"text_model.encoder.layers.#.mlp.fc{n}" for n in (1, 2)),
    "text_projection",
)
_OLD_CLIP: Final = tuple(name.removeprefix("text_model.") for name in _CLIP[:-1])  # written through transformers 5
_NUMBER: Final = r"(0|[1-9]\d{0,2})"
_PER_BLOCK: Final = 3  # LDM blocks per HF block: two resnets (three going up) and a resampler, SD1 to SDXL alike


@functools.cache
def _patterns(unet: bool) -> tuple[tuple[re.Pattern[str], str], ...]:
    def compiled(template: str) -> tuple[re.Pattern[str], str]:
        pieces = (_NUMBER if piece == "#" else re.escape(piece) for piece in template.split("."))
        return re.compile("_".join(pieces)), template

    return tuple(map(compiled, (*_HF, *_LDM) if unet else (*_CLIP, *_OLD_CLIP)))


def dotted(component: str, underscored: str) -> str | None:
    """The canonical module path behind an underscored name in HF or LDM spelling; None if there is none.

    Exact: every name fits at most one template, so `to_out_0` or `time_emb_proj` are never split wrongly.
    """
    for pattern, template in _patterns(component == "unet"):
        if match := pattern.fullmatch(underscored):
            numbers = iter(match.groups())
            path = ".".join(next(numbers) if piece == "#" else piece for piece in template.split("."))
            if template in _LDM:
                return _hf_from_ldm(path)
            return f"text_model.{path}" if template in _OLD_CLIP else path
    return None


def _hf_from_ldm(path: str) -> str | None:
    if path in _OUTSIDE.values():
        return next(hf for hf, ldm in _OUTSIDE.items() if ldm == path)
    block, first, rest = path.split(".", 2)
    n = int(first)
    if block == "middle_block":
        hf = f"mid_block.attentions.0.{rest}" if n == 1 else f"mid_block.resnets.{n // 2}.{rest}"
    elif block == "input_blocks":
        i, j = divmod(n - 1, _PER_BLOCK)
        slot, leaf = rest.split(".", 1)
        if n == 0 or (leaf == "op") != (j == _PER_BLOCK - 1):
            return None
        kind = "attentions" if slot == "1" else "resnets"
        hf = f"down_blocks.{i}.downsamplers.0.conv" if leaf == "op" else f"down_blocks.{i}.{kind}.{j}.{leaf}"
    else:
        i, j = divmod(n, _PER_BLOCK)
        slot, leaf = rest.split(".", 1)
        if leaf == "conv" and j != _PER_BLOCK - 1:
            return None
        kind = "attentions" if slot == "1" else "resnets"
        hf = f"up_blocks.{i}.upsamplers.0.conv" if leaf == "conv" else f"up_blocks.{i}.{kind}.{j}.{leaf}"
    for name, ldm in _RESNET.items():
        hf = hf.removesuffix(f".{ldm}") + f".{name}" if hf.endswith(f".{ldm}") else hf
    return hf


def _ldm_from_hf(path: str) -> str | None:
    if path in _OUTSIDE:
        return _OUTSIDE[path]
    match = re.fullmatch(r"(down_blocks\.(\d+)|mid_block|up_blocks\.(\d+))\.(\w+)\.(\d+)\.(.+)", path)
    if match is None:
        return None
    block, down, up, kind, number, leaf = match.groups()
    j, leaf = int(number), _RESNET.get(leaf, leaf)
    if block == "mid_block":
        return f"middle_block.{1 if kind == 'attentions' else 2 * j}.{leaf}"
    if kind == "downsamplers":
        return f"input_blocks.{_PER_BLOCK * (int(down) + 1)}.0.op"
    if kind == "upsamplers":  # 2: after the attention, which every upsampling block of SDXL has
        return f"output_blocks.{_PER_BLOCK * int(up) + 2}.2.conv"
    slot = 1 if kind == "attentions" else 0
    if down is not None:
        return f"input_blocks.{_PER_BLOCK * int(down) + j + 1}.{slot}.{leaf}"
    return f"output_blocks.{_PER_BLOCK * int(up) + j}.{slot}.{leaf}"


def layer_name(family: str, component: str, path: str) -> str | None:
    """kohya's name of a layer, without the part: `lora_unet_mid_block_attentions_0_proj_in`; None if it has none."""
    prefix = _PREFIXES.get(family, {}).get(component)
    if prefix is None:
        return None
    path_there = _ldm_from_hf(path) if family == "sdxl" and component == "unet" else path
    if path_there is None or dotted(component, path_there.replace(".", "_")) != path:
        return None
    return f"{prefix}_{path_there.replace('.', '_')}"


def _split_key(key: str) -> tuple[str, str, str] | None:
    name, _, part = key.partition(".")
    match = re.fullmatch(r"(lora_(?:unet|te[12]?))_(.+)", name)
    if match is None or part not in common.PARTS:
        return None
    component = _COMPONENTS[match[1]]
    path = dotted(component, match[2])
    return None if path is None else (component, path, part)


# fact (a field of common.RunFacts) -> header key, where the text is the same
_FACTS: Final = {
    "name": "ss_output_name",
    "trigger": "modelspec.trigger_phrase",
    "description": "modelspec.description",
    "author": "modelspec.author",
    "license": "modelspec.license",
    "tags": "modelspec.tags",
    "date": "modelspec.date",
    "started_at": "ss_training_started_at",
    "finished_at": "ss_training_finished_at",
    "base_name": "ss_sd_model_name",
    "base_sha256": "ss_new_sd_model_hash",
    "base_legacy_hash": "ss_sd_model_hash",
    "vae_name": "ss_vae_name",
    "vae_sha256": "ss_new_vae_hash",
    "dropout": "ss_network_dropout",
    "pictures": "ss_num_train_images",
    "steps": "ss_steps",
    "max_steps": "ss_max_train_steps",
    "epochs": "ss_num_epochs",
    "batch_size": "ss_total_batch_size",
    "accumulate": "ss_gradient_accumulation_steps",
    "learning_rate": "ss_learning_rate",
    "unet_learning_rate": "ss_unet_lr",
    "text_learning_rate": "ss_text_encoder_lr",
    "optimizer": "ss_optimizer",
    "schedule": "ss_lr_scheduler",
    "warmup_steps": "ss_lr_warmup_steps",
    "min_snr_gamma": "ss_min_snr_gamma",
    "noise_offset": "ss_noise_offset",
    "clip_norm": "ss_max_grad_norm",
    "max_norm": "ss_scale_weight_norms",
    "caption_dropout": "ss_caption_dropout_rate",
    "precision": "ss_mixed_precision",
    "gradient_checkpointing": "ss_gradient_checkpointing",
    "cache_latents": "ss_cache_latents",
    "clip_skip": "ss_clip_skip",
    "max_token_length": "ss_max_token_length",
    "seed": "ss_seed",
    "comment": "ss_training_comment",
    "tag_frequency": "ss_tag_frequency",
    "bucket_info": "ss_bucket_info",
    "dataset_dirs": "ss_dataset_dirs",
}
_TABLES: Final = ("tag_frequency", "bucket_info", "dataset_dirs")
_VERSIONS: Final = {  # (family, v-prediction) -> ss_base_model_version, modelspec.architecture, pixels
    ("sd1", False): ("sd_v1", "stable-diffusion-v1", 512),
    ("sd1", True): ("sd_v1_v", "stable-diffusion-v1", 512),
    ("sd2", False): ("sd_v2", "stable-diffusion-v2-512", 512),
    ("sd2", True): ("sd_v2_v", "stable-diffusion-v2-768-v", 768),
    ("sdxl", False): ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base", 1024),
    ("sdxl", True): ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base", 1024),
}
_SGM: Final = "https://github.com/Stability-AI/generative-models"  # the spec's name for SDXL's implementation


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _most_common(values: Iterable[float]) -> str:
    counted = Counter(values).most_common(1)
    return _number(counted[0][0]) if counted else "0"


def header_metadata(artifact: Artifact, layers: Mapping[tuple[str, str], Mapping[str, Tensor]]) -> dict[str, str]:
    """The `ss_*` and `modelspec.*` fields, without hashes: strings only, nothing looked up, sorted.

    What the artifact brought from another file under such names stays, unless it is known better here.
    """
    facts = artifact.metadata
    v = facts.get("prediction") == "v_prediction"
    version, architecture, pixels = _VERSIONS[artifact.family, v]
    ranks: dict[bool, list[float]] = {True: [], False: []}
    alphas: dict[bool, list[float]] = {True: [], False: []}
    for parts in layers.values():
        if (down := parts.get("lora_down.weight")) is None:
            down = next((parts[name] for name in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b") if name in parts), None)
        is_3x3 = down is not None and down.ndim == 4 and down.shape[2:].numel() > 1
        if down is not None:
            ranks[is_3x3].append(down.shape[0])
        if "alpha" in parts:
            alphas[is_3x3].append(float(parts["alpha"]))
    kind = common.adapter(artifact.tensors)
    args: dict[str, str] = {} if kind == "lora" else {"algo": "lora" if kind == "dora" else kind}
    if kind == "dora":
        args["dora_wd"] = "True"
    if ranks[True]:
        args |= {"conv_dim": _most_common(ranks[True]), "conv_alpha": _most_common(alphas[True])}
    kept = {key: text for key, text in facts.items() if key.startswith(("ss_", "ssmd_", "modelspec."))}
    made = {key: _text(fact, facts[fact]) for fact, key in _FACTS.items() if facts.get(fact)}
    width, _, height = facts.get("resolution", f"{pixels}x{pixels}").partition("x")
    made |= {
        "ss_v2": str(artifact.family == "sd2"),
        "ss_base_model_version": version,
        "ss_network_module": "networks.lora" if kind == "lora" else "lycoris.kohya",
        "ss_network_dim": facts.get("rank") or _most_common(ranks[False] or ranks[True]),
        "ss_network_alpha": facts.get("alpha") or _most_common(alphas[False] or alphas[True]),
        "ss_network_args": json.dumps(args),
        "ss_resolution": f"({width}, {height or width})",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": _SGM if artifact.family == "sdxl" else "diffusers",
        "modelspec.title": _text("title", facts.get("title") or facts.get("name") or "LoRA"),
        "modelspec.resolution": f"{width}x{height or width}",
        "modelspec.prediction_type": "v" if v else "epsilon",
    }
    if clip_skip := facts.get("clip_skip"):
        made["modelspec.encoder_layer"] = clip_skip
    return dict(sorted((kept | made).items()))


def _text(fact: str, text: str) -> str:
    # A1111 parses every value that begins with a brace as JSON.
    return f" {text}" if text.startswith("{") and fact not in _TABLES else text


def _facts_from(metadata: Mapping[str, str]) -> dict[str, str]:
    found = {fact: metadata[key] for fact, key in _FACTS.items() if metadata.get(key, "None") != "None"}
    direct = {
        "rank": "ss_network_dim",
        "alpha": "ss_network_alpha",
        "title": "modelspec.title",
        "resolution": "modelspec.resolution",
    }
    found |= {fact: metadata[key] for fact, key in direct.items() if metadata.get(key, "None") != "None"}
    if "resolution" not in found and (size := re.fullmatch(r"\((\d+), ?(\d+)\)", metadata.get("ss_resolution", ""))):
        found["resolution"] = f"{size[1]}x{size[2]}"
    if kind := metadata.get("modelspec.prediction_type"):
        found["prediction"] = "v_prediction" if kind.startswith("v") else "epsilon"
    elif metadata.get("ss_base_model_version", "").endswith("_v"):
        found["prediction"] = "v_prediction"
    return found


def _family(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    version, architecture = metadata.get("ss_base_model_version", ""), metadata.get("modelspec.architecture", "")
    if version.startswith("sdxl_") or architecture.startswith("stable-diffusion-xl"):
        return "sdxl", "metadata"
    if version.startswith("sd_v2") or metadata.get("ss_v2") == "True" or architecture.startswith("stable-diffusion-v2"):
        return "sd2", "metadata"
    if version.startswith("sd_v1") or architecture.startswith("stable-diffusion-v1"):
        return "sd1", "metadata"
    return common.guess_family(tensors)


class KohyaLora:
    """The format. See `core.types.Format`."""

    name = "kohya"
    method = "lora"
    suffix = ".safetensors"

    def sniff(self, path: Path) -> bool:
        """Whether a key has one of kohya's prefixes."""
        if not path.is_file():
            return False
        try:
            header = container.read_header(path)
        except FormatError:
            return False
        return any(re.match(r"lora_(unet|te[12]?)_\w+\.", key) for key in header.tensors)

    def read(self, path: Path) -> Artifact:
        """The artifact, tensors in the file's dtype; keys not understood are listed in metadata `unread_keys`.

        Metadata: everything in the header as it is, and the facts (`common.RunFacts`) under their own names.

        Raises:
            FormatError: damaged (MD003, MD005), nothing in it is understood (FM001).
        """
        header = container.read_header(path)
        names: dict[str, str] = {}
        unread: list[str] = []
        for key in header.tensors:
            if (split := _split_key(key)) is None:
                unread.append(key)
                continue
            name = ".".join(split)
            if name in names:
                raise common.doubled(path, names[name], key)
            names[name] = key
        if not names:
            expected = Words(
                "a LoRA for SD1.x, SD2.x or SDXL with kohya names", "kohyaの名前が付いたSD1.x・SD2.x・SDXL用のLoRA"
            )
            raise FormatError("FM001", where=path, found=common.strange(unread), expected=expected)
        loaded = container.load_tensors(path)
        tensors = {name: loaded[key] for name, key in names.items()}
        common.check_shapes(path, tensors)
        tensors |= {name: tensor.reshape(()) for name, tensor in tensors.items() if name.endswith(".alpha")}
        family, evidence = _family(header.metadata, tensors)
        metadata = header.metadata | _facts_from(header.metadata)
        metadata |= {common.FAMILY_FROM: evidence, "adapter": common.adapter(tensors)}
        if unread:
            metadata[common.UNREAD] = json.dumps(sorted(unread))
        return Artifact("lora", family, tensors, metadata)

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """Write whole or not at all; `alpha` is the effective one (rank-stabilised: alpha * sqrt(rank)).

        Raises:
            FormatError: the format cannot hold this artifact, or `dtype` its numbers (FM002).
        """
        common.refuse_unread(artifact, self.name)
        if artifact.family not in _PREFIXES:
            why = Words(
                f"There are no kohya names for the family `{artifact.family}`.",
                f"モデルの種類 `{artifact.family}` にはkohyaの名前がありません。",
            )
            raise FormatError("FM002", format=self.name, why=why, do=container.ANOTHER_FORMAT)
        layers = common.layers(artifact, self.name)
        tensors: dict[str, Any] = {}
        for (component, module_path), parts in layers.items():
            key = layer_name(artifact.family, component, module_path)
            if key is None:
                why = Words(
                    f"There is no kohya name for `{component}.{module_path}` of {artifact.family}.",
                    f"{artifact.family} の `{component}.{module_path}` にはkohyaの名前がありません。",
                )
                do = Words("Choose another format or other layers.", "別の形式か別の層を選んでください。")
                raise FormatError("FM002", format=self.name, why=why, do=do)
            for part, tensor in _representable(parts, dtype).items():
                tensors[f"{key}.{part}"] = tensor
        ready = container.cast(tensors, dtype, self.name)
        metadata = header_metadata(artifact, layers)
        training_only = {key: text for key, text in metadata.items() if key.startswith("ss_")}
        data_hash = container.data_hash(ready)
        metadata |= {
            "modelspec.hash_sha256": f"0x{data_hash}",
            "sshs_model_hash": data_hash,
            "sshs_legacy_hash": container.legacy_hash(ready, training_only),
        }
        container.save_tensors(path, ready, metadata)


def _representable(parts: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Parts in the shapes of the layout, and with an alpha that `dtype` holds exactly; ΔW stays the same."""
    result = dict(parts)
    if "dora_scale" in result:
        result["dora_scale"] = _dora_column(result)
    if "alpha" in result:
        alpha = result["alpha"].detach().float().reshape(())
        stored = alpha.to(dtype).float()
        result["alpha"] = alpha
        outer = next((n for n in ("lora_up.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a") if n in result), None)
        if outer is not None and stored != alpha and stored.isfinite() and stored != 0:
            result[outer] = result[outer].detach().float() * (alpha / stored)
    return result


def _dora_column(parts: Mapping[str, Tensor]) -> Tensor:
    """Magnitudes of outputs as LyCORIS has them, (out, 1[, 1, 1])."""
    scale, down = parts["dora_scale"], parts.get("lora_down.weight")
    return scale.reshape(-1, *[1] * (down.ndim - 1)) if scale.ndim == 1 and down is not None else scale
