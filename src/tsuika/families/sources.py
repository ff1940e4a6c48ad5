"""Tokenizers and whole models from folders, from the hub's cache, or from the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tsuika.core.errors import ModelError, NetworkError
from tsuika.core.texts import _
from tsuika.core.weights import WEIGHT_SUFFIXES
from tsuika.families.common import TextTower, open_tokenizer

# CLIP's vocabulary, the same for all families; asked for only if a single file comes without tokenizer files.
CLIP_TOKENIZER = "openai/clip-vit-large-patch14"
ANSWER_S = 10  # seconds in which the hub must have answered
CLIP_TOKENS = 77  # CLIP's context length, start and end included

MODEL_FILES = [
    "model_index.json",
    "*/config.json",
    "scheduler/*.json",
    "tokenizer*/*.json",
    "tokenizer*/merges.txt",
    "unet/diffusion_pytorch_model*",
    "vae/diffusion_pytorch_model*",
    "text_encoder*/model*",
]
VAE_FILES = [f"{folder}{name}" for folder in ("", "vae/") for name in ("config.json", "diffusion_pytorch_model*")]
_OTHER_FILES = ["*.bin", "*.fp16.*", "*.non_ema.*", "*.msgpack", "*.onnx*", "*.xml", "*flax*"]


def find_tokenizer(folder: Path, name: str, tower: TextTower | None) -> Any:
    """The tokenizer `name` (`tokenizer`, `tokenizer_2`) below or in a folder. `tower` decides padding and length where
    the files may not say; None: the folder is the model's own and does. Raises ModelError: none there, or not readable
    (MD003)."""
    for place in (folder / name, folder / "tokenizer", folder):
        has_merges = (place / "vocab.json").is_file() and (place / "merges.txt").is_file()
        if has_merges or (place / "tokenizer.json").is_file():
            try:
                return open_tokenizer(place, tower, CLIP_TOKENS if tower else None)
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


def is_hub_id(spec: str) -> bool:
    """Whether this is of the form owner/name, and not a weight file's name."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", spec)) and not spec.lower().endswith(WEIGHT_SUFFIXES)


def from_hub(name: str, allowed: list[str], ignored: list[str] = _OTHER_FILES) -> Path:
    """A folder of the hub with the files that are `allowed` and not `ignored`, found in the cache or downloaded.
    Raises NetworkError: not reachable, no such name, or not allowed."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

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
    # OSError takes in ConnectionError, OfflineModeIsEnabled, and LocalEntryNotFoundError (a FileNotFoundError).
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        cause = asked or error
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        why = _(
            "There is no file or folder of this name here, and the hub was asked for a model called so: {reason}",
            reason=lines[0],
        )
        raise NetworkError("NW001", where=name, why=why) from None
