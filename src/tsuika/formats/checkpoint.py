"""Whole models: one `.safetensors` file in the original (LDM) layout, as every program loads them, or a diffusers folder.
A checkpoint is a base: it is written here and read by `families`. Key sets, shapes and markers of v-prediction are those
of CompVis, Stability AI and open_clip; see `diffusion.ldm`."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import safetensors
from tsuika.core.errors import FormatError
from tsuika.core.files import whole, write_text
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.core.weights import UNET_PREFIX, VAE_PREFIXES
from tsuika.diffusion import ldm
from tsuika.families import FAMILIES, family, parts
from tsuika.formats import common, provenance

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_SIZES: Final = (
    *("unet_config", "vae_config", "native_size_px"),
    *dict.fromkeys(f"{tower.component}_config" for row in FAMILIES for tower in row.towers),
)
_LOGIT_SCALE: Final = math.log(100)  # CLIP's upper limit, which trained models reach (Radford et al. 2021, 2.5)


@dataclass
class Row:
    """A tensor of the file: its shape, and the canonical tensors that it is made of (three if fused)."""

    shape: tuple[int, ...]
    parts: list[Tensor] = field(default_factory=list)
    transposed: bool = False
    swapped: bool = False  # see `ldm.Place`

    def numbers(self) -> Tensor:
        """The tensor itself."""
        import torch

        whole = torch.cat(self.parts) if len(self.parts) > 1 else self.parts[0]
        whole = ldm.halves_swapped(whole) if self.swapped else whole
        return (whole.T if self.transposed else whole).reshape(self.shape)


def rows(artifact: Artifact) -> dict[str, Row]:
    """Every tensor of the file by its full name there, nothing computed yet (meta tensors will do). Raises FormatError:
    the layout has no place for a tensor (FM002)."""
    common.refuse_no_model(artifact, SingleFile.name)
    configs = {key: json.loads(text) for key, text in artifact.metadata.items() if key.endswith("_config")}
    kind = family(artifact.family)
    towers = {tower.component: tower for tower in kind.towers}
    found: dict[str, Row] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for name, tensor in artifact.tensors.items():
        component, _dot, path = name.partition(".")
        try:
            if component == "unet":
                place = kind.network.place(path, configs["unet_config"]).under(UNET_PREFIX)
            elif component == "vae":
                place = ldm.vae_place(path, configs["vae_config"]).under(VAE_PREFIXES[0])
            elif component in towers:
                if towers[component].unit_projection and path == "text_projection.weight" and _is_unit(tensor):
                    continue
                place = towers[component].place(path)
            else:
                continue  # the base's extra tensors, below
        except (KeyError, TypeError):
            why, do = _("There is no place for `{name}`.", name=name), _("Use the diffusers folder.")
            raise FormatError("FM002", format=SingleFile.name, why=why, do=do) from None
        if place.third is not None:
            thirds.setdefault(place.name, {})[place.third] = tensor
        elif component == "vae" and ".attn_1." in place.name and tensor.ndim == 2:
            found[place.name] = Row((*tensor.shape, 1, 1), [tensor])  # 1x1 convolutions there
        else:
            shape = tuple(reversed(tensor.shape)) if place.transposed else tuple(tensor.shape)
            found[place.name] = Row(shape, [tensor], place.transposed, place.swapped)
            if component in towers and path in parts.T5_SECOND:
                # diffusers wants T5's vocabulary under both of its names.
                found[towers[component].place(parts.T5_SECOND[path]).name] = found[place.name]
    for name, three in thirds.items():
        three_parts = [three[number] for number in range(3)]
        found[name] = Row((3 * three_parts[0].shape[0], *three_parts[0].shape[1:]), three_parts)
    return found | _unused(artifact, found)


def _is_unit(matrix: Tensor) -> bool:
    """Whether it is the unit matrix; without numbers it counts as one."""
    import torch

    return matrix.is_meta or torch.equal(matrix, torch.eye(*matrix.shape, dtype=matrix.dtype, device=matrix.device))


def _unused(artifact: Artifact, found: Mapping[str, Row]) -> dict[str, Row]:
    """What open_clip's towers have and nothing computes with, but clients report as missing: the base's own, or made.
    SD2 reads before the last block, so a copy of the block before stands in for it, and the unit matrix for the
    projection."""
    import torch

    made: dict[str, Row] = {}
    for tower in family(artifact.family).towers:
        if tower.layout != "open_clip":
            continue
        prefix = tower.prefix
        made[f"{prefix}logit_scale"] = Row((), [torch.tensor(_LOGIT_SCALE)])
        if f"{prefix}text_projection" in found:
            continue
        block = re.compile(rf"{re.escape(prefix)}transformer\.resblocks\.(\d+)\.(.+)")
        blocks = [(int(match[1]), match[2], row) for name, row in found.items() if (match := block.fullmatch(name))]
        last = max(number for number, _rest, _row in blocks)
        made |= {f"{prefix}transformer.resblocks.{last + 1}.{rest}": row for n, rest, row in blocks if n == last}
        width = found[f"{prefix}ln_final.weight"].shape[0]
        made[f"{prefix}text_projection"] = Row((width, width), [torch.eye(width)])
    for name, tensor in artifact.tensors.items():
        component, _dot, key = name.partition(".")
        if component == "extra" and key in made:
            made[key] = Row(tuple(tensor.shape), [tensor])
    return made


def markers(artifact: Artifact) -> tuple[str, ...]:
    """Names of the empty tensors by which ComfyUI and Forge know an SDXL that predicts v."""
    if artifact.metadata.get("prediction") != "v_prediction":
        return ()
    scheduler = json.loads(artifact.metadata.get("scheduler_config", "{}"))
    return family(artifact.family).names.v_markers[: 2 if scheduler.get("rescale_betas_zero_snr") else 1]


def header_metadata(artifact: Artifact) -> dict[str, str]:
    """`modelspec.*` fields. Source: Stability AI's ModelSpec 1.0.1."""
    facts, names = artifact.metadata, family(artifact.family).names
    prediction = common.prediction_of(facts)
    native = facts.get("native_size_px", "")
    optional = {"trigger_phrase": "trigger"} | {
        key: key for key in ("description", "author", "license", "tags", "date")
    }
    made = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": facts.get("architecture")
        or names.modelspec.get(prediction, names.modelspec["epsilon"]),
        "modelspec.implementation": names.implementation,
        "modelspec.title": facts.get("title") or facts.get("name") or "DreamBooth",
        "modelspec.resolution": facts.get("resolution") or f"{native}x{native}",
        "modelspec.prediction_type": common.PREDICTION_TYPES[prediction],
        ldm.CONFIGS: json.dumps({name: json.loads(facts[name]) for name in sorted(facts) if name in _SIZES}),
        **({"tsuika.t5_tokens": facts["t5_tokens"]} if "t5_tokens" in facts else {}),
        **provenance.carried(facts),
        **{f"modelspec.{key}": facts[fact] for key, fact in optional.items() if facts.get(fact)},
    }
    return dict(sorted(made.items()))


class SingleFile(common.WriteOnly):
    """The format. See `core.types.Format`."""

    name = "single-file"
    method = "dreambooth"
    suffix = ".safetensors"

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """Write whole or not at all, tensor by tensor; with `<stem>.yaml` beside it where the model predicts v, else
        without one: that of another model would be read as this one's. Raises FormatError: no place for a tensor, or
        `dtype` cannot hold it (FM002)."""
        import torch

        planned = rows(artifact)
        empty = {name: torch.empty(row.shape, dtype=dtype, device="meta") for name, row in planned.items()}
        empty |= {name: torch.empty(0, dtype=dtype, device="meta") for name in markers(artifact)}

        def make(name: str) -> Tensor:
            if name not in planned:
                return torch.empty(0, dtype=dtype)
            return safetensors.cast({name: planned[name].numbers()}, dtype, self.name)[name]

        safetensors.save_tensors(path, empty, header_metadata(artifact), make)
        if artifact.metadata.get("prediction") == "v_prediction":
            write_text(path.with_suffix(".yaml"), yaml_text(artifact))
        else:
            path.with_suffix(".yaml").unlink(missing_ok=True)

    def notes(self, artifact: Artifact) -> Iterator[str]:
        has_extra = any(name.startswith("extra.") for name in artifact.tensors)
        # Of OpenCLIP-H (SD2) single files hold a last block and a projection that nothing computes with.
        towers = family(artifact.family).towers
        if any(tower.layout == "open_clip" and not tower.projected for tower in towers) and not has_extra:
            yield "FM006"


class DiffusersFolder(common.WriteOnly):
    """A diffusers folder, tensors named as transformers 4 and every client expect (`text_model.`). See `core.types.Format`."""

    name = "diffusers"
    method = "dreambooth"
    suffix = ""

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """Write whole or not at all, tensor by tensor; a model folder that is already at `path` is replaced."""
        common.refuse_no_model(artifact, self.name)
        with whole(path) as temporary:
            self._write(artifact, temporary, dtype)
            if (path / "model_index.json").is_file():
                shutil.rmtree(path)

    def _write(self, artifact: Artifact, folder: Path, dtype: torch.dtype) -> None:
        import torch

        facts = artifact.metadata
        kind = family(artifact.family)
        index: dict[str, Any] = {**kind.names.model_index, "_diffusers_version": "0.30.0"}
        if json.loads(facts["unet_config"]).get("in_channels") != kind.facts.latent_channels:
            index["_class_name"] = kind.names.inpainting_pipeline
        for tower in kind.towers:
            if tower.optional:
                index |= {tower.component: [None, None], tower.tokenizer: [None, None]}
        by_part: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in artifact.tensors.items():
            component, _dot, path = name.partition(".")
            if component != "extra":
                by_part.setdefault(component, {})[path] = tensor
        for component, tensors in by_part.items():
            config = json.loads(facts[f"{component}_config"])
            is_text = component.startswith("text_encoder")
            part = kind.network.part if component == "unet" else component
            _write_json(folder / part / "config.json", config)
            stem = "model" if is_text else "diffusion_pytorch_model"
            empty = {name: torch.empty(t.shape, dtype=dtype, device="meta") for name, t in tensors.items()}

            def make(name: str, tensors: dict[str, torch.Tensor] = tensors) -> torch.Tensor:
                return safetensors.cast({name: tensors[name]}, dtype, self.name)[name]

            metadata = {"format": "pt"} | (provenance.carried(facts) if component == "unet" else {})
            safetensors.save_tensors(folder / part / f"{stem}.safetensors", empty, metadata, make)
            index[part] = (
                ["transformers", config["architectures"][0]] if is_text else ["diffusers", config["_class_name"]]
            )
            if is_text:
                tokenizer = component.replace("text_encoder", "tokenizer")
                for file, text in json.loads(facts[f"{tokenizer}_files"]).items():
                    (folder / tokenizer).mkdir(exist_ok=True)
                    (folder / tokenizer / file).write_text(text, encoding="utf-8")
                index[tokenizer] = [
                    "transformers",
                    "T5TokenizerFast" if kind.tower(component).is_t5 else "CLIPTokenizer",
                ]
        scheduler = json.loads(facts["scheduler_config"])
        if facts["prediction"] != "flow":
            # Schedulers of flow have no such setting.
            scheduler["prediction_type"] = facts["prediction"]
        _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        index["scheduler"] = ["diffusers", scheduler.get("_class_name", "DDIMScheduler")]
        _write_json(folder / "model_index.json", index)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_yaml(source: Path, out: Path) -> bool:
    """Give a copy of a single file the `.yaml` that stands beside the original, or none; whether there was one to copy."""
    theirs, ours = source.with_suffix(".yaml"), out.with_suffix(".yaml")
    if theirs.is_file() and ours.exists() and ours.samefile(theirs):  # the copy stands beside the original
        return False
    if not theirs.is_file():
        ours.unlink(missing_ok=True)
        return False
    with whole(ours) as temporary:
        temporary.write_bytes(theirs.read_bytes())
    return True


def yaml_text(artifact: Artifact) -> str:
    """The model's configuration as the original programs read it, with v-prediction set."""
    facts = artifact.metadata
    configs = {key.removesuffix("_config"): json.loads(text) for key, text in facts.items() if key.endswith("_config")}
    make = family(artifact.family).original_config
    # Only a family that can predict v has a file that says so.
    assert make is not None
    model = make(configs, float(facts["latent_scale"]))
    return "\n".join(_yaml({"model": model})) + "\n"


def _yaml(value: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for key, one in value.items():
        if isinstance(one, Mapping) and one:
            yield f"{indent}{key}:"
            yield from _yaml(one, f"{indent}  ")
        elif isinstance(one, list) and one and isinstance(one[0], Mapping):
            yield f"{indent}{key}:"
            for item in one:
                first, *rest = _yaml(item, f"{indent}    ")
                yield from (f"{indent}  - {first.lstrip()}", *rest)
        else:
            yield f"{indent}{key}: {json.dumps(one)}"  # plain values of JSON are values of YAML
