"""Bases that were distilled to draw in a few steps: how they are recognised, and how they are drawn. Such a model has the
tensors of any other, so that only its configs, its metadata and its name can say so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

from tsuika.core.plain import parsed
from tsuika.core.types import FewSteps, Prediction
from tsuika.core.weights import Weights

MOST: Final = 16  # steps that a name may give; "Lightning46Step" means 4 to 6


@dataclass(frozen=True)
class _Kind:
    name: str
    words: tuple[tuple[str, ...], ...]  # any of these in a row, in a name
    steps: int
    sampler: str


# Guidance is distilled into all of them, or left out: CFG 1. Steps and samplers as their makers' model cards have them:
# stabilityai/sdxl-turbo (1 to 4) and stable-diffusion-3.5-large-turbo (4), ByteDance/SDXL-Lightning and Hyper-SD (the name
# says how many), latent-consistency (4 to 8), h1t/TCD-SDXL-LoRA (4), tianweiy/DMD2 (4, LCM's scheduler).
_KINDS: Final = (
    _Kind("turbo", (("turbo",),), 4, "Euler a"),
    _Kind("lightning", (("lightning",),), 4, "Euler"),
    # "hyper" alone is a word of many names.
    _Kind("hyper", (("hyper", "sd"), ("hyper", "sdxl"), ("hyper", "xl"), ("hypersd",), ("hypersdxl",)), 8, "DDIM"),
    _Kind("lcm", (("lcm",),), 8, "LCM"),
    _Kind("tcd", (("tcd",),), 4, "TCD"),
    _Kind("dmd2", (("dmd", "2"), ("dmd2",)), 4, "LCM"),
)
_SCHEDULERS: Final = {"LCMScheduler": "lcm", "TCDScheduler": "tcd"}


def recognise(path: Path, file: Weights | None, prediction: Prediction) -> FewSteps | None:
    """What a base that lies there is, if something says so: its scheduler, its network's config (LCM's reads how much
    guidance was distilled), its metadata, or its name; None where nothing does."""
    found = next(_said(path, file), None)
    if found is not None and prediction == "flow":
        found = replace(found, sampler="Euler")
    return found


def of_name(name: str, why: str = "") -> FewSteps | None:
    """What a file's, folder's or hub model's name says, by `why` or itself: `juggernautXL_v9Lightning`, `sdxl_lightning_8step`."""
    words = _words(name)
    for kind in _KINDS:
        if any(words[at : at + len(row)] == [*row] for row in kind.words for at in range(len(words))):
            steps = [int(a) for a, b in pairwise(words) if a.isdecimal() and b in ("step", "steps")]
            said = steps[0] if steps and 1 <= steps[0] <= MOST else kind.steps
            return FewSteps(kind.name, said, 1.0, kind.sampler, why or name)
    return None


def _said(path: Path, file: Weights | None) -> Iterator[FewSteps]:
    if file is None:
        scheduler = _config(path / "scheduler" / "scheduler_config.json")
        if kind := _SCHEDULERS.get(str(scheduler.get("_class_name"))):
            yield _of_kind(kind, "scheduler_config.json")
        if _config(path / "unet" / "config.json").get("time_cond_proj_dim"):
            yield _of_kind("lcm", "unet/config.json: time_cond_proj_dim")
        for config in ("model_index.json", "unet/config.json", "transformer/config.json"):
            if found := of_name(str(_config(path / config).get("_name_or_path", "")), f"{config}: _name_or_path"):
                yield found
    elif found := of_name(file.metadata.get("modelspec.title", ""), "modelspec.title"):
        yield found
    # A model from the hub lies in a folder that is called by its version.
    name = path.parents[1].name.rpartition("--")[2] if path.parent.name == "snapshots" else path.name
    if found := of_name(name if file is None else Path(name).stem):
        yield found


def _of_kind(name: str, why: str) -> FewSteps:
    kind = next(one for one in _KINDS if one.name == name)
    return FewSteps(kind.name, kind.steps, 1.0, kind.sampler, why)


def _config(path: Path) -> Mapping[str, object]:
    """A config that need not be there; what is wrong with one that is needed is said where it is read."""
    try:
        found = parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _words(name: str) -> list[str]:
    """The words of a name in lower case: parted by signs, by capitals in the middle, and numbers by themselves."""
    return [word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]
