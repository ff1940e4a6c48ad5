"""`convert`: one file as another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tsuika import families, formats
from tsuika.api import writing
from tsuika.api.models import EMBEDDED, load
from tsuika.core.errors import FormatError, ModelError
from tsuika.core.events import Warned, note
from tsuika.core.files import sha256, whole
from tsuika.core.types import Artifact, Format
from tsuika.core.weights import Weights, open_weights
from tsuika.core.words import Words
from tsuika.families.stored import Stored, open_stored
from tsuika.formats import common, container, vae_file
from tsuika.formats.checkpoint import copy_yaml
from tsuika.formats.lowrank.resizing import compress
from tsuika.train.device import DTYPES

PLAIN_RANK = 64  # of a plain LoRA that stands in for another kind; FORMATS of the field rarely go beyond
_PLAIN_ERROR = 1e-3  # where a smaller rank reaches this, it is taken: half precision is no finer
_LATENT_SCALES = {row.facts.family: row.facts.latent_scale for row in families.FAMILIES}


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
) -> dict[str, Any]:
    """Write what a file holds in another format; the new file is read back and compared.

    Args:
        file: A LoRA, embedding, hypernetwork, whole model (file or folder) or VAE; never changed.
        to: kohya, diffusers, a1111, native or single-file.
        out: The file, or the folder, to make.
        dtype: fp16, bf16 or fp32; empty: as in the file.
        lossy: Allow what changes the result: LoHa, LoKr, DoRA and Tucker become plain LoRA by SVD, keys that were not
            understood are left out. What it costs is told.
        rank: Of that plain LoRA, at most.
        base: For DoRA, the base it was trained on; for a VAE, the base whose latent scale it keeps.
        tokenizer: Folder, for a single-file model that becomes a diffusers folder.
        overwrite: Replace `out`, if it is a file.

    Returns:
        kind, from, out, format, dtype, layers, largest_relative_error, sha256, notes.

    Raises:
        FormatError: the target cannot hold it, or not without loss (FM002); not there (FM004).
        ModelError: damaged (MD003), a pickle with code in it (MD005), of no known kind (MD002).
        RecipeError: `out` exists (RC007).
    """
    if not file.exists():
        raise FormatError("FM004", where=file)
    bases = [Path(base).expanduser()] if base else []
    if formats.is_artifact(file):
        source = formats.find(file)
        artifact = source.read(file)
        target = _target(to, artifact.method, formats.for_method(artifact.method))
        writing.free(out, file, *bases, overwrite=overwrite, suffix=target.suffix)
        notes: list[Warned] = []
        if artifact.method == formats.LORA[0].method:
            artifact = _ready(artifact, target.name, lossy=lossy, rank=rank, base=base, notes=notes)
        done = writing.write(artifact, target, out, writing.number_type(dtype, artifact.tensors))
        return {"kind": artifact.method, "family": artifact.family, "from": source.name, **done, "notes": notes}
    for vae in vae_file.VAE_FORMATS:
        if vae.sniff(file):
            target = _target(to, "vae", vae_file.VAE_FORMATS)
            writing.free(out, file, *bases, overwrite=overwrite, suffix=target.suffix)
            artifact, notes = _with_scale(vae.read(file), target.name, base)
            done = writing.write(artifact, target, out, writing.number_type(dtype, artifact.tensors))
            return {"kind": "vae", "from": vae.name, **done, "notes": notes}
    return _model(file, to, out, dtype=dtype, tokenizer=tokenizer, overwrite=overwrite)


def weights_of(base: str) -> Stored:
    """A base's weights by canonical name, read from disk one by one.

    Raises:
        ModelError: not there (MD001), or no base.
    """
    return open_stored(families.FAMILIES, _path_of(base))


def _path_of(base: str) -> Path:
    path = EMBEDDED if base == "embedded" else Path(base).expanduser()
    if not path.exists():
        raise ModelError(
            "MD001",
            where=base,
            why=Words("There is no such file or folder.", "その名前のファイルもフォルダーもありません。"),
        )
    return path


def _target(to: str, method: str, known: tuple[Format, ...]) -> Format:
    name = formats.SYNONYMS.get((method, to), to)
    for format_ in known:
        if format_.name == name:
            return format_
    raise FormatError(
        "FM002",
        format=to,
        why=Words(f"It is no format for {method}.", f"{method} 用の形式ではありません。"),
        do=Words(
            f"Choose --to {' or '.join(f.name for f in known)}.",
            f"--to {' か '.join(f.name for f in known)} を選んでください。",
        ),
    )


def _ready(artifact: Artifact, to: str, *, lossy: bool, rank: int, base: str, notes: list[Warned]) -> Artifact:
    """A LoRA as it will be written: as it is, or with `lossy` as a plain one with every key understood."""
    kind = common.adapter(artifact.tensors)
    is_dora = any(name.endswith(".dora_scale") for name in artifact.tensors)  # LoHa and LoKr can be, too
    is_plain = kind == "lora" and not any(name.endswith(".lora_mid.weight") for name in artifact.tensors)
    unread = artifact.metadata.get(common.UNREAD)
    if not lossy:
        if unread:
            why = Words(
                f"The file has keys that were not understood: {unread[:200]}",
                f"ファイルに認識できないキーがあります: {unread[:200]}",
            )
            raise FormatError(
                "FM002", format=to, why=why, do=Words("Go without them: --lossy", "それらを除いて変換するには: --lossy")
            )
        if to == "diffusers" and not is_plain and kind != "dora":
            this = Words(kind) if kind != "lora" else Words("of Tucker form", "Tucker形式")
            why = Words(
                f"diffusers loads plain LoRA only, and this is {this}.",
                f"diffusersが読めるのは通常のLoRAだけですが、このファイルは{this.ja}です。",
            )
            do = Words(
                "Use --to kohya, or make it a plain LoRA: --lossy",
                "--to kohya を使うか、通常のLoRAにしてください: --lossy",
            )
            raise FormatError("FM002", format=to, why=why, do=do)
        return artifact
    if unread:
        notes.append(note("FM007", keys=unread))
        artifact = replace(artifact, metadata={k: v for k, v in artifact.metadata.items() if k != common.UNREAD})
    if is_plain:
        return artifact
    if is_dora and not base:
        why = Words(
            "What DoRA does depends on the base's weights.", "DoRAの効果はベースモデルの重みによって変わります。"
        )
        do = Words(
            "Name the base it was trained on: --base BASE", "学習に使ったベースモデルを指定してください: --base BASE"
        )
        raise FormatError("FM002", format=to, why=why, do=do)
    plain, errors = compress(artifact, rank=rank, error=_PLAIN_ERROR, base=weights_of(base) if is_dora else None)
    notes.append(note("FM008", kind=kind, rank=rank, error=writing.told(errors)))
    return plain


def _with_scale(artifact: Artifact, to: str, base: str) -> tuple[Artifact, list[Warned]]:
    """A VAE with the latent scale that a diffusers folder names and a single file does not."""
    config = json.loads(artifact.metadata[vae_file.CONFIG])
    if to != "diffusers" or "scaling_factor" in config:
        return artifact, []
    notes = []
    if base:
        config["scaling_factor"] = _LATENT_SCALES[families.detect(_path_of(base)).facts.family]
    else:
        config["scaling_factor"] = _LATENT_SCALES["sd1"]
        notes.append(note("FM009"))
    return replace(artifact, metadata={**artifact.metadata, vae_file.CONFIG: json.dumps(config)}), notes


def _model(file: Path, to: str, out: Path, *, dtype: str, tokenizer: str, overwrite: bool) -> dict[str, Any]:
    found = families.detect(file)
    target = _target(to, formats.CHECKPOINTS[0].method, formats.CHECKPOINTS)
    copied = found.kind == target.name == "single-file"
    writing.free_model(out, file, overwrite=overwrite, suffix=target.suffix, copied=copied)
    about = {"kind": "base model", "family": found.facts.family, "prediction": found.prediction, "from": found.kind}
    if copied:
        return {**about, **_repack(open_weights(file), out, dtype, found)}
    stored = open_stored(families.FAMILIES, file)
    wanted = writing.number_type(dtype, {name: stored[name] for name in list(stored)[:1]})
    model = load(str(file), tokenizer=tokenizer, device="cpu", precision=wanted)
    return {**about, **writing.write_model(model, target, out, wanted, {"title": file.stem}), "notes": []}


def _repack(weights: Weights, out: Path, dtype: str, found: families.Detected) -> dict[str, Any]:
    """A single file as `.safetensors`, every tensor as it is under its own name (in another number type, if wished)."""
    wanted = DTYPES[writing.number_type(dtype, {})] if dtype else None
    tensors = {}
    for name in weights.shapes:
        tensor = weights.tensor(name)
        if wanted is not None and tensor.is_floating_point():
            tensor = container.cast({name: tensor}, wanted, "single-file")[name]
        tensors[name] = tensor.clone(memory_format=torch.contiguous_format)  # torch files share storages
    metadata = dict(weights.metadata) | {"format": "pt"}
    notes = []
    if found.prediction == "v_prediction":
        metadata.setdefault("modelspec.prediction_type", "v")
    with whole(out) as temporary:
        save_file(tensors, temporary, metadata)
    if copy_yaml(weights.path, out) and found.prediction == "v_prediction":
        notes.append(note("FM010", file=weights.path.with_suffix(".yaml").name))
    back = open_weights(out)
    if back.shapes != weights.shapes or not all(torch.equal(back.tensor(name), tensors[name]) for name in tensors):
        why = Words("Tensors differ from what was written.", "テンソルが、書き込んだものと異なります。")
        raise FormatError("FM003", where=out, why=why)
    return {
        "out": str(out),
        "format": "single-file",
        "dtype": dtype or "as it was",
        "tensors": len(tensors),
        "largest_relative_error": 0.0,
        "sha256": sha256(out),
        "notes": notes,
    }
