"""Saved states: whole or absent, checked by hash, enough to go on to the same bits.

A state is a folder `step-000120/` with `tensors.safetensors` (weights, optimizer, average) and `manifest.json` (step,
scheduler, hashes). It is written under a temporary name, flushed and renamed. Every random draw is a function of seed
and step (`core.seeds`), so the step is also the state of the random generators and of the data order.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tsuika.core.files import sha256

_PREFIX = "step-"


@dataclass(frozen=True)
class State:
    """Everything that training needs to go on."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]  # a torch optimizer's state_dict
    average: dict[str, Tensor] = field(default_factory=dict)  # what would be written, where `weights` are not
    scaler: dict[str, Any] = field(default_factory=dict)  # fp16's loss scale, plain numbers


def _flatten(optimizer: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors and plain JSON."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"param_groups": optimizer["param_groups"], "state": {}}
    for index, row in optimizer["state"].items():
        for name, value in row.items():  # bitsandbytes keeps a table in the table
            inner = {f".{part}": held for part, held in value.items()} if isinstance(value, dict) else {"": value}
            for part, held in inner.items():
                path = f"{name}{part}"
                if isinstance(held, Tensor):
                    tensors[f"optimizer.{index}.{path}"] = held
                else:
                    plain["state"].setdefault(str(index), {})[path] = held
    return tensors, plain


def _unflatten(tensors: dict[str, Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    flat = {(int(index), path): value for index, row in plain["state"].items() for path, value in row.items()}
    for key, tensor in tensors.items():
        _, index, path = key.split(".", 2)
        flat[int(index), path] = tensor
    state: dict[int, dict[str, Any]] = {}
    for (number, place), value in flat.items():
        name, dot, part = place.partition(".")
        row = state.setdefault(number, {})
        if dot:
            row.setdefault(name, {})[part] = value
        else:
            row[name] = value
    groups = [  # JSON has no tuples; torch's own states hold them (betas)
        {name: tuple(v) if isinstance(v, list) and name != "params" else v for name, v in group.items()}
        for group in plain["param_groups"]
    ]
    return {"state": state, "param_groups": groups}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, each in memory of its own, as safetensors wants it; copies only where it must be: models are large."""
    result: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, value in tensors.items():
        plain = value.detach().cpu().contiguous()
        memory = plain.untyped_storage()
        alone = memory.nbytes() == plain.nbytes and memory.data_ptr() not in taken
        result[name] = plain if alone else plain.clone()
        taken.add(memory.data_ptr())
    return result


def save(folder: Path, state: State) -> Path:
    """Write `state` as `folder/step-N`; later ones, left by a run that has gone on from before them, go."""
    target = place(folder, state.step)
    temporary = folder / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors, plain = _flatten(state.optimizer)
    tensors |= {f"weights.{name}": value for name, value in state.weights.items()}
    tensors |= {f"average.{name}": value for name, value in state.average.items()}
    file = temporary / "tensors.safetensors"
    save_file(_apart(tensors), file)
    manifest = {"version": 1, "step": state.step, "optimizer": plain, "scaler": state.scaler, "sha256": sha256(file)}
    (temporary / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for path in (file, temporary / "manifest.json", temporary):
        _flush(path)
    if target.exists():  # left by a run that was killed after this step: the same bits
        shutil.rmtree(target)
    temporary.rename(target)
    _flush(folder)
    for stale in steps(folder):
        if stale > state.step:
            shutil.rmtree(place(folder, stale))
    return target


def prune(folder: Path, keep: int) -> None:
    """Drop the oldest states beyond so many."""
    for old in sorted(steps(folder))[:-keep]:
        shutil.rmtree(place(folder, old))


def load(path: Path) -> State | None:
    """The state in a folder, or None where it is not whole (damaged, or tampered with)."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        if sha256(path / "tensors.safetensors") != manifest["sha256"]:
            return None
    except (OSError, json.JSONDecodeError, KeyError):
        return None
    tensors: dict[str, dict[str, Tensor]] = {"weights": {}, "average": {}}
    optimizer: dict[str, Tensor] = {}
    for name, value in load_file(path / "tensors.safetensors").items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            optimizer[name] = value
        else:
            tensors[kind][rest] = value
    restored = _unflatten(optimizer, manifest["optimizer"])
    return State(manifest["step"], tensors["weights"], restored, tensors["average"], manifest["scaler"])


def place(folder: Path, step: int) -> Path:
    """Where the state of a step lies."""
    return folder / f"{_PREFIX}{step:06d}"


def steps(folder: Path) -> set[int]:
    """Of which there are states, whole or not."""
    return {int(path.name.removeprefix(_PREFIX)) for path in folder.glob(f"{_PREFIX}*")}


def newest(folder: Path) -> State | None:
    """The newest whole state in a folder of states; a damaged one is passed over."""
    found = (load(place(folder, step)) for step in sorted(steps(folder), reverse=True))
    return next((state for state in found if state is not None), None)
