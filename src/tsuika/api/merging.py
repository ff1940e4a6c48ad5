"""`merge`, `extract` and `resize`: LoRA files by what they do to the weights."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsuika import formats
from tsuika.api import writing
from tsuika.api.converting import peek
from tsuika.api.models import load
from tsuika.api.run import starts
from tsuika.api.writing import ModelFile
from tsuika.core import kinds
from tsuika.core.errors import ModelError, RecipeError, check_least, needs
from tsuika.core.events import Event, Phase
from tsuika.core.files import at_home, check_out, split_strength
from tsuika.core.texts import Text, _
from tsuika.core.types import Artifact, Format, Role, model_tensors
from tsuika.formats.common import without_assumed_family
from tsuika.formats.lowrank import extracting, merging
from tsuika.formats.lowrank.merging import Share

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Merged(ModelFile):
    """What `merge` has written.

    Attributes:
        files: the LoRAs with their strengths, as they were given.
        rank: the largest that was allowed; None for the sum of all.
        errors: of each layer, relative, where a rank was given.
        into: the base that they were merged into; None for one LoRA.
        weights_changed: of the base.
    """

    files: tuple[str, ...]
    rank: int | None = None
    errors: Mapping[str, float] | None = None
    into: str | None = None
    weights_changed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As in the command's `--json`."""
        found = super().to_dict()
        del found["files"]
        found.pop("errors", None)
        if self.into is not None:
            return found
        error = writing.summary(self.errors) if self.errors else "none: the sum is exact"
        return {"merged": self.files, "rank": self.rank or "the sum of all", "error_of_rank": error, **found}


@dataclass(frozen=True, kw_only=True)
class Resized(ModelFile):
    """What `resize` has written.

    Attributes:
        source: the file that was read; `from` in JSON.
        ranks: the smallest and the largest of any layer.
        errors: of each layer, relative, in the Frobenius norm.
    """

    source: Path = field(metadata={"json": "from"})
    ranks: tuple[int, int]
    errors: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As in the command's `--json`."""
        found = super().to_dict()
        about = {"from": found.pop("from"), "ranks": "{} to {}".format(*found.pop("ranks"))}
        return {**about, "error_of_rank": writing.summary(self.errors) if self.errors else "none", **found}


@dataclass(frozen=True, kw_only=True)
class ExtractedLora(ModelFile):
    """What `extract` has written.

    Attributes:
        source: the fine-tuned model; `from` in JSON.
        base: what it was compared with.
        energy_held: share of the whole difference's squared norm that the LoRA holds, 0..1.
        error_of_rank: relative errors of its layers, for people.
        left_out: weights that differ and have no place in it (norms, biases, convolutions), the largest first.
    """

    source: str = field(metadata={"json": "from"})
    base: str
    energy_held: float
    error_of_rank: Text
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As in the command's `--json`."""
        largest = f", the largest: {', '.join(self.left_out[:5])}" if self.left_out else ""
        return super().to_dict() | {"left_out": f"{len(self.left_out)} weights that differ{largest}"}


@starts
def merge(
    files: Sequence[str],
    out: Path,
    *,
    rank: int | None = None,
    into: str = "",
    tokenizer: str = "",
    dtype: str = "",
    lossy: bool = False,
    overwrite: bool = False,
) -> Generator[Event, None, Merged]:
    """Several LoRAs as one, or LoRAs in a base's own weights.

    ΔW = Σ strength · ΔW in every layer: exact where no rank is given (ranks add up), else the nearest of that rank.

    Args:
        files: `FILE` or `FILE:STRENGTH`.
        out: the LoRA to make; with `into` a `.safetensors` or a new folder.
        rank: at most this in every layer.
        into: a base; its weights become W + Σ strength · ΔW, computed in float32. Kinds that read
            them work here: DoRA, GLoRA, OFT, (IA)³.
        tokenizer: folder, where `into` is a single file.
        dtype: fp16, bf16 or fp32; empty: as in the first file, for a base fp16.
        lossy: go without keys that were not understood; words bundled in the files get files beside `out`.
        overwrite: replace `out`, if it is a file.

    Raises:
        ModelError: LoRAs of different families, or of another than the base (MD004).
        FormatError: no LoRA (MD002), or one that is no sum (FM005).
        RecipeError: `out` exists or is one of the files read (RC007), `rank` with `into`, `tokenizer` without (RC002).
    """
    parsed = [split_strength(text) for text in files]
    if not parsed:
        do = "tsuika merge A.safetensors:0.8 B.safetensors --out C.safetensors"
        raise RecipeError("RC005", found=_("A LoRA file"), do=do)
    check_least("rank", rank)
    if into and rank is not None:
        raise RecipeError("RC002", key="rank", found=rank, why=_("The weights of a base model have none."))
    if tokenizer and not into:
        raise needs("tokenizer", tokenizer, "--into")
    target = _target(out)
    bases = [at_home(into)] if into else []
    check = writing.free_model if into else check_out
    check(out, *(path for path, _strength in parsed), *bases, overwrite=overwrite)
    read = [(path, _named(path)) for path, _strength in parsed]
    artifacts, rest = writing.without_rest(read, out, lossy=lossy, overwrite=overwrite)
    yield from rest.notes
    shares = [Share(artifact, strength, path) for artifact, (path, strength) in zip(artifacts, parsed, strict=True)]
    names = tuple(map(str, files))
    if into:
        changed, done = yield from _into(shares, into, out, tokenizer=tokenizer, dtype=dtype or "fp16")
        done = replace(done, words=rest.write(dtype or "fp16"))
        return Merged(**vars(done), files=names, into=into, weights_changed=changed)
    merged, errors = merging.merge(shares, rank=rank)
    _rename(merged, out)
    yield Phase("write")
    precision = writing.number_type(dtype, shares[0].artifact.tensors)
    done = replace(writing.write(merged, target, out, precision), words=rest.write(precision))
    return Merged(**vars(done), files=names, rank=rank, errors=errors if rank else None)


def _into(
    shares: Sequence[Share], into: str, out: Path, *, tokenizer: str, dtype: str
) -> Generator[Event, None, tuple[int, ModelFile]]:
    yield Phase("load")
    model = load(into, tokenizer=tokenizer, device="cpu", precision="fp32")
    for share in shares:
        if without_assumed_family(share.artifact).family not in (model.facts.family, ""):
            raise merging.unfit(share, model.facts.title)
    tensors: dict[str, Tensor] = model_tensors(model)
    changed = 0
    yield Phase("merge")
    for name, weight in merging.apply(tensors, shares):
        tensors[name].copy_(weight)
        changed += 1
    target = _target(out, "single-file", formats.CHECKPOINTS)
    added = ", ".join(f"{one.artifact.metadata.get('name', 'a LoRA')} at {one.strength:g}" for one in shares)
    yield Phase("write")
    facts = {"title": out.stem, "description": f"{into} with {added}"}
    return changed, writing.write_model(model, target, out, dtype, facts)


@starts
def resize(
    file: Path,
    out: Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    dtype: str = "",
    lossy: bool = False,
    overwrite: bool = False,
) -> Generator[Event, None, Resized]:
    """A LoRA at another rank: in every layer the nearest one there is (truncated SVD of ΔW).

    Args:
        file: a LoRA; LoHa, LoKr and Tucker become plain LoRA.
        out: the file to make.
        rank: at most this.
        energy: the smallest rank that keeps this share of each layer's squared norm, 0..1; with `rank`, at most that.
        dtype: fp16, bf16 or fp32; empty: as in the file.
        lossy: go without keys that were not understood; words bundled in the file get files beside `out`.
        overwrite: replace `out`, if it is a file.

    Raises:
        FormatError: no LoRA (MD002), or DoRA (FM005).
        RecipeError: neither rank nor energy (RC005), an energy out of range (RC002), `out` exists (RC007).
    """
    check_least("rank", rank)
    if rank is None and energy is None:
        raise RecipeError("RC005", found=_("--rank or --energy"), do=f"tsuika resize {file} --rank 8 --out {out}")
    if energy is not None and not 0 < energy <= 1:
        raise RecipeError("RC002", key="energy", found=energy, why=_("above 0, at most 1"))
    check_out(out, file, overwrite=overwrite)
    (artifact,), rest = writing.without_rest([(file, _named(file))], out, lossy=lossy, overwrite=overwrite)
    yield from rest.notes
    small, errors = merging.compress(artifact, rank=rank, error=None if energy is None else math.sqrt(1 - energy))
    _rename(small, out)
    yield Phase("write")
    precision = writing.number_type(dtype, artifact.tensors)
    done = replace(writing.write(small, _target(out), out, precision), words=rest.write(precision))
    ranks = [tensor.shape[0] for name, tensor in small.tensors.items() if name.endswith(".lora_down.weight")]
    return Resized(**vars(done), source=file, ranks=(min(ranks, default=0), max(ranks, default=0)), errors=errors)


@starts
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
) -> Generator[Event, None, ExtractedLora]:
    """The LoRA of a rank that comes nearest to what fine-tuning changed in a base.

    Args:
        tuned: the fine-tuned model: a single file or a diffusers folder.
        base: the model that it began as.
        out: the file to make.
        rank: at most this.
        conv_rank: of convolutions, too; 0: none.
        text_encoder: also of text encoders.
        dtype: fp16, bf16 or fp32.
        overwrite: replace `out`, if it is a file.

    Raises:
        ModelError: no model, or models of two families (MD004).
        FormatError: the two do not differ (FM005).
        RecipeError: `out` exists or is one of the two (RC007).
    """
    check_out(out, at_home(tuned), at_home(base), overwrite=overwrite)
    ours, theirs = peek(tuned), peek(base)
    family = theirs.facts.family
    if ours.facts.family != family:
        found, expected = ours.facts.title, theirs.facts.title
        raise ModelError("MD004", where=tuned, artifact=Path(tuned).name, found=found, expected=expected)
    roles: list[Role] = ["unet.attn", "unet.ff"]
    roles += ["unet.conv"] if conv_rank else []
    roles += ["text.attn", "text.ff"] if text_encoder else []
    yield Phase("extract")
    own, changed = theirs.weights(), ours.weights()
    made = extracting.extract(changed, own, own.layers(roles), family=family, rank=rank, conv_rank=conv_rank or None)
    _rename(made.artifact, out)
    made.artifact.metadata.update(
        prediction=theirs.prediction, base_name=Path(base).name, description=f"Extracted from {Path(tuned).name}"
    )
    yield Phase("write")
    done = writing.write(made.artifact, _target(out), out, dtype)
    return ExtractedLora(
        **vars(done),
        source=tuned,
        base=base,
        energy_held=round(made.energy, 6),
        error_of_rank=writing.summary(made.errors),
        left_out=tuple(sorted(made.left_out, key=lambda name: -made.left_out[name])),
    )


def _target(out: Path, of_file: str = "kohya", known: Sequence[Format] = formats.LORA) -> Format:
    name = of_file if out.suffix.lower() == ".safetensors" else "diffusers"
    return next(format_ for format_ in known if format_.name == name)


def _named(file: Path) -> Artifact:
    """The LoRA in a file; called as the file is, where it has no name of its own."""
    artifact = formats.find(file).read(file)
    if artifact.method != formats.LORA[0].method:
        found = kinds.OF_METHODS.get(artifact.method, kinds.CHECKPOINT)
        raise kinds.unlike(file, found, kinds.LORA.title)
    artifact.metadata.setdefault("name", file.stem)
    return artifact


def _rename(artifact: Artifact, out: Path) -> None:
    """Call it as its file: A1111 takes no name that two files have."""
    artifact.metadata.pop("title", None)
    artifact.metadata["name"] = out.stem
