"""What the file formats share: canonical names, facts of a run, guessing the family. The container is `container.py`.

Knows no key layout of any program; those live in the format files.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core.errors import FormatError
from tsuika.core.types import Artifact
from tsuika.core.words import Words
from tsuika.formats import container

if TYPE_CHECKING:
    from torch import Tensor

PARTS: Final = (
    "lora_down.weight",
    "lora_up.weight",
    "lora_mid.weight",
    "alpha",
    "dora_scale",
    "hada_w1_a",
    "hada_w1_b",
    "hada_w2_a",
    "hada_w2_b",
    "hada_t1",
    "hada_t2",
    "lokr_w1",
    "lokr_w1_a",
    "lokr_w1_b",
    "lokr_w2",
    "lokr_w2_a",
    "lokr_w2_b",
    "lokr_t2",
)
COMPONENTS: Final = ("unet", "text_encoder", "text_encoder_2")
UNREAD: Final = "unread_keys"  # Artifact.metadata: JSON list of keys in the file that were not understood
FAMILY_FROM: Final = "family_from"  # Artifact.metadata: "metadata" | "shapes" | "default" (no evidence: sd1 assumed)
NOTES_OF_READING: Final = (UNREAD, FAMILY_FROM)


def split_name(name: str) -> tuple[str, str, str] | None:
    """`unet.mid_block.attentions.0.proj_in.alpha` to (component, path, part); None if it is not a canonical name."""
    component, _, rest = name.partition(".")
    for part in PARTS:
        path = rest.removesuffix(f".{part}")
        if component in COMPONENTS and path != rest and path:
            return component, path, part
    return None


def layers(artifact: Artifact, format_name: str) -> dict[tuple[str, str], dict[str, Tensor]]:
    """The artifact's tensors by (component, path), then by part, sorted.

    Raises:
        FormatError: not a LoRA, or with tensors that are no part of one (FM002).
    """
    if artifact.method != "lora":
        raise container.of_another_method(artifact.method, format_name, Words("LoRA", "LoRA"))
    result: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, tensor in sorted(artifact.tensors.items()):
        split = split_name(name)
        if split is None:
            why = Words(
                f"`{name}` is no part that this format knows (OFT, for instance, is not).",
                f"`{name}` はこの形式では扱えません(OFTなども同様です)。",
            )
            do = Words(
                "Train with adapter lora, loha, lokr or dora.",
                "adapter を lora、loha、lokr、dora のいずれかにして学習してください。",
            )
            raise FormatError("FM002", format=format_name, why=why, do=do)
        component, path, part = split
        result.setdefault((component, path), {})[part] = tensor
    for (component, path), parts in result.items():
        if not is_whole(parts):
            why = _only(f"{component}.{path}", parts)
            do = Words("Give whole layers.", "層のテンソルをすべてそろえてください。")
            raise FormatError("FM002", format=format_name, why=why, do=do)
    return result


def is_whole(parts: Iterable[str]) -> bool:
    """Whether these parts of a layer make an update, none of them missing and none twice."""
    names = set(parts)
    if any(name.startswith("hada_") for name in names):
        return {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} <= names and len(
            {"hada_t1", "hada_t2"} & names
        ) != 1
    if any(name.startswith("lokr_") for name in names):  # each of the two factors whole, or as a product
        halves = [{f"lokr_w{n}_a", f"lokr_w{n}_b"} & names for n in (1, 2)]
        is_split = [f"lokr_w{n}" not in names for n in (1, 2)]
        complete = all(len(two) == (2 if split else 0) for two, split in zip(halves, is_split, strict=True))
        return complete and (is_split[1] or "lokr_t2" not in names)
    return {"lora_down.weight", "lora_up.weight"} <= names


def _only(layer: str, parts: Iterable[str]) -> Words:
    listed = ", ".join(parts)
    return Words(f"`{layer}` has only {listed}.", f"`{layer}` には {listed} しかありません。")


def check_shapes(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse what no program could apply.

    Raises:
        FormatError: MD003, a matrix is not one, an alpha is not one number, down and up do not fit together, or a part
            of a layer is missing.
    """
    held: dict[str, list[str]] = {}
    for component, layer, part in filter(None, map(split_name, tensors)):
        if part not in ("alpha", "dora_scale"):
            held.setdefault(f"{component}.{layer}", []).append(part)
    for name, tensor in tensors.items():
        if name.endswith(".alpha"):
            fits = tensor.numel() == 1
        else:
            fits = name.endswith(".dora_scale") or tensor.ndim in (2, 3, 4, 5)
        if name.endswith(".lora_down.weight"):
            up = tensors.get(f"{name.removesuffix('lora_down.weight')}lora_up.weight")
            fits = fits and up is not None and up.ndim >= 2 and up.shape[1:].numel() == tensor.shape[0] > 0
        if not fits:
            shape = tuple(tensor.shape)
            why = Words(
                f"`{name}` has the shape {shape}, which fits nothing", f"`{name}` の形状{shape}に合うものがありません"
            )
            raise container.damaged(path, why)
    for layer, parts in held.items():
        if not is_whole(parts):
            raise container.damaged(path, _only(layer, parts))


def doubled(path: Path, one: str, other: str) -> FormatError:
    """The error where two keys of a file are the same tensor."""
    why = Words(
        f"`{one}` and `{other}`, two names of one tensor", f"`{one}` と `{other}` は同じテンソルの2つの名前です"
    )
    return container.damaged(path, why)


def strange(unread: Sequence[str]) -> Words:
    """What a file holds of which no key is understood."""
    if not unread:
        return Words("no tensors", "テンソルなし")
    return Words(f"{len(unread)} tensors such as `{unread[0]}`", f"{len(unread)}個のテンソル(`{unread[0]}` など)")


def as_told(artifact: Artifact) -> Artifact:
    """The artifact as its file tells it: of no family where one was only assumed; then its sizes decide where it fits."""
    return replace(artifact, family="") if artifact.metadata.get(FAMILY_FROM) == "default" else artifact


def unread_keys(artifact: Artifact) -> list[str]:
    """The keys of the artifact's file that were not understood, and so are not in it."""
    found: list[str] = json.loads(artifact.metadata.get(UNREAD, "[]"))
    return found


def refuse_unread(artifact: Artifact, format_name: str) -> None:
    """A file that was not read in full is not converted as if it had been.

    Raises:
        FormatError: keys were left unread (FM002).
    """
    if unread := unread_keys(artifact):
        why = Words(
            f"It was read from a file with {len(unread)} keys that were not understood, such as `{unread[0]}`.",
            f"読み込んだファイルに、認識できないキーが{len(unread)}個あります(`{unread[0]}` など)。",
        )
        do = Words(
            f"Remove `{UNREAD}` from the metadata to go without them.",
            f"それらを除いて進めるには、メタデータから `{UNREAD}` を削除してください。",
        )
        raise FormatError("FM002", format=format_name, why=why, do=do)


def adapter(names: Iterable[str]) -> str:
    """Which kind of adapter these tensors are: "lora", "dora", "loha" or "lokr"."""
    text = "\n".join(names)
    return "loha" if ".hada_" in text else "lokr" if ".lokr_" in text else "dora" if ".dora_scale" in text else "lora"


def guess_family(tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """The family and where it shows ("shapes" or "default"), from canonical names and shapes.

    Cross-attention reads text of width 768 (SD1), 1024 (SD2), 2048 (SDXL); only SDXL has a second encoder, or more than
    one transformer block in a row; only SD1's `proj_in` is a convolution.
    """
    widths = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
    if any(name.startswith("text_encoder_2.") for name in tensors):
        return "sdxl", "shapes"
    for name, tensor in tensors.items():
        if re.search(r"\.attn2\.to_[kv]\.(lora_down\.weight|hada_w1_b)$", name) and tensor.shape[1] in widths:
            return widths[tensor.shape[1]], "shapes"
    if any(re.search(r"\.transformer_blocks\.[1-9]", name) for name in tensors):
        return "sdxl", "shapes"
    for name, tensor in tensors.items():
        if name.startswith("text_encoder.") and name.endswith("q_proj.lora_down.weight") and tensor.shape[1] == 1024:
            return "sd2", "shapes"
        if name.endswith(".proj_in.lora_down.weight") and tensor.ndim == 4:
            return "sd1", "shapes"
    return "sd1", "default"


@dataclass(frozen=True)
class RunFacts:
    """What a file tells about its run. Set by the training layer: `artifact.metadata.update(facts.metadata())`.

    Empty fields are not written. Nothing here is looked up: a date, a hash, a name comes in or stays out.
    """

    name: str = ""  # of the result; the alias in A1111 prompts
    title: str = ""  # for people; `name` where empty
    trigger: str = ""
    description: str = ""
    author: str = ""
    license: str = ""
    tags: str = ""
    date: str = ""  # ISO 8601
    started_at: float | None = None  # Unix time, seconds
    finished_at: float | None = None
    prediction: str = ""  # "epsilon" or "v_prediction"
    base_name: str = ""
    base_sha256: str = ""
    base_legacy_hash: str = ""  # 8 hex digits
    vae_name: str = ""
    vae_sha256: str = ""
    resolution: str = ""  # "512x768": width x height in pixels
    rank: int | None = None  # the most frequent one of the tensors where None
    alpha: float | None = None  # as set; the file's tensors hold the effective one
    dropout: float | None = None
    pictures: int | None = None
    steps: int | None = None  # done
    max_steps: int | None = None  # planned
    epochs: int | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    learning_rate: float | None = None
    unet_learning_rate: float | None = None
    text_learning_rate: float | None = None
    optimizer: str = ""
    schedule: str = ""
    warmup_steps: int | None = None
    min_snr_gamma: float | None = None
    noise_offset: float | None = None
    clip_norm: float | None = None
    max_norm: float | None = None  # of a layer's ΔW; None: no limit
    caption_dropout: float | None = None
    precision: str = ""  # "fp16", "bf16", "no"
    gradient_checkpointing: bool | None = None
    cache_latents: bool | None = None
    clip_skip: int | None = None
    max_token_length: int | None = None
    seed: int | None = None
    comment: str = ""
    tag_frequency: Mapping[str, Mapping[str, int]] | None = None  # folder -> tag -> captions with it
    bucket_info: Mapping[str, Any] | None = None  # {"buckets": {"0": {"resolution": [w, h], "count": n}}}
    dataset_dirs: Mapping[str, Mapping[str, int]] | None = None  # folder -> {"n_repeats": n, "img_count": n}

    def metadata(self) -> dict[str, str]:
        """As strings by field name; tables as JSON."""
        result = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Mapping):
                result[field.name] = json.dumps(value, ensure_ascii=False)
            elif value is not None and value != "":
                result[field.name] = str(value)
        return result


class WriteOnly:
    """The reading half of `core.types.Format` for whole models: they are bases, which `families` opens."""

    def sniff(self, path: Path) -> bool:
        """Never: a whole model is no artifact that could be laid on another."""
        del path
        return False

    def notes(self, artifact: Artifact) -> Iterator[str]:
        """Codes of what people should know about a file of this artifact; their messages name the `file`."""
        del artifact
        yield from ()

    def read(self, path: Path) -> Artifact:
        """Refuses.

        Raises:
            FormatError: always (FM001).
        """
        found = Words("a whole model (checkpoint)", "モデル全体(チェックポイント)")
        expected = Words("a file to use with a base", "ベースモデルと組み合わせて使うファイル")
        raise FormatError("FM001", where=path, found=found, expected=expected)


def count_tags(captions: Iterable[str]) -> dict[str, int]:
    """How often each comma-separated tag occurs, lower-cased, most frequent first (one folder of `tag_frequency`)."""
    tags = (tag.strip().lower() for caption in captions for tag in caption.split(","))
    return dict(Counter(tag for tag in tags if tag).most_common())
