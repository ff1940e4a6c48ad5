"""What a file is."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tsuika import families, formats
from tsuika.api import status
from tsuika.api.run import JsonResult, at_once
from tsuika.core import kinds
from tsuika.core.errors import FormatError
from tsuika.core.files import sha256
from tsuika.core.rundir import RunDir
from tsuika.core.safetensors import TORCH_NAMES
from tsuika.core.texts import _
from tsuika.core.types import Artifact, FewSteps
from tsuika.core.weights import WEIGHT_SUFFIXES, Weights, is_pickle, open_weights, read_json
from tsuika.data.folder import IMAGES
from tsuika.evaluation import run_record
from tsuika.formats import common, provenance
from tsuika.formats.provenance import Provenance
from tsuika.formats.vae_file import CONFIG, VAE_FORMATS
from tsuika.generation import png_info
from tsuika.methods import METHODS

_FACTS: Final = ("name", "trigger", "steps", "base_name", "prediction", "resolution", "date")  # of a run, for people


@dataclass(frozen=True, kw_only=True)
class FileInfo(JsonResult):
    """What a file or folder is."""

    kind: str  # a method's name, `vae`, `base model` or `run`

    def to_dict(self) -> dict[str, Any]:
        """As in the command's `--json`."""
        return {"kind": self.kind} | super().to_dict()


@dataclass(frozen=True, kw_only=True)
class WeightsInfo(FileInfo):
    """A file or folder of weights."""

    tensors: int  # how many; of a base model, in the UNet's file
    dtype: str  # number types, the most frequent first
    sha256: str | None = None  # None for a folder, and so are the next two
    autov2: str | None = None  # the first ten digits of `sha256`
    autov3: str | None = None  # the first twelve digits of the SHA-256 of the tensors alone; safetensors only
    metadata: Mapping[str, str]  # as it stands in the file
    provenance: Provenance | None = None  # what it says of its training
    provenance_error: str | None = None  # why that cannot be read


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
        title: of the family, for people, and of its size where there are several.
        prediction: `epsilon` or `v_prediction`.
        why_prediction: by what it was told.
        zero_terminal_snr: whether the noise schedule ends in pure noise.
        inpaints: whether it also takes a mask and a masked image.
        layout: `single-file` or `diffusers`.
        vae: whether a VAE is in it.
        text_encoders: components that are in it.
        missing: what is not in it and must be given with it; None for nothing.
        few_steps: `turbo`, `lightning`, `hyper`, `lcm`, `tcd` or `dmd2` where something says that it was distilled to draw in
            a few steps; None where nothing does, and so are the next two.
        why_few_steps: by what it was told.
        drawn_with: steps, sampler and CFG, the same in every language.
    """

    family: str
    title: str
    prediction: str
    why_prediction: str
    zero_terminal_snr: bool
    inpaints: bool
    layout: str
    vae: bool
    text_encoders: tuple[str, ...]
    missing: tuple[str, ...] | None = None
    few_steps: str | None = None
    why_few_steps: str | None = None
    drawn_with: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunInfo(FileInfo):
    """A run folder.

    Attributes:
        method: its name.
        base: as in the recipe.
        trigger: the trigger word, of several sets all of them.
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


@dataclass(frozen=True, kw_only=True)
class OtherInfo(WeightsInfo):
    """Weights that the field knows, and that tsuika does not use: a ControlNet, a model of another family, a lone part.

    Attributes:
        title: what it is, in a sentence.
        use: what to do with it, or instead.
    """

    title: str
    use: str


@dataclass(frozen=True, kw_only=True)
class ImageInfo(FileInfo):
    """An image, and how it was made where it says so.

    Attributes:
        made: prompt, negative, steps, sampler and so on, as the file names them; empty where it says nothing.
    """

    made: Mapping[str, Any] = field(metadata={"flat": True})


@at_once
def inspect(file: Path) -> FileInfo:
    """What a file or folder is, from names, shapes and metadata; nothing in it is ever run.

    A LoRA, an embedding, a hypernetwork, a whole model (file or folder), a VAE, a run folder, weights of another kind, or an
    image, which may say how it was made.
    Its numbers are read once, to see that all are finite. Hashes are those by which model sites know a file: `autov2`, the
    first ten digits of its SHA-256; `autov3`, the first twelve of its tensors' alone.

    The result is an `ArtifactInfo`, `BaseModelInfo`, `VaeInfo`, `RunInfo`, `OtherInfo` or `ImageInfo`.

    Raises:
        FormatError: not there (FM004), of no known kind (MD002), NaN or infinite values in it (MD011).
        ModelError: damaged (MD003), a pickle that names programs (MD005).
    """

    if not file.exists():
        raise FormatError("FM004", where=file)
    if file.is_dir() and RunDir(file).recipe.is_file():
        return _run(RunDir(file))
    if formats.is_artifact(file):
        return _artifact(file)
    for vae in VAE_FORMATS:
        if vae.sniff(file):
            return _vae(vae.read(file), vae.name, file)
    if file.is_file():
        if file.suffix.lower() in IMAGES:
            return _image(file)
        opened = open_weights(file)
        if opened.kind.name in kinds.OF_METHODS:
            return _artifact(file)
        if opened.kind.name == "unknown":
            raise kinds.unlike(file, opened.kind, kinds.KNOWN)
        if opened.kind.name != kinds.CHECKPOINT.name:
            return _other(opened)
    return _base(file)


def _artifact(file: Path) -> ArtifactInfo:
    known = formats.find(file)  # or it says why none can read it
    artifact = known.read(file)
    method = METHODS.get(artifact.method)
    opened = _opened(file)
    return ArtifactInfo(
        kind=artifact.method,
        family=artifact.family,
        family_from=artifact.metadata.get(common.FAMILY_FROM, ""),
        format=known.name,
        details=method.describe(artifact) if method else {},
        unread_keys=tuple(common.unread_keys(artifact)) or None,
        facts={fact: artifact.metadata[fact] for fact in _FACTS if artifact.metadata.get(fact)},
        **_counted(opened),
        **_hashes(file),
        **_metadata(opened[0].metadata if opened and opened[0].metadata else artifact.metadata),
    )


def _opened(file: Path) -> list[Weights]:
    files = [file] if file.is_file() else sorted(path for path in file.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    return [open_weights(path) for path in files]


def _counted(opened: Sequence[Weights]) -> dict[str, Any]:
    values: Counter[str] = Counter()
    for weights in opened:
        for name, shape in weights.shapes.items():
            values[TORCH_NAMES.get(weights.dtypes[name], weights.dtypes[name])] += max(math.prod(shape), 1)
    return {"tensors": sum(len(weights.shapes) for weights in opened), "dtype": ", ".join(dict(values.most_common()))}


def _metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The metadata, and what it says of the training in a field of its own."""
    others = {key: text for key, text in metadata.items() if key != provenance.KEY}
    try:
        return {"metadata": others, "provenance": provenance.of(metadata)}
    except ValueError as error:
        return {"metadata": others, "provenance_error": str(error)}


def _hashes(file: Path) -> dict[str, Any]:
    """Of a file: sha256, autov2, autov3 (safetensors only); nothing for a folder."""
    if not file.is_file():
        return {}
    whole = sha256(file)
    hashes: dict[str, Any] = {"sha256": whole, "autov2": whole[:10]}
    if not is_pickle(file):
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
        **_counted(_opened(file)),
        **_hashes(file),
        **_metadata({key: text for key, text in artifact.metadata.items() if key != CONFIG}),
    )


def _other(opened: Weights) -> OtherInfo:
    kind = opened.kind
    _check(opened)
    return OtherInfo(
        kind=kind.name,
        title=kind.title,
        use=kind.use or _("tsuika has no use for it: it trains and uses SD 1.x, SD 2.x, SDXL and SD 3.x."),
        **_counted([opened]),
        **_hashes(opened.path),
        **_metadata(opened.metadata),
    )


def _base(file: Path) -> BaseModelInfo:
    found = families.peek(file)
    unet = found.component("unet")
    vae, metadata, parts = unet.vae_prefix is not None, unet.metadata, [unet]
    if found.file is None:
        vae = (file / "vae").is_dir()
        metadata = {**metadata, "_class_name": str(read_json(file / "model_index.json").get("_class_name", ""))}
        parts += map(found.component, [*(tower.component for tower in found.towers), *(["vae"] if vae else [])])
    for part in parts:
        _check(part)
    return BaseModelInfo(
        kind="base model",
        family=found.facts.family,
        title=found.title,
        prediction=found.prediction,
        why_prediction=found.why_prediction,
        zero_terminal_snr=found.zero_terminal_snr,
        inpaints=found.inpaints,
        layout=found.kind,
        vae=vae,
        text_encoders=tuple(tower.component for tower in found.towers),
        missing=None if vae else ("vae",),
        **_few_steps(found.few_steps),
        **_counted([unet]),
        **_hashes(file),
        **_metadata(metadata),
    )


def _few_steps(few: FewSteps | None) -> dict[str, Any]:
    if few is None:
        return {}
    drawn_with = f"{few.steps} × {few.sampler}, CFG {few.cfg:g}"
    return {"few_steps": few.kind, "why_few_steps": few.why, "drawn_with": drawn_with}


def _image(file: Path) -> ImageInfo:
    made = png_info.read(file)[0]
    values = {} if made is None else asdict(made) | {"size_px": made.size_px and "{}x{}".format(*made.size_px)}
    return ImageInfo(kind="image", made={key: value for key, value in values.items() if value not in (None, "", {})})


def _check(opened: Weights) -> None:
    """Read all numbers that belong to a part of a model; those of a noise schedule, without a dot, may be infinite."""
    for name in opened.shapes:
        if "." in name:
            opened.tensor(name)


def _run(run: RunDir) -> RunInfo:
    # Read, not built: that would import a method from outside.
    recipe = status.read_recipe(run)
    report = run_record.read_report(run.report_json) if run.report_json.is_file() else {}
    return RunInfo(
        kind="run",
        method=recipe["method"]["name"],
        base=recipe["base"]["model"],
        trigger=", ".join(status.triggers(recipe["data"])),
        finished=bool(report),
        stopped_by=report.get("stopped_by", ""),
        steps_done=report.get("steps_done", 0),
        artifacts=tuple(sorted(str(path.relative_to(run.root)) for path in run.artifacts.glob("*"))),
    )
