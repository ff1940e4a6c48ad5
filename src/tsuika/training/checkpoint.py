"""Saved states: folders `step-000120/` with `tensors.safetensors` (weights, optimizer, average) and `manifest.json` (step, hashes).

Whole or absent (written under a temporary name, flushed, renamed), checked by hash, enough to go on to the same bits: every
random draw is a function of seed and step (`core.seeds`), so the step is also the random generators' and the data order's state.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tsuika.core import files, kept, safetensors
from tsuika.core.errors import FormatError
from tsuika.core.files import sha256
from tsuika.core.texts import _

TENSORS: Final = "tensors.safetensors"
MANIFEST: Final = "manifest.json"
_PIECE: Final = 1 << 18  # bytes
_NAME: Final = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class State:
    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]  # a torch optimizer's state_dict; empty: no step will follow
    average: dict[str, Tensor] = field(default_factory=dict)  # what would be written, where `weights` are not
    scaler: dict[str, Any] = field(default_factory=dict)  # fp16's loss scale, plain numbers


def _flatten(optimizer: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    if not optimizer:
        return {}, {}
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
    if not plain:
        return {}
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


def save(folder: Path, state: State) -> Path:
    """Write `state` as `folder/step-N`; later ones, left by a run that has gone on from before them, go."""
    target = place(folder, state.step)
    tensors, plain = _flatten(state.optimizer)
    tensors |= {f"weights.{name}": value for name, value in state.weights.items()}
    tensors |= {f"average.{name}": value for name, value in state.average.items()}
    with files.whole(target) as temporary:
        temporary.mkdir()
        digest = hashlib.sha256()
        with (temporary / TENSORS).open("wb") as stream:
            for block in safetensors.blocks(tensors, {}):
                # In pieces that a processor's cache still holds when they are written.
                for begin in range(0, len(block), _PIECE):
                    piece = block[begin : begin + _PIECE]
                    digest.update(piece)
                    stream.write(piece)
        content = {"version": 2, "step": state.step, "optimizer": plain, "scaler": state.scaler}
        kept.write(temporary / MANIFEST, {**content, "sha256": digest.hexdigest()})
        files.remove(target)  # left by a run that was killed after this step, of the same bits; or damaged
    for stale in steps(folder):
        if stale > state.step:
            files.remove(place(folder, stale))
    return target


def prune(folder: Path, keep: int) -> None:
    """Drop the oldest states beyond so many."""
    for old in sorted(steps(folder))[:-keep]:
        files.remove(place(folder, old))


def load(path: Path) -> State:
    """The state in a folder. Raises FormatError (TR011): it is not whole: damaged, or tampered with."""
    try:
        return kept.read(path / MANIFEST, lambda manifest: _state(path / TENSORS, manifest))
    except (OSError, SafetensorError) as error:
        raise kept.damaged(path, str(error)) from None


def _state(file: Path, manifest: dict[str, Any]) -> State:
    if sha256(file) != manifest["sha256"]:
        raise kept.damaged(file, _("Its content does not match its checksum."))
    tensors: dict[str, dict[str, Tensor]] = {"weights": {}, "average": {}}
    optimizer: dict[str, Tensor] = {}
    for name, value in load_file(file).items():
        kind, _dot, rest = name.partition(".")
        if kind == "optimizer":
            optimizer[name] = value
        else:
            tensors[kind][rest] = value
    restored = _unflatten(optimizer, manifest["optimizer"])
    return State(manifest["step"], tensors["weights"], restored, tensors["average"], manifest["scaler"])


def place(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def steps(folder: Path) -> set[int]:
    """Of which there are states, whole or not. What else lies there, such as a copy by hand, is none."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.glob("step-*"))
    return {int(name[1]) for name, path in found if name and path.is_dir() and path == place(folder, int(name[1]))}


def newest(folder: Path) -> tuple[State | None, tuple[str, ...]]:
    """The newest whole state in a folder of states; and the names of newer ones that are damaged and passed over."""
    damaged: list[str] = []
    for step in sorted(steps(folder), reverse=True):
        try:
            return load(place(folder, step)), tuple(damaged)
        except FormatError:
            damaged.append(place(folder, step).name)
    return None, tuple(damaged)
