"""What this machine has."""

from __future__ import annotations

import importlib.metadata
import locale
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from tsuika.api.models import EMBEDDED, cache_folder
from tsuika.api.run import JsonResult, at_once
from tsuika.core.files import at_home
from tsuika.core.texts import _
from tsuika.training.device import pick_device, pick_precision

LIBRARIES: Final = (
    *("tsuika", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors"),
    *("huggingface_hub", "pydantic", "pillow", "numpy"),
    # Optional.
    *("bitsandbytes", "torchao", "prodigyopt", "schedulefree", "pillow-heif"),
)


@dataclass(frozen=True)
class MachineInfo(JsonResult):
    """What a machine has.

    Attributes:
        python: version of Python.
        system: the operating system.
        cores: of the CPU; None where it cannot be told.
        memory_gib: of the machine, in GiB; 0 where it cannot be told.
        memory_free_gib: that programs can still have; None where it cannot be told.
        disk_free_gib: where the current folder lies, in GiB; None where there is none any more.
        cache: where encoded images are kept, the home folder as `~`; another place is not named.
        cache_free_gib: on the disk of the cache, in GiB; None where it cannot be told.
        locale: of the system, with the encoding of what is printed.
        device: that `auto` picks: the GPU's name, else `cpu` or `mps`.
        device_memory_gib: of a CUDA GPU, free and in all, in GiB.
        precision: that `auto` picks: fp32, bf16 or fp16.
        devices: that `--device` may name, with what they are.
        embedded_base: whether the embedded base is installed.
        libraries: name to version.
    """

    python: str
    system: str
    cores: int | None
    memory_gib: float
    memory_free_gib: float | None
    disk_free_gib: float | None
    cache: str
    cache_free_gib: float | None
    locale: str
    device: str
    device_memory_gib: tuple[float, float] | None
    precision: str
    devices: Mapping[str, str]
    embedded_base: bool
    libraries: Mapping[str, str]


@at_once
def doctor() -> MachineInfo:
    """The machine, the libraries, the device, free memory and disk: a block for a report of a problem.

    There are no names of people or folders in it.
    """

    place, cache, home = pick_device("auto"), cache_folder(), at_home("~")
    device, device_memory, devices = place.type, None, {place.type: place.type}
    if device == "cuda":
        device = torch.cuda.get_device_name()
        free, total = (round(size / 2**30, 1) for size in torch.cuda.mem_get_info())
        device_memory = free, total
        devices = {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return MachineInfo(
        python=platform.python_version(),
        system=platform.platform(),
        cores=os.cpu_count(),
        memory_gib=round(memory / 2**30, 1),
        memory_free_gib=_free_memory_gib(),
        disk_free_gib=_free_disk_gib(Path()),
        # Names of people and folders are not for a public report.
        cache=f"~/{cache.relative_to(home).as_posix()}" if cache.is_relative_to(home) else _("another place"),
        cache_free_gib=_free_disk_gib(cache),
        locale=f"{locale.getlocale()[0] or 'C'}, {getattr(sys.stdout, 'encoding', None)}",
        device=device,
        device_memory_gib=device_memory,
        precision=pick_precision("auto", place),
        devices=devices,
        embedded_base=(EMBEDDED / "model_index.json").is_file(),
        libraries={name: _version(name) for name in LIBRARIES},
    )


def _free_memory_gib() -> float | None:
    """Linux alone tells it without another library."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    return round(kib / 2**20, 1)


def _free_disk_gib(path: Path) -> float | None:
    try:
        there = next(one for one in (path, *path.absolute().parents) if one.exists())
        return round(shutil.disk_usage(there).free / 2**30, 1)
    except (OSError, StopIteration):
        return None


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return _("not installed")
