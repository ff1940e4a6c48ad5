"""What a file is."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsuika import families, formats
from tsuika.core import config, safetensors
from tsuika.core.errors import ModelError
from tsuika.core.files import sha256
from tsuika.core.rundir import RunDir
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.core.weights import Weights, is_pickle, read_json
from tsuika.formats import common, lora
from tsuika.formats.vae_file import CONFIG, VAE_FORMATS

if TYPE_CHECKING:
    from torch import Tensor

_FACTS = ("name", "trigger", "steps", "base_name", "prediction", "resolution", "date")  # of RunFacts, for people


def inspect(file: Path) -> dict[str, Any]:
    """What a file or folder is, from names, shapes and metadata; nothing in it is ever run.

    A LoRA, an embedding, a hypernetwork, a whole model (file or folder), a VAE, or a run folder. Hashes are those by
    which model sites know a file: `autov2`, the first ten digits of its SHA-256; `autov3`, the first twelve of its
    tensors' alone.

    Raises:
        ModelError: not there (MD001), damaged (MD003), a pickle with code in it (MD005), of no known kind (MD002).
    """
    if not file.exists():
        raise ModelError("MD001", where=file, why=_("There is no such file or folder."))
    if file.is_dir() and RunDir(file).recipe.is_file():
        return _run(RunDir(file))
    if formats.is_artifact(file):
        known = formats.find(file)
        artifact = known.read(file)
        described = {"lora": _lora, "textual-inversion": _embedding, "hypernetwork": _hypernetwork}[artifact.method]
        return {
            "kind": artifact.method,
            "family": artifact.family,
            "family_from": artifact.metadata.get(common.FAMILY_FROM, ""),
            "format": known.name,
            **described(artifact),
            **{fact: artifact.metadata[fact] for fact in _FACTS if artifact.metadata.get(fact)},
            "tensors": len(artifact.tensors),
            "dtype": _dtypes(artifact.tensors.values()),
            **_hashes(file),
            "metadata": safetensors.read_header(file).metadata if _is_safetensors(file) else artifact.metadata,
        }
    for vae in VAE_FORMATS:
        if vae.sniff(file):
            return _vae(vae.read(file), vae.name, file)
    return _base(file)


def _dtypes(tensors: Iterable[Tensor]) -> str:
    """The number types, the most frequent first."""
    counted = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)
    return ", ".join(name for name, _count in counted.most_common())


def _is_safetensors(file: Path) -> bool:
    return file.is_file() and not is_pickle(file)


def _hashes(file: Path) -> dict[str, str]:
    """Of a file: sha256, autov2, autov3 (safetensors only); nothing for a folder."""
    if not file.is_file():
        return {}
    whole = sha256(file)
    hashes = {"sha256": whole, "autov2": whole[:10]}
    if _is_safetensors(file):
        with file.open("rb") as stream:
            stream.seek(8 + int.from_bytes(stream.read(8), "little"))
            digest = hashlib.sha256()
            while block := stream.read(1 << 20):
                digest.update(block)
        hashes["autov3"] = digest.hexdigest()[:12]
    return hashes


def _counted(values: Iterable[float]) -> dict[str, int]:
    """`{"16": 264}`: each value, how often."""
    return {f"{value:g}": number for value, number in sorted(Counter(values).items())}


def _lora(artifact: Artifact) -> dict[str, Any]:
    layers = lora.layers(artifact, "inspect")
    ranks = [len(inner) for parts in layers.values() if (inner := lora.inner_factor(parts)) is not None]
    alphas = [float(parts["alpha"]) for parts in layers.values() if "alpha" in parts]
    return {
        "adapter": lora.adapter(artifact.tensors),
        "layers": len(layers),
        "targets": dict(Counter(component for component, _path in layers)),
        "convolutions": sum("resnets" in path or "samplers" in path for _component, path in layers),
        "rank": _counted(ranks),
        "alpha": _counted(alphas),
        **({"unread_keys": json.loads(unread)} if (unread := artifact.metadata.get(common.UNREAD)) else {}),
    }


def _embedding(artifact: Artifact) -> dict[str, Any]:
    vectors = {tuple(name.rpartition(".")[::2]): tensor.float() for name, tensor in artifact.tensors.items()}
    return {
        "words": sorted({word for word, _component in vectors}),
        "vectors": max(len(tensor) for tensor in vectors.values()),
        "widths": {component: tensor.shape[1] for (_word, component), tensor in vectors.items()},
        "norms": {
            component: [round(float(n), 4) for n in tensor.norm(dim=1)]
            for (_word, component), tensor in vectors.items()
        },
    }


def _hypernetwork(artifact: Artifact) -> dict[str, Any]:
    fields = ("layer_structure", "activation_func", "is_layer_norm", "activate_output")
    return {
        "widths": sorted({int(name.partition(".")[0]) for name in artifact.tensors}),
        **{name: json.loads(artifact.metadata[name]) for name in fields if name in artifact.metadata},
    }


def _vae(artifact: Artifact, layout: str, file: Path) -> dict[str, Any]:
    sizes = json.loads(artifact.metadata[CONFIG])
    return {
        "kind": "vae",
        "format": layout,
        "latent_channels": sizes["latent_channels"],
        "widths": sizes["block_out_channels"],
        "latent_scale": sizes.get("scaling_factor", "not in such a file"),
        "tensors": len(artifact.tensors),
        "dtype": _dtypes(artifact.tensors.values()),
        **_hashes(file),
        "metadata": {key: text for key, text in artifact.metadata.items() if key != CONFIG},
    }


def _base(file: Path) -> dict[str, Any]:
    found = families.peek(file)
    unet = found.component("unet")
    if found.file is None:
        vae = (file / "vae").is_dir()
        metadata: Mapping[str, str] = {"_class_name": str(read_json(file / "model_index.json").get("_class_name", ""))}
    else:
        vae, metadata = unet.vae_prefix is not None, unet.metadata
    return {
        "kind": "base model",
        "family": found.facts.family,
        "title": found.facts.title,
        "prediction": found.prediction,
        "why_prediction": found.why_prediction,
        "zero_terminal_snr": found.zero_terminal_snr,
        "layout": found.kind,
        "vae": vae,
        "text_encoders": list(found.facts.text_encoders),
        "tensors": len(unet.shapes),
        "dtype": _unet_dtype(unet),
        **_hashes(file),
        "metadata": dict(metadata),
    }


def _unet_dtype(weights: Weights) -> str:
    name = next((n for n in ("model.diffusion_model.out.2.bias", "conv_out.bias") if n in weights.shapes), None)
    return str(weights.tensor(name).dtype).removeprefix("torch.") if name else ""


def _run(run: RunDir) -> dict[str, Any]:
    recipe = config.load(run.recipe)
    report = read_json(run.report_json) if run.report_json.is_file() else {}
    return {
        "kind": "run",
        "method": recipe.method.name,
        "base": recipe.base.model,
        "trigger": recipe.data.trigger,
        "finished": bool(report),
        "stopped_by": report.get("stopped_by", ""),
        "steps_done": report.get("steps_done", 0),
        "artifacts": sorted(str(path.relative_to(run.root)) for path in run.artifacts.glob("*")),
    }
