"""What a file is."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika import config, families, formats
from tsuika.api import results
from tsuika.api.run import starts
from tsuika.core import safetensors
from tsuika.core.errors import ModelError
from tsuika.core.events import Event
from tsuika.core.files import sha256
from tsuika.core.rundir import RunDir
from tsuika.core.texts import _
from tsuika.core.types import Artifact
from tsuika.core.weights import Weights, is_pickle, read_json
from tsuika.evaluation import finished
from tsuika.formats import common
from tsuika.formats.vae_file import CONFIG, VAE_FORMATS
from tsuika.methods import METHODS

if TYPE_CHECKING:
    from torch import Tensor

# Of a run, for people.
_FACTS: Final = ("name", "trigger", "steps", "base_name", "prediction", "resolution", "date")


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """What a file or folder is.

    Attributes:
        kind: a method's name, `vae`, `base model` or `run`.
    """

    kind: str

    def to_dict(self) -> dict[str, Any]:
        """As in the command's `--json`."""
        return {"kind": self.kind} | results.to_dict(self)


@dataclass(frozen=True, kw_only=True)
class WeightsInfo(FileInfo):
    """A file or folder of weights.

    Attributes:
        tensors: how many; of a base model, in the UNet's file.
        dtype: number types, the most frequent first.
        sha256: None for a folder, and so are the next two.
        autov2: the first ten digits of `sha256`.
        autov3: the first twelve digits of the SHA-256 of the tensors alone; safetensors only.
        metadata: as it stands in the file.
    """

    tensors: int
    dtype: str
    sha256: str | None = None
    autov2: str | None = None
    autov3: str | None = None
    metadata: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ArtifactInfo(WeightsInfo):
    """A LoRA, an embedding, a hypernetwork, or what another method has made.

    Attributes:
        family: such as `sd1`.
        family_from: by what it was told, where the file does not say.
        format: its name in `formats`.
        details: what the method tells of it, such as ranks or words.
        unread_keys: that were not understood; None for none.
        facts: of the training run, as far as the file names them.
    """

    family: str
    family_from: str
    format: str
    details: Mapping[str, Any] = field(metadata={"flat": True})
    unread_keys: tuple[str, ...] | None = None
    facts: Mapping[str, str] = field(metadata={"flat": True})


@dataclass(frozen=True, kw_only=True)
class VaeInfo(WeightsInfo):
    """A VAE.

    Attributes:
        format: its name in `formats`.
        latent_channels: of its latents.
        widths: channels by depth.
        latent_scale: None where the file does not name it, as a single file.
    """

    format: str
    latent_channels: int
    widths: tuple[int, ...]
    latent_scale: float | None

    def to_dict(self) -> dict[str, Any]:
        """As in the command's `--json`."""
        scale = "not in such a file" if self.latent_scale is None else self.latent_scale
        return super().to_dict() | {"latent_scale": scale}


@dataclass(frozen=True, kw_only=True)
class BaseModelInfo(WeightsInfo):
    """A whole model.

    Attributes:
        family: such as `sd1`.
        title: of the family, for people.
        prediction: `epsilon` or `v_prediction`.
        why_prediction: by what it was told.
        zero_terminal_snr: whether the noise schedule ends in pure noise.
        layout: `single-file` or `diffusers`.
        vae: whether a VAE is in it.
        text_encoders: components of the family.
    """

    family: str
    title: str
    prediction: str
    why_prediction: str
    zero_terminal_snr: bool
    layout: str
    vae: bool
    text_encoders: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RunInfo(FileInfo):
    """A run folder.

    Attributes:
        method: its name.
        base: as in the recipe.
        trigger: the trigger word.
        finished: whether its report is written.
        stopped_by: `steps`, `guard`, `user` or `diverged`; empty if it is not finished.
        steps_done: 0 if it is not finished.
        artifacts: files and folders in `artifacts/`, relative to the run folder.
    """

    method: str
    base: str
    trigger: str
    finished: bool
    stopped_by: str
    steps_done: int
    artifacts: tuple[str, ...]


@starts(now=True)
def inspect(file: Path) -> Generator[Event, None, FileInfo]:
    """What a file or folder is, from names, shapes and metadata; nothing in it is ever run.

    A LoRA, an embedding, a hypernetwork, a whole model (file or folder), a VAE, or a run folder. Hashes are those by
    which model sites know a file: `autov2`, the first ten digits of its SHA-256; `autov3`, the first twelve of its
    tensors' alone.

    Returns:
        A run that is done, without events; its result is an `ArtifactInfo`, `BaseModelInfo`, `VaeInfo` or `RunInfo`.

    Raises:
        ModelError: not there (MD001), damaged (MD003), a pickle with code in it (MD005), of no known kind (MD002).
    """
    yield from ()
    if not file.exists():
        raise ModelError("MD001", where=file, why=_("There is no such file or folder."))
    if file.is_dir() and RunDir(file).recipe.is_file():
        return _run(RunDir(file))
    if formats.is_artifact(file):
        return _artifact(file)
    for vae in VAE_FORMATS:
        if vae.sniff(file):
            return _vae(vae.read(file), vae.name, file)
    return _base(file)


def _artifact(file: Path) -> ArtifactInfo:
    known = formats.find(file)
    artifact = known.read(file)
    method = METHODS.get(artifact.method)
    return ArtifactInfo(
        kind=artifact.method,
        family=artifact.family,
        family_from=artifact.metadata.get(common.FAMILY_FROM, ""),
        format=known.name,
        details=method.describe(artifact) if method else {},
        unread_keys=tuple(common.unread_keys(artifact)) or None,
        facts={fact: artifact.metadata[fact] for fact in _FACTS if artifact.metadata.get(fact)},
        tensors=len(artifact.tensors),
        dtype=_dtypes(artifact.tensors.values()),
        **_hashes(file),
        metadata=safetensors.read_header(file).metadata if _is_safetensors(file) else artifact.metadata,
    )


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


def _vae(artifact: Artifact, layout: str, file: Path) -> VaeInfo:
    sizes = json.loads(artifact.metadata[CONFIG])
    return VaeInfo(
        kind="vae",
        format=layout,
        latent_channels=sizes["latent_channels"],
        widths=tuple(sizes["block_out_channels"]),
        latent_scale=sizes.get("scaling_factor"),
        tensors=len(artifact.tensors),
        dtype=_dtypes(artifact.tensors.values()),
        **_hashes(file),
        metadata={key: text for key, text in artifact.metadata.items() if key != CONFIG},
    )


def _base(file: Path) -> BaseModelInfo:
    found = families.peek(file)
    unet = found.component("unet")
    if found.file is None:
        vae = (file / "vae").is_dir()
        metadata: Mapping[str, str] = {"_class_name": str(read_json(file / "model_index.json").get("_class_name", ""))}
    else:
        vae, metadata = unet.vae_prefix is not None, unet.metadata
    return BaseModelInfo(
        kind="base model",
        family=found.facts.family,
        title=found.facts.title,
        prediction=found.prediction,
        why_prediction=found.why_prediction,
        zero_terminal_snr=found.zero_terminal_snr,
        layout=found.kind,
        vae=vae,
        text_encoders=tuple(found.facts.text_encoders),
        tensors=len(unet.shapes),
        dtype=_unet_dtype(unet),
        **_hashes(file),
        metadata=dict(metadata),
    )


def _unet_dtype(weights: Weights) -> str:
    name = next((n for n in ("model.diffusion_model.out.2.bias", "conv_out.bias") if n in weights.shapes), None)
    return str(weights.tensor(name).dtype).removeprefix("torch.") if name else ""


def _run(run: RunDir) -> RunInfo:
    # Read, not built: that would import a method from outside.
    recipe = config.read_tables(run.recipe)
    report = finished.read(run.report_json) if run.report_json.is_file() else {}
    return RunInfo(
        kind="run",
        method=recipe["method"]["name"],
        base=recipe["base"]["model"],
        trigger=recipe["data"]["trigger"],
        finished=bool(report),
        stopped_by=report.get("stopped_by", ""),
        steps_done=report.get("steps_done", 0),
        artifacts=tuple(sorted(str(path.relative_to(run.root)) for path in run.artifacts.glob("*"))),
    )
