"""What a file is."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsuika import config, families, formats
from tsuika.core import safetensors
from tsuika.core.errors import ModelError
from tsuika.core.files import sha256
from tsuika.core.rundir import RunDir
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.core.weights import Weights, is_pickle, read_json
from tsuika.formats import common
from tsuika.formats.vae_file import CONFIG, VAE_FORMATS
from tsuika.methods import METHODS

if TYPE_CHECKING:
    from torch import Tensor

_FACTS = ("name", "trigger", "steps", "base_name", "prediction", "resolution", "date")  # of a run, for people


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
        method, unread = METHODS.get(artifact.method), common.unread_keys(artifact)
        return {
            "kind": artifact.method,
            "family": artifact.family,
            "family_from": artifact.metadata.get(common.FAMILY_FROM, ""),
            "format": known.name,
            **(method.describe(artifact) if method else {}),
            **({"unread_keys": unread} if unread else {}),
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
    # Read, not built: that would import a method from outside.
    recipe = config.read_tables(run.recipe)
    report = read_json(run.report_json) if run.report_json.is_file() else {}
    return {
        "kind": "run",
        "method": recipe["method"]["name"],
        "base": recipe["base"]["model"],
        "trigger": recipe["data"]["trigger"],
        "finished": bool(report),
        "stopped_by": report.get("stopped_by", ""),
        "steps_done": report.get("steps_done", 0),
        "artifacts": sorted(str(path.relative_to(run.root)) for path in run.artifacts.glob("*")),
    }
