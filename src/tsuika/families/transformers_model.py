"""A model of transformers with its processor, from a folder and safetensors only; nothing of it is ever run as code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

# What transformers raises for files that do not fit each other.
WRONG: Final = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, IndexError)


def opened(folder: Path, kind: Any) -> tuple[Any, Any]:
    """The frozen model of a class (`AutoModel...`) in float32, and its processor.

    Raises:
        ValueError: it cannot be opened, has no safetensors, or lacks tensors; the message says why.
    """
    from safetensors import SafetensorError
    from transformers import AutoProcessor

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, loaded = kind.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
        )
        processor = AutoProcessor.from_pretrained(folder, **options)
    except (*WRONG, SafetensorError) as error:
        raise ValueError(str(error) or type(error).__name__) from None
    # Transformers fills what a file lacks with random numbers.
    if missing := sorted(loaded["missing_keys"]):
        raise ValueError(f"{len(missing)} tensors are missing, such as {missing[0]}")
    return model.eval().requires_grad_(False), processor
