"""What this machine has."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch

from tsuika.api.models import EMBEDDED
from tsuika.core.texts import _
from tsuika.training.device import pick_device, pick_precision


def doctor() -> dict[str, Any]:
    """The machine, the libraries, the device, free memory and disk."""
    names = ("tsuika", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "pillow", "numpy")
    optional = ("bitsandbytes", "prodigyopt", "schedulefree", "pillow-heif")
    place = pick_device("auto")

    def version(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return _("not installed")

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "disk_free_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        "device": torch.cuda.get_device_name() if place.type == "cuda" else place.type,
        "precision": pick_precision("auto", place),
        "embedded_base": (EMBEDDED / "model_index.json").is_file(),
        "libraries": {name: version(name) for name in (*names, *optional)},
    }
