"""What this machine has."""

from __future__ import annotations

import importlib.metadata
import locale
import os
import platform
import shutil
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from tsuika.api import results
from tsuika.api.models import EMBEDDED, cache_folder
from tsuika.api.run import starts
from tsuika.core.events import Event
from tsuika.core.files import at_home
from tsuika.core.texts import _
from tsuika.training.device import pick_device, pick_precision

LIBRARIES: Final = (
    *("tsuika", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors"),
    *("huggingface_hub", "pydantic", "pillow", "numpy"),
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

    def to_dict(self) -> dict[str, Any]:
        """As in the command's `--json`."""
        return results.to_dict(self)


@starts(now=True)
def doctor() -> Generator[Event, None, MachineInfo]:
    """The machine, the libraries, the device, free memory and disk: a block for a report of a problem.

    There are no names of people or folders in it.

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
        memory_free_gib=_free_memory_gib(),
        disk_free_gib=_free_disk_gib(Path()),
        cache=_without_names(cache_folder()),
        cache_free_gib=_free_disk_gib(cache_folder()),
        locale=f"{locale.getlocale()[0] or 'C'}, {getattr(sys.stdout, 'encoding', None)}",
        device=torch.cuda.get_device_name() if place.type == "cuda" else place.type,
        device_memory_gib=_gib(*torch.cuda.mem_get_info()) if place.type == "cuda" else None,
        precision=pick_precision("auto", place),
        devices=_devices(place.type),
        embedded_base=(EMBEDDED / "model_index.json").is_file(),
        libraries={name: _version(name) for name in LIBRARIES},
    )


def _gib(free: int, total: int) -> tuple[float, float]:
    return round(free / 2**30, 1), round(total / 2**30, 1)


def _free_memory_gib() -> float | None:
    """Linux alone tells it without another library."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    return round(kib / 2**20, 1)


def _free_disk_gib(path: Path) -> float | None:
    """Of the disk that a folder lies on, or would lie on."""
    try:
        there = next(one for one in (path, *path.absolute().parents) if one.exists())
        return round(shutil.disk_usage(there).free / 2**30, 1)
    except (OSError, StopIteration):
        return None


def _without_names(path: Path) -> str:
    """A path below the home folder, or nothing of it: names of people and folders are not for a public report."""
    home = at_home("~")
    return f"~/{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else _("another place")


def _devices(kind: str) -> dict[str, str]:
    if kind != "cuda":
        return {kind: kind}
    return {f"cuda:{number}": torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return _("not installed")
