"""`convert`: one file as another."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tsuika import families, formats
from tsuika.api import writing
from tsuika.api.models import EMBEDDED, load
from tsuika.api.run import starts
from tsuika.api.writing import ModelFile
from tsuika.core import files, finite, safetensors
from tsuika.core.errors import FormatError, ModelError, check_least, needs
from tsuika.core.events import Event, Phase, Warned, note
from tsuika.core.files import at_home, sha256
from tsuika.core.texts import _
from tsuika.core.types import Artifact, Format
from tsuika.core.weights import open_weights
from tsuika.diffusion import adapters
from tsuika.formats import common, vae_file
from tsuika.formats.checkpoint import copy_yaml
from tsuika.formats.lowrank.merging import compress
from tsuika.methods import METHODS
from tsuika.training.device import DTYPES

PLAIN_RANK = 64  # of a plain LoRA that stands in for another kind; files of the field rarely go beyond
_PLAIN = {"lora_down.weight", "lora_up.weight", "alpha"}  # a layer of plain LoRA, as every program has it
_BESIDE = (".w_norm", ".b_norm", ".diff_b")  # changes of norms and biases, which a plain LoRA has no place for
_PLAIN_ERROR = 1e-3  # where a smaller rank reaches this, it is taken: half precision is no finer


@dataclass(frozen=True, kw_only=True)
class Converted(ModelFile):
    """What `convert` has written.

    Attributes:
        kind: a method's name, `vae`, or `base model`.
        family: such as `sd1`; None for a VAE.
        prediction: of a base model: `epsilon` or `v_prediction`.
        source: the format of the file that was read; `from` in JSON.
        notes: what was left out or assumed.
    """

    kind: str
    family: str | None = None
    prediction: str | None = None
    source: str = field(metadata={"json": "from"})
    notes: tuple[Warned, ...] = ()


@starts
def convert(
    file: Path,
    to: str,
    out: Path,
    *,
    dtype: str = "",
    lossy: bool = False,
    rank: int = PLAIN_RANK,
    base: str = "",
    tokenizer: str = "",
    overwrite: bool = False,
) -> Generator[Event, None, Converted]:
    """Write what a file holds in another format; the new file is read back and compared.

    Args:
        file: a LoRA, embedding, hypernetwork, whole model (file or folder) or VAE; never changed.
        to: kohya, diffusers, a1111, native or single-file.
        out: the file, or the folder, to make.
        dtype: fp16, bf16 or fp32; empty: as in the file.
        lossy: allow what changes the result: every other kind becomes plain LoRA by SVD, keys that were not understood
            are left out, words bundled in a LoRA get files beside `out`. The result says what it costs.
        rank: of that plain LoRA, at most.
        base: for DoRA, GLoRA, OFT and (IA)³, the base it was trained on; for a VAE, the base whose latent scale it keeps.
        tokenizer: folder, for a single-file model that becomes a diffusers folder.
        overwrite: replace `out`, if it is a file.

    Raises:
        FormatError: the target cannot hold it, or not without loss (FM002); not there (FM004).
        ModelError: damaged (MD003), a pickle with code in it (MD005), of no known kind (MD002).
        RecipeError: `out` exists (RC007), `rank` without `lossy` (RC002).
    """
    if not file.exists():
        raise FormatError("FM004", where=file)
    check_least("rank", rank)
    if rank != PLAIN_RANK and not lossy:
        raise needs("rank", rank, "--lossy")
    bases = [at_home(base)] if base else []
    if formats.is_artifact(file):
        source = formats.find(file)
        artifact = source.read(file)
        # A method from outside is not imported because a file names it; what all can be written as is known.
        also = METHODS[artifact.method].formats if artifact.method in METHODS else (formats.NATIVE,)
        target = _target(to, artifact.method, formats.for_method(artifact.method, also))
        files.check_out(out, file, *bases, overwrite=overwrite, suffix=target.suffix)
        notes: list[Warned] = []
        rest = writing.Rest({}, ())
        if artifact.method == formats.LORA[0].method:
            (artifact,), rest = writing.without_rest([(file, artifact)], out, lossy=lossy, overwrite=overwrite)
            notes += rest.notes
            artifact = _ready(artifact, target.name, lossy=lossy, rank=rank, base=base, notes=notes)
        yield from notes
        yield Phase("write")
        precision = writing.number_type(dtype, artifact.tensors)
        done = replace(writing.write(artifact, target, out, precision), words=rest.write(precision))
        about: dict[str, Any] = {"kind": artifact.method, "family": artifact.family, "source": source.name}
        return Converted(**vars(done), **about, notes=tuple(notes))
    for vae in vae_file.VAE_FORMATS:
        if vae.sniff(file):
            target = _target(to, "vae", vae_file.VAE_FORMATS)
            files.check_out(out, file, *bases, overwrite=overwrite, suffix=target.suffix)
            artifact, notes = _with_scale(vae.read(file), target.name, base)
            yield from notes
            yield Phase("write")
            done = writing.write(artifact, target, out, writing.number_type(dtype, artifact.tensors))
            return Converted(**vars(done), kind="vae", source=vae.name, notes=tuple(notes))
    return (yield from _model(file, to, out, dtype=dtype, tokenizer=tokenizer, overwrite=overwrite))


def peek(base: str) -> families.StoredBase:
    """What a base that is here is: `embedded`, a file or a folder; the hub is not asked.

    Raises:
        ModelError: not there (MD001), or no base.
    """
    path = EMBEDDED if base == "embedded" else at_home(base)
    if not path.exists():
        raise ModelError("MD001", where=base, why=_("There is no such file or folder."))
    return families.peek(path)


def _target(to: str, method: str, known: tuple[Format, ...]) -> Format:
    name = formats.SYNONYMS.get((method, to), to)
    for format_ in known:
        if format_.name == name:
            return format_
    why = _("It is no format for {method}.", method=method)
    do = _("Choose one with --to: {names}.", names=", ".join(format_.name for format_ in known))
    raise FormatError("FM002", format=to, why=why, do=do)


def _ready(artifact: Artifact, to: str, *, lossy: bool, rank: int, base: str, notes: list[Warned]) -> Artifact:
    """A LoRA as it will be written: as it is, or with `lossy` as a plain one with every key understood."""
    kind = adapters.adapter(artifact.tensors)
    layers = adapters.by_layer(artifact.tensors)
    is_plain = all(parts.keys() <= _PLAIN for parts in layers.values())
    if not lossy:
        common.refuse_unread(artifact, to)
        if to == "diffusers" and not is_plain and kind != "dora":
            this = kind if kind != "lora" else _("of Tucker form")
            why = _("diffusers loads plain LoRA only, and this is {kind}.", kind=this)
            do = _("Use --to kohya, or make it a plain LoRA: --lossy")
            raise FormatError("FM002", format=to, why=why, do=do)
        return artifact
    if is_plain:
        return artifact
    reads_weight = any(map(adapters.reads_weight, layers.values()))
    if reads_weight and not base:
        why = _("What {kind} does depends on the base's weights.", kind=kind)
        do = _("Name the base it was trained on: --base BASE")
        raise FormatError("FM002", format=to, why=why, do=do)
    plain, errors = compress(
        artifact, rank=rank, error=_PLAIN_ERROR, base=peek(base).weights() if reads_weight else None
    )
    if to == "diffusers" and (beside := [name for name in plain.tensors if name.endswith(_BESIDE)]):
        notes.append(note("FM007", keys=json.dumps(beside)))
        plain = replace(plain, tensors={name: plain.tensors[name] for name in plain.tensors if name not in beside})
    if errors:
        notes.append(note("FM008", kind=kind, rank=rank, error=writing.summary(errors)))
    return plain


def _with_scale(artifact: Artifact, to: str, base: str) -> tuple[Artifact, list[Warned]]:
    """A VAE with the latent scale that a diffusers folder names and a single file does not."""
    config = json.loads(artifact.metadata[vae_file.CONFIG])
    if to != "diffusers" or "scaling_factor" in config:
        return artifact, []
    first = families.FAMILIES[0]
    space, notes = (peek(base).geometry, []) if base else (first.geometry(first.prediction), [note("FM009")])
    config["scaling_factor"] = space.latent_scale
    if space.latent_shift:
        config["shift_factor"] = space.latent_shift
    return replace(artifact, metadata={**artifact.metadata, vae_file.CONFIG: json.dumps(config)}), notes


def _model(
    file: Path, to: str, out: Path, *, dtype: str, tokenizer: str, overwrite: bool
) -> Generator[Event, None, Converted]:
    found = families.peek(file)
    target = _target(to, formats.CHECKPOINTS[0].method, formats.CHECKPOINTS)
    copied = found.kind == target.name == "single-file"
    writing.free_model(out, file, overwrite=overwrite, suffix=target.suffix, copied=copied)
    about: dict[str, Any] = {
        "kind": "base model",
        "family": found.facts.family,
        "prediction": found.prediction,
        "source": found.kind,
    }
    if copied:
        yield Phase("write")
        done, notes = _repack(found, out, dtype)
        yield from notes
        return Converted(**vars(done), **about, notes=tuple(notes))
    yield Phase("load")
    stored = found.weights()
    precision = writing.number_type(dtype, {name: stored[name] for name in list(stored)[:1]})
    model = load(str(file), tokenizer=tokenizer, device="cpu", precision=precision)
    yield Phase("write")
    return Converted(**vars(writing.write_model(model, target, out, precision, {"title": file.stem})), **about)


def _repack(base: families.StoredBase, out: Path, dtype: str) -> tuple[ModelFile, list[Warned]]:
    """A single file as `.safetensors`, every tensor as it is under its own name (in another number type, if given)."""
    weights, is_v = base.component("unet"), base.prediction == "v_prediction"
    number_type = DTYPES[writing.number_type(dtype, {})] if dtype else None
    tensors = {}
    for name in weights.shapes:
        # Buffers of the noise schedule, which have no dot, are infinite at zero terminal SNR; nothing reads them.
        tensor = weights.raw(name)
        if "." in name:
            finite.check(weights.path, name, tensor)
        if number_type is not None and tensor.is_floating_point():
            tensor = safetensors.cast({name: tensor}, number_type, "single-file")[name]
        tensors[name] = tensor.clone(memory_format=torch.contiguous_format)  # torch files share storages
    metadata = dict(weights.metadata) | {"format": "pt"}
    notes = []
    if is_v:
        metadata.setdefault("modelspec.prediction_type", "v")
    safetensors.save_tensors(out, tensors, metadata)
    if copy_yaml(weights.path, out) and is_v:
        notes.append(note("FM010", file=weights.path.with_suffix(".yaml").name))
    back = open_weights(out)
    if back.shapes != weights.shapes or not all(torch.equal(back.raw(name), tensors[name]) for name in tensors):
        raise FormatError("FM003", where=out, why=_("Tensors differ from what was written."))
    name = dtype or "as it was"
    return ModelFile(out=out, format="single-file", dtype=name, sha256=sha256(out), tensors=len(tensors)), notes
