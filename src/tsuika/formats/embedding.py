"""What the formats of new words share: one word and its vectors in and out of an artifact, family and facts of a file.

Shapes: n vectors, D text width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import weights
from tsuika.core.errors import FormatError, ModelError
from tsuika.core.types import Artifact
from tsuika.core.words import Words
from tsuika.formats import common, container

if TYPE_CHECKING:
    from torch import Tensor

METHOD: Final = "textual-inversion"
COMPONENTS: Final = ("text_encoder", "text_encoder_2")
SDXL: Final = ("clip_l", "clip_g")  # every client's names of the two
FAMILIES: Final = {1: ("sd1", "sd2"), 2: ("sdxl",)}  # by the number of text encoders
MAX_BYTES: Final = 1 << 24  # of a file that can be a word: 16 vectors of SDXL in fp32 take 131 kB
_WIDTHS: Final = {768: "sd1", 1024: "sd2"}
_ARCHITECTURES: Final = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sdxl": "stable-diffusion-xl-v1-base",
}


def split(artifact: Artifact, format_name: str) -> tuple[str, dict[str, Tensor]]:
    """The word, and its vectors (n, D) by component, in the encoders' order.

    Raises:
        FormatError: FM002, not a new word, several, or without some text encoder's vectors.
    """
    if artifact.method != METHOD:
        raise container.of_another_method(artifact.method, format_name, Words("new words", "新しい単語"))
    parts = {name.rpartition(".")[::2]: vectors for name, vectors in artifact.tensors.items()}
    words = {word for word, _ in parts}
    if len(words) != 1:
        listed = ", ".join(sorted(words))
        why = Words(
            f"It holds {len(words)} words, and programs take one from a file: {listed}.",
            f"単語が{len(words)}個ありますが、各ソフトは1つのファイルから1個しか読みません: {listed}。",
        )
        do = Words("Write each word into a file of its own.", "単語ごとに別のファイルへ書き出してください。")
        raise FormatError("FM002", format=format_name, why=why, do=do)
    count = 2 if artifact.family == "sdxl" else 1
    by_component = {component: vectors for (_, component), vectors in parts.items()}
    if set(by_component) != set(COMPONENTS[:count]):
        needed, there = ", ".join(COMPONENTS[:count]), ", ".join(by_component)
        why = Words(
            f"{artifact.family} needs vectors for {needed}; there are {there}.",
            f"{artifact.family} には {needed} のベクトルが必要ですが、あるのは {there} です。",
        )
        do = Words(
            "Train the word again, or correct its family.", "単語を学習し直すか、family の記載を直してください。"
        )
        raise FormatError("FM002", format=format_name, why=why, do=do)
    return words.pop(), {component: by_component[component] for component in COMPONENTS[:count]}


def join(path: Path, word: str, tensors: Mapping[str, Any], facts: Mapping[str, str]) -> Artifact:
    """An artifact of one word; `facts` may name its family, else its widths do.

    Args:
        path: where it came from, for errors.
        word: the word; the file's name where empty.
        tensors: component -> vectors, (n, D) or (D).
        facts: text metadata of the file.

    Raises:
        FormatError: MD003, these are no vectors, or not finite.
    """
    import torch

    vectors: dict[str, Tensor] = {}
    for component, value in tensors.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.ndim not in (1, 2):
            shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            why = Words(f"{shape} instead of a row of vectors", f"ベクトルを並べたものではなく、{shape}が入っています")
            raise container.damaged(path, why)
        vectors[component] = value.detach().reshape(-1, value.shape[-1]) if value.numel() else value
        if not value.numel() or not torch.isfinite(value).all():
            endless = Words("a number that is not finite", "NaNまたは無限大があります")
            raise container.damaged(path, endless if value.numel() else Words("no vectors", "ベクトルがありません"))
    if len({len(value) for value in vectors.values()}) > 1:
        counts = [str(len(value)) for value in vectors.values()]
        why = Words(
            f"{' and '.join(counts)} vectors for one word",
            f"1つの単語のベクトルの数が一致しません({'と'.join(counts)})",
        )
        raise container.damaged(path, why)
    family, evidence = _family(vectors, facts)
    named = {f"{word or path.stem}.{component}": value for component, value in vectors.items()}
    return Artifact(METHOD, family, named, {**facts, common.FAMILY_FROM: evidence})


def _family(vectors: Mapping[str, Tensor], facts: Mapping[str, str]) -> tuple[str, str]:
    if (named := facts.get("family", "")) in FAMILIES[len(vectors)]:
        return named, "metadata"
    if len(vectors) == 2:
        return "sdxl", "shapes"
    width = next(iter(vectors.values())).shape[1]
    return (_WIDTHS[width], "shapes") if width in _WIDTHS else ("sd1", "default")


def header(artifact: Artifact, word: str) -> dict[str, str]:
    """Text metadata of a safetensors file, sorted; what the artifact brought from another file stays."""
    facts = artifact.metadata
    kept = {key: text for key, text in facts.items() if key.startswith(("ss_", "modelspec."))}
    made = {
        "family": artifact.family,
        "method": METHOD,
        "word": word,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{_ARCHITECTURES[artifact.family]}/textual-inversion",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": facts.get("title") or facts.get("name") or word,
        "modelspec.trigger_phrase": word,
    }
    spec = {"description", "author", "license", "date", "resolution"}
    made |= {f"modelspec.{fact}": facts[fact] for fact in spec if facts.get(fact)}
    if steps := facts.get("steps"):
        made["ss_steps"] = steps
    return dict(sorted((kept | made).items()))


def pickled(path: Path) -> Any:
    """What a small torch file holds, running nothing of it; None where it is something else, or refused."""
    if not path.is_file() or path.stat().st_size > MAX_BYTES or not weights.is_pickle(path):
        return None
    try:
        return weights.load_pickle(path)
    except ModelError:
        return None


def load_pickle(path: Path) -> Any:
    """What a torch file holds, running nothing of it.

    Raises:
        FormatError: not there (FM004), damaged (MD003), a pickle with more than tensors in it (MD005).
    """
    if not path.is_file():
        raise FormatError("FM004", where=path)
    try:
        return weights.load_pickle(path)
    except ModelError as error:
        raise FormatError(error.code, where=path, **error.params) from None


def header_of(path: Path) -> container.Header | None:
    """The header of a safetensors file; None where it is something else."""
    if not path.is_file():
        return None
    try:
        return container.read_header(path)
    except FormatError:
        return None


def load_tensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors and text metadata of a safetensors file or of a torch file that is a plain table.

    Raises:
        FormatError: not there (FM004), damaged (MD003), a pickle with more than tensors in it (MD005).
    """
    if not (path.is_file() and weights.is_pickle(path)):
        metadata = container.read_header(path).metadata
        return container.load_tensors(path), metadata
    content = load_pickle(path)
    return (content if isinstance(content, dict) else {"": content}), {}


def unknown(path: Path, names: Any) -> FormatError:
    """The error for a file of no layout of new words."""
    keys = ", ".join(sorted(map(str, names))[:5]) if hasattr(names, "__iter__") else type(names).__name__
    expected = Words(
        "an embedding: `emb_params`, `clip_l` and `clip_g`, A1111's .pt, or diffusers' learned_embeds",
        "埋め込み(`emb_params`、`clip_l` と `clip_g`、A1111の .pt、diffusersの learned_embeds のいずれか)",
    )
    return FormatError("FM001", where=path, found=keys or Words("nothing", "なし"), expected=expected)
