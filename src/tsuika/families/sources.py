"""Tokenizers and whole models from folders, from the hub's cache, or from the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tsuika.core.errors import ModelError, NetworkError, outer_cause
from tsuika.core.texts import _
from tsuika.core.weights import WEIGHT_SUFFIXES
from tsuika.families.common import TextTower, open_tokenizer

# CLIP's vocabulary, the same for all families; asked for only if a single file comes without tokenizer files.
CLIP_TOKENIZER = "openai/clip-vit-large-patch14"
ANSWER_S = 10  # seconds in which the hub must have answered
# T5's, the same for all of its sizes and versions.
T5_TOKENIZER = "google-t5/t5-small"

MODEL_FILES = [
    "model_index.json",
    "*/config.json",
    "scheduler/*.json",
    "tokenizer*/*.json",
    "tokenizer*/merges.txt",
    "unet/diffusion_pytorch_model*",
    "transformer/diffusion_pytorch_model*",
    "vae/diffusion_pytorch_model*",
    "text_encoder*/model*",
]
VAE_FILES = [f"{folder}{name}" for folder in ("", "vae/") for name in ("config.json", "diffusion_pytorch_model*")]
_OTHER_FILES = ["*.bin", "*.fp16.*", "*.non_ema.*", "*.msgpack", "*.onnx*", "*.xml", "*flax*"]


def find_tokenizer(folder: Path, tower: TextTower, *, is_own: bool) -> Any:
    """The tokenizer of a text encoder, below or in a folder. `tower` decides padding and length where the files may not
    say; `is_own`: the folder is the model's own and does (but for T5's length, which is the family's). Raises
    ModelError: none there, or not readable (MD003)."""
    usual = [] if tower.is_t5 else [folder / "tokenizer"]
    for place in (folder / tower.tokenizer, *usual, folder):
        has_merges = (place / "vocab.json").is_file() and (place / "merges.txt").is_file()
        if (has_merges and not tower.is_t5) or (place / "tokenizer.json").is_file():
            longest = None if is_own and not tower.is_t5 else tower.tokens
            try:
                return open_tokenizer(place, None if is_own else tower, longest, is_t5=tower.is_t5)
            # The tokenizers library raises `Exception` itself, and transformers what its code happens to meet.
            except Exception as error:  # noqa: BLE001
                why = _("The tokenizer cannot be read: {error}.", error=error)
                raise ModelError("MD003", where=place, why=why) from None
    raise ModelError("MD003", where=folder, why=_("There is no tokenizer (vocab.json and merges.txt) in it."))


def clip_tokenizer(where: Path) -> Path:
    """CLIP's tokenizer from the hub's cache, else from the hub, for the single file `where`. Raises NetworkError: it is
    in neither."""
    try:
        return from_hub(CLIP_TOKENIZER, ["vocab.json", "merges.txt", "tokenizer_config.json"])
    except NetworkError as error:
        why = _(
            "A single file has no tokenizer, and {name} is not on this machine. "
            "Name a folder with vocab.json and merges.txt: --tokenizer FOLDER, or in training --set base.tokenizer=FOLDER. "
            "{reason}",
            name=CLIP_TOKENIZER,
            reason=error.params["why"],
        )
        raise NetworkError("NW001", where=where, why=why) from None


def t5_place(folder: Path, tower: TextTower, where: Path) -> Path:
    """A folder with T5's tokenizer: the given one if it has it, else the hub's cache or the hub, for the single file
    `where`. Raises NetworkError: it is in none of them."""
    if where.is_dir() or (folder / tower.tokenizer / "tokenizer.json").is_file():
        return folder
    try:
        return from_hub(T5_TOKENIZER, ["tokenizer.json", "tokenizer_config.json"])
    except NetworkError as error:
        why = _(
            "A single file has no tokenizer, and T5's ({name}) is not on this machine. "
            "Name a folder with {tokenizer}/tokenizer.json: --tokenizer FOLDER, or in training "
            "--set base.tokenizer=FOLDER. {reason}",
            name=T5_TOKENIZER,
            tokenizer=tower.tokenizer,
            reason=error.params["why"],
        )
        raise NetworkError("NW001", where=where, why=why) from None


def is_hub_id(spec: str) -> bool:
    """Whether this is of the form owner/name, and not a weight file's name."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", spec)) and not spec.lower().endswith(WEIGHT_SUFFIXES)


def from_hub(name: str, allowed: list[str], ignored: list[str] = _OTHER_FILES) -> Path:
    """A folder of the hub with the files that are `allowed` and not `ignored`, found in the cache or downloaded.
    Raises NetworkError: not reachable, no such name, not allowed, or an answer that is none; ResourceError: the hub's
    cache cannot be written."""
    from huggingface_hub import HfApi, snapshot_download

    asked: Exception | None = None
    try:
        # Asked first, as the download waits without end for a server that accepts and never answers.
        HfApi().model_info(name, timeout=ANSWER_S)
    # Of the HTTP library, which has changed from one version of the hub's to the next.
    except Exception as error:  # noqa: BLE001
        asked = error
    try:
        chosen = {"allow_patterns": allowed, "ignore_patterns": ignored}
        return Path(snapshot_download(name, local_files_only=asked is not None, **chosen))
    # The same, and whatever the hub's library meets in answers that are none of the hub's.
    except Exception as error:  # noqa: BLE001
        ours = outer_cause(error)
        if ours is not None and ours.code in {"RS002", "RS003"}:
            raise ours from None
        cause = asked or error
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        why = _(
            "There is no file or folder of this name here, and the hub was asked for a model called so: {reason}",
            reason=lines[0],
        )
        raise NetworkError("NW001", where=name, why=why) from None
