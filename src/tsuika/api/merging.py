"""`merge`, `extract` and `resize`: LoRA files by what they do to the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsuika import formats
from tsuika.api import writing
from tsuika.api.converting import peek
from tsuika.api.models import load
from tsuika.core.errors import FormatError, ModelError, RecipeError
from tsuika.core.files import split_strength
from tsuika.core.texts import _
from tsuika.core.types import Artifact, Format, Role, model_tensors
from tsuika.formats.common import without_assumed_family
from tsuika.formats.lowrank import applying, extracting, merging, resizing
from tsuika.formats.lowrank.applying import Share

if TYPE_CHECKING:
    from torch import Tensor

_ROLES: tuple[Role, ...] = ("unet.attn", "unet.ff")
_TEXT_ROLES: tuple[Role, ...] = ("text.attn", "text.ff")


def merge(
    files: Sequence[str],
    out: Path,
    *,
    rank: int | None = None,
    into: str = "",
    tokenizer: str = "",
    dtype: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Several LoRAs as one, or LoRAs in a base's own weights.

    ΔW = Σ strength · ΔW in every layer: exact where no rank is given (ranks add up), else the nearest of that rank.

    Args:
        files: `FILE` or `FILE:STRENGTH`.
        out: The LoRA to make; with `into` a `.safetensors` or a new folder.
        rank: At most this in every layer.
        into: A base; its weights become W + Σ strength · ΔW, computed in float32. DoRA works here, at strength 1.
        tokenizer: Folder, where `into` is a single file.
        dtype: fp16, bf16 or fp32; empty: as in the first file, for a base fp16.
        overwrite: Replace `out`, if it is a file.

    Raises:
        ModelError: LoRAs of different families, or of another than the base (MD004).
        FormatError: no LoRA (FM001), or one that is no sum (FM005).
        RecipeError: `out` exists or is one of the files read (RC007), `rank` with `into` (RC005).
    """
    parsed = [split_strength(text) for text in files]
    if not parsed:
        do = "tsuika merge A.safetensors:0.8 B.safetensors --out C.safetensors"
        raise RecipeError("RC005", found=_("A LoRA file"), do=do)
    target = _target(out)
    bases = [Path(into).expanduser()] if into else []
    free = writing.free_model if into else writing.free
    free(out, *(path for path, _strength in parsed), *bases, overwrite=overwrite)
    shares = [Share(_named(path), strength) for path, strength in parsed]
    if into:
        return _into(shares, into, out, tokenizer=tokenizer, dtype=dtype or "fp16")
    merged, errors = merging.merge(shares, rank=rank)
    _rename(merged, out)
    done = writing.write(merged, target, out, writing.number_type(dtype, shares[0].artifact.tensors))
    about = {"merged": [str(text) for text in files], "rank": rank or "the sum of all"}
    return {**about, "error_of_rank": writing.summary(errors) if rank else "none: the sum is exact", **done}


def _into(shares: Sequence[Share], into: str, out: Path, *, tokenizer: str, dtype: str) -> dict[str, Any]:
    model = load(into, tokenizer=tokenizer, device="cpu", precision="fp32")
    for share in shares:
        if without_assumed_family(share.artifact).family not in (model.facts.family, ""):
            name = share.artifact.metadata.get("name", _("This LoRA"))
            raise ModelError(
                "MD004", where=into, artifact=name, found=share.artifact.family, expected=model.facts.family
            )
    tensors: dict[str, Tensor] = model_tensors(model)
    changed = 0
    for name, weight in applying.apply(tensors, shares):
        tensors[name].copy_(weight)
        changed += 1
    known = {format_.name: format_ for format_ in formats.CHECKPOINTS}
    target = known["single-file" if out.suffix.lower() == ".safetensors" else "diffusers"]
    facts = {"title": out.stem, "description": f"{into} with {', '.join(map(_describe, shares))}"}
    return {"into": into, "weights_changed": changed, **writing.write_model(model, target, out, dtype, facts)}


def _describe(share: Share) -> str:
    return f"{share.artifact.metadata.get('name', 'a LoRA')} at {share.strength:g}"


def resize(
    file: Path,
    out: Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    dtype: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """A LoRA at another rank: in every layer the nearest one there is (truncated SVD of ΔW).

    Args:
        file: A LoRA; LoHa, LoKr and Tucker become plain LoRA.
        out: The file to make.
        rank: At most this.
        energy: The smallest rank that keeps this share of each layer's squared norm, 0..1; with `rank`, at most that.
        dtype: fp16, bf16 or fp32; empty: as in the file.
        overwrite: Replace `out`, if it is a file.

    Raises:
        FormatError: no LoRA (FM001), or DoRA (FM005).
        RecipeError: neither rank nor energy (RC005), an energy out of range (RC002), `out` exists (RC007).
    """
    if rank is None and energy is None:
        raise RecipeError("RC005", found=_("--rank or --energy"), do=f"tsuika resize {file} --rank 8 --out {out}")
    if energy is not None and not 0 < energy <= 1:
        raise RecipeError("RC002", key="energy", found=energy, why=_("above 0, at most 1"))
    writing.free(out, file, overwrite=overwrite)
    artifact = _named(file)
    small, errors = resizing.compress(artifact, rank=rank, error=None if energy is None else math.sqrt(1 - energy))
    _rename(small, out)
    done = writing.write(small, _target(out), out, writing.number_type(dtype, artifact.tensors))
    ranks = [tensor.shape[0] for name, tensor in small.tensors.items() if name.endswith(".lora_down.weight")]
    return {
        "from": str(file),
        "ranks": f"{min(ranks)} to {max(ranks)}",
        "error_of_rank": writing.summary(errors),
        "errors": errors,
        **done,
    }


def extract(
    tuned: str,
    base: str,
    out: Path,
    *,
    rank: int = 32,
    conv_rank: int = 0,
    text_encoder: bool = True,
    dtype: str = "fp16",
    overwrite: bool = False,
) -> dict[str, Any]:
    """The LoRA of a rank that comes nearest to what fine-tuning changed in a base.

    Args:
        tuned: The fine-tuned model: a single file or a diffusers folder.
        base: The model that it began as.
        out: The file to make.
        rank: At most this.
        conv_rank: Of convolutions, too; 0: none.
        text_encoder: Also of text encoders.
        dtype: fp16, bf16 or fp32.
        overwrite: Replace `out`, if it is a file.

    Returns:
        Beside what was written: `energy_held`, the share of the whole difference's squared norm that the LoRA holds, and
        `left_out`, weights that differ and have no place in it (norms, biases, convolutions).

    Raises:
        ModelError: no model, or models of two families (MD004).
        FormatError: the two do not differ (FM005).
        RecipeError: `out` exists or is one of the two (RC007).
    """
    writing.free(out, Path(tuned).expanduser(), Path(base).expanduser(), overwrite=overwrite)
    ours, theirs = peek(tuned), peek(base)
    family = theirs.facts.family
    if ours.facts.family != family:
        raise ModelError("MD004", where=tuned, artifact=Path(tuned).name, found=ours.facts.family, expected=family)
    convolutions: tuple[Role, ...] = ("unet.conv",) if conv_rank else ()
    roles: tuple[Role, ...] = (*_ROLES, *convolutions, *(_TEXT_ROLES if text_encoder else ()))
    own, changed = theirs.weights(), ours.weights()
    made = extracting.extract(changed, own, own.layers(roles), family=family, rank=rank, conv_rank=conv_rank or None)
    _rename(made.artifact, out)
    made.artifact.metadata.update(
        prediction=theirs.prediction, base_name=Path(base).name, description=f"Extracted from {Path(tuned).name}"
    )
    done = writing.write(made.artifact, _target(out), out, dtype)
    left = sorted(made.left_out, key=lambda name: -made.left_out[name])
    return {
        "from": tuned,
        "base": base,
        "energy_held": round(made.energy, 6),
        "error_of_rank": writing.summary(made.errors),
        "left_out": f"{len(left)} weights that differ" + (f", the largest: {', '.join(left[:5])}" if left else ""),
        **done,
    }


def _target(out: Path) -> Format:
    """kohya's layout for a file, diffusers' for a folder."""
    known = {format_.name: format_ for format_ in formats.LORA}
    return known["kohya" if out.suffix.lower() == ".safetensors" else "diffusers"]


def _named(file: Path) -> Artifact:
    """The LoRA in a file; called as the file is, where it has no name of its own."""
    artifact = formats.find(file).read(file)
    if artifact.method != formats.LORA[0].method:
        raise FormatError("FM001", where=file, found=artifact.method, expected=_("a LoRA"))
    artifact.metadata.setdefault("name", file.stem)
    return artifact


def _rename(artifact: Artifact, out: Path) -> None:
    """Call it as its file: A1111 takes no name that two files have."""
    artifact.metadata.pop("title", None)
    artifact.metadata["name"] = out.stem
