"""What this machine has."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from tsuika.api import results
from tsuika.api.models import EMBEDDED
from tsuika.api.run import starts
from tsuika.core.events import Event
from tsuika.core.texts import _
from tsuika.training.device import pick_device, pick_precision

LIBRARIES: Final = (
    *("tsuika", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "pillow", "numpy"),
    # Optional.
    *("bitsandbytes", "prodigyopt", "schedulefree", "pillow-heif"),
)


@dataclass(frozen=True)
class MachineInfo:
    """What a machine has.

    Attributes:
        python: version of Python.
        system: the operating system.
        cores: of the CPU; None where it cannot be told.
        memory_gib: of the machine, in GiB; 0 where it cannot be told.
        disk_free_gib: where the current folder lies, in GiB.
        device: that `auto` picks: the GPU's name, else `cpu` or `mps`.
        precision: that `auto` picks: fp32, bf16 or fp16.
        devices: that `--device` may name, with what they are.
        embedded_base: whether the embedded base is installed.
        libraries: name to version.
    """

    python: str
    system: str
    cores: int | None
    memory_gib: float
    disk_free_gib: float
    device: str
    precision: str
    devices: Mapping[str, str]
    embedded_base: bool
    libraries: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As in the command's `--json`."""
        return results.to_dict(self)


@starts(now=True)
def doctor() -> Generator[Event, None, MachineInfo]:
    """The machine, the libraries, the device, free memory and disk.

    Returns:
        A run that is done, without events; its result is what this machine has.
    """
    yield from ()
    place = pick_device("auto")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return MachineInfo(
        python=platform.python_version(),
        system=platform.platform(),
        cores=os.cpu_count(),
        memory_gib=round(memory / 2**30, 1),
        disk_free_gib=round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        device=torch.cuda.get_device_name() if place.type == "cuda" else place.type,
        precision=pick_precision("auto", place),
        devices=_devices(place.type),
        embedded_base=(EMBEDDED / "model_index.json").is_file(),
        libraries={name: _version(name) for name in LIBRARIES},
    )


def _devices(kind: str) -> dict[str, str]:
    if kind != "cuda":
        return {kind: kind}
    return {f"cuda:{number}": torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return _("not installed")
