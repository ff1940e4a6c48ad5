"""What a whole model's file must say of the model beside its weights."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsuika.core.types import Model

if TYPE_CHECKING:
    from torch import nn


def metadata_of(model: Model) -> dict[str, str]:
    """What a file writer needs beside the weights, as JSON by name: configs of all parts, noise schedule, tokenizers."""
    configs: dict[str, Any] = {
        "unet_config": _plain(model.unet),
        "vae_config": {**_plain(model.vae), "scaling_factor": model.latent_scale},
        **{f"{name}_config": _plain(encoder) for name, encoder in model.text_encoders.items()},
        "scheduler_config": model.scheduler_config,
        "latent_scale": model.latent_scale,
        "native_size_px": model.native_size_px,
        **{f"{name}_files": _files(tokenizer) for name, tokenizer in model.tokenizers.items()},
    }
    return {"prediction": model.prediction, **model.file_facts} | {
        name: json.dumps(value) for name, value in configs.items()
    }


def _plain(module: nn.Module) -> dict[str, Any]:
    """A part's config with what diffusers and transformers write into `config.json`."""
    config: Any = module.config
    made = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    made = {name: value for name, value in made.items() if not name.startswith("_") or name == "_class_name"}
    if hasattr(config, "to_dict"):
        return {**made, "architectures": [type(module).__name__]}
    return {"_class_name": type(module).__name__, **made}


def _files(tokenizer: Any) -> dict[str, str]:
    """A tokenizer's files, by name: also `vocab.json` and `merges.txt`, which older readers need and newer ones drop."""
    words = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        saved = {file.name: file.read_text(encoding="utf-8") for file in sorted(Path(folder).iterdir())}
    if "merges" not in words:
        # T5's.
        return saved
    config = json.loads(saved["tokenizer_config.json"])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in words["merges"]]
    here_only = ("is_local", "local_files_only", "backend")  # how it was opened
    config = {name: value for name, value in config.items() if name not in here_only}
    special = {name: config[name] for name in ("bos_token", "eos_token", "unk_token", "pad_token") if name in config}
    return {
        "vocab.json": json.dumps(words["vocab"], ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *merges]) + "\n",
        "tokenizer_config.json": json.dumps(config, indent=2),
        "special_tokens_map.json": json.dumps(special, indent=2),
    }
